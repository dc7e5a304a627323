//! The storm: a process that sends others into it, kills them, and counts.
//!
//! It is a program of its own ([`storm.rs`](../storm.rs)), and in a smaller size a test.

mod control;
mod redis;
mod report;
mod worker;

pub(crate) use control::{Launch, run};
pub(crate) use report::Report;
pub(crate) use worker::{script, work};

pub(crate) type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How often each key is asked for at once.
pub(crate) const DUPLICATES_PER_KEY: u64 = 50;
/// How many processes ask: each its share of the duplicates.
pub(crate) const WORKERS: u64 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guarantee {
    Fused,
    Leased,
}

impl std::str::FromStr for Guarantee {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "fused" => Ok(Self::Fused),
            "leased" => Ok(Self::Leased),
            _ => Err(format!("{word:?} is no guarantee that is stormed: fused, leased")),
        }
    }
}

impl Guarantee {
    fn word(self) -> &'static str {
        match self {
            Self::Fused => "fused",
            Self::Leased => "leased",
        }
    }
}

/// What is to be stormed, and how hard.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) guarantee: Guarantee,
    pub(crate) store: String,
    pub(crate) duplicates: u64,
    pub(crate) seed: u64,
}

impl Plan {
    fn keys(&self) -> u64 {
        self.duplicates.div_ceil(DUPLICATES_PER_KEY).max(1)
    }

    /// Keys that are in the storm at the same time.
    fn batch(&self) -> u64 {
        (self.keys() / 16).clamp(4, 64)
    }
}

/// Microseconds since 1970: the same for every process of this machine.
fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.ok().and_then(|since| i64::try_from(since.as_micros()).ok()).unwrap_or(0)
}
