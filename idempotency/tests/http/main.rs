//! The layer from outside, as a client sees it: axum in front of a memory store.

mod answers;
mod bench;
mod doubt;
mod refusals;
mod saga;
