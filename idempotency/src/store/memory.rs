//! Rows in this process's memory: for tests, and for one process that may forget.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;

use super::{Change, Counts, Expected, Store, StoreError, Swap};
use crate::KeyId;
use crate::row::Dated;
use crate::time::Time;

/// A store in memory. Clones share their rows.
#[derive(Clone)]
pub struct MemoryStore {
    rows: Arc<Mutex<HashMap<KeyId, Dated>>>,
    clock: Arc<dyn Fn() -> Time + Send + Sync>,
}

impl MemoryStore {
    /// An empty store with this host's clock.
    pub fn new() -> Self {
        Self::with_clock(Time::of_this_host)
    }

    /// An empty store with a clock of your own, for tests about time.
    pub fn with_clock(clock: impl Fn() -> Time + Send + Sync + 'static) -> Self {
        Self { rows: Arc::default(), clock: Arc::new(clock) }
    }

    /// The ids of all rows, in no order.
    pub fn ids(&self) -> Vec<KeyId> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<KeyId, Dated>> {
        // A panic cannot leave the map half-written: rows are replaced whole.
        self.rows.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryStore({} rows)", self.lock().len())
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn swap(&self, id: &KeyId, expected: &Expected, change: &Change) -> Result<Swap, StoreError> {
        let mut rows = self.lock();
        let now = (self.clock)();
        let stored = rows.get(id);
        if !expected.is_met(stored) {
            return Ok(Swap::Other { dated: stored.cloned(), now });
        }
        match change {
            Change::Delete => {
                rows.remove(id);
            }
            Change::Put(put) => {
                let created_at = stored.map(|s| s.created_at).filter(|_| !put.fresh).unwrap_or(now);
                let lease_until = put.lease.map(|lease| now.after(lease));
                let expires_at = put.keep.map(|keep| now.after(keep));
                rows.insert(*id, Dated { row: put.row.clone(), created_at, lease_until, expires_at });
            }
        }
        Ok(Swap::Done)
    }

    async fn read(&self, id: &KeyId) -> Result<(Option<Dated>, Time), StoreError> {
        let rows = self.lock();
        Ok((rows.get(id).cloned(), (self.clock)()))
    }

    async fn sweep(&self, limit: u32) -> Result<u64, StoreError> {
        let mut rows = self.lock();
        let now = (self.clock)();
        let over: Vec<KeyId> =
            rows.iter().filter(|(_, row)| row.expired(now)).take(limit as usize).map(|(id, _)| *id).collect();
        for id in &over {
            rows.remove(id);
        }
        Ok(over.len() as u64)
    }

    async fn count(&self) -> Result<Counts, StoreError> {
        let rows = self.lock();
        let now = (self.clock)();
        let mut counts = Counts::default();
        for dated in rows.values().filter(|dated| !dated.expired(now)) {
            counts.add(&dated.row, dated.in_doubt(now), 1);
        }
        Ok(counts)
    }

    async fn unfinished(&self, operation: &str, limit: u32) -> Result<Vec<KeyId>, StoreError> {
        let rows = self.lock();
        let now = (self.clock)();
        let mine = |dated: &Dated| dated.row.point.as_ref().is_some_and(|point| point.operation == operation);
        let found = rows.iter().filter(|(_, dated)| dated.in_doubt(now) && mine(dated));
        Ok(super::least_tried(found.map(|(id, dated)| (*id, dated.row.fence)).collect(), limit))
    }
}
