//! Errors of the database are survived: sagas wait, and nothing of them is lost or done twice.
//!
//! What cannot be made to happen at will (a deadlock at the right moment) is raised by a trigger on the journal; the
//! rest is done to the server. A disk that is full for real is in [`disk`](super::disk).

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tests::servers::{Postgres, postgres};

use super::faults::{SAGAS, is_mixed, until_more};
use super::order::place_order;
use super::{Town, plays_worker};

/// Raises an error at every third insert into the journal, as `fault` says. A sequence counts, because it is
/// not rolled back with the statement.
const FAULTS: &str = "
    CREATE TABLE public.fault (code text NOT NULL);
    CREATE SEQUENCE public.insert_seq;
    CREATE SEQUENCE public.raised_seq;
    CREATE FUNCTION public.raise_fault() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE wanted text := (SELECT code FROM public.fault);
    BEGIN
        IF wanted IS NOT NULL AND nextval('public.insert_seq') % 3 = 0 THEN
            PERFORM nextval('public.raised_seq');
            RAISE EXCEPTION 'by plan' USING ERRCODE = wanted;
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER fault BEFORE INSERT ON saga.journal FOR EACH STATEMENT EXECUTE FUNCTION public.raise_fault();";

async fn raised(connection: &mut PgConnection) -> i64 {
    let text = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM public.raised_seq";
    sqlx::query_scalar(text).fetch_one(connection).await.unwrap()
}

