//! What a journal says is read back as it was said.

use std::time::Duration;

use proptest::prelude::*;
use saga_core::journal::{
    self, Answer, Bound, Cause, Effect, End, Failure, MailBody, Outcome, Record, Timestamp, Verb,
};
use saga_core::{MailId, Name, Payload, Place};

fn payload() -> impl Strategy<Value = Payload> {
    let value = prop_oneof![
        any::<i64>().prop_map(serde_json::Value::from),
        any::<String>().prop_map(serde_json::Value::from),
        proptest::collection::vec(any::<Option<String>>(), 0..3)
            .prop_map(|all| serde_json::json!({ "all": all })),
        Just(serde_json::Value::Null),
    ];
    value.prop_map(|value| Payload::encode(&value).unwrap())
}

fn place() -> impl Strategy<Value = Place> {
    let name = "[a-zA-Z0-9._-]{1,20}".prop_map(|name| Name::new(name).unwrap());
    (name, proptest::option::of(0..1000_usize))
        .prop_map(|(name, item)| item.map_or_else(|| Place::of(&name), |item| Place::item(&name, item)))
}

fn failure() -> impl Strategy<Value = Failure> {
    any::<String>().prop_map(Failure::new)
}

fn due() -> impl Strategy<Value = Option<Timestamp>> {
    let nanos = any::<u32>().prop_map(|nanos| Duration::new(1_800_000_000, nanos % 1_000_000_000));
    proptest::option::of(nanos.prop_map(|since| Timestamp::UNIX_EPOCH + since))
}

fn effect() -> impl Strategy<Value = Effect> {
    prop_oneof![Just(Effect::Action), Just(Effect::Compensation), Just(Effect::Probe)]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        payload().prop_map(Outcome::Ok),
        failure().prop_map(Outcome::Rejected),
        failure().prop_map(Outcome::NotApplied),
        failure().prop_map(Outcome::Unknown),
        (failure(), any::<bool>()).prop_map(|(failure, applied)| Outcome::Malformed { failure, applied }),
        failure().prop_map(|failure| Outcome::Halted { cause: Cause::Deadly, failure }),
    ]
}

fn body() -> impl Strategy<Value = MailBody> {
    let verb = prop_oneof![Just(Verb::Retry), Just(Verb::Skip), payload().prop_map(Verb::Resolve)];
    prop_oneof![
        any::<String>().prop_map(|reason| MailBody::Cancel { reason }),
        (any::<String>(), any::<String>()).prop_map(|(who, why)| MailBody::Abandon { who, why }),
        (place(), verb, any::<String>(), any::<String>())
            .prop_map(|(at, verb, who, why)| MailBody::Operator { at, verb, who, why }),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    let answer = prop_oneof![
        Just(Answer::Accepted),
        Just(Answer::TooLate),
        any::<String>().prop_map(Answer::Refused),
    ];
    let end = prop_oneof![
        payload().prop_map(|output| End::Completed { output }),
        failure().prop_map(|cause| End::Compensated { cause }),
        failure().prop_map(|cause| End::PartiallyCompensated { cause }),
    ];
    prop_oneof![
        (place(), payload()).prop_map(|(at, value)| Record::Derived { at, value }),
        (place(), effect(), any::<u32>()).prop_map(|(at, effect, attempt)| Record::Started {
            at,
            effect,
            attempt
        }),
        (place(), due()).prop_map(|(at, until)| Record::Bounded {
            at,
            bound: Bound::Settling,
            until: until.unwrap_or_default()
        }),
        (place(), effect(), outcome(), due()).prop_map(|(at, effect, outcome, due)| Record::Finished {
            at,
            effect,
            outcome,
            due
        }),
        (body(), answer).prop_map(|(body, answer)| Record::Received { mail: MailId::new(), body, answer }),
        (place(), failure()).prop_map(|(at, failure)| Record::Blocked { at, cause: Cause::InDoubt, failure }),
        Just(Record::Expired {}),
        end.prop_map(|end| Record::Closed { end }),
    ]
}

proptest! {
    #[test]
    fn records_are_read_back_as_they_were_written(records in proptest::collection::vec(record(), 0..8)) {
        let text = journal::encode(&records);
        prop_assert_eq!(journal::decode(&text).unwrap(), records);
    }
}
