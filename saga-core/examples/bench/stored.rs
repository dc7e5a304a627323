//! Sagas that are there already: what has ended, and what waits, must cost the others nothing.

use std::error::Error;

use saga_core::id::Fingerprint;
use sqlx::Connection;
use sqlx::postgres::PgConnection;

/// Rows of one statement.
const CHUNK: u64 = 100_000;

/// About what the four commits of one saga of this benchmark take.
const BODY: &str = r#"[{"finished":{"at":"one","effect":"action","outcome":{"ok":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}}},{"started":{"at":"two","effect":"action","attempt":1}}]"#;

/// How many of each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    pub(crate) finished: u64,
    pub(crate) waiting: u64,
}

/// The statements that insert sagas `$1 < n <= $2` as the engine would have left them, oldest first.
const FINISHED: [&str; 2] = [
    "INSERT INTO saga.start (run, definition, version, fingerprint, saga, digest, ended, ended_at)
     SELECT (lpad(to_hex(n), 12, '0') || '70008000000000000000')::uuid, 'bench', 1, $3, 'finished-' || n,
         decode(repeat('00', 32), 'hex'), 'completed', now()
     FROM generate_series($1::bigint + 1, $2::bigint) n",
    "INSERT INTO saga.journal (run, number, body)
     SELECT (lpad(to_hex(n), 12, '0') || '70008000000000000000')::uuid, number, $3
     FROM generate_series($1::bigint + 1, $2::bigint) n CROSS JOIN generate_series(0, 3) number
     ORDER BY n, number",
];
const WAITING: [&str; 3] = [
    "INSERT INTO saga.start (run, definition, version, fingerprint, saga, digest)
     SELECT (lpad(to_hex(n), 12, '0') || '70009000000000000000')::uuid, 'bench', 1, $3, 'waiting-' || n,
         decode(repeat('00', 32), 'hex')
     FROM generate_series($1::bigint + 1, $2::bigint) n",
    "INSERT INTO saga.live (run, fingerprint, state, due)
     SELECT (lpad(to_hex(n), 12, '0') || '70009000000000000000')::uuid, $3, 'waiting', now() + interval '1 day'
     FROM generate_series($1::bigint + 1, $2::bigint) n",
    "INSERT INTO saga.journal (run, number, body)
     SELECT (lpad(to_hex(n), 12, '0') || '70009000000000000000')::uuid, number, $3
     FROM generate_series($1::bigint + 1, $2::bigint) n CROSS JOIN generate_series(0, 1) number
     ORDER BY n, number",
];

/// Puts them into an empty Postgres, telling how far it is, and lets the planner know.
pub(crate) async fn fill(url: &str, stored: Stored, fingerprint: Fingerprint) -> Result<(), Box<dyn Error>> {
    if stored.finished + stored.waiting == 0 {
        return Ok(());
    }
    if !url.starts_with("postgres") {
        return Err("--finished and --waiting need a Postgres".into());
    }
    let mut connection = PgConnection::connect(url).await?;
    insert(&mut connection, "finished", &FINISHED, stored.finished, fingerprint).await?;
    insert(&mut connection, "waiting", &WAITING, stored.waiting, fingerprint).await?;
    for text in ["VACUUM (ANALYZE) saga.start, saga.live, saga.journal", "CHECKPOINT"] {
        sqlx::raw_sql(text).execute(&mut connection).await?;
    }
    Ok(())
}

async fn insert(
    connection: &mut PgConnection,
    what: &str,
    statements: &[&'static str],
    count: u64,
    fingerprint: Fingerprint,
) -> Result<(), Box<dyn Error>> {
    let mut done = 0;
    while done < count {
        let upto = (done + CHUNK).min(count);
        for &text in statements {
            let statement = sqlx::query(text).bind(i64::try_from(done)?).bind(i64::try_from(upto)?);
            let statement =
                if text.contains("journal") { statement.bind(BODY) } else { statement.bind(fingerprint.0) };
            statement.execute(&mut *connection).await?;
        }
        done = upto;
        if done % (10 * CHUNK) == 0 || done == count {
            eprintln!("stored: {done} of {count} {what} sagas");
        }
    }
    Ok(())
}
