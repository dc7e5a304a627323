//! The wire contract, against its golden vectors.

use std::collections::BTreeMap;

use idempotency::Direction;
use idempotency::barrier::{Call, CallError};
use idempotency::client::{Reading, read};
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../wire/headers.json")).unwrap()
}

fn headers(value: &Value) -> BTreeMap<String, String> {
    let headers = value.as_object().unwrap().iter();
    headers.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect()
}

fn parse(headers: &BTreeMap<String, String>) -> Result<Option<Call>, CallError> {
    Call::read(|name| headers.get(name).map(String::as_bytes))
}

#[test]
fn good_headers_are_read_and_written_byte_for_byte() {
    for vector in vectors()["good"].as_array().unwrap() {
        let headers = headers(&vector["headers"]);
        let call = &vector["call"];
        let number = |name: &str| u32::try_from(call[name].as_u64().unwrap()).unwrap();
        let expected = Call {
            run: call["run"].as_str().unwrap().parse().unwrap(),
            step: call["step"].as_str().unwrap().to_owned(),
            occurrence: number("occurrence"),
            direction: match call["direction"].as_str().unwrap() {
                "action" => Direction::Action,
                "compensation" => Direction::Compensation,
                "settle" => Direction::Settle,
                other => panic!("{other}"),
            },
            attempt: number("attempt"),
        };
        assert_eq!(parse(&headers), Ok(Some(expected.clone())));
        let written: BTreeMap<_, _> =
            expected.headers().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(written, headers);
    }
}

#[test]
fn bad_headers_are_refused_by_name() {
    let vectors = vectors();
    for vector in vectors["bad"].as_array().unwrap() {
        let mut headers = headers(&vectors["base"]);
        assert!(parse(&headers).unwrap().is_some());
        let name = vector["header"].as_str().unwrap();
        match vector["value"].as_str() {
            Some(value) => headers.insert(name.to_owned(), value.to_owned()),
            None => headers.remove(name),
        };
        let error = parse(&headers).expect_err(&vector.to_string());
        assert!(error.to_string().contains(name), "{error} for {vector}");
    }
}

#[test]
fn answers_are_read_as_the_contract_says() {
    for vector in vectors()["answers"].as_array().unwrap() {
        let mut headers = http::HeaderMap::new();
        if let Some(word) = vector["idempotency-status"].as_str() {
            headers.insert("idempotency-status", word.parse().unwrap());
        }
        let status = http::StatusCode::from_u16(vector["status"].as_u64().unwrap() as u16).unwrap();
        let word = match read(status, &headers) {
            Reading::Applied => "applied",
            Reading::Rejected => "rejected",
            Reading::NotApplied => "not-applied",
            Reading::Unknown => "unknown",
            Reading::Mismatch => "mismatch",
        };
        assert_eq!(word, vector["reading"].as_str().unwrap(), "{vector}");
    }
}
