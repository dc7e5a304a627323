//! The storm of `idempotency/examples/storm.rs`, in a smaller size: on every store, with the workers killed, and
//! with Redis killed beside them.

use tests::servers::postgres;

#[path = "../../idempotency/examples/storm/mod.rs"]
mod program;

use program::{Guarantee, Launch, Plan, Report};

/// Storms a store with this test's own program, and judges.
async fn stormed(guarantee: Guarantee, store: &str) -> Report {
    let thread = std::thread::current();
    let test = thread.name().expect("the harness runs each test in a thread that has its name");
    let launch = Launch::this_program(&[test, "--exact", "--nocapture", "--test-threads=1"]);
    let seed = rand::Rng::random(&mut tests::seeded());
    let plan = Plan { guarantee, store: store.to_owned(), duplicates: 2_500, seed };
    let report = program::run(&plan, &launch).await.unwrap();
    eprintln!("{report}");
    report.judge().unwrap();
    assert!(report.killed > 0, "nobody was killed");
    report
}

macro_rules! storms {
    ($($name:ident: $body:expr;)+) => {
        $(
            #[tokio::test]
            async fn $name() {
                match program::script() {
                    Some(script) => program::work(&script).await.unwrap(),
                    None => $body.await,
                }
            }
        )+
    };
}

storms! {
    fused_on_postgres_takes_effect_exactly_once: async {
        let database = postgres::fresh_database().await;
        stormed(Guarantee::Fused, database.url()).await;
    };
    leased_on_postgres_takes_effect_at_most_once: async {
        let database = postgres::fresh_database().await;
        stormed(Guarantee::Leased, database.url()).await;
    };
    fused_on_sqlite_takes_effect_exactly_once: async {
        let file = tempfile::tempdir().unwrap();
        stormed(Guarantee::Fused, &format!("sqlite:{}", file.path().join("shop.db").display())).await;
    };
    leased_on_sqlite_takes_effect_at_most_once: async {
        let file = tempfile::tempdir().unwrap();
        stormed(Guarantee::Leased, &format!("sqlite:{}", file.path().join("keys.db").display())).await;
    };
    leased_on_a_redis_that_keeps_its_log_takes_effect_at_most_once: async {
        let report = stormed(Guarantee::Leased, "redis:always").await;
        assert_eq!(report.forgotten(), 0, "every acknowledged write was on disk");
    };
    leased_on_a_redis_that_keeps_no_log_repeats_only_what_was_forgotten: async {
        let report = stormed(Guarantee::Leased, "redis:no").await;
        assert!(!report.deaths.is_empty() && report.forgotten() > 0, "the storm finds what is lost");
    };
}
