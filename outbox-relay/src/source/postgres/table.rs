//! The outbox table as it is: its name, its columns, and the statements that fit them.

use super::PostgresSource;
use super::cursor::Snapshot;
use crate::error::{Error, Result};
use sqlx::{PgConnection, Row};
use std::collections::HashMap;

/// Which table holds the events, and what its columns are called.
///
/// The default is `outbox.event` as [`outbox::migrate`] makes it. A table made for Debezium works too;
/// `id`, `aggregatetype`, `aggregateid`, `type` and `payload` must be there under some name. Without
/// `seq` and `xid` it cannot be polled: then it is only streamed, through a slot that lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// `schema.table`.
    pub name: String,
    /// What a column is called here, by the name it has in `outbox.event`.
    pub columns: HashMap<String, String>,
}

impl Default for Table {
    fn default() -> Self {
        Self { name: "outbox.event".into(), columns: HashMap::new() }
    }
}

const REQUIRED: [&str; 5] = ["id", "aggregatetype", "aggregateid", "type", "payload"];
pub(super) const POLLING: [&str; 2] = ["seq", "xid"];
const OPTIONAL: [&str; 4] = ["headers", "tracingspancontext", "key_seq", "created_at"];

/// The types whose binary form is known here.
const BINARY: [&str; 12] = [
    "uuid",
    "text",
    "character varying",
    "character",
    "bytea",
    "json",
    "jsonb",
    "bigint",
    "integer",
    "xid8",
    "timestamp with time zone",
    "timestamp without time zone",
];

impl Table {
    /// A table by its name, `schema.table`.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Says what one of `outbox.event`'s columns is called in this table.
    pub fn column(mut self, standard: impl Into<String>, here: impl Into<String>) -> Self {
        self.columns.insert(standard.into(), here.into());
        self
    }

    /// Checks the names.
    ///
    /// # Errors
    ///
    /// If one of them is none, or a column is none of an outbox table.
    pub fn check(&self) -> Result<()> {
        let bad = |what: &str, text: &str| {
            Err(Error::Config(format!(
                "{what} {text:?} must be lower-case letters, digits and _, 63 at most"
            )))
        };
        let parts: Vec<&str> = self.name.split('.').collect();
        if parts.len() != 2 || !parts.iter().all(|part| is_identifier(part)) {
            return bad("the outbox table's name, schema.table,", &self.name);
        }
        for (standard, here) in &self.columns {
            if ![&REQUIRED[..], &POLLING, &OPTIONAL].concat().contains(&standard.as_str()) {
                return Err(Error::Config(format!(
                    "{standard:?} is no column of an outbox table that could be mapped"
                )));
            }
            if !is_identifier(here) {
                return bad("the column name", here);
            }
        }
        Ok(())
    }

    /// Checks what kind of table it is. Of rows that lie in other tables, as a partitioned one's do, the log says
    /// those' names, and a row's place means nothing.
    pub(super) async fn check_kind(&self, connection: &mut PgConnection, named: bool) -> Result<()> {
        let ordinary: Option<bool> = sqlx::query_scalar(
            "SELECT relkind = 'r' AND relpersistence = 'p' AND NOT relispartition \
                 AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid) \
             FROM pg_class AS c WHERE oid = to_regclass($1)",
        )
        .persistent(named)
        .bind(&self.name)
        .fetch_optional(connection)
        .await?;
        match ordinary {
            Some(true) => Ok(()),
            Some(false) => Err(Error::Config(format!(
                "{} cannot be an outbox, which must be an ordinary table: not unlogged, no view, neither partitioned \
                 nor a partition, and no parent of others. It needs no partitions: what is published is removed",
                self.name
            ))),
            None => Err(Error::Config(format!(
                "there is no table {}, or this role may not see it: run `outbox-relay migrate`, or name the right \
                 table",
                self.name
            ))),
        }
    }

    /// The name of something of ours that belongs to this table, as long as Postgres allows.
    pub(super) fn own(&self, what: &str) -> String {
        let mut name = format!("{what}_{}", self.name.replace('.', "_"));
        name.truncate(63);
        name
    }

    pub(super) fn here<'a>(&'a self, standard: &'a str) -> &'a str {
        self.columns.get(standard).map_or(standard, String::as_str)
    }
}

fn is_identifier(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && text.len() <= 63
}

