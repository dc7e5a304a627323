//! Servers that tests own.
//!
//! # How a server lives and dies
//!
//! Every server has a *home*: a temporary directory with its data and its log, and a watcher. The watcher is
//! a shell that reads from a pipe whose other end only the test process holds. While the test process lives
//! it is told which process to watch over. When the pipe closes, for whatever reason (the home was dropped,
//! the test process returned, was interrupted or was killed with SIGKILL), the watcher kills that process
//! and removes the directory. A parent-death signal would not do: the kernel ties it to the *thread* that
//! started the server, and the test harness starts a thread per test.
//!
//! A server is started in a process group of its own, so that Ctrl-C in a terminal reaches the tests and
//! not the server behind their back. Killing and freezing reach the server *with all its children*: they
//! are stopped one by one until none of them runs, and only then killed, so that the server dies at one
//! point in time, as in a power cut. (The kernel keeps what a killed process has written: a test that needs
//! lost disk writes needs more than this.)
//!
//! "Ready" means that the server has answered a client. While waiting, a server that exits fails the test
//! at once, with the end of its log.
//!
//! Needs Linux (`/proc`) and `sh`.

pub mod kafka;
pub mod postgres;
pub mod redis;

mod disk;
mod home;
mod pgbouncer;
mod port;
pub(crate) mod process;
mod redis_cluster;
mod redis_sentinel;
mod supervised;

pub use self::disk::{Disk, NoDisk};
pub use self::kafka::Kafka;
pub use self::pgbouncer::PgBouncer;
pub use self::port::free_port;
pub use self::postgres::Postgres;
pub use self::redis::Redis;
pub use self::redis_cluster::RedisCluster;
pub use self::redis_sentinel::RedisSentinel;
