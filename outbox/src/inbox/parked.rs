//! Records set aside, with the later records of their keys, until a person decides.

use super::{Assignment, Inbox};
use crate::connection::Connection;
use crate::error::Result;
use std::collections::BTreeMap;

/// A record that could not be applied, or that came after one with the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedRecord {
    /// The topic it was read from.
    pub topic: String,
    /// The partition within it.
    pub partition: i32,
    /// Its offset in the partition.
    pub offset: i64,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's value; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// The record's headers, as far as they are text.
    pub headers: BTreeMap<String, String>,
    /// Why it is here.
    pub reason: String,
}

/// What an operator decided about a parked key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Hand the key's records to the handler again, in order.
    Retry,
    /// Forget them; they are never applied.
    Drop,
}

impl Inbox {
    /// Sets a record aside in the business transaction; then the watermark may pass it.
    ///
    /// # Errors
    ///
    /// The database's error.
    pub async fn park<C: Connection>(&self, tx: &mut C, record: &ParkedRecord) -> Result<()> {
        tx.park(self.group(), record).await
    }

    /// The keys with parked records in an assigned partition: park every later record of theirs.
    ///
    /// # Errors
    ///
    /// The database's error.
    pub async fn parked_keys<C: Connection>(
        &self,
        connection: &mut C,
        assignment: &Assignment,
    ) -> Result<Vec<Option<Vec<u8>>>> {
        connection.parked_keys(self.group(), assignment).await
    }

    /// The oldest parked record of a key of this partition that an operator has released, with
    /// whatever was parked behind it since. Apply it in a transaction that also calls
    /// [`Inbox::unpark`].
    ///
    /// # Errors
    ///
    /// The database's error.
    pub async fn released<C: Connection>(
        &self,
        connection: &mut C,
        assignment: &Assignment,
    ) -> Result<Option<ParkedRecord>> {
        connection.released(self.group(), assignment).await
    }

    /// Sets a released record aside again, with its key, because it still cannot be applied.
    ///
    /// # Errors
    ///
    /// The database's error.
    pub async fn hold<C: Connection>(&self, tx: &mut C, record: &ParkedRecord, reason: &str) -> Result<()> {
        tx.hold(self.group(), record, reason).await
    }

    /// Removes a parked record that was applied; answers whether more of its key are parked.
    ///
    /// # Errors
    ///
    /// The database's error.
    pub async fn unpark<C: Connection>(&self, tx: &mut C, record: &ParkedRecord) -> Result<bool> {
        tx.unpark(self.group(), record).await
    }

    /// All parked records of the group in order, at most `limit`.
    ///
    /// # Errors
    ///
    /// The database's error.
    pub async fn parked<C: Connection>(&self, connection: &mut C, limit: u32) -> Result<Vec<ParkedRecord>> {
        connection.parked(self.group(), limit).await
    }

    /// Records an operator's decision about all parked records of a key; answers how many.
    ///
    /// Released records are applied by the partition's owner, in order, before later ones of the key.
    ///
    /// # Errors
    ///
    /// The database's error.
    pub async fn release<C: Connection>(
        &self,
        connection: &mut C,
        topic: &str,
        key: Option<&[u8]>,
        decision: Release,
    ) -> Result<u64> {
        connection.release(self.group(), topic, key, decision).await
    }
}
