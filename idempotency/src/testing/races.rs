//! Many at once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::join_all;

use super::*;
use crate::claim::Verdict;
use crate::store::Held;

const CONTENDERS: usize = 16;

/// One request from each of many contenders, on both handles, side by side.
async fn contend(bench: &Bench, claim: impl Fn() -> ClaimRequest) -> Vec<Claim> {
    let tasks = (0..CONTENDERS).map(|i| {
        let store = if i % 2 == 0 { bench.one.clone() } else { bench.two.clone() };
        let request = claim();
        tokio::spawn(async move { store.claim(&request).await.expect("the store answers") })
    });
    join_all(tasks).await.into_iter().map(|claim| claim.expect("a claim does not panic")).collect()
}

pub(super) async fn one_of_many_claims_wins(bench: &Bench) {
    for _ in 0..20 {
        let id = fresh_id();
        let claims = contend(bench, || request(id)).await;
        let won = claims.iter().filter(|claim| matches!(claim, Claim::Acquired(_))).count();
        let in_flight = claims.iter().filter(|claim| matches!(claim, Claim::InFlight { .. })).count();
        assert_eq!((won, in_flight), (1, CONTENDERS - 1), "{claims:?}");
    }
}

pub(super) async fn one_of_many_takeovers_wins(bench: &Bench) {
    for _ in 0..10 {
        let id = fresh_id();
        let old = acquire(&bench.one, &request(id)).await;
        assert_eq!(bench.one.abandon(&old).await.unwrap(), Held::Yes);
        let claims = contend(bench, || again(request(id))).await;
        let won = claims.iter().filter(|claim| matches!(claim, Claim::Acquired(_))).count();
        let in_flight = claims.iter().filter(|claim| matches!(claim, Claim::InFlight { .. })).count();
        assert_eq!((won, in_flight), (1, CONTENDERS - 1), "{claims:?}");
    }
}

pub(super) async fn renewals_and_takeovers_never_both_win(bench: &Bench) {
    for _ in 0..20 {
        let id = fresh_id();
        let old = acquire(&bench.one, &request(id)).await;
        assert_eq!(bench.one.abandon(&old).await.unwrap(), Held::Yes);
        let take = again(request(id));
        let (renewed, taken) = tokio::join!(bench.one.renew(&old), bench.two.claim(&take));
        match (renewed.unwrap(), taken.unwrap()) {
            (Held::Yes, Claim::InFlight { .. }) | (Held::Lost, Claim::Acquired(_)) => {}
            both => panic!("two holders, or none: {both:?}"),
        }
    }
}

/// Duplicates race with their original, whose holder sometimes gives up without an answer. An effect is
/// counted whenever a ticket is acquired without doubt.
pub(super) async fn a_duplicate_storm_runs_each_key_once(bench: &Bench) {
    let effects: Arc<Mutex<std::collections::HashMap<KeyId, u32>>> = Arc::default();
    let replays = Arc::new(AtomicU64::new(0));
    let keys: Vec<KeyId> = (0..8).map(|_| fresh_id()).collect();
    let tasks = (0..CONTENDERS * 8).map(|i| {
        let store = if i % 2 == 0 { bench.one.clone() } else { bench.two.clone() };
        let (effects, replays, id) = (effects.clone(), replays.clone(), keys[i % keys.len()]);
        tokio::spawn(async move {
            match store.claim(&request(id)).await.expect("the store answers") {
                Claim::Acquired(ticket) => {
                    *effects.lock().unwrap().entry(id).or_default() += 1;
                    let body = id.to_hex();
                    let held = if i % 3 == 0 {
                        store.abandon(&ticket).await
                    } else {
                        store.complete(&ticket, Verdict::Applied, answer(&body), KEEP).await
                    };
                    assert_eq!(held.expect("the store answers"), Held::Yes);
                }
                Claim::Replay(kept) => {
                    assert_eq!(kept.answer, answer(&id.to_hex()), "every replay is the first answer");
                    replays.fetch_add(1, Ordering::Relaxed);
                }
                Claim::InFlight { .. } | Claim::Unknown { .. } => {}
                claim => panic!("unexpected {claim:?}"),
            }
        })
    });
    for task in join_all(tasks).await {
        task.expect("a duplicate does not panic");
    }
    let effects = effects.lock().unwrap();
    assert_eq!(effects.len(), keys.len());
    assert!(effects.values().all(|count| *count == 1), "{effects:?}");
}
