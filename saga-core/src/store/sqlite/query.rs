//! What operators and clients ask; every question is one statement on a connection that only reads.

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

use super::SqliteStore;
use super::error::failed;
use super::read::{journal_row, time};
use crate::id::{Fingerprint, Name, RunId, WorkerId};
use crate::journal::Timestamp;
use crate::priority::Priority;
use crate::store::commit::JournalRow;
use crate::store::decode;
use crate::store::error::Result;
use crate::store::query::{
    Counts, Filter, InFlight, Manifest, Query, State, Summary, UnreadMail, WorkerInfo,
};
use crate::store::task::to_its_end;

const SUMMARY: &str = "SELECT s.run, s.definition, s.version, s.fingerprint, s.saga, s.digest, s.started_at,
        coalesce(l.state, s.ended), l.owner, l.due, coalesce(s.ended_at, l.since), l.key,
        CASE WHEN l.turn IS NOT NULL THEN (SELECT k.run FROM saga_key k WHERE k.key = l.key) END,
        coalesce(l.priority, 0), l.error,
        CASE WHEN EXISTS (SELECT 1 FROM saga_attribute a WHERE a.run = s.run)
            THEN (SELECT json_group_object(a.name, a.value) FROM saga_attribute a WHERE a.run = s.run) END
    FROM saga_start s LEFT JOIN saga_live l ON l.run = s.run";

#[async_trait]
impl Query for SqliteStore {
    async fn find(&self, definition: &Name, saga: &str) -> Result<Option<Summary>> {
        let text = format!("{SUMMARY} WHERE s.definition = ? AND s.saga = ?");
        let rows = self.read(sqlx::query(AssertSqlSafe(text)).bind(definition.as_str()).bind(saga)).await?;
        rows.first().map(summary).transpose()
    }

    async fn summary(&self, run: RunId) -> Result<Option<Summary>> {
        let rows =
            self.read(sqlx::query(AssertSqlSafe(format!("{SUMMARY} WHERE s.run = ?"))).bind(run.0)).await?;
        rows.first().map(summary).transpose()
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Summary>> {
        let limit = if filter.limit == 0 { 100 } else { filter.limit };
        // The states are our own constants; as literals they let the partial index on `blocked` be used.
        let state = match filter.state {
            None => String::new(),
            Some(State::Ended(kind)) => format!("s.ended = '{}' AND", kind.as_str()),
            Some(live) => format!("l.state = '{}' AND", live.as_str()),
        };
        let error = if filter.error.is_some() { "l.error = ?5 AND" } else { "" };
        let first = if filter.error.is_some() { 6 } else { 5 };
        // Each attribute is a look into an index by its value, in the order of the list.
        let attributes = filter.attributes.iter().zip(0..).map(|(_, index)| {
            let (name, value) = (first + 2 * index, first + 2 * index + 1);
            format!(
                "s.run IN (SELECT run FROM saga_attribute WHERE name = ?{name} AND value = ?{value}) AND "
            )
        });
        let attributes: String = attributes.collect();
        let text = format!(
            "{SUMMARY} WHERE {state} {error} {attributes} (?1 IS NULL OR s.definition = ?1) AND s.run < ?2
                 AND s.run >= ?4
             ORDER BY s.run DESC LIMIT ?3"
        );
        let mut query = sqlx::query(AssertSqlSafe(text))
            .bind(filter.definition.as_ref().map(|name| name.as_str().to_owned()))
            .bind(filter.before.map_or(Uuid::max(), |run| run.0))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .bind(filter.from.map_or(Uuid::nil(), |run| run.0));
        if let Some(error) = filter.error {
            query = query.bind(error.to_string());
        }
        for (name, value) in filter.attributes.iter() {
            query = query.bind(name.as_str().to_owned()).bind(value.to_owned());
        }
        self.read(query).await?.iter().map(summary).collect()
    }

    async fn nth_before(&self, before: Option<RunId>, nth: usize) -> Result<Option<RunId>> {
        let text = "SELECT run FROM saga_start WHERE run < ? ORDER BY run DESC LIMIT 1 OFFSET ?";
        let query = sqlx::query(text)
            .bind(before.map_or(Uuid::max(), |run| run.0))
            .bind(i64::try_from(nth.saturating_sub(1)).unwrap_or(i64::MAX));
        self.read(query).await?.first().map(|row| row.try_get(0).map(RunId).map_err(failed)).transpose()
    }

    async fn journal(&self, run: RunId) -> Result<Vec<JournalRow>> {
        let query = sqlx::query(
            "SELECT run, number, worker, at, body FROM saga_journal WHERE run = ? ORDER BY number",
        );
        self.read(query.bind(run.0)).await?.iter().map(journal_row).collect()
    }

    async fn manifests(&self) -> Result<Vec<Manifest>> {
        let rows =
            self.read(sqlx::query("SELECT plan FROM saga_manifest ORDER BY definition, version")).await?;
        rows.iter().map(|row| decode::manifest(row.try_get(0).map_err(failed)?)).collect()
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        let query = sqlx::query(
            "SELECT id, label, joined_at, renewed_at, epoch > 1,
                 (SELECT count(*) FROM saga_live l WHERE l.owner = w.id)
             FROM saga_worker w WHERE NOT drained ORDER BY joined_at, id",
        );
        self.read(query).await?.iter().map(worker).collect()
    }

    async fn counts(&self) -> Result<Vec<Counts>> {
        let query = sqlx::query(
            "SELECT s.definition, coalesce(l.state, s.ended), count(*)
             FROM saga_start s LEFT JOIN saga_live l ON l.run = s.run GROUP BY 1, 2 ORDER BY 1, 2",
        );
        self.read(query).await?.iter().map(counts).collect()
    }

    async fn unread_mail(&self) -> Result<Vec<UnreadMail>> {
        let query = sqlx::query(
            "SELECT format, count(*) FROM (
                 SELECT max(m.format) AS format FROM saga_mail m JOIN saga_live l ON l.run = m.run
                 WHERE m.consumed IS NULL GROUP BY m.run)
             GROUP BY 1 ORDER BY 1",
        );
        let unread = |row: &SqliteRow| {
            let runs = row.try_get::<i64, _>(1).map_err(failed)?.unsigned_abs();
            Ok(UnreadMail { format: row.try_get(0).map_err(failed)?, runs })
        };
        self.read(query).await?.iter().map(unread).collect()
    }

