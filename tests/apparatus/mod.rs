//! The servers and faults of the tests are what they say they are.
//!
//! Every test here would fail if its fault were not injected: each first shows that the same thing works
//! without it, or that it works again afterwards.

mod kafka;
mod orphans;
mod postgres;
mod proxy;
mod redis;
