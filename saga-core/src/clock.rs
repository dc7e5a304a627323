//! What time it is, and which clock is trusted for what.

use std::time::Duration;

use tokio::time::Instant;

use crate::journal::Timestamp;

/// The clock of one process.
///
/// Two readings with two uses: [`Clock::now`] is a wall clock, good for saying when something is due;
/// it may jump, and then something happens early or late but never twice. [`Clock::trusted`] only
/// moves forward and runs on while the machine is suspended; a worker trusts its own lease by it.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's clocks.
    #[default]
    Machine,
    /// Tokio's clock, which tests pause and move.
    Virtual {
        /// What the wall shows when tokio's clock shows `origin`.
        wall: Timestamp,
        /// The beginning.
        origin: Instant,
    },
}

impl Clock {
    /// A clock that follows tokio's, from 2027-01-01 on.
    pub fn virtual_time() -> Self {
        let wall = Timestamp::from_timestamp(1_798_761_600, 0).expect("a date within range");
        Self::Virtual { wall, origin: Instant::now() }
    }

    /// The wall clock.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::Machine => chrono::Utc::now(),
            Self::Virtual { wall, origin } => *wall + origin.elapsed(),
        }
    }

    /// Time since some beginning: never backward, and also while the machine is suspended.
    pub fn trusted(&self) -> Duration {
        match self {
            Self::Machine => {
                let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
                Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
            }
            Self::Virtual { origin, .. } => origin.elapsed(),
        }
    }

    /// A number in `0.0..1.0` that spreads pauses: random on the machine's clock, always one half in
    /// virtual time, so that the same test is the same run.
    pub fn jitter(&self) -> f64 {
        match self {
            Self::Machine => rand::random(),
            Self::Virtual { .. } => 0.5,
        }
    }

    /// The moment from which deadlines are counted: tokio's clock, which tests pause and move.
    pub(crate) fn instant() -> std::time::Instant {
        Instant::now().into_std()
    }

    /// How long from now until `due` by the wall clock; zero when it is past.
    pub fn until(&self, due: Timestamp) -> Duration {
        (due - self.now()).to_std().unwrap_or_default()
    }
}
