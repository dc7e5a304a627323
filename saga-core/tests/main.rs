//! Declared sagas from end to end, on the store in memory.

mod admin;
mod children;
#[cfg(feature = "seal")]
mod codec;
mod deadly;
mod declared;
mod explore;
mod keyed;
mod machine;
mod newer_mail;
mod odd_store;
mod panics;
mod policies;
mod shop;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(feature = "sqlite")]
mod start_in;
mod takeover;
#[cfg(feature = "sqlite")]
mod transactional;
mod unfit;
