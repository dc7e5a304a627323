//! The explorer: every point of a saga, and everything that can go wrong there.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::evidence::Evidence;
use super::ledger::Ledger;
use super::plan::{Hit, Plan, Point};
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
/// script of misbehaving participants, and for each point and each [`Hit`] that fits there; and then,
/// within a budget, with a second hit on the recovery from the first. Time is virtual and nothing is
/// random but ids: the same plan gives the same run.
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
    /// How many points were hit, over all scripts.
    pub points: usize,
    /// How many runs had a second hit.
    pub second_hits: usize,
    /// How many second hits there were to choose from.
    pub second_hits_possible: usize,
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

    /// How many runs with a second hit are played at most; 2,000. They are chosen at random.
    #[must_use]
    pub fn budget(mut self, runs: usize) -> Self {
        self.budget = runs;
        self
    }

    /// What chooses the second hits; by default another seed each time, which is reported.
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
            second_hits: 0,
            second_hits_possible: 0,
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
        let mut scripts: BTreeSet<_> = scripts::first(shape, &quiet).into_iter().collect();
        let bare = |scripts: &BTreeSet<_>| -> Vec<Plan> {
            let plans = scripts.iter().cloned();
            plans.map(|script| Plan { script, ..Plan::default() }).collect()
        };
        let plans = bare(&scripts);
        let followed = self.all(&plans, |evidence| scripts::second(&evidence.plan.script, evidence))?;
        explored.runs += 1 + plans.len();
        scripts.extend(followed.into_iter().flatten());
        explored.scripts = scripts.len();

        let plans = bare(&scripts);
        let traces = self.all(&plans, |evidence| evidence.trace.clone())?;
        explored.runs += plans.len();
        let hits = |plan: &Plan, trace: &[Point]| -> Vec<Plan> { every_hit(plan, trace).collect() };
        let once: Vec<Plan> = plans.iter().zip(&traces).flat_map(|(plan, trace)| hits(plan, trace)).collect();
        explored.points = traces.iter().map(Vec::len).sum();
        let traces = self.all(&once, |evidence| evidence.trace.clone())?;
        explored.runs += once.len();

        let twice: Vec<Plan> =
            once.iter().zip(&traces).flat_map(|(plan, trace)| second_hits(plan, trace)).collect();
        explored.second_hits_possible = twice.len();
        let twice = sweep::sample(twice, self.budget, explored.seed);
        explored.second_hits = twice.len();
        self.all(&twice, |_| ())?;
        explored.runs += twice.len();
        Ok(())
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

/// Everything that fits at every point.
fn every_hit<'a>(plan: &'a Plan, trace: &'a [Point]) -> impl Iterator<Item = Plan> + 'a {
    let points = trace.iter().enumerate();
    points.flat_map(move |(number, point)| {
        let fitting = Hit::ALL.into_iter().filter(|hit| hit.fits(&point.spot));
        fitting.map(move |hit| plan.clone().hit(number, hit))
    })
}

/// What can hit the recovery from the first hit.
fn second_hits(plan: &Plan, trace: &[Point]) -> Vec<Plan> {
    let first = plan.hits.keys().next_back().copied().unwrap_or(0);
    every_hit(plan, trace)
        .filter(|plan| plan.hits.keys().next_back().is_some_and(|last| *last > first))
        .collect()
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
        let Self { name, runs, scripts, points, second_hits, second_hits_possible, seed, took, .. } = self;
        write!(
            f,
            "explored {name}: {runs} runs in {took:.1?}, {scripts} scripts, {points} points, \
             {second_hits} of {second_hits_possible} second hits (seed {seed})"
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
