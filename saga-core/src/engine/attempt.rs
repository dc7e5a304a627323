//! One attempt: the user's code under a deadline, with panics caught.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;

use crate::journal::{Failure, Outcome};
use crate::payload::Payload;
use crate::step::code::{Bound, Reply};
use crate::step::context::{Attempt, Deadline};

/// Runs the code to its outcome. A panic and a missed deadline are `Unknown`: the effect may have
/// happened.
///
/// # Cancellation
///
/// Dropping the future drops the user's code where it stands. The engine does that only when the
/// worker is lost or its grace time is over; the attempt is then in doubt for whoever takes over.
pub(crate) fn run(
    code: Bound,
    attempt: Attempt,
    input: Payload,
    output: Option<Payload>,
) -> impl Future<Output = Reply> {
    // Calling the code is inside, and so is dropping it, so that a panic before its first await or when its time is
    // over is caught as well.
    let ran = AssertUnwindSafe(async move {
        let deadline = attempt.deadline.clone();
        tokio::select! {
            biased;
            reply = code(attempt, input, output) => reply,
            () = passed(&deadline) => unknown(format!("no outcome and no heartbeat within {:.1?}", deadline.timeout())),
        }
    });
    ran.catch_unwind().map(|ran| {
        ran.unwrap_or_else(|panic| unknown(format!("the step's code panicked: {}", panic_text(&*panic))))
    })
}

fn unknown(why: String) -> Reply {
    (Outcome::Unknown(Failure::new(why)), None)
}

/// Resolves once the deadline has passed and no heartbeat has moved it on.
async fn passed(deadline: &Deadline) {
    loop {
        let at = deadline.at();
        tokio::time::sleep_until(at.into()).await;
        if deadline.at() <= at {
            return;
        }
    }
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(a payload that is no text)")
}
