//! Who goes first where there is more to do than can be done.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A saga's priority.
///
/// It matters only where sagas wait for a worker, or for a step's [limit](crate::Step::concurrency): who is
/// served first then. Each level counts as [`Priority::HEAD_START`] of waiting: a saga of high priority goes
/// before one of normal priority that has waited up to a minute longer, and after one that has waited longer
/// than that. So nobody starves, however many come with a higher priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// After the others: batches, clean-up.
    Low,
    /// What a saga has unless it was started with another.
    #[default]
    Normal,
    /// Before the others: somebody waits for it.
    High,
}

impl Priority {
    /// Every priority, the lowest first.
    pub const ALL: [Self; 3] = [Self::Low, Self::Normal, Self::High];

    /// What one level counts for, in time that another has waited.
    pub const HEAD_START: Duration = Duration::from_secs(60);

    /// Its level, as stores keep it: 0 is normal.
    pub fn level(self) -> i16 {
        self as i16 - Self::Normal as i16
    }

    /// The priority of a level; what is beyond the highest or the lowest counts as that.
    pub fn of_level(level: i16) -> Self {
        match level.signum() {
            -1 => Self::Low,
            0 => Self::Normal,
            _ => Self::High,
        }
    }

    /// The name people use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }

    /// Reads the name back.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|priority| priority.as_str() == name)
    }

    /// Whether it is the one that sagas have by themselves.
    pub fn is_normal(&self) -> bool {
        *self == Self::Normal
    }

    /// What it counts for: positive where it goes before the others.
    pub(crate) fn head_start(self) -> chrono::TimeDelta {
        let level = chrono::TimeDelta::from_std(Self::HEAD_START).expect("a minute");
        level * i32::from(self.level())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_names_are_read_back() {
        for priority in Priority::ALL {
            assert_eq!(Priority::of_level(priority.level()), priority);
            assert_eq!(Priority::from_name(priority.as_str()), Some(priority));
        }
        assert_eq!(Priority::of_level(7), Priority::High);
        assert!(Priority::Low < Priority::Normal && Priority::Normal < Priority::High);
    }
}
