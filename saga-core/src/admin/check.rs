//! Before a deploy: do the plans that are about to be shipped drive what is in flight?

use std::fmt;

use serde::Serialize;

use super::{Admin, Error};
use crate::id::Name;
use crate::store::{InFlight, Manifest};

/// What comparing manifests with a store came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether everything in flight can be driven by these plans.
    pub ok: bool,
    /// What was found, plan by plan.
    pub findings: Vec<Finding>,
}

/// What was found about one plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The definition.
    pub definition: Name,
    /// The version.
    pub version: u32,
    /// How many of its sagas are in flight in the store.
    pub in_flight: u64,
    /// What is wrong; absent when the plan drives them.
    pub trouble: Option<Trouble>,
    /// Where the shipped plan and the stored one differ.
    pub differences: Vec<String>,
}

/// Why a plan does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// Sagas of this version are in flight and the manifests do not have it: they would wait for code.
    Missing,
    /// The manifests have this version with other steps than the store: what is in flight of it would wait
    /// for code, and two plans would share one name.
    Changed,
}

impl Trouble {
    /// What to do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Missing => "register this version beside the new one until its sagas have ended",
            Self::Changed => "give the changed definition a new version, and register both",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { definition, version, in_flight, .. } = self;
        match self.trouble {
            None => write!(f, "{definition} version {version}: {in_flight} in flight, can be driven"),
            Some(Trouble::Missing) => {
                write!(f, "{definition} version {version}: {in_flight} in flight would wait for code")
            }
            Some(Trouble::Changed) => {
                write!(
                    f,
                    "{definition} version {version}: changed without a new version, {in_flight} in flight"
                )
            }
        }
    }
}

impl Admin {
    /// Compares plans that are about to be shipped with what is registered and in flight.
    pub async fn check(&self, shipped: &[Manifest]) -> Result<Report, Error> {
        let stored = self.backend.query.manifests().await?;
        let in_flight = self.in_flight().await?;
        Ok(Report::of(shipped, &stored, &in_flight))
    }
}

impl Report {
    fn of(shipped: &[Manifest], stored: &[Manifest], in_flight: &[InFlight]) -> Self {
        let runs_of = |fits: &dyn Fn(&InFlight) -> bool| {
            in_flight.iter().filter(|runs| fits(runs)).map(|runs| runs.runs).sum::<u64>()
        };
        let mut findings = Vec::new();
        for new in shipped {
            let same_version = |name: &Name, version| *name == new.plan.name && version == new.plan.version;
            let old = stored.iter().find(|old| {
                same_version(&old.plan.name, old.plan.version) && old.fingerprint != new.fingerprint
            });
            let clashes = runs_of(&|runs| {
                same_version(&runs.definition, runs.version) && runs.fingerprint != new.fingerprint
            });
            let known = stored.iter().any(|old| old.fingerprint == new.fingerprint);
            // A store can hold two plans under one version from an earlier accident. What was registered
            // before is no news; what is in flight of the other plan is.
            let changed = clashes > 0 || (old.is_some() && !known);
            findings.push(Finding {
                definition: new.plan.name.clone(),
                version: new.plan.version,
                in_flight: if changed {
                    clashes
                } else {
                    runs_of(&|runs| runs.fingerprint == new.fingerprint)
                },
                trouble: changed.then_some(Trouble::Changed),
                differences: old.map(|old| old.plan.differences(&new.plan)).unwrap_or_default(),
            });
        }
        for runs in in_flight {
            let covered =
                |definition: &Name, version| *definition == runs.definition && version == runs.version;
            if shipped.iter().any(|new| covered(&new.plan.name, new.plan.version))
                || findings.iter().any(|known| covered(&known.definition, known.version))
            {
                continue;
            }
            findings.push(Finding {
                definition: runs.definition.clone(),
                version: runs.version,
                in_flight: runs_of(&|other| covered(&other.definition, other.version)),
                trouble: Some(Trouble::Missing),
                differences: Vec::new(),
            });
        }
        Self { ok: findings.iter().all(|finding| finding.trouble.is_none()), findings }
    }
}
