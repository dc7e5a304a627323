//! The declared saga: a plan built with typed handles, and the machine that decides what comes next.

mod bounds;
pub mod builder;
mod differences;
pub mod feeds;
pub mod machine;
pub mod plan;
mod unwind;

pub(crate) use bounds::later;
pub use builder::{Builder, Compensable, Definition, Forward};
pub use feeds::{Feeds, Output};
pub use machine::{Decision, Machine};
pub use plan::{Kind, Node, Plan, Undo, Wiring};
