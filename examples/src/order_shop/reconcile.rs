//! Whether everybody tells the same story: the engine, three ledgers, the topic and the books.
//!
//! None of them is believed more than the others. For each order the engine's end says what the witnesses must
//! have seen:
//!
//! | | reserve | release | charge | refund | ship | event | booking |
//! |---|---|---|---|---|---|---|---|
//! | completed | 1 | 0 | 1 | 0 | 1 | 1 | 1 |
//! | compensated | 0 or 1 | as reserve | 0 or 1 | as charge | 0 | 0 | 0 |
//!
//! each over the order's exact amount, and an effect before what undoes it. Every other end, a second
//! application of anything, an order that nobody placed, and a sum that differs is a [`Difference`].

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use saga_core::journal::EndKind;
use uuid::Uuid;

use super::accounting::Booking;
use super::amount::Amount;
use super::broker::Published;
use super::engine::Ran;
use super::ledger::{Call, Effect, Verdict};
use super::orders::Order;

/// What the witnesses have written down.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The engine's sagas.
    pub sagas: Vec<Ran>,
    /// The stock service's ledger.
    pub stock: Vec<(Call, Verdict)>,
    /// The payment service's ledger.
    pub payment: Vec<(Call, Verdict)>,
    /// The shipping service's ledger.
    pub shipping: Vec<(Call, Verdict)>,
    /// The topic's records.
    pub topic: Vec<Published>,
    /// The accounting service's bookings.
    pub books: Vec<Booking>,
    /// Records that the accounting service could not book.
    pub parked: Vec<String>,
}

/// Something on which the witnesses differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The order, where it is about one.
    pub order: Option<String>,
    /// What it is.
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.order {
            Some(order) => write!(f, "order {order}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// How often an effect was applied, and over how much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// How often.
    pub count: usize,
    /// Over how much in all.
    pub amount: Amount,
}

impl Evidence {
    /// Every ledger row.
    pub fn calls(&self) -> impl Iterator<Item = &(Call, Verdict)> {
        self.stock.iter().chain(&self.payment).chain(&self.shipping)
    }

    /// What was applied of an effect, as its service's ledger says.
    pub fn total(&self, effect: Effect) -> Total {
        let applied =
            self.calls().filter(|(call, verdict)| call.effect == effect && *verdict == Verdict::Applied);
        applied.fold(Total::default(), |total, (call, _)| Total {
            count: total.count + 1,
            amount: [total.amount, call.amount].into_iter().sum(),
        })
    }

    /// The events of the topic, each once.
    pub fn events(&self) -> Vec<&Published> {
        let mut seen = HashSet::new();
        self.topic.iter().filter(|published| seen.insert(published.id)).collect()
    }
}

/// Finds every difference; none means that all agree. Sorted by order.
pub fn reconcile(orders: &[Order], evidence: &Evidence) -> Vec<Difference> {
    let mut sheets: BTreeMap<&str, Sheet> = BTreeMap::new();
    for order in orders {
        sheets.entry(&order.id).or_default().order = Some(order);
    }
    for saga in &evidence.sagas {
        sheets.entry(&saga.order).or_default().sagas.push(saga);
    }
    for (call, verdict) in evidence.calls() {
        match verdict {
            Verdict::Applied => sheets.entry(&call.order).or_default().applied.push(call),
            Verdict::Mismatch => sheets.entry(&call.order).or_default().mismatches += 1,
            Verdict::Duplicate | Verdict::Refused => {}
        }
    }
    for published in evidence.events() {
        sheets.entry(&published.event.order).or_default().events.push((published.id, published.event.cents));
    }
    for booking in &evidence.books {
        sheets.entry(&booking.order).or_default().bookings.push(booking.amount);
    }

    let mut differences = Vec::new();
    for (id, sheet) in &sheets {
        let about = |what| Difference { order: Some((*id).to_owned()), what };
        differences.extend(sheet.differences().into_iter().map(about));
    }
    differences.extend(sums(orders, evidence).into_iter().map(|what| Difference { order: None, what }));
    differences
}

/// Everything about one order.
#[derive(Default)]
struct Sheet<'a> {
    order: Option<&'a Order>,
    sagas: Vec<&'a Ran>,
    applied: Vec<&'a Call>,
    mismatches: usize,
    events: Vec<(Uuid, Amount)>,
    bookings: Vec<Amount>,
}

