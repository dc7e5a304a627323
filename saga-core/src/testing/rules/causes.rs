//! Why a run ended as it did: nothing is undone, and nobody is called, without a reason that a
//! participant or a person gave.

use super::super::evidence::Evidence;
use super::super::ledger::Verdict;
use super::super::plan::Hit;
use crate::id::Place;
use crate::journal::{Answer, Cause, Effect, EndKind, MailBody, Record};
use crate::saga::plan::Kind;
use crate::store::State;

pub(super) fn judge(evidence: &Evidence, broken: &mut Vec<String>) {
    match evidence.summary.as_ref().map(|summary| summary.state) {
        Some(State::Ended(EndKind::Compensated)) if !cancelled(evidence) && !refused(evidence) => {
            broken.push("it is compensated although nobody refused anything or cancelled it".into());
        }
        Some(State::Ended(EndKind::Completed)) if cancelled(evidence) => {
            broken.push("it is completed although a cancel was accepted".into());
        }
        Some(State::Blocked) => {
            let blocked = evidence.records().filter_map(|record| match record {
                Record::Blocked { at, cause, .. } => Some((at, *cause)),
                _ => None,
            });
            match blocked.last() {
                Some((at, cause)) if !is_real(evidence, at, cause) => {
                    broken.push(format!("it is blocked at {at} because {cause}, which is not so"));
                }
                Some(_) => {}
                None => broken.push("it is blocked without a cause".into()),
            }
        }
        _ => {}
    }
}

/// Whether somebody cancelled it in time, or its deadline did.
fn cancelled(evidence: &Evidence) -> bool {
    evidence.records().any(|record| match record {
        Record::Received { body: MailBody::Cancel { .. }, answer, .. } => *answer == Answer::Accepted,
        Record::Expired {} => true,
        _ => false,
    })
}

/// Whether a participant refused an action, or was out of reach for it.
fn refused(evidence: &Evidence) -> bool {
    evidence.entries.iter().any(|entry| match (entry.request.effect, entry.verdict) {
        (Effect::Action, verdict) => {
            matches!(verdict, Verdict::Rejected | Verdict::Refused | Verdict::Lost | Verdict::RolledBack)
        }
        (Effect::Probe, verdict) => verdict == Verdict::Closed,
        (Effect::Compensation, _) => false,
    })
}

fn is_real(evidence: &Evidence, at: &Place, cause: Cause) -> bool {
    let (step, item) = at.parts();
    let Some(node) = evidence.shape.find(step).map(|node| &evidence.shape.nodes[node]) else { return false };
    let said = |effect: Effect, wanted: Verdict| {
        evidence.entries.iter().any(|entry| {
            let request = &entry.request;
            request.step == step
                && request.occurrence == item.unwrap_or(0)
                && request.effect == effect
                && entry.verdict == wanted
        })
    };
    let endless = crate::retry::Retry::is_endless;
    match cause {
        Cause::InDoubt => !node.idempotent || !endless(&node.undo_retry) || node.settle_within.is_some(),
        Cause::CompensationRejected => said(Effect::Compensation, Verdict::Rejected),
        Cause::CompensationExhausted => !endless(&node.undo_retry),
        Cause::RejectedAfterPivot => {
            node.kind != Kind::Pivot
                && (said(Effect::Action, Verdict::Rejected) || said(Effect::Probe, Verdict::Closed))
        }
        Cause::ExhaustedAfterPivot => !endless(&node.retry) || node.timeout.is_some(),
        Cause::Malformed => evidence.plan.hits.values().any(|hit| *hit == Hit::Refuse),
        _ => true,
    }
}
