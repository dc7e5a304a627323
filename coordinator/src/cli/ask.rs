//! Commands that ask a saga for something.

use std::fmt::Write;
use std::io::{BufRead, IsTerminal};

use clap::Args;
use saga_core::admin::{Admin, Answered, Preview, Reply, Request};
use saga_core::store::Summary;
use saga_core::{MailId, Place};

use super::Said;
use super::args::{Asking, Which, json as read_json, place};
use crate::draw;
use crate::fault::{Exit, Fault};

#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// DEFINITION/ID, or a run id.
    saga: Which,
    /// Only say what would be undone, in which order, and what cannot be.
    #[arg(long)]
    preview: bool,
    #[command(flatten)]
    asking: Asking,
}

impl Cancel {
    pub(super) async fn run(self, admin: &Admin, json: bool) -> Result<Said, Fault> {
        let summary = self.saga.find(admin).await?;
        if self.preview {
            let preview = admin.preview_cancel(summary.run).await?;
            let exit = if preview.accepted { Exit::Yes } else { Exit::No };
            return Ok(Said::either(json, &preview, || previewed(&preview)).exit(exit));
        }
        ask(admin, &summary, &Request::Cancel, &self.asking, json).await
    }
}

#[derive(Debug, Args)]
pub(crate) struct Retry {
    /// DEFINITION/ID, or a run id.
    saga: Which,
    /// The place, as `saga show` names it; by default the one that needs a person or rests.
    #[arg(value_parser = place)]
    at: Option<Place>,
    #[command(flatten)]
    asking: Asking,
}

impl Retry {
    pub(super) async fn run(self, admin: &Admin, json: bool) -> Result<Said, Fault> {
        let summary = self.saga.find(admin).await?;
        let at = match self.at {
            Some(at) => at,
            None => the_stuck_place(admin, &summary).await?,
        };
        ask(admin, &summary, &Request::Retry { at }, &self.asking, json).await
    }
}

/// The one place that needs a person; where none does, the one that rests until its next attempt.
async fn the_stuck_place(admin: &Admin, summary: &Summary) -> Result<Place, Fault> {
    let view = admin.view(summary.run).await?;
    let mut places: Vec<Place> = view.stuck().map(|item| item.at.clone()).collect();
    if places.is_empty() {
        let items = view.steps.iter().flat_map(|step| &step.items);
        places.extend(items.filter(|item| item.verbs.contains(&"retry")).map(|item| item.at.clone()));
    }
    match places.as_slice() {
        [only] => Ok(only.clone()),
        [] => {
            let saga = format!("{}/{}", summary.definition, draw::clean(&summary.saga));
            let message = format!("{saga} is {}: there is nothing to retry", summary.state.as_str());
            Err(Fault::new(Exit::No, message))
        }
        several => {
            let names: Vec<_> = several.iter().map(Place::as_str).collect();
            Err(Fault::usage(format!("which place? There are several: {}", names.join(", "))))
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Skip {
    /// DEFINITION/ID, or a run id.
    saga: Which,
    /// The place, as `saga show` names it.
    #[arg(value_parser = place)]
    at: Place,
    /// Do not ask whether you mean it.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    asking: Asking,
}

impl Skip {
    pub(super) async fn run(self, admin: &Admin, json: bool) -> Result<Said, Fault> {
        let summary = self.saga.find(admin).await?;
        let warning = format!("the effect of {} stays in the world, and no saga will ever undo it", self.at);
        confirm(self.yes, &warning)?;
        ask(admin, &summary, &Request::Skip { at: self.at }, &self.asking, json).await
    }
}

#[derive(Debug, Args)]
pub(crate) struct Resolve {
    /// DEFINITION/ID, or a run id.
    saga: Which,
    /// The place, as `saga show` names it.
    #[arg(value_parser = place)]
    at: Place,
    /// What the step would have given: JSON, @FILE, or - for standard input. The steps that follow read
    /// it. For a compensation that was done by hand it says nothing.
    #[arg(long, default_value = "null", value_name = "JSON")]
    output: String,
    #[command(flatten)]
    asking: Asking,
}

impl Resolve {
    pub(super) async fn run(self, admin: &Admin, json: bool) -> Result<Said, Fault> {
        let output = read_json(&self.output)?;
        let summary = self.saga.find(admin).await?;
        ask(admin, &summary, &Request::Resolve { at: self.at, output }, &self.asking, json).await
    }
}

#[derive(Debug, Args)]
pub(crate) struct Abandon {
    /// DEFINITION/ID, or a run id.
    saga: Which,
    /// Do not ask whether you mean it.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    asking: Asking,
}

impl Abandon {
    pub(super) async fn run(self, admin: &Admin, json: bool) -> Result<Said, Fault> {
        let summary = self.saga.find(admin).await?;
        let saga = format!("{}/{}", summary.definition, draw::clean(&summary.saga));
        confirm(self.yes, &format!("{saga} ends as it stands: what it did stays, and nothing is undone"))?;
        ask(admin, &summary, &Request::Abandon, &self.asking, json).await
    }
}

/// Asks whether it is meant; a program has to say --yes.
fn confirm(yes: bool, warning: &str) -> Result<(), Fault> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Fault::usage(format!("{warning}; say --yes if you mean it")));
    }
    eprint!("{warning}. Go on? [y/N] ");
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Fault::new(Exit::No, "nothing was asked"))
}

