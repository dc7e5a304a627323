//! The participant barrier: a service's guard against duplicate, empty and late calls of a saga.
//!
//! A network reorders. A compensation may arrive before the action that it undoes, or without it; the action
//! may arrive after it; each may arrive twice. A participant that keeps one row per step can answer all of
//! them rightly, because the claim and the barrier are one atomic operation on that row:
//!
//! - a duplicate gets the first answer again;
//! - a compensation without its action answers that there was nothing to undo, and the action, should it
//!   come after all, is refused for ever;
//! - a `settle` answers how the action ended; if it never began, it is refused for ever. That is what makes an
//!   honest "not done" possible: a frozen worker may still wake up and send.
//!
//! # The wire
//!
//! Five headers, on HTTP or on any message, whose exact form is described in
//! [`wire/README.md`](https://docs.rs/crate/idempotency/latest/source/wire/README.md) and pinned by
//! [`wire/headers.json`](https://docs.rs/crate/idempotency/latest/source/wire/headers.json):
//! `saga-run`, `saga-step`, `saga-occurrence`, `saga-direction`, `saga-attempt`.
//! The row is found by the scope and the first three. An undo that is a run of its own sends the *original*
//! run's id.

use std::fmt;

use crate::{Direction, KeyId, Scope, Secret};

/// `saga-run`: the run's id, a UUID in lower case with hyphens.
pub const SAGA_RUN: &str = "saga-run";
/// `saga-step`: the step's name; what is not printable ASCII, and `%`, is percent-encoded.
pub const SAGA_STEP: &str = "saga-step";
/// `saga-occurrence`: which execution of that step within the run, a decimal number.
pub const SAGA_OCCURRENCE: &str = "saga-occurrence";
/// `saga-direction`: `action`, `compensation` or `settle`.
pub const SAGA_DIRECTION: &str = "saga-direction";
/// `saga-attempt`: which attempt at it, a decimal number from 1. Informative: it is never matched on.
pub const SAGA_ATTEMPT: &str = "saga-attempt";

/// The longest encoded step name, in bytes.
pub const STEP_BYTES_MAX: usize = 512;

/// One call of a saga to a participant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The run.
    pub run: uuid::Uuid,
    /// The step's name.
    pub step: String,
    /// Which execution of the step within the run.
    pub occurrence: u32,
    /// What is asked.
    pub direction: Direction,
    /// Which attempt.
    pub attempt: u32,
}

impl Call {
    /// Reads the headers through `get`, whatever carries them. `Ok(None)` if there is no `saga-run`: the call
    /// is not a saga's.
    pub fn read<'a>(get: impl Fn(&'static str) -> Option<&'a [u8]>) -> Result<Option<Self>, CallError> {
        let Some(run) = get(SAGA_RUN) else { return Ok(None) };
        let text = |name: &'static str| {
            let value = get(name).ok_or(CallError::Missing { name })?;
            std::str::from_utf8(value).map_err(|_| CallError::Malformed { name })
        };
        let number = |name: &'static str| number(text(name)?).ok_or(CallError::Malformed { name });
        let run =
            std::str::from_utf8(run).ok().and_then(run_id).ok_or(CallError::Malformed { name: SAGA_RUN })?;
        let step = decode_step(text(SAGA_STEP)?).ok_or(CallError::Malformed { name: SAGA_STEP })?;
        let direction = match text(SAGA_DIRECTION)? {
            "action" => Direction::Action,
            "compensation" => Direction::Compensation,
            "settle" => Direction::Settle,
            _ => return Err(CallError::Malformed { name: SAGA_DIRECTION }),
        };
        let attempt = number(SAGA_ATTEMPT)?;
        if attempt == 0 {
            return Err(CallError::Malformed { name: SAGA_ATTEMPT });
        }
        Ok(Some(Self { run, step, occurrence: number(SAGA_OCCURRENCE)?, direction, attempt }))
    }

    /// The headers, names and values.
    pub fn headers(&self) -> [(&'static str, String); 5] {
        let direction = match self.direction {
            Direction::Action => "action",
            Direction::Compensation => "compensation",
            Direction::Settle => "settle",
        };
        [
            (SAGA_RUN, self.run.as_hyphenated().to_string()),
            (SAGA_STEP, encode_step(&self.step)),
            (SAGA_OCCURRENCE, self.occurrence.to_string()),
            (SAGA_DIRECTION, direction.to_owned()),
            (SAGA_ATTEMPT, self.attempt.to_string()),
        ]
    }

    /// What a store knows this step by: the same for every direction and attempt.
    pub fn key_id(&self, secret: &Secret, scope: &Scope) -> KeyId {
        let (run, occurrence) = (self.run.into_bytes(), self.occurrence.to_be_bytes());
        secret.id(b"saga", &[scope.bytes(), &run, self.step.as_bytes(), &occurrence])
    }
}

/// What is wrong with a call's headers. The caller's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// `saga-run` is there, and this one is not.
    #[error("the header {name} is missing beside saga-run")]
    Missing {
        /// The header.
        name: &'static str,
    },
    /// Its value is not of the form that the wire contract describes.
    #[error("the header {name} is malformed")]
    Malformed {
        /// The header.
        name: &'static str,
    },
}

/// One spelling only: two spellings of one run would be two rows.
fn run_id(text: &str) -> Option<uuid::Uuid> {
    let run = uuid::Uuid::try_parse(text).ok()?;
    (run.as_hyphenated().to_string() == text).then_some(run)
}

fn number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn encode_step(step: &str) -> String {
    use fmt::Write;
    let mut out = String::with_capacity(step.len());
    for byte in step.bytes() {
        match byte {
            0x21..=0x7e if byte != b'%' => out.push(char::from(byte)),
            _ => write!(out, "%{byte:02X}").expect("a String takes what is written"),
        }
    }
    out
}

fn decode_step(text: &str) -> Option<String> {
    if text.is_empty() || text.len() > STEP_BYTES_MAX {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let [a, b, tail @ ..] = rest else { return None };
        bytes.push(u8::from_str_radix(std::str::from_utf8(&[*a, *b]).ok()?, 16).ok()?);
        rest = tail;
    }
    let step = String::from_utf8(bytes).ok()?;
    // One spelling only, here too.
    (encode_step(&step) == text).then_some(step)
}
