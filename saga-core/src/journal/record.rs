//! What a journal says: each variant of [`Record`] is one thing that became true.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Timestamp;
use crate::id::{Fingerprint, Key, MailId, Name, Place};
use crate::payload::Payload;

/// One thing that became true of a saga.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// The saga exists. Always the first record, and only there.
    Began {
        /// The definition it runs.
        definition: Name,
        /// The definition's version.
        version: u32,
        /// The definition's fingerprint.
        fingerprint: Fingerprint,
        /// The id its user gave it.
        saga: String,
        /// What it was started with.
        input: Payload,
        /// When it undoes itself, unless its pivot has begun by then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<Timestamp>,
        /// The key that it was started under.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<Key>,
        /// The keys that are held above it, by the sagas of which it is a part.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        above: Vec<Key>,
    },
    /// The deadline passed before the pivot began: the saga undoes itself.
    Expired {},
    /// A pure value was computed from earlier ones.
    Derived {
        /// The derivation.
        at: Place,
        /// The value.
        value: Payload,
    },
    /// An attempt at an effect may be under way from here on: nothing outside happens before this
    /// record is durable.
    Started {
        /// Whose effect.
        at: Place,
        /// Which effect.
        effect: Effect,
        /// The attempt's number, from 1.
        attempt: u32,
    },
    /// The time that a policy gives a place has begun to run.
    Bounded {
        /// Whose.
        at: Place,
        /// What is bounded.
        bound: Bound,
        /// No attempt is planned for later than this.
        until: Timestamp,
    },
    /// An attempt ended.
    Finished {
        /// Whose effect.
        at: Place,
        /// Which effect.
        effect: Effect,
        /// What it ended in.
        outcome: Outcome,
        /// When the next attempt is due; absent when the policy plans none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        due: Option<Timestamp>,
    },
    /// Mail was consumed.
    Received {
        /// Which mail.
        mail: MailId,
        /// What it said.
        body: MailBody,
        /// What its sender is told.
        answer: Answer,
    },
    /// From here on the saga needs a person.
    Blocked {
        /// Where it is stuck.
        at: Place,
        /// Why.
        cause: Cause,
        /// What the failing attempt said.
        failure: Failure,
    },
    /// The saga ended. Always the last record, and only there.
    Closed {
        /// How.
        end: End,
    },
}

/// The three things that can be done at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// The forward effect.
    Action,
    /// The effect that semantically undoes it.
    Compensation,
    /// The question whether an action in doubt took effect.
    Probe,
}

/// What the time that a policy gives is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Attempts of the action, from the first one's start.
    Action,
    /// The settling of an action in doubt whose attempts are used up, or that must not be run again.
    Settling,
    /// Attempts of the compensation, from the first one's start.
    Compensation,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Action => "action",
            Self::Settling => "settling",
            Self::Compensation => "compensation",
        })
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Action => "action",
            Self::Compensation => "compensation",
            Self::Probe => "probe",
        })
    }
}

/// What one attempt ended in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It took effect. A probe says by it that the action did.
    Ok(Payload),
    /// No attempt under this key was or will be applied.
    Rejected(Failure),
    /// This attempt had no effect. A probe says by it that the action never will.
    NotApplied(Failure),
    /// Nobody knows whether it took effect.
    Unknown(Failure),
    /// It may have had an effect, and nobody runs it again before a person has looked.
    Halted {
        /// Why.
        cause: Cause,
        /// What happened.
        failure: Failure,
    },
    /// A payload could not be read or written as the code's type, so the code is at fault, not the
    /// service: a person must look. `applied` tells whether the effect may have happened.
    Malformed {
        /// Which payload, and what is wrong with it.
        failure: Failure,
        /// Whether the attempt reached the user's code.
        applied: bool,
    },
}

/// What went wrong, in words; kept short, because a history is read whole.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Failure {
    message: String,
}

impl Failure {
    /// The longest message that is kept, in bytes: a service that answers with a page of HTML must
    /// not grow the journal by it at every attempt.
    pub const MESSAGE_BYTES_MAX: usize = 1024;

    /// Keeps a message, cut to [`Failure::MESSAGE_BYTES_MAX`].
    pub fn new(message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > Self::MESSAGE_BYTES_MAX {
            let end = (0..=Self::MESSAGE_BYTES_MAX).rev().find(|&i| message.is_char_boundary(i)).unwrap_or(0);
            message.truncate(end);
            message.push('…');
        }
        Self { message }
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failure({:?})", self.message)
    }
}

