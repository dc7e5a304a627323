//! `doctor`: what is wrong, and what to do.

use super::Failed;
use super::config::Config;
use super::source::{Kind, kind, open, postgres};
use outbox_relay::doctor::{Finding, Severity};
use outbox_relay::sink::kafka::Reader;
use std::process::ExitCode;

pub(super) async fn doctor(config: &Config) -> Result<ExitCode, Failed> {
    let mut findings = match kind(config)? {
        Kind::Postgres(_) => match postgres(config).await {
            Ok(source) => source.examine().await,
            Err(error) => {
                vec![Finding::problem(error.to_string(), "check source.url and that the server is up")]
            }
        },
        Kind::Sqlite(path) => vec![sqlite(config, path).await],
    };
    findings.extend(Reader::new(config.kafka()).examine().await);
    for finding in &findings {
        println!("{finding}");
    }
    let worst = findings.iter().map(|finding| finding.severity).max();
    Ok(if worst == Some(Severity::Problem) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
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
