//! One run as data: what goes wrong where. Its text is the line that replays it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::behaviour::Script;
use crate::id::Place;
use crate::journal::Effect;

/// What goes wrong in one run.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Plan {
    /// What participants do.
    pub script: Script,
    /// What hits a process when it reaches the point with this number; points count from 0, through
    /// all processes of the run.
    pub hits: BTreeMap<usize, Hit>,
}

/// A moment at which something can hit a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// The process, counted from 0 in order of their beginning.
    pub process: usize,
    /// What it was about to do.
    pub spot: Spot,
}

/// What a process is about to do at a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spot {
    /// Insert the saga.
    Start,
    /// Commit, by itself or with the transaction that a step was lent.
    Commit,
    /// Begin the transaction of a step.
    Begin,
    /// Hear of the sagas that a claim gave it. (Claims that give nothing are no points.)
    Claim,
    /// Fence another worker.
    Fence,
    /// Call a step's code.
    Call {
        /// Where.
        place: Place,
        /// Which effect.
        effect: Effect,
        /// Which attempt.
        attempt: u32,
    },
}

/// What hits a process at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hit {
    /// The process dies before it is done.
    CrashBefore,
    /// It is done: durable, or applied by the participant. The process dies before it hears so.
    CrashLost,
    /// It is done and the process hears so, and dies before whatever it does next.
    CrashAfter,
    /// A call that never leaves: its siblings go on, and the process dies before whatever it does next.
    CrashTorn,
    /// The process stands still before it is done, until another has finished the saga.
    FreezeBefore,
    /// It is done; the process stands still before it hears so, until another has finished the saga.
    FreezeLost,
    /// Another worker takes the lease before it is done; the process knows nothing of it.
    StealBefore,
    /// It is done; another worker takes the lease before the process hears so.
    StealLost,
    /// The process is told to drain: it ends what is under way, gives the rest up, and leaves.
    Drain,
    /// Somebody cancels the saga.
    Cancel,
    /// The store is unavailable: nothing is written, and the process is told so.
    Unavailable,
    /// Nothing is written, and the process is told that nobody knows.
    Unknown,
    /// It is durable, and the process is told that nobody knows.
    LoseAnswer,
    /// The database refuses the data.
    Refuse,
}

impl Hit {
    /// Everything that can hit a process.
    pub const ALL: [Self; 14] = [
        Self::CrashBefore,
        Self::CrashLost,
        Self::CrashAfter,
        Self::CrashTorn,
        Self::FreezeBefore,
        Self::FreezeLost,
        Self::StealBefore,
        Self::StealLost,
        Self::Drain,
        Self::Cancel,
        Self::Unavailable,
        Self::Unknown,
        Self::LoseAnswer,
        Self::Refuse,
    ];

    /// The word for it in a plan's text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CrashBefore => "crash-before",
            Self::CrashLost => "crash-lost",
            Self::CrashAfter => "crash-after",
            Self::CrashTorn => "crash-torn",
            Self::FreezeBefore => "freeze-before",
            Self::FreezeLost => "freeze-lost",
            Self::StealBefore => "steal-before",
            Self::StealLost => "steal-lost",
            Self::Drain => "drain",
            Self::Cancel => "cancel",
            Self::Unavailable => "unavailable",
            Self::Unknown => "unknown",
            Self::LoseAnswer => "lose-answer",
            Self::Refuse => "refuse",
        }
    }

    /// Whether it can happen at such a point.
    pub fn fits(self, spot: &Spot) -> bool {
        match self {
            Self::CrashLost | Self::CrashAfter => true,
            // What a claim gave is seen only once it is durable.
            Self::CrashBefore => *spot != Spot::Claim,
            Self::CrashTorn => matches!(spot, Spot::Call { .. }),
            Self::FreezeBefore => !matches!(spot, Spot::Claim | Spot::Fence),
            Self::FreezeLost | Self::StealLost | Self::Cancel => *spot != Spot::Fence,
            Self::StealBefore | Self::Drain => {
                matches!(spot, Spot::Start | Spot::Commit | Spot::Begin | Spot::Call { .. })
            }
            Self::Unavailable | Self::LoseAnswer => {
                matches!(spot, Spot::Start | Spot::Commit | Spot::Begin | Spot::Fence)
            }
            Self::Unknown | Self::Refuse => matches!(spot, Spot::Start | Spot::Commit),
        }
    }
}

impl Plan {
    /// The same plan with one more hit.
    #[must_use]
    pub fn hit(mut self, point: usize, hit: Hit) -> Self {
        self.hits.insert(point, hit);
        self
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Script { calls, retries, repeat } = &self.script;
        let mut parts = Vec::new();
        for (target, behaviours) in calls {
            let words: Vec<_> = behaviours.iter().map(|behaviour| behaviour.as_str()).collect();
            parts.push(format!("{target}={}", words.join(",")));
        }
        if *retries > 0 {
            parts.push(format!("retries={retries}"));
        }
        if *repeat {
            parts.push("repeat".into());
        }
        parts.extend(self.hits.iter().map(|(point, hit)| format!("@{point}={}", hit.as_str())));
        f.write_str(&parts.join(" "))
    }
}

impl FromStr for Plan {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut plan = Self::default();
        for part in text.split_whitespace() {
            let (left, right) = part.split_once('=').unwrap_or((part, ""));
            if let Some(point) = left.strip_prefix('@') {
                let point = point.parse().map_err(|_| format!("{part:?}: a point is a number"))?;
                let hit = Hit::ALL.into_iter().find(|hit| hit.as_str() == right);
                plan.hits.insert(point, hit.ok_or_else(|| format!("{part:?}: nothing hits like that"))?);
            } else if part == "repeat" {
                plan.script.repeat = true;
            } else if left == "retries" {
                plan.script.retries = right.parse().map_err(|_| format!("{part:?}: no number"))?;
            } else {
                let behaviours = right.split(',').map(str::parse).collect::<Result<_, _>>()?;
                plan.script.calls.insert(left.parse()?, behaviours);
            }
        }
        Ok(plan)
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}: ", self.process)?;
        match &self.spot {
            Spot::Start => f.write_str("start"),
            Spot::Commit => f.write_str("commit"),
            Spot::Begin => f.write_str("begin"),
            Spot::Claim => f.write_str("claim"),
            Spot::Fence => f.write_str("fence"),
            Spot::Call { place, effect, attempt } => write!(f, "{effect} {attempt} of {place}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::behaviour::{Behaviour, Direction, Target};
    use super::*;

    #[test]
    fn a_plan_is_read_back_from_its_text() {
        let target = |step: &str, occurrence, effect| Target { step: step.into(), occurrence, effect };
        let script = Script { retries: 2, repeat: true, ..Script::default() }
            .with(target("reserve", 3, Direction::Compensation), &[Behaviour::LostAnswer, Behaviour::Hang])
            .with(target("charge", 0, Direction::Probe), &[Behaviour::Reject]);
        let mut plan = Plan { script, hits: BTreeMap::new() };
        for (point, hit) in Hit::ALL.into_iter().enumerate() {
            plan = plan.hit(point, hit);
        }
        let text = plan.to_string();
        assert!(text.starts_with(
            "charge#0/probe=reject reserve#3/compensation=lost-answer,hang retries=2 repeat @0=crash-before"
        ));
        assert_eq!(text.parse(), Ok(plan));
        for bad in ["@x=cancel", "@1=sneeze", "charge=reject", "charge/action=sneeze", "retries=x"] {
            assert!(bad.parse::<Plan>().is_err(), "{bad}");
        }
    }
}
