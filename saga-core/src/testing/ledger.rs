//! The participants of a saga, and what happened to them: the only witness whose word counts, because
//! the engine never writes in it.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::behaviour::{Behaviour, Direction, Script, Target};
use crate::id::RunId;
use crate::journal::Effect;
use crate::payload::Payload;
use crate::step::{Cx, Probed, StepError};
use crate::store::memory::Writes;

/// Every participant of a test in one book: what was asked, what was done, in one order.
///
/// It behaves as a good participant does, by a *barrier*: a duplicate gets the first answer; a
/// compensation that arrives before its action is recorded, and the late action is refused; what was
/// settled as not done is refused for ever. Steps named by [`Ledger::not_idempotent`] apply their effect
/// at every arrival instead, and know no key but to settle by.
///
/// Cheap to clone; clones are the same book. Put it where your application keeps the clients of its
/// services, and have their calls end in [`Ledger::act`], [`Ledger::undo`] and [`Ledger::settle`].
#[derive(Clone, Default)]
pub struct Ledger {
    book: Arc<Mutex<Book>>,
}

#[derive(Default)]
struct Book {
    entries: Vec<Entry>,
    effects: BTreeMap<(RunId, String, usize), Standing>,
    scripted: BTreeMap<Target, Vec<Behaviour>>,
    not_idempotent: HashSet<String>,
}

/// What a participant remembers of one effect.
#[derive(Clone, Debug, Default)]
struct Standing {
    applied: u32,
    undone: bool,
    /// The key is refused from now on: it was undone, or settled as not done.
    closed: bool,
    rejected: bool,
    answer: Option<Payload>,
}

/// What a participant reads of a request, whatever its transport: the wire contract of
/// [`Cx::headers`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The run.
    pub run: RunId,
    /// The step.
    pub step: String,
    /// The item of an `each`; 0 elsewhere.
    pub occurrence: usize,
    /// What is asked for.
    pub effect: Effect,
    /// The attempt's number.
    pub attempt: u32,
    /// The idempotency key.
    pub key: String,
}

/// One arrival, or one request that was lost on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What was asked.
    pub request: Request,
    /// What came of it.
    pub verdict: Verdict,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The effect happened.
    Applied,
    /// It had happened before: the same answer again.
    Repeated,
    /// The participant said no.
    Rejected,
    /// The key is closed: it was undone or settled before.
    Refused,
    /// A compensation whose action had never arrived: recorded, and the action refused from then on.
    Empty,
    /// A probe found that the action had happened.
    Found,
    /// A probe found that it had not, and closed the key.
    Closed,
    /// The request never arrived.
    Lost,
    /// It was written in a transaction that cannot have been committed.
    RolledBack,
}

impl<S> From<&Cx<S>> for Request {
    fn from(cx: &Cx<S>) -> Self {
        let headers = cx.headers();
        let headers = headers.iter().map(|(name, value)| (*name, value.as_str()));
        Self { key: cx.key(), ..Self::from_headers(headers).expect("a context writes its own headers") }
    }
}

impl Request {
    /// Reads the headers that a step sent. The key is made of them, direction last.
    pub fn from_headers<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let headers: BTreeMap<&str, &str> = headers.into_iter().collect();
        let header =
            |name: &str| headers.get(name).copied().ok_or_else(|| format!("header {name} is missing"));
        let number = |name: &str| -> Result<u32, String> {
            header(name)?.parse().map_err(|_| format!("header {name} is no number"))
        };
        let run: RunId =
            header("saga-run")?.parse().map_err(|_| "header saga-run is no run id".to_owned())?;
        let step = header("saga-step")?.to_owned();
        let occurrence = number("saga-occurrence")?;
        let (effect, direction) = match header("saga-direction")? {
            "action" => (Effect::Action, "action"),
            "compensation" => (Effect::Compensation, "compensation"),
            "settle" => (Effect::Probe, "action"),
            other => return Err(format!("header saga-direction is {other:?}")),
        };
        let key = format!("{run}/{step}#{occurrence}/{direction}");
        let attempt = number("saga-attempt")?;
        Ok(Self { run, step, occurrence: occurrence as usize, effect, attempt, key })
    }

    /// The effect it is about.
    pub fn target(&self) -> Target {
        let effect = Direction::from(self.effect);
        Target { step: self.step.clone(), occurrence: self.occurrence, effect }
    }
}

/// What participants are asked.
impl Ledger {
    /// An empty book, in which everybody does what is asked.
    pub fn new() -> Self {
        Self::default()
    }

    /// An action arrives. A duplicate gets the answer that the first one got.
    ///
    /// # Cancellation
    ///
    /// The effect is written down when the future is first polled, as a request that was sent cannot be
    /// called back.
    pub async fn act<T>(&self, request: impl Into<Request>, answer: T) -> Result<T, StepError>
    where
        T: Serialize + DeserializeOwned,
    {
        let request = request.into();
        let answer = Payload::encode(&answer)?;
        let given = self.arrive(&request, |book| book.act(&request, answer)).await?;
        Ok(given.decode()?)
    }

