//! `run_once` for any work, and the barrier over messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use idempotency::barrier::Call;
use idempotency::once::{Failed, Once, OnceError, Ran, Stepped};
use idempotency::{Direction, InDoubt, Key, MemoryStore, Ruling, Scope, Seal, Secret};

type Never = Failed<std::convert::Infallible>;

fn once(store: &MemoryStore) -> Once {
    Once::new(store.clone(), Secret::new([7; 32]), Scope::of(["tests"]))
}

static KEY: std::sync::LazyLock<Key> = std::sync::LazyLock::new(|| Key::new("k").unwrap());

#[tokio::test]
async fn work_runs_once_and_its_result_is_given_again() {
    let (store, runs) = (MemoryStore::new(), Arc::new(AtomicU32::new(0)));
    for sealed in [false, true] {
        let once = if sealed {
            once(&MemoryStore::new()).sealed(Seal::new(&Secret::new([7; 32])))
        } else {
            once(&store)
        };
        runs.store(0, Ordering::SeqCst);
        for expected in [Ran::First(1), Ran::Replayed(1), Ran::Replayed(1)] {
            let runs = runs.clone();
            let ran = once.run(&KEY, "count", &5, move |_| async move {
                Ok::<_, Never>(runs.fetch_add(1, Ordering::SeqCst) + 1)
            });
            assert_eq!(ran.await.unwrap(), expected);
        }
        let other = once.run(&KEY, "count", &6, |_| async { Ok::<u32, Never>(0) }).await;
        assert!(matches!(other, Err(OnceError::Mismatch { .. })));
    }
}

#[tokio::test]
async fn what_fails_is_in_doubt_unless_it_says_that_nothing_happened() {
    let store = MemoryStore::new();
    let run = |once: Once, failed: fn() -> Failed<&'static str>| async move {
        once.run(&KEY, "fail", &(), move |_| async move { Err::<u32, _>(failed()) }).await
    };
    let not_applied = run(once(&store), || Failed::NotApplied("refused")).await;
    assert!(matches!(not_applied, Err(OnceError::NotApplied("refused"))));
    // A bare `?` is not definite.
    let failed = run(once(&store), || "lost".into()).await;
    assert!(matches!(failed, Err(OnceError::Failed("lost"))));
    assert!(matches!(run(once(&store), || Failed::NotApplied("")).await, Err(OnceError::Unknown)));
    let again = once(&store).in_doubt(InDoubt::RunAgain);
    let ran = again.run(&KEY, "fail", &(), |cx| async move {
        assert!(cx.in_doubt());
        Ok::<_, Never>(7)
    });
    assert_eq!(ran.await.unwrap(), Ran::First(7));
}

#[tokio::test]
async fn a_panic_leaves_doubt_and_a_dropped_future_stops_nothing() {
    let store = MemoryStore::new();
    let own = once(&store);
    let panicked = own.run(&KEY, "panic", &(), |_| async {
        if true {
            panic!("the work's own fault");
        }
        Ok::<u32, Never>(0)
    });
    assert!(matches!(panicked.await, Err(OnceError::Panicked)));
    let after = once(&store).run(&KEY, "panic", &(), |_| async { Ok::<u32, Never>(0) }).await;
    assert!(matches!(after, Err(OnceError::Unknown)));

    let (entered, open) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let slow = Key::new("slow").unwrap();
    let call = tokio::spawn({
        let (once, slow, entered, open) = (once(&store), slow.clone(), entered.clone(), open.clone());
        async move {
            once.run(&slow, "slow", &(), |_| async move {
                entered.notify_one();
                open.notified().await;
                Ok::<_, Never>(9)
            })
            .await
        }
    });
    entered.notified().await;
    call.abort();
    let running = once(&store).run(&slow, "slow", &(), |_| async { Ok::<u32, Never>(0) }).await;
    assert!(matches!(running, Err(OnceError::InFlight { .. })));
    open.notify_one();
    loop {
        match once(&store).run(&slow, "slow", &(), |_| async { Ok::<u32, Never>(0) }).await {
            Ok(ran) => break assert_eq!(ran, Ran::Replayed(9)),
            Err(OnceError::InFlight { .. }) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

fn call(direction: Direction) -> Call {
    Call { run: uuid::Uuid::from_u128(7), step: "charge".into(), occurrence: 0, direction, attempt: 1 }
}

#[tokio::test]
async fn the_barrier_works_over_messages() {
    let once = once(&MemoryStore::new());
    let (forward, back, settle) =
        (call(Direction::Action), call(Direction::Compensation), call(Direction::Settle));
    let action = once.run_step(&forward, &5, |_| async { Ok::<_, Never>("charge-1".to_owned()) });
    assert_eq!(action.await.unwrap(), Stepped::Ran(Ran::First("charge-1".to_owned())));
    for expected in [Ran::First("refund-1".to_owned()), Ran::Replayed("refund-1".to_owned())] {
        let undo = once.run_step(&back, &5, |cx| async move {
            assert_eq!(cx.action_result::<String>().as_deref(), Some("charge-1"));
            Ok::<_, Never>("refund-1".to_owned())
        });
        assert_eq!(undo.await.unwrap(), Stepped::Ran(expected));
    }
    let late = once.run_step(&forward, &5, |_| async { Ok::<u32, Never>(0) }).await;
    assert_eq!(late.unwrap(), Stepped::Ruled(Ruling::TooLate));
    let settled = once.run_step(&settle, &(), |_| async { Ok::<u32, Never>(0) }).await;
    assert_eq!(settled.unwrap(), Stepped::Ruled(Ruling::Undone));
}
