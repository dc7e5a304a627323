//! How far the relay came in a table whose transactions commit in any order.
//!
//! A sequence number is drawn before its transaction commits, so `seq > cursor` skips what commits
//! late; waiting until no older transaction is open stalls behind any long one of the whole cluster.
//! So the cursor is a *snapshot*: the transactions whose rows are done. The rows that became visible
//! between two snapshots are a **tick**. Within a tick events are sorted by `seq`, which keeps the
//! order of a key whose writers take turns (the later one draws its number after the earlier one has
//! committed, so it is never in an earlier tick). A large tick is read in pages, by `seq`.
//!
//! Pure.

use crate::event::Mark;
use std::collections::VecDeque;
use std::str::FromStr;

/// What Postgres calls a `pg_snapshot`: `xmin:xmax:xip,…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    xmin: u64,
    /// The first transaction id not assigned yet.
    pub(crate) xmax: u64,
    /// The ids below it that were in progress.
    pub(crate) in_progress: Vec<u64>,
}

impl Snapshot {
    /// The one in which nothing is visible.
    pub(crate) const fn nothing() -> Self {
        Self { xmin: 1, xmax: 1, in_progress: Vec::new() }
    }

    /// Whether the transaction had ended; if it committed, its rows are visible.
    pub(crate) fn sees(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.in_progress.binary_search(&xid).is_err())
    }

    /// Whether it sees all that another one sees.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.xmax >= other.xmax && !self.in_progress.iter().any(|xid| other.sees(*xid))
    }
}

impl FromStr for Snapshot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no pg_snapshot");
        let mut parts = text.split(':');
        let (Some(xmin), Some(xmax), Some(list), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        let number = |text: &str| text.parse::<u64>().map_err(|_| bad());
        let mut in_progress = Vec::new();
        if !list.is_empty() {
            in_progress = list.split(',').map(number).collect::<Result<_, _>>()?;
            in_progress.sort_unstable();
        }
        Ok(Self { xmin: number(xmin)?, xmax: number(xmax)?, in_progress })
    }
}

impl std::fmt::Display for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (index, xid) in self.in_progress.iter().enumerate() {
            write!(f, "{}{xid}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// What is done: all that `base` sees, and of what `tick` sees beyond that, all up to a `seq`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) base: Snapshot,
    pub(crate) tick: Option<(Snapshot, i64)>,
}

impl Cursor {
    pub(crate) fn start() -> Self {
        Self { base: Snapshot::nothing(), tick: None }
    }

    /// Whether a row of this transaction and number is done.
    #[cfg(test)]
    pub(crate) fn is_done(&self, xid: u64, seq: i64) -> bool {
        self.base.sees(xid) || self.tick.as_ref().is_some_and(|(tick, upto)| tick.sees(xid) && seq <= *upto)
    }
}

impl Cursor {
    /// A tick was read whole.
    pub(crate) fn end_tick(&mut self, end: Snapshot) {
        *self = Self { base: end, tick: None };
    }

    /// A page of the open tick was read.
    pub(crate) fn end_page(&mut self, last_seq: i64) {
        if let Some((_, seq)) = &mut self.tick {
            *seq = last_seq;
        }
    }
}

/// What a mark stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(crate) cursor: Cursor,
    /// The place in the log, if the mark came from there.
    pub(crate) lsn: Option<u64>,
}

/// The cursors that pages end with, until they are acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    marks: VecDeque<(Mark, Reached)>,
    last: Mark,
}

impl Marks {
    /// The mark by which everything up to this cursor is acknowledged.
    pub(crate) fn set(&mut self, cursor: Cursor, lsn: Option<u64>) -> Mark {
        self.last += 1;
        self.marks.push_back((self.last, Reached { cursor, lsn }));
        self.last
    }

    /// What a mark stands for; earlier ones are forgotten.
    pub(crate) fn reached(&mut self, mark: Mark) -> Option<Reached> {
        while self.marks.get(1).is_some_and(|(later, _)| *later <= mark) {
            self.marks.pop_front();
        }
        self.marks.front().filter(|(at, _)| *at <= mark).map(|(_, reached)| reached.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        text.parse().expect("a snapshot")
    }

    #[test]
    fn a_snapshot_sees_what_had_ended() {
        let s = snapshot("10:20:10,14");
        let seen: Vec<u64> = (8..22).filter(|xid| s.sees(*xid)).collect();
        assert_eq!(seen, [8, 9, 11, 12, 13, 15, 16, 17, 18, 19]);
        assert!(!Snapshot::nothing().sees(1));
        for text in ["10:20:10,14", "1:1:", "7:9:"] {
            assert_eq!(snapshot(text).to_string(), text);
        }
        for text in ["", "1:2", "1:2:3:4", "a:2:", "1:2:x", "1:2:3,"] {
            text.parse::<Snapshot>().expect_err(text);
        }
    }

    #[test]
    fn one_snapshot_covers_another_if_it_misses_nothing_that_the_other_sees() {
        let covers = |one: &str, other: &str| snapshot(one).covers(&snapshot(other));
        assert!(covers("10:20:10,14", "10:20:10,14") && covers("30:30:", "10:20:10,14"));
        assert!(covers("12:25:12,21", "10:20:10,12"), "21 is not seen by the other either");
        assert!(!covers("12:25:12", "10:20:10"), "12 is seen by the other only");
        assert!(!covers("9:25:9", "10:20:10"), "and what came before all of it");
        assert!(!covers("19:19:", "20:20:"), "and what is not there yet");
        assert!(covers("1:1:", "1:1:"));
    }

    #[test]
    fn what_commits_late_is_in_a_later_tick() {
        let mut cursor = Cursor::start();
        cursor.end_tick(snapshot("5:9:5"));
        assert!(cursor.is_done(8, 100) && !cursor.is_done(5, 1), "5 is still open, with a lower seq");
        cursor.end_tick(snapshot("9:9:"));
        assert!(cursor.is_done(5, 1));
    }

    #[test]
    fn a_page_of_a_large_tick_is_done_up_to_its_last_row() {
        let mut cursor = Cursor { base: snapshot("3:3:"), tick: Some((snapshot("9:9:"), 0)) };
        cursor.end_page(50);
        assert!(cursor.is_done(2, 900) && cursor.is_done(8, 50) && !cursor.is_done(8, 51));
        assert!(!cursor.is_done(9, 1));
    }

    #[test]
    fn acknowledging_reaches_the_cursor_of_that_moment_and_none_later() {
        let at = |text| Cursor { base: snapshot(text), tick: None };
        let mut marks = Marks::default();
        let first = marks.set(at("5:5:"), None);
        let second = marks.set(at("6:6:"), Some(700));
        marks.set(at("7:7:"), None);
        assert_eq!(marks.reached(0), None);
        assert_eq!(marks.reached(first), Some(Reached { cursor: at("5:5:"), lsn: None }));
        let sixth = Some(Reached { cursor: at("6:6:"), lsn: Some(700) });
        assert_eq!(marks.reached(second), sixth);
        assert_eq!(marks.reached(second), sixth);
    }
}
