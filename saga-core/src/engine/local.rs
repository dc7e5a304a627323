//! Starts that this process drives at once: the saga is inserted owned, with its first starts in
//! commit 0, so that no poll and no commit of its own is needed to begin.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::driver::Driver;
use super::live::{Draft, Keys, Saga};
use super::shared::{Incarnation, Shared};
use super::trouble::Trouble;
use crate::client::Sketch;
use crate::journal::Record;
use crate::saga::Machine;
use crate::store::{Error, Start, StartReply};

type Reply = oneshot::Receiver<Result<StartReply, Error>>;

impl Shared {
    /// Begins to start a saga here, if this worker has the code and room for it and may commit.
    ///
    /// The work goes on in a task of its own: a caller that stops waiting must not leave a saga that is
    /// owned but driven by nobody.
    pub(crate) fn start(self: &Arc<Self>, sketch: &Sketch) -> Option<Reply> {
        let Record::Began { fingerprint, saga: name, .. } = &sketch.began else { return None };
        let incarnation = self.serving()?;
        let program = self.registry.get(*fingerprint)?.clone();
        let permit = self.capacity.clone().try_acquire_owned().ok()?;
        let mut machine = Machine::new(program.plan.clone());
        machine.apply(&sketch.began).ok()?;
        let mut saga = Saga {
            run: sketch.run,
            name: name.as_str().into(),
            program,
            keeping: self.keeping.clone(),
            machine,
            keys: Keys::of(&sketch.began),
            priority: sketch.priority,
            queued: false,
            trouble: Trouble::default(),
            next: 1,
            starts: Vec::new(),
            mail: Vec::new(),
            read: HashSet::new(),
            foreign: false,
        };
        let mut draft = Draft { records: vec![sketch.began.clone()], ..Draft::default() };
        saga.decide(&mut draft, self.clock.now(), Duration::ZERO).ok()?;
        if draft.then.is_some() || saga.machine.is_blocked() {
            // It ends or blocks before anything runs: rare enough to go the ordinary way.
            return None;
        }
        saga.starts = draft.starts;
        let start = sketch.clone().into_owned(&draft.records);
        let (caller, reply) = oneshot::channel();
        let shared = self.clone();
        // One task from here to the saga's end: it need not be woken between the answer and the first attempt.
        tokio::spawn(async move {
            let (caller, reply) = insert(&shared, &incarnation, &start, caller).await;
            drop(start);
            if matches!(reply, Ok(StartReply::Started)) {
                // Before the caller hears of it: whoever then waits for its end finds that it is driven here.
                let driver = Box::pin(Driver::run(shared, incarnation, saga, permit));
                tell(caller, reply);
                driver.await;
            } else {
                tell(caller, reply);
            }
        });
        Some(reply)
    }
}

/// Inserts the saga. When the store does not answer, the caller is told so, but the identical start is repeated here
/// until it is known whether we own the saga. Answers the caller, unless he has been told, and what to tell him.
async fn insert(
    shared: &Shared,
    incarnation: &Incarnation,
    start: &Start,
    caller: oneshot::Sender<Result<StartReply, Error>>,
) -> (Option<oneshot::Sender<Result<StartReply, Error>>>, Result<StartReply, Error>) {
    let mut caller = Some(caller);
    loop {
        let lost = || Err(Error::Unknown("the worker is shutting down".into()));
        let reply = incarnation.starter.send(start.clone()).await.unwrap_or_else(lost);
        if matches!(reply, Ok(StartReply::Queued)) {
            // Its key may be free by now: the claimer looks.
            shared.nudge.notify_one();
        }
        if reply == Err(Error::Fenced) {
            incarnation.lost.cancel();
        }
        let open = reply.as_ref().is_err_and(Error::is_transient) && !incarnation.lost.is_cancelled();
        if !open {
            return (caller, reply);
        }
        tell(caller.take(), reply);
    }
}

fn tell(caller: Option<oneshot::Sender<Result<StartReply, Error>>>, reply: Result<StartReply, Error>) {
    // A caller that is gone has lost interest in the answer.
    let _ = caller.map(|caller| caller.send(reply));
}
