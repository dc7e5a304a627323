//! The engine: a worker process that drives sagas.
//!
//! # Who does what
//!
//! ```text
//!   Client ──start──▶ starts ─┐ one statement per batch            ┌─▶ lease    renews, observes peers,
//!                             ├──────────────▶ Store ◀─────────────┤            fences the dead
//!   driver ──commit─▶ commits ┘                                    └─▶ claimer  takes what is due
//!     │  ▲
//!     ▼  │ outcome
//!   attempt (the user's code)
//! ```
//!
//! A **driver** is one task per live saga. It owns the saga's machine, and it alone decides for it:
//! it takes what happened (an attempt's outcome, mail, a due time), asks the machine what comes next,
//! sends all of it as *one* commit, waits until that is durable, and only then starts the attempts
//! that the commit recorded. A saga is therefore in at most one batch at a time; what happens
//! meanwhile waits and shares the next commit.
//!
//! The **batcher** gathers the commits of all drivers. There is no timer: while fewer batches are in flight
//! than the store can use side by side (two on Postgres, one on SQLite), whatever waits is sent at once; what
//! arrives meanwhile forms the next batch. At low load a batch is one commit, sent by the driver itself, at high load
//! hundreds. A saga that goes alone is one task from its start to its end, woken by the answers of the store and of its
//! steps.
//!
//! # The life of a worker
//!
//! ```text
//!   join ─▶ serving ──────────────▶ draining ─▶ left (fences itself)
//!              │ lease not renewed in time, or fenced by another
//!              ▼
//!            lost: every driver is dropped; what it had started is in doubt, and whoever takes
//!                  over settles it. The process joins again as a new incarnation.
//! ```
//!
//! # What the database guarantees
//!
//! A commit is a compare-and-set on (run, number), joined to the worker's fence (see [`crate::store`]).
//! So a worker that is wrong about its lease can do no harm to a journal: its commits are refused, and
//! since no attempt starts before its start is durable, it starts nothing new either. What it had
//! started before goes on and cannot be called back; that is why the successor treats it as in doubt.
//!
//! # What a clock is trusted for
//!
//! Nothing but liveness. A worker stops by its own trusted clock a margin before its lease can be
//! observed as expired; another is taken for dead only after its renewal counter stood still for a
//! whole lease *observed* by the one who takes over. A clock that jumps delays or hastens a retry; it
//! expires nobody.

mod attempt;
mod batcher;
mod changed;
mod committer;
mod driver;
mod gate;
mod keeping;
mod lease;
mod limit;
mod live;
mod local;
mod peers;
mod registry;
mod retention;
mod serve;
mod shared;
mod starter;
mod trouble;
mod unfit;
mod worker;

pub use registry::Unregistrable;
#[cfg(any(test, feature = "testing"))]
pub(crate) use registry::Wrap;
pub(crate) use shared::Shared;
pub(crate) use starter::Starter;
pub use worker::{Running, Settings, Worker};

/// A starter of sagas that nobody owns yet.
pub(crate) fn spawn_starter(
    store: std::sync::Arc<dyn crate::store::Store>,
    clock: crate::clock::Clock,
) -> Starter {
    starter::spawn(store, None, clock)
}
