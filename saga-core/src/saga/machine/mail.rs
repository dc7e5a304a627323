//! What others tell a saga: what they are answered, and what it changes.

use super::Machine;
use crate::id::{MailId, Place};
use crate::journal::stage::Event;
use crate::journal::{Answer, Failure, Illegal, MailBody, Record, Timestamp, Verb};
use crate::saga::plan::Kind;

impl Machine {
    /// What mail is answered, decided before it is recorded. `None` where it has nothing to say here.
    pub fn receive(&self, mail: MailId, body: MailBody, now: Timestamp) -> Record {
        let answer = match &body {
            MailBody::Cancel { .. } if self.pivot_begun || self.cause.is_some() => Answer::TooLate,
            MailBody::Cancel { .. } => Answer::Accepted,
            MailBody::Abandon { .. } if self.any_live() => {
                Answer::Refused("an attempt is under way; abandon when it has ended".into())
            }
            MailBody::Abandon { .. } => Answer::Accepted,
            MailBody::Operator { at, verb, .. } => self.answer_operator(at, verb, now),
            MailBody::Damaged { .. } => {
                Answer::Refused("what is stored of it does not read; say it again".into())
            }
        };
        Record::Received { mail, body, answer }
    }

    fn answer_operator(&self, at: &Place, verb: &Verb, now: Timestamp) -> Answer {
        if self.is_about_journal(at.as_str()) {
            return match verb {
                Verb::Retry => Answer::Accepted,
                _ => Answer::Refused(format!("{at} is no step: what can be done is to retry, or to abandon")),
            };
        }
        if self.is_derivation(at.as_str()) {
            return match (verb, self.blocked) {
                (Verb::Retry, true) => Answer::Accepted,
                _ => Answer::Refused(format!(
                    "{at} is computed, not done: it can only be retried while blocked"
                )),
            };
        }
        let (name, item) = at.parts();
        let (found, item) = (self.plan.find(name), item.unwrap_or(0));
        // A decision names its place exactly: "reserve" is no item of a list.
        let node = match found.map(|node| (node, self.plan.nodes[node].place(item))) {
            Some((node, place)) if place == *at => node,
            Some((node, place)) if self.plan.nodes[node].kind == Kind::Each => {
                return Answer::Refused(format!("{name} runs over a list: say which item, as {place}"));
            }
            Some((_, place)) => return Answer::Refused(format!("there is no {at}, only {place}")),
            None => return Answer::Refused(format!("there is no step {at}")),
        };
        let Some(stage) = self.slots[node].stages.get(item).filter(|_| !self.slots[node].live[item]) else {
            return Answer::Refused(format!("no attempt rests at {at}"));
        };
        match stage.clone().next(&Event::Operator(verb, now), self.plan.nodes[node].contract()) {
            Ok(_) => Answer::Accepted,
            Err(_) => Answer::Refused(format!("{at} {}", stage.resists())),
        }
    }

    /// Whether a request is about the journal, which was not read by whoever blocked the saga, and now is.
    fn is_about_journal(&self, name: &str) -> bool {
        self.blocked && self.unfit && self.plan.nodes[0].name.as_str() == name
    }

    fn is_derivation(&self, name: &str) -> bool {
        self.plan.find(name).is_some_and(|node| self.plan.nodes[node].kind == Kind::Derive)
    }

    pub(super) fn accept(&mut self, body: &MailBody, record: &Record) -> Result<(), Illegal> {
        match body {
            MailBody::Cancel { reason } => {
                self.cause.get_or_insert(Failure::new(format!("cancelled: {reason}")));
                // What needs a person on the way forward may need none on the way back.
                self.blocked = false;
            }
            MailBody::Operator { at, verb, who, why } => {
                if self.is_about_journal(at.as_str()) || self.is_derivation(at.as_str()) {
                    self.blocked = false;
                    return Ok(());
                }
                // The time of a retry is "now" whenever it is read: long ago is due as well.
                let (node, item) = self.step(at, &Event::Operator(verb, Timestamp::UNIX_EPOCH), record)?;
                if *verb == Verb::Skip {
                    self.left = true;
                    self.cause.get_or_insert(Failure::new(format!("{who} skipped {at}: {why}")));
                }
                self.settle(node, item);
                self.blocked = false;
            }
            MailBody::Abandon { who, why } => {
                let cause = self.cause.take().map(|cause| format!("; first failure: {cause}"));
                self.cause =
                    Some(Failure::new(format!("{who} abandoned it: {why}{}", cause.unwrap_or_default())));
                self.left = true;
                self.abandoned = true;
                self.blocked = false;
            }
            MailBody::Damaged { .. } => return Err(self.illegal("damaged mail asks for nothing", record)),
        }
        Ok(())
    }
}
