//! One attempt: the user's code under a deadline, with panics caught.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;

use crate::clock::Clock;
use crate::journal::{Failure, Outcome};
use crate::payload::Payload;
use crate::step::code::{Bound, Reply};
use crate::step::context::Attempt;

/// Runs the code to its outcome. A panic and a missed deadline are `Unknown`: the effect may have
/// happened.
///
/// # Cancellation
///
/// Dropping the future drops the user's code where it stands. The engine does that only when the
/// worker is lost or its grace time is over; the attempt is then in doubt for whoever takes over.
pub(crate) async fn run(code: Bound, attempt: Attempt, input: Payload, output: Option<Payload>) -> Reply {
    let limit = attempt.deadline.saturating_duration_since(Clock::instant());
    // Calling the code is inside, so that a panic before its first await is caught as well.
    let reply = AssertUnwindSafe(async move { code(attempt, input, output).await }).catch_unwind();
    let unknown = |why: String| (Outcome::Unknown(Failure::new(why)), None);
    match tokio::time::timeout(limit, reply).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(panic)) => unknown(format!("the step's code panicked: {}", panic_text(&*panic))),
        Err(_) => unknown(format!("no outcome within {limit:.1?}")),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(a payload that is no text)")
}
