//! The right to run, as a pure function: (what is stored, what is asked, now) → what to answer or to write.
//!
//! Every store, and both halves of the [barrier](crate::barrier), go through [`decide`]. It touches no I/O,
//! and is tested as a table.
//!
//! ```text
//!            action                        compensation                 settle
//! no row     run it                        nothing to undo; refuse      refuse for ever
//!                                          the action for ever
//! running    in flight                     in flight                    in flight
//! in doubt   Unknown, or run it again      Unknown, or undo by key      Unknown
//! applied    replay                        run it                       replay
//! rejected   replay                        nothing to undo              replay
//! undoing    refused, too late             in flight, Unknown or again  in flight or Unknown
//! undone     refused, too late             replay                       undone
//! refused    refused, too late             nothing to undo              never applied
//! ```

use std::time::Duration;

use bytes::Bytes;

use crate::fingerprint::Part;
use crate::row::{Dated, Point, Progress, Row, Stamp};
use crate::time::Time;
use crate::{Fingerprint, KeyId};

/// Which half of a key is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The forward effect. Every request outside a saga is one.
    #[default]
    Action,
    /// What undoes it.
    Compensation,
    /// A probe: how did it end? If it never began, refuse it from now on.
    Settle,
}

/// What becomes of an action in doubt: one whose lease ran out, or whose handler ended without saying what
/// took effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InDoubt {
    /// Answer [`Claim::Unknown`]. Nothing runs until somebody who knows [resolves](crate::Store::resolve) it.
    #[default]
    Unknown,
    /// Run it again. Only for effects that are idempotent by themselves.
    RunAgain,
}

/// A request for the right to run.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    /// The key.
    pub id: KeyId,
    /// What is asked.
    pub fingerprint: Fingerprint,
    /// Which half.
    pub direction: Direction,
    /// This request's ownership token. Ask again with the same one when an answer was lost.
    pub stamp: Stamp,
    /// How long the claim is held without being renewed.
    pub lease: Duration,
    /// How long a refusal is kept that this very request records (see [`Ruling`]).
    pub keep: Duration,
    /// What to do about an earlier attempt in doubt.
    pub in_doubt: InDoubt,
    /// Whether the handler can undo, or refuse, an action *by its key* without knowing how it ended. Only
    /// then may a compensation fence an action in doubt and proceed.
    pub undo_by_key: bool,
    /// Where a phased operation begins; see [`phased`](crate::phased).
    pub point: Option<Point>,
}

impl ClaimRequest {
    /// A claim of an action with the defaults: 30 s of lease, refusals kept for 90 days, doubt is `Unknown`.
    pub fn new(id: KeyId, fingerprint: Fingerprint) -> Self {
        Self {
            id,
            fingerprint,
            direction: Direction::Action,
            stamp: Stamp::random(),
            lease: Duration::from_secs(30),
            keep: Duration::from_secs(90 * 24 * 3600),
            in_doubt: InDoubt::default(),
            undo_by_key: false,
            point: None,
        }
    }
}

/// The answer to a [`ClaimRequest`].
#[allow(clippy::large_enum_variant, reason = "the large one is the usual one, and is moved once")]
#[derive(Clone, Debug)]
pub enum Claim {
    /// Yours: run it, then complete or release the ticket.
    Acquired(Ticket),
    /// It ran before; this is how it ended.
    Replay(Kept),
    /// It is running.
    InFlight {
        /// When its lease ends, if it is not renewed.
        retry_after: Duration,
    },
    /// The key was used for something else.
    Mismatch {
        /// What differs.
        part: Part,
    },
    /// An attempt was begun and nobody knows how it ended.
    Unknown {
        /// How long ago its lease ended.
        since: Duration,
    },
    /// The barrier has settled the matter without running anything.
    Ruled(Ruling),
}

/// What the barrier decides by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// The action comes after its own compensation or settlement: refused, now and for ever.
    TooLate,
    /// The compensation found nothing to undo; the action is refused from now on.
    NothingToUndo,
    /// The settlement found that nothing was applied; the action is refused from now on.
    NeverApplied,
    /// The settlement found the action undone.
    Undone,
}

/// An outcome that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Which half it belongs to.
    pub direction: Direction,
    /// Whether it took effect.
    pub verdict: Verdict,
    /// The encoded answer.
    pub answer: Bytes,
}

/// Whether a kept outcome took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It did.
    Applied,
    /// It was refused for good and nothing took effect.
    Rejected,
}

impl Verdict {
    fn progress(self) -> Progress {
        match self {
            Self::Applied => Progress::Applied,
            Self::Rejected => Progress::Rejected,
        }
    }
}

/// The right to run, until its lease ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub(crate) id: KeyId,
    pub(crate) direction: Direction,
    pub(crate) row: Row,
    pub(crate) lease: Duration,
    /// The number of the transaction that holds the key, where a lock of its says so and no row.
    pub(crate) transaction: Option<Box<str>>,
}

