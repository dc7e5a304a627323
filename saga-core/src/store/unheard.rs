//! Claims whose answer may never have reached the worker.
//!
//! A claim that was committed but whose answer was lost (the connection broke, the caller stopped
//! waiting) leaves sagas that their owner does not know of: nobody would drive them until that worker
//! dies. So every claim has a number, which is written beside the owner; numbers whose answer was not
//! handed over are remembered here, and the next claim asks for the sagas of those numbers again.
//!
//! A worker talks to its store through one handle, so remembering in the process is enough: where the
//! process dies, the worker dies with it, and its sagas are taken over.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a claim with a lost answer may still be running in the server. The statement timeouts are
/// seconds; this is far beyond.
const STILL_RUNNING_AT_MOST: Duration = Duration::from_secs(600);

/// The claims of one store handle that were sent and not yet heard of.
#[derive(Debug, Default)]
pub(super) struct Unheard {
    sent: Mutex<Sent>,
}

#[derive(Debug, Default)]
struct Sent {
    last: i64,
    unheard: BTreeMap<i64, Instant>,
}

/// One claim that is being sent.
#[derive(Clone, Debug)]
pub(super) struct Sending {
    /// Its number.
    pub(super) number: i64,
    /// Earlier claims whose sagas have to be given again.
    pub(super) lost: Vec<i64>,
}

impl Unheard {
    /// Numbers a claim. Claims of one handle must be sent one after the other, so that what is unheard
    /// here is not still on its way to somebody.
    pub(super) fn send(&self) -> Sending {
        let mut sent = self.sent.lock().expect("nothing panics while it holds the numbers");
        let lost = sent.unheard.keys().copied().collect();
        sent.last += 1;
        let number = sent.last;
        sent.unheard.insert(number, Instant::now());
        Sending { number, lost }
    }

    /// The worker has the answer: the sagas of the lost claims came with it, under its number; `all` of them, if
    /// there was room for more.
    pub(super) fn heard(&self, claim: &Sending, all: bool) {
        self.heard_at(claim, all, Instant::now());
    }

    fn heard_at(&self, claim: &Sending, all: bool, now: Instant) {
        let mut sent = self.sent.lock().expect("nothing panics while it holds the numbers");
        sent.unheard.remove(&claim.number);
        // Others stay for a while: the server may yet run a claim whose connection broke.
        let is_over = |at: Instant| now.duration_since(at) >= STILL_RUNNING_AT_MOST;
        sent.unheard.retain(|number, at| !(all && is_over(*at) && claim.lost.contains(number)));
    }

    /// The claim certainly had no effect.
    pub(super) fn void(&self, claim: &Sending) {
        self.sent.lock().expect("nothing panics while it holds the numbers").unheard.remove(&claim.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_nobody_heard_of_is_asked_for_again() {
        let unheard = Unheard::default();
        let first = unheard.send();
        assert_eq!((first.number, first.lost.as_slice()), (1, [].as_slice()));
        let second = unheard.send();
        assert_eq!(second.lost, [1]);
        unheard.heard(&second, true);
        // The first may still be running in the server.
        assert_eq!(unheard.send().lost, [1]);
    }

    #[test]
    fn a_claim_is_asked_for_again_until_one_had_room_for_all_of_it() {
        let unheard = Unheard::default();
        unheard.send();
        let long_ago = Instant::now() + STILL_RUNNING_AT_MOST;
        let (paused, full, roomy) = (unheard.send(), unheard.send(), unheard.send());
        unheard.heard_at(&paused, false, long_ago);
        unheard.heard_at(&full, false, long_ago);
        assert_eq!(unheard.send().lost, [1, 4], "its sagas may not have come");
        unheard.heard_at(&roomy, true, long_ago);
        assert_eq!(unheard.send().lost, [5], "it is over; that one was not named");
    }

    #[test]
    fn what_was_heard_or_had_no_effect_is_forgotten() {
        let unheard = Unheard::default();
        unheard.heard(&unheard.send(), true);
        unheard.void(&unheard.send());
        assert_eq!(unheard.send().lost, Vec::<i64>::new());
    }
}