async fn ask(
    admin: &Admin,
    summary: &Summary,
    request: &Request,
    asking: &Asking,
    json: bool,
) -> Result<Said, Fault> {
    let reply = admin.request(summary.run, MailId::new(), request, &asking.by()?, asking.wait).await?;
    let said = Said::either(json, &reply, || format!("{}\n", answer(&reply, summary)));
    Ok(said.exit(exit(&reply.answered)))
}

pub(super) fn exit(answered: &Answered) -> Exit {
    match answered {
        Answered::Accepted => Exit::Yes,
        Answered::TooLate | Answered::Refused { .. } | Answered::Ended { .. } => Exit::No,
        Answered::Unanswered => Exit::Unanswered,
    }
}

fn answer(reply: &Reply, summary: &Summary) -> String {
    let version = format!("{} version {}", summary.definition, summary.version);
    match &reply.answered {
        Answered::Accepted => "accepted".into(),
        Answered::TooLate => "too late: the pivot has begun, or the saga undoes what it did already".into(),
        Answered::Refused { why } => format!("refused: {}", draw::clean(why)),
        Answered::Ended { end } => format!("the saga has ended ({end}); the request changed nothing"),
        Answered::Unanswered => {
            format!("no answer yet: the request is kept until a worker that has {version} reads it")
        }
    }
}

fn previewed(preview: &Preview) -> String {
    let mut text = String::new();
    if !preview.accepted {
        let why = preview.why.as_deref().unwrap_or("it is too late");
        return format!("a cancel would be refused: {}\n", draw::clean(why));
    }
    for doubt in &preview.in_doubt {
        let _ = writeln!(
            text,
            "first   {} is settled by its {}: it may have taken effect",
            doubt.at, doubt.settled_by
        );
    }
    if let Some(waits) = preview.waits {
        let _ = writeln!(text, "wait    until {} for a next attempt", waits.format("%Y-%m-%d %H:%M:%SZ"));
    }
    for (wave, places) in preview.undone.iter().enumerate() {
        for undone in places {
            let only = if undone.if_it_happened { ", if it happened" } else { "" };
            let _ = writeln!(text, "{:<7} undo {}{only}", wave + 1, undone.at);
        }
    }
    if preview.undone.is_empty() {
        text.push_str("nothing has to be undone\n");
    }
    for stays in &preview.stays {
        let _ = writeln!(text, "stays   {}: {}", stays.at, draw::clean(&stays.why));
    }
    match (&preview.blocks, preview.end) {
        (Some(blocks), _) => {
            let failure = draw::clean(blocks.failure.message());
            let _ = writeln!(text, "then    it needs a person at {}: {}: {failure}", blocks.at, blocks.cause);
        }
        (None, Some(end)) => {
            let _ = writeln!(text, "then    it is {}", draw::words(end.as_str()));
        }
        (None, None) => {}
    }
    text
}