/// What others tell a saga.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MailBody {
    /// Undo what was done, unless the pivot has begun.
    Cancel {
        /// Why.
        reason: String,
    },
    /// An operator's decision about a blocked place.
    Operator {
        /// The place it is about.
        at: Place,
        /// The decision.
        verb: Verb,
        /// Who decided.
        who: String,
        /// Why.
        why: String,
    },
    /// An operator ends the saga as it stands.
    Abandon {
        /// Who decided.
        who: String,
        /// Why.
        why: String,
    },
    /// What was stored does not read, in a format that is known: it was damaged. It asks for nothing; its
    /// sender is told.
    Damaged {
        /// What was stored.
        text: String,
    },
}

impl MailBody {
    /// The newest format of mail that this version reads.
    pub const FORMAT: i16 = 1;

    /// The format that it is written in. A kind of mail that earlier versions do not know, or that they would
    /// misread, has the next number: it is left to workers that know that.
    pub fn format(&self) -> i16 {
        match self {
            Self::Cancel { .. } | Self::Operator { .. } | Self::Abandon { .. } | Self::Damaged { .. } => 1,
        }
    }
}

/// What an operator can do about the place where a saga is blocked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Try again now.
    Retry,
    /// Leave the effect as it is and go on undoing the rest: the saga ends partially compensated.
    Skip,
    /// Take it as done: an action with this output, a compensation as undone by hand.
    Resolve(Payload),
}

/// What the sender of mail is told once the saga's owner has read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It took effect.
    Accepted,
    /// A cancel that came after the pivot began, or after the saga had begun to undo itself.
    TooLate,
    /// A verb about a place that is not blocked, or that the place does not allow.
    Refused(String),
}

/// Why a saga needs a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// An action that is not idempotent is in doubt and nothing can settle it.
    InDoubt,
    /// A compensation was rejected: the effect stands.
    CompensationRejected,
    /// A compensation used up its attempts.
    CompensationExhausted,
    /// A step after the pivot was rejected: there is no way back and none forward.
    RejectedAfterPivot,
    /// A step after the pivot used up its attempts.
    ExhaustedAfterPivot,
    /// The workers that run it die.
    Deadly,
    /// A child saga was ended partially compensated.
    ChildInPieces,
    /// A transactional step's code has ended the transaction that it was lent.
    Misused,
    /// The journal does not fit the plan, so nobody can tell what comes next.
    Unfit,
    /// A payload does not read as the type the code expects.
    Malformed,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InDoubt => "the action is in doubt and nothing can settle it",
            Self::CompensationRejected => "the compensation was rejected",
            Self::CompensationExhausted => "the compensation used up its attempts",
            Self::RejectedAfterPivot => "the step was rejected after the pivot",
            Self::ExhaustedAfterPivot => "the step used up its attempts after the pivot",
            Self::Deadly => "the workers that run it die",
            Self::ChildInPieces => "a child saga was ended partially compensated",
            Self::Misused => "the step's code ended the transaction that it was lent",
            Self::Unfit => "the journal does not fit the plan",
            Self::Malformed => "a payload does not read as the type the code expects",
        })
    }
}

/// How a saga ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// All effects happened.
    Completed {
        /// What the saga gives.
        output: Payload,
    },
    /// Every effect that happened was undone.
    Compensated {
        /// The first failure that was journaled.
        cause: Failure,
    },
    /// By an operator's decision, some effects stand and some do not.
    PartiallyCompensated {
        /// The first failure, and the operator's reason.
        cause: Failure,
    },
}

impl End {
    /// Which of the three.
    pub fn kind(&self) -> EndKind {
        match self {
            Self::Completed { .. } => EndKind::Completed,
            Self::Compensated { .. } => EndKind::Compensated,
            Self::PartiallyCompensated { .. } => EndKind::PartiallyCompensated,
        }
    }
}

/// The end of a saga without its data, as stores keep it beside the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndKind {
    /// All effects happened.
    Completed,
    /// Every effect that happened was undone.
    Compensated,
    /// By an operator's decision, some effects stand.
    PartiallyCompensated,
}

impl EndKind {
    /// The name stores keep.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Compensated => "compensated",
            Self::PartiallyCompensated => "partially_compensated",
        }
    }

    /// Reads the name back.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Completed, Self::Compensated, Self::PartiallyCompensated]
            .into_iter()
            .find(|k| k.as_str() == name)
    }
}

impl fmt::Display for EndKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
