//! What a store keeps of one key.
//!
//! A row has two halves: the *action* (every key has one) and the *undo* (only a saga participant's keys use
//! it). Keeping both in one row makes the claim and the [barrier](crate::barrier) one atomic operation on
//! every store, a Redis cluster included.
//!
//! At most one claim is held on a row at a time. Its `stamp` is the ownership token: random per claim, never
//! reused, so that even a store that lost its memory cannot take an old holder for the new one.

use std::fmt;

use bytes::Bytes;

use crate::time::Time;
use crate::{Fingerprint, KeyId};

/// How far one half of a row has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing was begun.
    None = 0,
    /// A claim was given out: running, or in doubt once its lease is over.
    Running = 1,
    /// It took effect.
    Applied = 2,
    /// It was refused for good, and nothing took effect.
    Rejected = 3,
}

impl Progress {
    /// The number that stores keep.
    pub fn code(self) -> i16 {
        self as i16
    }

    /// Reads [`code`](Self::code) back.
    pub fn from_code(code: i16) -> Option<Self> {
        [Self::None, Self::Running, Self::Applied, Self::Rejected].into_iter().find(|p| p.code() == code)
    }
}

/// The ownership token of one claim.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp(pub [u8; 16]);

impl Stamp {
    /// A fresh one.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stamp({}…)", crate::secret::hex(&self.0[..4]))
    }
}

/// What is kept of one key, its times apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The forward half.
    pub action: Progress,
    /// The undoing half, of a saga participant's key.
    pub undo: Progress,
    /// The action is refused for ever: its undo, or a `settle`, came first.
    pub refused: bool,
    /// An attempt before the present holder's may have taken effect.
    pub doubt: bool,
    /// Whose claim it is or was.
    pub stamp: Stamp,
    /// Counts the claims given out on this row: a fencing token for whoever can check one.
    pub fence: u64,
    /// What the action was asked.
    pub action_print: Option<Fingerprint>,
    /// What the undo was asked.
    pub undo_print: Option<Fingerprint>,
    /// The action's answer, encoded, perhaps sealed.
    pub action_answer: Option<Bytes>,
    /// The undo's answer, likewise.
    pub undo_answer: Option<Bytes>,
    /// Where a phased operation goes on.
    pub point: Option<Point>,
}

/// A recovery point of a phased operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// The operation, by which a completer finds its own.
    pub operation: String,
    /// The phase that comes next.
    pub phase: String,
    /// What that phase needs to know, encoded, perhaps sealed.
    pub memo: Bytes,
}

impl Row {
    /// Whether a claim is held on it, or was and is in doubt.
    pub fn running(&self) -> bool {
        self.action == Progress::Running || self.undo == Progress::Running
    }

    /// The state as one word.
    pub fn state(&self) -> State {
        match (self.action, self.undo) {
            (_, Progress::Running) => State::Undoing,
            (_, Progress::Applied | Progress::Rejected) => State::Undone,
            (Progress::Running, _) => State::Running,
            (Progress::Applied, _) => State::Applied,
            (Progress::Rejected, _) => State::Rejected,
            (Progress::None, _) => State::Refused,
        }
    }
}

/// A row's state as one word, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The action was claimed; in doubt if its lease is over.
    Running,
    /// The action took effect, its answer is kept.
    Applied,
    /// The action was refused for good, its answer is kept.
    Rejected,
    /// The undo was claimed; in doubt if its lease is over.
    Undoing,
    /// Undone, or found to need no undoing.
    Undone,
    /// Nothing ran and nothing will: settled.
    Refused,
}

/// A row with its times, as a store reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dated {
    /// The row.
    pub row: Row,
    /// When the key was first claimed.
    pub created_at: Time,
    /// Until when the claim is held. `None` on a running row means *for ever*: a missing deadline is a lock,
    /// not an orphan.
    pub lease_until: Option<Time>,
    /// From when on the key is as good as new. Never set on a running row.
    pub expires_at: Option<Time>,
}

impl Dated {
    /// Whether nothing of it counts any more. A running row never expires, whatever its times say.
    pub fn expired(&self, now: Time) -> bool {
        !self.row.running() && self.expires_at.is_some_and(|at| at <= now)
    }

    /// Whether it is running and its lease is over: not proof that its holder is dead.
    pub fn in_doubt(&self, now: Time) -> bool {
        self.row.running() && self.lease_until.is_some_and(|until| until <= now)
    }
}

/// One key as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key's id.
    pub id: KeyId,
    /// What is kept of it.
    pub dated: Dated,
    /// The store's time when it was read.
    pub now: Time,
}

impl Entry {
    /// Whether nobody knows how it ended.
    pub fn in_doubt(&self) -> bool {
        self.dated.in_doubt(self.now)
    }
}
