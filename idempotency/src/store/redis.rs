//! Rows in Redis (7 or later; single, Sentinel or Cluster).
//!
//! One row is one string value under one key, so every script runs on a Cluster. The value begins with a
//! header of fixed width that the script compares and writes (stamp, running or not, lease, creation); what
//! follows is the row's encoding, which only this module reads. One script does all conditional writes: it
//! reads Redis' own clock, compares the header, and writes or answers what is there. Nothing is ever read
//! and then deleted in two commands.
//!
//! A first claim, by far the most frequent write, does without the script, which would cost Redis twice the time:
//! one `SET … NX GET` writes or reads. Its lease is counted from this process' estimate of Redis' clock: the time
//! that a script last told, within this second, plus what has passed here since. The estimate lags by the time of
//! one trip, so the lease is at most shorter, as if the process had paused a moment after it claimed. An outcome
//! that is found needs no clock; for a claim that is found Redis is asked for the time. In a Cluster each server
//! has a clock of its own, and every write is the script's.
//!
//! A running row has no TTL: it is never removed by time. A kept outcome has one; Redis removes it.
//!
//! # What Redis can lose
//!
//! Redis replicates asynchronously and, with its usual `appendfsync everysec`, answers before the disk has
//! it. A crash of the machine, or a failover, may forget claims and answers it has acknowledged, and each one
//! forgotten can let an effect happen twice: after a failover those are exactly the writes that the new master
//! had not received, and those that an old master, cut off from the others, still took. `min-replicas-to-write`
//! narrows the second; nothing in Redis closes the first. Use Postgres or SQLite where that is not acceptable. An
//! evicting `maxmemory-policy` would forget keys in normal operation, and is refused at start.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use redis::Script;

use super::{Change, Counts, Expected, Store, StoreError, StoreErrorKind, Swap};
use crate::KeyId;
use crate::claim::Put;
use crate::row::Dated;
use crate::secret::hex;
use crate::time::{Time, micros};

mod clock;
mod link;
mod scan;
mod sentinel;
mod value;

use clock::Clock;
use link::Link;

/// A store in Redis. See [the module](self) for what it can lose.
#[derive(Clone)]
pub struct RedisStore {
    link: Link,
    prefix: String,
    swap: Arc<Script>,
    clock: Arc<Clock>,
}

