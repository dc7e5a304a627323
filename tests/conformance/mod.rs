//! Each crate's public conformance suite, against the real servers.

mod idempotency;
mod sagas;
