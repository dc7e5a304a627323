//! What the relay's role may do.

use crate::doctor::Finding;
use crate::error::Result;
use crate::source::postgres::PostgresSource;
use sqlx::Row;

pub(super) async fn examine(source: &PostgresSource, polls: bool) -> Result<Vec<Finding>> {
    let schema = source.table.name.split('.').next().unwrap_or_default();
    let rows = sqlx::query(
        "SELECT 'SCHEMA ' || s AS thing, 'USAGE' AS p FROM (VALUES ('outbox'), ($2)) AS s (s) \
             WHERE NOT coalesce(has_schema_privilege(to_regnamespace(s), 'USAGE'), false) \
         UNION SELECT t, p FROM (VALUES \
             ($1, 'SELECT'), ($1, 'DELETE'), ('outbox.relay', 'SELECT'), ('outbox.relay', 'INSERT'), \
             ('outbox.relay', 'UPDATE'), ('outbox.parked', 'SELECT'), ('outbox.parked', 'INSERT'), \
             ('outbox.parked', 'UPDATE'), ('outbox.parked', 'DELETE'), ('outbox.migration', 'SELECT')) AS needed (t, p) \
             WHERE NOT coalesce(has_table_privilege(to_regclass(t), p), false) AND ($3 OR (t, p) <> ($1, 'DELETE')) \
         ORDER BY 1, 2",
    )
    .persistent(source.named())
    .bind(&source.table.name)
    .bind(schema)
    .bind(polls)
    .fetch_all(&mut *source.session().await?)
    .await?;
    if rows.is_empty() {
        return Ok(vec![Finding::fine("this role has the rights it needs")]);
    }
    rows.iter()
        .map(|row| {
            let (thing, right): (String, String) = (row.try_get("thing")?, row.try_get("p")?);
            Ok(Finding::problem(
                format!("this role lacks {right} on {thing}"),
                format!("GRANT {right} ON {thing} TO the relay's role"),
            ))
        })
        .collect()
}