    async fn in_flight(&self, due_before: Timestamp) -> Result<Vec<InFlight>> {
        // Grouped before it is joined: one row of `saga_start` is read per group, not per run.
        let query = sqlx::query(
            "SELECT s.definition, s.version, g.* FROM (
                 SELECT fingerprint, state, count(*), count(owner),
                     count(*) FILTER (WHERE owner IS NULL AND due < ?1),
                     min(due) FILTER (WHERE owner IS NULL AND due < ?1), min(since), min(run) AS one
                 FROM saga_live GROUP BY fingerprint, state) g
             JOIN saga_start s ON s.run = g.one ORDER BY 1, 2, 3, 4",
        );
        self.read(query.bind(due_before.timestamp_micros())).await?.iter().map(in_flight).collect()
    }
}

impl SqliteStore {
    async fn read(&self, query: super::insert::Binding) -> Result<Vec<SqliteRow>> {
        let db = self.db.clone();
        to_its_end(async move { query.fetch_all(&db.readers).await.map_err(failed) }).await
    }
}

fn summary(row: &SqliteRow) -> Result<Summary> {
    Ok(Summary {
        run: RunId(row.try_get(0).map_err(failed)?),
        definition: decode::name(row.try_get(1).map_err(failed)?)?,
        version: decode::number(row.try_get::<i64, _>(2).map_err(failed)?)?,
        fingerprint: Fingerprint(row.try_get(3).map_err(failed)?),
        saga: row.try_get(4).map_err(failed)?,
        digest: decode::digest(row.try_get(5).map_err(failed)?)?,
        started_at: time(row.try_get(6).map_err(failed)?)?,
        state: decode::state(row.try_get(7).map_err(failed)?)?,
        owner: row.try_get::<Option<Uuid>, _>(8).map_err(failed)?.map(WorkerId),
        due: row.try_get::<Option<i64>, _>(9).map_err(failed)?.map(time).transpose()?,
        since: time(row.try_get(10).map_err(failed)?)?,
        key: decode::key(row.try_get(11).map_err(failed)?)?,
        key_held_by: row.try_get::<Option<Uuid>, _>(12).map_err(failed)?.map(RunId),
        priority: Priority::of_level(row.try_get(13).map_err(failed)?),
        error: decode::error(row.try_get(14).map_err(failed)?)?,
        attributes: decode::attributes(row.try_get(15).map_err(failed)?)?,
    })
}

fn worker(row: &SqliteRow) -> Result<WorkerInfo> {
    Ok(WorkerInfo {
        id: WorkerId(row.try_get(0).map_err(failed)?),
        label: row.try_get(1).map_err(failed)?,
        joined_at: time(row.try_get(2).map_err(failed)?)?,
        renewed_at: time(row.try_get(3).map_err(failed)?)?,
        fenced: row.try_get(4).map_err(failed)?,
        sagas: row.try_get::<i64, _>(5).map_err(failed)?.unsigned_abs(),
    })
}

fn in_flight(row: &SqliteRow) -> Result<InFlight> {
    let count = |column: usize| row.try_get::<i64, _>(column).map(i64::unsigned_abs).map_err(failed);
    Ok(InFlight {
        definition: decode::name(row.try_get(0).map_err(failed)?)?,
        version: decode::number(row.try_get::<i64, _>(1).map_err(failed)?)?,
        fingerprint: Fingerprint(row.try_get(2).map_err(failed)?),
        state: decode::state(row.try_get(3).map_err(failed)?)?,
        runs: count(4)?,
        owned: count(5)?,
        overdue: count(6)?,
        overdue_since: row.try_get::<Option<i64>, _>(7).map_err(failed)?.map(time).transpose()?,
        since: time(row.try_get(8).map_err(failed)?)?,
    })
}

fn counts(row: &SqliteRow) -> Result<Counts> {
    Ok(Counts {
        definition: decode::name(row.try_get(0).map_err(failed)?)?,
        state: decode::state(row.try_get(1).map_err(failed)?)?,
        runs: row.try_get::<i64, _>(2).map_err(failed)?.unsigned_abs(),
    })
}
