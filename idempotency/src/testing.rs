//! The conformance suite: what every [`Store`](crate::Store) promises, as a test that any store can be put to.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! use std::sync::Arc;
//! use idempotency::{MemoryStore, Store, testing};
//!
//! let store = MemoryStore::new();
//! testing::conformance(|| {
//!     let store: Arc<dyn Store> = Arc::new(store.clone());
//!     async { store }
//! })
//! .await;
//! # }
//! ```
//!
//! The suite never compares clocks and never sleeps for a fixed time: where a lease must end, it waits until
//! the store says so.

use std::sync::Arc;
use std::time::Duration;

use crate::{
    Answer, Claim, ClaimRequest, Direction, Fingerprint, InDoubt, Key, KeyId, Scope, Secret, Store, Ticket,
};

mod barrier;
mod leases;
mod life;
mod races;

/// Puts a store to the suite. The factory is called more than once: every handle it gives must lead to the
/// same rows, as two processes' would. Rows already there are left alone.
///
/// # Panics
/// When the store breaks a promise; the message begins with the promise's name.
pub async fn conformance<F, O>(factory: F)
where
    F: Fn() -> O,
    O: Future<Output = Arc<dyn Store>>,
{
    let bench = Bench { one: factory().await, two: factory().await };
    macro_rules! check {
        ($($module:ident :: $case:ident),+ $(,)?) => {
            $( Box::pin(named(stringify!($case), $module::$case(&bench))).await; )+
        };
    }
    check!(
        life::a_first_claim_is_acquired_and_its_answer_replayed,
        life::a_rejection_is_replayed_as_one,
        life::another_request_under_the_key_is_a_mismatch_in_every_state,
        life::a_released_key_is_as_good_as_new,
        life::a_kept_answer_expires_and_the_key_is_new,
        life::an_answer_of_a_megabyte_is_kept_byte_for_byte,
        life::counting_sees_every_state,
        life::sweeping_never_takes_a_running_row,
        life::expiring_by_hand_spares_what_runs,
        life::a_recovery_point_is_kept_and_found,
        life::what_was_tried_least_often_is_found_first,
        leases::a_second_claim_is_in_flight_for_the_rest_of_the_lease,
        leases::a_renewed_lease_lasts,
        leases::a_lease_that_ran_out_is_unknown,
        leases::an_abandoned_claim_is_in_doubt_at_once,
        leases::taking_over_fences_the_old_holder,
        leases::doubt_survives_a_release_of_the_one_who_took_over,
        leases::a_missing_deadline_is_a_lock,
        leases::a_lost_answer_of_a_claim_can_be_asked_again,
        leases::a_lost_answer_of_a_completion_can_be_asked_again,
        leases::a_renewal_after_completion_changes_nothing,
        leases::resolving_takes_only_what_is_in_doubt,
        barrier::a_compensation_after_its_action_runs_once,
        barrier::a_compensation_before_its_action_refuses_it,
        barrier::a_compensation_meets_a_live_claim,
        barrier::a_compensation_meets_an_action_in_doubt,
        barrier::a_compensation_of_a_rejected_action_has_nothing_to_undo,
        barrier::a_released_compensation_leaves_the_action,
        barrier::a_settlement_refuses_for_ever,
        barrier::a_settlement_tells_how_it_ended,
        races::one_of_many_claims_wins,
        races::one_of_many_takeovers_wins,
        races::renewals_and_takeovers_never_both_win,
        races::a_duplicate_storm_runs_each_key_once,
    );
}

/// Two handles to one store, as two processes would have them.
pub(crate) struct Bench {
    one: Arc<dyn Store>,
    two: Arc<dyn Store>,
}

async fn named(case: &'static str, test: impl Future<Output = ()>) {
    use futures::FutureExt;
    // The case's own panic has printed what went wrong; this names the promise that it breaks.
    if std::panic::AssertUnwindSafe(test).catch_unwind().await.is_err() {
        panic!("the store breaks a promise: {case}");
    }
}

pub(crate) const KEEP: Duration = Duration::from_secs(3600);
/// Short enough to wait for.
pub(crate) const SHORT: Duration = Duration::from_millis(40);
/// Long enough never to end during the suite.
pub(crate) const LONG: Duration = Duration::from_secs(600);

pub(crate) fn fresh_id() -> KeyId {
    KeyId(rand::random())
}

pub(crate) fn print(body: &str) -> Fingerprint {
    Fingerprint::new(&Secret::new([3; 32]), b"POST", b"/charges", body.as_bytes())
}

/// A claim of an action with a long lease and no takeover.
pub(crate) fn request(id: KeyId) -> ClaimRequest {
    ClaimRequest { lease: LONG, keep: KEEP, ..ClaimRequest::new(id, print("{}")) }
}

pub(crate) fn compensation(id: KeyId) -> ClaimRequest {
    ClaimRequest { direction: Direction::Compensation, fingerprint: print("undo"), ..request(id) }
}

pub(crate) fn settlement(id: KeyId) -> ClaimRequest {
    ClaimRequest { direction: Direction::Settle, ..request(id) }
}

pub(crate) fn again(request: ClaimRequest) -> ClaimRequest {
    ClaimRequest { in_doubt: InDoubt::RunAgain, ..request }
}

pub(crate) fn answer(body: &str) -> bytes::Bytes {
    Answer::new(201, body.to_owned()).encode()
}

pub(crate) async fn acquire(store: &Arc<dyn Store>, request: &ClaimRequest) -> Ticket {
    match store.claim(request).await.expect("the store answers") {
        Claim::Acquired(ticket) => ticket,
        other => panic!("expected to acquire, got {other:?}"),
    }
}

/// Acquires with a short lease and waits until the store itself says that it is over.
pub(crate) async fn acquire_and_let_run_out(store: &Arc<dyn Store>, request: &ClaimRequest) -> Ticket {
    let ticket = acquire(store, &ClaimRequest { lease: SHORT, ..request.clone() }).await;
    until_in_doubt(store, ticket.id()).await;
    ticket
}

pub(crate) async fn until_in_doubt(store: &Arc<dyn Store>, id: &KeyId) {
    while !store.inspect(id).await.expect("the store answers").is_some_and(|entry| entry.in_doubt()) {
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// A key's id as a layer would make it: for suites that want a readable key.
pub fn key_id(key: &str) -> KeyId {
    Secret::new([3; 32]).key_id(&Scope::global(), &Key::new(key).expect("a valid key"))
}
