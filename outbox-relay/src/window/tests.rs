//! The window against a broker that answers in any order and refuses what it likes.

use super::*;
use crate::event::Fields;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

fn event(seq: i64, key: u8) -> Event {
    Event::from(Fields {
        id: Uuid::from_u128(seq.unsigned_abs().into()),
        seq,
        aggregate_type: "order",
        aggregate_id: &key.to_string(),
        event_type: "Changed",
        ..Fields::default()
    })
}

#[test]
fn of_each_key_one_event_is_sent_and_the_next_follows_its_end() {
    let mut window = Window::default();
    assert_eq!(window.admit(event(1, 1), Origin::Source), Some(0));
    assert_eq!(window.admit(event(2, 1), Origin::Source), None, "its key is taken");
    assert_eq!(window.admit(event(3, 2), Origin::Source), Some(2), "another key is not");
    window.admit_mark(9, 0);
    assert_eq!(window.acknowledged(2), None);
    assert!(window.advance().is_empty(), "the first one is not done");
    assert_eq!(window.acknowledged(0), Some(1));
    assert_eq!(window.failed(1), Some(1));
    assert_eq!(window.failed(1), Some(2), "still taken");
    assert_eq!(window.acknowledged(1), None);
    assert_eq!(window.acknowledged(1), None, "told twice");
    let frontier = window.advance();
    assert_eq!((frontier.mark, window.len(), window.bytes()), (Some(9), 0, 0));
    assert_eq!(window.first_unmarked(), window.next_ticket());
}

#[test]
fn what_a_mark_does_not_stand_for_is_still_unmarked_behind_it() {
    let mut window = Window::default();
    let read = |window: &mut Window, events: i64, mark: Option<usize>| {
        let first = window.next_ticket();
        for seq in 0..events {
            let ticket = window.admit(event(seq, (first + seq.unsigned_abs()) as u8), Origin::Source);
            window.acknowledged(ticket.expect("a key of its own"));
        }
        window.admitted(first, events.unsigned_abs() as usize);
        if let Some(beyond) = mark {
            window.admit_mark(1, beyond);
        }
        window.advance();
        window.first_unmarked()
    };
    assert_eq!(read(&mut window, 3, Some(0)), 4, "0 to 2 are events, 3 is the mark");
    assert_eq!(read(&mut window, 2, None), 4, "4 and 5");
    assert_eq!(read(&mut window, 0, Some(1)), 5, "the last of them is read again, says the mark at 6");
    assert_eq!(read(&mut window, 2, Some(3)), 5, "still the same, with 7 and 8 after it");
    assert_eq!(read(&mut window, 1, Some(2)), 8, "8 and 10");
    assert_eq!(read(&mut window, 0, Some(0)), window.next_ticket());
}

#[test]
fn a_rejected_event_takes_those_behind_it_along_and_no_others() {
    let mut window = Window::default();
    for (seq, key) in [(1, 1), (2, 1), (3, 2), (4, 1)] {
        window.admit(event(seq, key), Origin::Source);
    }
    assert_eq!(window.rejected(0, "too large"), None);
    let parks = window.advance().parks;
    let parked: Vec<(i64, &str)> = parks.iter().map(|park| (park.seq, park.reason.as_str())).collect();
    let behind = format!("behind {}", Uuid::from_u128(1));
    assert_eq!(parked, [(1, "too large"), (2, &behind), (4, &behind)]);
    assert_eq!(window.undone(), 1, "key 2 goes on");
}

#[test]
fn keys_that_share_a_hash_wait_for_each_other_and_are_set_aside_apart() {
    let mut window = Window::default();
    for (seq, key) in [(1, 1), (2, 2), (3, 1), (4, 3), (5, 2)] {
        window.admit_as(7, event(seq, key), Origin::Source);
    }
    assert_eq!(window.rejected(0, "too large"), Some(1), "of key 2");
    assert_eq!(window.admit_as(7, event(6, 3), Origin::Source), None, "behind them");
    assert_eq!(window.rejected(1, "too large"), Some(3), "of key 3");
    let parked: Vec<i64> = window.advance().parks.iter().map(|park| park.seq).collect();
    assert_eq!(parked, [1, 3, 2, 5]);
    assert_eq!((window.acknowledged(3), window.acknowledged(5)), (Some(5), None));
    assert_eq!((window.undone(), window.bytes()), (0, 0));
    assert_eq!(window.admit_as(7, event(7, 1), Origin::Source), Some(6), "none is left");
}