impl Sheet<'_> {
    fn differences(&self) -> Vec<String> {
        let Some(order) = self.order else { return vec!["nobody placed it".into()] };
        let end = match self.sagas.as_slice() {
            [] => return vec!["the engine has no saga of it".into()],
            [saga] => match saga.end() {
                Some(end @ (EndKind::Completed | EndKind::Compensated)) => end,
                _ => return vec![format!("its saga is {}", saga.state.as_str())],
            },
            several => return vec![format!("the engine has {} sagas of it", several.len())],
        };
        let completed = usize::from(end == EndKind::Completed);
        let mut wrong = Vec::new();
        let mut expect = |what: &str, found: usize, expected: usize| {
            if found != expected {
                wrong.push(format!("{}, but {what}: {found} instead of {expected}", end.as_str()));
            }
        };
        let times = |effect| self.applied.iter().filter(|call| call.effect == effect).count();
        for (effect, undo) in [(Effect::Reserve, Effect::Release), (Effect::Charge, Effect::Refund)] {
            if end == EndKind::Completed {
                expect(effect.as_str(), times(effect), 1);
                expect(undo.as_str(), times(undo), 0);
            } else {
                expect(effect.as_str(), times(effect), times(effect).min(1));
                expect(undo.as_str(), times(undo), times(effect));
            }
        }
        expect(Effect::Ship.as_str(), times(Effect::Ship), completed);
        expect("events in the topic", self.events.len(), completed);
        expect("bookings", self.bookings.len(), completed);
        expect("calls whose key stood for another effect", self.mismatches, 0);

        let amounts = self.applied.iter().map(|call| (call.effect.as_str(), call.amount));
        let amounts = amounts.chain(self.events.iter().map(|(_, amount)| ("event", *amount)));
        let amounts = amounts.chain(self.bookings.iter().map(|amount| ("booking", *amount)));
        for (what, amount) in amounts.filter(|(_, amount)| *amount != order.amount) {
            wrong.push(format!("{what} over {amount}, the order is over {}", order.amount));
        }
        for (effect, undo) in [(Effect::Reserve, Effect::Release), (Effect::Charge, Effect::Refund)] {
            let place = |effect| self.applied.iter().position(|call| call.effect == effect);
            if let (Some(done), Some(undone)) = (place(effect), place(undo))
                && undone < done
            {
                wrong.push(format!("{} after {}", effect.as_str(), undo.as_str()));
            }
        }
        wrong
    }
}

