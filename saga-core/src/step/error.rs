//! What an attempt may end in, as a step's author says it.

use std::fmt::Display;
use std::time::Duration;

use crate::journal::{Cause, Failure, Outcome};

/// Why an attempt did not succeed, and what is known of its effect.
///
/// Whatever is not definite is *unknown*: `?` on any error gives that. Say a definite thing
/// explicitly: [`StepError::rejected`], [`StepError::not_applied`], or on a result
/// [`Definite::reject_if`] and [`Definite::not_applied`].
///
/// It is not a [`std::error::Error`] itself, so that the blanket conversion can exist.
#[derive(Debug, Clone)]
pub struct StepError {
    kind: Kind,
    failure: Failure,
    retry_after: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rejected,
    NotApplied,
    Unknown,
    Halted(Cause),
}

impl StepError {
    /// No attempt under this key was or will be applied: the saga undoes what came before.
    pub fn rejected(why: impl Display) -> Self {
        Self::new(Kind::Rejected, why)
    }

    /// This attempt had no effect (the connection was refused, the service says it did not begin): it
    /// is tried again by policy, and given up without doubt.
    pub fn not_applied(why: impl Display) -> Self {
        Self::new(Kind::NotApplied, why)
    }

    /// Nobody knows whether it took effect.
    pub fn unknown(why: impl Display) -> Self {
        Self::new(Kind::Unknown, why)
    }

    /// The effect is there in part, and only a person can say what now.
    pub(crate) fn halted(cause: Cause, why: impl Display) -> Self {
        Self::new(Kind::Halted(cause), why)
    }

    /// The least pause before the next attempt, as the service asked for it.
    #[must_use]
    pub fn retry_after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }

    fn new(kind: Kind, why: impl Display) -> Self {
        Self { kind, failure: Failure::new(why.to_string()), retry_after: None }
    }

    /// The same words, with nothing definite about them.
    pub(crate) fn into_unknown(self) -> Self {
        Self { kind: Kind::Unknown, ..self }
    }

    /// What the journal records of it.
    pub(crate) fn into_outcome(self) -> (Outcome, Option<Duration>) {
        let outcome = match self.kind {
            Kind::Rejected => Outcome::Rejected(self.failure),
            Kind::NotApplied => Outcome::NotApplied(self.failure),
            Kind::Unknown => Outcome::Unknown(self.failure),
            Kind::Halted(cause) => Outcome::Halted { cause, failure: self.failure },
        };
        (outcome, self.retry_after)
    }
}

impl<E: std::error::Error> From<E> for StepError {
    fn from(error: E) -> Self {
        // The sources say what really happened ("connection reset" below "error sending request").
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(below) = source {
            let below_text = below.to_string();
            if !text.contains(&below_text) {
                text.push_str(": ");
                text.push_str(&below_text);
            }
            source = below.source();
        }
        Self::unknown(text)
    }
}

/// Says what is definite about an error.
pub trait Definite<T, E> {
    /// The effect was rejected where `definite` holds, and is unknown elsewhere.
    fn reject_if(self, definite: impl FnOnce(&E) -> bool) -> Result<T, StepError>;
    /// The attempt had no effect.
    fn not_applied(self) -> Result<T, StepError>;
}

impl<T, E: std::error::Error> Definite<T, E> for Result<T, E> {
    fn reject_if(self, definite: impl FnOnce(&E) -> bool) -> Result<T, StepError> {
        self.map_err(|error| {
            let rejected = definite(&error);
            let error = StepError::from(error);
            if rejected { StepError { kind: Kind::Rejected, ..error } } else { error }
        })
    }

    fn not_applied(self) -> Result<T, StepError> {
        self.map_err(|error| StepError { kind: Kind::NotApplied, ..StepError::from(error) })
    }
}

/// What a probe found out about an action in doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probed<T> {
    /// The action took effect and gave this.
    Done(T),
    /// The action had no effect, and the participant refuses its key from now on, for ever.
    NotDone,
    /// It cannot be told yet.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_error_is_unknown_until_said_otherwise() {
        let parse = || "x".parse::<u8>();
        let of = |result: Result<u8, StepError>| result.unwrap_err().into_outcome().0;
        let unknown = (|| -> Result<u8, StepError> { Ok(parse()?) })();
        assert!(matches!(of(unknown), Outcome::Unknown(_)));
        assert!(matches!(of(parse().reject_if(|_| true)), Outcome::Rejected(_)));
        assert!(matches!(of(parse().reject_if(|_| false)), Outcome::Unknown(_)));
        assert!(matches!(of(parse().not_applied()), Outcome::NotApplied(_)));
    }
}
