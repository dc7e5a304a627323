//! Faults on request, decided by a seed: the same seed and orders meet the same faults.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A share of cases, written as a percentage: `5%`, `0.5%`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rate {
    per_million: u32,
}

/// A text that is no percentage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a percentage from 0% to 100%; write it as 5% or 0.5%")]
pub struct BadRate;

impl Rate {
    /// Whether a number drawn evenly from all `u64` falls into this share.
    fn takes(self, drawn: u64) -> bool {
        drawn % 1_000_000 < u64::from(self.per_million)
    }
}

impl FromStr for Rate {
    type Err = BadRate;

    fn from_str(text: &str) -> Result<Self, BadRate> {
        let percent: f64 = text.strip_suffix('%').and_then(|number| number.parse().ok()).ok_or(BadRate)?;
        let per_million = (percent * 10_000.0).round();
        let fits = (0.0..=1_000_000.0).contains(&per_million);
        // The range was checked: nothing is cut off.
        if fits { Ok(Self { per_million: per_million as u32 }) } else { Err(BadRate) }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.per_million) / 10_000.0)
    }
}

/// What goes wrong in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    /// Decides which cases the rates hit.
    pub seed: u64,
    /// Payments that are refused.
    pub reject: Rate,
    /// Parcels that the carrier refuses, after the payment was taken.
    pub undeliverable: Rate,
    /// Calls of any service that are applied although their answer never arrives.
    pub lost_answers: Rate,
}

impl Faults {
    /// Whether the bank refuses this order's payment: always, or never.
    pub fn rejects(&self, order: &str) -> bool {
        self.reject.takes(self.draw(&["reject", order]))
    }

    /// Whether the carrier refuses this order's parcel: always, or never.
    pub fn undeliverable(&self, order: &str) -> bool {
        self.undeliverable.takes(self.draw(&["undeliverable", order]))
    }

    /// Whether the answer to this attempt under this key is lost. The next attempt may fare better.
    pub fn loses_answer(&self, key: &str, attempt: &str) -> bool {
        self.lost_answers.takes(self.draw(&["lost answer", key, attempt]))
    }

    /// At how many finished orders, of `orders`, a worker is killed: `kills` places spread at random over
    /// the run, in order, each before the last order.
    pub fn kill_points(&self, kills: usize, orders: usize) -> Vec<usize> {
        let span = orders.saturating_sub(1).max(1) as u64;
        let place = |kill: usize| usize::try_from(self.draw(&["kill", &kill.to_string()]) % span);
        let mut points: Vec<usize> = (0..kills).filter_map(|kill| place(kill).ok()).collect();
        points.sort_unstable();
        points
    }

    /// A number that depends on the seed and on these words only: FNV-1a, finished as in SplitMix64.
    fn draw(&self, words: &[&str]) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ self.seed;
        for word in words {
            for byte in word.bytes().chain([0]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^ (hash >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_percentages() {
        assert_eq!("5%".parse(), Ok(Rate { per_million: 50_000 }));
        assert_eq!("0.5%".parse::<Rate>().map(|rate| rate.to_string()), Ok("0.5%".into()));
        for bad in ["5", "-1%", "101%", "%", "x%", "NaN%", "inf%"] {
            assert_eq!(bad.parse::<Rate>(), Err(BadRate), "{bad}");
        }
    }

    #[test]
    fn a_rate_hits_its_share_and_a_seed_decides_whom() {
        let faults = |seed| Faults { seed, reject: "5%".parse().expect("a rate"), ..Faults::default() };
        let hit = |seed| -> Vec<u32> {
            (0..20_000).filter(|order: &u32| faults(seed).rejects(&order.to_string())).collect()
        };
        assert!((800..1200).contains(&hit(1).len()), "{} of 20,000", hit(1).len());
        assert_eq!(hit(1), hit(1));
        assert_ne!(hit(1), hit(2));
        assert!(!faults(1).loses_answer("key", "1") && !faults(1).undeliverable("7"));
    }

    #[test]
    fn kills_lie_within_the_run() {
        let points = Faults::default().kill_points(10, 300);
        assert!(points.len() == 10 && points.is_sorted() && points.iter().all(|point| *point < 299));
        assert_eq!(Faults::default().kill_points(2, 0), [0, 0]);
    }
}
