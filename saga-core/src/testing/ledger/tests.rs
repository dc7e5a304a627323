use super::*;

fn request(run: RunId, direction: &str, attempt: u32) -> Request {
    let (run, attempt) = (run.to_string(), attempt.to_string());
    let headers = [
        ("saga-run", run.as_str()),
        ("saga-step", "charge"),
        ("saga-occurrence", "0"),
        ("saga-direction", direction),
        ("saga-attempt", attempt.as_str()),
    ];
    Request::from_headers(headers).unwrap()
}

fn verdicts(ledger: &Ledger) -> Vec<Verdict> {
    ledger.entries().into_iter().map(|entry| entry.verdict).collect()
}

#[tokio::test]
async fn a_duplicate_gets_the_first_answer() {
    let (ledger, run) = (Ledger::new(), RunId::new());
    assert_eq!(ledger.act(request(run, "action", 1), 1).await.unwrap(), 1);
    assert_eq!(ledger.act(request(run, "action", 2), 2).await.unwrap(), 1);
    assert_eq!(ledger.act(request(RunId::new(), "action", 1), 3).await.unwrap(), 3);
    assert_eq!(verdicts(&ledger), [Verdict::Applied, Verdict::Repeated, Verdict::Applied]);
}

#[tokio::test]
async fn a_compensation_before_its_action_is_kept_and_the_late_action_refused() {
    let (ledger, run) = (Ledger::new(), RunId::new());
    ledger.undo(request(run, "compensation", 1)).await.unwrap();
    assert!(ledger.act(request(run, "action", 1), ()).await.is_err());
    ledger.undo(request(run, "compensation", 2)).await.unwrap();
    assert_eq!(verdicts(&ledger), [Verdict::Empty, Verdict::Refused, Verdict::Empty]);
}

#[tokio::test]
async fn an_effect_is_undone_once_and_not_done_again() {
    let (ledger, run) = (Ledger::new(), RunId::new());
    ledger.act(request(run, "action", 1), ()).await.unwrap();
    ledger.undo(request(run, "compensation", 1)).await.unwrap();
    ledger.undo(request(run, "compensation", 2)).await.unwrap();
    assert!(ledger.act(request(run, "action", 2), ()).await.is_err());
    assert_eq!(ledger.effects(), ["charge", "undo charge"]);
}

#[tokio::test]
async fn what_was_settled_as_not_done_is_refused_for_ever() {
    let (ledger, run) = (Ledger::new(), RunId::new());
    ledger.not_idempotent("charge");
    assert_eq!(ledger.settle::<u8>(request(run, "settle", 1)).await.unwrap(), Probed::NotDone);
    assert!(ledger.act(request(run, "action", 1), 1_u8).await.is_err());
    let other = RunId::new();
    ledger.act(request(other, "action", 1), 7_u8).await.unwrap();
    assert_eq!(ledger.settle::<u8>(request(other, "settle", 1)).await.unwrap(), Probed::Done(7));
    assert_eq!(verdicts(&ledger), [Verdict::Closed, Verdict::Refused, Verdict::Applied, Verdict::Found]);
}

#[tokio::test]
async fn who_knows_no_duplicates_applies_them() {
    let (ledger, run) = (Ledger::new(), RunId::new());
    ledger.not_idempotent("charge");
    ledger.act(request(run, "action", 1), ()).await.unwrap();
    ledger.act(request(run, "action", 2), ()).await.unwrap();
    assert_eq!(ledger.effects(), ["charge", "charge"]);
}

#[tokio::test]
async fn scripts_are_followed_call_by_call_and_then_forgotten() {
    let (ledger, run) = (Ledger::new(), RunId::new());
    let script = [Behaviour::NotApplied, Behaviour::Unknown, Behaviour::LostAnswer];
    ledger.script("charge", Effect::Action, &script);
    for attempt in 1..=3 {
        assert!(ledger.act(request(run, "action", attempt), ()).await.is_err());
    }
    ledger.act(request(run, "action", 4), ()).await.unwrap();
    assert_eq!(verdicts(&ledger), [Verdict::Lost, Verdict::Lost, Verdict::Applied, Verdict::Repeated]);
    assert_eq!(ledger.calls("charge", Effect::Action), 4);

    // Who answers by key says no for ever, and cannot say no to what it has done.
    ledger.script("charge", Effect::Action, &[Behaviour::Reject]);
    ledger.act(request(run, "action", 5), ()).await.unwrap();
    ledger.script("charge", Effect::Action, &[Behaviour::Reject]);
    let other = RunId::new();
    assert!(ledger.act(request(other, "action", 1), ()).await.is_err());
    assert!(ledger.act(request(other, "action", 2), ()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_or_panics_has_had_its_effect() {
    let (ledger, run) = (Ledger::new(), RunId::new());
    ledger.script("charge", Effect::Action, &[Behaviour::Hang, Behaviour::Panic]);
    let patience = std::time::Duration::from_secs(3600);
    assert!(tokio::time::timeout(patience, ledger.act(request(run, "action", 1), ())).await.is_err());
    let (other, late) = (ledger.clone(), request(run, "action", 2));
    assert!(tokio::spawn(async move { other.act(late, ()).await.is_ok() }).await.unwrap_err().is_panic());
    assert_eq!(ledger.effects(), ["charge"]);
}

#[test]
fn headers_that_say_nothing_are_named() {
    let missing = Request::from_headers([("saga-step", "charge")]).unwrap_err();
    assert_eq!(missing, "header saga-run is missing");
}
