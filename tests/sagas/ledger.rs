//! What the services did, written by them, in a database of their own; and what is right.

use std::collections::BTreeMap;

use saga_core::{Cx, StepError};
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgPool, query, query_as};

/// The services' book. Each effect is applied once per key; who asks again is told that it was done.
#[derive(Debug, Clone)]
pub(super) struct Ledger {
    url: String,
    pool: PgPool,
}

/// An effect that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Effect {
    pub(super) saga: String,
    pub(super) step: String,
    pub(super) direction: String,
}

impl Ledger {
    pub(super) async fn create(url: &str) -> Self {
        let ledger = Self::open(url).await;
        let table = "CREATE TABLE effect (seq bigint GENERATED ALWAYS AS IDENTITY, key text PRIMARY KEY, \
                     saga text NOT NULL, step text NOT NULL, direction text NOT NULL)";
        query(table).execute(&ledger.pool).await.unwrap();
        ledger
    }

    pub(super) async fn open(url: &str) -> Self {
        let pool =
            PgPoolOptions::new().max_connections(8).connect(url).await.expect("the ledger is never killed");
        Self { url: url.into(), pool }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) async fn apply(&self, cx: &Cx<Self>, saga: &str) -> Result<(), StepError> {
        let [_, (_, step), _, (_, direction), _] = cx.headers();
        let sql =
            "INSERT INTO effect (key, saga, step, direction) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
        query(sql).bind(cx.key()).bind(saga).bind(step).bind(direction).execute(&self.pool).await?;
        Ok(())
    }

    /// How many effects were applied.
    pub(super) async fn len(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM effect").fetch_one(&self.pool).await.unwrap()
    }

    /// Every effect, in the order in which they were applied.
    pub(super) async fn effects(&self) -> Vec<Effect> {
        let rows: Vec<(String, String, String)> =
            query_as("SELECT saga, step, direction FROM effect ORDER BY seq")
                .fetch_all(&self.pool)
                .await
                .unwrap();
        rows.into_iter().map(|(saga, step, direction)| Effect { saga, step, direction }).collect()
    }
}

const STEPS: [&str; 3] = ["reserve", "charge", "ship"];

/// Every saga whose effects do not fit its end. A completed one has the actions of all steps in order; of a
/// compensated one the actions of the first steps, but not of all, and then their compensations in reverse.
pub(super) fn audit(ends: &[(String, bool)], effects: &[Effect]) -> Vec<String> {
    let mut sagas: BTreeMap<&str, Vec<String>> = ends.iter().map(|(id, _)| (id.as_str(), vec![])).collect();
    for effect in effects {
        sagas.entry(&effect.saga).or_default().push(format!("{} {}", effect.step, effect.direction));
    }
    let of = |steps: &[&str], direction: &str| -> Vec<String> {
        steps.iter().map(|step| format!("{step} {direction}")).collect()
    };
    let is_sound = |completed: bool, effects: &[String]| {
        if completed {
            return effects == of(&STEPS, "action");
        }
        (0..STEPS.len()).any(|done| {
            let reverse: Vec<&str> = STEPS[..done].iter().rev().copied().collect();
            effects == [of(&STEPS[..done], "action"), of(&reverse, "compensation")].concat()
        })
    };
    let end = |saga: &str| ends.iter().find(|(id, _)| id == saga).map(|(_, completed)| *completed);
    let broken = sagas.into_iter().filter(|(saga, effects)| match end(saga) {
        Some(completed) => !is_sound(completed, effects),
        None => true,
    });
    broken.map(|(saga, effects)| format!("{saga}, completed: {:?}, has {effects:?}", end(saga))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effects(saga: &str, effects: &[&str]) -> Vec<Effect> {
        let effect = |effect: &&str| {
            let (step, direction) = effect.split_once(' ').expect("step and direction");
            Effect { saga: saga.into(), step: step.into(), direction: direction.into() }
        };
        effects.iter().map(effect).collect()
    }

    #[test]
    fn all_effects_or_none_and_nothing_in_between() {
        let (reserve, charge, ship) = ("reserve action", "charge action", "ship action");
        let (release, refund) = ("reserve compensation", "charge compensation");
        let broken =
            |completed: bool, list: &[&str]| audit(&[("1".into(), completed)], &effects("1", list)).len();
        for (completed, sound) in [
            (true, &[reserve, charge, ship][..]),
            (false, &[]),
            (false, &[reserve, release]),
            (false, &[reserve, charge, refund, release]),
        ] {
            assert_eq!(broken(completed, sound), 0, "{sound:?}");
        }
        for (completed, list) in [
            (true, &[reserve, charge][..]),
            (true, &[]),
            (true, &[reserve, charge, ship, ship]),
            (true, &[charge, reserve, ship]),
            (false, &[reserve]),
            (false, &[reserve, charge, refund]),
            (false, &[reserve, charge, release, refund]),
            (false, &[reserve, charge, refund, refund, release]),
            (false, &[reserve, charge, ship]),
            (false, &[reserve, release, charge]),
            (false, &[release]),
        ] {
            assert_eq!(broken(completed, list), 1, "completed {completed}, {list:?} goes unnoticed");
        }
        assert_eq!(audit(&[], &effects("2", &[reserve])).len(), 1, "an effect of a saga that nobody started");
    }
}
