//! Which tickets the events have that were read last.
//!
//! A mark may move the source's cursor to a place that is behind all events before it but for some of the latest:
//! a relay that begins again from there reads those once more. The source counts them from the end, and here the count
//! becomes a ticket.

use super::Ticket;
use std::collections::VecDeque;

#[derive(Debug, Default)]
pub(super) struct Reads {
    /// The first ticket of each page, and how many events it had: their tickets follow each other.
    pages: VecDeque<(Ticket, usize)>,
}

impl Reads {
    /// A page of so many events was admitted, from this ticket on.
    pub(super) fn admitted(&mut self, first: Ticket, events: usize) {
        if events > 0 {
            self.pages.push_back((first, events));
        }
    }

    /// The ticket of the first of the last so many events, `next` if that is none. Later marks count to the same or to
    /// later ones: what is before it is forgotten.
    pub(super) fn back(&mut self, count: usize, next: Ticket) -> Ticket {
        let (mut left, mut kept, mut ticket) = (count, 0, next);
        for &(first, events) in self.pages.iter().rev() {
            if left == 0 {
                break;
            }
            ticket = first + events.saturating_sub(left) as Ticket;
            left = left.saturating_sub(events);
            kept += 1;
        }
        self.pages.drain(..self.pages.len() - kept);
        ticket
    }
}
