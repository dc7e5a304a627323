//! Where one place of a saga stands, and the one `match` that says which histories are legal.
//!
//! ```text
//!            Started             Finished(Ok)            Started(Compensation)        Ok
//!   Idle ───────────────▶ Acting ───────────────▶ Done ─────────────────────▶ Undoing ─────▶ Undone
//!                         ▲    │ Rejected,                                   ▲      │
//!                  Started│    │ or given up without doubt ─▶ Refused        │      │ not applied,
//!                         │    ▼ not applied, unknown                        │      ▼ unknown
//!                        Resting ── Started(Probe) ─▶ Probing                UndoResting
//! ```
//!
//! *Doubt* is sticky: once an attempt's outcome is unknown, or its worker died, the action stays in
//! doubt until it succeeds, a participant that answers by key rejects it, or a probe settles it.

use super::Timestamp;
use super::record::{Cause, Effect, Failure, Outcome, Verb};
use crate::payload::Payload;

/// What a step's author promised of it, as far as it decides which histories are legal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contract {
    /// The action may be run again under the same key, and a rejection then speaks for every attempt.
    pub idempotent: bool,
    /// The compensation undoes by key, whether or not the action arrived.
    pub undo_by_key: bool,
    /// The step comes after the pivot: it has no way to fail.
    pub forward: bool,
    /// The action's effect and the record of its success become true together: a start without an end had none.
    pub transactional: bool,
}

/// Where one place of a saga stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing was started.
    Idle,
    /// An attempt of the action may be under way.
    Acting {
        /// The attempt's number.
        attempt: u32,
        /// Whether an earlier attempt may have taken effect.
        doubt: bool,
    },
    /// No attempt is under way; the action has neither succeeded nor definitely failed.
    Resting {
        /// The last attempt's number.
        attempt: u32,
        /// Whether one of the attempts may have taken effect.
        doubt: bool,
        /// How many probes were made.
        probes: u32,
        /// What happens next.
        rest: Rest,
    },
    /// A probe may be under way.
    Probing {
        /// The action's last attempt.
        attempt: u32,
        /// The probe's number.
        probe: u32,
    },
    /// The action took effect.
    Done(Payload),
    /// The action definitely had, and will have, no effect.
    Refused(Failure),
    /// An attempt of the compensation may be under way.
    Undoing {
        /// The attempt's number.
        attempt: u32,
        /// What the action gave, unless it is undone by key while in doubt.
        output: Option<Payload>,
    },
    /// No attempt of the compensation is under way, and none has succeeded.
    UndoResting {
        /// The last attempt's number.
        attempt: u32,
        /// What the action gave.
        output: Option<Payload>,
        /// What happens next.
        rest: Rest,
    },
    /// The compensation took effect.
    Undone,
    /// An operator decided to leave the effect as it is.
    Left,
}

/// What a place that rests waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rest {
    /// The next attempt, at this time.
    Due(Timestamp),
    /// A person, for this reason.
    Stuck(Cause, Failure),
}

/// What a record says of one place.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// An attempt starts.
    Started(Effect, u32),
    /// An attempt ended; the next is due at this time.
    Finished(Effect, &'a Outcome, Option<Timestamp>),
    /// An operator's decision at this time.
    Operator(&'a Verb, Timestamp),
}

/// A record that may not follow the history before it: a fault of the store or of this crate, never
/// of a service. Nothing is driven from such a journal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event} cannot follow {stage}")]
pub struct Illegal {
    /// Where the place stood.
    pub stage: String,
    /// What the record said.
    pub event: String,
}

impl Stage {
    /// Which stage follows: the legal histories of a place, on one screen.
    pub fn next(self, event: &Event<'_>, contract: Contract) -> Result<Stage, Illegal> {
        use Effect::{Action, Compensation, Probe};
        use Event::{Finished, Operator, Started};
        use Stage::*;
        Ok(match (self, event) {
            (Idle, Started(Action, 1)) => Acting { attempt: 1, doubt: false },
            (Resting { attempt, doubt, .. }, Started(Action, n)) if *n == attempt + 1 => {
                Acting { attempt: *n, doubt }
            }
            // Its worker died: that attempt's outcome is unknown, unless it could only have told of it by success.
            (Acting { attempt, doubt }, Started(Action, n)) if *n == attempt + 1 => {
                Acting { attempt: *n, doubt: doubt || !contract.transactional }
            }
            (Acting { attempt, doubt }, Finished(Action, outcome, due)) => {
                acted(attempt, doubt, outcome, *due, contract)
            }

            (Resting { attempt, doubt: true, probes, .. }, Started(Probe, n)) if *n == probes + 1 => {
                Probing { attempt, probe: *n }
            }
            (Acting { attempt, .. }, Started(Probe, 1)) => Probing { attempt, probe: 1 },
            (Probing { attempt, probe }, Started(Probe, n)) if *n == probe + 1 => {
                Probing { attempt, probe: *n }
            }
            (Probing { attempt, probe }, Finished(Probe, outcome, due)) => {
                probed(attempt, probe, outcome, *due, contract)
            }

            (Done(output), Started(Compensation, 1)) => Undoing { attempt: 1, output: Some(output) },
            (Acting { .. } | Resting { doubt: true, .. }, Started(Compensation, 1))
                if contract.undo_by_key =>
            {
                Undoing { attempt: 1, output: None }
            }
            (Undoing { attempt, output } | UndoResting { attempt, output, .. }, Started(Compensation, n))
                if *n == attempt + 1 =>
            {
                Undoing { attempt: *n, output }
            }
            (Undoing { attempt, output }, Finished(Compensation, outcome, due)) => {
                undone(attempt, output, outcome, *due)
            }

            // Its worker died and nothing can settle it: he has it run again, knowing that.
            (Acting { attempt, doubt }, Operator(Verb::Retry, at)) => {
                let doubt = doubt || !contract.transactional;
                Resting { attempt, doubt, probes: 0, rest: Rest::Due(*at) }
            }
            (Resting { attempt, doubt, probes, .. }, Operator(Verb::Retry, at)) => {
                Resting { attempt, doubt, probes, rest: Rest::Due(*at) }
            }
            (UndoResting { attempt, output, .. }, Operator(Verb::Retry, at)) => {
                UndoResting { attempt, output, rest: Rest::Due(*at) }
            }
            (Acting { .. } | Resting { .. }, Operator(Verb::Resolve(output), _)) => Done(output.clone()),
            (UndoResting { .. }, Operator(Verb::Resolve(_), _)) => Undone,
            (Acting { .. } | Resting { .. }, Operator(Verb::Skip, _)) if !contract.forward => Left,
            (UndoResting { .. }, Operator(Verb::Skip, _)) => Left,

            (stage, event) => {
                return Err(Illegal { stage: format!("{stage:?}"), event: format!("{event:?}") });
            }
        })
    }

    /// Why an operator's verb finds nothing to do here, in words.
    pub fn resists(&self) -> &'static str {
        match self {
            Self::Idle => "was not started",
            Self::Acting { .. } | Self::Resting { .. } => "stands after the pivot, where nothing is skipped",
            Self::Probing { .. } => "is being probed: decide about it when the probe has ended",
            Self::Done(_) => "is done",
            Self::Refused(_) => "had no effect and will have none",
            Self::Undoing { .. } => "has an attempt of its compensation under way",
            Self::UndoResting { .. } => "cannot be decided in this way",
            Self::Undone => "is undone",
            Self::Left => "was left as it is by an operator",
        }
    }

    /// Whether an attempt of something may be under way.
    pub fn is_under_way(&self) -> bool {
        matches!(self, Self::Acting { .. } | Self::Probing { .. } | Self::Undoing { .. })
    }
}

