//! Where one run happens: it counts points, hits processes as planned, and takes notes of everything
//! that must never be, at the moment when it is.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use super::plan::{Hit, Point, Spot};
use super::process::Process;
use crate::id::{MailId, Place, RunId, WorkerId};
use crate::journal::{self, Effect, MailBody, Outcome, Record};
use crate::step::context::Attempt;
use crate::store::{Backend, Commit, CommitReply, Error, Fence, JournalRow, Mail, Posted, Then};

/// The points of one run, in the order in which its processes reach them, and the hits planned there.
///
/// Cheap to clone; clones are the same scene.
#[derive(Clone)]
pub struct Scene {
    real: Backend,
    hits: Arc<BTreeMap<usize, Hit>>,
    notes: Arc<Mutex<Notes>>,
    stirred: Arc<Notify>,
}

#[derive(Default)]
struct Notes {
    trace: Vec<Point>,
    events: VecDeque<Event>,
    broken: Vec<String>,
    run: Option<RunId>,
    workers: HashMap<usize, WorkerId>,
    fenced: HashSet<WorkerId>,
    history: History,
    called: HashSet<(Place, Effect, u32)>,
    cancels: Vec<Cancel>,
    /// Sagas of the same key.
    rivals: HashSet<RunId>,
    ended: HashSet<RunId>,
    /// Calls that have not come back.
    under_way: Vec<(Process, RunId)>,
}

/// What happened that whoever directs the run has to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A process died.
    Died(usize),
    /// A process is to drain.
    Leaves(usize),
    /// A process stands still, or lost its lease without knowing.
    Frozen,
    /// The saga has ended, and every rival.
    Ended,
    /// The saga needs a person.
    Blocked,
}

/// A cancel that was posted.
#[derive(Clone, Debug)]
pub(super) struct Cancel {
    pub(super) mail: MailId,
    /// How many commits the journal had then.
    pub(super) commits: usize,
}

/// What is durable, as far as it was read.
#[derive(Default)]
struct History {
    rows: usize,
    started: HashSet<(Place, Effect, u32)>,
    done: HashSet<(Place, Effect)>,
}

impl Scene {
    /// A scene on the real store, with what is to hit the process that reaches each point.
    pub fn new(real: Backend, hits: BTreeMap<usize, Hit>) -> Self {
        Self { real, hits: Arc::new(hits), notes: Arc::default(), stirred: Arc::default() }
    }

    /// The points that were reached, in order.
    pub fn trace(&self) -> Vec<Point> {
        self.notes().trace.clone()
    }

    /// The planned points that were never reached, or where the planned hit cannot happen.
    pub fn missed(&self) -> Vec<usize> {
        let notes = self.notes();
        let missed = |(point, hit): &(&usize, &Hit)| {
            notes.trace.get(**point).is_none_or(|reached| !hit.fits(&reached.spot))
        };
        self.hits.iter().filter(missed).map(|(point, _)| *point).collect()
    }

    /// What was seen that must never be.
    pub fn broken(&self) -> Vec<String> {
        self.notes().broken.clone()
    }

    pub(super) fn run(&self) -> Option<RunId> {
        self.notes().run
    }

    pub(super) fn cancels(&self) -> Vec<Cancel> {
        self.notes().cancels.clone()
    }

    pub(super) fn real(&self) -> &Backend {
        &self.real
    }

    /// Waits for the next event.
    pub(super) async fn event(&self) -> Event {
        loop {
            let stirred = self.stirred.notified();
            if let Some(event) = self.notes().events.pop_front() {
                return event;
            }
            stirred.await;
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().expect("nothing panics while it takes notes")
    }

    fn tell(&self, event: Event) {
        self.notes().events.push_back(event);
        self.stirred.notify_one();
    }
}

/// Hits.
impl Scene {
    /// Counts a point, and says what hits the process there. A doomed process dies here instead.
    pub(super) async fn reach(&self, process: &Process, spot: Spot) -> Option<Hit> {
        if process.is_doomed() {
            self.die(process).await;
        }
        let mut notes = self.notes();
        let hit = self.hits.get(&notes.trace.len()).copied().filter(|hit| hit.fits(&spot));
        notes.trace.push(Point { process: process.number(), spot });
        hit
    }

