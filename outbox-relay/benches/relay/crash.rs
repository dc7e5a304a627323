//! What is published twice if it is killed while it catches up.

use crate::broker::Broker;
use crate::database::Database;
use crate::sidecar::Sidecar;
use crate::{report, setting};
use std::collections::HashSet;

const KILLS: i64 = 4;

pub(crate) async fn measure(database: &Database, broker: &Broker) {
    let rows = setting("BENCH_ROWS", 1_000_000).min(1_000_000);
    database.backlog(rows).await;
    let topic = broker.topic().await;
    for _ in 0..KILLS {
        let mut sidecar = Sidecar::start(database, broker, &topic);
        sidecar.until("outbox_published_total", (rows / (KILLS + 1)) as f64).await;
        sidecar.kill();
        release(database).await;
    }
    let mut sidecar = Sidecar::start(database, broker, &topic);
    sidecar.until("outbox_acknowledgements_total", 1.0).await;
    while database.rows().await > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let found = sidecar.metric("outbox_already_there_total").await.expect("it answers");
    let events = broker.events(&topic).await;
    let distinct: HashSet<_> = events.iter().map(|event| event.id).collect();
    assert_eq!(distinct.len() as i64, rows, "nothing is lost");
    let twice = events.len() - distinct.len();
    let part = format!("{twice} = {:.4} %", twice as f64 / rows as f64 * 100.0);
    report::fact(&format!("published twice of {rows}, {KILLS} kills in mid-drain"), &part);
    report::fact("found in the topic after the last kill, not repeated", &format!("{found}"));
}

/// The lease of a killed relay runs out after its length; nobody waits for that here.
async fn release(database: &Database) {
    let free = "UPDATE outbox.relay SET holder = NULL";
    outbox::sqlx::raw_sql(free).execute(&mut database.connect().await).await.expect("frees the lease");
}
