//! Who goes on with operations that nobody asks for any more.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Phased;
use crate::claim::{Claim, ClaimRequest, Decision, Direction, InDoubt, Ticket, decide};
use crate::row::Entry;
use crate::store::{Change, Expected, Swap};
use crate::trace::traced;
use crate::{KeyId, Store, StoreError, StoreErrorKind};

/// What a completer did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Completed {
    /// Operations brought to their end.
    pub done: u32,
    /// Operations that failed again and stay at their point, or whose row cannot be read.
    pub failed: u32,
    /// Operations left alone, because they have failed too often.
    pub given_up: u32,
    /// Operations left to another release, because this one does not know the phase that comes next.
    pub foreign: u32,
}

/// An operation that was unfinished a moment ago.
#[allow(clippy::large_enum_variant, reason = "returned and matched at once")]
enum Found {
    Ours(Ticket),
    GivenUp,
    Foreign,
    /// Somebody else was quicker.
    Gone,
}

impl<P, S, O> Phased<P, S, O>
where
    P: Store + Clone,
    S: Serialize + DeserializeOwned + Send + 'static,
    O: Serialize + DeserializeOwned + Send + 'static,
{
    /// Goes on with up to `limit` operations that a dead process, or a failed phase, has left: first with those that
    /// were tried least often. Fails only if the store does not answer.
    pub async fn complete_unfinished(&self, limit: u32) -> Result<Completed, StoreError> {
        let mut completed = Completed::default();
        for id in self.store.unfinished(&self.name, limit).await? {
            let ticket = match self.take_over(&id).await {
                Ok(Found::Ours(ticket)) => ticket,
                Ok(Found::GivenUp) => {
                    completed.given_up += 1;
                    continue;
                }
                Ok(Found::Foreign) => {
                    completed.foreign += 1;
                    continue;
                }
                Ok(Found::Gone) => continue,
                Err(error) if error.kind() == StoreErrorKind::Unavailable => return Err(error),
                Err(error) => {
                    tracing::warn!(operation = %self.name, key = ?id, %error, "an operation cannot be read");
                    completed.failed += 1;
                    continue;
                }
            };
            let own = self.clone();
            let work = traced(&id, Direction::Action, async move { Box::pin(own.go_on(ticket)).await });
            match tokio::spawn(work).await {
                Ok(Ok(_)) => completed.done += 1,
                Ok(Err(error)) => {
                    tracing::warn!(operation = %self.name, key = ?id, %error, "an operation failed again");
                    completed.failed += 1;
                }
                Err(_) => completed.failed += 1,
            }
        }
        let Completed { given_up, foreign, .. } = completed;
        if given_up + foreign > 0 {
            tracing::warn!(operation = %self.name, given_up, foreign, "unfinished operations were left alone");
        }
        Ok(completed)
    }

    /// Completes for ever, about once per `every`. Spawn it in any process that knows the phases.
    pub async fn complete_forever(self, every: Duration) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(every.mul_f64(0.5 + rand::random::<f64>())).await;
            if let Err(error) = self.complete_unfinished(100).await {
                tracing::warn!(operation = %self.name, %error, "unfinished operations could not be completed");
            }
        }
    }

    /// Claims an operation in doubt as a repeated request does, unless that would spend an attempt in vain.
    async fn take_over(&self, id: &KeyId) -> Result<Found, StoreError> {
        let entry = self.store.inspect(id).await?.filter(Entry::in_doubt);
        let Some(Entry { dated, now, .. }) = entry else { return Ok(Found::Gone) };
        let (Some(point), Some(print)) = (&dated.row.point, dated.row.action_print) else {
            return Ok(Found::Gone);
        };
        if dated.row.fence >= self.attempts_max {
            return Ok(Found::GivenUp);
        }
        if self.find(&point.phase).is_none() {
            return Ok(Found::Foreign);
        }
        let request =
            ClaimRequest { lease: self.lease, in_doubt: InDoubt::RunAgain, ..ClaimRequest::new(*id, print) };
        let Decision::Write { put, then } = decide(Some(&dated), &request, now) else {
            return Ok(Found::Gone);
        };
        let swap = self.store.swap(id, &Expected::exactly(&dated), &Change::Put(*put)).await?;
        Ok(match (swap, *then) {
            (Swap::Done, Claim::Acquired(ticket)) => Found::Ours(ticket),
            _ => Found::Gone,
        })
    }
}
