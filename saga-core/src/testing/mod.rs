//! What proves sagas and stores: public, so that users prove their own.
//!
//! [`explore`] plays a saga again and again, each time with something else going wrong: participants that
//! refuse, answer late or never; processes that die, freeze and wake up, drain, or lose their lease; a
//! database whose answers are lost. What happened is read from the [`Ledger`], the participants' own book,
//! which the engine never writes: all effects or none, each at most once, undone in reverse order, and
//! nothing blocked or undone without a reason.
//!
//! # Your own sagas
//!
//! Put the ledger where your application keeps the clients of its services. A step that has its context at
//! hand calls it with that; a client that only sees what goes over the wire, with the headers:
//!
//! ```
//! use saga_core::StepError;
//! use saga_core::testing::{Ledger, Request};
//!
//! /// What a test puts in the place of the payment service.
//! struct Payments(Ledger);
//!
//! impl Payments {
//!     async fn charge(&self, headers: &[(&str, &str)], amount: u64) -> Result<String, StepError> {
//!         let request = Request::from_headers(headers.iter().copied()).map_err(StepError::rejected)?;
//!         self.0.act(request, format!("charged {amount}")).await
//!     }
//! }
//! ```
//!
//! Then `explore(&definition, App::with_ledger, input).run().unwrap()` is the whole test. It ends with a
//! count of what was tried, or with one line, such as
//!
//! ```text
//! SAGA_PLAN='place-order:charge#0/action=lost-answer @4=crash-before' breaks: it is compensated, but …
//! ```
//!
//! The line says what participants did (the answer of `charge` was lost once) and what hit which point
//! (the process died before point 4). With it in the environment the same test plays that run alone and
//! tells its whole story: every point, the journal, and the book.
//!
//! A transactional step is explored with [`MemoryTx`] in the place of the database's transaction: write its code
//! over a trait of yours that both have, or give the explorer a definition with a stand-in, whose effects end in
//! [`Ledger::act_in`]. What is not explored: child sagas. A saga's limits on rate and concurrency are in force, and take virtual time.
//!
//! [`conformance`] holds a store to the promises that the engine relies on.

mod behaviour;
mod calls;
pub mod conformance;
mod evidence;
mod explore;
mod faulty;
mod ledger;
mod plan;
mod play;
mod process;
mod rules;
mod scene;
mod scripts;
mod sweep;
#[cfg(test)]
mod twins;

pub use behaviour::{Behaviour, Direction, Script, Target};
pub use evidence::Evidence;
pub use explore::{Explore, Explored, Violation, explore};
pub use faulty::FaultyStore;
pub use ledger::{Entry, Ledger, Request, Verdict};
pub use plan::{Hit, Plan, Point, Spot};
pub use process::Process;
pub use scene::Scene;

/// The transaction that the explorer lends a transactional step; see [`Ledger::act_in`].
pub type MemoryTx = crate::Tx<crate::store::memory::MemoryTransaction>;
