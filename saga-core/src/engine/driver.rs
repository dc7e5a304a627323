//! The life of one saga in a worker: take what happened, decide, commit, act.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::attempt;
use super::committer::Settled;
use super::registry::Program;
use super::shared::{Incarnation, LOCK, Shared};
use crate::clock::Clock;
use crate::id::{MailId, RunId};
use crate::journal::{self, Effect, Failure, Illegal, Outcome, Record, Stage, Timestamp};
use crate::payload::Payload;
use crate::saga::{Decision, Machine};
use crate::step::code::Reply;
use crate::step::context::Attempt;
use crate::store::{Commit, Loaded, Mail, Then};

/// One saga that this worker owns, between two commits.
pub(crate) struct Saga {
    pub(crate) run: RunId,
    pub(crate) name: Arc<str>,
    pub(crate) program: Arc<Program>,
    pub(crate) machine: Machine,
    /// The number of the next commit.
    pub(crate) next: u32,
    /// Starts that are durable but not acted upon.
    pub(crate) starts: Vec<Launch>,
    /// Mail that came with the journal.
    pub(crate) mail: Vec<Mail>,
    /// Mail that a commit has consumed.
    pub(crate) read: HashSet<MailId>,
}

/// An attempt to start once its record is durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launch {
    node: usize,
    item: usize,
    effect: Effect,
    attempt: u32,
}

/// What one commit will say.
#[derive(Default)]
pub(crate) struct Draft {
    pub(crate) records: Vec<Record>,
    pub(crate) starts: Vec<Launch>,
    pub(crate) then: Option<Then>,
    /// The saga goes on here at this time, without a commit.
    pub(crate) hold: Option<Timestamp>,
}

/// Why a saga cannot be driven: its journal does not fit its plan.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("commit {number} does not decode: {error}")]
    Undecodable { number: u32, error: serde_json::Error },
    #[error(transparent)]
    Illegal(#[from] Illegal),
}

impl Saga {
    /// Rebuilds a saga from its journal.
    pub(crate) fn load(loaded: Loaded, program: Arc<Program>) -> Result<Self, Unfit> {
        let mut machine = Machine::new(program.plan.clone());
        let mut read = HashSet::new();
        for row in &loaded.journal {
            let records = journal::decode(&row.body)
                .map_err(|error| Unfit::Undecodable { number: row.number, error })?;
            for record in &records {
                machine.apply(record)?;
                if let Record::Received { mail, .. } = record {
                    read.insert(*mail);
                }
            }
        }
        let next = loaded.journal.last().map_or(0, |row| row.number + 1);
        Ok(Self {
            run: loaded.run,
            name: loaded.saga,
            program,
            machine,
            next,
            starts: Vec::new(),
            mail: loaded.mail,
            read,
        })
    }

    /// Adds to a draft everything that comes next, applying each record as it is written.
    pub(crate) fn decide(
        &mut self,
        draft: &mut Draft,
        now: Timestamp,
        hold: Duration,
    ) -> Result<(), Illegal> {
        loop {
            let mut derived = false;
            for decision in self.machine.decide(now) {
                let record = match decision {
                    Decision::Derive { node, input } => {
                        derived = true;
                        self.derive(node, &input)
                    }
                    Decision::Start { node, item, effect, attempt } => {
                        draft.starts.push(Launch { node, item, effect, attempt });
                        let at = self.program.plan.nodes[node].place(item);
                        let record = Record::Started { at, effect, attempt };
                        self.machine.apply(&record)?;
                        self.machine.launched(node, item);
                        draft.records.push(record);
                        continue;
                    }
                    Decision::Wait(due) if (due - now).to_std().unwrap_or_default() <= hold => {
                        draft.hold = Some(due);
                        continue;
                    }
                    Decision::Wait(due) => {
                        draft.then = Some(Then::Wait(due));
                        continue;
                    }
                    Decision::Block { at, cause, failure } => {
                        draft.then = Some(Then::Block);
                        Record::Blocked { at, cause, failure }
                    }
                    Decision::End(end) => {
                        draft.then = Some(Then::End(end.kind()));
                        Record::Closed { end }
                    }
                };
                // A derivation that fails blocks at once, whatever else was decided.
                let blocks = matches!(record, Record::Blocked { .. });
                self.machine.apply(&record)?;
                draft.records.push(record);
                if blocks {
                    draft.then = Some(Then::Block);
                    return Ok(());
                }
            }
            if !derived {
                return Ok(());
            }
        }
    }

