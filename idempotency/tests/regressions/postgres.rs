//! What Postgres' snapshots hide.

use idempotency::{Claim, ClaimRequest, Fingerprint, PostgresStore, Secret, Store, sqlx, testing};

use crate::server::Postgres;

/// `ON CONFLICT DO NOTHING` with a read in the same statement sees neither row when the winner commits after its
/// snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn a_winner_that_commits_after_the_losers_snapshot_is_seen() {
    let server = Postgres::start();
    let store = PostgresStore::connect(server.url()).await.unwrap();
    let print = Fingerprint::new(&Secret::new([5; 32]), b"POST", b"/charges", b"");
    let request = ClaimRequest::new(testing::key_id("late"), print);
    let mut winner = store.pool().begin().await.unwrap();
    let insert = "INSERT INTO idempotency.keys (id, action, undo, refused, doubt, running, stamp, fence, \
                  action_print, action_answer, created_at, expires_at) \
                  VALUES ($1, 2, 0, false, false, false, $2, 1, $3, 'won', now(), now() + interval '1 hour')";
    let insert =
        sqlx::query(insert).bind(request.id.0.to_vec()).bind(vec![7_u8; 16]).bind(print.as_bytes().to_vec());
    insert.execute(&mut *winner).await.unwrap();
    let loser = tokio::spawn({
        let (store, request) = (store.clone(), request.clone());
        async move { store.claim(&request).await.unwrap() }
    });
    // The loser has its snapshot, and waits on the index for the winner's row.
    let waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)";
    while !sqlx::query_scalar::<_, bool>(waiting).fetch_one(store.pool()).await.unwrap() {
        tokio::task::yield_now().await;
    }
    winner.commit().await.unwrap();
    let Claim::Replay(kept) = loser.await.unwrap() else { panic!("the winner's answer is there") };
    assert_eq!(&kept.answer[..], b"won");
}
