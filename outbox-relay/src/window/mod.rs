//! What is between source and broker: which event may be sent now, and how far all is done.
//!
//! # Two promises
//!
//! **Order per key.** An idempotent producer keeps order only while nothing is rejected: after a
//! rejected record the ones behind it are in the log already. So of each key at most one event is at
//! the broker, and the next one is sent when its fate is known. Keys do not wait for each other.
//!
//! **Nothing skipped.** The source is told to forget events only up to the first one that is not
//! done. Done is acknowledged by the broker, found in the topic, or parked; a parked one is reported
//! together with the frontier that passes it, so that both become durable in one transaction.
//!
//! # An event's life
//!
//! ```text
//! admit ──► waiting ──(its key is free)──► sent ──► acknowledged ──► done ──(all before it done)──► gone
//!                                           ▲│└──► rejected ─► parked, with all that wait behind it
//!                              (due again)  │└──► failed ─► backing off; its key stays taken
//!                                           └───────────────┘
//! ```
//!
//! Pure: no clock, no I/O. A key is a 64-bit hash; two keys that share one wait for each other
//! needlessly, and nothing worse. Parking, where a collision would do harm, compares whole keys.

mod frontier;
mod reads;
#[cfg(test)]
mod tests;

use crate::event::{Event, Mark, Park};
pub(crate) use frontier::Frontier;
use reads::Reads;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// Numbers events in the order in which they were admitted.
pub(crate) type Ticket = u64;

/// Where an event came from, and so what its end must be told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Read in turn.
    Source,
    /// No event: the end of a page. Passing it moves the source's cursor to where a relay that begins again may read
    /// events from this ticket on once more.
    Mark(Mark, Ticket),
    /// Parked before and released by an operator: its end removes the parked row.
    Released(i64),
}

#[derive(Debug)]
struct Entry {
    origin: Origin,
    /// `None` when it is done. In a box, because entries are many more than events that are not done.
    event: Option<Box<Event>>,
    key: u64,
    attempts: u32,
    bytes: usize,
}

/// The events between source and broker.
#[derive(Debug, Default)]
pub(crate) struct Window {
    entries: VecDeque<Entry>,
    /// The ticket of the first entry.
    first: Ticket,
    lines: HashMap<u64, Line, BuildHasherDefault<Already>>,
    bytes: usize,
    undone: usize,
    /// Set aside since the last advance.
    parks: Vec<Park>,
    /// The same, of rows that had been released.
    parks_again: Vec<Park>,
    /// What the last mark that the frontier has passed does not stand for begins here.
    marked: Ticket,
    reads: Reads,
    /// Entries that were parked and released, and are not parked again.
    released: usize,
}

/// The events of one key that are not done: the one that was sent, and those behind it.
#[derive(Debug)]
struct Line {
    sent: Ticket,
    waiting: VecDeque<Ticket>,
}

impl Window {
    /// Takes in the next event. Answers its ticket if it may be sent now.
    pub(crate) fn admit(&mut self, event: Event, origin: Origin) -> Option<Ticket> {
        let ticket = self.next_ticket();
        let (key, bytes) = (hash(&event), event.bytes());
        self.count(origin);
        let event = Some(Box::new(event));
        self.entries.push_back(Entry { origin, event, key, attempts: 0, bytes });
        self.bytes += bytes;
        self.undone += 1;
        if let Some(line) = self.lines.get_mut(&key) {
            line.waiting.push_back(ticket);
            return None;
        }
        self.lines.insert(key, Line { sent: ticket, waiting: VecDeque::new() });
        Some(ticket)
    }

    /// Takes in an event that is in the topic already.
    pub(crate) fn admit_done(&mut self, origin: Origin) {
        self.count(origin);
        self.entries.push_back(Entry { origin, event: None, key: 0, attempts: 0, bytes: 0 });
    }

    /// So many events of a page were taken in, from this ticket on.
    pub(crate) fn admitted(&mut self, first: Ticket, events: usize) {
        self.reads.admitted(first, events);
    }

    /// Takes in the end of a page; see [`Page::beyond`](crate::event::Page::beyond).
    pub(crate) fn admit_mark(&mut self, mark: Mark, beyond: usize) {
        let after = self.next_ticket() + 1;
        let unmarked = self.reads.back(beyond, after);
        self.admit_done(Origin::Mark(mark, unmarked));
    }

    /// Takes in an event that is parked at once: it cannot be published, or its key is parked.
    pub(crate) fn admit_parked(&mut self, event: Event, origin: Origin, reason: String) {
        self.admit_done(Origin::Source);
        self.set_aside(origin, park(Box::new(event), reason));
    }