    fn derive(&self, node: usize, input: &Payload) -> Record {
        let at = self.program.plan.nodes[node].place(0);
        let derive = self.program.derive(node);
        let value = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| derive(input)));
        match value.unwrap_or_else(|_| Err(Failure::new("the derivation panicked"))) {
            Ok(value) => Record::Derived { at, value },
            Err(failure) => Record::Blocked { at, cause: journal::Cause::Malformed, failure },
        }
    }
}

type Running = FuturesUnordered<BoxFuture<'static, (Launch, Reply)>>;

/// Drives one saga until it ends, waits, is blocked, or is not ours any more.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    incarnation: Arc<Incarnation>,
    saga: Saga,
    attempts: Running,
    mailbox: mpsc::UnboundedReceiver<Mail>,
    _permit: OwnedSemaphorePermit,
}

impl Driver {
    /// Starts the driver's task.
    pub(crate) fn spawn(
        shared: Arc<Shared>,
        incarnation: Arc<Incarnation>,
        saga: Saga,
        permit: OwnedSemaphorePermit,
    ) {
        let (letterbox, mailbox) = mpsc::unbounded_channel();
        let run = saga.run;
        incarnation.mailboxes.lock().expect(LOCK).insert(run, letterbox);
        let tracker = incarnation.drivers.clone();
        let lost = incarnation.lost.clone();
        let mut driver =
            Self { shared, incarnation, saga, attempts: FuturesUnordered::new(), mailbox, _permit: permit };
        tracker.spawn(async move {
            let outcome = lost.run_until_cancelled(driver.drive()).await;
            if let Some(Err(illegal)) = outcome {
                tracing::error!(%run, %illegal, "the engine wrote a history that is not legal; the saga rests");
            }
            driver.incarnation.mailboxes.lock().expect(LOCK).remove(&run);
        });
    }

    async fn drive(&mut self) -> Result<(), Illegal> {
        let mut draft = Draft::default();
        if self.saga.starts.is_empty() {
            let mail = std::mem::take(&mut self.saga.mail);
            self.read(mail, &mut draft)?;
            if !self.advance(&mut draft).await? {
                return Ok(());
            }
        } else {
            let starts = std::mem::take(&mut self.saga.starts);
            self.launch(starts);
        }
        loop {
            self.next_event(&mut draft).await?;
            // Siblings that ended meanwhile share the commit.
            while let Some(Some((launch, reply))) = self.attempts.next().now_or_never() {
                self.finished(launch, reply, &mut draft)?;
            }
            if !self.advance(&mut draft).await? {
                return Ok(());
            }
        }
    }

    /// Waits for an attempt's end, for mail, or for the time that the machine waits for.
    async fn next_event(&mut self, draft: &mut Draft) -> Result<(), Illegal> {
        let due = draft.hold.take().map(|due| self.shared.clock.until(due));
        let draining = self.shared.draining.clone();
        tokio::select! {
            biased;
            Some((launch, reply)) = self.attempts.next() => self.finished(launch, reply, draft)?,
            Some(mail) = self.mailbox.recv() => self.read(vec![mail], draft)?,
            () = tokio::time::sleep(due.unwrap_or_default()), if due.is_some() => {}
            () = draining.cancelled(), if self.attempts.is_empty() => {}
        }
        Ok(())
    }

    fn finished(&mut self, launch: Launch, reply: Reply, draft: &mut Draft) -> Result<(), Illegal> {
        let (outcome, retry_after) = reply;
        let now = self.shared.clock.now();
        let at = (launch.node, launch.item);
        let jitter = self.shared.clock.jitter();
        let record = self.saga.machine.finish(at, launch.effect, outcome, retry_after, now, jitter);
        self.saga.machine.apply(&record)?;
        draft.records.push(record);
        Ok(())
    }

    fn read(&mut self, mail: Vec<Mail>, draft: &mut Draft) -> Result<(), Illegal> {
        for mail in mail {
            if self.saga.read.insert(mail.id) {
                let record = self.saga.machine.receive(mail.id, mail.body, self.shared.clock.now());
                self.saga.machine.apply(&record)?;
                draft.records.push(record);
            }
        }
        Ok(())
    }

