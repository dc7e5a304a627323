//! What participants do, call by call: scripts that are data, so that a failing run can be named.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::journal::Effect;

/// What one call of a participant comes to, instead of applying the effect and saying so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Behaviour {
    /// The participant refuses. One that answers by key refuses the key from then on.
    Reject,
    /// The call certainly had no effect: the connection was refused.
    NotApplied,
    /// The request was lost on its way, and the caller cannot know that.
    Unknown,
    /// The effect happened; the answer was lost.
    LostAnswer,
    /// The effect happened; the caller's code panics.
    Panic,
    /// The effect happened; no answer ever comes.
    Hang,
}

impl Behaviour {
    /// Every behaviour.
    pub const ALL: [Self; 6] =
        [Self::Reject, Self::NotApplied, Self::Unknown, Self::LostAnswer, Self::Panic, Self::Hang];

    /// The word for it in a plan's text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::NotApplied => "not-applied",
            Self::Unknown => "unknown",
            Self::LostAnswer => "lost-answer",
            Self::Panic => "panic",
            Self::Hang => "hang",
        }
    }
}

/// One effect of one saga as a participant knows it: the step, the item, and what is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The step.
    pub step: String,
    /// The item of an `each`; 0 elsewhere.
    pub occurrence: usize,
    /// What is asked for.
    pub effect: Direction,
}

/// [`Effect`] with an order, so that scripts have one text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// The forward effect.
    Action,
    /// The effect that undoes it.
    Compensation,
    /// The question whether it happened.
    Probe,
}

impl From<Effect> for Direction {
    fn from(effect: Effect) -> Self {
        match effect {
            Effect::Action => Self::Action,
            Effect::Compensation => Self::Compensation,
            Effect::Probe => Self::Probe,
        }
    }
}

impl Direction {
    fn as_str(self) -> &'static str {
        match self {
            Self::Action => "action",
            Self::Compensation => "compensation",
            Self::Probe => "probe",
        }
    }
}

/// What every participant of one run does, and the operator when the saga is blocked.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Script {
    /// The first calls of these effects meet these behaviours, in order; all others do what they should.
    pub calls: BTreeMap<Target, Vec<Behaviour>>,
    /// How often an operator answers `retry` when the saga is blocked.
    pub retries: u32,
    /// Every call that may be repeated arrives twice.
    pub repeat: bool,
}

impl Script {
    /// The same script, with one more effect misbehaving.
    #[must_use]
    pub fn with(mut self, target: Target, behaviours: &[Behaviour]) -> Self {
        self.calls.insert(target, behaviours.to_vec());
        self
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}/{}", self.step, self.occurrence, self.effect.as_str())
    }
}

impl FromStr for Target {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no effect; write step#item/action, /compensation or /probe");
        let (place, effect) = text.split_once('/').ok_or_else(bad)?;
        let (step, occurrence) = place.split_once('#').unwrap_or((place, "0"));
        let effect = [Direction::Action, Direction::Compensation, Direction::Probe]
            .into_iter()
            .find(|direction| direction.as_str() == effect)
            .ok_or_else(bad)?;
        Ok(Self { step: step.into(), occurrence: occurrence.parse().map_err(|_| bad())?, effect })
    }
}

impl FromStr for Behaviour {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|behaviour| behaviour.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is no behaviour"))
    }
}
