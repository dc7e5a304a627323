//! What is shown while the shop runs: a bar at a terminal, a line every two seconds elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How far the orders are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// How many there are.
    pub orders: usize,
    /// How many are completed.
    pub completed: usize,
    /// How many are compensated.
    pub compensated: usize,
    /// How many are under way.
    pub in_flight: usize,
    /// How many workers were killed.
    pub kills: usize,
}

impl Progress {
    /// One more order has ended.
    pub fn ended(&mut self, completed: bool) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if completed {
            self.completed += 1;
        } else {
            self.compensated += 1;
        }
    }

    /// How many have ended.
    pub fn done(&self) -> usize {
        self.completed + self.compensated
    }
}

/// Shows progress on standard error.
#[derive(Debug)]
pub struct Display {
    bar: Option<ProgressBar>,
    began: Instant,
    shown: Instant,
    speed: Speed,
}

const LINE_EVERY: Duration = Duration::from_secs(2);
const BAR_EVERY: Duration = Duration::from_millis(100);

impl Display {
    /// A display that shows nothing yet.
    pub fn new(orders: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}");
            let bar = ProgressBar::with_draw_target(Some(orders as u64), ProgressDrawTarget::stderr());
            bar.with_style(style.expect("the template is sound"))
        });
        let now = Instant::now();
        Self { bar, began: now, shown: now, speed: Speed { at: now, done: 0, per_second: None } }
    }

    /// Tells something, above the bar.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Shows progress, if it is time.
    pub fn show(&mut self, progress: &Progress) {
        let now = Instant::now();
        let every = if self.bar.is_some() { BAR_EVERY } else { LINE_EVERY };
        if now.duration_since(self.shown) < every {
            return;
        }
        self.shown = now;
        let speed = self.speed.measure(now, progress.done());
        let state = format!(
            "done, {} in flight, {} compensated, {} kills, {speed:.0} per second",
            progress.in_flight, progress.compensated, progress.kills
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position(progress.done() as u64);
                bar.set_message(state);
            }
            None => {
                let seconds = now.duration_since(self.began).as_secs();
                eprintln!("{seconds:>4} s: {} of {} {state}", progress.done(), progress.orders);
            }
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Orders per second, over about the last second.
#[derive(Debug)]
struct Speed {
    at: Instant,
    done: usize,
    per_second: Option<f64>,
}

impl Speed {
    fn measure(&mut self, now: Instant, done: usize) -> f64 {
        let passed = now.duration_since(self.at).as_secs_f64();
        let speed = done.saturating_sub(self.done) as f64 / passed.max(0.001);
        if passed < 1.0 {
            return self.per_second.unwrap_or(speed);
        }
        (self.at, self.done, self.per_second) = (now, done, Some(speed));
        speed
    }
}
