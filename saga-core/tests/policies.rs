//! Limits, deadlines, heartbeats: what a definition may ask of the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use saga_core::client::Already;
use saga_core::engine::Running;
use saga_core::journal::EndKind;
use saga_core::step::Limits;
use saga_core::store::{MemoryStore, Query, State};
use saga_core::{Clock, Cx, Definition, Ended, Priority, Retry, Settings, StepError, Worker, step};

async fn worker<Out>(definition: &Definition<(), u32, Out>) -> Running {
    let worker = Worker::new(Arc::new(MemoryStore::new()), ()).register(definition).unwrap();
    worker.start().await.unwrap()
}

#[tokio::test]
async fn a_step_never_runs_more_often_at_once_than_its_limit() {
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = most.clone();
    let (mut b, n) = Definition::build::<(), u32>("limited", 1);
    let work = step("work", move |_: Cx<()>, n: u32| {
        let (running, most) = (running.clone(), most.clone());
        async move {
            most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
            tokio::task::yield_now().await;
            running.fetch_sub(1, SeqCst);
            Ok::<_, StepError>(n)
        }
    });
    let done = b.add(work.no_compensation("it only counts").concurrency(3), n);
    let definition = b.finish(done).unwrap();
    let worker = worker(&definition).await;
    let client = worker.client();
    let sagas = (0..100).map(|n| {
        let (client, definition) = (client.clone(), &definition);
        async move { client.start(definition, &n.to_string(), &n).await.unwrap().wait().await.unwrap() }
    });
    let ends = futures::future::join_all(sagas).await;
    assert_eq!(ends.into_iter().filter(|end| matches!(end, Ended::Completed(_))).count(), 100);
    assert_eq!(seen.load(SeqCst), 3, "the limit is reached and never passed");
    worker.drain().await;
}

#[tokio::test]
async fn a_saga_whose_deadline_passes_undoes_itself() {
    let (mut b, n) = Definition::build::<(), u32>("late", 1);
    b.deadline(Duration::from_millis(50));
    let undone = Arc::new(AtomicUsize::new(0));
    let undos = undone.clone();
    let first = step("first", async |_: Cx<()>, n: u32| Ok::<_, StepError>(n)).compensate(move |_, _, _| {
        undos.fetch_add(1, SeqCst);
        async { Ok(()) }
    });
    let first = b.add(first, n);
    let never = step("never", async |_: Cx<()>, _: u32| Err::<u32, _>(StepError::not_applied("down")));
    let never =
        never.no_compensation("it never happens").retry(Retry::forever().base(Duration::from_millis(5)));
    let never = b.add(never, first);
    let definition = b.finish(never).unwrap();
    let worker = worker(&definition).await;
    let end = worker.client().start(&definition, "1", &1).await.unwrap().wait().await.unwrap();
    let Ended::Compensated(cause) = end else { panic!("{end:?}") };
    assert_eq!(cause.message(), "the saga's deadline passed");
    assert_eq!(undone.load(SeqCst), 1);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_moves_the_timeout_on_and_silence_is_unknown() {
    let calls = Arc::new(AtomicUsize::new(0));
    let called = calls.clone();
    let (mut b, n) = Definition::build::<(), u32>("slow", 1);
    let work = step("work", move |cx: Cx<()>, n: u32| {
        let first = called.fetch_add(1, SeqCst) == 0;
        async move {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(if first { 1500 } else { 900 })).await;
                cx.heartbeat();
            }
            Ok::<_, StepError>(n)
        }
    });
    let work = work.no_compensation("it only waits").attempt_timeout(Duration::from_secs(1));
    let done = b.add(work, n);
    let definition = b.finish(done).unwrap();
    let clock = Clock::virtual_time();
    let store = Arc::new(MemoryStore::with_clock(clock.clone()));
    let worker = Worker::new(store, ()).clock(clock).register(&definition).unwrap().start().await.unwrap();
    let end = worker.client().start(&definition, "1", &1).await.unwrap().wait().await.unwrap();
    assert_eq!(end, Ended::Completed(1));
    assert_eq!(calls.load(SeqCst), 2, "the first attempt was silent too long, the second was not");
    worker.drain().await;
}