    /// Decides, commits, and acts on what is durable. False when the saga leaves this worker.
    async fn advance(&mut self, draft: &mut Draft) -> Result<bool, Illegal> {
        loop {
            if self.shared.draining.is_cancelled() {
                // Nothing new starts; with nothing under way the saga is given up to others.
                if self.attempts.is_empty() {
                    draft.then = Some(Then::Wait(self.shared.clock.now()));
                }
            } else {
                self.saga.decide(draft, self.shared.clock.now(), self.shared.settings.hold)?;
                if self.saga.machine.is_blocked() && self.attempts.is_empty() {
                    draft.then = Some(Then::Block);
                }
            }
            if draft.records.is_empty() && draft.then.is_none() {
                return Ok(true);
            }
            let hold = draft.hold.take();
            let sent = std::mem::take(draft);
            let mail = match self.commit(&sent).await {
                Settled::Committed(mail) => mail,
                Settled::Refused | Settled::Lost => return Ok(false),
                Settled::Faulty(why) => return self.block_faulty(&why).await,
            };
            if let Some(then) = sent.then {
                self.leave(then, &sent);
                return Ok(false);
            }
            self.launch(sent.starts);
            draft.hold = hold;
            let unread: Vec<_> = mail.into_iter().filter(|mail| !self.saga.read.contains(&mail.id)).collect();
            if unread.is_empty() {
                return Ok(true);
            }
            self.read(unread, draft)?;
        }
    }

    async fn commit(&mut self, draft: &Draft) -> Settled {
        let mail = draft.records.iter().filter_map(|record| match record {
            Record::Received { mail, .. } => Some(*mail),
            _ => None,
        });
        let commit = Commit {
            run: self.saga.run,
            number: self.saga.next,
            body: journal::encode(&draft.records).into(),
            mail: mail.collect(),
            then: draft.then.unwrap_or(Then::Go),
        };
        self.saga.next += 1;
        self.incarnation.committer.send(commit).await.unwrap_or(Settled::Lost)
    }

    fn leave(&self, then: Then, sent: &Draft) {
        if let (Then::End(_), Some(Record::Closed { end })) = (then, sent.records.last()) {
            self.shared.announce(self.saga.run, end);
        }
    }

    /// Acts on starts that are durable now.
    fn launch(&mut self, starts: Vec<Launch>) {
        for launch in starts {
            let step = &self.saga.program.plan.nodes[launch.node];
            let code = self.saga.program.step(launch.node);
            let code = match launch.effect {
                Effect::Action => Some(&code.action),
                Effect::Compensation => code.compensation.as_ref(),
                Effect::Probe => code.probe.as_ref(),
            };
            let code = code.expect("the plan promises only what the step has").clone();
            let input =
                self.saga.machine.input(launch.node, launch.item).expect("started with an input").clone();
            let output = match &self.saga.machine.stages(launch.node)[launch.item] {
                Stage::Undoing { output, .. } => output.clone(),
                _ => None,
            };
            let attempt = Attempt {
                run: self.saga.run,
                saga: self.saga.name.clone(),
                place: step.place(launch.item),
                effect: launch.effect,
                number: launch.attempt,
                deadline: Clock::instant() + step.attempt_timeout,
                cancelled: self.shared.draining.child_token(),
            };
            let run = attempt::run(code, attempt, input, output);
            self.attempts.push(Box::pin(async move { (launch, run.await) }));
        }
    }

    /// The database refuses this saga's data: what it has so far is read again, and the saga is blocked
    /// with the database's reason.
    async fn block_faulty(&mut self, why: &str) -> Result<bool, Illegal> {
        let Ok(Some(loaded)) = self.shared.backend.store.load(self.saga.run).await else { return Ok(false) };
        let Ok(saga) = Saga::load(loaded, self.saga.program.clone()) else { return Ok(false) };
        self.saga = saga;
        let failure = Failure::new(format!("the database refuses this saga's data: {why}"));
        let mut draft = Draft::default();
        for node in 0..self.saga.program.plan.nodes.len() {
            for item in 0..self.saga.machine.stages(node).len() {
                let effect = match self.saga.machine.stages(node)[item] {
                    Stage::Acting { .. } => Effect::Action,
                    Stage::Undoing { .. } => Effect::Compensation,
                    Stage::Probing { .. } => Effect::Probe,
                    _ => continue,
                };
                let outcome = Outcome::Malformed { failure: failure.clone(), applied: true };
                let at = self.saga.program.plan.nodes[node].place(item);
                let record = Record::Finished { at, effect, outcome, due: None };
                self.saga.machine.apply(&record)?;
                draft.records.push(record);
            }
        }
        self.saga.decide(&mut draft, self.shared.clock.now(), Duration::ZERO)?;
        draft.then.get_or_insert(Then::Block);
        self.commit(&draft).await;
        Ok(false)
    }
}
