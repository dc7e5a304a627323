//! What the fused guarantee promises, whatever the database.

macro_rules! fused {
    ($name:ident, $db:ty, $store:ty, $open:block) => {
        mod $name {
            use std::any::Any;
            use std::sync::Arc;
            use std::time::Duration;

            use axum::Router;
            use axum::http::{HeaderMap, StatusCode};
            use axum::response::{IntoResponse, Response};
            use axum::routing::post;
            use idempotency::fused::{Fused, Tx};
            use idempotency::{IdempotencyLayer, PostgresStore, Scope, Secret, SqliteStore, Store, sqlx};
            use tokio::sync::Notify;

            use crate::client::{Got, charge, send, step};

            /// A shop with a table of its own, as two processes would run it.
            struct Shop {
                one: Router,
                two: Router,
                store: $store,
                layer: IdempotencyLayer<Fused<$store>>,
                entered: Arc<Notify>,
                open: Arc<Notify>,
                _server: Arc<dyn Any + Send + Sync>,
            }

            async fn shop() -> Shop {
                let (one, two, server): ($store, $store, Arc<dyn Any + Send + Sync>) = $open;
                for table in [
                    "CREATE TABLE charges (note TEXT NOT NULL)",
                    "CREATE TABLE parents (id INTEGER PRIMARY KEY)",
                    "CREATE TABLE children (parent INTEGER REFERENCES parents DEFERRABLE INITIALLY DEFERRED)",
                ] {
                    sqlx::query(table).execute(one.pool()).await.unwrap();
                }
                let (entered, open) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
                let layer = |store: &$store| {
                    IdempotencyLayer::fused(store.clone(), Secret::new([4; 32]))
                        .scope(|_| Some(Scope::of(["shop"])))
                        .required()
                        .barrier()
                };
                let first = layer(&one);
                let app = |layer: IdempotencyLayer<Fused<$store>>| {
                    let (entered, open) = (entered.clone(), open.clone());
                    let handler = move |tx: Tx<$db>, headers: HeaderMap, body: String| async move {
                        handle(tx, headers, body, entered, open).await
                    };
                    Router::new().route("/charges", post(handler)).layer(layer)
                };
                Shop {
                    one: app(first.clone()),
                    two: app(layer(&two)),
                    store: one,
                    layer: first,
                    entered,
                    open,
                    _server: server,
                }
            }

            async fn handle(
                mut tx: Tx<$db>,
                headers: HeaderMap,
                body: String,
                entered: Arc<Notify>,
                open: Arc<Notify>,
            ) -> Response {
                let note = sqlx::query("INSERT INTO charges (note) VALUES ($1)").bind(body.clone());
                note.execute(&mut *tx).await.unwrap();
                match headers["x-do"].to_str().unwrap() {
                    "charge" => (StatusCode::CREATED, body).into_response(),
                    "decline" => (StatusCode::PAYMENT_REQUIRED, "declined").into_response(),
                    "refuse" => (StatusCode::BAD_REQUEST, "refused").into_response(),
                    "fail" => (StatusCode::INTERNAL_SERVER_ERROR, "failed").into_response(),
                    "panic" => panic!("the handler's own fault"),
                    "keep the guard" => {
                        // It comes back, but only when its handler is long gone.
                        tokio::spawn(async move {
                            open.notified().await;
                            drop(tx);
                        });
                        (StatusCode::CREATED, body).into_response()
                    }
                    "commit by hand" => {
                        sqlx::raw_sql("COMMIT").execute(&mut *tx).await.unwrap();
                        (StatusCode::CREATED, body).into_response()
                    }
                    "commit by hand and begin" => {
                        sqlx::raw_sql("COMMIT; BEGIN").execute(&mut *tx).await.unwrap();
                        (StatusCode::CREATED, body).into_response()
                    }
                    "commit by hand, fail and decline" => {
                        sqlx::raw_sql("COMMIT; BEGIN").execute(&mut *tx).await.unwrap();
                        sqlx::raw_sql("SELECT FROM nowhere").execute(&mut *tx).await.unwrap_err();
                        (StatusCode::PAYMENT_REQUIRED, "declined").into_response()
                    }
                    "commit by hand and decline" => {
                        sqlx::raw_sql("COMMIT; BEGIN").execute(&mut *tx).await.unwrap();
                        (StatusCode::PAYMENT_REQUIRED, "declined").into_response()
                    }
                    "nest" => {
                        use sqlx::Connection;
                        let mut inner = tx.begin().await.unwrap();
                        let note = sqlx::query("INSERT INTO charges (note) VALUES ('undone')");
                        note.execute(&mut *inner).await.unwrap();
                        inner.rollback().await.unwrap();
                        let mut inner = tx.begin().await.unwrap();
                        let note = sqlx::query("INSERT INTO charges (note) VALUES ('nested')");
                        note.execute(&mut *inner).await.unwrap();
                        inner.commit().await.unwrap();
                        (StatusCode::CREATED, body).into_response()
                    }
                    "break a promise" => {
                        sqlx::query("INSERT INTO children VALUES (7)").execute(&mut *tx).await.unwrap();
                        (StatusCode::CREATED, body).into_response()
                    }
                    "wait" => {
                        entered.notify_one();
                        open.notified().await;
                        (StatusCode::CREATED, body).into_response()
                    }
                    other => panic!("no such deed: {other}"),
                }
            }

            impl Shop {
                async fn notes(&self) -> Vec<String> {
                    sqlx::query_scalar("SELECT note FROM charges ORDER BY note")
                        .fetch_all(self.store.pool())
                        .await
                        .unwrap()
                }
            }

            fn got(status: u16, word: &str, replayed: bool, body: &str) -> Got {
                Got { status, word: word.into(), replayed, body: body.into() }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn key_rows_and_answer_become_true_together() {
                let shop = shop().await;
                assert_eq!(send(&shop.one, charge("k", "charge"), "5").await, got(201, "kept", false, "5"));
                for app in [&shop.one, &shop.two] {
                    assert_eq!(send(app, charge("k", "charge"), "5").await, got(201, "kept", true, "5"));
                }
                let other = send(&shop.two, charge("k", "charge"), "6").await;
                assert_eq!((other.status, other.word.as_str()), (422, "mismatch"));
                assert_eq!(shop.notes().await, ["5"]);
                let counts = shop.store.count().await.unwrap();
                assert_eq!((counts.applied, counts.running, counts.in_doubt), (1, 0, 0));
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_kept_refusal_rolls_back_the_rows_and_keeps_the_answer() {
                let shop = shop().await;
                assert_eq!(
                    send(&shop.one, charge("k", "decline"), "5").await,
                    got(402, "kept", false, "declined")
                );
                assert_eq!(
                    send(&shop.two, charge("k", "decline"), "5").await,
                    got(402, "kept", true, "declined")
                );
                assert!(shop.notes().await.is_empty());
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn what_fails_leaves_nothing_and_frees_the_key() {
                let shop = shop().await;
                for (what, status) in
                    [("refuse", 400), ("fail", 500), ("panic", 500), ("break a promise", 500)]
                {
                    for app in [&shop.one, &shop.two] {
                        // The second time too: the same key, the same request, and it was never used.
                        let failed = send(app, charge(what, what), "5").await;
                        assert_eq!((failed.status, failed.word.as_str()), (status, "not-applied"), "{what}");
                        assert!(!failed.replayed && shop.notes().await.is_empty(), "{what}");
                    }
                    assert_eq!(shop.store.count().await.unwrap(), idempotency::Counts::default(), "{what}");
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_guard_that_outlives_its_handler_commits_nothing() {
                let shop = shop().await;
                let failed = send(&shop.one, charge("k", "keep the guard"), "5").await;
                assert_eq!((failed.status, failed.word.as_str()), (500, "not-applied"));
                shop.open.notify_one();
                // The guard's connection goes back to the pool, rolled back; then the key is free.
                assert!(shop.notes().await.is_empty());
                let again = send(&shop.one, charge("k", "keep the guard"), "5").await;
                assert_eq!((again.status, again.replayed), (500, false));
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_handler_that_commits_by_hand_is_found_out() {
                let shop = shop().await;
                let ways = [
                    "commit by hand",
                    "commit by hand and begin",
                    "commit by hand and decline",
                    "commit by hand, fail and decline",
                ];
                for what in ways {
                    let first = send(&shop.one, charge(what, what), "5").await;
                    assert_eq!((first.status, first.word.as_str()), (500, "unknown"), "{what}");
                    let again = send(&shop.two, charge(what, what), "5").await;
                    assert_eq!((again.status, again.word.as_str()), (409, "unknown"), "{what}");
                }
                assert_eq!(shop.store.count().await.unwrap().in_doubt, 4);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn nested_transactions_are_the_handlers_own() {
                let shop = shop().await;
                assert_eq!(send(&shop.one, charge("k", "nest"), "5").await.status, 201);
                assert_eq!(shop.notes().await, ["5", "nested"]);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn many_duplicates_in_two_processes_take_effect_once() {
                let shop = shop().await;
                let callers: Vec<_> = (0..40)
                    .map(|i| {
                        let app = if i % 2 == 0 { shop.one.clone() } else { shop.two.clone() };
                        tokio::spawn(async move { send(&app, charge("k", "charge"), "5").await })
                    })
                    .collect();
                let mut first = 0;
                for caller in callers {
                    let got = caller.await.unwrap();
                    assert_eq!((got.status, got.body.as_str()), (201, "5"));
                    first += usize::from(!got.replayed);
                }
                assert_eq!((first, shop.notes().await.len()), (1, 1));
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_client_that_goes_away_stops_nothing() {
                let shop = shop().await;
                let app = shop.one.clone();
                let client = tokio::spawn(async move { send(&app, charge("k", "wait"), "5").await });
                shop.entered.notified().await;
                client.abort();
                assert!(client.await.unwrap_err().is_cancelled());
                shop.open.notify_one();
                shop.layer.drain().await;
                assert_eq!(send(&shop.two, charge("k", "wait"), "5").await, got(201, "kept", true, "5"));
                assert_eq!(shop.notes().await, ["5"]);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_step_is_undone_once_and_a_late_action_is_refused() {
                let shop = shop().await;
                assert_eq!(send(&shop.one, step("a", "action", "charge"), "5").await.status, 201);
                for replayed in [false, true] {
                    let undone = send(&shop.two, step("a", "compensation", "charge"), "undo 5").await;
                    assert_eq!(undone, got(201, "kept", replayed, "undo 5"));
                }
                assert_eq!(send(&shop.one, step("a", "action", "charge"), "5").await.word, "too-late");
                assert_eq!(send(&shop.one, step("a", "settle", "charge"), "").await.word, "undone");
                assert_eq!(
                    send(&shop.one, step("b", "compensation", "charge"), "undo").await.word,
                    "nothing-to-undo"
                );
                assert_eq!(send(&shop.two, step("b", "action", "charge"), "5").await.word, "too-late");
                assert_eq!(send(&shop.one, step("c", "settle", "charge"), "").await.word, "never-applied");
                assert_eq!(send(&shop.two, step("c", "action", "charge"), "5").await.word, "too-late");
                assert_eq!(shop.notes().await, ["5", "undo 5"]);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn an_undo_that_fails_may_be_repeated() {
                let shop = shop().await;
                send(&shop.one, step("a", "action", "charge"), "5").await;
                for what in ["fail", "panic", "break a promise"] {
                    let failed = send(&shop.one, step("a", "compensation", what), "undo").await;
                    assert_eq!((failed.status, failed.word.as_str()), (500, "not-applied"));
                    let told = send(&shop.two, step("a", "settle", "charge"), "").await;
                    assert_eq!((told.status, told.body.as_str()), (201, "5"), "still applied");
                }
                assert_eq!(send(&shop.one, step("a", "compensation", "charge"), "undo").await.status, 201);
                assert_eq!(shop.notes().await, ["5", "undo"]);
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_caller_may_bring_a_transaction_of_its_own() {
                use idempotency::fused::FusedStore;
                use idempotency::{Claim, ClaimRequest, Fingerprint, Verdict, testing};
                let shop = shop().await;
                let request = || {
                    let print = Fingerprint::new(&Secret::new([4; 32]), b"message", b"orders", b"7");
                    ClaimRequest::new(testing::key_id("message-7"), print)
                };
                for round in 0..3 {
                    let mut tx = shop.store.begin().await.unwrap();
                    match shop.store.claim_in(&mut tx, &request(), Duration::from_secs(1)).await.unwrap() {
                        Claim::Acquired(ticket) => {
                            assert!(round < 2);
                            let note = sqlx::query("INSERT INTO charges (note) VALUES ('7')");
                            note.execute(&mut *tx).await.unwrap();
                            if round == 0 {
                                tx.rollback().await.unwrap();
                                continue;
                            }
                            let answer = bytes::Bytes::from_static(b"done");
                            let keep = Duration::from_secs(60);
                            shop.store
                                .complete_in(&mut tx, &ticket, Verdict::Applied, answer, keep)
                                .await
                                .unwrap();
                            tx.commit().await.unwrap();
                        }
                        Claim::Replay(kept) => {
                            assert_eq!((round, &kept.answer[..]), (2, &b"done"[..]));
                            tx.rollback().await.unwrap();
                        }
                        other => panic!("{other:?}"),
                    }
                }
                assert_eq!(shop.notes().await, ["7"]);
                // Both are named here, so that neither database's copy of this suite has an unused import.
                let _ = (std::any::type_name::<PostgresStore>(), std::any::type_name::<SqliteStore>());
            }
        }
    };
}

pub(crate) use fused;