/// The sums, each counted from another witness's rows.
fn sums(orders: &[Order], evidence: &Evidence) -> Vec<String> {
    let completed: HashSet<&str> = evidence
        .sagas
        .iter()
        .filter(|saga| saga.end() == Some(EndKind::Completed))
        .map(|saga| saga.order.as_str())
        .collect();
    let expected: Amount =
        orders.iter().filter(|order| completed.contains(order.id.as_str())).map(|order| order.amount).sum();
    let (charged, refunded) = (evidence.total(Effect::Charge).amount, evidence.total(Effect::Refund).amount);
    let found = [
        ("charged less refunded", charged.minus(refunded)),
        ("shipped", Some(evidence.total(Effect::Ship).amount)),
        ("published", Some(evidence.events().iter().map(|published| published.event.cents).sum())),
        ("booked", Some(evidence.books.iter().map(|booking| booking.amount).sum())),
    ];
    let mut wrong = Vec::new();
    for (what, amount) in found {
        match amount {
            Some(amount) if amount == expected => {}
            Some(amount) => wrong.push(format!("{what}: {amount}, the completed orders are over {expected}")),
            None => wrong.push(format!("{what}: {refunded} were refunded, but only {charged} charged")),
        }
    }
    wrong.extend(evidence.parked.iter().map(|reason| format!("a record could not be booked: {reason}")));
    wrong
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use saga_core::store::State;

    use super::super::shipping::OrderShipped;
    use super::*;

    const CENTS: u64 = 13_912;

    /// One order that was completed, `a`, and one that was compensated, `b`, with everything in order.
    fn sound() -> (Vec<Order>, Evidence) {
        let amount = Amount::from_cents(CENTS);
        let order =
            |id: &str| Order { id: id.into(), date: Default::default(), customer: "7".into(), amount };
        let saga = |id: &str, end| Ran { order: id.into(), state: State::Ended(end), took: Duration::ZERO };
        let evidence = Evidence {
            sagas: vec![saga("a", EndKind::Completed), saga("b", EndKind::Compensated)],
            stock: vec![
                call("a", Effect::Reserve, Verdict::Applied),
                call("a", Effect::Reserve, Verdict::Duplicate),
                call("b", Effect::Reserve, Verdict::Applied),
                call("b", Effect::Release, Verdict::Applied),
            ],
            payment: vec![
                call("a", Effect::Charge, Verdict::Applied),
                call("b", Effect::Charge, Verdict::Applied),
                call("b", Effect::Refund, Verdict::Applied),
            ],
            shipping: vec![
                call("a", Effect::Ship, Verdict::Applied),
                call("b", Effect::Ship, Verdict::Refused),
            ],
            topic: vec![published(1, "a", CENTS), published(1, "a", CENTS)],
            books: vec![booking("a", CENTS)],
            parked: Vec::new(),
        };
        (vec![order("a"), order("b")], evidence)
    }

    fn call(order: &str, effect: Effect, verdict: Verdict) -> (Call, Verdict) {
        let (key, order) = (format!("{order}/{effect:?}"), order.to_owned());
        (Call { key, order, effect, amount: Amount::from_cents(CENTS) }, verdict)
    }

    fn published(id: u128, order: &str, cents: u64) -> Published {
        let event = OrderShipped { order: order.into(), cents: Amount::from_cents(cents) };
        Published { id: Uuid::from_u128(id), event }
    }

    fn booking(order: &str, cents: u64) -> Booking {
        Booking { order: order.into(), amount: Amount::from_cents(cents) }
    }

    #[test]
    fn repetitions_and_refusals_are_no_difference() {
        let (orders, evidence) = sound();
        assert_eq!(reconcile(&orders, &evidence), []);
        assert_eq!(evidence.total(Effect::Charge), Total { count: 2, amount: Amount::from_cents(2 * CENTS) });
    }

    /// Each of these lies must be found, and found in the order that it is told about.
    #[test]
    fn every_lie_is_found() {
        type Lie = (&'static str, &'static str, fn(&mut Vec<Order>, &mut Evidence));
        let lies: [Lie; 21] = [
            ("a", "no saga", |_, e| drop(e.sagas.remove(0))),
            ("a", "2 sagas", |_, e| e.sagas.push(e.sagas[0].clone())),
            ("a", "its saga is blocked", |_, e| e.sagas[0].state = State::Blocked),
            ("a", "its saga is partially", |_, e| {
                e.sagas[0].state = State::Ended(EndKind::PartiallyCompensated)
            }),
            ("a", "reserve: 0", |_, e| drop(e.stock.remove(0))),
            ("a", "charge: 2", |_, e| e.payment.push(call("a", Effect::Charge, Verdict::Applied))),
            ("a", "charge: 0", |_, e| drop(e.payment.remove(0))),
            ("a", "refund: 1", |_, e| e.payment.push(call("a", Effect::Refund, Verdict::Applied))),
            ("a", "ship: 2", |_, e| e.shipping.push(call("a", Effect::Ship, Verdict::Applied))),
            ("a", "events in the topic: 0", |_, e| e.topic.clear()),
            ("a", "events in the topic: 2", |_, e| e.topic.push(published(2, "a", CENTS))),
            ("a", "bookings: 2", |_, e| e.books.push(booking("a", CENTS))),
            ("a", "bookings: 0", |_, e| e.books.clear()),
            ("a", "event over 0.01", |_, e| e.topic = vec![published(1, "a", 1)]),
            ("a", "charge over 139.13", |_, e| e.payment[0].0.amount = Amount::from_cents(CENTS + 1)),
            ("a", "another effect", |_, e| e.stock.push(call("a", Effect::Reserve, Verdict::Mismatch))),
            ("b", "release: 0", |_, e| drop(e.stock.pop())),
            ("b", "refund: 2", |_, e| e.payment.push(call("b", Effect::Refund, Verdict::Applied))),
            ("b", "ship: 1", |_, e| e.shipping.push(call("b", Effect::Ship, Verdict::Applied))),
            ("b", "charge after refund", |_, e| e.payment.swap(1, 2)),
            ("c", "nobody placed it", |_, e| e.books.push(booking("c", CENTS))),
        ];
        for (order, what, lie) in lies {
            let (mut orders, mut evidence) = sound();
            lie(&mut orders, &mut evidence);
            let found = reconcile(&orders, &evidence);
            let named = |difference: &Difference| {
                difference.order.as_deref() == Some(order) && difference.what.contains(what)
            };
            assert!(found.iter().any(named), "{order}, {what}: {found:?}");
        }
    }

    #[test]
    fn sums_are_checked_by_themselves() {
        let (orders, mut evidence) = sound();
        evidence.books[0].amount = Amount::from_cents(1);
        let found = reconcile(&orders, &evidence);
        assert!(found.contains(&Difference {
            order: None,
            what: "booked: 0.01, the completed orders are over 139.12".into()
        }));
        evidence.payment.push(call("b", Effect::Refund, Verdict::Applied));
        evidence.payment.push(call("b", Effect::Refund, Verdict::Applied));
        let found = reconcile(&orders, &evidence);
        assert!(found.iter().any(|difference| difference.what.contains("only 278.24 charged")), "{found:?}");
    }
}
