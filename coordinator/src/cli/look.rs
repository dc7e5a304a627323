//! Commands that only look.

use std::fmt::Write;
use std::time::Duration;

use chrono::Utc;
use clap::Args;
use saga_core::ErrorId;
use saga_core::admin::{Admin, Wanted, tell};
use saga_core::store::{State, Summary};
use saga_core::{Name, RunId};

use super::args::{Which, age, attribute, attributes};
use super::{Said, to_json};
use crate::draw::{self, Table};
use crate::fault::Fault;

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only this state: running, queued, waiting, blocked, completed, compensated or partially_compensated.
    #[arg(long, value_parser = state)]
    state: Option<State>,
    /// Only this definition.
    #[arg(long, value_parser = name)]
    definition: Option<Name>,
    /// Only sagas that have been in their state for at least this time: 90s, 15m, 2h, 3d.
    #[arg(long, value_parser = age, value_name = "TIME")]
    older_than: Option<Duration>,
    /// Only sagas whose id has this in it.
    #[arg(long, value_name = "TEXT")]
    id: Option<String>,
    /// Only sagas with this attribute; may be given several times.
    #[arg(long, value_parser = attribute, value_name = "NAME=VALUE")]
    attribute: Vec<(String, String)>,
    /// Only sagas in flight that suffer from this error, whether it is tried again or waits for a person: its
    /// fingerprint, as `saga list` and `saga blocked` show it.
    #[arg(long, value_name = "GROUP")]
    error: Option<ErrorId>,
    /// At most so many.
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Only sagas started before this run: where the list before ended.
    #[arg(long, value_name = "RUN")]
    before: Option<RunId>,
}

fn state(text: &str) -> Result<State, String> {
    State::from_name(text).ok_or_else(|| {
        "states are running, queued, waiting, blocked, completed, compensated and partially_compensated"
            .into()
    })
}

pub(super) fn name(text: &str) -> Result<Name, String> {
    Name::new(text).map_err(|bad| bad.to_string())
}

impl List {
    pub(super) async fn run(self, admin: &Admin, json: bool) -> Result<Said, Fault> {
        let wanted = Wanted {
            definition: self.definition,
            state: self.state,
            attributes: attributes(&self.attribute)?,
            error: self.error,
            older_than: self.older_than,
            saga: self.id,
            before: self.before,
            limit: self.limit,
        };
        let page = admin.list(&wanted).await?;
        Ok(Said::either(json, &page, || {
            let mut text = runs(&page.runs);
            if let Some(next) = page.next {
                let _ = writeln!(text, "there may be more: --before {next}");
            }
            text
        }))
    }
}

fn runs(runs: &[Summary]) -> String {
    if runs.is_empty() {
        return "no such sagas\n".into();
    }
    let mut table = Table::new(["STATE", "SAGA", "VERSION", "FOR", "RUN", ""]);
    for run in runs {
        table.row([
            draw::state(run.state),
            format!("{}/{}", run.definition, draw::clean(&run.saga)),
            run.version.to_string(),
            draw::since(run.since, Utc::now()),
            run.run.to_string(),
            beside(run),
        ]);
    }
    table.to_string()
}

/// What else there is to know at a glance.
fn beside(run: &Summary) -> String {
    let mut parts = Vec::new();
    parts.extend(run.key.as_ref().map(|key| format!("key {}", draw::clean(key.as_str()))));
    parts.extend(run.key_held_by.map(|holder| format!("held by {holder}")));
    parts.extend(run.error.map(|error| format!("error {error}")));
    parts.extend((!run.priority.is_normal()).then(|| format!("{} priority", run.priority.as_str())));
    parts.extend((!run.attributes.is_empty()).then(|| draw::clean(&run.attributes.to_string())));
    parts.join(", ")
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// DEFINITION/ID, or a run id.
    saga: Which,
    /// Show inputs and outputs too: they hold what customers told the service.
    #[arg(long)]
    payloads: bool,
}

impl Show {
    pub(super) async fn run(self, admin: &Admin, json: bool) -> Result<Said, Fault> {
        let view = admin.view(self.saga.find(admin).await?.run).await?;
        let view = if self.payloads { view } else { view.without_payloads() };
        Ok(Said::either(json, &view, || draw::saga(&view, Utc::now())))
    }
}

#[derive(Debug, Args)]
pub(crate) struct Journal {
    /// DEFINITION/ID, or a run id.
    saga: Which,
}

impl Journal {
    pub(super) async fn run(self, admin: &Admin, json: bool) -> Result<Said, Fault> {
        let entries = admin.journal(self.saga.find(admin).await?.run).await?;
        let mut text = String::new();
        for entry in &entries {
            if json {
                let _ = writeln!(text, "{}", entry.to_line());
                continue;
            }
            for record in &entry.records {
                let told = tell(record);
                let at = told.at.map(|at| format!("{at}: ")).unwrap_or_default();
                let when = entry.at.format("%Y-%m-%d %H:%M:%S%.3fZ");
                let _ = writeln!(text, "{when}  {:>4}  {at}{}", entry.number, draw::clean(&told.text));
            }
        }
        Ok(Said::yes(text))
    }
}

pub(super) async fn workers(admin: &Admin, json: bool) -> Result<Said, Fault> {
    let mut workers = admin.workers().await?;
    workers.sort_by_key(|worker| worker.joined_at);
    Ok(Said::either(json, &workers, || {
        if workers.is_empty() {
            return "no worker is alive: nothing is driven until one starts\n".into();
        }
        let mut table = Table::new(["WORKER", "LABEL", "SAGAS", "RENEWED", "JOINED"]);
        for worker in &workers {
            let renewed = format!("{} ago", draw::since(worker.renewed_at, Utc::now()));
            table.row([
                worker.id.to_string(),
                draw::clean(&worker.label),
                worker.sagas.to_string(),
                if worker.fenced { "fenced, not drained yet".into() } else { renewed },
                worker.joined_at.format("%Y-%m-%d %H:%M:%SZ").to_string(),
            ]);
        }
        table.to_string()
    }))
}

pub(super) async fn definitions(admin: &Admin, json: bool) -> Result<Said, Fault> {
    let definitions = admin.definitions().await?;
    Ok(Said::either(json, &definitions, || {
        if definitions.is_empty() {
            return "no worker has registered a definition yet\n".into();
        }
        let mut table =
            Table::new(["DEFINITION", "VERSION", "STEPS", "RUNNING", "QUEUED", "WAITING", "BLOCKED", "NOTE"]);
        for d in &definitions {
            let note = d.overdue.as_ref().map(|waiting| {
                let since = draw::since(waiting.since, Utc::now());
                format!("{} overdue for {since}: {}", waiting.runs, waiting.why)
            });
            table.row([
                d.name.to_string(),
                d.version.to_string(),
                d.steps.len().to_string(),
                d.running.to_string(),
                d.queued.to_string(),
                d.waiting.to_string(),
                d.blocked.to_string(),
                note.unwrap_or_else(|| if d.registered { String::new() } else { "not registered".into() }),
            ]);
        }
        table.to_string()
    }))
}

pub(super) async fn counts(admin: &Admin, json: bool) -> Result<Said, Fault> {
    let counts = admin.counts().await?;
    if json {
        return Ok(Said::yes(to_json(&counts)));
    }
    if counts.is_empty() {
        return Ok(Said::yes("no sagas\n".into()));
    }
    let mut table = Table::new(["DEFINITION", "STATE", "SAGAS"]);
    for count in &counts {
        table.row([count.definition.to_string(), draw::state(count.state), count.runs.to_string()]);
    }
    Ok(Said::yes(table.to_string()))
}
