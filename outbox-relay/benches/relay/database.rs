//! The Postgres whose outbox is read.

use crate::setting;
use futures::TryStreamExt as _;
use outbox::sqlx::{self, AssertSqlSafe, Connection as _, PgConnection, Row as _};
use std::process::{Command, Stdio};
use std::time::Instant;
use tests::servers::Postgres;

/// A server, and one database in it.
pub(crate) struct Database {
    _server: Postgres,
    url: String,
}

impl Database {
    pub(crate) async fn start() -> Self {
        // Frozen relays must not be thrown out, and a checkpoint must not fall into one part by chance.
        let settings = [
            ("wal_sender_timeout", "0"),
            ("shared_buffers", "256MB"),
            ("max_wal_size", "8GB"),
            ("checkpoint_timeout", "1h"),
        ];
        let server = Postgres::start_with(&settings).await;
        Self { url: server.url(), _server: server }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.expect("connects")
    }

    /// The outbox's tables, empty.
    pub(crate) async fn empty(&self) {
        let mut db = self.connect().await;
        sqlx::raw_sql("DROP SCHEMA IF EXISTS outbox CASCADE").execute(&mut db).await.expect("drops");
        outbox::migrate(&mut db).await.expect("migrates");
    }

    /// Commits events in transactions of so many rows, in the server, so that no client is the limit.
    pub(crate) async fn insert(&self, rows: i64, rows_per_transaction: i64) {
        let keys = setting("BENCH_KEYS", 10_000);
        let mut db = self.connect().await;
        let insert = format!(
            "DO $$ BEGIN FOR start IN 0..{rows} - 1 BY {rows_per_transaction} LOOP \
                 INSERT INTO outbox.event (id, aggregatetype, aggregateid, type, payload) \
                 SELECT gen_random_uuid(), 'order', (i % {keys})::text, 'Placed', \
                     convert_to(repeat('x', 200), 'UTF8') \
                 FROM generate_series(start, least(start + {rows_per_transaction}, {rows}) - 1) AS i; \
                 COMMIT; \
             END LOOP; END $$"
        );
        sqlx::raw_sql("SET synchronous_commit = off").execute(&mut db).await.expect("sets");
        sqlx::raw_sql(AssertSqlSafe(insert)).execute(&mut db).await.expect("fills");
    }

    /// A backlog, as it lies there after some time.
    pub(crate) async fn backlog(&self, rows: i64) {
        self.empty().await;
        self.insert(rows, 10_000).await;
        let mut db = self.connect().await;
        for settle in ["VACUUM ANALYZE outbox.event", "CHECKPOINT"] {
            sqlx::raw_sql(settle).execute(&mut db).await.expect("settles");
        }
    }

    /// Rows a second that one cursor over the table gives.
    pub(crate) async fn cursor(&self, rows: i64) -> f64 {
        let mut db = self.connect().await;
        let begin = Instant::now();
        let sql = "SELECT seq, id, aggregatetype, aggregateid, type, payload FROM outbox.event ORDER BY seq";
        let mut stream = sqlx::query(sql).fetch(&mut db);
        let mut bytes = 0;
        while let Some(row) = stream.try_next().await.expect("reads") {
            bytes += row.get::<&[u8], _>("payload").len();
        }
        assert!(bytes > 0, "there are rows");
        rows as f64 / begin.elapsed().as_secs_f64()
    }

    /// A slot from here on, for [`Self::recvlogical`].
    pub(crate) async fn slot(&self) -> String {
        let mut db = self.connect().await;
        let publish = "CREATE PUBLICATION bench FOR TABLE outbox.event WITH (publish = 'insert')";
        sqlx::raw_sql(publish).execute(&mut db).await.expect("publishes");
        let create = "SELECT pg_create_logical_replication_slot('bench', 'pgoutput')";
        sqlx::raw_sql(create).execute(&mut db).await.expect("makes a slot");
        "bench".into()
    }

    /// Rows a second that `pg_recvlogical` takes from the slot, writing them nowhere.
    pub(crate) async fn recvlogical(&self, slot: &str, rows: i64) -> f64 {
        let mut db = self.connect().await;
        let end: String =
            sqlx::query_scalar("SELECT pg_current_wal_lsn()::text").fetch_one(&mut db).await.expect("asks");
        let program = Postgres::program("pg_recvlogical");
        let begin = Instant::now();
        let read = tokio::task::spawn_blocking({
            let (url, slot) = (self.url.clone(), slot.to_owned());
            move || {
                Command::new(program)
                    .args(["--dbname", &url, "--slot", &slot, "--start", "--no-loop", "--file", "/dev/null"])
                    .args(["--endpos", &end, "-o", "proto_version=1", "-o", "publication_names=bench"])
                    .stdout(Stdio::null())
                    .status()
                    .expect("pg_recvlogical can be started")
            }
        });
        assert!(read.await.expect("does not panic").success(), "pg_recvlogical fails");
        let rate = rows as f64 / begin.elapsed().as_secs_f64();
        let drop = "SELECT pg_drop_replication_slot('bench'); DROP PUBLICATION bench";
        sqlx::raw_sql(drop).execute(&mut db).await.expect("drops");
        rate
    }

    /// Rows that are not removed yet.
    pub(crate) async fn rows(&self) -> i64 {
        let mut db = self.connect().await;
        sqlx::query_scalar("SELECT count(*) FROM outbox.event").fetch_one(&mut db).await.expect("counts")
    }
}
