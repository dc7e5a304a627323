//! What commands print.

use saga_core::StepError;
use saga_core::journal::EndKind;
use saga_core::store::State;

use crate::shop::{Bank, Shop, saga};

const COMPLETED: State = State::Ended(EndKind::Completed);

fn no_refund() -> Bank {
    let rejected = |what: &str| vec![StepError::rejected(what)];
    Bank::default()
        .fails("capture", rejected("card expired"))
        .fails("refund", rejected("account 4711 is closed"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completed_saga_is_drawn_listed_and_told() {
    let shop = Shop::open(Bank::default()).await;
    shop.order("order-1", &["a", "b"], COMPLETED).await;
    let show = shop.saga(&["show", "place-order/order-1"]).await;
    assert_eq!(
        show.steady(),
        "\
place-order/order-1  version 1
completed for <age>
run <id>, started <date> <time>
owned by nobody, <n> commits

✔ input
├─ ✔ greet  done  never undone: a greeting harms nobody
│  └─ ✔ charge  done
│     └─ ✔ capture (pivot)  done
│        └─ ✔ ship  done
└─ ✔ reserve (for each of 2)
     ✔ reserve#0  done
     ✔ reserve#1  done
"
    );
    let list = shop.saga(&["list"]).await;
    assert_eq!(
        list.out.split_whitespace().take(8).collect::<Vec<_>>(),
        ["STATE", "SAGA", "VERSION", "FOR", "RUN", "completed", "place-order/order-1", "1"]
    );
    let journal = shop.saga(&["journal", "place-order/order-1"]).await;
    assert!(journal.steady().starts_with("<date> <time>     0  place-order version 1 began as order-1\n"));
    assert!(journal.out.ends_with("completed\n"), "{}", journal.out);
    let exported = shop.saga(&["journal", "place-order/order-1", "--json"]).await;
    let lines: Vec<serde_json::Value> =
        exported.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(lines.iter().enumerate().all(|(n, line)| line["number"].as_u64() == Some(n as u64)), "{lines:?}");
    let wait = shop.saga(&["wait", "place-order/order-1"]).await;
    assert_eq!((wait.exit, wait.out.as_str()), (0, "completed: \"did ship\"\n"));
    assert_eq!(
        shop.saga(&["counts"]).await.steady(),
        "DEFINITION   STATE      SAGAS\nplace-order  completed  1\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_saga_says_where_why_and_what_can_be_done() {
    let shop = Shop::open(no_refund()).await;
    shop.order("order-1", &["a"], State::Blocked).await;
    let show = shop.saga(&["show", "place-order/order-1"]).await;
    assert_eq!(
        show.steady(),
        "\
place-order/order-1  version 1
blocked for <age>
  at charge: the compensation was rejected: account 4711 is closed
  because capture: card expired
run <id>, started <date> <time>
owned by nobody, <n> commits

✔ input
├─ ✔ greet  done  never undone: a greeting harms nobody
│  └─ ■ charge  BLOCKED: the compensation was rejected: account 4711 is closed  [retry, resolve, skip]
│     └─ ✘ capture (pivot)  refused: card expired
│        └─ · ship
└─ ↺ reserve (for each of 1)
     ↺ reserve#0  undone
"
    );
    let blocked = shop.saga(&["blocked", "--all"]).await;
    assert_eq!(
        blocked.steady().split_once("  ").unwrap().1,
        "\
1 saga at place-order/charge for up to <age>
            the compensation was rejected: account 4711 is closed
            place-order/order-1 at charge for <age>
"
    );
    assert!(!shop.saga(&["show", "place-order/order-1"]).await.out.contains("did charge"), "no payloads");
    assert!(shop.saga(&["show", "place-order/order-1", "--payloads"]).await.out.contains("did charge"));
    let view = shop.saga(&["show", "place-order/order-1", "--json"]).await.json();
    assert_eq!(view["blocked"]["cause"], "compensation_rejected");
    let doctor = shop.saga(&["doctor"]).await;
    assert_eq!(doctor.exit, 1);
    assert!(doctor.out.contains("ILL  blocked: 1 sagas need a person"), "{}", doctor.out);
    assert!(doctor.out.contains("ok   workers: 1 serve"), "{}", doctor.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_store_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = Some("sqlite:new.db");
    let missing = saga(dir.path(), store, &["list"]).await;
    assert_eq!((missing.exit, missing.out.as_str()), (4, ""));
    assert_eq!(missing.err, "saga: there is no file new.db; is --store right? `saga migrate` creates it\n");
    assert!(!dir.path().join("new.db").exists(), "a mistyped path creates nothing");
    assert_eq!(saga(dir.path(), store, &["migrate"]).await.out, "the store's tables are up to date\n");
    for (command, said) in [
        (&["list"][..], "no such sagas\n"),
        (&["workers"], "no worker is alive: nothing is driven until one starts\n"),
        (&["definitions"], "no worker has registered a definition yet\n"),
        (&["counts"], "no sagas\n"),
        (&["blocked"], "nothing needs a person\n"),
    ] {
        let answer = saga(dir.path(), store, command).await;
        assert_eq!((answer.exit, answer.out.as_str()), (0, said), "{command:?}");
    }
    for command in ["list", "workers", "definitions", "counts", "blocked", "doctor"] {
        let answer = saga(dir.path(), store, &[command, "--json"]).await;
        answer.json();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_in_one_line_with_its_exit_code() {
    let shop = Shop::open(Bank::default()).await;
    let manifests = shop.manifests();
    let broken = shop.dir.path().join("broken.json");
    std::fs::write(&broken, "{}").unwrap();
    for (arguments, exit, said) in [
        (&["show", "place-order/nobody"][..], 3, r#"there is no saga "nobody" of definition place-order"#),
        (&["show", "0192f0c1-7d2e-7000-8000-0123456789ab"], 3, "there is no run 0192f0c1"),
        (&["start", "no-such", "x", "1"], 3, "no worker has registered a definition no-such"),
        (&["start", "place-order", "x", "{"], 2, "what was given is no JSON"),
        (&["start", "place-order", "x", "@nowhere.json"], 2, "@nowhere.json cannot be read"),
        (&["cancel", "place-order/nobody"], 3, "there is no saga"),
        (&["blocked", "retry", "0000000000", "--why", "x"], 3, "no blocked saga is in group 0000000000"),
        (&["check", "nowhere.json"], 2, "nowhere.json cannot be read"),
        (&["check", broken.to_str().unwrap()], 2, "holds no manifests"),
    ] {
        let answer = shop.saga(arguments).await;
        assert_eq!(answer.exit, exit, "{arguments:?}: {answer:?}");
        assert!(answer.err.starts_with("saga: ") && answer.err.contains(said), "{arguments:?}: {answer:?}");
        assert_eq!(answer.err.lines().count(), 1, "{}", answer.err);
    }
    for arguments in
        [&["show"][..], &["show", "not/"], &["show", "order-1"], &["list", "--state", "odd"], &["explode"]]
    {
        let exit = shop.saga(arguments).await.exit;
        assert!(exit == 2 || exit == 3, "{arguments:?}: {exit}");
    }
    let json = shop.saga(&["show", "place-order/nobody", "--json"]).await;
    let error: serde_json::Value = serde_json::from_str(&json.err).unwrap();
    assert_eq!(error["exit"], 3);
    let nowhere = saga(shop.dir.path(), None, &["list"]).await;
    assert_eq!((nowhere.exit, nowhere.err.contains("which store?")), (2, true));
    let unknown = saga(shop.dir.path(), Some("mysql://ann:s3cret@db/x"), &["list"]).await;
    assert_eq!(unknown.exit, 4);
    assert!(!unknown.err.contains("s3cret"), "{}", unknown.err);
    assert_eq!(shop.saga(&["check", &manifests]).await.exit, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_is_checked_against_what_is_in_flight() {
    let shop = Shop::open(no_refund()).await;
    shop.order("order-1", &[], State::Blocked).await;
    let manifests = shop.manifests();
    let fine = shop.saga(&["check", &manifests]).await;
    assert_eq!(
        (fine.exit, fine.out.as_str()),
        (0, "ok  place-order version 1: 1 in flight, can be driven\n")
    );
    std::fs::write(&manifests, "[]").unwrap();
    let missing = shop.saga(&["check", &manifests]).await;
    assert_eq!(missing.exit, 1);
    assert!(
        missing.out.starts_with("NO  place-order version 1: 1 in flight would wait for code\n"),
        "{}",
        missing.out
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn help_teaches_and_lists_the_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let help = saga(dir.path(), None, &["--help"]).await;
    assert_eq!(help.exit, 0);
    for part in ["saga doctor", "Exit codes:", "definitions", "SAGA_STORE"] {
        assert!(help.out.contains(part), "{part}: {}", help.out);
    }
    let help = saga(dir.path(), Some("postgres://ann:s3cret@db/x"), &["list", "--help"]).await;
    assert!(!help.out.contains("s3cret"), "{}", help.out);
}
