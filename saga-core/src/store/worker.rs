//! Workers as the store sees them: rows with an epoch and a renewal counter.

use std::time::Duration;

use super::commit::{Loaded, Mail};
use crate::id::{Fingerprint, WorkerId};

/// A worker that joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewWorker {
    /// This incarnation.
    pub id: WorkerId,
    /// For people: host and process.
    pub label: String,
    /// How long its renewal counter may stand still before another may take over.
    pub lease: Duration,
}

/// A worker's right to commit: its row must still have this epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fence {
    /// The worker.
    pub worker: WorkerId,
    /// Its epoch.
    pub epoch: i64,
}

/// What a renewal came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease runs on; these are the other workers that are not drained.
    Renewed(Vec<Peer>),
    /// The worker was fenced: it must stop.
    Fenced,
}

/// Another worker, as far as judging it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The worker.
    pub id: WorkerId,
    /// Its renewal counter; what matters is only whether it moves.
    pub renewals: i64,
    /// Its own lease.
    pub lease: Duration,
    /// The store knows that its process is gone (on one host: its file lock is free), or that it was
    /// fenced but not drained yet: nothing has to be observed any more.
    pub gone: bool,
}

/// What a worker is ready to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The worker's own fence.
    pub fence: Fence,
    /// The definitions it has code for.
    pub fingerprints: Vec<Fingerprint>,
    /// How many sagas it takes at most.
    pub limit: usize,
    /// The newest format of mail that it reads. A saga with unread mail in a newer one is not given to it: what
    /// that says may be that nothing more is to happen.
    pub reads: i16,
}

/// What a claim gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claimed {
    /// Sagas that this worker owns from now on.
    pub sagas: Vec<Loaded>,
    /// Unconsumed mail of sagas that this worker owned before.
    pub mail: Vec<Mail>,
}
