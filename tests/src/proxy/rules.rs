//! What the proxy does with bytes, and what it has done.

use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Way {
    #[default]
    Pass,
    Hold,
    Swallow,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rules {
    pub(super) requests: Way,
    pub(super) answers: Way,
    pub(super) delay: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Request,
    Answer,
}

impl Rules {
    pub(super) fn way(&self, direction: Direction) -> Way {
        match direction {
            Direction::Request => self.requests,
            Direction::Answer => self.answers,
        }
    }

    pub(super) fn delay(&self, direction: Direction) -> Duration {
        match direction {
            Direction::Request => Duration::ZERO,
            Direction::Answer => self.delay,
        }
    }
}

/// What a proxy has seen since it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// Connections accepted.
    pub accepted: u64,
    /// Times that a client asked after it had been answered: round trips, of all connections.
    pub round_trips: u64,
    /// Bytes of requests that were given to the server.
    pub requested: u64,
    /// Bytes of answers that were given to the client.
    pub answered: u64,
    /// Bytes of answers that were lost on purpose.
    pub swallowed: u64,
    /// Times that bytes arrived and were not let through.
    pub held: u64,
}
