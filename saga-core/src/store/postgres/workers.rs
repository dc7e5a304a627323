//! Workers: joining, renewing, and the three steps of taking one's right to commit away.

use std::time::Duration;

use sqlx::Row;
use uuid::Uuid;

use super::Db;
use super::error::failed;
use crate::id::WorkerId;
use crate::store::decode;
use crate::store::error::{Error, Result};
use crate::store::query::Manifest;
use crate::store::worker::{Fence, NewWorker, Peer, Renewal};

pub(super) async fn register(db: &Db, manifests: &[Manifest]) -> Result<()> {
    let text = "INSERT INTO saga.manifest (fingerprint, definition, version, plan)
        SELECT DISTINCT ON (fingerprint) *
        FROM unnest($1::uuid[], $2::text[], $3::int[], $4::text[]) AS m (fingerprint, definition, version, plan)
        ORDER BY fingerprint
        ON CONFLICT (fingerprint) DO UPDATE SET plan = EXCLUDED.plan WHERE manifest.plan <> EXCLUDED.plan";
    let statement = sqlx::query(text)
        .bind(manifests.iter().map(|m| m.fingerprint.0).collect::<Vec<Uuid>>())
        .bind(manifests.iter().map(|m| m.plan.name.as_str()).collect::<Vec<&str>>())
        .bind(manifests.iter().map(|m| m.plan.version.cast_signed()).collect::<Vec<i32>>())
        .bind(manifests.iter().map(decode::plan_text).collect::<Vec<String>>());
    db.keepers.lend().await?.rows(statement).await.map(drop)
}

pub(super) async fn join(db: &Db, worker: &NewWorker) -> Result<Fence> {
    let mut connection = db.keepers.lend().await?;
    // Drained workers without sagas are of no use to anybody. A drained worker gains no saga any more.
    let text = "DELETE FROM saga.worker w WHERE w.drained
        AND NOT EXISTS (SELECT FROM saga.live l WHERE l.owner = w.id OFFSET 0)";
    connection.rows(sqlx::query(text)).await?;
    let text = "INSERT INTO saga.worker (id, label, lease_ms) VALUES ($1, $2, $3)
        ON CONFLICT DO NOTHING RETURNING epoch";
    let lease = i64::try_from(worker.lease.as_millis()).unwrap_or(i64::MAX);
    let statement = sqlx::query(text).bind(worker.id.0).bind(worker.label.clone()).bind(lease);
    match connection.rows(statement).await?.first() {
        Some(row) => Ok(Fence { worker: worker.id, epoch: row.try_get(0).map_err(failed)? }),
        None => Err(Error::Refused(format!("worker {} has joined before", worker.id))),
    }
}

pub(super) async fn renew(db: &Db, fence: Fence) -> Result<Renewal> {
    let text = "WITH mine AS (
            UPDATE saga.worker SET renewals = renewals + 1, renewed_at = now()
            WHERE id = $1 AND epoch = $2 AND NOT drained RETURNING id)
        SELECT w.id, w.renewals, w.lease_ms, w.epoch > 1 FROM mine CROSS JOIN saga.worker w
        WHERE NOT w.drained ORDER BY w.id";
    let statement = sqlx::query(text).bind(fence.worker.0).bind(fence.epoch);
    let answer = db.keepers.lend().await?.rows(statement).await?;
    if answer.is_empty() {
        return Ok(Renewal::Fenced);
    }
    let mut peers = Vec::with_capacity(answer.len() - 1);
    for row in answer {
        let id = WorkerId(row.try_get(0).map_err(failed)?);
        if id != fence.worker {
            peers.push(Peer {
                id,
                renewals: row.try_get(1).map_err(failed)?,
                lease: Duration::from_millis(row.try_get::<i64, _>(2).map_err(failed)?.unsigned_abs()),
                gone: row.try_get(3).map_err(failed)?,
            });
        }
    }
    Ok(Renewal::Renewed(peers))
}

/// See the module's chapter on fencing. It may be repeated at any point: whoever finds a worker that was
/// fenced but not drained goes on with it.
pub(super) async fn fence(db: &Db, worker: WorkerId) -> Result<()> {
    let mut connection = db.keepers.lend().await?;
    let moved =
        sqlx::query("UPDATE saga.worker SET epoch = epoch + 1 WHERE id = $1 AND NOT drained").bind(worker.0);
    connection.rows(moved).await?;
    connection.rows(sqlx::query("BEGIN")).await?;
    let drained = async {
        // Waits for the batches in flight. A plain UPDATE would not: it leaves the key as it is.
        connection
            .rows(sqlx::query("SELECT FROM saga.worker WHERE id = $1 FOR UPDATE").bind(worker.0))
            .await?;
        let drained = sqlx::query("UPDATE saga.worker SET drained = true WHERE id = $1").bind(worker.0);
        connection.rows(drained).await?;
        connection.rows(sqlx::query("COMMIT")).await
    };
    match drained.await {
        Ok(_) => Ok(()),
        Err(error) => {
            // Whatever state the transaction is in ends with its connection.
            connection.give_up();
            Err(error)
        }
    }
}
