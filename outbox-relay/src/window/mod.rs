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
    /// `None` when it is done.
    event: Option<Event>,
    key: u64,
    attempts: u32,
    /// How many tickets later the next event of its key is, that waits for this one; 0 if none does.
    next: u32,
}

/// The events between source and broker.
#[derive(Debug, Default)]
pub(crate) struct Window {
    entries: VecDeque<Entry>,
    /// The ticket of the first entry.
    first: Ticket,
    /// The keys with events that are not done, and of each the last: the first one was sent, and each leads to the
    /// next.
    lines: HashMap<u64, Ticket, BuildHasherDefault<Already>>,
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

impl Window {
    /// A window with room for so many events from the beginning; it may grow.
    pub(crate) fn with_room(events: usize) -> Self {
        const AT_ONCE_MAX: usize = 1 << 16;
        Self { entries: VecDeque::with_capacity(events.min(AT_ONCE_MAX)), ..Self::default() }
    }

    /// Takes in the next event. Answers its ticket if it may be sent now.
    pub(crate) fn admit(&mut self, event: Event, origin: Origin) -> Option<Ticket> {
        self.admit_as(hash(&event), event, origin)
    }

    fn admit_as(&mut self, key: u64, event: Event, origin: Origin) -> Option<Ticket> {
        let ticket = self.next_ticket();
        self.count(origin);
        self.bytes += event.bytes();
        self.undone += 1;
        self.entries.push_back(Entry { origin, event: Some(event), key, attempts: 0, next: 0 });
        match self.lines.insert(key, ticket) {
            None => Some(ticket),
            Some(last) => {
                self.link(last, ticket);
                None
            }
        }
    }

    /// The second one waits for the first.
    fn link(&mut self, ticket: Ticket, next: Ticket) {
        let distance = u32::try_from(next - ticket).expect("the window is smaller than that");
        self.entry_mut(ticket).expect("it is not done").next = distance;
    }

    /// Takes in an event that is in the topic already.
    pub(crate) fn admit_done(&mut self, origin: Origin) {
        self.count(origin);
        self.entries.push_back(Entry { origin, event: None, key: 0, attempts: 0, next: 0 });
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
        self.set_aside(origin, park(event, reason));
    }

    /// The broker has it. Answers the next event of its key, to be sent now.
    pub(crate) fn acknowledged(&mut self, ticket: Ticket) -> Option<Ticket> {
        let entry = self.entry_mut(ticket)?;
        let bytes = entry.event.take()?.bytes();
        let (key, next) = (entry.key, entry.next);
        self.bytes -= bytes;
        self.undone -= 1;
        if next == 0 {
            self.lines.remove(&key);
            return None;
        }
        Some(ticket + Ticket::from(next))
    }

    /// The broker will never take it: parks it, and all of its key that wait behind it. Answers an
    /// event of *another* key that shared the line, to be sent now.
    pub(crate) fn rejected(&mut self, ticket: Ticket, reason: &str) -> Option<Ticket> {
        let entry = self.entry(ticket)?;
        let (hash, key) = (entry.key, entry.event.as_ref()?.key());
        let behind = format!("behind {}", entry.event.as_ref()?.id);
        let waiting = self.waiting(ticket);
        self.lines.remove(&hash);
        self.park(ticket, reason.to_owned());
        let mut others: Option<(Ticket, Ticket)> = None;
        for later in waiting {
            if self.event(later).is_some_and(|event| event.key() == key) {
                self.park(later, behind.clone());
                continue;
            }
            self.entry_mut(later).expect("it waits").next = 0;
            if let Some((_, last)) = others {
                self.link(last, later);
            }
            others = Some((others.map_or(later, |(first, _)| first), later));
        }
        let (first, last) = others?;
        self.lines.insert(hash, last);
        Some(first)
    }

    /// The events that wait for this one, in order.
    fn waiting(&self, ticket: Ticket) -> Vec<Ticket> {
        let next = |ticket: &Ticket| match self.entry(*ticket)?.next {
            0 => None,
            distance => Some(*ticket + Ticket::from(distance)),
        };
        std::iter::successors(next(&ticket), next).collect()
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
        self.entry(ticket)?.event.as_ref()
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
        let origin = std::mem::replace(&mut entry.origin, Origin::Source);
        self.released -= usize::from(matches!(origin, Origin::Released(_)));
        self.bytes -= event.bytes();
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

fn park(event: Event, reason: String) -> Park {
    Park { seq: event.seq, id: event.id, key: event.key(), reason, event: Some(event) }
}

/// FNV-1a, and a finish that spreads it over all bits.
fn hash(event: &Event) -> u64 {
    const PRIME: u64 = 0x0100_0000_01b3;
    let (kind, id) = event.key_bytes();
    let bytes = kind.iter().chain(b"/").chain(id);
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