    /// The broker has it. Answers the next event of its key, to be sent now.
    pub(crate) fn acknowledged(&mut self, ticket: Ticket) -> Option<Ticket> {
        let entry = self.entry_mut(ticket)?;
        entry.event.take()?;
        let (key, bytes) = (entry.key, entry.bytes);
        self.bytes -= bytes;
        self.undone -= 1;
        let line = self.lines.get_mut(&key).expect("an event that is not done has a line");
        match line.waiting.pop_front() {
            Some(next) => {
                line.sent = next;
                Some(next)
            }
            None => {
                self.lines.remove(&key);
                None
            }
        }
    }

    /// The broker will never take it: parks it, and all of its key that wait behind it. Answers an
    /// event of *another* key that shared the line, to be sent now.
    pub(crate) fn rejected(&mut self, ticket: Ticket, reason: &str) -> Option<Ticket> {
        let entry = self.entry_mut(ticket)?;
        let (hash, key) = (entry.key, entry.event.as_ref()?.key());
        let id = entry.event.as_ref()?.id;
        let waiting = self.lines.remove(&hash).expect("an event that is not done has a line").waiting;
        self.park(ticket, reason.to_owned());
        let mut rest = VecDeque::new();
        for later in waiting {
            let same = self.event(later).is_some_and(|event| event.key() == key);
            if same { self.park(later, format!("behind {id}")) } else { rest.push_back(later) }
        }
        let next = rest.pop_front()?;
        self.lines.insert(hash, Line { sent: next, waiting: rest });
        Some(next)
    }

    /// It may or may not have arrived, or cannot arrive now; its key stays taken. Answers how often
    /// it has failed.
    pub(crate) fn failed(&mut self, ticket: Ticket) -> Option<u32> {
        let entry = self.entry_mut(ticket)?;
        entry.event.as_ref()?;
        entry.attempts += 1;
        Some(entry.attempts)
    }

    /// The event, until it is done.
    pub(crate) fn event(&self, ticket: Ticket) -> Option<&Event> {
        self.entry(ticket)?.event.as_deref()
    }

    /// Whether it was parked before.
    pub(crate) fn is_released(&self, ticket: Ticket) -> bool {
        self.released > 0
            && self.entry(ticket).is_some_and(|entry| matches!(entry.origin, Origin::Released(_)))
    }

    /// Everything before this ticket is done.
    pub(crate) fn first_ticket(&self) -> Ticket {
        self.first
    }

    /// The ticket of the next event to be admitted.
    pub(crate) fn next_ticket(&self) -> Ticket {
        self.first + self.entries.len() as u64
    }

    /// Events admitted and not yet behind the frontier.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Events whose fate is open.
    pub(crate) fn undone(&self) -> usize {
        self.undone
    }

    /// Memory held by events whose fate is open.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn count(&mut self, origin: Origin) {
        self.released += usize::from(matches!(origin, Origin::Released(_)));
    }

    fn park(&mut self, ticket: Ticket, reason: String) {
        let entry = self.entry_mut(ticket).expect("the caller found it");
        let event = entry.event.take().expect("what is in a line is not done");
        // Its end is told by what is set aside; the frontier, which may pass it much later, must not tell another.
        let (origin, bytes) = (std::mem::replace(&mut entry.origin, Origin::Source), entry.bytes);
        self.released -= usize::from(matches!(origin, Origin::Released(_)));
        self.bytes -= bytes;
        self.undone -= 1;
        self.set_aside(origin, park(event, reason));
    }

    fn set_aside(&mut self, origin: Origin, park: Park) {
        let known = matches!(origin, Origin::Released(_));
        if known { &mut self.parks_again } else { &mut self.parks }.push(park);
    }

    fn entry(&self, ticket: Ticket) -> Option<&Entry> {
        let index = usize::try_from(ticket.checked_sub(self.first)?).ok()?;
        self.entries.get(index)
    }

    fn entry_mut(&mut self, ticket: Ticket) -> Option<&mut Entry> {
        let index = usize::try_from(ticket.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(index)
    }
}

fn park(event: Box<Event>, reason: String) -> Park {
    Park { seq: event.seq, id: event.id, key: event.key(), reason, event: Some(event) }
}

/// FNV-1a, and a finish that spreads it over all bits.
fn hash(event: &Event) -> u64 {
    const PRIME: u64 = 0x0100_0000_01b3;
    let parts = [event.aggregate_type.as_bytes(), b"/", event.aggregate_id.as_bytes()];
    let bytes = parts.into_iter().flatten();
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME));
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 32)
}

/// Keys are hashes already.
#[derive(Clone, Copy, Debug, Default)]
struct Already(u64);

impl Hasher for Already {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only u64 keys are hashed")
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
