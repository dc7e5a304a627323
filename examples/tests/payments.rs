//! The payments as their user starts them.

use std::path::Path;
use std::process::{Command, Output};

fn payments(home: &Path, arguments: &[&str]) -> Output {
    let mut payments = Command::new(env!("CARGO_BIN_EXE_payments"));
    payments.args(arguments).env("TMPDIR", home).output().expect("runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The number that follows a word.
fn number(said: &str, word: &str) -> u64 {
    let rest = said.split(word).nth(1).unwrap_or_else(|| panic!("no {word}: {said}"));
    rest.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn the_ledger_shows_one_charge_each() {
    let home = tempfile::tempdir().expect("a directory");
    let output = payments(home.path(), &["--payments", "60", "--lose", "30", "--seed", "7"]);
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("One charge each."), "{said}");
    assert_eq!((number(&said, "payments "), number(&said, "charges ")), (60, 60));
    assert!(number(&said, "requests lost ") > 0 && number(&said, "answers lost ") > 0, "{said}");
    assert!(
        number(&said, "requests seen ") > 60,
        "some were repeated after they had been carried out: {said}"
    );
    assert_eq!(std::fs::read_dir(home.path()).expect("reads").count(), 0, "it leaves nothing");
}

/// What shows that the comparison can fail, and what the layer is for.
#[test]
fn without_the_layer_lost_answers_are_charged_again_and_found() {
    let home = tempfile::tempdir().expect("a directory");
    let output = payments(home.path(), &["--payments", "60", "--lose", "30", "--seed", "7", "--unprotected"]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("Shop and ledger differ in ") && said.contains(": charged "), "{said}");
}

#[test]
fn a_ledger_belongs_to_one_run() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("ledger.db");
    let run = || {
        payments(home.path(), &["--payments", "3", "--lose", "0", "--ledger", file.to_str().expect("text")])
    };
    let first = run();
    assert!(first.status.success() && file.exists(), "{}", said(&first));
    let second = run();
    assert_eq!(second.status.code(), Some(2));
    assert!(said(&second).starts_with("error: --ledger "), "{}", said(&second));
}
