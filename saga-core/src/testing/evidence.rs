//! What is left when a run is over: the journal, the store's row, and the participants' book.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::ledger::{Entry, Ledger};
use super::plan::{Plan, Point};
use super::scene::Cancel;
use crate::id::RunId;
use crate::journal::{self, Cause, End, Failure, Record};
use crate::saga::Plan as Shape;
use crate::store::{JournalRow, State, Summary};

/// Everything that is known of one run when it is over.
pub struct Evidence {
    /// The definition as data.
    pub shape: Arc<Shape>,
    /// What was to go wrong.
    pub plan: Plan,
    /// What happened at the participants.
    pub ledger: Ledger,
    /// The saga as the store shows it; absent when it was never started.
    pub summary: Option<Summary>,
    /// The journal, commit by commit.
    pub journal: Vec<JournalRow>,
    /// The points that were reached.
    pub trace: Vec<Point>,
    /// How long the run took, in virtual time.
    pub took: Duration,
    pub(super) records: Vec<(u32, Record)>,
    pub(super) entries: Vec<Entry>,
    pub(super) cancels: Vec<Cancel>,
    pub(super) run: Option<RunId>,
    pub(super) settled: bool,
    /// The steps whose effects participants see.
    pub(super) known: BTreeSet<String>,
    /// What was broken on the way.
    pub(super) broken: Vec<String>,
}

impl Evidence {
    /// How the saga ended, if it has.
    pub fn end(&self) -> Option<&End> {
        match self.records.last() {
            Some((_, Record::Closed { end })) => Some(end),
            _ => None,
        }
    }

    /// Why it needs a person, if it does.
    pub fn blocked(&self) -> Option<(&Cause, &Failure)> {
        let state = self.summary.as_ref().map(|summary| summary.state);
        let last = self.records.iter().rev().find_map(|(_, record)| match record {
            Record::Blocked { cause, failure, .. } => Some((cause, failure)),
            _ => None,
        });
        last.filter(|_| state == Some(State::Blocked))
    }

    /// The journal's records, in order.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().map(|(_, record)| record)
    }

    /// Reads the journal; what does not read is itself a finding.
    pub(super) fn read(&mut self) {
        for row in &self.journal {
            match journal::decode(&row.body) {
                Ok(records) => self.records.extend(records.into_iter().map(|record| (row.number, record))),
                Err(error) => self.broken.push(format!("commit {} does not decode: {error}", row.number)),
            }
        }
    }
}

/// The whole story, for whoever replays a run.
impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "points:")?;
        for (number, point) in self.trace.iter().enumerate() {
            let hit = self.plan.hits.get(&number).map(|hit| format!("  <== {}", hit.as_str()));
            writeln!(f, "  {number:>3} {point}{}", hit.unwrap_or_default())?;
        }
        writeln!(f, "journal:")?;
        for row in &self.journal {
            writeln!(f, "  {:>3} at {} by {:?}", row.number, row.at.format("%T%.3f"), row.worker)?;
            for (_, record) in self.records.iter().filter(|(number, _)| *number == row.number) {
                writeln!(f, "        {record:?}")?;
            }
        }
        writeln!(f, "participants:")?;
        for entry in &self.entries {
            writeln!(f, "      {entry}")?;
        }
        let state = self.summary.as_ref().map_or("never started", |summary| summary.state.as_str());
        write!(f, "store: {state} after {:.1?}", self.took)
    }
}

impl fmt::Debug for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
