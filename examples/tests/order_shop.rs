//! The order shop as its user starts it, on the embedded defaults.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use examples::order_shop::faults::Faults;
use examples::order_shop::orders::Orders;
use serde_json::Value;

/// A shop whose files, temporary ones too, stay below `home`.
fn shop(home: &Path, arguments: &[&str]) -> Command {
    let mut shop = Command::new(env!("CARGO_BIN_EXE_order-shop"));
    shop.args(arguments).env("TMPDIR", home).stdin(Stdio::null());
    shop
}

fn report(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

#[test]
fn faults_hit_exactly_the_orders_that_the_seed_names() {
    let home = tempfile::tempdir().expect("a directory");
    let faults = ["--reject", "20%", "--undeliverable", "10%", "--lost-answers", "10%"];
    let run = ["--first", "300", "--kill", "3", "--workers", "2", "--seed", "7", "--json"];
    let output = shop(home.path(), &[&faults[..], &run[..]].concat()).output().expect("runs");
    let report = report(&output);
    assert!(output.status.success(), "{report:#}");

    let rate = |text: &str| text.parse().expect("a rate");
    let faults =
        Faults { seed: 7, reject: rate("20%"), undeliverable: rate("10%"), lost_answers: rate("10%") };
    let orders = Orders::read(None).expect("are sound").list;
    let orders = &orders[..300];
    let cents = |wanted: &dyn Fn(&str) -> bool| -> u64 {
        orders.iter().filter(|order| wanted(&order.id)).map(|order| order.amount.cents()).sum()
    };
    let bounced = |id: &str| !faults.rejects(id) && faults.undeliverable(id);
    let compensated = orders.iter().filter(|order| faults.rejects(&order.id) || bounced(&order.id)).count();
    assert_eq!(report["compensated"], compensated);
    assert_eq!(report["completed"], 300 - compensated);
    assert_eq!(report["charged_cents"], cents(&|id| !faults.rejects(id)));
    assert_eq!(report["refunded_cents"], cents(&bounced));
    assert_eq!((&report["kills"], &report["agrees"]), (&Value::from(3), &Value::from(true)));
    assert!(report["answers_lost"].as_u64() > Some(0));
    assert_eq!(std::fs::read_dir(home.path()).expect("reads").count(), 0, "a run that agrees leaves nothing");
}

#[test]
fn orders_come_from_standard_input_and_a_directory_belongs_to_one_run() {
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("a run? 100%");
    let dir = dir.to_str().expect("is text");
    let run = || {
        let mut shop = shop(home.path(), &["--input", "-", "--json", "--dir", dir]);
        let mut shop =
            shop.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        let orders = "order,date,customer,amount\na/1,2011-12-09,ann,12.34\nß,2011-12-09,ann,0\n";
        shop.stdin.take().expect("is piped").write_all(orders.as_bytes()).expect("is read");
        shop.wait_with_output().expect("ends")
    };
    let first = run();
    let report = report(&first);
    assert_eq!((&report["completed"], &report["charged_cents"]), (&Value::from(2), &Value::from(1234)));
    assert!(
        first.status.success() && Path::new(dir).join("payment.db").exists(),
        "a named directory is kept"
    );
    let second = run();
    assert_eq!(second.status.code(), Some(2));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.starts_with("error: --dir ") && said.contains("belongs to one run"), "{said}");
}

#[test]
fn ctrl_c_takes_no_more_orders_and_leaves_none_half_done() {
    let home = tempfile::tempdir().expect("a directory");
    let mut shop = shop(home.path(), &["--json"]);
    let mut shop = shop.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    // The second line is the first progress.
    let mut said = BufReader::new(shop.stderr.take().expect("is piped")).lines();
    let _ = (said.next().expect("opens").expect("is text"), said.next().expect("goes on").expect("is text"));
    let interrupted =
        Command::new("kill").args(["-INT", &shop.id().to_string()]).status().expect("kill is there");
    assert!(interrupted.success());
    let rest: Vec<String> = said.map_while(Result::ok).collect();
    let mut stdout = String::new();
    shop.stdout.take().expect("is piped").read_to_string(&mut stdout).expect("is text");
    assert_eq!(shop.wait().expect("ends").code(), Some(130), "{rest:?}");
    let report: Value = serde_json::from_str(&stdout).expect("is JSON");
    assert_eq!(report["agrees"], true, "{report:#}");
    let number = |name: &str| report[name].as_u64().expect("a number");
    assert!(number("orders_not_taken") > 0 && number("orders") > 0);
    assert_eq!(number("orders") + number("orders_not_taken"), 18_532);
    assert_eq!(number("completed"), number("orders"), "what was taken has ended");
}
