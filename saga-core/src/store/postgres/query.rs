//! What operators and clients ask; every question is one statement, and takes no lock that anybody waits
//! for.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

use super::error::failed;
use super::read::journal_row;
use super::{Binding, PostgresStore};
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

/// How many runs one statement counts.
const SLICE: u32 = 20_000;

const SUMMARY: &str = "SELECT s.run, s.definition, s.version, s.fingerprint, s.saga, s.digest, s.started_at,
        coalesce(l.state, s.ended), l.owner, l.due, coalesce(s.ended_at, l.since), l.key,
        CASE WHEN l.turn IS NOT NULL THEN (SELECT k.run FROM saga.key k WHERE k.key = l.key) END,
        coalesce(l.priority, 0::smallint), l.error,
        CASE WHEN EXISTS (SELECT 1 FROM saga.attribute a WHERE a.run = s.run)
            THEN (SELECT json_object_agg(a.name, a.value)::text FROM saga.attribute a WHERE a.run = s.run) END
    FROM saga.start s LEFT JOIN saga.live l ON l.run = s.run";

#[async_trait]
impl Query for PostgresStore {
    async fn find(&self, definition: &Name, saga: &str) -> Result<Option<Summary>> {
        if saga.contains('\0') {
            // Postgres keeps no such text, so there is none.
            return Ok(None);
        }
        let text = format!("{SUMMARY} WHERE s.definition = $1 AND s.saga = $2");
        let query =
            sqlx::query(AssertSqlSafe(text)).bind(definition.as_str().to_owned()).bind(saga.to_owned());
        self.read(query).await?.first().map(summary).transpose()
    }

    async fn summary(&self, run: RunId) -> Result<Option<Summary>> {
        let query = sqlx::query(AssertSqlSafe(format!("{SUMMARY} WHERE s.run = $1"))).bind(run.0);
        self.read(query).await?.first().map(summary).transpose()
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Summary>> {
        let limit = if filter.limit == 0 { 100 } else { filter.limit };
        // The states are our own constants; as literals they let the partial index on `blocked` be used.
        let state = match filter.state {
            None => String::new(),
            Some(State::Ended(kind)) => format!("s.ended = '{}' AND", kind.as_str()),
            Some(live) => format!("l.state = '{}' AND", live.as_str()),
        };
        let error = if filter.error.is_some() { "l.error = $5 AND" } else { "" };
        let first = if filter.error.is_some() { 6 } else { 5 };
        // Each attribute is a look into an index by its value, in the order of the list.
        let attributes = filter.attributes.iter().zip(0..).map(|(_, index)| {
            let (name, value) = (first + 2 * index, first + 2 * index + 1);
            format!(
                "s.run IN (SELECT run FROM saga.attribute WHERE name = ${name} AND value = ${value}) AND "
            )
        });
        let attributes: String = attributes.collect();
        let text = format!(
            "{SUMMARY} WHERE {state} {error} {attributes} ($1::text IS NULL OR s.definition = $1) AND s.run < $2
                 AND s.run >= $4
             ORDER BY s.run DESC LIMIT $3"
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
        let passed = nth.saturating_sub(1);
        let text =
            format!("SELECT run FROM saga.start WHERE run < $1 ORDER BY run DESC OFFSET {passed} LIMIT 1");
        let query = sqlx::query(AssertSqlSafe(text)).bind(before.map_or(Uuid::max(), |run| run.0));
        self.read(query).await?.first().map(|row| row.try_get(0).map(RunId).map_err(failed)).transpose()
    }

    async fn journal(&self, run: RunId) -> Result<Vec<JournalRow>> {
        let text = "SELECT run, number, worker, at, body FROM saga.journal WHERE run = $1 ORDER BY number";
        self.read(sqlx::query(text).bind(run.0)).await?.iter().map(journal_row).collect()
    }

    async fn manifests(&self) -> Result<Vec<Manifest>> {
        let rows =
            self.read(sqlx::query("SELECT plan FROM saga.manifest ORDER BY definition, version")).await?;
        rows.iter().map(|row| decode::manifest(row.try_get(0).map_err(failed)?)).collect()
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        let text = "SELECT id, label, joined_at, renewed_at, epoch > 1,
                (SELECT count(*) FROM saga.live l WHERE l.owner = w.id)
            FROM saga.worker w WHERE NOT drained ORDER BY joined_at, id";
        self.read(sqlx::query(text)).await?.iter().map(worker).collect()
    }

    /// A slice after the other, each of them a statement: however much has ended, none of them takes long, nor keeps
    /// what is removed meanwhile from being cleared away. Each run is counted once, as it is when its slice is read.
    async fn counts(&self) -> Result<Vec<Counts>> {
        let text = format!(
            "WITH slice AS MATERIALIZED (
                SELECT run, definition, ended FROM saga.start WHERE run > $1 ORDER BY run LIMIT {SLICE})
            SELECT *, (SELECT run FROM slice ORDER BY run DESC LIMIT 1) FROM (
                SELECT definition, ended, count(*) FROM slice WHERE ended IS NOT NULL GROUP BY 1, 2
                UNION ALL
                SELECT s.definition, l.state, count(*) FROM slice s JOIN saga.live l ON l.run = s.run
                WHERE s.ended IS NULL GROUP BY 1, 2) counted"
        );
        let mut all: BTreeMap<(Name, &str), Counts> = BTreeMap::new();
        let mut after = Uuid::nil();
        loop {
            let rows = self.read(sqlx::query(AssertSqlSafe(text.clone())).bind(after)).await?;
            if rows.is_empty() {
                return Ok(all.into_values().collect());
            }
            for row in &rows {
                let more = counts(row)?;
                after = row.try_get(3).map_err(failed)?;
                let of = (more.definition.clone(), more.state.as_str());
                all.entry(of).and_modify(|counted| counted.runs += more.runs).or_insert(more);
            }
        }
    }

    async fn unread_mail(&self) -> Result<Vec<UnreadMail>> {
        let text = "SELECT format, count(*) FROM (
                SELECT max(m.format) AS format FROM saga.mail m JOIN saga.live l ON l.run = m.run
                WHERE m.consumed IS NULL GROUP BY m.run) newest
            GROUP BY 1 ORDER BY 1";
        let unread = |row: &PgRow| {
            let runs = row.try_get::<i64, _>(1).map_err(failed)?.unsigned_abs();
            Ok(UnreadMail { format: row.try_get(0).map_err(failed)?, runs })
        };
        self.read(sqlx::query(text)).await?.iter().map(unread).collect()
    }

