//! From a journal and a manifest to the pure machine.

use std::sync::Arc;

use super::{Admin, Entry, Error};
use crate::id::Fingerprint;
use crate::journal::Illegal;
use crate::saga::{Machine, Plan};
use crate::store::Summary;

impl Admin {
    /// The plan that a run follows, if a worker has ever registered it.
    pub(super) async fn plan(&self, fingerprint: Fingerprint) -> Result<Option<Arc<Plan>>, Error> {
        let manifests = self.backend.query.manifests().await?;
        let manifest = manifests.into_iter().find(|manifest| manifest.fingerprint == fingerprint);
        Ok(manifest.map(|manifest| Arc::new(manifest.plan)))
    }

    /// The machine of a run, as its owner would rebuild it now.
    pub(super) async fn machine(&self, summary: &Summary) -> Result<Machine, Error> {
        let Some(plan) = self.plan(summary.fingerprint).await? else {
            return Err(Error::NoManifest {
                definition: summary.definition.clone(),
                version: summary.version,
                fingerprint: summary.fingerprint,
            });
        };
        let entries = self.journal(summary.run).await?;
        let (machine, unfit) = replay(plan, &entries);
        match unfit {
            None => Ok(machine),
            Some(illegal) => Err(Error::Unfit { run: summary.run, why: illegal.to_string() }),
        }
    }
}

/// The machine after a journal, or as far as the plan allows it, with what it does not allow.
pub(super) fn replay(plan: Arc<Plan>, entries: &[Entry]) -> (Machine, Option<Illegal>) {
    let mut machine = Machine::new(plan);
    for record in entries.iter().flat_map(|entry| &entry.records) {
        if let Err(illegal) = machine.apply(record) {
            return (machine, Some(illegal));
        }
    }
    (machine, None)
}
