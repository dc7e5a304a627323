//! The statements that write events, for one table.

use std::collections::BTreeMap;

/// In both dialects. Parameters are numbered as [`super::outbox::COLUMNS`]; those without a column are
/// not used.
#[derive(Clone, Debug)]
pub(crate) struct Sql {
    /// Postgres: one event, whose writers take turns or need not.
    pub(crate) plain: String,
    /// Postgres: one event, under a lock on its key that is taken before its number is drawn.
    pub(crate) locked: String,
    /// Postgres: one event, numbered within its key.
    pub(crate) sequenced: String,
    /// Postgres: arrays of events.
    pub(crate) many: String,
    /// SQLite: one event.
    pub(crate) sqlite: String,
}

type Columns = BTreeMap<&'static str, String>;

impl Sql {
    pub(super) fn standard(columns: &Columns) -> Self {
        Self::new("outbox.event", "outbox_event", columns, false)
    }

    pub(super) fn new(postgres: &str, sqlite: &str, columns: &Columns, json: bool) -> Self {
        let payload = |value: &str| {
            if json { format!("convert_from({value}, 'UTF8')::jsonb") } else { value.to_owned() }
        };
        let headers = |value: &str| format!("{value}::jsonb");
        let one = |number: &str| {
            vec![
                ("id", "$1".to_owned()),
                ("aggregatetype", "$2".to_owned()),
                ("aggregateid", "$3".to_owned()),
                ("type", "$4".to_owned()),
                ("payload", payload("$5")),
                ("headers", headers("$6")),
                ("tracingspancontext", "$7".to_owned()),
                ("key_seq", number.to_owned()),
            ]
        };
        let unnumbered: Vec<_> = one("").into_iter().filter(|(column, _)| *column != "key_seq").collect();
        let many = ["id", "aggregatetype", "aggregateid", "type", "payload", "headers", "trace"];
        let many: Vec<_> = unnumbered
            .iter()
            .zip(many)
            .map(|((column, _), given)| {
                let value = format!("m.{given}");
                (*column, if *column == "payload" { payload(&value) } else { value })
            })
            .map(|(column, value)| (column, if column == "headers" { headers(&value) } else { value }))
            .collect();
        let insert = |values: &[(&'static str, String)], from: &str| {
            let (names, values) = list(columns, values);
            format!("INSERT INTO {postgres} ({names}) SELECT {values} FROM {from}")
        };
        let (names, values) = list(columns, &unnumbered);
        Self {
            plain: format!("INSERT INTO {postgres} ({names}) VALUES ({values})"),
            // A default is evaluated for a row that the FROM clause has given: so the number is drawn
            // under the lock.
            locked: format!(
                "WITH lock AS MATERIALIZED (\
                     SELECT pg_advisory_xact_lock(hashtextextended($3, hashtext($2))) AS taken) {}",
                insert(&unnumbered, "lock")
            ),
            sequenced: format!(
                "WITH next AS (\
                     INSERT INTO outbox.key AS k (aggregatetype, aggregateid, last_seq) VALUES ($2, $3, 1) \
                     ON CONFLICT (aggregatetype, aggregateid) DO UPDATE SET last_seq = k.last_seq + 1 \
                     RETURNING last_seq) {}",
                insert(&one("next.last_seq"), "next")
            ),
            many: insert(
                &many,
                "unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::text[]) \
                 AS m (id, aggregatetype, aggregateid, type, payload, headers, trace)",
            ),
            sqlite: for_sqlite(sqlite, columns, json),
        }
    }
}

fn for_sqlite(table: &str, columns: &Columns, json: bool) -> String {
    let payload = if json { "CAST(?5 AS TEXT)" } else { "?5" };
    let values = ["?1", "?2", "?3", "?4", payload, "?6", "?7", "?8"].map(str::to_owned);
    let values: Vec<_> = super::outbox::COLUMNS.into_iter().zip(values).collect();
    let (names, values) = list(columns, &values);
    format!("INSERT INTO {table} ({names}) VALUES ({values})")
}

/// The names of the columns that there are, and their values.
fn list(columns: &Columns, values: &[(&'static str, String)]) -> (String, String) {
    let there =
        values.iter().filter_map(|(column, value)| Some((columns.get(column)?.as_str(), value.as_str())));
    let (names, values): (Vec<&str>, Vec<&str>) = there.unzip();
    (names.join(", "), values.join(", "))
}
