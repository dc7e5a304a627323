//! What the journal keeps of payloads that come into being here: how much of them, and in which form.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;

use super::attempt::panic_text;
use crate::codec::{Codec, CodecError};
use crate::id::{Place, RunId};
use crate::journal::{Failure, MailBody, Outcome, Record, Verb};
use crate::payload::Payload;
use crate::step::code::Reply;

/// How long one call to the store of blobs may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often an output is offered to it.
const TRIES: u32 = 8;

/// How payloads are kept. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Keeping {
    pub(crate) codec: Option<Codec>,
    /// The most that one payload may take of a journal.
    pub(crate) bytes_max: usize,
}

impl Keeping {
    /// What is recorded of an attempt's end.
    ///
    /// An output that cannot be stored for a while is offered again; where that does not help, its attempt has
    /// an unknown outcome: it took effect, and has to tell its output once more.
    pub(crate) async fn output(&self, reply: Reply, run: RunId) -> Reply {
        let (Outcome::Ok(mut output), pause) = reply else { return reply };
        if let Some(codec) = self.codec.as_ref().filter(|_| !output.is_null()) {
            match Box::pin(caught(offered(codec, &output, run))).await {
                Ok(closed) => output = closed,
                Err(CodecError::Unavailable(why)) => {
                    let why = format!("it took effect, but its output could not be stored: {why}");
                    return (Outcome::Unknown(Failure::new(why)), pause);
                }
                Err(error) => {
                    let failure = Failure::new(format!("its output could not be stored: {error}"));
                    return (Outcome::Malformed { failure, applied: true }, pause);
                }
            }
        }
        (self.within(output), pause)
    }

    /// The same for an attempt with an open transaction, which waits for nobody: its output is sealed, not offloaded.
    pub(crate) fn lent(&self, outcome: Outcome, run: RunId) -> Outcome {
        match (&self.codec, outcome) {
            (Some(codec), Outcome::Ok(output)) => self.within(codec.close_here(output, run)),
            (None, Outcome::Ok(output)) => self.within(output),
            (_, outcome) => outcome,
        }
    }

    /// An output that is too large is the code's fault, not the service's: the effect happened.
    fn within(&self, output: Payload) -> Outcome {
        match self.too_large(&output) {
            Some(large) => {
                let why = format!("the output {large}; store it elsewhere and return its address");
                Outcome::Malformed { failure: Failure::new(why), applied: true }
            }
            None => Outcome::Ok(output),
        }
    }

    /// What is recorded of a derived value. It is computed within a commit, so it can be sealed but not offloaded.
    pub(crate) fn derived(&self, at: &Place, value: Payload, run: RunId) -> Result<Payload, Failure> {
        let value = match &self.codec {
            Some(codec) => codec.close_here(value, run),
            None => value,
        };
        match self.too_large(&value) {
            Some(large) => {
                Err(Failure::new(format!("the value of {at} {large}; derive less, or have a step store it")))
            }
            None => Ok(value),
        }
    }

    /// What is recorded of mail.
    pub(crate) fn mail(&self, body: MailBody, run: RunId) -> MailBody {
        match (&self.codec, body) {
            (Some(codec), MailBody::Operator { at, verb: Verb::Resolve(output), who, why }) => {
                MailBody::Operator { at, verb: Verb::Resolve(codec.close_here(output, run)), who, why }
            }
            (_, body) => body,
        }
    }

    /// Opens what a journal holds; fails where the store of blobs cannot be reached.
    pub(crate) async fn open(&self, commits: &mut [Vec<Record>], run: RunId) -> Result<(), CodecError> {
        let Some(codec) = &self.codec else { return Ok(()) };
        for records in commits {
            let opened = tokio::time::timeout(PATIENCE, caught(codec.open_records(records, run))).await;
            let unreadable =
                opened.map_err(|_| CodecError::Unavailable(format!("no answer within {PATIENCE:?}")))??;
            if let Some(error) = unreadable {
                tracing::error!(%run, %error, "a payload cannot be read; the step that needs it will block");
            }
        }
        Ok(())
    }

    fn too_large(&self, payload: &Payload) -> Option<String> {
        let (bytes, most) = (payload.kept_bytes(), self.bytes_max);
        (bytes > most).then(|| format!("has {bytes} bytes, and at most {most} are kept"))
    }
}

/// A cipher or a store of blobs is not ours, and may panic: the same may work later.
async fn caught<T>(call: impl Future<Output = Result<T, CodecError>>) -> Result<T, CodecError> {
    let called = AssertUnwindSafe(call).catch_unwind().await;
    called
        .unwrap_or_else(|panic| Err(CodecError::Unavailable(format!("it panicked: {}", panic_text(&*panic)))))
}

async fn offered(codec: &Codec, output: &Payload, run: RunId) -> Result<Payload, CodecError> {
    let mut pause = Duration::from_millis(100);
    for attempt in 1.. {
        let closed = tokio::time::timeout(PATIENCE, codec.close(output.clone(), run)).await;
        let closed =
            closed.unwrap_or_else(|_| Err(CodecError::Unavailable(format!("no answer within {PATIENCE:?}"))));
        match closed {
            Err(CodecError::Unavailable(why)) if attempt < TRIES => {
                tracing::warn!(%run, %why, "an output is not stored yet");
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            closed => return closed,
        }
    }
    unreachable!("the loop returns")
}
