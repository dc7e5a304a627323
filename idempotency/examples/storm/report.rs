//! What a storm has left, and whether it is what was promised.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use super::{Guarantee, Outcome, Plan};

/// One effect: which key's, and (of the leased guarantee) when its handler was entered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effect {
    pub(crate) key: i64,
    pub(crate) at: i64,
}

/// The store was killed at some moment between these two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Death {
    pub(crate) from: i64,
    pub(crate) to: i64,
}

/// How long, in microseconds, a claim may have been given out before its handler was entered.
const UNDER_WAY: i64 = 500_000;

pub(crate) struct Report {
    pub(crate) plan: Plan,
    pub(crate) spent: Duration,
    /// Workers killed.
    pub(crate) killed: u64,
    /// Duplicates that were answered while it stormed; the others died with their process.
    pub(crate) heard: u64,
    /// Keys that have an answer at the end.
    pub(crate) answered: u64,
    /// Keys that nobody knows the end of.
    pub(crate) doubtful: u64,
    pub(crate) effects: Vec<Effect>,
    pub(crate) deaths: Vec<Death>,
}

impl Report {
    /// The effects of each key, in order of time.
    fn by_key(&self) -> HashMap<i64, Vec<i64>> {
        let mut by_key: HashMap<i64, Vec<i64>> = HashMap::new();
        for effect in &self.effects {
            by_key.entry(effect.key).or_default().push(effect.at);
        }
        by_key.values_mut().for_each(|times| times.sort_unstable());
        by_key
    }

    /// Keys that took effect again after the store had died, which may have forgotten them.
    pub(crate) fn forgotten(&self) -> usize {
        self.by_key().values().filter(|times| times.len() > 1 && self.excused(times)).count()
    }

    /// Keys that took effect again although the store had not died in between.
    pub(crate) fn repeated(&self) -> usize {
        self.by_key().values().filter(|times| times.len() > 1 && !self.excused(times)).count()
    }

    fn excused(&self, times: &[i64]) -> bool {
        let between = |pair: &[i64], death: &Death| pair[0] - UNDER_WAY <= death.to && death.from <= pair[1];
        times.windows(2).all(|pair| self.deaths.iter().any(|death| between(pair, death)))
    }

    /// Whether what was promised was kept.
    pub(crate) fn judge(&self) -> Outcome {
        let (keys, touched) = (self.plan.keys(), self.by_key().len() as u64);
        let refuse = |what: String| Err(what.into());
        if self.repeated() > 0 {
            return refuse(format!("{} keys took effect more than once", self.repeated()));
        }
        if self.answered + self.doubtful != keys {
            return refuse(format!("{} answered and {} in doubt, of {keys}", self.answered, self.doubtful));
        }
        match self.plan.guarantee {
            Guarantee::Fused if (self.answered, touched) != (keys, keys) => {
                refuse(format!("{} answers and {touched} effects for {keys} keys", self.answered))
            }
            Guarantee::Leased if touched < self.answered => {
                refuse(format!("{} answers, but only {touched} effects", self.answered))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (keys, plan, seconds) = (self.plan.keys(), &self.plan, self.spent.as_secs_f64());
        let store = plan.store.split(':').next().unwrap_or_default();
        let store =
            if plan.store.starts_with("redis:") && !self.deaths.is_empty() { &plan.store } else { store };
        writeln!(f, "storm: {} on {store}, seed {}", plan.guarantee.word(), plan.seed)?;
        writeln!(
            f,
            "  {} duplicates of {keys} keys in {seconds:.0} s ({:.0}/s), {} answered, {} processes killed",
            plan.duplicates,
            plan.duplicates as f64 / seconds,
            self.heard,
            self.killed,
        )?;
        write!(
            f,
            "  afterwards: {} keys answered, {} in doubt, {} took effect, {} of them more than once",
            self.answered,
            self.doubtful,
            self.by_key().len(),
            self.repeated() + self.forgotten(),
        )?;
        if !self.deaths.is_empty() {
            write!(
                f,
                "\n  the store was killed {} times: {} keys took effect again because it had forgotten them",
                self.deaths.len(),
                self.forgotten(),
            )?;
        }
        Ok(())
    }
}