#[test]
fn a_released_event_is_removed_when_published_and_kept_when_refused_again() {
    let mut window = Window::default();
    let first = window.admit(event(1, 1), Origin::Released(1)).expect("may be sent");
    window.admit(event(2, 1), Origin::Released(2));
    assert!(window.has_released());
    let second = window.acknowledged(first).expect("may be sent");
    window.rejected(second, "still too large");
    let frontier = window.advance();
    let again: Vec<i64> = frontier.parks_again.iter().map(|park| park.seq).collect();
    assert_eq!((frontier.released, again, frontier.parks, frontier.mark), (vec![1], vec![2], vec![], None));
    assert!(!window.has_released());
}

/// Setting aside does not wait for those in front; what is then told must not be told again as published.
#[test]
fn a_released_event_refused_again_behind_another_is_not_taken_for_published() {
    let mut window = Window::default();
    let slow = window.admit(event(9, 9), Origin::Source).expect("may be sent");
    let again = window.admit(event(1, 1), Origin::Released(1)).expect("may be sent");
    window.rejected(again, "still too large");
    window.admit_parked(event(2, 1), Origin::Released(2), "its key is parked".into());
    let aside: Vec<i64> = window.advance().parks_again.iter().map(|park| park.seq).collect();
    assert_eq!(aside, [1, 2]);
    window.acknowledged(slow);
    let frontier = window.advance();
    assert_eq!((frontier.released, window.len()), (vec![], 0));
    assert!(!window.has_released());
}

#[derive(Clone, Debug)]
enum Step {
    Admit { key: u8 },
    Mark,
    Answer { pick: usize, kind: u8 },
    Advance,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..4_u8).prop_map(|key| Step::Admit { key }),
        1 => Just(Step::Mark),
        5 => (any::<usize>(), 0..8_u8).prop_map(|(pick, kind)| Step::Answer { pick, kind }),
        2 => Just(Step::Advance),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    /// Whatever the broker answers: per key the log is in order and has no gap before a parked event,
    /// at most one event of a key is at the broker, and a mark passes only what is done or parked.
    #[test]
    fn order_and_completeness_hold_whatever_the_broker_answers(steps in steps()) {
        let mut window = Window::default();
        let mut log: BTreeMap<u8, Vec<i64>> = BTreeMap::new();
        let mut at_broker: Vec<Ticket> = Vec::new();
        let (mut done, mut parked, mut parked_keys) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let (mut seq, mut passed) = (0, 0);
        for step in steps {
            match step {
                Step::Admit { key } => {
                    seq += 1;
                    if parked_keys.contains(&key) {
                        window.admit_parked(event(seq, key), Origin::Source, "its key is parked".into());
                    } else {
                        at_broker.extend(window.admit(event(seq, key), Origin::Source));
                    }
                }
                Step::Mark => window.admit_mark(seq.unsigned_abs(), 0),
                Step::Answer { .. } if at_broker.is_empty() => {}
                Step::Answer { pick, kind } => {
                    let ticket = at_broker[pick % at_broker.len()];
                    let sent = window.event(ticket).expect("what is at the broker is not done").clone();
                    let key: u8 = sent.aggregate_id().parse().expect("a number");
                    match kind {
                        0 => {
                            parked_keys.insert(key);
                            at_broker.retain(|t| *t != ticket);
                            at_broker.extend(window.rejected(ticket, "refused"));
                        }
                        1 => { window.failed(ticket); }
                        // Written, but the answer was lost: it will be written again.
                        2 => { log.entry(key).or_default().push(sent.seq); window.failed(ticket); }
                        _ => {
                            log.entry(key).or_default().push(sent.seq);
                            done.insert(sent.seq);
                            at_broker.retain(|t| *t != ticket);
                            at_broker.extend(window.acknowledged(ticket));
                        }
                    }
                }
                Step::Advance => {
                    let frontier = window.advance();
                    parked.extend(frontier.parks.iter().map(|park| park.seq));
                    if let Some(mark) = frontier.mark {
                        passed = i64::try_from(mark).expect("small");
                    }
                    for seq in 1..=passed {
                        prop_assert!(done.contains(&seq) || parked.contains(&seq), "{seq} was skipped");
                    }
                }
            }
            let keys: BTreeSet<String> = at_broker.iter().filter_map(|t| window.event(*t)).map(|e| e.aggregate_id().to_owned()).collect();
            prop_assert_eq!(keys.len(), at_broker.len(), "two events of a key are at the broker");
        }
        for (key, seqs) in log {
            prop_assert!(seqs.is_sorted(), "key {key} out of order: {seqs:?}");
        }
    }
}
