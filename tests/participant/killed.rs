//! The process ends between any two things it does; no effect happens twice, and nobody is told what is not known.

use tests::servers::{postgres, redis};

use super::{Town, plays_participant};

#[tokio::test]
async fn whoever_asks_again_is_told_the_truth_on_postgres() {
    if plays_participant().await {
        return;
    }
    let database = postgres::fresh_database().await;
    whoever_asks_again_is_told_the_truth(database.url()).await;
}

#[tokio::test]
async fn whoever_asks_again_is_told_the_truth_on_redis() {
    if plays_participant().await {
        return;
    }
    whoever_asks_again_is_told_the_truth(&redis::fresh_keyspace().await.url).await;
}

async fn whoever_asks_again_is_told_the_truth(store: &str) {
    for (stop, ledger) in [("before", &["hangs"][..]), ("after", &["charged", "hangs"])] {
        let town = Town::new(store);
        let key = format!("{stop}-{}", uuid::Uuid::new_v4());
        let first = town.open().await;
        let (lost, ()) = tokio::join!(first.charge(&key, Some(stop)), async {
            town.until_happened("hangs").await;
            // The client waits, the handler hangs; then the process is gone.
            first.process.freeze();
            let second = town.open().await;
            let meanwhile = second.charge(&key, None).await.unwrap();
            assert!(meanwhile.is(409, "in-flight") || meanwhile.is(409, "unknown"), "{meanwhile:?}");
            first.process.end();
            let after = second.settled(&key).await;
            assert!(
                after.is(409, "unknown"),
                "killed {stop} its effect: nobody knows, and nobody guesses: {after:?}"
            );
        });
        assert_eq!(lost, None, "the first client never hears");
        assert_eq!(town.happened(), ledger, "nothing was run a second time");
    }
}

#[tokio::test]
async fn what_was_answered_is_replayed_by_the_next_process() {
    if plays_participant().await {
        return;
    }
    let database = postgres::fresh_database().await;
    let town = Town::new(database.url());
    let service = town.open().await;
    let first = service.charge("order-1", None).await.unwrap();
    assert!(first.is(201, "kept"), "{first:?}");
    service.process.kill();
    let again = town.open().await.charge("order-1", None).await.unwrap();
    assert_eq!(again, first, "byte for byte");
    assert_eq!(town.happened(), ["charged"]);
}

/// A zombie: its claim was taken over while it was frozen, by a process that may run again what is in doubt.
#[tokio::test]
async fn the_answer_of_a_process_that_wakes_up_too_late_is_not_kept() {
    if plays_participant().await {
        return;
    }
    let database = postgres::fresh_database().await;
    let town = Town { again: true, ..Town::new(database.url()) };
    let zombie = town.open().await;
    let (late, kept) = tokio::join!(zombie.charge("order-1", Some("before")), async {
        town.until_happened("hangs").await;
        zombie.process.freeze();
        let successor = town.open().await;
        let kept = successor.settled("order-1").await;
        assert!(kept.is(201, "kept"), "{kept:?}");
        std::fs::write(town.ledger().with_file_name("thawed"), "").unwrap();
        zombie.process.thaw();
        town.until_charged(2).await;
        kept
    });
    let late = late.expect("the zombie answers its client");
    assert!(late == kept || late.meaning != "kept", "its own answer does not count: {late:?}, but {kept:?}");
    let replay = town.open().await.charge("order-1", None).await.unwrap();
    assert_eq!(replay, kept, "the successor's answer stands");
}

/// What the barrier has refused stays refused, whichever process is asked.
#[tokio::test]
async fn a_compensation_that_overtook_its_action_refuses_it_in_every_process() {
    if plays_participant().await {
        return;
    }
    let database = postgres::fresh_database().await;
    let town = Town::new(database.url());
    let (undone, settled) = (uuid::Uuid::now_v7().to_string(), uuid::Uuid::now_v7().to_string());
    let service = town.open().await;
    let nothing = service.call(&undone, "compensation", None).await.unwrap();
    assert_eq!(nothing.meaning, "nothing-to-undo", "{nothing:?}");
    let never = service.call(&settled, "settle", None).await.unwrap();
    assert_eq!(never.meaning, "never-applied", "{never:?}");
    service.process.kill();

    let service = town.open().await;
    for run in [&undone, &settled] {
        let late = service.call(run, "action", None).await.unwrap();
        assert!(late.is(410, "too-late"), "{late:?}");
    }
    assert_eq!(town.happened(), [""; 0], "nothing took effect");
}

/// An action in doubt is neither undone nor declared undone by a participant that does not know.
#[tokio::test]
async fn a_compensation_meets_an_action_whose_process_died() {
    if plays_participant().await {
        return;
    }
    let database = postgres::fresh_database().await;
    let town = Town::new(database.url());
    let run = uuid::Uuid::now_v7().to_string();
    let first = town.open().await;
    let (lost, ()) = tokio::join!(first.call(&run, "action", Some("after")), async {
        town.until_happened("hangs").await;
        first.process.end();
    });
    assert_eq!(lost, None);
    let second = town.open().await;
    for direction in ["compensation", "settle", "action"] {
        let answer = loop {
            let answer = second.call(&run, direction, None).await.unwrap();
            if answer.meaning != "in-flight" {
                break answer;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        assert!(answer.is(409, "unknown"), "{direction}: {answer:?}");
    }
    assert_eq!(town.happened(), ["charged", "hangs"], "nothing was undone or done again on a guess");
}
