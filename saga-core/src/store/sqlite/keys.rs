//! Keys: of all sagas that were started under one, one is under way at a time.
//!
//! A key's row exists while somebody holds the key or waits for it. The transaction is alone, so "is it
//! free?" and "then it is mine" are one moment. What follows a release is left to the next claim: it alone
//! knows which sagas its worker has code for.

use std::collections::HashSet;

use chrono::Utc;
use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use super::error::failed;
use super::insert::ids;
use super::read::micros;
use super::writer::Tx;
use crate::id::RunId;
use crate::store::commit::Start;
use crate::store::error::Result;
use crate::store::worker::Claim;

/// How many keys one claim deals with at most.
const AT_ONCE: i64 = 500;

/// Takes the keys of owned starts, where they are free; answers with the runs that have theirs.
pub(super) async fn take(tx: &mut SqliteConnection, starts: &[&Start]) -> Result<HashSet<RunId>> {
    let mut held = HashSet::new();
    for start in starts.iter().filter(|start| start.owned) {
        let Some(keyed) = &start.key else { continue };
        // A row says that somebody holds it or waits for it. Sagas that no claim has seen have none yet.
        let taken = sqlx::query(
            "INSERT INTO saga_key (key, run) SELECT ?1, ?2
             WHERE NOT EXISTS (SELECT 1 FROM saga_live WHERE key = ?1 AND turn IS NOT NULL)
             ON CONFLICT DO NOTHING",
        );
        let taken = taken.bind(keyed.key.as_str().to_owned()).bind(start.run.0);
        if taken.execute(&mut *tx).await.map_err(failed)?.rows_affected() > 0 {
            held.insert(start.run);
        }
    }
    Ok(held)
}

/// Whether [`give_turns`] would find something to do.
pub(super) async fn is_unsettled(conn: &mut SqliteConnection, claim: &Claim) -> Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM saga_live WHERE turn = 0 AND owner IS NULL)
            OR EXISTS (SELECT 1 FROM saga_key k WHERE k.run IS NULL AND (
                EXISTS (SELECT 1 FROM saga_live l WHERE l.key = k.key AND l.turn > 0 AND l.owner IS NULL
                    AND l.fingerprint IN (SELECT unhex(value) FROM json_each(?1))
                    AND NOT EXISTS (SELECT 1 FROM saga_mail n
                        WHERE n.run = l.run AND n.consumed IS NULL AND n.format > ?2))
                OR NOT EXISTS (SELECT 1 FROM saga_live l WHERE l.key = k.key AND l.turn IS NOT NULL)))",
    )
    .bind(known(claim))
    .bind(claim.reads)
    .fetch_one(conn)
    .await
    .map_err(failed)
}

/// Puts sagas that no claim has seen into the order of those that wait for their keys, and gives free keys
/// to the first that waits and that this worker can drive. From then on that saga is due like any other.
pub(super) async fn give_turns(tx: &mut Tx, claim: &Claim) -> Result<()> {
    let unseen = sqlx::query(
        "UPDATE saga_live SET due = until, turn = seen.turn FROM (
             SELECT run, row_number() OVER (PARTITION BY key ORDER BY since, run)
                 + (SELECT max(turn) FROM saga_live q WHERE q.key = u.key AND q.turn IS NOT NULL) AS turn
             FROM saga_live u WHERE turn = 0 AND owner IS NULL ORDER BY since, run LIMIT ?) seen
         WHERE saga_live.run = seen.run RETURNING saga_live.key",
    );
    let unseen = unseen.bind(AT_ONCE).fetch_all(&mut **tx).await.map_err(failed)?;
    let waited_for: HashSet<&str> =
        unseen.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(failed)?;
    for key in waited_for {
        let row = sqlx::query("INSERT OR IGNORE INTO saga_key (key, run) VALUES (?, NULL)");
        row.bind(key.to_owned()).execute(&mut **tx).await.map_err(failed)?;
    }
    let given = sqlx::query(
        "UPDATE saga_key SET run = n.run FROM (
             SELECT k.key, (SELECT l.run FROM saga_live l
                 WHERE l.key = k.key AND l.turn > 0 AND l.owner IS NULL
                     AND l.fingerprint IN (SELECT unhex(value) FROM json_each(?1))
                     AND NOT EXISTS (SELECT 1 FROM saga_mail n
                         WHERE n.run = l.run AND n.consumed IS NULL AND n.format > ?3)
                 ORDER BY l.turn LIMIT 1) AS run
             FROM saga_key k WHERE k.run IS NULL LIMIT ?2) n
         WHERE saga_key.key = n.key AND n.run IS NOT NULL RETURNING saga_key.run",
    );
    let given = given.bind(known(claim)).bind(AT_ONCE).bind(claim.reads);
    let given = given.fetch_all(&mut **tx).await.map_err(failed)?;
    let given: Vec<Uuid> =
        given.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(failed)?;
    if !given.is_empty() {
        let due = sqlx::query(
            "UPDATE saga_live SET turn = NULL, due = ?2, state = 'running', since = ?2
             WHERE run IN (SELECT unhex(value) FROM json_each(?1))",
        );
        let due = due.bind(ids(given)).bind(micros(Utc::now()));
        due.execute(&mut **tx).await.map_err(failed)?;
    }
    // Keys whose waiters have all ended without them.
    let idle = sqlx::query(
        "DELETE FROM saga_key WHERE run IS NULL
         AND NOT EXISTS (SELECT 1 FROM saga_live l WHERE l.key = saga_key.key AND l.turn IS NOT NULL)",
    );
    idle.execute(&mut **tx).await.map_err(failed)?;
    Ok(())
}

fn known(claim: &Claim) -> String {
    ids(claim.fingerprints.iter().map(|fingerprint| fingerprint.0))
}
