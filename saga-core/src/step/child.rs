//! A child saga is a step: its action starts a run of another definition and awaits its end.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Cx, Step, StepError, step};
use crate::client::{Client, Ended, Error, Saga};
use crate::id::RunId;
use crate::journal::{Cause, EndKind};
use crate::retry::Retry;
use crate::saga::Definition;

/// Between two heartbeats of a step that awaits its child.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Declares a step that runs another definition as a child saga.
///
/// The child's id is the step's key, so that a repeated attempt meets the same run. A child that
/// completes is the step's output; one that compensates is the step's rejection; one that an operator
/// ended partially compensated blocks its parent; while a child is blocked its parent waits. When a
/// sibling fails, the child is told to cancel, and the parent awaits its end before it undoes the rest.
///
/// Undoing a child that has completed is another effect: say what it is with [`Step::compensate`], or
/// make the child the pivot or a step after it.
///
/// A child that completed and whose output is of another type than the step's blocks its parent, for a person to
/// say what it gave.
///
/// A child whose key is held by its parent, or further above, is refused: each would wait for the other for
/// ever. The step is then rejected.
///
/// The application provides the [`Client`] through which children are started.
///
/// ```
/// # use saga_core::{Client, Cx, Definition, StepError, step, step::child};
/// # async fn pack(_: Cx<Client>, order: u64) -> Result<u64, StepError> { Ok(order) }
/// let (mut b, order) = Definition::build::<Client, u64>("parcel", 1);
/// let packed = b.add(step("pack", pack).no_compensation("a box is unpacked by whoever finds it"), order);
/// let parcel = b.finish(packed)?;
///
/// let (b, order) = Definition::build::<Client, u64>("order", 1);
/// let (b, sent) = b.pivot(child("send", &parcel), order);
/// let order = b.finish(sent)?;
/// # Ok::<_, saga_core::saga::builder::BadDefinition>(())
/// ```
pub fn child<A, In, Out>(
    name: impl Into<String>,
    definition: &Definition<A, In, Out>,
) -> Step<Client, In, Out>
where
    A: 'static,
    In: Serialize + DeserializeOwned + Send + Sync + 'static,
    Out: Serialize + DeserializeOwned + Send + 'static,
{
    let definition = definition.clone();
    let action = move |cx: Cx<Client>, input: In| {
        let definition = definition.clone();
        async move { run(&cx, &definition, &input).await }
    };
    // It ends when its child does, however long that takes.
    step(name, action).retry(Retry::forever()).attempt_timeout(HEARTBEAT * 4)
}

async fn run<A, In, Out>(
    cx: &Cx<Client>,
    definition: &Definition<A, In, Out>,
    input: &In,
) -> Result<Out, StepError>
where
    In: Serialize,
    Out: DeserializeOwned + 'static,
{
    let started = cx.state().start(definition, &cx.key(), input).within(cx).await;
    let saga: Saga<Out> = match started {
        // The id is this step's own, so an earlier attempt has started it, whose code wrote the same input otherwise.
        Err(Error::Mismatch { run, .. }) => cx.state().saga(run),
        Err(error) if error.is_final() => {
            return Err(StepError::rejected(format!("no child was started: {error}")));
        }
        started => started?,
    };
    let mut told = false;
    let end = saga.wait();
    tokio::pin!(end);
    loop {
        tokio::select! {
            biased;
            end = &mut end => return ended(saga.run(), end),
            () = cx.turned_back().cancelled(), if !told => {
                saga.cancel("its parent undoes itself").await?;
                told = true;
            }
            () = cx.cancelled().cancelled(), if !told => {
                return Err(StepError::not_applied("the worker drains; the child goes on"));
            }
            () = tokio::time::sleep(HEARTBEAT) => cx.heartbeat(),
        }
    }
}

/// What a child's end is to its parent. What asking again would not change is for a person.
fn ended<Out>(run: RunId, end: Result<Ended<Out>, Error>) -> Result<Out, StepError> {
    let (kind, why) = match end {
        Ok(Ended::Completed(output)) => return Ok(output),
        Ok(Ended::Compensated(cause)) => (EndKind::Compensated, cause.to_string()),
        Ok(Ended::PartiallyCompensated(cause)) => (EndKind::PartiallyCompensated, cause.to_string()),
        Err(error @ Error::Expired { end, .. }) => (end, error.to_string()),
        Err(error @ Error::Payload { .. }) => (EndKind::Completed, error.to_string()),
        Err(error) => return Err(error.into()),
    };
    let why = format!("child saga {run}: {why}");
    Err(match kind {
        EndKind::Completed => StepError::halted(Cause::Malformed, why),
        EndKind::Compensated => StepError::rejected(why),
        EndKind::PartiallyCompensated => StepError::halted(Cause::ChildInPieces, why),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Failure, Outcome};
    use crate::payload::Payload;

    #[test]
    fn an_end_that_does_not_change_is_not_asked_for_again() {
        let run = RunId::new();
        let of = |end: Result<Ended<u32>, Error>| ended(run, end).unwrap_err().into_outcome().0;
        let halted =
            |outcome: &Outcome, cause| matches!(outcome, Outcome::Halted { cause: c, .. } if *c == cause);
        let gone = |end| of(Err(Error::Expired { run, end }));
        assert!(halted(&gone(EndKind::Completed), Cause::Malformed), "what it gave is for a person to say");
        assert!(matches!(gone(EndKind::Compensated), Outcome::Rejected(_)));
        assert!(halted(&gone(EndKind::PartiallyCompensated), Cause::ChildInPieces));
        let source = Payload::encode("no number").unwrap().decode::<u32>().unwrap_err();
        let other_type = Error::Payload { what: "the saga's output", source };
        assert!(halted(&of(Err(other_type)), Cause::Malformed));
        assert!(matches!(of(Ok(Ended::Compensated(Failure::new("refused")))), Outcome::Rejected(_)));
        let away = Error::Store(crate::store::Error::Unavailable("down".into()));
        assert!(matches!(of(Err(away)), Outcome::Unknown(_)), "that one does");
    }
}
