//! The life of one saga in a worker: take what happened, decide, commit, act.

mod leaving;
mod seat;
mod transact;

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use super::attempt::{self, panic_text};
use super::committer::Settled;
use super::live::{Draft, Launch, Saga, Unfit};
use super::shared::{Incarnation, Shared};
use crate::id::Place;
use crate::journal::{self, Bound, Cause, Effect, Failure, Illegal, MailBody, Outcome, Record, Stage};
use crate::saga::Kind;
use crate::step::Desk;
use crate::step::code::Reply;
use crate::step::context::{Attempt, Deadline};
use crate::store::{Commit, Mail, Then};
use seat::Seat;
use transact::{Open, Sent, Undone, Waiting};

/// After so many deaths in a row a saga is a suspect; after as many again, alone, it is blocked.
const SUSPECT: u32 = 3;

type Running = FuturesUnordered<BoxFuture<'static, (Launch, Reply)>>;

/// Drives one saga until it ends, waits, is blocked, or is not ours any more.
///
/// Its future is allocated once per saga, so what rarely happens in it is boxed where it happens.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    incarnation: Arc<Incarnation>,
    saga: Saga,
    attempts: Running,
    /// Attempts that are lent a transaction, each in its turn.
    transactions: VecDeque<Waiting>,
    /// Attempts that ended while a transaction was open.
    early: Vec<(Launch, Reply)>,
    /// The transaction in which the next commit is written.
    open: Option<Open>,
    /// Cancelled when the saga turns back, so that actions still under way can end early.
    forward: CancellationToken,
    turned_back: CancellationToken,
    mailbox: mpsc::UnboundedReceiver<Mail>,
    /// Nothing was committed here yet, since the store gave it.
    fresh: bool,
    _permit: OwnedSemaphorePermit,
    /// Held while the saga is suspected to kill its workers.
    alone: Option<OwnedSemaphorePermit>,
}

impl Driver {
    /// Drives the saga in a task of its own.
    pub(crate) fn spawn(
        shared: Arc<Shared>,
        incarnation: Arc<Incarnation>,
        saga: Saga,
        permit: OwnedSemaphorePermit,
    ) {
        tokio::spawn(Self::run(shared, incarnation, saga, permit));
    }

