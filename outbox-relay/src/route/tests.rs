//! Records as consumers see them.

use super::*;
use crate::event::Fields;

const TRACE: &str = "traceparent=00-a-b-01\n";

fn with(change: impl FnOnce(&mut Fields<'_>)) -> Event {
    let headers = [("content-type", "application/json"), ("correlationid", "s-1")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut fields = Fields {
        id: Uuid::from_u128(7),
        seq: 1,
        created_at: 1_700_000_000_123,
        aggregate_type: "order",
        aggregate_id: "536365",
        event_type: "OrderPlaced",
        payload: Some(br#"{"cents":13912}"#),
        headers: &headers,
        trace: Some(TRACE),
        key_seq: Some(3),
        defect: None,
    };
    change(&mut fields);
    fields.into()
}

fn event() -> Event {
    with(|_| {})
}

fn headers(record: &Record<'_>) -> Vec<String> {
    record.headers.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

const ID: &str = "00000000-0000-0000-0000-000000000007";

#[test]
fn debezium_consumers_find_what_they_are_used_to() {
    let (mut router, event) = (Router::new(Routes::default()), event());
    let record = router.record(&event).expect("routes");
    assert_eq!((record.topic, record.key), ("outbox.event.order", "536365"));
    assert_eq!(record.value.as_deref(), event.payload());
    assert_eq!(record.timestamp, Some(1_700_000_000_123));
    let expected = [
        &format!("id={ID}"),
        "content-type=application/json",
        "correlationid=s-1",
        "eventType=OrderPlaced",
        "sequence=3",
        "traceparent=00-a-b-01",
    ];
    assert_eq!(headers(&record), expected);
}

#[test]
fn a_cloud_event_in_binary_mode_has_its_attributes_in_headers() {
    let routes = Routes { format: Format::CloudeventsBinary, source: "/shop".into(), ..Routes::default() };
    let (mut router, event) = (Router::new(routes), event());
    let record = router.record(&event).expect("routes");
    assert_eq!(record.value.as_deref(), event.payload());
    let expected = [
        &format!("id={ID}"),
        "content-type=application/json",
        "ce_specversion=1.0",
        &format!("ce_id={ID}"),
        "ce_source=/shop",
        "ce_type=OrderPlaced",
        "ce_subject=536365",
        "ce_partitionkey=536365",
        "ce_time=2023-11-14T22:13:20.123Z",
        "ce_sequence=00000000000000000003",
        "ce_correlationid=s-1",
        "ce_traceparent=00-a-b-01",
    ];
    assert_eq!(headers(&record), expected);
}

#[test]
fn a_cloud_event_in_structured_mode_nests_json_and_encodes_the_rest() {
    let routes = Routes { format: Format::CloudeventsStructured, ..Routes::default() };
    let mut router = Router::new(routes);
    let parse = |record: Record<'_>| -> serde_json::Value {
        assert!(headers(&record).iter().any(|h| h.starts_with("content-type=application/cloudevents+json")));
        serde_json::from_slice(&record.value.expect("a document")).expect("json")
    };
    let event = event();
    let document = parse(router.record(&event).expect("routes"));
    assert_eq!(document["data"]["cents"], 13912);
    assert_eq!((document["id"].as_str(), document["type"].as_str()), (Some(ID), Some("OrderPlaced")));
    for (bytes, text) in [(&b"\xff"[..], "/w=="), (b"\xff\xfe", "//4="), (b"\xff\xfe\xfd", "//79")] {
        let event = with(|fields| fields.payload = Some(bytes));
        assert_eq!(parse(router.record(&event).expect("routes"))["data_base64"], text);
    }
    let event = with(|fields| fields.payload = None);
    assert_eq!(parse(router.record(&event).expect("routes")).get("data"), None);
}

#[test]
fn routes_by_aggregate_type_and_refuses_what_is_no_topic() {
    let mut routes = Routes::default();
    let special = Route { topic: Some("orders".into()), format: Some(Format::CloudeventsBinary) };
    routes.by_aggregate_type.insert("order".into(), special);
    let mut router = Router::new(routes);
    assert_eq!(router.route(&event()), Ok("orders"));
    let odd = with(|fields| fields.aggregate_type = "a b");
    assert_eq!(router.route(&odd), Err("\"outbox.event.a b\" cannot be the name of a topic".into()));
    let customer = with(|fields| fields.aggregate_type = "customer");
    assert_eq!(router.route(&customer), Ok("outbox.event.customer"));
    let defect = with(|fields| fields.defect = Some("the id is no UUID"));
    assert_eq!(router.route(&defect), Err("the id is no UUID".into()));
}

#[test]
fn what_a_writer_calls_id_is_not_the_events() {
    let headers = [("id".to_owned(), "mine".to_owned())];
    let id = Uuid::from_u128(7);
    let event = Event::from(Fields { id, aggregate_type: "order", headers: &headers, ..Fields::default() });
    for format in [Format::Debezium, Format::CloudeventsBinary, Format::CloudeventsStructured] {
        let mut router = Router::new(Routes { format, ..Routes::default() });
        let record = router.record(&event).expect("routes");
        let ids: Vec<_> = record.headers.iter().filter(|(name, _)| *name == "id").collect();
        assert_eq!(ids, [("id", ID)]);
    }
}
