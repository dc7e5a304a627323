//! The explorer: every point of a saga, and everything that can go wrong there.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::evidence::Evidence;
use super::ledger::Ledger;
use super::plan::{Plan, Point};
use super::play::{Seams, Subject};
use super::{scripts, sweep};
use crate::saga::Definition;

/// Explores a definition: see [`Explore`].
///
/// `app` makes the application of one process, with `Ledger` as its participants; `input` is what the
/// saga is started with.
pub fn explore<A, In, Out>(
    definition: &Definition<A, In, Out>,
    app: impl Fn(&Ledger) -> A + Send + Sync + 'static,
    input: In,
) -> Explore<A, In, Out> {
    Explore {
        name: definition.plan().name.to_string(),
        subject: Subject {
            definition: definition.clone(),
            app: Box::new(app),
            input,
            limit: Duration::from_secs(3600),
            seams: Seams::default(),
            keyed: false,
            known: OnceLock::new(),
        },
        budget: 2_000,
        seed: None,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        checks: Vec::new(),
    }
}

/// An exploration under construction.
///
/// It runs the saga once to see its *points*: every start and commit, every claim that gives something,
/// every fence, every call of an action, a compensation or a probe. Then it runs it again for each
/// script of misbehaving participants. When nobody misbehaves, an action is rejected, its answer is lost,
/// or a compensation fails as well, it is also run for each point and each [`Hit`](super::Hit) that fits there. Within
/// a budget the same is done for all other scripts, and with a second hit on the recovery from the first.
/// Time is virtual and nothing is random but ids: the same plan gives the same run.
///
/// A run that breaks a rule is named by one line, `SAGA_PLAN='…'`. Set in the environment, it makes the
/// explorer play just that run and tell its whole story.
///
/// ```
/// use saga_core::testing::{Ledger, explore};
/// use saga_core::{Cx, Definition, StepError, step};
///
/// async fn charge(cx: Cx<Ledger>, amount: u64) -> Result<u64, StepError> {
///     cx.state().act(&cx, amount).await
/// }
/// async fn refund(cx: Cx<Ledger>, _: u64, _: u64) -> Result<(), StepError> {
///     cx.state().undo(&cx).await
/// }
///
/// let (mut b, amount) = Definition::build::<Ledger, u64>("pay", 1);
/// let charged = b.add(step("charge", charge).compensate(refund), amount);
/// let pay = b.finish(charged)?;
///
/// let explored = explore(&pay, Ledger::clone, 42).budget(50).run().unwrap();
/// println!("{explored}");
/// # Ok::<_, saga_core::saga::builder::BadDefinition>(())
/// ```
pub struct Explore<A, In, Out> {
    name: String,
    subject: Subject<A, In, Out>,
    budget: usize,
    seed: Option<u64>,
    threads: usize,
    checks: Vec<Check>,
}

type Check = Box<dyn Fn(&Evidence) -> Result<(), String> + Send + Sync>;

/// What was explored without finding anything.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Explored {
    /// What it was called.
    pub name: String,
    /// How many runs were played.
    pub runs: usize,
    /// How many scripts of misbehaving participants.
    pub scripts: usize,
    /// How many points were hit by everything that can hit there.
    pub points: usize,
    /// How many runs were chosen at random.
    pub sampled: usize,
    /// How many there were to choose from.
    pub possible: usize,
    /// What chose them.
    pub seed: u64,
    /// How long it took.
    pub took: Duration,
    /// Whether only the run of `SAGA_PLAN` was played, or, if that is about another definition, none.
    pub replayed: bool,
}

/// A run that broke a rule.
pub struct Violation {
    /// The line that replays it.
    pub line: String,
    /// The rules that it broke, as sentences.
    pub broken: Vec<String>,
    /// The whole story.
    pub evidence: Evidence,
    told: bool,
}

