//! When the next attempt is due, and whether there is one: the policies of a step, applied.
//!
//! How many attempts there were, and when the time began to run, stands in the journal; so neither a crash nor a
//! takeover gives a step more of either. Only the jitter is chosen anew.

use std::time::Duration;

use super::machine::Machine;
use crate::journal::{Bound, Effect, LATEST, Outcome, Record, Stage, Timestamp};
use crate::retry::Retry;

/// Until when something may be tried, where that is bounded and has begun.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bounds {
    action: Option<Timestamp>,
    settling: Option<Timestamp>,
    compensation: Option<Timestamp>,
}

impl Bounds {
    fn get(&self, bound: Bound) -> Option<Timestamp> {
        match bound {
            Bound::Action => self.action,
            Bound::Settling => self.settling,
            Bound::Compensation => self.compensation,
        }
    }

    /// False where it has begun before.
    pub(super) fn begin(&mut self, bound: Bound, until: Timestamp) -> bool {
        let begun = match bound {
            Bound::Action => &mut self.action,
            Bound::Settling => &mut self.settling,
            Bound::Compensation => &mut self.compensation,
        };
        begun.replace(until).is_none()
    }
}

/// What an attempt's end leads to.
enum Next {
    /// Nothing is planned: it is decided, or given up.
    Nothing,
    /// The next attempt by this bound's policy.
    Attempt(Bound, Timestamp),
}

impl Machine {
    /// What has to be recorded before an attempt's start: that its time begins to run.
    pub fn bounded_by_start(
        &self,
        at: (usize, usize),
        effect: Effect,
        attempt: u32,
        now: Timestamp,
    ) -> Option<Record> {
        let bound = match (effect, attempt) {
            (Effect::Action, 1) => Bound::Action,
            (Effect::Compensation, 1) => Bound::Compensation,
            _ => return None,
        };
        self.begins(at, bound, now)
    }

    /// The records of an attempt's end, with the time of the next attempt chosen by the step's policy: one, or
    /// two where the time for settling begins to run.
    ///
    /// `jitter` in `0.0..=1.0`; `retry_after` is the least pause that the service asked for.
    pub fn finish(
        &self,
        at: (usize, usize),
        effect: Effect,
        outcome: Outcome,
        retry_after: Option<Duration>,
        now: Timestamp,
        jitter: f64,
    ) -> Vec<Record> {
        let mut records = Vec::with_capacity(1);
        let next = self.next(at, effect, &outcome, retry_after.unwrap_or_default(), now, jitter);
        let due = match next {
            Next::Nothing => None,
            Next::Attempt(bound, due) => {
                let begins = if bound == Bound::Settling { self.begins(at, bound, now) } else { None };
                records.extend(begins);
                let until = self.until(at, bound, now);
                (until.is_none_or(|until| due <= until)).then_some(due)
            }
        };
        let place = self.plan.nodes[at.0].place(at.1);
        records.push(Record::Finished { at: place, effect, outcome, due });
        records
    }

    fn next(
        &self,
        (node, item): (usize, usize),
        effect: Effect,
        outcome: &Outcome,
        least: Duration,
        now: Timestamp,
        jitter: f64,
    ) -> Next {
        let step = &self.plan.nodes[node];
        let after = |pause: Duration| later(now, pause.max(least));
        let again = |bound, retry: &Retry, attempt: u32| match retry.goes_on_after(attempt) {
            true => Next::Attempt(bound, after(retry.pause_after(attempt, jitter))),
            false => Next::Nothing,
        };
        let unknown = match outcome {
            Outcome::Unknown(_) => true,
            Outcome::NotApplied(_) => false,
            Outcome::Ok(_) | Outcome::Rejected(_) | Outcome::Halted { .. } | Outcome::Malformed { .. } => {
                return Next::Nothing;
            }
        };
        match &self.stages(node)[item] {
            Stage::Acting { attempt, doubt } => {
                let in_doubt = *doubt || unknown;
                if in_doubt && !step.idempotent {
                    // Only a probe may touch it now, and the first one at once.
                    return if step.probe {
                        Next::Attempt(Bound::Settling, after(Duration::ZERO))
                    } else {
                        Next::Nothing
                    };
                }
                match again(Bound::Action, &step.retry, *attempt) {
                    Next::Attempt(_, due)
                        if self.until((node, item), Bound::Action, now).is_none_or(|u| due <= u) =>
                    {
                        Next::Attempt(Bound::Action, due)
                    }
                    // Used up in doubt: settling goes on at the compensation's pace.
                    _ if in_doubt => again(Bound::Settling, &step.undo_retry, *attempt),
                    _ => Next::Nothing,
                }
            }
            Stage::Probing { probe, .. } if effect == Effect::Probe => {
                again(Bound::Settling, &step.undo_retry, *probe)
            }
            Stage::Undoing { attempt, .. } => again(Bound::Compensation, &step.undo_retry, *attempt),
            _ => Next::Nothing,
        }
    }

    /// How long an attempt that starts now may take, as far as the step's own time leaves it.
    pub fn time_left(
        &self,
        (node, item): (usize, usize),
        effect: Effect,
        now: Timestamp,
    ) -> Option<Duration> {
        let step = &self.plan.nodes[node];
        let limit = step.timeout.filter(|_| effect == Effect::Action)?;
        let bounded = self.slots[node].bounds[item].get(Bound::Action)?;
        // The time for attempts may be shorter than the time for the step.
        let began = bounded - chrono::TimeDelta::from_std(step.time_for(Bound::Action)?).ok()?;
        (later(began, limit) - now).to_std().ok().filter(|left| !left.is_zero())
    }

    /// The record that a time begins to run, where there is one and it has not begun.
    fn begins(&self, (node, item): (usize, usize), bound: Bound, now: Timestamp) -> Option<Record> {
        let step = &self.plan.nodes[node];
        let until = later(now, step.time_for(bound)?);
        let begun = self.slots[node].bounds[item].get(bound).is_some();
        (!begun).then(|| Record::Bounded { at: step.place(item), bound, until })
    }

    /// When the time is over, if it began now at the latest.
    fn until(&self, (node, item): (usize, usize), bound: Bound, now: Timestamp) -> Option<Timestamp> {
        let given = self.plan.nodes[node].time_for(bound);
        self.slots[node].bounds[item].get(bound).or_else(|| Some(later(now, given?)))
    }
}

/// No later than [`LATEST`], however long the pause is.
pub(crate) fn later(now: Timestamp, pause: Duration) -> Timestamp {
    let pause = chrono::TimeDelta::from_std(pause).unwrap_or(chrono::TimeDelta::MAX);
    now.checked_add_signed(pause).map_or(LATEST, |later| later.min(LATEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pause_ends_later_than_a_store_can_say() {
        let now = Timestamp::from_timestamp(1_800_000_000, 0).unwrap();
        assert_eq!(later(now, Duration::from_secs(60)) - now, chrono::TimeDelta::seconds(60));
        for pause in
            [Duration::MAX, Duration::from_secs(9_999_999_999_999), Duration::from_secs(u64::MAX / 1_000)]
        {
            assert_eq!(later(now, pause), LATEST);
        }
    }
}