    async fn in_flight(&self, due_before: Timestamp) -> Result<Vec<InFlight>> {
        // Grouped before it is joined: one row of `saga.start` is read per group, not per run. (There is no
        // `min` of a uuid.)
        let text = "SELECT s.definition, s.version, g.* FROM (
                SELECT fingerprint, state, count(*), count(owner),
                    count(*) FILTER (WHERE owner IS NULL AND due < $1),
                    min(due) FILTER (WHERE owner IS NULL AND due < $1), min(since), min(run::text)::uuid AS one
                FROM saga.live GROUP BY fingerprint, state) g
            JOIN saga.start s ON s.run = g.one ORDER BY 1, 2, 3, 4";
        self.read(sqlx::query(text).bind(due_before)).await?.iter().map(in_flight).collect()
    }
}

impl PostgresStore {
    async fn read(&self, query: Binding) -> Result<Vec<PgRow>> {
        let db = self.db.clone();
        to_its_end(async move { db.readers.lend().await?.rows(query).await }).await
    }
}

fn summary(row: &PgRow) -> Result<Summary> {
    Ok(Summary {
        run: RunId(row.try_get(0).map_err(failed)?),
        definition: decode::name(row.try_get(1).map_err(failed)?)?,
        version: decode::number(row.try_get::<i32, _>(2).map_err(failed)?)?,
        fingerprint: Fingerprint(row.try_get(3).map_err(failed)?),
        saga: row.try_get(4).map_err(failed)?,
        digest: decode::digest(row.try_get(5).map_err(failed)?)?,
        started_at: row.try_get(6).map_err(failed)?,
        state: decode::state(row.try_get(7).map_err(failed)?)?,
        owner: row.try_get::<Option<Uuid>, _>(8).map_err(failed)?.map(WorkerId),
        due: row.try_get(9).map_err(failed)?,
        since: row.try_get(10).map_err(failed)?,
        key: decode::key(row.try_get(11).map_err(failed)?)?,
        key_held_by: row.try_get::<Option<Uuid>, _>(12).map_err(failed)?.map(RunId),
        priority: Priority::of_level(row.try_get(13).map_err(failed)?),
        error: decode::error(row.try_get(14).map_err(failed)?)?,
        attributes: decode::attributes(row.try_get(15).map_err(failed)?)?,
    })
}

fn worker(row: &PgRow) -> Result<WorkerInfo> {
    Ok(WorkerInfo {
        id: WorkerId(row.try_get(0).map_err(failed)?),
        label: row.try_get(1).map_err(failed)?,
        joined_at: row.try_get(2).map_err(failed)?,
        renewed_at: row.try_get(3).map_err(failed)?,
        fenced: row.try_get(4).map_err(failed)?,
        sagas: row.try_get::<i64, _>(5).map_err(failed)?.unsigned_abs(),
    })
}

fn in_flight(row: &PgRow) -> Result<InFlight> {
    let count = |column: usize| row.try_get::<i64, _>(column).map(i64::unsigned_abs).map_err(failed);
    Ok(InFlight {
        definition: decode::name(row.try_get(0).map_err(failed)?)?,
        version: decode::number(row.try_get::<i32, _>(1).map_err(failed)?)?,
        fingerprint: Fingerprint(row.try_get(2).map_err(failed)?),
        state: decode::state(row.try_get(3).map_err(failed)?)?,
        runs: count(4)?,
        owned: count(5)?,
        overdue: count(6)?,
        overdue_since: row.try_get(7).map_err(failed)?,
        since: row.try_get(8).map_err(failed)?,
    })
}

fn counts(row: &PgRow) -> Result<Counts> {
    Ok(Counts {
        definition: decode::name(row.try_get(0).map_err(failed)?)?,
        state: decode::state(row.try_get(1).map_err(failed)?)?,
        runs: row.try_get::<i64, _>(2).map_err(failed)?.unsigned_abs(),
    })
}
