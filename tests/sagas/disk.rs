//! The database's disk is full, for real: sagas are held up, that is told, and they all end once there is room.
//!
//! Two ways to be full. Without room for tables, statements fail and the server lives on. Without room for its
//! write-ahead log Postgres panics: it throws everybody out, recovers, and panics again, or ends.

use std::time::Duration;

use saga_core::client::Error;
use sqlx::{Connection, Executor, PgConnection};
use tests::servers::postgres::{OnDisk, fresh_database};
use tests::servers::{NoDisk, Postgres};

use super::errors::until_refused_for_lack_of_room;
use super::faults::{SAGAS, is_mixed, until_more};
use super::order::place_order;
use super::{Started, Town, plays_worker};

/// A new cluster has 25 MB; what is left is filled up anyway.
const BYTES: u64 = 64 << 20;

/// What the server says when a write finds no room.
const FULL: &str = "No space left on device";

#[tokio::test(flavor = "multi_thread")]
async fn tables_without_room_are_waited_for() {
    if plays_worker().await {
        return;
    }
    match Postgres::start_on_small_disk(BYTES, OnDisk::Tables).await {
        Ok(engine) => in_time(fill_again_and_again(engine, "could not extend file")).await,
        Err(none) => simulate(&none).await,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_room_is_waited_for() {
    if plays_worker().await {
        return;
    }
    match Postgres::start_on_small_disk(BYTES, OnDisk::Everything).await {
        Ok(engine) => in_time(fill_again_and_again(engine, "PANIC")).await,
        Err(none) => simulate(&none).await,
    }
}

/// What never becomes true is a failure, too.
async fn in_time(work: impl Future<Output = ()>) {
    tokio::time::timeout(Duration::from_secs(600), work).await.expect("it comes to an end");
}

/// Twice, in the middle of the work, until the server complains like this and the client is told.
async fn fill_again_and_again(mut engine: Postgres, complaint: &str) {
    let services = fresh_database().await;
    let town = Town::open(&engine.url(), services.url()).await;
    let _workers = [town.worker(), town.worker()];
    let mut started = town.start(0..SAGAS / 3).await;
    let mut told = None;
    for third in 1..3 {
        until_more(&town, 20).await;
        let (full, complaints) = (engine.said(FULL), engine.said(complaint));
        let mut ids = SAGAS * third / 3..SAGAS * (third + 1) / 3;
        while engine.said(FULL) == full || engine.said(complaint) == complaints || told.is_none() {
            engine.disk().fill();
            write_something_else(&engine).await;
            // A server that has ended complains no more.
            assert!(
                !engine.has_ended() || engine.said(complaint) > complaints,
                "it has ended and said nothing"
            );
            if let Err(error) = start_another(&town, &mut ids, &mut started).await {
                told = Some(error);
            }
        }
        println!("the disk is full; the client was told: {}", told.as_deref().expect("awaited above"));
        engine.disk().free();
        if engine.has_ended() {
            println!("the server has ended, and is started again");
            engine.restart().await;
        }
        started.extend(town.start(ids).await);
    }
    is_mixed(town.check(&started).await);
}

/// The sagas stop at the first table that cannot grow, and write no log from then on; others do.
async fn write_something_else(engine: &Postgres) {
    let write = "SELECT pg_logical_emit_message(true, 'others', repeat('x', 500000))";
    if let Ok(mut connection) = PgConnection::connect(&engine.url()).await {
        let _ = connection.execute(write).await;
    }
}

/// Starts the next of these, or says why it cannot be; then it is still to be started.
async fn start_another(
    town: &Town,
    ids: &mut std::ops::Range<usize>,
    started: &mut Started,
) -> Result<(), String> {
    let number = ids.start;
    let id = format!("order-{number}");
    match town.client.start(&place_order(), &id, &id).await {
        Ok(saga) if ids.len() > 1 => {
            started.push((id, saga));
            ids.start += 1;
            Ok(())
        }
        // The last one is kept for later: it is the same saga whenever it is started again.
        Ok(_) => Ok(()),
        Err(Error::Store(error)) => {
            assert!(error.is_transient(), "what will pass is told as such: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
            Err(error.to_string())
        }
        Err(error) => panic!("{id} is not started: {error}"),
    }
}

/// Where nothing can be mounted, the error is all that can be had of a full disk.
async fn simulate(none: &NoDisk) {
    println!("NOT a full disk: {none}. Its error is raised by a trigger instead.");
    until_refused_for_lack_of_room().await;
}
