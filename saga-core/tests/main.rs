//! Declared sagas from end to end, on the store in memory.

mod admin;
mod children;
mod deadly;
mod declared;
mod policies;
mod shop;
#[cfg(feature = "sqlite")]
mod sqlite;
mod takeover;
