//! Sagas whose journal does not fit their plan: written by a newer version of this crate, or damaged.
//!
//! Nothing may be driven from such a journal, and nobody can be asked to fix it by code that cannot read it. So
//! the saga is blocked, with the cause beside it, and owned by nobody: no worker holds it, none claims it again
//! and again, and whoever deploys code that reads the journal has it retried. Requests that wait for it are
//! answered, because unread mail would have it claimed at once; an operator's `abandon` needs no code and is
//! carried out.

use std::sync::Arc;

use super::committer::Settled;
use super::live::Unfit;
use super::shared::{Incarnation, Shared};
use super::trouble::Trouble;
use crate::id::MailId;
use crate::journal::{self, Answer, Cause, End, Failure, MailBody, Record};
use crate::saga::Plan;
use crate::store::{Commit, Loaded, Then};

/// Blocks a saga that this worker owns and cannot read, or ends it if an operator has asked for that.
pub(super) async fn set_aside(
    shared: Arc<Shared>,
    incarnation: Arc<Incarnation>,
    loaded: Loaded,
    unfit: Unfit,
    plan: Arc<Plan>,
) {
    let run = loaded.run;
    tracing::error!(%run, saga = %loaded.saga, %unfit, "the journal does not fit the plan; the saga is blocked");
    let (records, then) = records(&loaded, &unfit, &plan, &shared.settings.label);
    let mut trouble = Trouble::default();
    trouble.fold(&plan.name, &records);
    let commit = Commit {
        run,
        number: loaded.journal.last().map_or(0, |row| row.number + 1),
        body: journal::encode(&records).into(),
        mail: received(&records),
        then,
        key: loaded.key.clone(),
        error: Trouble::default().until(&trouble),
        pivot: false,
    };
    match incarnation.committer.send(commit).await {
        Some(Settled::Committed(_)) => {
            if let Some(Record::Closed { end }) = records.last() {
                shared.announce(run, end);
            }
        }
        // Then it is another's, or will be.
        Some(Settled::Refused | Settled::Lost | Settled::Unread(_)) | None => {}
        Some(Settled::Faulty(why)) => {
            tracing::error!(%run, why, "the saga could not be blocked; it stays owned until this worker leaves");
        }
    }
}

/// What only a newer version reads is left for it.
fn received(records: &[Record]) -> Vec<MailId> {
    let read = |record: &Record| if let Record::Received { mail, .. } = record { Some(*mail) } else { None };
    records.iter().filter_map(read).collect()
}

fn records(loaded: &Loaded, unfit: &Unfit, plan: &Plan, label: &str) -> (Vec<Record>, Then) {
    let failure = Failure::new(format!(
        "{unfit}; worker {label:?} cannot go on from there: deploy the code that wrote it, then retry"
    ));
    let mut records = Vec::new();
    let mut abandoned = None;
    for (mail, body) in loaded.mail.iter().filter_map(|mail| Some((mail.id, mail.read()?))) {
        let answer = match &body {
            MailBody::Abandon { who, why } => {
                abandoned.get_or_insert_with(|| {
                    format!("{who} abandoned it: {why}; its journal could not be read")
                });
                Answer::Accepted
            }
            _ => Answer::Refused(failure.message().into()),
        };
        records.push(Record::Received { mail, body, answer });
    }
    match abandoned {
        Some(why) => {
            let end = End::PartiallyCompensated { cause: Failure::new(why) };
            let then = Then::End(end.kind());
            records.push(Record::Closed { end });
            (records, then)
        }
        None => {
            // It is about no step in particular.
            records.push(Record::Blocked { at: plan.nodes[0].place(0), cause: Cause::Unfit, failure });
            (records, Then::Block)
        }
    }
}