/// What an attempt of the action leads to.
fn acted(attempt: u32, doubt: bool, outcome: &Outcome, due: Option<Timestamp>, contract: Contract) -> Stage {
    let rest = |doubt, cause, failure: &Failure| Stage::Resting {
        attempt,
        doubt,
        probes: 0,
        rest: due.map_or_else(|| Rest::Stuck(cause, failure.clone()), Rest::Due),
    };
    match outcome {
        Outcome::Ok(output) => Stage::Done(output.clone()),
        Outcome::Rejected(failure) if contract.forward => rest(doubt, Cause::RejectedAfterPivot, failure),
        // A participant that does not answer by key speaks for this attempt only.
        Outcome::Rejected(failure) if doubt && !contract.idempotent => rest(true, Cause::InDoubt, failure),
        Outcome::Rejected(failure) => Stage::Refused(failure.clone()),
        Outcome::NotApplied(failure) if due.is_none() && !doubt && !contract.forward => {
            Stage::Refused(failure.clone())
        }
        Outcome::NotApplied(failure) if doubt => rest(true, Cause::InDoubt, failure),
        Outcome::NotApplied(failure) => rest(false, Cause::ExhaustedAfterPivot, failure),
        Outcome::Unknown(failure) => rest(true, Cause::InDoubt, failure),
        Outcome::Halted { cause, failure } => rest(true, *cause, failure),
        Outcome::Malformed { failure, applied } => rest(doubt || *applied, Cause::Malformed, failure),
    }
}

/// What a probe leads to.
fn probed(attempt: u32, probe: u32, outcome: &Outcome, due: Option<Timestamp>, contract: Contract) -> Stage {
    let rest = |doubt, cause, failure: &Failure| Stage::Resting {
        attempt,
        doubt,
        probes: probe,
        rest: due.map_or_else(|| Rest::Stuck(cause, failure.clone()), Rest::Due),
    };
    match outcome {
        Outcome::Ok(output) => Stage::Done(output.clone()),
        // The participant now refuses this key for ever, so there is nothing left to retry.
        Outcome::NotApplied(failure) if contract.forward => rest(false, Cause::RejectedAfterPivot, failure),
        Outcome::NotApplied(failure) => Stage::Refused(failure.clone()),
        Outcome::Rejected(failure) | Outcome::Unknown(failure) => rest(true, Cause::InDoubt, failure),
        Outcome::Halted { cause, failure } => rest(true, *cause, failure),
        Outcome::Malformed { failure, .. } => rest(true, Cause::Malformed, failure),
    }
}

/// What an attempt of the compensation leads to.
fn undone(attempt: u32, output: Option<Payload>, outcome: &Outcome, due: Option<Timestamp>) -> Stage {
    let rest = |cause, failure: &Failure| Stage::UndoResting {
        attempt,
        output: output.clone(),
        rest: due.map_or_else(|| Rest::Stuck(cause, failure.clone()), Rest::Due),
    };
    match outcome {
        Outcome::Ok(_) => Stage::Undone,
        Outcome::Rejected(failure) => rest(Cause::CompensationRejected, failure),
        Outcome::NotApplied(failure) | Outcome::Unknown(failure) => {
            rest(Cause::CompensationExhausted, failure)
        }
        Outcome::Halted { cause, failure } => rest(*cause, failure),
        Outcome::Malformed { failure, .. } => rest(Cause::Malformed, failure),
    }
}