    /// What hits the process before it is done.
    pub(super) async fn before(&self, process: &Process, hit: Option<Hit>) -> Result<(), Error> {
        match hit {
            Some(Hit::CrashBefore) => self.die(process).await,
            Some(Hit::CrashTorn) => {
                process.doom();
                std::future::pending().await
            }
            Some(Hit::FreezeBefore) => self.freeze(process).await,
            Some(Hit::StealBefore) => self.steal(process).await?,
            Some(Hit::Drain) => self.tell(Event::Leaves(process.number())),
            Some(Hit::Cancel) => self.cancel().await?,
            Some(Hit::Unavailable) => return Err(Error::Unavailable("by plan".into())),
            Some(Hit::Unknown) => return Err(Error::Unknown("by plan; nothing was written".into())),
            Some(Hit::Refuse) => return Err(Error::Refused("by plan".into())),
            _ => {}
        }
        Ok(())
    }

    /// What hits the process when it is done and has not heard so.
    pub(super) async fn after(&self, process: &Process, hit: Option<Hit>) -> Result<(), Error> {
        match hit {
            Some(Hit::CrashLost) => self.die(process).await,
            Some(Hit::CrashAfter) => process.doom(),
            Some(Hit::FreezeLost) => self.freeze(process).await,
            Some(Hit::StealLost) => self.steal(process).await?,
            Some(Hit::LoseAnswer) => return Err(Error::Unknown("by plan; it was written".into())),
            _ => {}
        }
        // Another hit may have struck the process meanwhile.
        process.pass().await;
        Ok(())
    }

    async fn die(&self, process: &Process) {
        if !process.is_dead() {
            process.kill();
            self.tell(Event::Died(process.number()));
        }
        std::future::pending().await
    }

    async fn freeze(&self, process: &Process) {
        process.freeze();
        self.tell(Event::Frozen);
        process.pass().await;
    }

    async fn steal(&self, process: &Process) -> Result<(), Error> {
        let worker = self.notes().workers.get(&process.number()).copied();
        if let Some(worker) = worker {
            process.outlive_its_lease();
            self.real.store.fence(worker).await?;
            self.fenced(worker);
            self.tell(Event::Frozen);
        }
        Ok(())
    }

    pub(super) async fn cancel(&self) -> Result<(), Error> {
        let Some(run) = self.run() else { return Ok(()) };
        let commits = self.real.query.journal(run).await?.len();
        let mail = Mail::new(MailId::new(), run, &MailBody::Cancel { reason: "by plan".into() });
        if self.real.store.post(std::slice::from_ref(&mail)).await? == [Posted::Accepted] {
            self.notes().cancels.push(Cancel { mail: mail.id, commits });
        }
        Ok(())
    }
}

/// Notes.
impl Scene {
    pub(super) fn joined(&self, process: &Process, worker: WorkerId) {
        self.notes().workers.insert(process.number(), worker);
    }

    pub(super) fn began(&self, run: RunId) {
        self.notes().run = Some(run);
    }

    pub(super) fn fenced(&self, worker: WorkerId) {
        self.notes().fenced.insert(worker);
    }

    /// Whether somebody has fenced it, as far as anybody here did.
    pub(super) fn is_fenced(&self, worker: WorkerId) -> bool {
        self.notes().fenced.contains(&worker)
    }

