//! `verify`: the table against the topics.

use super::Failed;
use super::config::Config;
use super::source::postgres;
use outbox_relay::history::{Differences, compare};
use outbox_relay::sink::kafka::Reader;
use std::process::ExitCode;

/// Differences of a kind that are shown one by one.
const SHOWN: usize = 10;

pub(super) async fn verify(config: &Config, json: bool) -> Result<ExitCode, Failed> {
    let source = postgres(config).await?;
    // The rows first: what is done by then is in the topics when they are read.
    let (written, topics) = source.written(&config.routes).await?;
    let published = Reader::new(config.kafka()).events(&topics).await?;
    let differences = compare(&written, &published, false);
    let due = written.iter().filter(|event| event.due).count();
    if json {
        println!(
            "{}",
            serde_json::json!({
                "rows": written.len(), "due": due, "records": published.len(), "topics": topics,
                "lost": differences.lost.len(), "duplicated": differences.duplicated.len(),
                "reordered": differences.reordered.len(), "strayed": differences.strayed.len(),
            })
        );
    } else {
        println!(
            "{} rows, {due} of them published; {} records in {topics:?}",
            written.len(),
            published.len()
        );
        show(&differences);
    }
    Ok(if differences.is_violation() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn show(differences: &Differences) {
    for event in differences.lost.iter().take(SHOWN) {
        println!("  lost        {} of key {}, seq {}", event.id, event.key, event.place);
    }
    let kinds = [
        ("reordered ", &differences.reordered),
        ("strayed   ", &differences.strayed),
        ("duplicated", &differences.duplicated),
    ];
    for (kind, records) in kinds {
        for record in records.iter().take(SHOWN) {
            let Record { topic, partition, offset } = Record::of(record);
            println!("  {kind}  {} of key {}, at {topic}[{partition}]@{offset}", record.id, record.key);
        }
    }
    println!(
        "lost {}, reordered {} (also if writers of a key did not take turns), strayed {}, duplicated {} (allowed \
         after a crash; inboxes skip them)",
        differences.lost.len(),
        differences.reordered.len(),
        differences.strayed.len(),
        differences.duplicated.len(),
    );
}

struct Record<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
}

impl<'a> Record<'a> {
    fn of(published: &'a outbox_relay::history::Published) -> Self {
        Self { topic: &published.topic, partition: published.partition, offset: published.offset }
    }
}
