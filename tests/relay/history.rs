//! What was committed, what was published, and how they may differ.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

/// An event that was committed: the `number`th of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) id: Uuid,
    pub(super) key: String,
    pub(super) number: i64,
}

/// A record in the topic, in the order of its partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) partition: i32,
    pub(super) event: Written,
}

/// Every way in which the topic breaks the relay's promise. Duplicates do not.
pub(super) fn violations(written: &[Written], published: &[Published]) -> Vec<String> {
    let committed: HashMap<Uuid, &Written> = written.iter().map(|event| (event.id, event)).collect();
    let arrived: HashSet<Uuid> = published.iter().map(|record| record.event.id).collect();
    let lost =
        written.iter().filter(|event| !arrived.contains(&event.id)).map(|event| format!("lost: {event:?}"));
    let invented = published.iter().filter_map(|record| match committed.get(&record.event.id) {
        None => Some(format!("phantom: {record:?}")),
        Some(event) if **event != record.event => Some(format!("altered: {record:?}, was {event:?}")),
        Some(_) => None,
    });
    let mut violations: Vec<String> = lost.chain(invented).collect();
    for (key, records) in by_key(published) {
        if records.iter().any(|record| record.partition != records[0].partition) {
            violations.push(format!("strayed: key {key} is in several partitions"));
        }
        let numbers: Vec<i64> = first_occurrences(&records).map(|event| event.number).collect();
        if !numbers.is_sorted() {
            violations.push(format!("reordered: key {key} came as {numbers:?}"));
        }
    }
    violations
}

/// How many records are not their event's first.
pub(super) fn duplicates(published: &[Published]) -> usize {
    published.len() - published.iter().map(|record| record.event.id).collect::<HashSet<_>>().len()
}

fn by_key(published: &[Published]) -> BTreeMap<&str, Vec<&Published>> {
    let mut keys: BTreeMap<&str, Vec<&Published>> = BTreeMap::new();
    for record in published {
        keys.entry(&record.event.key).or_default().push(record);
    }
    keys
}

fn first_occurrences<'a>(records: &'a [&Published]) -> impl Iterator<Item = &'a Written> {
    let mut seen = HashSet::new();
    records.iter().map(|record| &record.event).filter(move |event| seen.insert(event.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(key: &str, number: i64) -> Written {
        Written { id: Uuid::from_u128(number as u128 + 1000 * key.len() as u128), key: key.into(), number }
    }

    fn published(events: &[&Written]) -> Vec<Published> {
        events.iter().map(|event| Published { partition: 0, event: (*event).clone() }).collect()
    }

    #[test]
    fn each_kind_of_broken_history_is_caught_and_no_sound_one() {
        let (a1, a2, a3, b1) = (written("a", 1), written("a", 2), written("a", 3), written("bb", 1));
        let all = [a1.clone(), a2.clone(), a3.clone(), b1.clone()];
        for sound in [vec![&a1, &a2, &a3, &b1], vec![&b1, &a1, &a2, &a3], vec![&a1, &a2, &a1, &a2, &b1, &a3]]
        {
            assert_eq!(violations(&all, &published(&sound)), Vec::<String>::new());
        }
        assert_eq!(duplicates(&published(&[&a1, &a2, &a1, &a2, &b1])), 2);

        let other = Written { number: 7, ..a3.clone() };
        let phantom = written("a", 9);
        let mut strayed = published(&[&a1, &a2, &a3, &b1]);
        strayed[1].partition = 1;
        let broken = [
            ("lost", published(&[&a1, &a3, &b1])),
            ("phantom", published(&[&a1, &a2, &a3, &b1, &phantom])),
            ("altered", published(&[&a1, &a2, &other, &b1])),
            ("reordered", published(&[&a1, &a3, &a2, &b1])),
            ("strayed", strayed),
        ];
        for (kind, history) in broken {
            let violations = violations(&all, &history);
            assert!(violations.iter().all(|violation| violation.starts_with(kind)), "{violations:?}");
            assert!(!violations.is_empty(), "{kind} goes unnoticed");
        }
    }
}