    /// The store's answer to a batch of commits.
    pub(super) fn committed(&self, fence: Fence, late: bool, commits: &[Commit], replies: &[CommitReply]) {
        for (commit, reply) in commits.iter().zip(replies) {
            if !matches!(reply, CommitReply::Committed { .. }) {
                continue;
            }
            if late {
                let number = commit.number;
                self.breaks(format!(
                    "commit {number} of worker {} was written after it was fenced",
                    fence.worker
                ));
            }
            match commit.then {
                Then::End(_) => {
                    let mut notes = self.notes();
                    notes.ended.insert(commit.run);
                    let all = notes.ended.len() > notes.rivals.len();
                    drop(notes);
                    if all {
                        self.tell(Event::Ended);
                    }
                }
                Then::Block => self.tell(Event::Blocked),
                Then::Go | Then::Wait(_) | Then::Queue => {}
            }
        }
    }

    /// A step's code is about to be called: its start has to be durable, its number new, and its effect
    /// not journaled as done.
    pub(super) async fn called(&self, process: &Process, attempt: &Attempt) -> Result<(), Error> {
        if self.notes().rivals.contains(&attempt.run) {
            return Ok(());
        }
        let rows = self.real.query.journal(attempt.run).await?;
        let mut notes = self.notes();
        notes.history.read(&rows);
        let (place, effect) = (attempt.place.clone(), attempt.effect);
        let what = format!("attempt {} at the {effect} of {place}", attempt.number);
        let call = (place.clone(), effect, attempt.number);
        if !notes.history.started.contains(&call) {
            notes.broken.push(format!("{what} was called before its start was durable"));
        }
        if !process.was_zombie() && notes.history.done.contains(&(place, effect)) {
            notes.broken.push(format!("{what} was called although it is journaled as done"));
        }
        if !notes.called.insert(call) {
            notes.broken.push(format!("{what} was called twice"));
        }
        Ok(())
    }

    /// A saga that is started under the same key.
    pub(super) fn rival(&self, run: RunId) {
        self.notes().rivals.insert(run);
    }

    /// Whether the saga that is explored has ended.
    pub(super) fn has_ended(&self) -> bool {
        let notes = self.notes();
        notes.run.is_some_and(|run| notes.ended.contains(&run))
    }

    pub(super) fn rivals(&self) -> Vec<RunId> {
        self.notes().rivals.iter().copied().collect()
    }

    /// A step's code is entered. Where sagas share a key, no other of them may have a call under way;
    /// those of the frozen and the dead do not count.
    pub(super) fn entered(&self, process: &Process, run: RunId) -> UnderWay {
        let mut notes = self.notes();
        let counts = |process: &Process| !process.is_dead() && !process.was_zombie();
        let other = notes.under_way.iter().any(|(other, of)| *of != run && counts(other));
        if !notes.rivals.is_empty() && other && counts(process) {
            notes.broken.push("two sagas of one key had calls under way at once".into());
        }
        notes.under_way.push((process.clone(), run));
        UnderWay { scene: self.clone(), process: process.number(), run }
    }

    fn breaks(&self, what: String) {
        self.notes().broken.push(what);
    }
}

/// A call that has not come back.
pub(super) struct UnderWay {
    scene: Scene,
    process: usize,
    run: RunId,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut notes = self.scene.notes();
        let mine = |(process, run): &(Process, RunId)| process.number() == self.process && *run == self.run;
        if let Some(index) = notes.under_way.iter().position(mine) {
            notes.under_way.swap_remove(index);
        }
    }
}

impl History {
    fn read(&mut self, rows: &[JournalRow]) {
        for row in rows.iter().skip(self.rows) {
            for record in journal::decode(&row.body).unwrap_or_default() {
                match record {
                    Record::Started { at, effect, attempt } => {
                        self.started.insert((at, effect, attempt));
                    }
                    Record::Finished { at, effect, outcome: Outcome::Ok(_), .. } => {
                        if effect == Effect::Probe {
                            self.done.insert((at.clone(), Effect::Action));
                        }
                        self.done.insert((at, effect));
                    }
                    _ => {}
                }
            }
        }
        self.rows = self.rows.max(rows.len());
    }
}

impl fmt::Debug for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scene").field("hits", &self.hits).finish_non_exhaustive()
    }
}