    /// From here on the saga is driven in this process; whoever gets the future has to run it.
    pub(crate) fn run(
        shared: Arc<Shared>,
        incarnation: Arc<Incarnation>,
        saga: Saga,
        permit: OwnedSemaphorePermit,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (seat, mailbox) = Seat::take(shared.clone(), incarnation.clone(), saga.run);
        let (tracker, lost) = (incarnation.drivers.clone(), incarnation.lost.clone());
        let forward = shared.draining.child_token();
        let turned_back = CancellationToken::new();
        let attempts = FuturesUnordered::new();
        let mut driver = Self {
            shared,
            incarnation,
            saga,
            attempts,
            transactions: VecDeque::new(),
            early: Vec::new(),
            open: None,
            forward,
            turned_back,
            mailbox,
            fresh: true,
            _permit: permit,
            alone: None,
        };
        tracker.track_future(async move {
            let _seat = seat;
            // Pinned here: a future that is handed on by value has room for itself twice.
            let driven = {
                let driven = pin!(AssertUnwindSafe(driver.drive()).catch_unwind());
                lost.run_until_cancelled(driven).await
            };
            let unfit = match driven {
                None | Some(Ok(Ok(()))) => None,
                Some(Ok(Err(illegal))) => Some(Unfit::Next(illegal)),
                Some(Err(panic)) => Some(Unfit::Panicked(panic_text(&*panic).to_owned())),
            };
            if let Some(unfit) = unfit {
                // Whatever is under way here is in doubt for whoever goes on from the journal.
                let _ = lost.run_until_cancelled(Box::pin(driver.stop_at(unfit))).await;
            }
        })
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
            if !self.next_event(&mut draft).await? {
                return Ok(());
            }
            // Siblings that ended meanwhile share the commit, unless that is a transaction's own.
            while self.open.is_none()
                && let Some(Some((launch, reply))) = self.attempts.next().now_or_never()
            {
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

    /// Waits for an attempt's end, for mail, or for the time that the machine waits for. False when the saga
    /// turned out not to be ours.
    async fn next_event(&mut self, draft: &mut Draft) -> Result<bool, Illegal> {
        if !self.early.is_empty() {
            for (launch, reply) in std::mem::take(&mut self.early) {
                self.finished(launch, reply, draft)?;
            }
            return Ok(true);
        }
        if let Some(waiting) = self.transactions.pop_front() {
            return Box::pin(self.transact(waiting, draft)).await;
        }
        let due = draft.hold.take().map(|due| self.shared.clock.until(due));
        let mut limited = draft.limited.take();
        let permitted = async {
            match &mut limited {
                Some(wait) => wait.granted().await,
                None => std::future::pending().await,
            }
        };
        // Only who has nothing under way waits for it: the token is everybody's, and a clone of it a lock.
        let draining = self.attempts.is_empty().then(|| self.shared.draining.clone());
        let drains = async {
            match &draining {
                Some(draining) => draining.cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some((launch, reply)) = self.attempts.next() => self.finished(launch, reply, draft)?,
            Some(mail) = self.mailbox.recv() => self.read(vec![mail], draft)?,
            () = tokio::time::sleep(due.unwrap_or_default()), if due.is_some() => {}
            granted = permitted => draft.granted = granted,
            () = drains => {}
        }
        Ok(true)
    }

    /// Whether nothing of this saga is under way here.
    fn is_idle(&self) -> bool {
        self.attempts.is_empty() && self.transactions.is_empty() && self.early.is_empty()
    }

    fn finished(&mut self, launch: Launch, reply: Reply, draft: &mut Draft) -> Result<(), Illegal> {
        let (outcome, retry_after) = reply;
        self.record_end(&launch, outcome, retry_after, draft)
    }

    fn record_end(
        &mut self,
        launch: &Launch,
        outcome: Outcome,
        retry_after: Option<Duration>,
        draft: &mut Draft,
    ) -> Result<(), Illegal> {
        let now = self.shared.clock.now();
        let at = (launch.node, launch.item);
        let jitter = self.shared.clock.jitter();
        for record in self.saga.machine.finish(at, launch.effect, outcome, retry_after, now, jitter) {
            self.saga.machine.apply(&record)?;
            draft.records.push(record);
        }
        if self.saga.machine.deaths() == 0 {
            self.alone = None;
        }
        Ok(())
    }

    fn read(&mut self, mail: Vec<Mail>, draft: &mut Draft) -> Result<(), Illegal> {
        for mail in mail {
            let Some(body) = mail.read() else {
                self.leave_to_newer(&mail);
                continue;
            };
            if self.saga.read.insert(mail.id) {
                if let MailBody::Damaged { text } = &body {
                    tracing::error!(run = %self.saga.run, mail = %mail.id, text, "mail does not read; it is refused");
                }
                let body = self.saga.keeping.mail(body, self.saga.run);
                let record = self.saga.machine.receive(mail.id, body, self.shared.clock.now());
                self.saga.machine.apply(&record)?;
                draft.records.push(record);
            }
        }
        Ok(())
    }

    /// Decides, commits, and acts on what is durable. False when the saga leaves this worker.
    async fn advance(&mut self, draft: &mut Draft) -> Result<bool, Illegal> {
        loop {
            if self.saga.foreign || self.shared.draining.is_cancelled() {
                // Nothing new starts; with nothing under way the saga is given up to others.
                if self.is_idle() {
                    draft.then = Some(self.given_up());
                }
            } else {
                self.saga.decide(draft, self.shared.clock.now(), self.shared.settings.hold)?;
                if self.saga.machine.is_blocked() && self.is_idle() && draft.starts.is_empty() {
                    draft.then = Some(Then::Block);
                }
                self.keep_for_a_while(draft);
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
                Sent::Settled(Settled::Committed(mail)) => mail,
                Sent::Settled(Settled::Unread(mail)) => {
                    *draft = self.without_pivot(sent);
                    self.read(mail, draft)?;
                    continue;
                }
                Sent::RolledBack(undone) => {
                    self.roll_back(*undone, draft)?;
                    continue;
                }
                Sent::Settled(Settled::Refused) => {
                    Box::pin(self.give_back()).await;
                    return Ok(false);
                }
                Sent::Settled(Settled::Lost) => return Ok(false),
                Sent::Settled(Settled::Faulty(why)) => {
                    return Box::pin(self.block_faulty(&why, &sent)).await;
                }
            };
            self.saga.next += 1;
            self.fresh = false;
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

    /// What a commit says that would start the pivot, without that start: it stands last and alone, because a
    /// pivot waits for every earlier step, and what comes after waits for it.
    fn without_pivot(&mut self, sent: Draft) -> Draft {
        let mut draft = Draft { granted: sent.granted, ..Draft::default() };
        draft.records = sent.records;
        draft.records.retain(|record| match record {
            Record::Started { at, effect: Effect::Action, attempt: 1 }
            | Record::Bounded { at, bound: Bound::Action, .. } => !self.is_pivot(at),
            _ => true,
        });
        for launch in sent.starts {
            if self.starts_pivot(&launch) {
                self.saga.machine.withdraw(launch.node, launch.item);
            }
        }
        draft
    }

    fn starts_pivot(&self, launch: &Launch) -> bool {
        let is_pivot = self.saga.program.plan.nodes[launch.node].kind == Kind::Pivot;
        is_pivot && launch.effect == Effect::Action && launch.attempt == 1
    }

    fn is_pivot(&self, at: &Place) -> bool {
        let plan = &self.saga.program.plan;
        plan.find(at.parts().0).is_some_and(|node| plan.nodes[node].kind == Kind::Pivot)
    }

    /// The transaction was rolled back: the saga is where it was before the attempt's end, which is another now.
    fn roll_back(&mut self, undone: Undone, draft: &mut Draft) -> Result<(), Illegal> {
        let Undone { launch, outcome, before, mail } = undone;
        self.saga.machine = before;
        *draft = Draft::default();
        self.record_end(&launch, outcome, None, draft)?;
        self.read(mail, draft)
    }

    async fn commit(&mut self, draft: &Draft) -> Sent {
        let mail = draft.records.iter().filter_map(|record| match record {
            Record::Received { mail, .. } => Some(*mail),
            _ => None,
        });
        let mut trouble = self.saga.trouble.clone();
        trouble.fold(&self.saga.program.plan.name, &draft.records);
        let commit = Commit {
            run: self.saga.run,
            number: self.saga.next,
            body: journal::encode(&draft.records).into(),
            mail: mail.collect(),
            then: draft.then.unwrap_or(Then::Go),
            key: self.saga.keys.own.clone(),
            error: self.saga.trouble.until(&trouble),
            pivot: draft.starts.iter().any(|launch| self.starts_pivot(launch)),
        };
        let sent = match self.open.take() {
            Some(open) => Box::pin(open.commit(commit)).await,
            None => Sent::Settled(self.incarnation.committer.send(commit).await.unwrap_or(Settled::Lost)),
        };
        if matches!(sent, Sent::Settled(Settled::Committed(_))) {
            self.saga.trouble = trouble;
        }
        sent
    }

    /// Acts on starts that are durable now.
    fn launch(&mut self, starts: Vec<Launch>) {
        for launch in starts {
            let step = &self.saga.program.plan.nodes[launch.node];
            let (code, lent) = self.saga.program.step(launch.node).of(launch.effect);
            let code = code.clone();
            let input =
                self.saga.machine.input(launch.node, launch.item).expect("started with an input").clone();
            let output = match &self.saga.machine.stages(launch.node)[launch.item] {
                Stage::Undoing { output, .. } => output.clone(),
                _ => None,
            };
            let at = (launch.node, launch.item);
            let left = self.saga.machine.time_left(at, launch.effect, self.shared.clock.now());
            let attempt = Attempt {
                run: self.saga.run,
                saga: self.saga.name.clone(),
                place: step.place(launch.item),
                effect: launch.effect,
                number: launch.attempt,
                keys: self.saga.keys.all.clone(),
                priority: self.saga.priority,
                deadline: Deadline::after(
                    left.map_or(step.attempt_timeout, |left| left.min(step.attempt_timeout)),
                ),
                turned_back: self.turned_back.clone(),
                cancelled: match self.saga.machine.cause() {
                    None => self.forward.clone(),
                    Some(_) => self.shared.draining.clone(),
                },
                desk: Desk::default(),
            };
            if lent {
                self.transactions.push_back(Waiting { launch, code, attempt, input, output });
                continue;
            }
            let (keeping, id) = (self.saga.keeping.clone(), self.saga.run);
            let run = attempt::run(code, attempt, input, output);
            self.attempts
                .push(Box::pin(run.then(async move |reply| (launch, keeping.output(reply, id).await))));
        }
    }
}
