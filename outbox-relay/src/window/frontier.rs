//! How far everything is done.

use super::{Origin, Ticket, Window};
use crate::event::{Mark, Park};

/// What has become true since the last time, to be made durable in one transaction.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Frontier {
    /// Every event of the source up to here is done.
    pub(crate) mark: Option<Mark>,
    /// Released rows that have been published, by number.
    pub(crate) released: Vec<i64>,
    /// Events to be set aside. Some may lie beyond the frontier; none of those passed is missing.
    pub(crate) parks: Vec<Park>,
    /// Released rows that are set aside again.
    pub(crate) parks_again: Vec<Park>,
}

impl Frontier {
    pub(crate) fn is_empty(&self) -> bool {
        self.mark.is_none()
            && self.released.is_empty()
            && self.parks.is_empty()
            && self.parks_again.is_empty()
    }
}

impl Window {
    /// Moves the frontier over what is done, and answers what that makes true.
    pub(crate) fn advance(&mut self) -> Frontier {
        let (parks, parks_again) = (std::mem::take(&mut self.parks), std::mem::take(&mut self.parks_again));
        let mut frontier = Frontier { parks, parks_again, ..Frontier::default() };
        while self.entries.front().is_some_and(|entry| entry.event.is_none()) {
            let entry = self.entries.pop_front().expect("there is a front");
            self.first += 1;
            match entry.origin {
                Origin::Source => {}
                Origin::Mark(mark, marked) => {
                    frontier.mark = Some(mark);
                    self.marked = marked;
                }
                Origin::Released(seq) => {
                    self.released -= 1;
                    frontier.released.push(seq);
                }
            }
        }
        frontier
    }

    /// Whether [`Window::advance`] would answer anything.
    pub(crate) fn can_advance(&self) -> bool {
        self.has_parks() || self.entries.front().is_some_and(|entry| entry.event.is_none())
    }

    /// Whether events were set aside since the last [`Window::advance`].
    pub(crate) fn has_parks(&self) -> bool {
        !self.parks.is_empty() || !self.parks_again.is_empty()
    }

    /// Whether released events are still on their way.
    pub(crate) fn has_released(&self) -> bool {
        self.released > 0
    }

    /// The first ticket that no mark which the frontier has passed stands for: from there on a relay that starts
    /// again would read again.
    pub(crate) fn first_unmarked(&self) -> Ticket {
        self.marked
    }
}
