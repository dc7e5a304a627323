//! Keys: of all sagas that were started under one, one is under way at a time.
//!
//! A key's row exists while somebody holds the key or waits for it. Who holds it is written by compare-and-set
//! only: by an owned start (`start.rs`), by the second statement here, and to nobody by the commit that ends the
//! holder (`commit.rs`).
//!
//! What could go wrong between them, and why it does not:
//!
//! - *A key is freed while another begins to wait for it.* Neither sees the other's work, but the one that
//!   begins to wait makes sure that the row is there, and a free row that somebody waits for is found by
//!   every claim.
//! - *A row is swept while another begins to wait.* Whoever begins to wait moves `waited` on; the sweep compares
//!   it, on the row's newest version, with what it read in one snapshot with the waiters.
//! - *The first in the order is gone by now.* Key and saga are both locked, in their newest versions, before
//!   either is written.

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::connections::Lent;
use super::error::failed;
use crate::store::error::Result;
use crate::store::worker::Claim;

/// How many sagas begin to wait, and how many keys are given, in one claim at most.
const AT_ONCE: i32 = 500;

/// Puts sagas that no claim has seen into the order of those that wait.
const WAIT: &str = "WITH unseen AS MATERIALIZED (
    SELECT run, key FROM saga.live WHERE turn = 0 AND owner IS NULL
    ORDER BY since, run LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
), seen AS MATERIALIZED (
    SELECT array_agg(run) AS runs, array_agg(turn) AS turns FROM (
        SELECT run, nextval('saga.turn') AS turn FROM unseen) s
), waits AS (
    UPDATE saga.live l SET turn = (SELECT turns[array_position(runs, l.run)] FROM seen), due = l.until
    WHERE l.run = ANY ((SELECT runs FROM seen)::uuid[]) RETURNING l.due
), waited AS (
    INSERT INTO saga.key AS k (key, waited) SELECT DISTINCT key, 1 FROM unseen ORDER BY key
    ON CONFLICT (key) DO UPDATE SET waited = k.waited + 1
)
SELECT count(*) FROM waits WHERE due <= now()";

/// Gives free keys to the first that waits and that this worker can drive, which is due from then on; and
/// sweeps free keys that nobody waits for.
const GIVE: &str = "WITH free AS MATERIALIZED (
    SELECT k.key FROM saga.key k WHERE k.run IS NULL AND EXISTS (
        SELECT FROM saga.live l
        WHERE l.key = k.key AND l.turn > 0 AND l.owner IS NULL AND l.fingerprint = ANY ($1::uuid[])
            AND NOT EXISTS (
                SELECT FROM saga.mail m WHERE m.run = l.run AND m.consumed IS NULL AND m.format > $3 OFFSET 0)
        OFFSET 0)
    ORDER BY k.key LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
), next AS MATERIALIZED (
    SELECT free.key, l.run FROM free CROSS JOIN LATERAL (
        SELECT l.run FROM saga.live l
        WHERE l.key = free.key AND l.turn > 0 AND l.owner IS NULL AND l.fingerprint = ANY ($1::uuid[])
            AND NOT EXISTS (
                SELECT FROM saga.mail m WHERE m.run = l.run AND m.consumed IS NULL AND m.format > $3 OFFSET 0)
        ORDER BY l.turn LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED) l
), given AS (
    UPDATE saga.key k SET run = (SELECT next.run FROM next WHERE next.key = k.key)
    WHERE k.key = ANY (ARRAY(SELECT key FROM next))
), due AS (
    UPDATE saga.live l SET turn = NULL, due = now(), state = 'running', since = now()
    WHERE l.run = ANY (ARRAY(SELECT run FROM next)) RETURNING l.run
), idle AS MATERIALIZED (
    SELECT k.key, k.waited FROM saga.key k
    WHERE k.run IS NULL AND NOT EXISTS (SELECT FROM saga.live l WHERE l.key = k.key AND l.turn IS NOT NULL OFFSET 0)
    LIMIT $2
), swept AS (
    DELETE FROM saga.key k WHERE k.key = ANY (ARRAY(SELECT key FROM idle)) AND k.run IS NULL
        AND k.waited = (SELECT idle.waited FROM idle WHERE idle.key = k.key)
)
SELECT count(*) FROM due";

/// Does both; answers whether a saga became due. Anybody may do this: it takes nothing for himself.
pub(super) async fn give_turns(connection: &mut Lent, claim: &Claim) -> Result<bool> {
    let late = counted(&connection.rows(sqlx::query(WAIT).bind(AT_ONCE)).await?)?;
    // In a later statement: it sees those that begin to wait.
    let known: Vec<Uuid> = claim.fingerprints.iter().map(|fingerprint| fingerprint.0).collect();
    let give = sqlx::query(GIVE).bind(known).bind(AT_ONCE).bind(claim.reads);
    let given = counted(&connection.rows(give).await?)?;
    Ok(late + given > 0)
}

fn counted(answer: &[PgRow]) -> Result<i64> {
    answer.first().map_or(Ok(0), |row| row.try_get(0)).map_err(failed)
}
