//! Bad input gets one clear line that names the place, and nothing is half-done.

use super::{files, order_shop, order_shop_reading};

async fn refused(arguments: &[&str], input: &str, names: &[&str]) {
    let home = tempfile::tempdir().unwrap();
    let run = order_shop_reading(arguments, &home, input).await;
    assert_eq!(run.status, 2, "{arguments:?}: {}{}", run.stdout, run.stderr);
    assert_eq!(run.stderr.trim_end().lines().count(), 1, "one line: {}", run.stderr);
    for name in names {
        assert!(run.stderr.contains(name), "{name} is not named: {}", run.stderr);
    }
    assert_eq!(run.stdout, "", "no result of what did not happen");
    assert!(!files(&home).join("payment.db").exists(), "nothing was begun");
}

#[tokio::test]
async fn broken_orders_are_named_by_line_and_column() {
    let file = |line: &str| format!("order,date,customer,amount\n1,2011-12-09,ann,12.34\n{line}\n");
    for (line, names) in [
        ("2,2011-12-09,ann,-5", &["line 3", "amount", "-5"][..]),
        ("2,2011-12-09,ann,12,34", &["line 3"]),
        ("2,2011-12-09,ann,1.005", &["line 3", "amount", "1.005"]),
        ("2,2011-12-09,ann,1e3", &["line 3", "amount", "1e3"]),
        ("2,2011-12-09,ann,NaN", &["line 3", "amount"]),
        ("2,2011-12-09,ann,", &["line 3", "amount"]),
        ("2,2011-13-09,ann,5", &["line 3", "date"]),
        (",2011-12-09,ann,5", &["line 3", "order"]),
        ("1,2011-12-09,ann,5", &["line 3", "order", "line 2"]),
        ("2,2011-12-09", &["line 3"]),
    ] {
        refused(&["--input", "-"], &file(line), names).await;
    }
    refused(&["--input", "-"], "", &["standard input"]).await;
    refused(&["--input", "-"], "order,date,customer\n1,2011-12-09,ann\n", &["amount"]).await;
    refused(&["--input", "/no/such/file.csv"], "", &["/no/such/file.csv"]).await;
}

#[tokio::test]
async fn servers_that_do_not_answer_are_named() {
    // Port 1 is nobody's.
    refused(&["--store", "postgres://127.0.0.1:1/orders"], "", &["--store", "127.0.0.1:1"]).await;
    refused(&["--idempotency", "redis://127.0.0.1:1"], "", &["--idempotency"]).await;
    refused(&["--kafka", "127.0.0.1:1"], "", &["--kafka", "127.0.0.1:1"]).await;
    refused(&["--store", "mysql://127.0.0.1/orders"], "", &["--store", "postgres://"]).await;
}

#[tokio::test]
async fn a_password_is_not_repeated() {
    let home = tempfile::tempdir().unwrap();
    let run = order_shop(&["--store", "postgres://ann:s3cret@127.0.0.1:1/orders"], &home).await;
    assert_eq!(run.status, 2);
    assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
}
