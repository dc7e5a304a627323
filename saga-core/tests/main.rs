//! Declared sagas from end to end, on the store in memory.

mod declared;
mod shop;
mod takeover;
