//! The list in `main.rs` names tests that exist.

use std::path::Path;

#[test]
fn every_class_names_a_test_that_exists() {
    let mut sources = String::new();
    for dir in ["src", "tests"] {
        read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir), &mut sources);
    }
    let rows: Vec<&str> =
        include_str!("main.rs").lines().filter(|line| line.starts_with("//! | ")).skip(1).collect();
    assert!(rows.len() > 40, "the list is read");
    for row in rows {
        let named: Vec<&str> = row.split('`').filter_map(|word| Some(word.split_once(": ")?.1)).collect();
        assert!(!named.is_empty(), "no test: {row}");
        for name in named {
            assert!(sources.contains(&format!("fn {name}(")), "{name} does not exist: {row}");
        }
    }
}

fn read(path: &Path, into: &mut String) {
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}