#[tokio::test]
async fn what_is_too_large_to_keep_is_refused_at_the_door_and_blocks_behind_it() {
    let (mut b, n) = Definition::build::<(), u32>("large", 1);
    let large = step("large", async |_: Cx<()>, n: u32| Ok::<_, StepError>("x".repeat(n as usize)));
    let large = b.add(large.no_compensation("it only answers"), n);
    let definition = b.finish(large).unwrap();
    let store = Arc::new(MemoryStore::new());
    let worker = Worker::new(store.clone(), ()).register(&definition).unwrap().start().await.unwrap();
    let client = worker.client();
    let small = client.start(&definition, "small", &10).await.unwrap();
    assert_eq!(small.wait().await.unwrap(), Ended::Completed("x".repeat(10)));

    let large = client.start(&definition, "large", &(2 << 20)).await.unwrap();
    let blocked = async || store.summary(large.run()).await.unwrap().unwrap().state == State::Blocked;
    while !blocked().await {
        tokio::task::yield_now().await;
    }

    let (mut b, text) = Definition::build::<(), String>("echo", 1);
    let echo = step("echo", async |_: Cx<()>, text: String| Ok::<_, StepError>(text));
    let echo = b.add(echo.no_compensation("it only answers"), text);
    let echo = b.finish(echo).unwrap();
    let refused = client.start(&echo, "1", &"x".repeat(2 << 20)).await.unwrap_err();
    assert!(refused.to_string().contains("2097154 bytes"), "{refused}");
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_retry_comes_due_while_a_sibling_is_still_under_way() {
    let calls = Arc::new(AtomicUsize::new(0));
    let called = calls.clone();
    let (mut b, n) = Definition::build::<(), u32>("siblings", 1);
    let flaky = step("flaky", move |_: Cx<()>, n: u32| {
        let call = called.fetch_add(1, SeqCst);
        async move { if call < 2 { Err(StepError::not_applied("down")) } else { Ok(n) } }
    });
    let flaky = b.add(flaky.no_compensation("it only answers"), n);
    let seen = calls.clone();
    let slow = step("slow", move |_: Cx<()>, _: u32| {
        let seen = seen.clone();
        async move {
            tokio::time::sleep(Duration::from_secs(30)).await;
            Ok::<_, StepError>(u32::try_from(seen.load(SeqCst)).expect("few"))
        }
    });
    let slow = b.add(slow.no_compensation("it only waits"), n);
    let calls_seen = b.derive("calls", |(_, calls): &(u32, u32)| *calls, (flaky, slow));
    let definition = b.finish(calls_seen).unwrap();
    let clock = Clock::virtual_time();
    let store = Arc::new(MemoryStore::with_clock(clock.clone()));
    let worker = Worker::new(store, ()).clock(clock).register(&definition).unwrap().start().await.unwrap();
    let end = worker.client().start(&definition, "1", &1).await.unwrap().wait().await.unwrap();
    assert_eq!(end, Ended::Completed(3), "all three calls came before the slow sibling ended");
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_journal_is_forgotten_in_time_and_its_start_is_not() {
    let calls = Arc::new(AtomicUsize::new(0));
    let called = calls.clone();
    let (mut b, n) = Definition::build::<(), u32>("short", 1);
    let count = step("count", move |_: Cx<()>, n: u32| {
        called.fetch_add(1, SeqCst);
        async move { Ok::<_, StepError>(n) }
    });
    let counted = b.add(count.no_compensation("it only counts"), n);
    let definition = b.finish(counted).unwrap();
    let clock = Clock::virtual_time();
    let store = Arc::new(MemoryStore::with_clock(clock.clone()));
    let day = Duration::from_secs(24 * 3600);
    let settings = Settings { retention: Some(day), ..Settings::default() };
    let worker = Worker::new(store.clone(), ()).clock(clock).settings(settings);
    let worker = worker.register(&definition).unwrap().start().await.unwrap();
    let client = worker.client();
    let saga = client.start(&definition, "1", &1).await.unwrap();
    assert_eq!(saga.wait().await.unwrap(), Ended::Completed(1));
    tokio::time::sleep(day / 2).await;
    assert!(!store.journal(saga.run()).await.unwrap().is_empty());
    tokio::time::sleep(day).await;
    assert!(store.journal(saga.run()).await.unwrap().is_empty());

    let late = client.start(&definition, "1", &1).await.unwrap();
    assert_eq!(late.run(), saga.run());
    assert_eq!(saga.already(), None);
    assert_eq!(late.already(), Some(Already { end: Some(EndKind::Completed) }));
    let expired = late.wait().await.unwrap_err().to_string();
    assert!(expired.contains("ended completed long ago"), "{expired}");
    assert_eq!(calls.load(SeqCst), 1, "a late start runs nothing twice");
    worker.drain().await;
}

/// A definition whose action tells how many of all such actions run at once.
fn busy(name: &str, running: &Arc<AtomicUsize>, most: &Arc<AtomicUsize>) -> Definition<(), u32, u32> {
    let (running, most) = (running.clone(), most.clone());
    let (mut b, n) = Definition::build::<(), u32>(name, 1);
    let work = step("work", move |_: Cx<()>, n: u32| {
        let (running, most) = (running.clone(), most.clone());
        async move {
            most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
            tokio::time::sleep(Duration::from_millis(10)).await;
            running.fetch_sub(1, SeqCst);
            Ok::<_, StepError>(n)
        }
    });
    let worked = b.add(work.no_compensation("it only waits"), n);
    b.finish(worked).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_workers_limit_holds_for_all_its_definitions_together() {
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (one, other) = (busy("one", &running, &most), busy("other", &running, &most));
    let limits = Limits { concurrency: Some(3), ..Limits::default() };
    let clock = Clock::virtual_time();
    let store = Arc::new(MemoryStore::with_clock(clock.clone()));
    let worker = Worker::new(store, ()).clock(clock).settings(Settings { limits, ..Settings::default() });
    let worker = worker.register(&one).unwrap().register(&other).unwrap().start().await.unwrap();
    let client = worker.client();
    let mut sagas = Vec::new();
    for n in 0..20_u32 {
        let definition = if n % 2 == 0 { &one } else { &other };
        sagas.push(client.start(definition, &n.to_string(), &n).await.unwrap());
    }
    for saga in sagas {
        assert_eq!(saga.wait().await.unwrap().kind(), EndKind::Completed);
    }
    assert_eq!(most.load(SeqCst), 3);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_is_urgent_is_served_first_at_a_limit() {
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = order.clone();
    let (mut b, n) = Definition::build::<(), u32>("queueing", 1);
    let work = step("work", move |cx: Cx<()>, n: u32| {
        seen.lock().unwrap().push((n, cx.priority()));
        async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, StepError>(n)
        }
    });
    let worked = b.add(work.concurrency(1).no_compensation("it only waits"), n);
    let definition = b.finish(worked).unwrap();
    let clock = Clock::virtual_time();
    let store = Arc::new(MemoryStore::with_clock(clock.clone()));
    let worker = Worker::new(store, ()).clock(clock).register(&definition).unwrap().start().await.unwrap();
    let client = worker.client();
    let mut sagas = Vec::new();
    use Priority::{High, Low, Normal};
    for (n, priority) in (0..).zip([Normal, Low, Normal, High, Low, High, Normal]) {
        let start = client.start(&definition, &n.to_string(), &n).priority(priority);
        sagas.push(start.await.unwrap());
        // Those that cannot run yet are in the queue, in this order.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for saga in sagas {
        saga.wait().await.unwrap();
    }
    let served = order.lock().unwrap().clone();
    let wanted = [(0, Normal), (3, High), (5, High), (2, Normal), (6, Normal), (1, Low), (4, Low)];
    assert_eq!(served, wanted);
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn sagas_that_wait_leave_memory() {
    let (mut b, n) = Definition::build::<(), u32>("patient", 1);
    let day = Duration::from_secs(24 * 3600);
    let failing = step("work", async |cx: Cx<()>, n: u32| match cx.attempt() {
        1 => Err(StepError::not_applied("come back tomorrow").retry_after(Duration::from_secs(24 * 3600))),
        _ => Ok(n),
    });
    let worked = b.add(failing.retry(Retry::forever().most(day)).no_compensation("nothing was done"), n);
    let definition = b.finish(worked).unwrap();
    let clock = Clock::virtual_time();
    let store = Arc::new(MemoryStore::with_clock(clock.clone()));
    let worker = Worker::new(store.clone(), ()).clock(clock).register(&definition).unwrap();
    let worker = worker.start().await.unwrap();
    let client = worker.client();
    let mut sagas = Vec::new();
    for n in 0..50 {
        sagas.push(client.start(&definition, &n.to_string(), &n).await.unwrap());
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(worker.live(), 0, "nobody drives what waits");
    for saga in &sagas {
        let status = saga.status().await.unwrap();
        assert_eq!((status.state, status.owner), (State::Waiting, None));
    }
    for saga in sagas {
        assert_eq!(saga.wait().await.unwrap().kind(), EndKind::Completed);
    }
    worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_steps_time_cuts_an_attempt_short_and_settling_ends_with_a_person() {
    let (mut b, n) = Definition::build::<(), u32>("brief", 1);
    let hang = step("hang", async |_: Cx<()>, _: u32| std::future::pending::<Result<u32, StepError>>().await);
    let minute = Duration::from_secs(60);
    let hang = hang.attempt_timeout(minute).timeout(minute * 3 / 2).settle_within(minute * 10);
    let hung = b.add(hang.no_compensation("it never comes back"), n);
    let definition = b.finish(hung).unwrap();
    let clock = Clock::virtual_time();
    let store = Arc::new(MemoryStore::with_clock(clock.clone()));
    let began = tokio::time::Instant::now();
    let worker = Worker::new(store.clone(), ()).clock(clock).register(&definition).unwrap();
    let worker = worker.start().await.unwrap();
    let saga = worker.client().start(&definition, "1", &1).await.unwrap();
    while saga.status().await.unwrap().state != State::Blocked {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // A minute, then what is left of a minute and a half; then ten minutes of settling, and one attempt more.
    let minutes = began.elapsed().as_secs() / 60;
    assert!((10..=13).contains(&minutes), "{minutes} minutes of virtual time");
    let rows = store.journal(saga.run()).await.unwrap();
    let cut = rows.iter().any(|row| row.body.contains("no outcome and no heartbeat within 29.9s"));
    assert!(cut, "the second attempt had what was left of the step's time");
    worker.drain().await;
}
