//! `doctor`: what is wrong, and what to do.

use super::Failed;
use super::config::Config;
use super::source::{Kind, kind, open, postgres};
use outbox_relay::doctor::{Finding, Severity};
use outbox_relay::sink::kafka::Reader;
use std::collections::BTreeSet;
use std::process::ExitCode;

pub(super) async fn doctor(config: &Config) -> Result<ExitCode, Failed> {
    let mut topics = known_topics(config);
    let mut findings = match kind(config)? {
        Kind::Postgres(_) => match postgres(config).await {
            Ok(source) => {
                topics.extend(source.topics(&config.routes).await.unwrap_or_default());
                source.examine().await
            }
            Err(error) => {
                vec![Finding::problem(error.to_string(), "check source.url and that the server is up")]
            }
        },
        Kind::Sqlite(path) => vec![sqlite(config, path).await],
    };
    let topics: Vec<String> = topics.into_iter().collect();
    findings.extend(Reader::new(config.kafka()).examine(&topics).await);
    for finding in &findings {
        println!("{finding}");
    }
    let worst = findings.iter().map(|finding| finding.severity).max();
    Ok(if worst == Some(Severity::Problem) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The topics that the routes name, whatever is in the table.
fn known_topics(config: &Config) -> BTreeSet<String> {
    let routes = &config.routes;
    let mut topics: BTreeSet<String> =
        routes.by_aggregate_type.keys().filter_map(|kind| routes.topic_of(kind).ok()).collect();
    if !routes.topic.contains('{') {
        topics.insert(routes.topic.clone());
    }
    topics
}

async fn sqlite(config: &Config, path: &str) -> Finding {
    let prepared = match open(config).await {
        Ok(source) => source.prepare().await.map_err(Failed::from),
        Err(error) => Err(error),
    };
    match prepared {
        Ok(()) => Finding::fine(format!("the outbox tables are in {path}")),
        Err(error) => Finding::problem(error.to_string(), "check the path; run `outbox-relay migrate`"),
    }
}
