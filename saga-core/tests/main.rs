//! Declared sagas from end to end, on the store in memory.

mod admin;
mod declared;
mod shop;
mod takeover;