impl Ticket {
    /// The key's id.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// Which half was claimed.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Rises with every claim of this key: hand it to whoever can refuse an older one.
    pub fn fence(&self) -> u64 {
        self.row.fence
    }

    /// Whether an earlier attempt may have taken effect.
    pub fn in_doubt(&self) -> bool {
        self.row.doubt
    }

    /// The encoded answer of the action that a compensation is to undo, if it is known.
    pub fn action_answer(&self) -> Option<&Bytes> {
        self.row.action_answer.as_ref()
    }

    /// The row once this ticket's work has ended so.
    pub(crate) fn completed(&self, verdict: Verdict, answer: Bytes) -> Row {
        let mut row = self.row.clone();
        row.doubt = false;
        row.point = None;
        if self.direction == Direction::Compensation {
            row.undo = verdict.progress();
            row.undo_answer = Some(answer);
            // Undone by key: nobody will ever know how the action ended, and nobody has to.
            if row.action == Progress::Running {
                (row.action, row.refused) = (Progress::None, true);
            }
        } else {
            row.action = verdict.progress();
            row.action_answer = Some(answer);
        }
        row
    }

    /// The ticket once a recovery point is reached. It has a stamp of its own: a renewal that was sent before
    /// and arrives after must not bring the old point back.
    pub(crate) fn advanced(&self, point: Point) -> Self {
        let row = Row { point: Some(point), stamp: Stamp::random(), ..self.row.clone() };
        Self { row, ..self.clone() }
    }

    /// The row once this ticket was given back without anything having run; `None` if nothing is left of it.
    pub(crate) fn given_back(&self) -> Option<Row> {
        let mut row = self.row.clone();
        match self.direction {
            Direction::Compensation if !row.doubt => {
                row.undo = Progress::None;
                row.undo_print = None;
                Some(row)
            }
            // What ran before this ticket is still in doubt: the row stays as it was.
            _ if row.doubt => Some(row),
            _ => None,
        }
    }
}

/// What a store must do about a request.
#[allow(clippy::large_enum_variant, reason = "returned and matched at once")]
#[derive(Clone, Debug)]
pub(crate) enum Decision {
    /// Answer; nothing is written.
    Answer(Claim),
    /// Write, on condition that nothing has changed; then answer.
    Write {
        /// What to write.
        put: Box<Put>,
        /// The answer once it is written.
        then: Box<Claim>,
    },
}

/// A row to write, with its times relative to the store's clock at the moment of writing.
#[derive(Clone, Debug)]
pub struct Put {
    /// The row.
    pub row: Row,
    /// From now to the end of the lease. `None`: no deadline.
    pub lease: Option<Duration>,
    /// From now to its expiry. `None`: never.
    pub keep: Option<Duration>,
    /// Whether the row begins a new life: `created_at` is set.
    pub fresh: bool,
}

/// Decides what a request gets. Pure.
pub(crate) fn decide(stored: Option<&Dated>, request: &ClaimRequest, now: Time) -> Decision {
    let Some(dated) = stored.filter(|dated| !dated.expired(now)) else {
        return first(request);
    };
    let row = &dated.row;
    // Our own earlier attempt at this very claim, whose answer was lost on the way.
    if row.running() && row.stamp == request.stamp {
        return Decision::Answer(Claim::Acquired(ticket(request, row.clone())));
    }
    let print = match request.direction {
        Direction::Action => row.action_print,
        Direction::Compensation => row.undo_print,
        Direction::Settle => None,
    };
    // Before anything else, in flight or not: a wrong request is told so while it can still be mended.
    if let Some(part) = print.and_then(|print| print.difference(&request.fingerprint)) {
        return Decision::Answer(Claim::Mismatch { part });
    }
    match request.direction {
        Direction::Action => action(dated, request, now),
        Direction::Compensation => compensation(dated, request, now),
        Direction::Settle => Decision::Answer(settle(dated, request, now)),
    }
}

fn first(request: &ClaimRequest) -> Decision {
    let mut row = Row {
        action: Progress::None,
        undo: Progress::None,
        refused: false,
        doubt: false,
        stamp: request.stamp,
        fence: 1,
        action_print: None,
        undo_print: None,
        action_answer: None,
        undo_answer: None,
        point: None,
    };
    let ruling = match request.direction {
        Direction::Action => {
            row.action = Progress::Running;
            row.action_print = Some(request.fingerprint);
            row.point = request.point.clone();
            let then = Claim::Acquired(ticket(request, row.clone()));
            return write(row, Some(request.lease), None, true, then);
        }
        Direction::Compensation => {
            row.undo = Progress::Applied;
            row.undo_print = Some(request.fingerprint);
            Ruling::NothingToUndo
        }
        Direction::Settle => Ruling::NeverApplied,
    };
    row.refused = true;
    write(row, None, Some(request.keep), true, Claim::Ruled(ruling))
}