/// The statements for one table. Identifiers in them are checked; values are parameters.
#[derive(Clone, Debug)]
pub(crate) struct Statements {
    /// Whether the table has what polling needs. Without it events are read through a slot only, and
    /// the statements about numbers and transactions are not used.
    pub(crate) polls: bool,
    /// Whether the log may send values in binary: all types have such a form, and we know it.
    pub(crate) binary: bool,
    /// `$1` base, `$2` its transactions in progress, `$3` limit: the tick between base and the
    /// statement's own snapshot, which the first row carries; one row of nulls if the tick is empty.
    pub(crate) tick: String,
    /// What pages select, and from where.
    events: String,
    from: String,
    seq: String,
    xid: String,
    /// See [`parked`].
    pub(crate) parked: String,
    /// Whether rows say when they were written.
    pub(crate) ages: bool,
    /// `$1` base, `$2` outbox, `$3` limit, `$4` seconds to keep, if rows say their age: removes rows that
    /// are done. Only the table's own: a row's place is unique in one table.
    pub(crate) sweep: String,
    /// `$1` outbox: forgets dropped events whose rows are gone.
    pub(crate) dropped_and_gone: String,
    /// Stamps all rows with the current transaction, after a move to another cluster.
    pub(crate) restamp: String,
    /// Aggregate types that are in the table.
    pub(crate) kinds: String,
    /// `$1` base, `$2` tick, `$3` its seq, `$4` limit: how many rows no acknowledgement has passed, and
    /// the age of the oldest in seconds.
    pub(crate) waiting: String,
    /// `$1` base, `$2` tick, `$3` its seq, `$4` outbox: every row, and whether it must be published.
    pub(crate) written: String,
    /// `$1` first, `$2` last: stamps these rows with the current transaction, so that they are read again.
    pub(crate) replay: String,
}

impl Statements {
    /// Reads the table's columns and fits the statements to them.
    pub(super) async fn fit(source: &PostgresSource) -> Result<Self> {
        let table = &source.table;
        table.check()?;
        let mut session = source.session().await?;
        table.check_kind(&mut session, source.named()).await?;
        let rows = sqlx::query(
            "SELECT attname::text, atttypid::regtype::text FROM pg_attribute \
             WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped",
        )
        .persistent(source.named())
        .bind(&table.name)
        .fetch_all(&mut *session)
        .await?;
        let mut types = HashMap::new();
        for row in rows {
            types.insert(row.try_get::<String, _>(0)?, row.try_get::<String, _>(1)?);
        }
        Self::for_columns(table, &types)
    }

    /// A COPY of a page of the tick between two snapshots. It takes no parameters, so what would be one
    /// is written out: numbers, and snapshots, which are numbers too.
    pub(crate) fn page(&self, base: &Snapshot, end: &Snapshot, after: i64, limit: usize) -> String {
        let Self { events, from, seq, xid, .. } = self;
        let beyond_base = if *base == Snapshot::nothing() {
            String::new()
        } else {
            format!("AND NOT pg_visible_in_snapshot({xid}, '{base}') ")
        };
        format!(
            "COPY (SELECT {events} FROM {from} AS e WHERE {seq} > {after} \
                 AND pg_visible_in_snapshot({xid}, '{end}') {beyond_base}\
                 ORDER BY {seq} LIMIT {limit}) TO STDOUT (FORMAT binary)"
        )
    }

