//! What a saga suffers from: the failure of the attempt that failed last, until its place has succeeded.
//!
//! It is folded from the journal, so a takeover changes nothing of it. The store keeps its fingerprint beside the
//! saga, for operators to find all that suffer from the same.

use crate::error_id::ErrorId;
use crate::id::{Name, Place};
use crate::journal::{Answer, Failure, MailBody, Outcome, Record, Verb};
use crate::store::LastError;

/// What a saga suffers from, if from anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trouble(Option<(Place, ErrorId)>);

impl Trouble {
    /// Takes what became true.
    pub(crate) fn fold<'r>(&mut self, definition: &Name, records: impl IntoIterator<Item = &'r Record>) {
        for record in records {
            match said(record) {
                Some((at, Some(failure))) => {
                    self.0 = Some((at.clone(), ErrorId::of(definition, at, failure)));
                }
                Some((at, None)) => drop(self.0.take_if(|(place, _)| place == at)),
                None => {}
            }
        }
    }

    /// What a commit makes of it that leads to `later`.
    pub(crate) fn until(&self, later: &Self) -> LastError {
        let id = |trouble: &Self| trouble.0.as_ref().map(|(_, id)| *id);
        match (id(self), id(later)) {
            (before, after) if before == after => LastError::Same,
            (_, Some(id)) => LastError::Now(id),
            (_, None) => LastError::Gone,
        }
    }
}

/// Where something failed, or where it did not and is settled.
fn said(record: &Record) -> Option<(&Place, Option<&Failure>)> {
    match record {
        Record::Finished { at, outcome, .. } => Some((
            at,
            match outcome {
                Outcome::Ok(_) => None,
                Outcome::Rejected(failure)
                | Outcome::NotApplied(failure)
                | Outcome::Unknown(failure)
                | Outcome::Halted { failure, .. }
                | Outcome::Malformed { failure, .. } => Some(failure),
            },
        )),
        Record::Blocked { at, failure, .. } => Some((at, Some(failure))),
        Record::Received { body: MailBody::Operator { at, verb, .. }, answer: Answer::Accepted, .. } => {
            matches!(verb, Verb::Skip | Verb::Resolve(_)).then_some((at, None))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Effect;
    use crate::payload::Payload;

    fn finished(at: &str, outcome: Outcome) -> Record {
        let at = Place::of(&Name::new(at).unwrap());
        Record::Finished { at, effect: Effect::Action, outcome, due: None }
    }

    #[test]
    fn it_lasts_until_its_own_place_succeeds() {
        let name = Name::new("place-order").unwrap();
        let refused = || Outcome::NotApplied(Failure::new("connection refused"));
        let done = || Outcome::Ok(Payload::null());
        let mut trouble = Trouble::default();
        let mut then = |record: Record| {
            let before = trouble.clone();
            trouble.fold(&name, [&record]);
            before.until(&trouble)
        };
        let id = |at: &str| {
            LastError::Now(ErrorId::of(
                &name,
                &Place::of(&Name::new(at).unwrap()),
                &Failure::new("connection refused"),
            ))
        };
        assert_eq!(then(finished("charge", done())), LastError::Same);
        assert_eq!(then(finished("charge", refused())), id("charge"));
        assert_eq!(then(finished("charge", refused())), LastError::Same, "the same again is no news");
        assert_eq!(then(finished("book", done())), LastError::Same, "a sibling's success mends nothing");
        assert_eq!(then(finished("book", refused())), id("book"));
        assert_eq!(then(finished("book", done())), LastError::Gone);
    }
}
