//! Refuses a definition that was changed without a new version while sagas of the old one are in flight: they
//! would wait for code for ever, and nobody would have been told.

use chrono::TimeDelta;

use crate::clock::Clock;
use crate::store::{Backend, Error, Manifest};

/// Fails with what changed, where one of `mine` is in flight under other steps.
pub(super) async fn refuse(backend: &Backend, mine: &[Manifest], clock: &Clock) -> Result<(), Error> {
    let stored = backend.query.manifests().await?;
    let clash = |new: &&Manifest, old: &&Manifest| {
        old.plan.name == new.plan.name
            && old.plan.version == new.plan.version
            && old.fingerprint != new.fingerprint
    };
    let clashes = mine
        .iter()
        .flat_map(|new| stored.iter().filter(move |old| clash(&new, old)).map(move |old| (new, old)));
    let clashes: Vec<_> = clashes.collect();
    if clashes.is_empty() {
        return Ok(());
    }
    // This counts everything in flight, so it is asked only where there is a doubt.
    let in_flight = backend.query.in_flight(clock.now() - TimeDelta::days(36_500)).await?;
    for (new, old) in clashes {
        let runs = in_flight.iter().filter(|runs| runs.fingerprint == old.fingerprint);
        let runs: u64 = runs.map(|runs| runs.runs).sum();
        let (name, version) = (&new.plan.name, new.plan.version);
        let changed = old.plan.differences(&new.plan).join(", ");
        if runs > 0 {
            return Err(Error::Unusable(format!(
                "definition {name} version {version} was changed without a new version ({changed}), and {runs} of \
                 its sagas are in flight: give the changed one a new version, and register both"
            )));
        }
        tracing::warn!(definition = %name, version, changed, "it was changed without a new version; nothing of the old one is in flight");
    }
    Ok(())
}
