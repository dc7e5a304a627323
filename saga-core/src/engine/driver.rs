//! The life of one saga in a worker: take what happened, decide, commit, act.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use super::attempt;
use super::committer::Settled;
use super::live::{Draft, Launch, Saga};
use super::shared::{Incarnation, LOCK, Shared};
use crate::id::RunId;
use crate::journal::{self, Cause, Effect, Failure, Illegal, Outcome, Record, Stage};
use crate::step::code::Reply;
use crate::step::context::{Attempt, Deadline};
use crate::store::{Commit, Loaded, Mail, Then};

/// After so many deaths in a row a saga is a suspect; after as many again, alone, it is blocked.
const SUSPECT: u32 = 3;

type Running = FuturesUnordered<BoxFuture<'static, (Launch, Reply)>>;

/// Drives one saga until it ends, waits, is blocked, or is not ours any more.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    incarnation: Arc<Incarnation>,
    saga: Saga,
    attempts: Running,
    /// Cancelled when the saga turns back, so that actions still under way can end early.
    forward: CancellationToken,
    turned_back: CancellationToken,
    mailbox: mpsc::UnboundedReceiver<Mail>,
    _permit: OwnedSemaphorePermit,
    /// Held while the saga is suspected to kill its workers.
    alone: Option<OwnedSemaphorePermit>,
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
        incarnation.mailboxes.lock().expect(LOCK).insert(run, letterbox.clone());
        let tracker = incarnation.drivers.clone();
        let lost = incarnation.lost.clone();
        let forward = shared.draining.child_token();
        let turned_back = CancellationToken::new();
        let attempts = FuturesUnordered::new();
        let mut driver = Self {
            shared,
            incarnation,
            saga,
            attempts,
            forward,
            turned_back,
            mailbox,
            _permit: permit,
            alone: None,
        };
        tracker.spawn(async move {
            let outcome = lost.run_until_cancelled(driver.drive()).await;
            if let Some(Err(illegal)) = outcome {
                tracing::error!(%run, %illegal, "the engine wrote a history that is not legal; the saga rests");
            }
            // The saga may have been claimed here again already: then the mailbox is its new driver's.
            let mut mailboxes = driver.incarnation.mailboxes.lock().expect(LOCK);
            if mailboxes.get(&run).is_some_and(|present| present.same_channel(&letterbox)) {
                mailboxes.remove(&run);
            }
        });
    }

    async fn drive(&mut self) -> Result<(), Illegal> {
        let mut draft = Draft::default();
        if self.saga.starts.is_empty() {
            self.beware(&mut draft).await?;
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

    /// A saga whose attempts were running when several workers died one after another may be what kills
    /// them. A suspect runs alone among the suspects of this worker; when workers die of it even so,
    /// nobody runs it again before a person has looked. Any attempt that ends clears the suspicion.
    async fn beware(&mut self, draft: &mut Draft) -> Result<(), Illegal> {
        let deaths = self.saga.machine.deaths();
        if deaths >= 2 * SUSPECT {
            let failure =
                Failure::new(format!("{deaths} workers died one after another while they ran this"));
            return self.saga.end_all(&Outcome::Halted { cause: Cause::Deadly, failure }, draft);
        }
        if deaths >= SUSPECT {
            let alone = self.shared.suspects.clone().acquire_owned().await;
            self.alone = Some(alone.expect("never closed"));
        }
        Ok(())
    }

    /// Waits for an attempt's end, for mail, or for the time that the machine waits for.
    async fn next_event(&mut self, draft: &mut Draft) -> Result<(), Illegal> {
        let due = draft.hold.take().map(|due| self.shared.clock.until(due));
        let mut limited = draft.limited.take();
        let permitted = async {
            match &mut limited {
                Some(wait) => wait.granted().await,
                None => std::future::pending().await,
            }
        };
        let draining = self.shared.draining.clone();
        tokio::select! {
            biased;
            Some((launch, reply)) = self.attempts.next() => self.finished(launch, reply, draft)?,
            Some(mail) = self.mailbox.recv() => self.read(vec![mail], draft)?,
            () = tokio::time::sleep(due.unwrap_or_default()), if due.is_some() => {}
            granted = permitted => draft.granted = granted,
            () = draining.cancelled(), if self.attempts.is_empty() => {}
        }
        Ok(())
    }

    fn finished(&mut self, launch: Launch, reply: Reply, draft: &mut Draft) -> Result<(), Illegal> {
        let (outcome, retry_after) = reply;
        let outcome = within(outcome, self.shared.settings.payload_bytes_max);
        let now = self.shared.clock.now();
        let at = (launch.node, launch.item);
        let jitter = self.shared.clock.jitter();
        let record = self.saga.machine.finish(at, launch.effect, outcome, retry_after, now, jitter);
        self.saga.machine.apply(&record)?;
        draft.records.push(record);
        if self.saga.machine.deaths() == 0 {
            self.alone = None;
        }
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
                if self.saga.machine.is_blocked() && self.attempts.is_empty() && draft.starts.is_empty() {
                    draft.then = Some(Then::Block);
                }
            }
            if self.saga.machine.cause().is_some() {
                self.forward.cancel();
                self.turned_back.cancel();
            }
            if draft.records.is_empty() && draft.then.is_none() {
                return Ok(true);
            }
            let (hold, limited) = (draft.hold.take(), draft.limited.take());
            let sent = std::mem::take(draft);
            let mail = match self.commit(&sent).await {
                Settled::Committed(mail) => mail,
                Settled::Refused | Settled::Lost => return Ok(false),
                Settled::Faulty(why) => return self.block_faulty(&why, &sent).await,
            };
            if let Some(then) = sent.then {
                self.leave(then, &sent);
                return Ok(false);
            }
            self.launch(sent.starts);
            (draft.hold, draft.limited) = (hold, limited);
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
                deadline: Deadline::after(step.attempt_timeout),
                turned_back: self.turned_back.clone(),
                cancelled: match self.saga.machine.cause() {
                    None => self.forward.clone(),
                    Some(_) => self.shared.draining.clone(),
                },
            };
            let run = attempt::run(code, attempt, input, output);
            self.attempts.push(Box::pin(async move { (launch, run.await) }));
        }
    }

    /// The database refuses this saga's data: what it has so far is read again, and the saga is blocked
    /// with the database's reason.
    ///
    /// Nothing is decided here: a start that was recorded now would never run.
    async fn block_faulty(&mut self, why: &str, sent: &Draft) -> Result<bool, Illegal> {
        let Some(loaded) = reload(self.shared.clone(), self.saga.run).await else { return Ok(false) };
        let Ok(saga) = Saga::load(loaded, self.saga.program.clone()) else { return Ok(false) };
        self.saga = saga;
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
async fn reload(shared: Arc<Shared>, run: RunId) -> Option<Loaded> {
    let mut pause = Duration::from_millis(50);
    loop {
        match shared.backend.store.load(run).await {
            Ok(loaded) => return loaded,
            Err(error) => tracing::warn!(%run, %error, "the journal could not be read yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

/// An output that is too large to be kept is the code's fault, not the service's: the effect happened.
fn within(outcome: Outcome, bytes_max: usize) -> Outcome {
    match outcome {
        Outcome::Ok(output) if output.bytes() > bytes_max => {
            let bytes = output.bytes();
            let failure = Failure::new(format!(
                "the output has {bytes} bytes, and at most {bytes_max} are kept; store it elsewhere and return its address"
            ));
            Outcome::Malformed { failure, applied: true }
        }
        outcome => outcome,
    }
}
