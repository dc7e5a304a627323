//! Many rows in few statements.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, Sqlite, SqliteConnection};

use super::error::failed;
use crate::store::error::Result;

/// A statement that is being given its values.
pub(super) type Binding = Query<'static, Sqlite, SqliteArguments>;

/// The most rows in one statement: 256 rows of 8 columns are well below SQLite's 32766 parameters.
const ROWS_MAX: usize = 256;

/// A table to insert into: the statement's head and how many columns it names.
#[derive(Clone, Copy)]
pub(super) struct Into {
    /// `INSERT … INTO table (columns) VALUES `.
    pub(super) head: &'static str,
    /// How many columns.
    pub(super) columns: usize,
}

/// Inserts rows, in statements of 256, 128, … 1 of them: nine texts per table, each parsed once and kept
/// by the connection, however large the batches are.
pub(super) async fn insert<T>(
    tx: &mut SqliteConnection,
    into: Into,
    rows: &[T],
    bind: impl Fn(Binding, &T) -> Binding + Send,
) -> Result<u64>
where
    T: Sync,
{
    let mut inserted = 0;
    let mut rest = rows;
    while !rest.is_empty() {
        let count = (1 << rest.len().ilog2()).min(ROWS_MAX);
        let (now, later) = rest.split_at(count);
        let mut query = sqlx::query(AssertSqlSafe(text(into, count)));
        for row in now {
            query = bind(query, row);
        }
        inserted += query.execute(&mut *tx).await.map_err(failed)?.rows_affected();
        rest = later;
    }
    Ok(inserted)
}

/// `head (?,?),(?,?)…`, built once. Only our own constant text goes into it.
fn text(into: Into, rows: usize) -> Arc<str> {
    type Texts = Mutex<HashMap<(&'static str, usize), Arc<str>>>;
    static TEXTS: LazyLock<Texts> = LazyLock::new(Mutex::default);
    let mut texts = TEXTS.lock().expect("nothing panics while it holds the texts");
    let text = texts.entry((into.head, rows)).or_insert_with(|| {
        let row = format!("({})", vec!["?"; into.columns].join(","));
        format!("{}{}", into.head, vec![row; rows].join(",")).into()
    });
    text.clone()
}

/// Ids as a JSON array of hexadecimal strings: one parameter, however many there are. Read with
/// `SELECT unhex(value) FROM json_each(?)`.
pub(super) fn ids(ids: impl IntoIterator<Item = uuid::Uuid>) -> String {
    let mut text = String::from("[");
    for id in ids {
        if text.len() > 1 {
            text.push(',');
        }
        text.push('"');
        text.push_str(id.simple().encode_lower(&mut [0; 32]));
        text.push('"');
    }
    text.push(']');
    text
}