/// One after the other, while sagas run: each is raised several times.
#[tokio::test(flavor = "multi_thread")]
async fn errors_that_pass_are_waited_for() {
    if plays_worker().await {
        return;
    }
    let (engine, services) = tokio::join!(postgres::fresh_database(), postgres::fresh_database());
    let town = Town::open(engine.url(), services.url()).await;
    let mut direct = PgConnection::connect(engine.url()).await.unwrap();
    direct.execute(sqlx::raw_sql(FAULTS)).await.unwrap();
    let _workers = [town.worker(), town.worker()];
    // Serialization, deadlock, disk full, out of memory, lock timeout, cancelled, internal; and one that tells
    // nothing about what happened.
    let codes = ["40001", "40P01", "53100", "53200", "55P03", "57014", "XX000", "40003"];
    let each = SAGAS / codes.len();
    let mut started = Vec::new();
    for (turn, code) in codes.into_iter().enumerate() {
        let fault = AssertSqlSafe(format!("DELETE FROM fault; INSERT INTO fault VALUES ('{code}')"));
        let before = raised(&mut direct).await;
        direct.execute(sqlx::raw_sql(fault)).await.unwrap();
        started.extend(town.start(turn * each..(turn + 1) * each).await);
        while raised(&mut direct).await < before + 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    direct.execute("DELETE FROM fault").await.unwrap();
    is_mixed(town.check(&started).await);
}

/// Every insert into the journal finds no room, until the client is told so; then there is room again.
pub(super) async fn until_refused_for_lack_of_room() {
    let (engine, services) = tokio::join!(postgres::fresh_database(), postgres::fresh_database());
    let town = Town::open(engine.url(), services.url()).await;
    let mut direct = PgConnection::connect(engine.url()).await.unwrap();
    direct.execute(sqlx::raw_sql(FAULTS)).await.unwrap();
    // Every one, not every third.
    direct.execute("ALTER SEQUENCE insert_seq INCREMENT BY 3 START WITH 3 RESTART").await.unwrap();
    let _workers = [town.worker(), town.worker()];
    let mut started = town.start(0..SAGAS / 2).await;
    direct.execute("INSERT INTO fault VALUES ('53100')").await.unwrap();
    let told = town.client.start(&place_order(), "order-full", &"order-full".to_owned()).await.unwrap_err();
    assert!(told.to_string().contains("by plan"), "{told}");
    direct.execute("DELETE FROM fault").await.unwrap();
    started.extend(town.start(SAGAS / 2..SAGAS).await);
    is_mixed(town.check(&started).await);
}

/// Ends every session of the engine, so that it has to connect anew.
async fn disconnect(direct: &mut PgConnection) -> u64 {
    let text = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'saga'";
    direct.execute(text).await.unwrap().rows_affected()
}

/// Waits until no worker has renewed its lease for a second of the server's: none can write.
async fn until_nobody_renews(direct: &mut PgConnection) {
    let text = "SELECT count(*) FROM saga.worker WHERE renewed_at > clock_timestamp() - interval '1 second'";
    while sqlx::query_scalar::<_, i64>(text).fetch_one(&mut *direct).await.unwrap() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_read_only_is_waited_for() {
    if plays_worker().await {
        return;
    }
    let (engine, services) = tokio::join!(Postgres::start(), postgres::fresh_database());
    let town = Town::open(&engine.url(), services.url()).await;
    let _workers = [town.worker(), town.worker()];
    let mut started = town.start(0..SAGAS / 2).await;
    until_more(&town, 20).await;
    let mut direct = PgConnection::connect(&engine.url()).await.unwrap();
    direct.execute("ALTER DATABASE postgres SET default_transaction_read_only = on").await.unwrap();
    disconnect(&mut direct).await;
    until_nobody_renews(&mut direct).await;
    direct.execute("ALTER DATABASE postgres RESET default_transaction_read_only").await.unwrap();
    started.extend(town.start(SAGAS / 2..SAGAS).await);
    is_mixed(town.check(&started).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_free_connection_is_waited_for() {
    if plays_worker().await {
        return;
    }
    let limits = [("max_connections", "25"), ("superuser_reserved_connections", "0")];
    let (engine, services) = tokio::join!(Postgres::start_with(&limits), postgres::fresh_database());
    let mut direct = PgConnection::connect(&engine.url()).await.unwrap();
    let town = Town::open(&engine.url(), services.url()).await;
    let _worker = town.worker();
    let mut started = town.start(0..SAGAS / 2).await;
    until_more(&town, 20).await;
    // Somebody else takes every connection there is, and what the engine has is ended.
    let mut hog = Vec::new();
    loop {
        match PgConnection::connect(&engine.url()).await {
            Ok(connection) => hog.push(connection),
            Err(full) => {
                let code =
                    full.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
                assert_eq!(code, "53300", "{full}");
                if disconnect(&mut direct).await == 0 {
                    break;
                }
            }
        }
    }
    until_nobody_renews(&mut direct).await;
    drop(hog);
    started.extend(town.start(SAGAS / 2..SAGAS).await);
    is_mixed(town.check(&started).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_restarted_is_waited_for() {
    if plays_worker().await {
        return;
    }
    let (mut engine, services) = tokio::join!(Postgres::start(), postgres::fresh_database());
    let town = Town::open(&engine.url(), services.url()).await;
    let _workers = [town.worker(), town.worker()];
    let mut started = town.start(0..SAGAS / 3).await;
    for third in 1..3 {
        until_more(&town, 20).await;
        // Orderly, then in haste.
        if third == 1 {
            engine.stop().await
        } else {
            engine.stop_immediate().await
        }
        engine.restart().await;
        started.extend(town.start(SAGAS * third / 3..SAGAS * (third + 1) / 3).await);
    }
    is_mixed(town.check(&started).await);
}

/// A trigger that refuses one saga's data blocks that saga, says why, and harms no other of its batch.
#[tokio::test(flavor = "multi_thread")]
async fn data_that_the_database_refuses_blocks_its_saga_alone() {
    if plays_worker().await {
        return;
    }
    let (engine, services) = tokio::join!(postgres::fresh_database(), postgres::fresh_database());
    let town = Town::open(engine.url(), services.url()).await;
    let mut direct = PgConnection::connect(engine.url()).await.unwrap();
    let refusal = "
        CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.number > 0 AND NEW.body LIKE '%order-13\"%' THEN RAISE EXCEPTION 'not this one'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON saga.journal FOR EACH ROW EXECUTE FUNCTION public.refuse();";
    direct.execute(sqlx::raw_sql(refusal)).await.unwrap();
    let _worker = town.worker();
    let mut started = town.start(0..SAGAS / 3).await;
    let (_, refused) = started.remove(13);
    let blocked = async {
        loop {
            let rows = town.backend.query.journal(refused.run()).await.unwrap();
            let body = rows.into_iter().next_back().unwrap().body;
            if body.contains("blocked") {
                return body;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let why = tokio::time::timeout(super::ENDS_WITHIN, blocked).await.expect("it is blocked");
    assert!(why.contains("not this one"), "{why}");
    let completed = town.check_beside(&started, "order-13").await;
    assert!(completed > 0, "its neighbours went on");
}