    fn for_columns(table: &Table, types: &HashMap<String, String>) -> Result<Self> {
        let name = &table.name;
        for standard in REQUIRED {
            let here = table.here(standard);
            if !types.contains_key(here) {
                return Err(Error::Config(format!("the outbox table {name} has no column {here:?}")));
            }
        }
        let events = select_list(table, types);
        let (seq, xid) = (format!("e.{}", table.here("seq")), format!("e.{}", table.here("xid")));
        let old_enough = if types.contains_key(table.here("created_at")) {
            format!("e.{} <= clock_timestamp() - make_interval(secs => $4)", table.here("created_at"))
        } else {
            "$4 >= 0::float8".to_owned()
        };
        let polls = POLLING.iter().all(|standard| types.contains_key(table.here(standard)));
        let written_at = if types.contains_key(table.here("created_at")) {
            format!("e.{}::timestamptz", table.here("created_at"))
        } else {
            "NULL::timestamptz".to_owned()
        };
        let columns =
            "seq, id, aggregatetype, aggregateid, type, payload, headers, trace, key_seq, created_at";
        Ok(Self {
            polls,
            ages: types.contains_key(table.here("created_at")),
            binary: types.values().all(|kind| BINARY.contains(&kind.as_str())),
            tick: format!(
                "SELECT CASE WHEN row_number() OVER (ORDER BY t.seq) = 1 THEN now.snapshot END AS snapshot, t.* \
                 FROM (SELECT pg_current_snapshot()::text AS snapshot) AS now LEFT JOIN LATERAL (\
                     SELECT {columns} FROM (\
                         (SELECT {events} FROM {name} AS e WHERE {xid} = ANY ($2::text[]::xid8[]) LIMIT $3) \
                         UNION ALL \
                         (SELECT {events} FROM {name} AS e WHERE {xid} >= pg_snapshot_xmax($1::pg_snapshot) LIMIT $3)\
                     ) AS u LIMIT $3) AS t ON true ORDER BY t.seq"
            ),
            events: events.clone(),
            from: name.clone(),
            seq: seq.clone(),
            xid: xid.clone(),
            parked: parked(table, types, polls, &events),
            sweep: format!(
                "DELETE FROM ONLY {name} WHERE ctid = ANY (ARRAY(SELECT e.ctid FROM ONLY {name} AS e \
                 WHERE {xid} < pg_snapshot_xmax($1::pg_snapshot) AND pg_visible_in_snapshot({xid}, $1::pg_snapshot) \
                     AND NOT EXISTS (SELECT FROM outbox.parked AS p \
                         WHERE p.outbox = $2 AND p.seq = {seq} AND p.dropped IS NULL) \
                     AND {old_enough} ORDER BY {xid} LIMIT $3))"
            ),
            dropped_and_gone: format!(
                "DELETE FROM outbox.parked AS p WHERE p.outbox = $1 AND p.dropped IS NOT NULL \
                     AND NOT EXISTS (SELECT FROM {name} AS e WHERE {seq} = p.seq)"
            ),
            restamp: format!("UPDATE {name} SET {} = pg_current_xact_id()", table.here("xid")),
            kinds: format!(
                "SELECT DISTINCT kind FROM (SELECT {}::text AS kind FROM {name} LIMIT 100000) AS t",
                table.here("aggregatetype")
            ),
            waiting: format!(
                "SELECT count(*) AS waiting, extract(epoch FROM clock_timestamp() - min(t.at))::float8 AS oldest FROM (\
                     SELECT {written_at} AS at FROM {name} AS e WHERE NOT pg_visible_in_snapshot({xid}, $1::pg_snapshot) \
                         AND NOT (pg_visible_in_snapshot({xid}, $2::pg_snapshot) AND {seq} <= $3) LIMIT $4) AS t"
            ),
            written: format!(
                "SELECT e.{}::uuid AS id, e.{}::text AS aggregatetype, e.{}::text AS aggregateid, {seq} AS seq, \
                     (pg_visible_in_snapshot({xid}, $1::pg_snapshot) \
                         OR (pg_visible_in_snapshot({xid}, $2::pg_snapshot) AND {seq} <= $3)) \
                     AND NOT EXISTS (SELECT FROM outbox.parked AS p WHERE p.outbox = $4 AND p.seq = {seq}) AS due \
                 FROM {name} AS e ORDER BY {seq}",
                table.here("id"),
                table.here("aggregatetype"),
                table.here("aggregateid"),
            ),
            replay: format!(
                "UPDATE {name} AS e SET {} = pg_current_xact_id() WHERE {seq} BETWEEN $1 AND $2",
                table.here("xid")
            ),
        })
    }
}

/// `$1` outbox, `$2` `$3` key, `$4` limit: a key's events that wait, from their rows or as they were set aside.
fn parked(table: &Table, types: &HashMap<String, String>, polls: bool, events: &str) -> String {
    let of_key = "outbox = $1 AND aggregatetype = $2 AND aggregateid = $3 AND dropped IS NULL";
    let id = if types.get(table.here("id")).is_some_and(|kind| kind == "uuid") { "id" } else { "id::text" };
    let whole = format!(
        "SELECT seq, {id} AS id, aggregatetype, aggregateid, type, payload, headers::text AS headers, \
             tracingspancontext AS trace, key_seq, created_at FROM outbox.parked WHERE {of_key} AND type IS NOT NULL"
    );
    if !polls {
        return format!("{whole} ORDER BY seq LIMIT $4");
    }
    let (name, seq) = (&table.name, table.here("seq"));
    format!(
        "SELECT {events} FROM {name} AS e JOIN (SELECT seq FROM outbox.parked WHERE {of_key} AND type IS NULL) AS p \
             ON p.seq = e.{seq} UNION ALL {whole} ORDER BY seq LIMIT $4"
    )
}

