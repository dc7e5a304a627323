//! What needs a person, and asking many at once.

use std::fmt::Write;

use chrono::Utc;
use clap::{Args, Subcommand};
use saga_core::Name;
use saga_core::admin::{Admin, Answered, Bulk};
use serde_json::json;

use super::Said;
use super::args::Asking;
use super::look::name;
use crate::draw::{self, Table};
use crate::fault::{Exit, Fault};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Blocked {
    /// Only this definition.
    #[arg(long, value_parser = name)]
    definition: Option<Name>,
    /// List every saga below its group.
    #[arg(long)]
    all: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask every saga of a group to try again.
    Retry(Retry),
}

#[derive(Debug, Args)]
struct Retry {
    /// The group's id, as `saga blocked` shows it.
    group: String,
    /// Only say which sagas would be asked.
    #[arg(long)]
    dry_run: bool,
    /// Only so many, the longest blocked first: see how a few fare before you ask all.
    #[arg(long, value_name = "NUMBER")]
    limit: Option<usize>,
    #[command(flatten)]
    asking: Asking,
}

impl Blocked {
    pub(super) async fn run(self, admin: &Admin, json: bool) -> Result<Said, Fault> {
        if let Some(Command::Retry(retry)) = self.command {
            return retry.run(admin, json).await;
        }
        let blocked = admin.blocked(self.definition.as_ref()).await?;
        let groups = blocked.groups();
        let said = json!({ "groups": groups, "runs": blocked.runs, "complete": blocked.complete });
        Ok(Said::either(json, &said, || {
            if groups.is_empty() {
                return "nothing needs a person\n".into();
            }
            let mut text = String::new();
            for group in &groups {
                let age = draw::since(group.first, Utc::now());
                let sagas = if group.runs == 1 { "saga" } else { "sagas" };
                let _ = writeln!(
                    text,
                    "{}  {} {sagas} at {}/{} for up to {age}\n            {}: {}",
                    group.id,
                    group.runs,
                    group.definition,
                    group.step,
                    group.cause,
                    draw::clean(&group.example),
                );
                for run in blocked.runs.iter().filter(|run| self.all && run.group == group.id) {
                    let saga = draw::clean(&run.summary.saga);
                    let age = draw::since(run.stuck.since, Utc::now());
                    let _ = writeln!(
                        text,
                        "            {}/{saga} at {} for {age}",
                        run.summary.definition, run.stuck.at
                    );
                }
            }
            if !blocked.complete {
                text.push_str("there are more: only the newest were looked at\n");
            }
            text
        }))
    }
}

impl Retry {
    async fn run(self, admin: &Admin, json: bool) -> Result<Said, Fault> {
        let (by, wait) = (self.asking.by()?, self.asking.wait);
        let bulk = admin.retry_group(&self.group, self.limit, &by, self.dry_run, wait).await?;
        let exit = if bulk.dry_run { Exit::Yes } else { exit(&bulk) };
        Ok(Said::either(json, &bulk, || told(&bulk)).exit(exit))
    }
}

/// Yes only if every saga said yes.
fn exit(bulk: &Bulk) -> Exit {
    let each = bulk.runs.iter().map(|run| run.answered.as_ref().map_or(Exit::Store, super::ask::exit));
    each.max_by_key(|exit| *exit as u8).unwrap_or(Exit::Yes)
}

fn told(bulk: &Bulk) -> String {
    let mut table = Table::new(["SAGA", "AT", "ANSWER"]);
    for run in &bulk.runs {
        let answer = match (&run.answered, &run.error) {
            (_, Some(error)) => error.clone(),
            (None, None) => "would be retried".into(),
            (Some(Answered::Refused { why }), _) => format!("refused: {}", draw::clean(why)),
            (Some(Answered::Ended { end }), _) => format!("has ended: {end}"),
            (Some(Answered::TooLate), _) => "too late".into(),
            (Some(Answered::Unanswered), _) => "no answer yet".into(),
            (Some(Answered::Accepted), _) => "accepted".into(),
        };
        table.row([draw::clean(&run.saga), run.at.to_string(), answer]);
    }
    let of = bulk.group.runs;
    let count = bulk.runs.len();
    let verb = if bulk.dry_run { "would be asked; nothing was" } else { "asked" };
    format!("{table}{count} of {of} {verb}\n")
}
