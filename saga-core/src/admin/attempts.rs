//! Every attempt of a journal, by its place.

use std::collections::HashMap;

use serde::Serialize;

use super::Entry;
use crate::id::{Place, WorkerId};
use crate::journal::{Effect, Failure, Outcome, Record, Timestamp};

/// One attempt at an effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// Which effect.
    pub effect: Effect,
    /// Its number, from 1.
    pub number: u32,
    /// When its start became durable.
    pub started_at: Timestamp,
    /// The worker that ran it.
    pub worker: Option<WorkerId>,
    /// When its end became durable; absent while it is under way, or when its worker died.
    pub ended_at: Option<Timestamp>,
    /// What it ended in: `ok`, `rejected`, `not_applied`, `unknown` or `malformed`.
    pub outcome: Option<&'static str>,
    /// What went wrong.
    pub failure: Option<Failure>,
}

/// Every attempt of a journal, by its place.
pub(super) fn attempts(entries: &[Entry]) -> HashMap<Place, Vec<Attempt>> {
    let mut all: HashMap<Place, Vec<Attempt>> = HashMap::new();
    for entry in entries {
        for record in &entry.records {
            match record {
                Record::Started { at, effect, attempt } => all.entry(at.clone()).or_default().push(Attempt {
                    effect: *effect,
                    number: *attempt,
                    started_at: entry.at,
                    worker: entry.worker,
                    ended_at: None,
                    outcome: None,
                    failure: None,
                }),
                Record::Finished { at, effect, outcome, .. } => {
                    let open = all.entry(at.clone()).or_default().iter_mut().rev();
                    if let Some(attempt) =
                        open.into_iter().find(|a| a.effect == *effect && a.ended_at.is_none())
                    {
                        let (name, failure) = ended_in(outcome);
                        attempt.ended_at = Some(entry.at);
                        attempt.outcome = Some(name);
                        attempt.failure = failure.cloned();
                    }
                }
                _ => {}
            }
        }
    }
    all
}

fn ended_in(outcome: &Outcome) -> (&'static str, Option<&Failure>) {
    match outcome {
        Outcome::Ok(_) => ("ok", None),
        Outcome::Rejected(failure) => ("rejected", Some(failure)),
        Outcome::NotApplied(failure) => ("not_applied", Some(failure)),
        Outcome::Unknown(failure) => ("unknown", Some(failure)),
        Outcome::Halted { failure, .. } => ("halted", Some(failure)),
        Outcome::Malformed { failure, .. } => ("malformed", Some(failure)),
    }
}
