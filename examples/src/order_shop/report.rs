//! What a run came to: a table for people, JSON for machines.

use std::fmt;
use std::time::Duration;

use saga_core::journal::EndKind;
use serde::Serialize;

use super::amount::Amount;
use super::engine::percentile;
use super::ledger::{Call, Effect, Verdict};
use super::orders::Orders;
use super::reconcile::{Difference, Evidence, Total, reconcile};

/// The numbers of a run. Amounts are in cents.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Orders that were handed out.
    pub orders: usize,
    /// Orders of the input that were not, because the run was stopped.
    pub orders_not_taken: usize,
    /// Who placed the orders of the input.
    pub customers: usize,
    /// What the orders of the input cost.
    pub ordered_cents: u64,
    /// Orders whose amount was rounded to a whole cent.
    pub rounded: Vec<String>,
    /// Sagas that completed.
    pub completed: usize,
    /// Sagas that were compensated.
    pub compensated: usize,
    /// Charges that were applied.
    pub charges: usize,
    /// What they took.
    pub charged_cents: u64,
    /// Refunds that were applied.
    pub refunds: usize,
    /// What they gave back.
    pub refunded_cents: u64,
    /// Payments and parcels that were refused.
    pub refused: usize,
    /// Different events in the topic.
    pub events_published: usize,
    /// Events that the consumer booked.
    pub events_received: usize,
    /// Repeated calls that each service recognised.
    pub duplicates: Duplicates,
    /// Answers that were lost on purpose.
    pub answers_lost: u64,
    /// Workers that were killed.
    pub kills: usize,
    /// From the first order to the last end.
    pub seconds: f64,
    /// Sagas that ended in that time.
    pub sagas_per_second: f64,
    /// Half of the sagas took so long at most, from start to end.
    pub p50_ms: f64,
    /// 99 of 100 sagas took so long at most.
    pub p99_ms: f64,
    /// Whether engine, ledgers, topic and books agree.
    pub agrees: bool,
    /// Where they do not.
    pub differences: Vec<String>,
}

/// Who recognised how many repetitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Duplicates {
    /// The stock service, by its ledger.
    pub stock: usize,
    /// The payment service, by the idempotency layer.
    pub payment: usize,
    /// The shipping service, by its ledger.
    pub shipping: usize,
    /// The accounting service, by its inbox.
    pub consumer: u64,
}

/// What the run itself counted, beside the evidence.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// How many orders were handed out, from the first on.
    pub handed: usize,
    /// Answers that were lost on purpose.
    pub answers_lost: u64,
    /// Records that the consumer recognised as repetitions.
    pub consumer_duplicates: u64,
    /// Workers that were killed.
    pub kills: usize,
    /// From the first order to the last end.
    pub took: Duration,
}

impl Report {
    /// Draws the numbers from the evidence.
    pub fn draw(orders: &Orders, counted: &Counted, evidence: &Evidence) -> Self {
        let handed = &orders.list[..counted.handed];
        let differences = reconcile(handed, evidence);
        let ended = |end| evidence.sagas.iter().filter(|saga| saga.end() == Some(end)).count();
        let (charged, refunded) = (evidence.total(Effect::Charge), evidence.total(Effect::Refund));
        let seconds = counted.took.as_secs_f64();
        let (completed, compensated) = (ended(EndKind::Completed), ended(EndKind::Compensated));
        Self {
            orders: counted.handed,
            orders_not_taken: orders.list.len() - counted.handed,
            customers: orders.customers(),
            ordered_cents: orders.total().cents(),
            rounded: orders.rounded.clone(),
            completed,
            compensated,
            charges: charged.count,
            charged_cents: charged.amount.cents(),
            refunds: refunded.count,
            refunded_cents: refunded.amount.cents(),
            refused: evidence.calls().filter(|(_, verdict)| *verdict == Verdict::Refused).count(),
            events_published: evidence.events().len(),
            events_received: evidence.books.len(),
            duplicates: Duplicates {
                stock: duplicates(&evidence.stock),
                payment: duplicates(&evidence.payment),
                shipping: duplicates(&evidence.shipping),
                consumer: counted.consumer_duplicates,
            },
            answers_lost: counted.answers_lost,
            kills: counted.kills,
            seconds,
            sagas_per_second: (completed + compensated) as f64 / seconds.max(0.001),
            p50_ms: percentile(&evidence.sagas, 0.50).as_secs_f64() * 1000.0,
            p99_ms: percentile(&evidence.sagas, 0.99).as_secs_f64() * 1000.0,
            agrees: differences.is_empty(),
            differences: differences.iter().map(Difference::to_string).collect(),
        }
    }
}

fn duplicates(ledger: &[(Call, Verdict)]) -> usize {
    ledger.iter().filter(|(_, verdict)| *verdict == Verdict::Duplicate).count()
}

/// How many differences are named on the screen; the JSON has all.
const NAMED: usize = 20;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let money = |count, cents| Total { count, amount: Amount::from_cents(cents) };
        let mut row = |name: &str, value: String| writeln!(f, "  {name:<20}{value:>14}");
        let counted = |f: &mut dyn FnMut(&str, String) -> fmt::Result, name: &str, total: Total| {
            f(name, group(total.count))?;
            f("", total.amount.to_string())
        };
        row("orders", group(self.orders))?;
        row("  of customers", group(self.customers))?;
        row("  over", Amount::from_cents(self.ordered_cents).to_string())?;
        row("completed", group(self.completed))?;
        row("compensated", group(self.compensated))?;
        counted(&mut row, "charged", money(self.charges, self.charged_cents))?;
        counted(&mut row, "refunded", money(self.refunds, self.refunded_cents))?;
        row("refused", group(self.refused))?;
        row("events published", group(self.events_published))?;
        row("events received", group(self.events_received))?;
        row("duplicates, stock", group(self.duplicates.stock))?;
        row("  payment", group(self.duplicates.payment))?;
        row("  shipping", group(self.duplicates.shipping))?;
        row("  consumer", self.duplicates.consumer.to_string())?;
        row("answers lost", self.answers_lost.to_string())?;
        row("workers killed", self.kills.to_string())?;
        row("seconds", format!("{:.1}", self.seconds))?;
        row("sagas per second", format!("{:.0}", self.sagas_per_second))?;
        row("p50 of a saga", format!("{:.0} ms", self.p50_ms))?;
        row("p99 of a saga", format!("{:.0} ms", self.p99_ms))?;
        writeln!(f)?;
        if self.orders_not_taken > 0 {
            writeln!(f, "Stopped: {} orders were not taken.", group(self.orders_not_taken))?;
        }
        if !self.rounded.is_empty() {
            writeln!(f, "Rounded to a whole cent: orders {}.", self.rounded.join(", "))?;
        }
        if self.agrees {
            return writeln!(f, "Engine, ledgers, topic and books agree to the penny.");
        }
        writeln!(f, "{} differences between engine, ledgers, topic and books:", self.differences.len())?;
        for difference in self.differences.iter().take(NAMED) {
            writeln!(f, "  {difference}")?;
        }
        if self.differences.len() > NAMED {
            writeln!(f, "  … and {} more", self.differences.len() - NAMED)?;
        }
        Ok(())
    }
}

fn group(count: usize) -> String {
    let amount = Amount::from_cents(count as u64 * 100).to_string();
    amount.trim_end_matches(".00").to_owned()
}
