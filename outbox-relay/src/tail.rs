//! From which Kafka offset on an unacknowledged event may be found, per topic and partition.
//!
//! Stored with every acknowledgement, so that after a crash the relay reads exactly the part of the
//! topic that may hold events it does not know to be there. Every event not yet behind the frontier
//! was sent, if at all, after all the deliveries that were known when it was admitted: so its offset
//! is not below the tail of that moment. [`Tails`] keeps the tails of some such moments.

use crate::window::Ticket;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// The first offset of interest of each partition of each topic. A partition that is not listed is
/// new, and of interest from its beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tail {
    topics: BTreeMap<String, Vec<i64>>,
}

impl Tail {
    /// Whether anything was ever sent to the topic.
    pub fn knows(&self, topic: &str) -> bool {
        self.topics.contains_key(topic)
    }

    /// Begins to keep track of a topic, from the ends of its partitions.
    pub fn open(&mut self, topic: &str, ends: &[i64]) {
        self.topics.entry(topic.to_owned()).or_insert_with(|| ends.to_vec());
    }

    /// An event was delivered here.
    pub fn delivered(&mut self, topic: &str, partition: i32, offset: i64) {
        let Some(ends) = self.topics.get_mut(topic) else { return };
        let Ok(partition) = usize::try_from(partition) else { return };
        if ends.len() <= partition {
            ends.resize(partition + 1, 0);
        }
        ends[partition] = ends[partition].max(offset + 1);
    }

    /// Each topic with the first offset of interest of its partitions.
    pub fn topics(&self) -> impl Iterator<Item = (&str, &[i64])> {
        self.topics.iter().map(|(topic, ends)| (topic.as_str(), ends.as_slice()))
    }
}

/// The tail now, and at some moments of the past that still matter.
#[derive(Debug)]
pub(crate) struct Tails {
    pub(crate) now: Tail,
    /// The next ticket at that moment, with the tail of that moment.
    marks: VecDeque<(Ticket, Tail)>,
}

impl Tails {
    /// Goes on from the tail that was stored, with which the first event of the window is safe.
    pub(crate) fn new(stored: Tail) -> Self {
        Self { now: stored.clone(), marks: VecDeque::from([(0, stored)]) }
    }

    pub(crate) fn open(&mut self, topic: &str, ends: &[i64]) {
        self.now.open(topic, ends);
        for (_, tail) in &mut self.marks {
            tail.open(topic, ends);
        }
    }

    /// Remembers the tail of this moment, for events admitted from `next_ticket` on.
    pub(crate) fn mark(&mut self, next_ticket: Ticket) {
        match self.marks.back_mut() {
            Some((ticket, tail)) if *ticket == next_ticket => tail.clone_from(&self.now),
            _ => self.marks.push_back((next_ticket, self.now.clone())),
        }
    }

    /// The latest tail that is safe for every event from `first_ticket` on.
    pub(crate) fn safe(&mut self, first_ticket: Ticket) -> Tail {
        while self.marks.get(1).is_some_and(|(ticket, _)| *ticket <= first_ticket) {
            self.marks.pop_front();
        }
        self.marks.front().map_or_else(Tail::default, |(_, tail)| tail.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_never_passes_an_event_that_is_not_behind_the_frontier() {
        let mut tails = Tails::new(Tail::default());
        tails.open("orders", &[5, 7]);
        // Tickets 0..10 are admitted and sent; 1..10 are delivered, 0 is not.
        tails.now.delivered("orders", 0, 20);
        tails.mark(10);
        assert_eq!(tails.safe(0).topics().collect::<Vec<_>>(), [("orders", &[5, 7][..])]);
        // Then 0 as well: from ticket 10 on everything lies at or above what is known.
        assert_eq!(tails.safe(10).topics().collect::<Vec<_>>(), [("orders", &[21, 7][..])]);
    }

    #[test]
    fn a_topic_opened_later_is_in_every_mark_and_a_new_partition_counts_from_its_beginning() {
        let mut tails = Tails::new(Tail::default());
        tails.mark(3);
        tails.open("orders", &[5]);
        tails.now.delivered("orders", 2, 0);
        assert_eq!(tails.safe(0).topics().collect::<Vec<_>>(), [("orders", &[5][..])]);
        assert_eq!(tails.now.topics().collect::<Vec<_>>(), [("orders", &[5, 0, 1][..])]);
        tails.now.delivered("orders", 2, 0);
        assert_eq!(serde_json::to_string(&tails.now).expect("json"), r#"{"orders":[5,0,1]}"#);
    }
}
