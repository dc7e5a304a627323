//! How a saga leaves its worker, otherwise than by being driven to its end.
//!
//! Whatever happens, a saga that this worker owns must not be left where nobody drives it: it is released to others,
//! blocked with the reason, or lost with the whole incarnation.

use std::sync::Arc;
use std::time::Duration;

use super::Driver;
use crate::engine::live::{Draft, Saga, Unfit};
use crate::engine::unfit::set_aside;
use crate::id::RunId;
use crate::journal::{self, Failure, Illegal, MailBody, Outcome, Record};
use crate::saga::later;
use crate::store::{Commit, LastError, Loaded, Mail, Store, Then};

/// How long a saga is kept that the store finds due, and this worker does not.
const EARLY: Duration = Duration::from_secs(10);

impl Driver {
    pub(super) fn leave(&self, then: Then, sent: &Draft) {
        if let (Then::End(_), Some(Record::Closed { end })) = (then, sent.records.last()) {
            self.shared.announce(self.saga.run, end);
            if self.saga.keys.own.is_some() {
                // Another may have waited for the key.
                self.shared.nudge.notify_one();
            }
        }
    }

    /// What a newer version has said may be that nothing more is to happen. So what is under way here ends, nothing
    /// starts, and then the saga is given up: claims of workers that cannot read its mail pass it over.
    pub(super) fn leave_to_newer(&mut self, mail: &Mail) {
        if !std::mem::replace(&mut self.saga.foreign, true) {
            let (run, saga, known) = (self.saga.run, &self.saga.name, MailBody::FORMAT);
            tracing::warn!(%run, %saga, mail = %mail.id, format = mail.format, known,
                "it has mail that only a newer worker reads, and is left to one");
        }
    }

    /// What becomes of the saga when it is given up as it stands.
    pub(super) fn given_up(&self) -> Then {
        match (self.saga.queued, self.saga.machine.is_blocked()) {
            (true, _) => Then::Queue,
            (_, true) => Then::Block,
            _ => Then::Wait(self.shared.clock.now()),
        }
    }

    /// Who gives a saga back without a word that the store has just found due would be given it again at once, and
    /// again, until the clock of this worker is where the store's was. So it is kept for a while first.
    pub(super) fn keep_for_a_while(&mut self, draft: &mut Draft) {
        let due = match draft.then {
            Some(Then::Wait(due)) => Some(due),
            Some(Then::Queue) => self.saga.machine.deadline(),
            _ => None,
        };
        if let Some(due) = due.filter(|_| draft.records.is_empty() && self.fresh) {
            self.fresh = false;
            draft.then = None;
            draft.hold = Some(due.min(later(self.shared.clock.now(), EARLY)));
        }
    }

    /// The machine does not take what was to come, or what is not the step's own code has panicked: that is nothing
    /// that repeating it would mend.
    pub(super) async fn stop_at(&mut self, unfit: Unfit) {
        self.open = None;
        if let Some(loaded) = reload(&self.shared.backend.store, self.saga.run).await {
            self.set_aside(loaded, unfit).await;
        }
    }

    /// The next row is another's. So is the saga, or it holds a commit of ours whose answer was lost, and that says
    /// otherwise than what followed it: then whoever claims it goes on from the journal.
    pub(super) async fn give_back(&mut self) {
        self.open = None;
        let Some(loaded) = reload(&self.shared.backend.store, self.saga.run).await else { return };
        if loaded.owner != Some(self.incarnation.fence.worker) {
            return;
        }
        tracing::warn!(run = %self.saga.run, "its journal is not as this worker took it to be; it is given back");
        let commit = Commit {
            run: self.saga.run,
            number: loaded.journal.last().map_or(0, |row| row.number + 1),
            body: journal::encode(&[]).into(),
            mail: Vec::new(),
            then: if loaded.queued { Then::Queue } else { Then::Wait(self.shared.clock.now()) },
            key: self.saga.keys.own.clone(),
            error: LastError::Same,
            pivot: false,
        };
        self.incarnation.committer.send(commit).await;
    }

    async fn set_aside(&mut self, loaded: Loaded, unfit: Unfit) {
        let plan = self.saga.program.plan.clone();
        set_aside(self.shared.clone(), self.incarnation.clone(), loaded, unfit, plan).await;
    }

    /// The database refuses this saga's data: what it has so far is read again, and the saga is blocked
    /// with the database's reason.
    ///
    /// Nothing is decided here: a start that was recorded now would never run.
    pub(super) async fn block_faulty(&mut self, why: &str, sent: &Draft) -> Result<bool, Illegal> {
        let Some(loaded) = reload(&self.shared.backend.store, self.saga.run).await else { return Ok(false) };
        match Saga::load(&loaded, self.saga.program.clone(), &self.saga.keeping) {
            Ok(saga) => self.saga = saga,
            Err(unfit) => {
                self.set_aside(loaded, unfit).await;
                return Ok(false);
            }
        }
        let mut draft = Draft { then: Some(Then::Block), ..Draft::default() };
        let failure = Failure::new(format!("the database refuses this saga's data: {why}"));
        let outcome = Outcome::Malformed { failure: failure.clone(), applied: true };
        self.saga.end_all(&outcome, &mut draft)?;
        let at = draft.records.iter().chain(&sent.records).find_map(|record| match record {
            Record::Derived { at, .. } | Record::Started { at, .. } | Record::Finished { at, .. } => Some(at),
            _ => None,
        });
        // Only the end itself can be about no place: what it gives stands at the last node.
        let last = || self.saga.program.plan.nodes.last().expect("the input is always there").place(0);
        let at = at.cloned().unwrap_or_else(last);
        let blocked = Record::Blocked { at, cause: journal::Cause::Malformed, failure };
        self.saga.machine.apply(&blocked)?;
        draft.records.push(blocked);
        self.commit(&draft).await;
        Ok(false)
    }
}

/// What is durable of a saga, as soon as the store can tell.
pub(super) async fn reload(store: &Arc<dyn Store>, run: RunId) -> Option<Loaded> {
    let mut pause = Duration::from_millis(50);
    loop {
        match store.load(run).await {
            Ok(loaded) => return loaded,
            Err(error) => tracing::warn!(%run, %error, "the journal could not be read yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}
