//! The front of the shop: hands the orders to the workers, a bounded number at a time, and kills workers when
//! that is asked for.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::crew::{Crew, News};
use super::display::{Display, Progress};
use super::engine::Engine;
use super::faults::Faults;
use super::orders::Order;
use super::worker::Said;

/// How orders are handed out.
#[derive(Clone, Debug)]
pub struct Pace {
    /// How many orders are in flight at once, at most.
    pub in_flight: usize,
    /// How often a worker is killed.
    pub kills: usize,
    /// What decides when.
    pub faults: Faults,
}

/// How handing out ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handed {
    /// How many orders were handed out, from the first on. All their sagas have ended, or are blocked.
    pub orders: usize,
    /// How often a worker was killed.
    pub kills: usize,
}

/// How often the engine is asked for blocked sagas, while nothing else tells of them.
const BLOCKED_EVERY: Duration = Duration::from_secs(1);

/// After a kill's place in the run is reached it comes within this time: at any point of what the worker does,
/// not just after an order has ended.
const KILL_WITHIN_MS: u64 = 50;

/// Hands out all orders and waits for their ends. Told to stop, it hands out no more and waits for those that
/// are in flight: nothing is left half-done.
///
/// # Errors
///
/// What makes going on senseless: a worker that cannot begin, or that died without being killed.
pub async fn hand_out(
    orders: &[Order],
    pace: &Pace,
    crew: &mut Crew,
    engine: &Engine,
    display: &mut Display,
    stop: &CancellationToken,
) -> Result<Handed, String> {
    let mut progress = Progress { orders: orders.len(), ..Progress::default() };
    let mut ended = HashSet::new();
    let (mut waiting, mut handed) = (orders, 0);
    let mut kills = Kills::new(pace, orders.len());
    let mut look = tokio::time::interval(BLOCKED_EVERY);
    let mut blocked = 0;
    loop {
        // The last order waits for the last kill: none comes when there is nothing to interrupt.
        while progress.in_flight < pace.in_flight
            && (waiting.len() > 1 || kills.are_done())
            && let Some((order, rest)) = waiting.split_first()
        {
            crew.hand(order).await.map_err(|error| format!("an order could not be handed out: {error}"))?;
            (waiting, handed, progress.in_flight) = (rest, handed + 1, progress.in_flight + 1);
        }
        let open = handed - ended.len();
        let only_blocked = u64::try_from(open) == Ok(blocked);
        if only_blocked && blocked > 0 && !kills.are_done() {
            // Their places in the run may never be reached.
            kills = Kills::default();
            continue;
        }
        // Blocked sagas that fill the whole shop leave no room for more.
        if (open == 0 || only_blocked) && (waiting.is_empty() || open >= pace.in_flight) {
            return Ok(Handed { orders: handed, kills: progress.kills });
        }
        let kill_at = kills.next_at(ended.len());
        tokio::select! {
            biased;
            () = stop.cancelled(), if !waiting.is_empty() => {
                display.say("stopping: no more orders are taken; those in flight come to their end");
                waiting = &[];
                kills = Kills::default();
            }
            () = tokio::time::sleep_until(kill_at.unwrap_or_else(Instant::now)), if kill_at.is_some() => {
                let place = kills.done(crew.size());
                crew.kill(place).await.map_err(|error| format!("a worker could not be replaced: {error}"))?;
                progress.kills += 1;
            }
            news = crew.news() => match news {
                News::Said(Said::Ready) => {}
                News::Said(Said::Failed(why)) => return Err(why),
                News::Said(Said::Ended { order, completed }) => {
                    crew.ended(&order);
                    // A worker that was killed may have told it before: then it is the same end again.
                    if ended.insert(order) {
                        progress.ended(completed);
                    }
                }
                News::Gone(place, incarnation) if crew.is_present(place, incarnation) => {
                    return Err(format!("worker {} ended by itself; see its log", place + 1));
                }
                News::Gone(..) => {}
            },
            _ = look.tick() => blocked = engine.blocked().await,
        }
        display.show(&progress);
    }
}

/// The kills still to come.
#[derive(Default)]
struct Kills {
    /// At how many finished orders the remaining ones come; the next is the last.
    points: Vec<usize>,
    at: Option<Instant>,
    /// Draws within the seed.
    drawn: u64,
}

impl Kills {
    fn new(pace: &Pace, orders: usize) -> Self {
        let mut points = pace.faults.kill_points(pace.kills, orders);
        points.reverse();
        Self { points, at: None, drawn: pace.faults.seed }
    }

    fn are_done(&self) -> bool {
        self.points.is_empty()
    }

    /// When the next kill is due, once so many orders have ended.
    fn next_at(&mut self, ended: usize) -> Option<Instant> {
        if self.at.is_none() && self.points.last().is_some_and(|point| *point <= ended) {
            self.drawn =
                self.drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            self.at = Some(Instant::now() + Duration::from_millis((self.drawn >> 33) % KILL_WITHIN_MS));
        }
        self.at
    }

    /// The kill that was due is done, on this worker.
    fn done(&mut self, workers: usize) -> usize {
        self.at = None;
        self.points.pop();
        usize::try_from(self.drawn >> 40).unwrap_or(0) % workers.max(1)
    }
}