    /// A compensation arrives.
    pub async fn undo(&self, request: impl Into<Request>) -> Result<(), StepError> {
        let request = request.into();
        self.arrive(&request, |book| book.undo(&request)).await.map(drop)
    }

    /// A probe asks whether the action happened. When it had not, its key is refused from now on.
    pub async fn settle<T: DeserializeOwned>(
        &self,
        request: impl Into<Request>,
    ) -> Result<Probed<T>, StepError> {
        let request = request.into();
        let found = self.arrive(&request, |book| book.settle(&request)).await?;
        Ok(match found.items()?.first() {
            Some(answer) => Probed::Done(answer.decode()?),
            None => Probed::NotDone,
        })
    }

    /// An action of a transactional step: its effect is written in the transaction, and there once that is
    /// committed.
    ///
    /// ```
    /// # use saga_core::{Cx, StepError, testing::{Ledger, MemoryTx}};
    /// async fn book(cx: Cx<Ledger>, mut tx: MemoryTx, order: u64) -> Result<u64, StepError> {
    ///     cx.state().act_in(&mut tx, &cx, order).await
    /// }
    /// ```
    pub async fn act_in<T: Serialize>(
        &self,
        tx: &mut Writes,
        request: impl Into<Request>,
        answer: T,
    ) -> Result<T, StepError> {
        let kept = Payload::encode(&answer)?;
        self.write(tx, request.into(), move |book, request| book.act(request, kept)).await?;
        Ok(answer)
    }

    /// A compensation of a transactional step.
    pub async fn undo_in(&self, tx: &mut Writes, request: impl Into<Request>) -> Result<(), StepError> {
        self.write(tx, request.into(), |book, request| book.undo(request)).await
    }

    async fn write(
        &self,
        tx: &mut Writes,
        request: Request,
        apply: impl FnOnce(&mut Book, &Request) -> Result<Payload, StepError> + Send + 'static,
    ) -> Result<(), StepError> {
        let behaviour = self.book().behaviour(&request.target());
        match behaviour {
            Some(Behaviour::LostAnswer | Behaviour::Panic | Behaviour::Hang) => {
                // Whatever it does now, it does not succeed.
                self.book().note(&request, Verdict::RolledBack, ());
                self.mishap(behaviour, Ok(())).await
            }
            Some(Behaviour::NotApplied | Behaviour::Unknown | Behaviour::Reject) => {
                self.arrive_as(behaviour, &request, |_| Ok(Payload::null())).await.map(drop)
            }
            None => {
                let ledger = self.clone();
                tx.push(move || drop(apply(&mut ledger.book(), &request)));
                Ok(())
            }
        }
    }

    async fn arrive(
        &self,
        request: &Request,
        apply: impl FnOnce(&mut Book) -> Result<Payload, StepError>,
    ) -> Result<Payload, StepError> {
        let behaviour = self.book().behaviour(&request.target());
        self.arrive_as(behaviour, request, apply).await
    }

    async fn arrive_as(
        &self,
        behaviour: Option<Behaviour>,
        request: &Request,
        apply: impl FnOnce(&mut Book) -> Result<Payload, StepError>,
    ) -> Result<Payload, StepError> {
        let answer = {
            let mut book = self.book();
            match behaviour {
                Some(Behaviour::NotApplied) => {
                    book.note(request, Verdict::Lost, Err(StepError::not_applied("connection refused")))
                }
                Some(Behaviour::Unknown) => {
                    book.note(request, Verdict::Lost, Err(StepError::unknown("the request was lost")))
                }
                Some(Behaviour::Reject) if !book.must_repeat(request) => book.reject(request),
                _ => apply(&mut book),
            }
        };
        self.mishap(behaviour, answer).await
    }

    /// What keeps an answer from its caller.
    async fn mishap<T>(
        &self,
        behaviour: Option<Behaviour>,
        answer: Result<T, StepError>,
    ) -> Result<T, StepError> {
        match behaviour {
            Some(Behaviour::LostAnswer) => Err(StepError::unknown("the answer was lost")),
            // Past the panic hook: a test that runs thousands of these would drown in its messages.
            Some(Behaviour::Panic) => std::panic::resume_unwind(Box::new("a panic by script")),
            Some(Behaviour::Hang) => std::future::pending().await,
            _ => answer,
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("nothing panics while it holds the book")
    }
}

/// What is arranged before, and read after.
impl Ledger {
    /// The first calls of one effect meet these behaviours, in order. The place is a step's name, or
    /// `step#item`.
    ///
    /// # Panics
    ///
    /// When `place` is no place.
    pub fn script(&self, place: &str, effect: Effect, behaviours: &[Behaviour]) {
        let (step, occurrence) = place.split_once('#').unwrap_or((place, "0"));
        let occurrence = occurrence.parse().expect("a place is a step, or step#item");
        let target = Target { step: step.into(), occurrence, effect: effect.into() };
        self.book().scripted.insert(target, behaviours.to_vec());
    }