fn action(dated: &Dated, request: &ClaimRequest, now: Time) -> Decision {
    let row = &dated.row;
    if row.refused || row.undo != Progress::None {
        return Decision::Answer(Claim::Ruled(Ruling::TooLate));
    }
    match row.action {
        Progress::Running => held(dated, request, now),
        _ => Decision::Answer(replay(row, Direction::Action)),
    }
}

fn compensation(dated: &Dated, request: &ClaimRequest, now: Time) -> Decision {
    let row = &dated.row;
    match (row.undo, row.action) {
        (Progress::Running, _) => held(dated, request, now),
        (Progress::Applied | Progress::Rejected, _) if row.undo_answer.is_some() => {
            Decision::Answer(replay(row, Direction::Compensation))
        }
        (Progress::Applied | Progress::Rejected, _) | (Progress::None, Progress::None) => {
            Decision::Answer(Claim::Ruled(Ruling::NothingToUndo))
        }
        (Progress::None, Progress::Rejected) => {
            let mut row = row.clone();
            (row.undo, row.undo_print, row.refused) = (Progress::Applied, Some(request.fingerprint), true);
            write(row, None, Some(request.keep), false, Claim::Ruled(Ruling::NothingToUndo))
        }
        (Progress::None, Progress::Applied) => undo(row, request),
        (Progress::None, Progress::Running) => match over(dated, now) {
            None => Decision::Answer(in_flight(dated, request, now)),
            Some(_) if request.undo_by_key => undo(row, request),
            Some(since) => Decision::Answer(Claim::Unknown { since }),
        },
    }
}

fn settle(dated: &Dated, request: &ClaimRequest, now: Time) -> Claim {
    let row = &dated.row;
    if row.running() {
        return match over(dated, now) {
            None => in_flight(dated, request, now),
            Some(since) => Claim::Unknown { since },
        };
    }
    match (row.undo, row.action) {
        (_, Progress::None) => Claim::Ruled(Ruling::NeverApplied),
        (Progress::None, _) | (_, Progress::Rejected) => replay(row, Direction::Action),
        (_, Progress::Applied | Progress::Running) => Claim::Ruled(Ruling::Undone),
    }
}

/// A claim is held by somebody else on the half that is asked for.
fn held(dated: &Dated, request: &ClaimRequest, now: Time) -> Decision {
    match (over(dated, now), request.in_doubt) {
        (None, _) => Decision::Answer(in_flight(dated, request, now)),
        (Some(since), InDoubt::Unknown) => Decision::Answer(Claim::Unknown { since }),
        (Some(_), InDoubt::RunAgain) => {
            let mut row = dated.row.clone();
            (row.stamp, row.fence, row.doubt) = (request.stamp, row.fence + 1, true);
            let then = Claim::Acquired(ticket(request, row.clone()));
            write(row, Some(request.lease), None, false, then)
        }
    }
}

fn undo(row: &Row, request: &ClaimRequest) -> Decision {
    let mut row = row.clone();
    (row.undo, row.undo_print) = (Progress::Running, Some(request.fingerprint));
    (row.stamp, row.fence, row.doubt) = (request.stamp, row.fence + 1, false);
    let then = Claim::Acquired(ticket(request, row.clone()));
    write(row, Some(request.lease), None, false, then)
}

fn ticket(request: &ClaimRequest, row: Row) -> Ticket {
    Ticket { id: request.id, direction: request.direction, row, lease: request.lease, transaction: None }
}

fn write(row: Row, lease: Option<Duration>, keep: Option<Duration>, fresh: bool, then: Claim) -> Decision {
    Decision::Write { put: Box::new(Put { row, lease, keep, fresh }), then: Box::new(then) }
}

/// How long ago the lease ended; `None` while it lasts, and if there is no deadline at all.
fn over(dated: &Dated, now: Time) -> Option<Duration> {
    dated.lease_until.filter(|until| *until <= now).map(|until| now.since(until))
}

fn in_flight(dated: &Dated, request: &ClaimRequest, now: Time) -> Claim {
    let retry_after = dated.lease_until.map_or(request.lease, |until| until.since(now));
    Claim::InFlight { retry_after }
}

fn replay(row: &Row, direction: Direction) -> Claim {
    let (progress, answer) = match direction {
        Direction::Compensation => (row.undo, &row.undo_answer),
        _ => (row.action, &row.action_answer),
    };
    let verdict = if progress == Progress::Rejected { Verdict::Rejected } else { Verdict::Applied };
    Claim::Replay(Kept { direction, verdict, answer: answer.clone().unwrap_or_default() })
}

#[cfg(test)]
#[path = "claim_tests.rs"]
mod tests;
