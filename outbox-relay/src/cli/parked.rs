//! `parked`: events that were set aside.

use super::Failed;
use super::config::Config;
use super::source::open;
use clap::{Args, Subcommand};
use outbox_relay::{Decision, Key};
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub(super) enum ParkedVerb {
    /// Show them, and why they were set aside.
    List {
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Publish them, in order, before later events of their key.
    Release(Which),
    /// Never publish them; later events of their key are published again.
    Drop(Which),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Which {
    /// The key, AGGREGATETYPE/AGGREGATEID, as `list` shows it.
    #[arg(long)]
    key: Option<String>,
    /// All keys.
    #[arg(long)]
    all: bool,
}

pub(super) async fn parked(config: &Config, verb: ParkedVerb) -> Result<ExitCode, Failed> {
    let source = open(config).await?;
    source.prepare().await?;
    match verb {
        ParkedVerb::List { limit } => {
            let list = source.list_parked(limit).await?;
            for event in &list {
                let state = if event.released { "released" } else { "parked" };
                let park = &event.park;
                println!("{state}  seq {}  {}  {}  {}", park.seq, park.id, park.key, park.reason);
            }
            if list.is_empty() {
                println!("nothing is parked");
            }
        }
        ParkedVerb::Release(which) => {
            let count = source.decide(which.key()?.as_ref(), Decision::Release).await?;
            println!("{count} events released; the running relay publishes them");
        }
        ParkedVerb::Drop(which) => {
            let count = source.decide(which.key()?.as_ref(), Decision::Drop).await?;
            println!("{count} events dropped; they are never published");
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Which {
    fn key(&self) -> Result<Option<Key>, Failed> {
        let Some(text) = &self.key else { return Ok(None) };
        let (aggregate_type, aggregate_id) = text.split_once('/').ok_or_else(|| {
            format!("{text:?} is no key: write AGGREGATETYPE/AGGREGATEID, as `parked list` shows it")
        })?;
        Ok(Some(Key { aggregate_type: aggregate_type.to_owned(), aggregate_id: aggregate_id.to_owned() }))
    }
}
