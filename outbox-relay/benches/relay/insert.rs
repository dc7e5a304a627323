//! What an event costs the transaction that writes it.

use crate::database::Database;
use crate::{report, setting};
use outbox::Message;
use outbox::sqlx::{self, Connection as _};
use std::time::{Duration, Instant};

const WRITERS: i64 = 16;

/// What the transaction does beside its business.
#[derive(Clone, Copy, PartialEq)]
enum Event {
    None,
    Plain,
    Serialized,
    Sequenced,
}

pub(crate) async fn measure(database: &Database) {
    database.empty().await;
    let table = "DROP TABLE IF EXISTS business; CREATE TABLE business (id bigint PRIMARY KEY, n bigint); \
         INSERT INTO business SELECT i, 0 FROM generate_series(0, 99999) AS i";
    sqlx::raw_sql(table).execute(&mut database.connect().await).await.expect("makes a table");
    transactions(database, Event::None).await; // warms up
    let bare = transactions(database, Event::None).await;
    report::limit(&format!("transactions of one update, {WRITERS} writers"), bare);
    let events = [
        ("with an event", Event::Plain),
        ("with an event under its key's lock", Event::Serialized),
        ("with a numbered event", Event::Sequenced),
    ];
    for (what, event) in events {
        report::rate(what, transactions(database, event).await, bare, "those");
    }
}

async fn transactions(database: &Database, event: Event) -> f64 {
    let begin = Instant::now();
    let until = begin + Duration::from_secs(setting("BENCH_SECONDS", 10).unsigned_abs() / 2);
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let url = database.url().to_owned();
            tokio::spawn(async move {
                let mut connection = sqlx::PgConnection::connect(&url).await.expect("connects");
                let mut count = 0;
                while Instant::now() < until {
                    one(&mut connection, (count * 7_919 * WRITERS + writer) % 100_000, event).await;
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut all = 0;
    for writer in writers {
        all += writer.await.expect("does not panic");
    }
    all as f64 / begin.elapsed().as_secs_f64()
}

async fn one(connection: &mut sqlx::PgConnection, id: i64, event: Event) {
    let mut tx = connection.begin().await.expect("begins");
    sqlx::query("UPDATE business SET n = n + 1 WHERE id = $1")
        .bind(id)
        .execute(&mut *tx)
        .await
        .expect("updates");
    let message = Message::new("order", id, "Placed").payload([b'x'; 200]);
    let message = match event {
        Event::None => None,
        Event::Plain => Some(message),
        Event::Serialized => Some(message.serialized()),
        Event::Sequenced => Some(message.sequenced()),
    };
    if let Some(message) = message {
        outbox::enqueue(&mut *tx, message).await.expect("enqueues");
    }
    tx.commit().await.expect("commits");
}
