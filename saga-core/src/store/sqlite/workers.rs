//! Workers: their rows, and the file locks that tell a dead process from a slow one.
//!
//! A worker locks `<database>.workers/<id>.lock` before its row appears, and holds the lock until its
//! process ends, however it ends: the operating system lets go of it. So a peer whose lock is free is
//! gone. Where the file is missing nothing is known, and the lease rule decides. The lock is evidence
//! only; what stops a worker is its epoch.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use chrono::Utc;
use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use super::Db;
use super::error::failed;
use super::read::micros;
use crate::id::WorkerId;
use crate::store::decode;
use crate::store::error::{Error, Result};
use crate::store::query::Manifest;
use crate::store::worker::{Fence, NewWorker, Peer, Renewal};

/// The file locks of one database.
#[derive(Debug)]
pub(super) struct Locks {
    dir: PathBuf,
    held: Mutex<HashMap<WorkerId, File>>,
}

impl Locks {
    pub(super) fn beside(database: &Path) -> Self {
        let mut dir = database.as_os_str().to_owned();
        dir.push(".workers");
        Self { dir: dir.into(), held: Mutex::default() }
    }

    fn path(&self, worker: WorkerId) -> PathBuf {
        self.dir.join(format!("{worker}.lock"))
    }

    /// Takes a worker's own lock.
    fn hold(&self, worker: WorkerId) -> Result<()> {
        let path = self.path(worker);
        let unusable = |error| Error::Unusable(format!("cannot lock {}: {error}", path.display()));
        fs::create_dir_all(&self.dir).map_err(unusable)?;
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {
                self.held.lock().expect("nothing panics while it holds the files").insert(worker, file);
                Ok(())
            }
            Err(fs::TryLockError::WouldBlock) => Err(joined_before(worker)),
            Err(fs::TryLockError::Error(error)) => Err(unusable(error)),
        }
    }

    /// Whether a worker's process is certainly gone.
    fn is_free(&self, worker: WorkerId) -> bool {
        File::open(self.path(worker)).is_ok_and(|file| file.try_lock().is_ok())
    }

    /// Lets go of a worker that will never commit again.
    fn forget(&self, worker: WorkerId) {
        self.held.lock().expect("nothing panics while it holds the files").remove(&worker);
        // What is left over costs an empty file; its name is never used again.
        let _ = fs::remove_file(self.path(worker));
    }
}

fn joined_before(worker: WorkerId) -> Error {
    Error::Refused(format!("worker {worker} has joined before"))
}

/// [`Error::Fenced`] where the worker has no right to write any more.
pub(super) async fn check(conn: &mut SqliteConnection, fence: Fence) -> Result<()> {
    let met: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM saga_worker WHERE id = ? AND epoch = ? AND NOT drained)",
    )
    .bind(fence.worker.0)
    .bind(fence.epoch)
    .fetch_one(conn)
    .await
    .map_err(failed)?;
    met.then_some(()).ok_or(Error::Fenced)
}

pub(super) async fn register(db: &Db, manifests: &[Manifest]) -> Result<()> {
    let mut tx = db.begin().await?;
    for manifest in manifests {
        sqlx::query(
            "INSERT INTO saga_manifest (fingerprint, definition, version, plan) VALUES (?, ?, ?, ?)
             ON CONFLICT (fingerprint) DO UPDATE SET plan = excluded.plan",
        )
        .bind(manifest.fingerprint.0)
        .bind(manifest.plan.name.as_str())
        .bind(i64::from(manifest.plan.version))
        .bind(decode::plan_text(manifest))
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    }
    tx.commit().await
}

pub(super) async fn join(db: &Db, worker: &NewWorker) -> Result<Fence> {
    db.locks.hold(worker.id)?;
    let joined = insert(db, worker).await;
    if let Err(Error::Refused(_)) = joined {
        db.locks.forget(worker.id);
        return Err(joined_before(worker.id));
    }
    joined.map(|()| Fence { worker: worker.id, epoch: 1 })
}

async fn insert(db: &Db, worker: &NewWorker) -> Result<()> {
    let mut tx = db.begin().await?;
    // Drained workers without sagas are of no use to anybody.
    sqlx::query(
        "DELETE FROM saga_worker WHERE drained
         AND NOT EXISTS (SELECT 1 FROM saga_live l WHERE l.owner = saga_worker.id)",
    )
    .execute(&mut *tx)
    .await
    .map_err(failed)?;
    sqlx::query(
        "INSERT INTO saga_worker (id, label, lease_ms, joined_at, renewed_at) VALUES (?1, ?2, ?3, ?4, ?4)",
    )
    .bind(worker.id.0)
    .bind(worker.label.as_str())
    .bind(i64::try_from(worker.lease.as_millis()).unwrap_or(i64::MAX))
    .bind(micros(Utc::now()))
    .execute(&mut *tx)
    .await
    .map_err(failed)?;
    tx.commit().await
}

pub(super) async fn renew(db: &Db, fence: Fence) -> Result<Renewal> {
    let mut tx = db.begin().await?;
    let renewed = sqlx::query(
        "UPDATE saga_worker SET renewals = renewals + 1, renewed_at = ?3
         WHERE id = ?1 AND epoch = ?2 AND NOT drained",
    )
    .bind(fence.worker.0)
    .bind(fence.epoch)
    .bind(micros(Utc::now()))
    .execute(&mut *tx)
    .await
    .map_err(failed)?
    .rows_affected();
    if renewed == 0 {
        return Ok(Renewal::Fenced);
    }
    let rows = sqlx::query(
        "SELECT id, renewals, lease_ms, epoch FROM saga_worker WHERE NOT drained AND id <> ? ORDER BY id",
    );
    let rows = rows.bind(fence.worker.0).fetch_all(&mut *tx).await.map_err(failed)?;
    tx.commit().await?;
    let mut peers = Vec::with_capacity(rows.len());
    for row in rows {
        let id = WorkerId(row.try_get::<Uuid, _>(0).map_err(failed)?);
        let lease = row.try_get::<i64, _>(2).map_err(failed)?;
        let fenced = row.try_get::<i64, _>(3).map_err(failed)? > 1;
        peers.push(Peer {
            id,
            renewals: row.try_get(1).map_err(failed)?,
            lease: Duration::from_millis(lease.unsigned_abs()),
            gone: fenced || db.locks.is_free(id),
        });
    }
    Ok(Renewal::Renewed(peers))
}

/// The transaction is alone, so "move the epoch on" and "await the batches in flight" are one moment.
pub(super) async fn fence(db: &Db, worker: WorkerId) -> Result<()> {
    let mut tx = db.begin().await?;
    sqlx::query("UPDATE saga_worker SET epoch = epoch + 1, drained = 1 WHERE id = ? AND NOT drained")
        .bind(worker.0)
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    tx.commit().await?;
    db.locks.forget(worker);
    Ok(())
}
