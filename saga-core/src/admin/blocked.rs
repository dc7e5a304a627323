//! Sagas that need a person, grouped by what is wrong with them.
//!
//! An outage rarely blocks one saga. Those that were blocked by the same failure at the same step form a
//! *group*, whatever ids, numbers and addresses their messages carry, and a group is retried as one: with
//! a dry run first, and with a few before all.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use serde::Serialize;

use super::view::{Stuck, last_block};
use super::{Admin, Answered, By, Entry, Error, Request};
use crate::error_id::{ErrorId, normalised};
use crate::id::{MailId, Name, Place, RunId};
use crate::journal::{Cause, Timestamp};
use crate::store::{Filter, State, Summary};

/// How many blocked runs are looked at when they are grouped.
pub const MOST: usize = 10_000;

/// How many journals are read, or sagas told something, at once.
const AT_ONCE: usize = 8;

/// One saga that needs a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blocked {
    /// The run at a glance.
    pub summary: Summary,
    /// Where and why, and since when. Unlike [`Summary::since`], a request that was refused meanwhile does
    /// not make it younger.
    pub stuck: Stuck,
    /// Its group: the error's fingerprint.
    pub group: ErrorId,
}

/// Blocked sagas, the longest blocked first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlockedRuns {
    /// The sagas.
    pub runs: Vec<Blocked>,
    /// Whether these are all; false when there are more than were looked at.
    pub complete: bool,
}

/// Sagas that are blocked by the same failure at the same step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Its id: the error's fingerprint.
    pub id: ErrorId,
    /// The definition.
    pub definition: Name,
    /// The step.
    pub step: String,
    /// Why the first of them is blocked.
    pub cause: Cause,
    /// The failure, with what varies replaced: numbers by `0`, ids by `…`.
    pub message: String,
    /// One of the messages as it was.
    pub example: String,
    /// How many sagas.
    pub runs: usize,
    /// When the first of them was blocked.
    pub first: Timestamp,
    /// When the last of them was blocked.
    pub last: Timestamp,
}

/// What retrying a group came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bulk {
    /// The group.
    pub group: Group,
    /// Whether nothing was asked of anybody.
    pub dry_run: bool,
    /// The sagas that were, or would be, retried, the longest blocked first.
    pub runs: Vec<Retried>,
}

/// One saga of a group that was, or would be, retried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Retried {
    /// The run.
    pub run: RunId,
    /// The user's id.
    pub saga: String,
    /// The place.
    pub at: Place,
    /// The owner's answer; absent in a dry run.
    #[serde(flatten)]
    pub answered: Option<Answered>,
    /// Why it could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Admin {
    /// Every saga that needs a person, of one definition or of all, at most [`MOST`]; it reads their
    /// journals, a few at a time.
    pub async fn blocked(&self, definition: Option<&Name>) -> Result<BlockedRuns, Error> {
        let mut filter = Filter {
            definition: definition.cloned(),
            state: Some(State::Blocked),
            limit: 1000,
            ..Filter::default()
        };
        let mut found = Vec::new();
        let complete = loop {
            let page = self.backend.query.list(&filter).await?;
            let more = page.len() == filter.limit;
            filter.before = page.last().map(|run| run.run);
            found.extend(page);
            if !more || found.len() >= MOST {
                break !more;
            }
        };
        let read = stream::iter(found).map(|summary| self.read_blocked(summary)).buffered(AT_ONCE);
        let read: Vec<Result<Option<Blocked>, Error>> = read.collect().await;
        let mut runs = Vec::with_capacity(read.len());
        for blocked in read {
            runs.extend(blocked?);
        }
        runs.sort_by_key(|blocked| (blocked.stuck.since, blocked.summary.run));
        Ok(BlockedRuns { runs, complete })
    }

    /// `None` when it is not blocked any more.
    async fn read_blocked(&self, summary: Summary) -> Result<Option<Blocked>, Error> {
        let rows = self.backend.query.journal(summary.run).await?;
        let run = summary.run;
        let entries: Result<Vec<_>, _> = rows.into_iter().map(|row| Entry::read(run, row)).collect();
        // A journal that does not read must not hide the others: it is a group of its own.
        let stuck = match entries {
            Ok(entries) => last_block(&entries),
            Err(error) => Some(Stuck {
                at: Place::of(&Name::new("input").expect("a legal name")),
                cause: Cause::Unfit,
                failure: crate::journal::Failure::new(error.to_string()),
                since: summary.since,
            }),
        };
        Ok(stuck.map(|stuck| Blocked { group: error_id(&summary.definition, &stuck), summary, stuck }))
    }

    /// Asks every saga of a group, or the `limit` longest blocked of it, to try again now, and waits for
    /// each answer at most for `patience`. With `dry_run` nothing is asked of anybody.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves some of the sagas asked and others not; asking the group again is
    /// harmless, because those that went on are not in it any more.
    pub async fn retry_group(
        &self,
        group: &str,
        limit: Option<usize>,
        by: &By,
        dry_run: bool,
        patience: Duration,
    ) -> Result<Bulk, Error> {
        let mut members = self.blocked(None).await?.runs;
        members.retain(|blocked| blocked.group.to_string() == group);
        let Some(found) = groups(&members).pop() else {
            return Err(Error::NoSuchGroup(group.into()));
        };
        members.truncate(limit.unwrap_or(usize::MAX));
        let asked = stream::iter(members).map(|blocked| self.retry_one(blocked, by, dry_run, patience));
        Ok(Bulk { group: found, dry_run, runs: asked.buffered(AT_ONCE).collect().await })
    }

    async fn retry_one(&self, blocked: Blocked, by: &By, dry_run: bool, patience: Duration) -> Retried {
        let (run, at) = (blocked.summary.run, blocked.stuck.at);
        let mut retried =
            Retried { run, saga: blocked.summary.saga, at: at.clone(), answered: None, error: None };
        if !dry_run {
            match self.request(run, MailId::new(), &Request::Retry { at }, by, patience).await {
                Ok(reply) => retried.answered = Some(reply.answered),
                Err(error) => retried.error = Some(error.to_string()),
            }
        }
        retried
    }
}

impl BlockedRuns {
    /// The groups these sagas fall into, the largest first.
    pub fn groups(&self) -> Vec<Group> {
        groups(&self.runs)
    }
}

fn groups(runs: &[Blocked]) -> Vec<Group> {
    let mut groups: BTreeMap<ErrorId, Group> = BTreeMap::new();
    for Blocked { summary, stuck, group } in runs {
        let known = groups.entry(*group).or_insert_with(|| Group {
            id: *group,
            definition: summary.definition.clone(),
            step: stuck.at.parts().0.into(),
            cause: stuck.cause,
            message: normalised(stuck.failure.message()),
            example: stuck.failure.message().into(),
            runs: 0,
            first: stuck.since,
            last: stuck.since,
        });
        known.runs += 1;
        known.first = known.first.min(stuck.since);
        known.last = known.last.max(stuck.since);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by(|a, b| b.runs.cmp(&a.runs).then(a.first.cmp(&b.first)));
    groups
}

fn error_id(definition: &Name, stuck: &Stuck) -> ErrorId {
    ErrorId::of(definition, &stuck.at, &stuck.failure)
}
