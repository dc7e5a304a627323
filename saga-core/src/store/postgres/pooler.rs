//! Finds out a pooler that shares the server's sessions among its clients.
//!
//! Behind one, our settings would become those of the business's statements (no reading of whole tables, timeouts of
//! seconds), and our prepared statements would be looked for in sessions that do not have them. So nothing is
//! set before this was asked.

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Row};

use super::connections::PATIENCE;
use super::error::{failed, unreachable};
use crate::store::error::{Error, Result};

/// Two connections that are open at the same time must never meet one session of the server. They ask in turns that
/// have no rhythm, because a pooler may lend its sessions in one. While it is busy, it may hide what it does.
pub(super) async fn check(options: &PgConnectOptions) -> Result<()> {
    let apart = tokio::time::timeout(PATIENCE, kept_apart(options)).await;
    let unanswered = || {
        Error::Unavailable(format!(
            "no answer within {PATIENCE:?} on two connections: is a pooler before it full?"
        ))
    };
    if apart.map_err(|_| unanswered())?? {
        return Ok(());
    }
    Err(Error::Unusable(
        "there is a pooler before the database that shares sessions among its clients, and so the settings that sagas \
         need: name the server itself, or a pool that keeps sessions apart (PgBouncer: `pool_mode = session`)"
            .into(),
    ))
}

async fn kept_apart(options: &PgConnectOptions) -> Result<bool> {
    let mut one = options.connect().await.map_err(unreachable)?;
    let mut other = options.connect().await.map_err(unreachable)?;
    let (first, second) = (session(&mut one).await?, session(&mut other).await?);
    let mut apart = first != second;
    apart &= session(&mut other).await? == second;
    apart &= session(&mut one).await? == first;
    apart &= session(&mut one).await? == first;
    apart &= session(&mut other).await? == second;
    for connection in [one, other] {
        // One that cannot take leave is closed by being dropped.
        let _left = connection.close().await;
    }
    Ok(apart)
}

/// The session of the server that answers, asked without a prepared statement.
async fn session(connection: &mut PgConnection) -> Result<i32> {
    let answer = sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(connection).await.map_err(failed)?;
    answer.try_get(0).map_err(failed)
}
