//! Examining the database.

use super::PostgresSource;
use super::table::Statements;
use crate::doctor::Finding;
use crate::error::Result;
use sqlx::{PgConnection, Row};

pub(super) async fn examine(source: &PostgresSource) -> Vec<Finding> {
    let mut connection = match source.pool.acquire().await {
        Ok(connection) => connection,
        Err(error) => {
            return vec![Finding::problem(
                format!("the database does not answer: {error}"),
                "check the URL and that the server is up",
            )];
        }
    };
    let mut findings = Vec::new();
    match outbox::check_schema(&mut *connection).await {
        Ok(()) => findings.push(Finding::fine("the outbox tables are there")),
        Err(error) => return vec![Finding::problem(error.to_string(), "run `outbox-relay migrate`")],
    }
    match Statements::fit(&mut connection, &source.table).await {
        Ok(_) => findings.push(Finding::fine(format!("{} has the columns it needs", source.table.name))),
        Err(error) => findings.push(Finding::problem(error.to_string(), "see `outbox-relay migrate --help`")),
    }
    let examinations = [
        version(&mut connection).await,
        rights(source, &mut connection).await,
        old_transactions(&mut connection).await,
        dead_rows(source, &mut connection).await,
        backlog(source, &mut connection).await,
        lease(source, &mut connection).await,
    ];
    for examination in examinations {
        match examination {
            Ok(found) => findings.extend(found),
            Err(error) => findings.push(Finding::warning(format!("could not look: {error}"), "")),
        }
    }
    findings
}

async fn version(connection: &mut PgConnection) -> Result<Vec<Finding>> {
    let number: i32 =
        sqlx::query_scalar("SELECT current_setting('server_version_num')::int").fetch_one(connection).await?;
    let (major, minor) = (number / 10_000, number % 10_000);
    Ok(vec![if major >= 13 {
        Finding::fine(format!("Postgres {major}.{minor}"))
    } else {
        Finding::problem(format!("Postgres {major}.{minor} has no xid8"), "upgrade to 13 or later")
    }])
}

async fn rights(source: &PostgresSource, connection: &mut PgConnection) -> Result<Vec<Finding>> {
    let rows = sqlx::query(
        "SELECT t, p, coalesce(has_table_privilege(to_regclass(t), p), false) AS granted FROM (VALUES \
             ($1, 'SELECT'), ($1, 'DELETE'), ('outbox.relay', 'SELECT'), ('outbox.relay', 'INSERT'), \
             ('outbox.relay', 'UPDATE'), ('outbox.parked', 'SELECT'), ('outbox.parked', 'INSERT'), \
             ('outbox.parked', 'UPDATE'), ('outbox.parked', 'DELETE')) AS needed (t, p)",
    )
    .bind(&source.table.name)
    .fetch_all(connection)
    .await?;
    let mut findings = Vec::new();
    for row in rows {
        if !row.try_get::<bool, _>("granted")? {
            let (table, right): (String, String) = (row.try_get("t")?, row.try_get("p")?);
            findings.push(Finding::problem(
                format!("this role lacks {right} on {table}"),
                format!("GRANT {right} ON {table} TO the relay's role"),
            ));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::fine("this role has the rights it needs"));
    }
    Ok(findings)
}

async fn old_transactions(connection: &mut PgConnection) -> Result<Vec<Finding>> {
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
    .fetch_all(connection)
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

async fn dead_rows(source: &PostgresSource, connection: &mut PgConnection) -> Result<Vec<Finding>> {
    let row = sqlx::query(
        "SELECT coalesce(pg_stat_get_dead_tuples(to_regclass($1)), 0) AS dead, current_setting('autovacuum') AS auto",
    )
    .bind(&source.table.name)
    .fetch_one(connection)
    .await?;
    let (dead, auto): (i64, String) = (row.try_get("dead")?, row.try_get("auto")?);
    Ok(vec![if auto == "off" {
        Finding::problem("autovacuum is off", "turn it on: nothing else removes the dead rows of a queue")
    } else if dead > 500_000 {
        Finding::warning(
            format!("{dead} dead rows in {}", source.table.name),
            "vacuum it, and look for old transactions",
        )
    } else {
        Finding::fine(format!("{dead} dead rows in {}", source.table.name))
    }])
}

async fn backlog(source: &PostgresSource, connection: &mut PgConnection) -> Result<Vec<Finding>> {
    let row = sqlx::query(
        "SELECT (SELECT count(*) FROM outbox.parked WHERE outbox = $1) AS parked, \
             coalesce((SELECT n_live_tup FROM pg_stat_all_tables WHERE relid = to_regclass($1)), 0) AS rows",
    )
    .bind(&source.table.name)
    .fetch_one(connection)
    .await?;
    let (parked, rows): (i64, i64) = (row.try_get("parked")?, row.try_get("rows")?);
    let mut findings = vec![Finding::fine(format!("about {rows} rows in {}", source.table.name))];
    if parked > 0 {
        findings.push(Finding::warning(
            format!("{parked} events are parked"),
            "`outbox-relay parked list` says why; then `parked release` or `parked drop`",
        ));
    }
    Ok(findings)
}

async fn lease(source: &PostgresSource, connection: &mut PgConnection) -> Result<Vec<Finding>> {
    let row = sqlx::query(
        "SELECT holder, epoch, extract(epoch FROM clock_timestamp() - acknowledged_at)::bigint AS ago \
         FROM outbox.relay WHERE outbox = $1",
    )
    .bind(&source.table.name)
    .fetch_optional(connection)
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