impl RedisStore {
    /// Connects to a single server (`redis://host/0`, `rediss://…`), to a Cluster
    /// (`redis-cluster://host1,host2`), or to the master named in `redis-sentinel://host1,host2/name`, and
    /// checks the server's settings. Of the last two, `user:password@` before the hosts is for the servers that
    /// hold the keys.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let clock = Arc::new(Clock::new());
        let store = Self {
            link: Link::connect(url, &clock).await?,
            prefix: "idempotency:".to_owned(),
            swap: Arc::new(Script::new(include_str!("redis/swap.lua"))),
            clock,
        };
        store.check().await?;
        Ok(store)
    }

    /// Puts `prefix` in front of every key, in place of `idempotency:`.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    fn key(&self, id: &KeyId) -> String {
        let mut key = String::with_capacity(self.prefix.len() + 64);
        key.push_str(&self.prefix);
        key.push_str(&hex(&id.0));
        key
    }

    /// Claims what nobody has claimed before, in one plain command; `None` where that takes the script.
    async fn first(&self, id: &KeyId, put: &Put) -> Result<Option<Swap>, StoreError> {
        if matches!(self.link, Link::Cluster(_)) {
            return Ok(None);
        }
        let Some(lease) = put.lease.filter(|_| put.fresh && put.keep.is_none()) else { return Ok(None) };
        let Some(now) = self.clock.now() else { return Ok(None) };
        let mut set = redis::cmd("SET");
        set.arg(self.key(id)).arg(value::whole(&put.row, now.after(lease), now)).arg("NX").arg("GET");
        let stored: Option<Vec<u8>> = set.query_async(&mut self.link.clone()).await.map_err(unavailable)?;
        let Some(stored) = stored else { return Ok(Some(Swap::Done)) };
        let dated = value::decode(&Bytes::from(stored))?;
        // Whether a claim lasts is for Redis' clock to say. An outcome is there, or Redis has removed it.
        Ok((!dated.row.running()).then_some(Swap::Other { dated: Some(dated), now }))
    }

    async fn check(&self) -> Result<(), StoreError> {
        let refuse = |what: String| Err(StoreError::new(StoreErrorKind::Settings, what));
        for (_, info) in self.link.info().await? {
            let field = |name: &str| field(&info, name);
            let policy = field("maxmemory_policy");
            if policy != "noeviction" {
                return refuse(format!(
                    "the redis store is unsafe: maxmemory-policy is {policy:?}; an evicted key lets an effect \
                     happen twice: set maxmemory-policy noeviction"
                ));
            }
            if field("role") == "slave" && matches!(self.link, Link::One(_)) {
                return refuse(
                    "the redis store is unsafe: this server is a replica: connect to the master".into(),
                );
            }
            let major = field("redis_version").split('.').next().and_then(|v| v.parse::<u32>().ok());
            if major.is_some_and(|major| major < 7) {
                return refuse(format!("redis {} is too old: 7 is needed", field("redis_version")));
            }
            if field("aof_enabled") == "0" {
                tracing::warn!(
                    setting = "appendonly",
                    "redis keeps no append-only file: a restart forgets every claim since its last snapshot"
                );
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisStore").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn swap(&self, id: &KeyId, expected: &Expected, change: &Change) -> Result<Swap, StoreError> {
        if let (Expected::Absent, Change::Put(put)) = (expected, change)
            && let Some(swap) = self.first(id, put).await?
        {
            return Ok(swap);
        }
        let mut call = self.swap.key(self.key(id));
        let (mode, header) = value::expected(expected);
        call.arg(mode).arg(header);
        if let Change::Put(put) = change {
            call.arg(value::mark(&put.row))
                .arg(put.lease.map_or(-1, micros))
                // Redis refuses a TTL of nothing.
                .arg(put.keep.map_or(-1, |keep| micros(keep).max(1000)))
                .arg(u8::from(put.fresh))
                .arg(value::encode(&put.row));
        }
        let answer = call.invoke_async(&mut self.link.clone()).await.map_err(unavailable)?;
        let (done, now, stored): (i64, i64, Option<Vec<u8>>) = answer;
        self.clock.told(Time(now));
        if done == 1 {
            return Ok(Swap::Done);
        }
        let dated = stored.map(|stored| value::decode(&Bytes::from(stored))).transpose()?;
        Ok(Swap::Other { dated, now: Time(now) })
    }

    async fn read(&self, id: &KeyId) -> Result<(Option<Dated>, Time), StoreError> {
        // "Replace what is not there by nothing" changes nothing, and answers the row and the clock at once.
        match self.swap(id, &Expected::Absent, &Change::Delete).await? {
            Swap::Other { dated, now } => Ok((dated, now)),
            Swap::Done => Ok((None, Time(0))),
        }
    }

    /// Redis removes what is over by itself: nothing is left to do.
    async fn sweep(&self, _limit: u32) -> Result<u64, StoreError> {
        Ok(0)
    }

    /// Reads every key with this store's prefix: for people, not for a hot path.
    async fn count(&self) -> Result<Counts, StoreError> {
        let mut counts = Counts::default();
        self.each(|_, dated, now| counts.add(&dated.row, dated.in_doubt(now), 1)).await?;
        Ok(counts)
    }

    /// Reads every key with this store's prefix.
    async fn unfinished(&self, operation: &str, limit: u32) -> Result<Vec<KeyId>, StoreError> {
        let mut found = Vec::new();
        self.each(|id, dated, now| {
            if dated.in_doubt(now) && dated.row.point.is_some_and(|point| point.operation == operation) {
                found.push((id, dated.row.fence));
            }
        })
        .await?;
        Ok(super::least_tried(found, limit))
    }
}

/// A field of an `INFO`.
fn field(info: &str, name: &str) -> String {
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or("").trim().to_owned()
}

pub(super) fn unavailable(error: redis::RedisError) -> StoreError {
    StoreError::unavailable("redis", error)
}
