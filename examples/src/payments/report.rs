//! The ledger, held against what was asked.

use std::collections::HashMap;
use std::fmt;

use super::service::Charged;
use super::shop::Asked;

/// What a run has come to.
#[derive(Clone, Debug)]
pub struct Report {
    /// What decided the losses.
    pub seed: u64,
    /// What the shop asked, and was told.
    pub asked: Vec<Asked>,
    /// What the service's ledger says.
    pub charged: Vec<Charged>,
    /// Requests that the service saw.
    pub requests: u64,
    /// Requests that did not arrive.
    pub lost_requests: u64,
    /// Answers that did not arrive.
    pub lost_answers: u64,
}

impl Report {
    /// Whether the ledger has one charge for each payment, and the shop its receipt.
    pub fn agrees(&self) -> bool {
        self.differences().is_empty()
    }

    /// In which payments shop and ledger differ.
    pub fn differences(&self) -> Vec<String> {
        let mut ledger: HashMap<&str, Vec<&Charged>> = HashMap::new();
        for charged in &self.charged {
            ledger.entry(&charged.payment).or_default().push(charged);
        }
        let mut differences = Vec::new();
        for Asked { charge, told } in &self.asked {
            let charged = ledger.remove(charge.payment.as_str()).unwrap_or_default();
            let said = match told {
                Err(why) => Some(format!("the shop does not know how it ended: {why}")),
                Ok(_) if charged.len() != 1 => Some(format!("charged {} times", charged.len())),
                Ok(told) if (told.charge, told.cents) != (charged[0].id, charged[0].cents) => {
                    Some(format!("receipt {told:?}, but ledger {:?}", charged[0]))
                }
                Ok(told) if told.cents != charge.cents => Some(format!("{} cents charged", told.cents)),
                Ok(_) => None,
            };
            differences.extend(said.map(|said| format!("{}: {said}", charge.payment)));
        }
        differences.extend(ledger.keys().map(|payment| format!("{payment}: charged, and never asked for")));
        differences
    }
}

/// How many lines of the ledger, and of differences, are shown.
const SHOWN: usize = 10;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let money = |cents: i64| format!("{}.{:02}", cents / 100, cents % 100);
        let total: i64 = self.charged.iter().map(|charged| charged.cents).sum();
        writeln!(f, "  ledger   payment           amount")?;
        for Charged { id, payment, cents } in self.charged.iter().take(SHOWN) {
            writeln!(f, "  {id:>6}   {payment:<14} {:>9}", money(*cents))?;
        }
        if let Some(more) = self.charged.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            writeln!(f, "           and {more} more")?;
        }
        writeln!(f)?;
        writeln!(f, "  payments        {:>8}    requests seen   {:>8}", self.asked.len(), self.requests)?;
        writeln!(
            f,
            "  charges         {:>8}    requests lost   {:>8}",
            self.charged.len(),
            self.lost_requests
        )?;
        writeln!(f, "  charged         {:>8}    answers lost    {:>8}", money(total), self.lost_answers)?;
        writeln!(f, "  seed {}", self.seed)?;
        writeln!(f)?;
        let differences = self.differences();
        for difference in differences.iter().take(SHOWN) {
            writeln!(f, "  {difference}")?;
        }
        match differences.len() {
            0 => write!(f, "One charge each."),
            count => write!(f, "Shop and ledger differ in {count} payments."),
        }
    }
}
