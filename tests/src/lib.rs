//! The apparatus of the tests: servers that a test owns and may harm, and the faults it injects.
//!
//! A promise such as "no effect is applied twice" is worth what the faults are worth under which it was
//! tried. So nothing here imitates a server: [`servers`] starts real Postgres, Redis and Kafka processes,
//! each on a free port of the loopback interface and in a temporary directory of its own, and can kill,
//! freeze and restart them; [`proxy`] stands between a client and a server and loses what the network loses.
//!
//! Two ways to a server:
//!
//! - a test that **harms** it starts its own: `Postgres::start()`, `Redis::start()`, `Kafka::start()`;
//! - a test that only **uses** it takes a fresh corner of a shared one: `postgres::fresh_database()`,
//!   `redis::fresh_keyspace()`, `kafka::shared()`. Shared servers are started on first use, or are the
//!   ones named by `TEST_POSTGRES_URL`, `TEST_REDIS_URL` and `TEST_KAFKA`.
//!
//! A test behind [`servers::PgBouncer`] says that it was not made where that is not installed; everything else must be
//! there.
//!
//! Whatever is started ends with the test process, however that ends: see [`servers`].
//!
//! This is test code: on trouble it panics, with what went wrong and what to do about it.

pub mod actor;
pub mod proxy;
pub mod servers;

mod seed;

pub use seed::seeded;
