//! What proves sagas and stores: public, so that users prove their own.
//!
//! [`explore`] plays a saga again and again, each time with something else going wrong: participants that
//! refuse, answer late or never; processes that die, freeze and wake up, or lose their lease; a database
//! whose answers are lost. What happened is read from the [`Ledger`], the participants' own book, which
//! the engine never writes: all effects, or none, each at most once.
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
