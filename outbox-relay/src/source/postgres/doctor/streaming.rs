//! What streaming needs: the server's settings, a publication, and slots.

use crate::doctor::Finding;
use crate::error::Result;
use crate::source::postgres::PostgresSource;
use sqlx::Row;

/// Log kept by one slot that is worth a warning.
const KEPT_MAX: i64 = 1 << 30;

/// Without it events are polled, unless the table cannot be: then it is a problem.
fn missing(polls: bool, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    if polls {
        Finding::warning(format!("{}: events are polled", found.into()), advice)
    } else {
        Finding::problem(found, advice)
    }
}

pub(super) async fn server(source: &PostgresSource, polls: bool) -> Result<Vec<Finding>> {
    if source.stream_to.is_none() {
        let found = "streaming is turned off, or the URL does not say user and host";
        return Ok(vec![missing(polls, found, "set source.stream = true and give a whole URL, to stream")]);
    }
    let row = sqlx::query(
        "SELECT current_setting('wal_level') AS wal_level, \
             (SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user) AS may, \
             current_setting('max_replication_slots')::bigint - (SELECT count(*) FROM pg_replication_slots) AS slots, \
             current_setting('max_wal_senders')::bigint - (SELECT count(*) FROM pg_stat_replication) AS senders",
    )
    .persistent(source.named())
    .fetch_one(&mut *source.session().await?)
    .await?;
    let mut findings = Vec::new();
    let level: String = row.try_get("wal_level")?;
    if level != "logical" {
        let advice = "ALTER SYSTEM SET wal_level = logical, and restart the server";
        findings.push(missing(polls, format!("wal_level is {level}"), advice));
    }
    if !row.try_get::<bool, _>("may")? {
        let advice = "ALTER ROLE … REPLICATION";
        findings.push(missing(polls, "this role may not stream", advice));
    }
    for (setting, left) in [("max_replication_slots", "slots"), ("max_wal_senders", "senders")] {
        if row.try_get::<i64, _>(left)? <= 0 {
            let found = format!("{setting} is used up");
            findings.push(missing(
                polls,
                found,
                format!("raise {setting}, or drop what is not needed any more"),
            ));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::fine("the server lets this role stream"));
    }
    Ok(findings)
}

pub(super) async fn publication(source: &PostgresSource) -> Result<Vec<Finding>> {
    if source.stream_to.is_none() {
        return Ok(Vec::new());
    }
    let name = source.publication.clone().unwrap_or_else(|| source.table.own("outbox_relay"));
    let row = sqlx::query(
        "SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = $1) AS there, \
             EXISTS (SELECT FROM pg_publication_tables AS t JOIN pg_publication AS p USING (pubname) \
                 WHERE pubname = $1 AND schemaname || '.' || tablename = $2 AND pubinsert) AS publishes, \
             has_database_privilege(current_database(), 'CREATE') AND EXISTS (SELECT FROM pg_class \
                 WHERE oid = to_regclass($2) AND pg_has_role(relowner, 'USAGE')) AS may_create",
    )
    .persistent(source.named())
    .bind(&name)
    .bind(&source.table.name)
    .fetch_one(&mut *source.session().await?)
    .await?;
    let (there, publishes): (bool, bool) = (row.try_get("there")?, row.try_get("publishes")?);
    let create =
        format!("CREATE PUBLICATION {name} FOR TABLE {} WITH (publish = 'insert')", source.table.name);
    Ok(vec![if publishes {
        Finding::fine(format!("the publication {name} has the table's inserts"))
    } else if there {
        Finding::problem(
            format!("the publication {name} lacks the inserts of {}", source.table.name),
            format!("ALTER PUBLICATION {name} ADD TABLE {}; SET (publish = 'insert')", source.table.name),
        )
    } else if row.try_get("may_create")? {
        Finding::fine(format!("the publication {name} is not there yet; the relay makes it"))
    } else {
        Finding::warning(
            format!("the publication {name} is missing, and this role may not make it"),
            format!("as the table's owner: {create}"),
        )
    }])
}

/// How much of the log our slots keep, and that of a table that has nothing else.
pub(super) async fn slots(source: &PostgresSource, polls: bool) -> Result<Vec<Finding>> {
    let needed = source.slot_name().await?;
    let rows = sqlx::query(
        "SELECT slot_name::text AS name, active, temporary, coalesce(wal_status, '') AS status, \
             coalesce(pg_current_wal_lsn() - restart_lsn, 0)::bigint AS kept, \
             coalesce(pg_current_wal_lsn() - confirmed_flush_lsn, 0)::bigint AS behind, \
             current_setting('max_slot_wal_keep_size') AS bound \
         FROM pg_replication_slots WHERE database = current_database() AND (slot_name LIKE 'outbox\\_relay\\_%' \
             OR slot_name = $1) ORDER BY slot_name",
    )
    .persistent(source.named())
    .bind(&needed)
    .fetch_all(&mut *source.session().await?)
    .await?;
    let mut findings = Vec::new();
    let mut there = false;
    for row in rows {
        let (name, status): (String, String) = (row.try_get("name")?, row.try_get("status")?);
        let (active, temporary): (bool, bool) = (row.try_get("active")?, row.try_get("temporary")?);
        let (kept, behind): (i64, i64) = (row.try_get("kept")?, row.try_get("behind")?);
        there |= name == needed;
        let found = format!("the slot {name} is {behind} bytes behind and keeps {kept} bytes of the log");
        findings.push(if status == "lost" {
            Finding::problem(
                format!("the slot {name} was given up by the server, and with it the log it kept"),
                "run `outbox-relay migrate --publish-existing`, which makes the table one that can be polled",
            )
        } else if !active && !temporary && (polls || name != needed) {
            Finding::warning(
                format!("{found}, and nobody reads it"),
                format!("if it is not needed: SELECT pg_drop_replication_slot('{name}')"),
            )
        } else if kept > KEPT_MAX {
            Finding::warning(found, "is the relay running, and does Kafka take what it sends?")
        } else {
            Finding::fine(found)
        });
        if !temporary && row.try_get::<String, _>("bound")? == "-1" {
            findings.push(Finding::warning(
                format!("nothing bounds the log that the slot {name} may keep: a relay that is away fills the disk"),
                "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB', by what the disk holds",
            ));
        }
    }
    if !polls && !there {
        findings.push(Finding::warning(
            format!("the slot {needed} is not there: events are published from when the relay makes it"),
            "start the relay before the services that write, or name Debezium's slot in source.slot",
        ));
    }
    Ok(findings)
}
