//! A journal as people and programs read it.

use std::fmt;

use serde::Serialize;

use super::{Admin, Error};
use crate::id::{Place, RunId, WorkerId};
use crate::journal::{self, Answer, End, MailBody, Outcome, Record, Timestamp, Verb};
use crate::store::JournalRow;

/// One commit of a journal. Serialised, it is one line of the journal's export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The run.
    pub run: RunId,
    /// The commit's number.
    pub number: u32,
    /// When, by the store's clock.
    pub at: Timestamp,
    /// The worker that wrote it; absent for the start of a saga that nobody owned.
    pub worker: Option<WorkerId>,
    /// What became true with it.
    pub records: Vec<Record>,
}

impl Admin {
    /// A run's whole history, payloads included, in order.
    pub async fn journal(&self, run: RunId) -> Result<Vec<Entry>, Error> {
        let rows = self.backend.query.journal(run).await?;
        if rows.is_empty() {
            // Tells a run that never was from one whose history has been removed.
            self.summary(run).await?;
        }
        rows.into_iter().map(|row| Entry::read(run, row)).collect()
    }
}

impl Entry {
    pub(super) fn read(run: RunId, row: JournalRow) -> Result<Self, Error> {
        let JournalRow { number, worker, at, body } = row;
        let records = journal::decode(&body);
        let records = records.map_err(|e| Error::Unreadable { run, number, why: e.to_string() })?;
        Ok(Self { run, number, at, worker, records })
    }

    /// The commit as one line of JSON, without the line's end.
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).expect("records hold strings, numbers and JSON: all of it can be written")
    }
}

/// A record in words, without payloads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    /// The place it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Place>,
    /// What it says.
    pub text: String,
    /// How it sounds.
    pub tone: Tone,
}

/// How news sounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tone {
    /// Neither.
    Plain,
    /// Something was done.
    Good,
    /// Something went wrong that the saga deals with by itself.
    Bad,
    /// A person spoke, or is needed.
    Person,
}

/// Says in words what became true.
pub fn tell(record: &Record) -> Told {
    let told = |at: Option<&Place>, tone, text: String| Told { at: at.cloned(), text, tone };
    match record {
        Record::Began { definition, version, saga, .. } => {
            told(None, Tone::Plain, format!("{definition} version {version} began as {saga}"))
        }
        Record::Expired {} => told(None, Tone::Bad, "the deadline passed".into()),
        Record::Derived { at, .. } => told(Some(at), Tone::Plain, "the value was computed".into()),
        Record::Started { at, effect, attempt } => {
            told(Some(at), Tone::Plain, format!("{effect} started, attempt {attempt}"))
        }
        Record::Bounded { at, bound, until } => {
            told(Some(at), Tone::Plain, format!("the {bound} has until {}", Second(*until)))
        }
        Record::Finished { at, effect, outcome, due } => {
            let (tone, text) = outcome_told(outcome);
            let next = due.map_or(String::new(), |due| format!("; next attempt {}", Second(due)));
            told(Some(at), tone, format!("{effect} {text}{next}"))
        }
        Record::Received { body, answer, .. } => {
            let (at, text) = mail_told(body);
            let answer = match answer {
                Answer::Accepted => "accepted".into(),
                Answer::TooLate => "too late".into(),
                Answer::Refused(why) => format!("refused: {why}"),
            };
            told(at, Tone::Person, format!("{text}: {answer}"))
        }
        Record::Blocked { at, cause, failure } => {
            told(Some(at), Tone::Person, format!("blocked: {cause}: {failure}"))
        }
        Record::Closed { end } => match end {
            End::Completed { .. } => told(None, Tone::Good, "completed".into()),
            End::Compensated { cause } => told(None, Tone::Bad, format!("compensated: {cause}")),
            End::PartiallyCompensated { cause } => {
                told(None, Tone::Person, format!("partially compensated: {cause}"))
            }
        },
    }
}

fn outcome_told(outcome: &Outcome) -> (Tone, String) {
    match outcome {
        Outcome::Ok(_) => (Tone::Good, "succeeded".into()),
        Outcome::Rejected(failure) => (Tone::Bad, format!("was rejected: {failure}")),
        Outcome::NotApplied(failure) => (Tone::Bad, format!("had no effect: {failure}")),
        Outcome::Unknown(failure) => (Tone::Bad, format!("has an unknown outcome: {failure}")),
        Outcome::Halted { cause, failure } => (Tone::Bad, format!("needs a person: {cause}: {failure}")),
        Outcome::Malformed { failure, .. } => (Tone::Bad, format!("met a malformed payload: {failure}")),
    }
}

fn mail_told(body: &MailBody) -> (Option<&Place>, String) {
    match body {
        MailBody::Cancel { reason } => (None, format!("cancel ({reason})")),
        MailBody::Operator { at, verb, who, why } => {
            let verb = match verb {
                Verb::Retry => "retry",
                Verb::Skip => "skip",
                Verb::Resolve(_) => "resolve",
            };
            (Some(at), format!("{verb} by {who} ({why})"))
        }
        MailBody::Abandon { who, why } => (None, format!("abandon by {who} ({why})")),
        MailBody::Damaged { .. } => (None, "damaged mail".into()),
    }
}

struct Second(Timestamp);

impl fmt::Display for Second {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.format("%Y-%m-%d %H:%M:%SZ"))
    }
}
