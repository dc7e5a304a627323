//! Bugs that other libraries have shipped, each as a test that is named for its class. Those that are promises of
//! a store are in the public conformance suite; this list says where. `list.rs` checks that each test exists.
//!
//! | class | test |
//! |---|---|
//! | a live claim taken for an orphan | `http: a_slow_handler_keeps_its_claim`, `testing: a_renewed_lease_lasts` |
//! | a missing deadline treated as free | `testing: a_missing_deadline_is_a_lock` |
//! | what was asked is computed again from what the handler has changed | `keys: work_that_changes_its_input_is_still_the_work_that_was_asked` |
//! | a crash leaves the key stuck for ever | `testing: a_lease_that_ran_out_is_unknown`, `http: a_hook_settles_what_is_in_doubt`, `fused: a_process_that_dies_in_the_middle_frees_its_key_at_once` |
//! | a remaining time of zero taken for none | `testing: an_abandoned_claim_is_in_doubt_at_once` |
//! | seconds compared with milliseconds | `testing: a_second_claim_is_in_flight_for_the_rest_of_the_lease` |
//! | a guard of the lease's end that never fires | `claim: a_lease_ends_at_its_very_microsecond` |
//! | the end of a lease taken for death | `testing: a_lease_that_ran_out_is_unknown`, `http: a_failed_handler_leaves_doubt_and_is_not_run_again` |
//! | takeover while the holder still runs | `testing: taking_over_fences_the_old_holder` |
//! | completion without a check of ownership | `testing: taking_over_fences_the_old_holder` |
//! | get-then-delete races on Redis | `testing: renewals_and_takeovers_never_both_win`, `redis: every_conditional_write_is_one_command` |
//! | an unfenced release, or a renewal that brings back what is over | `testing: taking_over_fences_the_old_holder`, `testing: a_renewal_after_completion_changes_nothing` |
//! | two answers for one key | `http: who_was_taken_over_gives_the_winners_answer_and_not_its_own` |
//! | a claim in flight overwritten | `testing: one_of_many_claims_wins` |
//! | a lost race that surfaces as 503 | `testing: one_of_many_claims_wins` |
//! | 409 where 422 is due | `http: a_duplicate_in_flight_gets_409_with_retry_after_from_the_lease` |
//! | check, then act | `testing: a_duplicate_storm_runs_each_key_once`, `fused: many_duplicates_in_two_processes_take_effect_once` |
//! | an outside call before the claim is durable | `http: a_store_that_is_down_means_503_and_the_handler_is_not_entered` |
//! | concurrent duplicates all reach the handler | `testing: a_duplicate_storm_runs_each_key_once` |
//! | a failed completion that deletes the record | `http: a_lost_answer_of_the_completion_is_asked_again` |
//! | a winner that commits after the loser's snapshot | `postgres: a_winner_that_commits_after_the_losers_snapshot_is_seen` |
//! | validation skipped on the fast path | `testing: another_request_under_the_key_is_a_mismatch_in_every_state` |
//! | kept before it was validated | `http: a_decline_is_kept_and_a_validation_error_is_not` |
//! | the wrong part of the request validated | `http: another_payload_target_or_method_under_the_key_is_a_mismatch` |
//! | the digest lost on completion | `testing: another_request_under_the_key_is_a_mismatch_in_every_state` |
//! | what is finished reported as in flight by a local cache | `http: duplicates_may_wait_for_the_first_answer` |
//! | a streamed body kept empty, or drained | `answers: a_streamed_answer_is_replayed_whole` |
//! | `Set-Cookie` replayed | `http: a_cookie_and_headers_not_on_the_list_are_never_replayed` |
//! | an oversized answer runs again | `http: an_answer_over_the_limit_reaches_the_first_and_leaves_a_tombstone` |
//! | 201 replayed as 200, `Location` lost | `http: a_duplicate_gets_the_first_answer_and_runs_nothing` |
//! | repeated headers collapsed into one | `answers: a_repeated_header_is_replayed_as_often` |
//! | the caller's key is a name in the application's own store | `keys: a_key_is_a_name_in_no_store` |
//! | a body read without a limit | `http: a_body_over_the_limit_is_refused_before_the_handler` |
//! | an upload that breaks off burns the key, or panics | `requests: an_upload_that_breaks_off_burns_no_key` |
//! | the query not part of what is asked | `requests: the_query_is_part_of_what_is_asked` |
//! | two fields that together read as two others | `keys: parts_that_together_read_alike_are_told_apart` |
//! | failures cached | `http: a_failed_handler_leaves_doubt_and_is_not_run_again`, `fused: what_fails_leaves_nothing_and_frees_the_key` |
//! | JSON's member order a mismatch | `http: canonical_json_compares_what_is_said` |
//! | the route's template taken for the target | `requests: nested_routers_do_not_share_keys` |
//! | nested routers changing the path | `requests: nested_routers_do_not_share_keys` |
//! | cross-tenant answers | `keys: tenants_never_see_each_others_answers` |
//! | raw keys in logs | `keys: raw_keys_are_in_no_log_and_no_debug_output` |
//! | a hash seed per process | `secret: two_processes_with_one_secret_agree_and_two_tenants_never_meet` |
//! | huge keys digested | `key: a_huge_key_is_refused_by_its_length_alone` |
//! | the header's quotes part of the key | `http: a_bare_token_and_a_quoted_string_are_one_key` |
//! | the key freed on disconnect | `http: a_client_that_goes_away_frees_no_key_and_stops_no_handler` |
//! | expiry during execution | `testing: sweeping_never_takes_a_running_row`, `claim: a_running_row_never_expires` |
//! | a sweeper that deletes what runs | `testing: sweeping_never_takes_a_running_row` |
//! | the inbox's row and the business rows in two transactions | `fused: a_caller_may_bring_a_transaction_of_its_own` |
//! | the record deleted when its handler fails | `once: what_fails_is_in_doubt_unless_it_says_that_nothing_happened` |
//! | a kept outcome that blocks a retry after compensation | `testing: a_compensation_after_its_action_runs_once` |
//! | a key that only the library knows | `clients: one_key_for_all_attempts` |
//! | a new key per retry | `client: a_key_that_is_there_stays`, `clients: one_key_for_all_attempts` |
//! | kept for a shorter time than clients retry | `answers: an_answer_outlives_a_day_of_retries` |
//!
//! Classes of message brokers (deduplication without the partition, the same offset twice, a duplicate that stops a
//! partition) are the inbox's, in the crate `outbox`.

mod answers;
mod clients;
mod keys;
mod list;
mod postgres;
mod redis;
mod requests;

#[path = "../server/mod.rs"]
mod server;

use axum::body::Body;
use axum::http::{Request, Response};
use http_body_util::BodyExt;
use idempotency::{IdempotencyLayer, MemoryStore, Scope, Secret};

fn layer(store: &MemoryStore) -> IdempotencyLayer {
    IdempotencyLayer::leased(store.clone(), Secret::new([5; 32]))
        .scope(|request| Some(Scope::of([request.headers.get("x-tenant")?.to_str().ok()?])))
}

fn request(tenant: &str, path: &str, key: &str) -> Request<Body> {
    let request =
        Request::post(path).header("x-tenant", tenant).header("idempotency-key", format!("\"{key}\""));
    request.body(Body::empty()).unwrap()
}

async fn text(response: Response<impl http_body::Body<Error: std::fmt::Debug>>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}
