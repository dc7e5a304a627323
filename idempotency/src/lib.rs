#![doc = include_str!("../README.md")]
//!
//! # Where to look
//!
//! | | |
//! |---|---|
//! | [`layer`] | the HTTP server's side; [`layer::problem`] lists the codes |
//! | [`client`] | the HTTP client's side |
//! | [`fused`], [`leased`], [`phased`] | the three guarantees: states, who may do what, clocks, failures |
//! | [`once`] | any async block |
//! | [`barrier`] | a saga's participant, on any transport |
//! | [`store`] | where rows are kept, and what a store promises |
//! | [`testing`] | the conformance suite |

mod answer;
pub mod barrier;
mod claim;
#[cfg(feature = "client")]
pub mod client;
mod fingerprint;
#[cfg(feature = "http")]
mod flights;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub mod fused;
#[cfg(feature = "http")]
pub mod headers;
mod key;
#[cfg(feature = "http")]
pub mod layer;
pub mod leased;
mod metrics;
pub mod once;
pub mod phased;
mod row;
mod scope;
mod seal;
mod secret;
pub mod store;
pub mod testing;
mod time;
mod trace;
#[cfg(any(feature = "http", feature = "postgres"))]
mod unstoppable;

pub use answer::{Answer, Content};
pub use claim::{Claim, ClaimRequest, Direction, InDoubt, Kept, Put, Ruling, Ticket, Verdict};
pub use fingerprint::{Fingerprint, Part};
pub use key::{KEY_BYTES_MAX, Key, KeyError, Syntax};
#[cfg(feature = "http")]
pub use layer::{Execution, IdempotencyLayer, Reconciled};
pub use row::{Dated, Entry, Point, Progress, Row, Stamp, State};
pub use scope::Scope;
pub use seal::Seal;
pub use secret::{KeyId, Secret, SecretError};
#[cfg(feature = "postgres")]
pub use store::PostgresStore;
#[cfg(feature = "redis")]
pub use store::RedisStore;
#[cfg(feature = "sqlite")]
pub use store::SqliteStore;
pub use store::{Counts, Expiry, Held, MemoryStore, Store, StoreError, StoreErrorKind};
pub use time::Time;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use sqlx;
