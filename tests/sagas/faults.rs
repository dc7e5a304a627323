//! Workers, database and network fail while sagas run.

use std::time::Duration;

use rand::Rng;
use tests::proxy::Proxy;
use tests::servers::{Postgres, postgres};

use super::{Town, plays_worker};

pub(super) const SAGAS: usize = 300;

/// Waits until this many more effects were applied.
pub(super) async fn until_more(town: &Town, effects: i64) {
    let before = town.ledger.len().await;
    while town.ledger.len().await < before + effects {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What every run must have seen: some sagas were completed and some were undone.
pub(super) fn is_mixed(completed: usize) {
    assert!(
        completed > 0 && completed < SAGAS,
        "{completed} of {SAGAS} completed: the faults were not injected"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_share_the_work_and_killing_one_loses_nothing() {
    if plays_worker().await {
        return;
    }
    let mut rng = tests::seeded();
    let (engine, services) = tokio::join!(postgres::fresh_database(), postgres::fresh_database());
    let town = Town::open(engine.url(), services.url()).await;
    let _survivor = town.worker();
    let mut victim = town.worker();
    let mut started = town.start(0..SAGAS / 3).await;
    for third in 1..3 {
        until_more(&town, rng.random_range(1..100)).await;
        victim.kill();
        started.extend(town.start(SAGAS * third / 3..SAGAS * (third + 1) / 3).await);
        victim = town.worker();
    }
    is_mixed(town.check(&started).await);
}

/// Two processes on one file: one is killed again and again, wherever it is, and its sagas are the other's at once.
#[tokio::test(flavor = "multi_thread")]
async fn workers_of_one_sqlite_file_are_killed() {
    if plays_worker().await {
        return;
    }
    let mut rng = tests::seeded();
    let services = postgres::fresh_database().await;
    let dir = tempfile::tempdir().unwrap();
    let town = Town::on_sqlite(&dir.path().join("sagas.db"), services.url()).await;
    let _survivor = town.worker();
    let mut victim = town.worker();
    let mut started = town.start(0..SAGAS / 5).await;
    for fifth in 1..5 {
        until_more(&town, rng.random_range(1..60)).await;
        victim.kill();
        started.extend(town.start(SAGAS * fifth / 5..SAGAS * (fifth + 1) / 5).await);
        victim = town.worker();
    }
    victim.kill();
    is_mixed(town.check(&started).await);
}

/// The whole work force dies at once, and another one comes.
#[tokio::test(flavor = "multi_thread")]
async fn every_worker_is_killed() {
    if plays_worker().await {
        return;
    }
    let mut rng = tests::seeded();
    let (engine, services) = tokio::join!(postgres::fresh_database(), postgres::fresh_database());
    let town = Town::open(engine.url(), services.url()).await;
    let workers = [town.worker(), town.worker()];
    let started = town.start(0..SAGAS).await;
    until_more(&town, rng.random_range(1..200)).await;
    drop(workers);
    let _successors = [town.worker(), town.worker()];
    is_mixed(town.check(&started).await);
}

/// A frozen worker holds answers it has not committed and believes in its lease; its sagas are taken over; then
/// it wakes up among its successors.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_worker_wakes_up_after_its_sagas_were_taken_over() {
    if plays_worker().await {
        return;
    }
    let mut rng = tests::seeded();
    let (engine, services) = tokio::join!(postgres::fresh_database(), postgres::fresh_database());
    let town = Town::open(engine.url(), services.url()).await;
    let zombie = town.worker();
    let started = town.start(0..SAGAS).await;
    until_more(&town, rng.random_range(1..200)).await;
    zombie.freeze();
    let _successor = town.worker();
    until_more(&town, 1).await;
    zombie.thaw();
    is_mixed(town.check(&started).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_killed_under_its_workers() {
    if plays_worker().await {
        return;
    }
    let mut rng = tests::seeded();
    let (mut engine, services) = tokio::join!(Postgres::start(), postgres::fresh_database());
    let town = Town::open(&engine.url(), services.url()).await;
    let _workers = [town.worker(), town.worker()];
    let mut started = town.start(0..SAGAS / 3).await;
    for third in 1..3 {
        until_more(&town, rng.random_range(1..60)).await;
        engine.kill();
        engine.restart().await;
        started.extend(town.start(SAGAS * third / 3..SAGAS * (third + 1) / 3).await);
    }
    is_mixed(town.check(&started).await);
}

/// What the worker has sent is committed and nobody tells it.
#[tokio::test(flavor = "multi_thread")]
async fn the_databases_answers_are_lost() {
    if plays_worker().await {
        return;
    }
    let mut rng = tests::seeded();
    let (engine, services) = tokio::join!(postgres::fresh_database(), postgres::fresh_database());
    let proxy = Proxy::start(engine.port()).await;
    let town = Town::open(engine.url(), services.url()).await;
    let _worker = town.worker_over(&proxy.url(engine.url()));
    let mut started = town.start(0..SAGAS / 3).await;
    for third in 1..3 {
        until_more(&town, rng.random_range(1..60)).await;
        let before = proxy.seen().swallowed;
        proxy.swallow_answers();
        proxy.until(|seen| seen.swallowed > before).await;
        proxy.cut().await;
        proxy.forward().await;
        started.extend(town.start(SAGAS * third / 3..SAGAS * (third + 1) / 3).await);
    }
    is_mixed(town.check(&started).await);
}

/// Its way to the database is a black hole: it must stop acting on its lease by its own clock, and its sagas go to
/// another; then the way is open again.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_cut_off_from_the_database() {
    if plays_worker().await {
        return;
    }
    let mut rng = tests::seeded();
    let (engine, services) = tokio::join!(postgres::fresh_database(), postgres::fresh_database());
    let proxy = Proxy::start(engine.port()).await;
    let town = Town::open(engine.url(), services.url()).await;
    let _cut_off = town.worker_over(&proxy.url(engine.url()));
    let started = town.start(0..SAGAS).await;
    until_more(&town, rng.random_range(1..200)).await;
    proxy.black_hole();
    let _successor = town.worker();
    until_more(&town, 50).await;
    proxy.forward().await;
    is_mixed(town.check(&started).await);
}
