//! Many runs on many threads, with one answer.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::plan::{Hit, Plan, Point};

/// Does `work` for every item; the answers stand in the items' order. The first failure in that order
/// is the answer, whichever thread found one first; what comes after a failure is left out.
pub(super) fn in_order<I: Sync, T: Send, E: Send>(
    items: &[I],
    threads: usize,
    work: impl Fn(&I) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let next = AtomicUsize::new(0);
    let failed = AtomicUsize::new(usize::MAX);
    let done = Mutex::new(Vec::with_capacity(items.len()));
    std::thread::scope(|scope| {
        for _ in 0..threads.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, SeqCst);
                    if index >= items.len() || index > failed.load(SeqCst) {
                        return;
                    }
                    let answer = work(&items[index]);
                    if answer.is_err() {
                        failed.fetch_min(index, SeqCst);
                    }
                    done.lock().expect("nothing panics while it holds the answers").push((index, answer));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("nothing panics while it holds the answers");
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, answer)| answer).collect()
}

/// One more hit, on some of the runs that were played.
pub(super) struct Hits {
    pub(super) chosen: Vec<Plan>,
    pub(super) possible: usize,
}

/// Adds one hit to each run, after those it has: everything that fits at every later point, or at most
/// `most` of it, chosen by the seed.
pub(super) fn hits(runs: &[(Plan, Vec<Point>)], most: usize, seed: u64, keyed: bool) -> Hits {
    let mut all = Vec::new();
    for (run, (plan, trace)) in runs.iter().enumerate() {
        let first = plan.hits.keys().next_back().map_or(0, |last| last + 1);
        for (point, reached) in trace.iter().enumerate().skip(first) {
            let fitting = Hit::ALL.into_iter().filter(|hit| hit.fits(&reached.spot));
            // A database that refuses data refused it the first time.
            // And a rival whose data is refused would hold the key until a person comes.
            let fitting = fitting.filter(|hit| *hit != Hit::Refuse || (plan.hits.is_empty() && !keyed));
            all.extend(fitting.map(|hit| (run, point, hit)));
        }
    }
    let possible = all.len();
    let chosen = sample(all, most, seed).into_iter();
    Hits { chosen: chosen.map(|(run, point, hit)| runs[run].0.clone().hit(point, hit)).collect(), possible }
}

/// Keeps at most `most` items, chosen by the seed, in their order.
pub(super) fn sample<T>(mut items: Vec<T>, most: usize, seed: u64) -> Vec<T> {
    let mut state = seed;
    let mut left = items.len();
    let mut wanted = most.min(left);
    items.retain(|_| {
        // Each item is kept with the chance that is still open: `wanted` of those that are left.
        let keep = next(&mut state) % (left as u64) < wanted as u64;
        left -= 1;
        wanted -= usize::from(keep);
        keep
    });
    items
}

/// SplitMix64: small, and the same on every machine.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_the_size_that_was_asked_for_and_follows_the_seed() {
        let of = |most, seed| sample((0..1000).collect::<Vec<u32>>(), most, seed);
        assert_eq!(of(50, 1).len(), 50);
        assert_eq!(of(50, 1), of(50, 1));
        assert_ne!(of(50, 1), of(50, 2));
        assert_eq!(of(2000, 1).len(), 1000);
        assert!(of(50, 3).is_sorted());
    }

    #[test]
    fn the_first_failure_in_order_is_the_answer() {
        let items: Vec<u32> = (0..100).collect();
        let fail = |n: &u32| if *n % 30 == 29 { Err(*n) } else { Ok(*n) };
        assert_eq!(in_order(&items, 4, fail), Err(29));
        assert_eq!(in_order(&items[..29], 4, fail).map(|all| all.len()), Ok(29));
    }
}
