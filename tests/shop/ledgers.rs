//! The services' own books, written by them and read by nobody else: all effects or none, each at most once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, query_as};

/// An effect that was applied, in the order of its service's ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) key: String,
    pub(super) order: String,
    pub(super) effect: String,
    pub(super) cents: i64,
}

/// What the three services applied.
pub(super) async fn applied(files: &Path) -> Vec<Applied> {
    let mut all = Vec::new();
    for service in ["stock", "payment", "shipping"] {
        let options = SqliteConnectOptions::new().filename(files.join(format!("{service}.db")));
        let mut ledger: SqliteConnection = options.connect().await.expect("a ledger");
        let rows: Vec<(String, String, String, i64)> =
            query_as("SELECT key, order_id, effect, cents FROM call WHERE verdict = 'applied' ORDER BY seq")
                .fetch_all(&mut ledger)
                .await
                .expect("a ledger of calls");
        all.extend(rows.into_iter().map(|(key, order, effect, cents)| Applied { key, order, effect, cents }));
    }
    all
}

/// How many orders ended with all effects, how many with none, and every order that ended otherwise.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Audit {
    pub(super) whole: usize,
    pub(super) undone: usize,
    /// What was taken and not given back, in cents.
    pub(super) kept: i64,
    pub(super) broken: Vec<String>,
}

/// An order is whole if it was reserved, charged and shipped; undone if of the first two each that was applied
/// was taken back, and nothing was shipped.
pub(super) fn audit(applied: &[Applied]) -> Audit {
    let mut audit = Audit { whole: 0, undone: 0, kept: 0, broken: Vec::new() };
    let mut keys = BTreeSet::new();
    let mut orders: BTreeMap<&str, Vec<&Applied>> = BTreeMap::new();
    for effect in applied {
        if !keys.insert(&effect.key) {
            audit.broken.push(format!("applied twice under one key: {effect:?}"));
        }
        orders.entry(&effect.order).or_default().push(effect);
    }
    for (order, effects) in orders {
        let count = |name: &str| effects.iter().filter(|effect| effect.effect == name).count();
        let counts = ["reserve", "release", "charge", "refund", "ship"].map(count);
        match counts {
            [1, 0, 1, 0, 1] => audit.whole += 1,
            [1, 1, 1, 1, 0] | [1, 1, 0, 0, 0] => audit.undone += 1,
            _ => audit
                .broken
                .push(format!("order {order}: reserve, release, charge, refund, ship: {counts:?}")),
        }
        if effects.iter().any(|effect| effect.cents != effects[0].cents) {
            audit.broken.push(format!("order {order}: services were told different amounts"));
        }
        let sum = |name: &str| {
            effects.iter().filter(|effect| effect.effect == name).map(|effect| effect.cents).sum::<i64>()
        };
        audit.kept += sum("charge") - sum("refund");
    }
    audit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(effects: &[&str]) -> Vec<Applied> {
        let applied = |(index, effect): (usize, &&str)| Applied {
            key: format!("{effect}-{index}"),
            order: "1".into(),
            effect: (*effect).into(),
            cents: 100,
        };
        effects.iter().enumerate().map(applied).collect()
    }

    #[test]
    fn whole_and_undone_orders_are_sound_and_nothing_in_between() {
        let whole = audit(&ledger(&["reserve", "charge", "ship"]));
        assert_eq!(whole, Audit { whole: 1, undone: 0, kept: 100, broken: vec![] });
        let undone = audit(&ledger(&["reserve", "charge", "refund", "release"]));
        assert_eq!(undone, Audit { whole: 0, undone: 1, kept: 0, broken: vec![] });

        for broken in [
            &["reserve", "charge"][..],
            &["reserve", "charge", "refund"],
            &["reserve", "charge", "charge", "ship"],
            &["reserve", "charge", "ship", "refund"],
            &["reserve", "reserve", "charge", "ship"],
            &["reserve", "release", "charge"],
            &["charge", "ship"],
            &["reserve", "charge", "refund", "refund", "release"],
        ] {
            assert_eq!(audit(&ledger(broken)).broken.len(), 1, "{broken:?} goes unnoticed");
        }
        let mut twice = ledger(&["reserve", "charge", "ship"]);
        twice[1].key = twice[0].key.clone();
        assert_eq!(audit(&twice).broken.len(), 1, "one key, two effects");
        let mut amount = ledger(&["reserve", "charge", "ship"]);
        amount[2].cents = 99;
        assert_eq!(audit(&amount).broken.len(), 1, "another amount");
    }
}
