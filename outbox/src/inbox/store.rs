//! What an inbox asks of its database; each method is one statement.

use super::{Assignment, ParkedRecord, Release};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

/// The inbox's statements, in each database's SQL.
pub trait InboxStore {
    fn assign(
        &mut self,
        group: &str,
        topic: &str,
        partition: i32,
        owner: &str,
    ) -> impl Future<Output = Result<Assignment>> + Send;

    fn enter(&mut self, group: &str, at: &Assignment) -> impl Future<Output = Result<Option<i64>>> + Send;

    fn first_time(&mut self, group: &str, ids: &[Uuid]) -> impl Future<Output = Result<Vec<Uuid>>> + Send;

    /// Raises the key's last number to `number`; answers the number before, 0 without any.
    fn draw_sequence(
        &mut self,
        group: &str,
        source: &str,
        key: &str,
        number: i64,
    ) -> impl Future<Output = Result<i64>> + Send;

    fn advance(
        &mut self,
        group: &str,
        at: &Assignment,
        next_offset: i64,
        last_id: Option<Uuid>,
    ) -> impl Future<Output = Result<()>> + Send;

    fn forget(&mut self, group: &str, age: Duration, limit: u32) -> impl Future<Output = Result<u64>> + Send;

    fn park(&mut self, group: &str, record: &ParkedRecord) -> impl Future<Output = Result<()>> + Send;

    fn parked_keys(
        &mut self,
        group: &str,
        at: &Assignment,
    ) -> impl Future<Output = Result<Vec<Option<Vec<u8>>>>> + Send;

    fn released(
        &mut self,
        group: &str,
        at: &Assignment,
    ) -> impl Future<Output = Result<Option<ParkedRecord>>> + Send;

    fn hold(
        &mut self,
        group: &str,
        record: &ParkedRecord,
        reason: &str,
    ) -> impl Future<Output = Result<()>> + Send;

    fn unpark(&mut self, group: &str, record: &ParkedRecord) -> impl Future<Output = Result<bool>> + Send;

    fn parked(&mut self, group: &str, limit: u32) -> impl Future<Output = Result<Vec<ParkedRecord>>> + Send;

    fn release(
        &mut self,
        group: &str,
        topic: &str,
        key: Option<&[u8]>,
        decision: Release,
    ) -> impl Future<Output = Result<u64>> + Send;
}

pub(super) fn fenced(at: &Assignment) -> Error {
    Error::Fenced { topic: at.topic.clone(), partition: at.partition, epoch: at.epoch }
}

pub(super) fn headers_text(headers: &BTreeMap<String, String>) -> String {
    serde_json::to_string(headers).expect("a map of strings is always JSON")
}

pub(super) fn headers_from(text: &str) -> Result<BTreeMap<String, String>> {
    serde_json::from_str(text).map_err(|error| Error::Corrupt {
        what: "a parked record's headers".into(),
        problem: error.to_string(),
    })
}