impl<A, In, Out> Explore<A, In, Out>
where
    A: Clone + Send + Sync + 'static,
    In: Serialize + Clone + Send + Sync + 'static,
    Out: Send + 'static,
{
    /// What it is called in reports and in `SAGA_PLAN`; by default the definition's name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// The saga is started under a key, and two others that need the same key run beside it: one that was
    /// started before it and one that is started after. No two of them may have calls under way at once, and
    /// all of them have to come to an end, unless the explored one is blocked and so holds its key.
    #[must_use]
    pub fn keyed(mut self) -> Self {
        self.subject.keyed = true;
        self
    }

    /// How many runs are played at most beyond those that are always played; 2,000. They are chosen at
    /// random, half of them with a second hit.
    #[must_use]
    pub fn budget(mut self, runs: usize) -> Self {
        self.budget = runs;
        self
    }

    /// What chooses; by default another seed each time, which is reported.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// How long a run may take, in virtual time; an hour.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.subject.limit = limit;
        self
    }

    /// How many threads play; by default one for each of the machine's.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Another rule that every run must keep.
    #[must_use]
    pub fn check(mut self, rule: impl Fn(&Evidence) -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.checks.push(Box::new(rule));
        self
    }

    #[cfg(test)]
    pub(super) fn seams(mut self, seams: Seams) -> Self {
        self.subject.seams = seams;
        self
    }

    /// Explores, and gives the first run that breaks a rule.
    ///
    /// It takes seconds, and every thread it was given; it may be called from any thread, also from one
    /// of a runtime.
    pub fn run(&self) -> Result<Explored, Box<Violation>> {
        let began = Instant::now();
        let mut explored = Explored {
            name: self.name.clone(),
            runs: 0,
            scripts: 0,
            points: 0,
            sampled: 0,
            possible: 0,
            seed: self.seed.unwrap_or_else(rand::random),
            took: Duration::ZERO,
            replayed: false,
        };
        if let Ok(line) = std::env::var("SAGA_PLAN") {
            explored.replayed = true;
            explored.runs = self.replay(&line)?;
        } else {
            self.sweep(&mut explored)?;
        }
        explored.took = began.elapsed();
        Ok(explored)
    }

    /// Plays one run by the text of its plan.
    ///
    /// # Panics
    ///
    /// When the text is no plan.
    pub fn play(&self, plan: &str) -> Result<Evidence, Box<Violation>> {
        let plan: Plan = plan.parse().unwrap_or_else(|bad| panic!("this is no plan: {bad}"));
        self.judged(&plan, true)
    }

    fn replay(&self, line: &str) -> Result<usize, Box<Violation>> {
        let (name, plan) = line.split_once(':').unwrap_or((line, ""));
        if name != self.name {
            return Ok(0);
        }
        let evidence = self.play(plan)?;
        println!("SAGA_PLAN='{line}' breaks no rule\n{evidence}");
        Ok(1)
    }

    fn sweep(&self, explored: &mut Explored) -> Result<(), Box<Violation>> {
        let shape = self.subject.definition.plan();
        // Nobody misbehaves, then somebody, then also those who undo it.
        let quiet = self.judged(&Plan::default(), false)?;
        let steps = quiet.entries.iter().map(|entry| entry.request.step.clone()).collect();
        self.subject.known.set(steps).unwrap_or_default();
        let mut bare = Bare::default();
        let first = scripts::first(shape, &quiet);
        let followed = self.all(&first, |evidence| scripts::second(&evidence.plan.script, evidence))?;
        let second: Vec<Plan> = followed.into_iter().flatten().collect();
        for plan in first.into_iter().chain(second) {
            bare.add(plan);
        }
        explored.scripts = bare.core.len() + bare.rest.len();

        // Every hit at every point of the core; of the rest as many as the budget allows.
        let core = self.traces(&bare.core)?;
        let rest = self.traces(&bare.rest)?;
        explored.points = core.iter().map(|(_, trace)| trace.len()).sum();
        let keyed = self.subject.keyed;
        let once = self.traces(&sweep::hits(&core, usize::MAX, explored.seed, keyed).chosen)?;
        let more = sweep::hits(&rest, self.budget / 2, explored.seed, keyed);
        self.all(&more.chosen, |_| ())?;

        // And what hits the recovery.
        let twice = sweep::hits(&once, self.budget - more.chosen.len(), explored.seed, keyed);
        self.all(&twice.chosen, |_| ())?;
        let sampled = more.chosen.len() + twice.chosen.len();
        explored.runs = 1 + 2 * explored.scripts + once.len() + sampled;
        explored.sampled = sampled;
        explored.possible = more.possible + twice.possible;
        Ok(())
    }

    fn traces(&self, plans: &[Plan]) -> Result<Vec<(Plan, Vec<Point>)>, Box<Violation>> {
        let traces = self.all(plans, |evidence| evidence.trace.clone())?;
        Ok(plans.iter().cloned().zip(traces).collect())
    }

    /// Plays every plan, on all threads; the first violation, in the plans' order, is the answer.
    fn all<T: Send>(
        &self,
        plans: &[Plan],
        keep: impl Fn(&Evidence) -> T + Sync,
    ) -> Result<Vec<T>, Box<Violation>> {
        sweep::in_order(plans, self.threads, |plan| self.judged(plan, false).map(|evidence| keep(&evidence)))
    }

    fn judged(&self, plan: &Plan, told: bool) -> Result<Evidence, Box<Violation>> {
        let mut evidence = self.subject.play(plan);
        let user = self.checks.iter().filter_map(|check| check(&evidence).err());
        let user: Vec<_> = user.collect();
        evidence.broken.extend(user);
        if evidence.broken.is_empty() {
            return Ok(evidence);
        }
        let line = format!("SAGA_PLAN='{}:{plan}'", self.name);
        Err(Box::new(Violation { line, broken: evidence.broken.clone(), evidence, told }))
    }
}

/// The plans without hits: those whose every point is hit, and the rest.
#[derive(Default)]
struct Bare {
    core: Vec<Plan>,
    rest: Vec<Plan>,
    seen: BTreeSet<Plan>,
}

impl Bare {
    fn add(&mut self, plan: Plan) {
        if self.seen.insert(plan.clone()) {
            if scripts::is_core(&plan.script) { self.core.push(plan) } else { self.rest.push(plan) }
        }
    }
}

impl<A, In, Out> fmt::Debug for Explore<A, In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Explore")
            .field("name", &self.name)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, runs, scripts, points, sampled, possible, seed, took, .. } = self;
        write!(
            f,
            "explored {name}: {runs} runs in {took:.1?}; {scripts} scripts, every hit at {points} points, \
             {sampled} more of {possible} (seed {seed})"
        )
    }
}

/// One line; where a single run was asked for, its story as well.
impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} breaks: {}", self.line, self.broken.join("; "))?;
        if self.told { write!(f, "\n{}", self.evidence) } else { Ok(()) }
    }
}

impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Violation {}
