//! What was committed against what lies in the topics.
//!
//! Decides from two recorded histories alone; it knows nothing of how a relay works.

use std::collections::{BTreeMap, HashMap, HashSet};
use uuid::Uuid;

/// A committed event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its id.
    pub id: Uuid,
    /// Its key.
    pub key: String,
    /// Its place among the events of its key.
    pub place: i64,
    /// Whether it must have been published by now: it is neither parked nor still to be sent.
    pub due: bool,
}

/// A record in a topic; records of a partition in the order of their offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The event's id.
    pub id: Uuid,
    /// The record's key.
    pub key: String,
    /// Where it lies.
    pub topic: String,
    /// The partition within the topic.
    pub partition: i32,
    /// The offset within that.
    pub offset: i64,
}

/// How the two differ. Only duplicates are allowed to happen, after crashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Committed, due, and in no topic.
    pub lost: Vec<Written>,
    /// In a topic, and never committed. Only where the written history is complete.
    pub phantom: Vec<Published>,
    /// Its first record lies behind the first record of a later event of its key.
    pub reordered: Vec<Published>,
    /// Records that are not their event's first.
    pub duplicated: Vec<Published>,
    /// Under another key, or in another partition, than the key's first record.
    pub strayed: Vec<Published>,
}

impl Differences {
    /// Whether a promise was broken.
    pub fn is_violation(&self) -> bool {
        !(self.lost.is_empty()
            && self.phantom.is_empty()
            && self.reordered.is_empty()
            && self.strayed.is_empty())
    }
}

/// Compares the histories. `complete`: `written` holds all events ever committed, so that a record
/// of any other is a phantom.
pub fn compare(written: &[Written], published: &[Published], complete: bool) -> Differences {
    let committed: HashMap<Uuid, &Written> = written.iter().map(|event| (event.id, event)).collect();
    let mut differences = Differences::default();
    let mut seen = HashSet::new();
    let mut highest: HashMap<(&str, &str), i64> = HashMap::new();
    let mut home: BTreeMap<(&str, &str), i32> = BTreeMap::new();
    for record in published {
        let event = committed.get(&record.id);
        if event.is_none() && complete {
            differences.phantom.push(record.clone());
        }
        let here = *home.entry((&record.topic, &record.key)).or_insert(record.partition);
        if here != record.partition || event.is_some_and(|event| event.key != record.key) {
            differences.strayed.push(record.clone());
        }
        if !seen.insert(record.id) {
            differences.duplicated.push(record.clone());
        } else if let Some(event) = event {
            let highest = highest.entry((&record.topic, &event.key)).or_insert(event.place);
            if event.place < *highest {
                differences.reordered.push(record.clone());
            }
            *highest = event.place.max(*highest);
        }
    }
    differences.lost =
        written.iter().filter(|event| event.due && !seen.contains(&event.id)).cloned().collect();
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(id: u128, key: &str, place: i64) -> Written {
        Written { id: Uuid::from_u128(id), key: key.into(), place, due: true }
    }

    fn published(list: &[(u128, &str, i32)]) -> Vec<Published> {
        let record = |(offset, (id, key, partition)): (usize, &(u128, &str, i32))| Published {
            id: Uuid::from_u128(*id),
            key: (*key).into(),
            topic: "orders".into(),
            partition: *partition,
            offset: offset as i64,
        };
        list.iter().enumerate().map(record).collect()
    }

    #[test]
    fn each_difference_is_told_from_the_others() {
        let all = [written(1, "a", 1), written(2, "a", 2), written(3, "b", 1)];
        let count = |list: &[(u128, &str, i32)]| {
            let d = compare(&all, &published(list), true);
            let counts =
                [d.lost.len(), d.phantom.len(), d.reordered.len(), d.duplicated.len(), d.strayed.len()];
            assert_eq!(d.is_violation(), counts != [0, 0, 0, counts[3], 0]);
            counts
        };
        assert_eq!(count(&[(1, "a", 0), (3, "b", 0), (2, "a", 0)]), [0, 0, 0, 0, 0]);
        assert_eq!(count(&[(1, "a", 0), (3, "b", 0)]), [1, 0, 0, 0, 0]);
        assert_eq!(count(&[(2, "a", 0), (1, "a", 0), (3, "b", 0)]), [0, 0, 1, 0, 0]);
        assert_eq!(count(&[(1, "a", 0), (2, "a", 0), (1, "a", 0), (3, "b", 0)]), [0, 0, 0, 1, 0]);
        assert_eq!(count(&[(1, "a", 0), (2, "a", 1), (3, "b", 0)]), [0, 0, 0, 0, 1]);
        assert_eq!(count(&[(1, "a", 0), (2, "b", 0), (3, "b", 0)]), [0, 0, 0, 0, 1]);
        assert_eq!(count(&[(1, "a", 0), (2, "a", 0), (3, "b", 0), (9, "c", 0)]), [0, 1, 0, 0, 0]);
    }

    #[test]
    fn what_is_not_due_is_not_lost_and_what_is_unknown_no_phantom_in_part_of_a_history() {
        let mut waiting = written(1, "a", 1);
        waiting.due = false;
        let differences = compare(&[waiting], &published(&[(9, "c", 0)]), false);
        assert_eq!(differences, Differences::default());
    }
}