/// The columns of an event, under the names and in the types that reading expects.
fn select_list(table: &Table, types: &HashMap<String, String>) -> String {
    let has = |standard: &str| types.contains_key(table.here(standard));
    let column = |standard: &str| format!("e.{}", table.here(standard));
    let or_null = |standard: &str, kind: &str, expression: String| {
        if has(standard) { expression } else { format!("NULL::{kind}") }
    };
    let payload = match types.get(table.here("payload")).map(String::as_str) {
        Some("bytea") => column("payload"),
        _ => format!("convert_to({}::text, 'UTF8')", column("payload")),
    };
    let headers = or_null("headers", "text", format!("{}::text", column("headers")));
    let trace = or_null("tracingspancontext", "text", format!("{}::text", column("tracingspancontext")));
    let key_seq = or_null("key_seq", "bigint", format!("{}::bigint", column("key_seq")));
    let created_at = or_null("created_at", "timestamptz", format!("{}::timestamptz", column("created_at")));
    let id = match types.get(table.here("id")).map(String::as_str) {
        Some("uuid") => column("id"),
        _ => format!("{}::text", column("id")),
    };
    format!(
        "{}::bigint AS seq, {id} AS id, {}::text AS aggregatetype, {}::text AS aggregateid, {}::text AS type, \
         {payload} AS payload, {headers} AS headers, {trace} AS trace, {key_seq} AS key_seq, {created_at} AS created_at",
        column("seq"),
        column("aggregatetype"),
        column("aggregateid"),
        column("type"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(columns: &[(&str, &str)]) -> HashMap<String, String> {
        columns.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect()
    }

    const DEBEZIUM: [(&str, &str); 5] = [
        ("id", "uuid"),
        ("aggregatetype", "character varying"),
        ("aggregateid", "character varying"),
        ("type", "character varying"),
        ("payload", "jsonb"),
    ];

    #[test]
    fn a_debezium_table_is_read_as_it_is_and_polled_if_it_can_be() {
        let table = Table::named("public.outboxevent");
        let sql = Statements::for_columns(&table, &types(&DEBEZIUM)).expect("can be streamed");
        assert!(!sql.polls && sql.binary);
        let odd = [&DEBEZIUM[..], &[("price", "money")]].concat();
        assert!(!Statements::for_columns(&table, &types(&odd)).expect("fits").binary);

        let mut columns = DEBEZIUM.to_vec();
        columns.extend([("seq", "bigint"), ("xid", "xid8")]);
        let sql = Statements::for_columns(&table, &types(&columns)).expect("fits");
        assert!(sql.polls);
        let page = sql.page(&Snapshot::nothing(), &"5:9:7".parse().expect("a snapshot"), 41, 100);
        assert!(page.contains("convert_to(e.payload::text, 'UTF8') AS payload, NULL::text AS headers"));
        assert!(
            page.contains("WHERE e.seq > 41 AND pg_visible_in_snapshot(e.xid, '5:9:7') ORDER BY"),
            "{page}"
        );
        columns.retain(|(name, _)| *name != "payload");
        let error = Statements::for_columns(&table, &types(&columns)).expect_err("no payload");
        assert_eq!(error.to_string(), "the outbox table public.outboxevent has no column \"payload\"");
    }

    #[test]
    fn columns_may_have_other_names_but_no_sql_in_them() {
        let table = Table::named("shop.events").column("aggregatetype", "topic_name");
        let mut columns = DEBEZIUM.to_vec();
        columns.extend([("topic_name", "text"), ("seq", "bigint"), ("xid", "xid8")]);
        let sql = Statements::for_columns(&table, &types(&columns)).expect("fits");
        assert!(sql.tick.contains("e.topic_name::text AS aggregatetype"));
        for bad in [
            Table::named("event"),
            Table::named("a.b; drop table x"),
            Table::named("Outbox.event"),
            Table::default().column("id", "id\" --"),
            Table::default().column("no_such", "x"),
        ] {
            bad.check().expect_err("refused");
        }
    }
}
