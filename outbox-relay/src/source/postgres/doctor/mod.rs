//! Examining the database.

mod rights;
mod rows;
mod streaming;

use super::PostgresSource;
use super::table::Statements;
use crate::doctor::Finding;
use crate::error::Result;
use sqlx::Row;

pub(super) async fn examine(source: &PostgresSource) -> Vec<Finding> {
    let mut session = match source.session().await {
        Ok(session) => session,
        Err(error) => {
            return vec![Finding::problem(
                format!("the database does not answer: {error}"),
                "check the URL and that the server is up",
            )];
        }
    };
    let mut findings = Vec::new();
    match outbox::check_schema(&mut *session).await {
        Ok(()) => findings.push(Finding::fine("the outbox tables are there")),
        Err(error) => return vec![Finding::problem(error.to_string(), "run `outbox-relay migrate`")],
    }
    drop(session);
    let polls = match Statements::fit(source).await {
        Ok(statements) => statements.polls,
        Err(error) => {
            findings.push(Finding::problem(error.to_string(), "see `outbox-relay migrate --help`"));
            return findings;
        }
    };
    findings.push(columns(source, polls));
    let examinations = [
        version(source).await,
        rights::examine(source, polls).await,
        streaming::server(source, polls).await,
        streaming::publication(source).await,
        streaming::slots(source, polls).await,
        old_transactions(source).await,
        rows::dead(source).await,
        rows::backlog(source, polls).await,
        rows::vanish(source, polls).await,
        rows::parked(source).await,
        lease(source).await,
    ];
    for examination in examinations {
        match examination {
            Ok(found) => findings.extend(found),
            Err(error) => findings.push(Finding::warning(format!("could not look: {error}"), "")),
        }
    }
    findings
}

fn columns(source: &PostgresSource, polls: bool) -> Finding {
    let name = &source.table.name;
    if polls {
        return Finding::fine(format!("{name} has the columns it needs"));
    }
    Finding::warning(
        format!("{name} has no columns seq and xid: it is only streamed, and its rows are not removed"),
        "`outbox-relay migrate` adds them; then nothing is lost with a replication slot, done rows are removed, \
         and `replay` and `verify` work",
    )
}

async fn version(source: &PostgresSource) -> Result<Vec<Finding>> {
    let number: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::int")
        .persistent(source.named())
        .fetch_one(&mut *source.session().await?)
        .await?;
    let (major, minor) = (number / 10_000, number % 10_000);
    Ok(vec![if major >= 13 {
        Finding::fine(format!("Postgres {major}.{minor}"))
    } else {
        Finding::problem(format!("Postgres {major}.{minor} has no xid8"), "upgrade to 13 or later")
    }])
}

async fn old_transactions(source: &PostgresSource) -> Result<Vec<Finding>> {
    let rows = sqlx::query(
        "SELECT format('process %s of %s in database %s, open for %s s, %s', pid, coalesce(usename, '?'), \
                 coalesce(datname, '?'), round(extract(epoch FROM now() - xact_start)), coalesce(state, '?')) AS who \
         FROM pg_stat_activity WHERE xact_start < now() - interval '30 seconds' AND backend_xmin IS NOT NULL \
             AND pid <> pg_backend_pid() \
         UNION ALL SELECT format('prepared transaction %L in database %s, since %s', gid, database, prepared) \
             FROM pg_prepared_xacts \
         UNION ALL SELECT format('replication slot %s holds xmin %s', slot_name, xmin) \
             FROM pg_replication_slots WHERE xmin IS NOT NULL",
    )
    .persistent(source.named())
    .fetch_all(&mut *source.session().await?)
    .await?;
    if rows.is_empty() {
        return Ok(vec![Finding::fine("no old transaction keeps dead rows from being cleaned")]);
    }
    rows.iter()
        .map(|row| {
            Ok(Finding::warning(
                format!("{} keeps dead rows from being cleaned", row.try_get::<String, _>("who")?),
                "events are published meanwhile, but done rows stay and the table grows; end it if it should not be \
                 open (pg_terminate_backend, ROLLBACK PREPARED)",
            ))
        })
        .collect()
}

async fn lease(source: &PostgresSource) -> Result<Vec<Finding>> {
    let row = sqlx::query(
        "SELECT holder, epoch, extract(epoch FROM clock_timestamp() - acknowledged_at)::bigint AS ago \
         FROM outbox.relay WHERE outbox = $1",
    )
    .persistent(source.named())
    .bind(&source.table.name)
    .fetch_optional(&mut *source.session().await?)
    .await?;
    let Some(row) = row else {
        return Ok(vec![Finding::warning("no relay has ever run here", "start one: `outbox-relay run`")]);
    };
    let (holder, epoch): (Option<String>, i64) = (row.try_get("holder")?, row.try_get("epoch")?);
    let ago = row.try_get::<Option<i64>, _>("ago")?.map_or("never".into(), |s| format!("{s} s ago"));
    Ok(vec![match holder {
        Some(holder) => Finding::fine(format!(
            "relay {holder} holds the lease, epoch {epoch}, last acknowledgement {ago}"
        )),
        None => Finding::warning("no relay holds the lease", "start one: `outbox-relay run`"),
    }])
}
