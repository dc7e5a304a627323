//! The engine as an outsider sees it: by questions to its store.

use std::time::Duration;

use saga_core::Name;
use saga_core::journal::EndKind;
use saga_core::store::{Backend, Error, Filter, State};

/// A store, and the definition whose sagas are asked for.
#[derive(Debug)]
pub struct Engine {
    backend: Backend,
    definition: Name,
}

/// One saga at the end of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The order.
    pub order: String,
    /// What the engine says of it.
    pub state: State,
    /// From its start to its present state.
    pub took: Duration,
}

/// How many sagas are listed at once.
const PAGE: usize = 1000;

impl Engine {
    /// Asks this store for the sagas of this definition.
    pub fn new(backend: Backend, definition: Name) -> Self {
        Self { backend, definition }
    }

    /// How many sagas wait for a person; 0 when the store does not answer now.
    pub async fn blocked(&self) -> u64 {
        match self.backend.query.counts().await {
            Ok(counts) => counts
                .iter()
                .filter(|count| count.definition == self.definition && count.state == State::Blocked)
                .map(|count| count.runs)
                .sum(),
            Err(error) => {
                tracing::warn!(%error, "the saga store did not answer");
                0
            }
        }
    }

    /// Every saga of the run.
    pub async fn sagas(&self) -> Result<Vec<Ran>, Error> {
        let mut filter =
            Filter { definition: Some(self.definition.clone()), limit: PAGE, ..Filter::default() };
        let mut sagas = Vec::new();
        loop {
            let page = self.backend.query.list(&filter).await?;
            filter.before = page.last().map(|last| last.run);
            let full = page.len() == PAGE;
            sagas.extend(page.into_iter().map(|summary| Ran {
                took: (summary.since - summary.started_at).to_std().unwrap_or_default(),
                order: summary.saga,
                state: summary.state,
            }));
            if !full {
                return Ok(sagas);
            }
        }
    }
}

impl Ran {
    /// How it ended, if it has.
    pub fn end(&self) -> Option<EndKind> {
        match self.state {
            State::Ended(end) => Some(end),
            _ => None,
        }
    }
}

/// The time within which this share of the sagas ended.
pub fn percentile(sagas: &[Ran], share: f64) -> Duration {
    let mut times: Vec<Duration> =
        sagas.iter().filter(|saga| saga.end().is_some()).map(|saga| saga.took).collect();
    times.sort_unstable();
    let place = (share * times.len() as f64).ceil() as usize;
    times.get(place.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_occurred() {
        let saga = |ms| Ran {
            order: "7".into(),
            state: State::Ended(EndKind::Completed),
            took: Duration::from_millis(ms),
        };
        let sagas: Vec<Ran> = (1..=200).rev().map(saga).collect();
        assert_eq!(percentile(&sagas, 0.5), Duration::from_millis(100));
        assert_eq!(percentile(&sagas, 0.99), Duration::from_millis(198));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }
}