    /// This step's effect happens at every arrival: its participant knows no duplicates.
    pub fn not_idempotent(&self, step: &str) {
        self.book().not_idempotent.insert(step.into());
    }

    /// Everything that was asked, in order.
    pub fn entries(&self) -> Vec<Entry> {
        self.book().entries.clone()
    }

    /// The effects that happened, in order: `charge`, `reserve#1`, `undo charge`.
    pub fn effects(&self) -> Vec<String> {
        let book = self.book();
        let applied = book.entries.iter().filter(|entry| entry.verdict == Verdict::Applied);
        applied
            .map(|Entry { request, .. }| {
                let item =
                    if request.occurrence > 0 { format!("#{}", request.occurrence) } else { String::new() };
                let undo = if request.effect == Effect::Compensation { "undo " } else { "" };
                format!("{undo}{}{item}", request.step)
            })
            .collect()
    }

    /// How often an effect was asked for, whatever came of it.
    pub fn calls(&self, step: &str, effect: Effect) -> usize {
        let of = |entry: &&Entry| entry.request.step == step && entry.request.effect == effect;
        self.book().entries.iter().filter(of).count()
    }

    pub(super) fn play(&self, script: &Script) {
        self.book().scripted = script.calls.clone();
    }
}

impl Book {
    /// The next thing the script has for this effect.
    fn behaviour(&mut self, target: &Target) -> Option<Behaviour> {
        let script = self.scripted.get_mut(target)?;
        if script.is_empty() { None } else { Some(script.remove(0)) }
    }

    fn note<T>(&mut self, request: &Request, verdict: Verdict, answer: T) -> T {
        self.entries.push(Entry { request: request.clone(), verdict });
        answer
    }

    fn standing(&mut self, request: &Request) -> &mut Standing {
        self.effects.entry((request.run, request.step.clone(), request.occurrence)).or_default()
    }

    /// Who answers by key cannot say no to what it has done.
    fn must_repeat(&mut self, request: &Request) -> bool {
        let naive = self.not_idempotent.contains(&request.step);
        request.effect == Effect::Action && !naive && self.standing(request).applied > 0
    }

    fn reject(&mut self, request: &Request) -> Result<Payload, StepError> {
        let naive = self.not_idempotent.contains(&request.step);
        self.standing(request).rejected |= request.effect == Effect::Action && !naive;
        self.note(
            request,
            Verdict::Rejected,
            Err(StepError::rejected(format!("{} is refused", request.step))),
        )
    }

    fn act(&mut self, request: &Request, answer: Payload) -> Result<Payload, StepError> {
        let naive = self.not_idempotent.contains(&request.step);
        let standing = self.standing(request);
        if standing.closed {
            let why = StepError::rejected("the key is closed: it was undone or settled before");
            return self.note(request, Verdict::Refused, Err(why));
        }
        if standing.rejected {
            return self.note(request, Verdict::Rejected, Err(StepError::rejected("refused before")));
        }
        if standing.applied > 0 && !naive {
            let answer = standing.answer.clone().expect("kept when it was applied");
            return self.note(request, Verdict::Repeated, Ok(answer));
        }
        standing.applied += 1;
        standing.answer = Some(answer.clone());
        self.note(request, Verdict::Applied, Ok(answer))
    }

    fn undo(&mut self, request: &Request) -> Result<Payload, StepError> {
        let naive = self.not_idempotent.contains(&request.step);
        let standing = self.standing(request);
        let verdict = match (standing.applied, standing.undone) {
            (0, _) => Verdict::Empty,
            (_, true) => Verdict::Repeated,
            (_, false) => Verdict::Applied,
        };
        standing.undone |= standing.applied > 0;
        standing.closed |= !naive;
        self.note(request, verdict, Ok(Payload::null()))
    }

    /// Gives a list of one answer, or of none.
    fn settle(&mut self, request: &Request) -> Result<Payload, StepError> {
        let standing = self.standing(request);
        let found = if standing.applied > 0 { standing.answer.clone() } else { None };
        standing.closed |= found.is_none();
        let verdict = if found.is_some() { Verdict::Found } else { Verdict::Closed };
        self.note(request, verdict, Ok(Payload::array(&found)))
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries()).finish()
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { request, verdict } = self;
        write!(f, "{} attempt {}: {verdict:?}", request.target(), request.attempt)
    }
}

#[cfg(test)]
mod tests;
