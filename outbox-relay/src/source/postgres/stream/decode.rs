//! The messages of the `pgoutput` plugin, version 1, as far as inserts need them.
//!
//! Pure. Values arrive as text; the session asks for UTC, ISO dates and hexadecimal bytes.

use crate::event::Event;
use crate::source::postgres::table::Table;
use crate::source::stored_headers;
use chrono::DateTime;
use std::collections::HashMap;
use uuid::Uuid;

/// An inserted row, and the transaction that wrote it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) event: Event,
    pub(super) xid: u64,
}

/// Which column of a relation holds what, by the order of [`COLUMNS`].
type Places = [Option<usize>; COLUMNS.len()];

const COLUMNS: [&str; 11] = [
    "id",
    "aggregatetype",
    "aggregateid",
    "type",
    "payload",
    "headers",
    "tracingspancontext",
    "key_seq",
    "created_at",
    "seq",
    "xid",
];

const BYTEA: u32 = 17;

/// Decodes one session's messages; remembers the relations it was told of.
#[derive(Debug)]
pub(super) struct Decoder {
    table: Table,
    relations: HashMap<u32, (Places, bool)>,
}

impl Decoder {
    pub(super) fn new(table: Table) -> Self {
        Self { table, relations: HashMap::new() }
    }

    /// The row that a message inserts, if it inserts one.
    ///
    /// # Errors
    ///
    /// If the message is cut short or is not what the protocol says.
    pub(super) fn decode(&mut self, message: &[u8]) -> Result<Option<Row>, String> {
        let mut input = Input(message);
        match input.u8()? {
            b'R' => self.relation(&mut input).map(|()| None),
            b'I' => self.insert(&mut input).map(Some),
            _ => Ok(None),
        }
    }

    fn relation(&mut self, input: &mut Input<'_>) -> Result<(), String> {
        let id = input.u32()?;
        let (_schema, _name) = (input.text()?, input.text()?);
        let _replica_identity = input.u8()?;
        let mut names = Vec::new();
        for _ in 0..input.u16()? {
            let _flags = input.u8()?;
            let name = input.text()?.to_owned();
            let kind = input.u32()?;
            let _modifier = input.u32()?;
            names.push((name, kind));
        }
        let place = |standard: &str| names.iter().position(|(name, _)| name == self.table.here(standard));
        let places = COLUMNS.map(place);
        let payload_is_bytes = places[4].is_some_and(|place| names[place].1 == BYTEA);
        self.relations.insert(id, (places, payload_is_bytes));
        Ok(())
    }

    fn insert(&self, input: &mut Input<'_>) -> Result<Row, String> {
        let id = input.u32()?;
        let (places, payload_is_bytes) = self.relations.get(&id).ok_or("a row of an unknown relation")?;
        if input.u8()? != b'N' {
            return Err("an insert without a new row".into());
        }
        let cells = cells(input)?;
        let cell = |column: usize| places[column].and_then(|place| cells.get(place).copied().flatten());
        let needed = |column: usize| cell(column).ok_or_else(|| format!("a row without {}", COLUMNS[column]));
        let number = |column: usize, text: &str| {
            text.parse::<i64>().map_err(|_| format!("{} is {text:?}", COLUMNS[column]))
        };
        let (headers, bad_headers) = stored_headers(cell(5));
        let event_id = Uuid::parse_str(needed(0)?);
        let bad_id = event_id.as_ref().err().map(|error| format!("the id is no UUID: {error}"));
        let payload = match cell(4) {
            Some(hex) if *payload_is_bytes => Some(bytes(hex)?),
            text => text.map(|text| text.as_bytes().to_vec()),
        };
        let event = Event {
            id: event_id.unwrap_or_default(),
            seq: number(9, needed(9)?)?,
            aggregate_type: needed(1)?.to_owned(),
            aggregate_id: needed(2)?.to_owned(),
            event_type: needed(3)?.to_owned(),
            payload,
            headers,
            trace: cell(6).map(str::to_owned),
            key_seq: cell(7).map(|text| number(7, text)).transpose()?,
            created_at: cell(8).map_or(0, millis),
            defect: bad_id.or(bad_headers),
        };
        let xid = needed(10)?;
        Ok(Row { event, xid: xid.parse().map_err(|_| format!("xid is {xid:?}"))? })
    }
}

fn cells<'a>(input: &mut Input<'a>) -> Result<Vec<Option<&'a str>>, String> {
    let count = input.u16()?;
    let mut cells = Vec::with_capacity(count.into());
    for _ in 0..count {
        cells.push(match input.u8()? {
            b'n' | b'u' => None,
            b't' => {
                let length = input.u32()?;
                let text = input.take(length as usize)?;
                Some(std::str::from_utf8(text).map_err(|_| "a value is no UTF-8")?)
            }
            kind => return Err(format!("a value of kind {:?}", char::from(kind))),
        });
    }
    Ok(cells)
}

/// `\x…` as Postgres writes bytes.
fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let hex = text.strip_prefix("\\x").ok_or("bytes are not in hexadecimal")?.as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(u8::try_from(digit(*high)? * 16 + digit(*low)?).expect("two digits make a byte")),
        _ => None,
    };
    hex.chunks(2).map(pair).collect::<Option<_>>().ok_or_else(|| "bytes are not in hexadecimal".into())
}

/// Milliseconds since the Unix epoch; 0, which is "unknown", for anything that is no time.
fn millis(text: &str) -> i64 {
    let time = DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z");
    time.map_or(0, |time| time.timestamp_millis())
}

/// A message, from which is read from the front.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (head, rest) = self.0.split_at_checked(count).ok_or("a message is cut short")?;
        self.0 = rest;
        Ok(head)
    }

    fn u8(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, String> {
        Ok(u16::from_be_bytes(self.take(2)?.try_into().expect("two bytes")))
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    /// Text that a zero byte ends.
    fn text(&mut self) -> Result<&'a str, String> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or("a message is cut short")?;
        let text = self.take(end)?;
        self.u8()?;
        std::str::from_utf8(text).map_err(|_| "a name is no UTF-8".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn relation(columns: &[(&str, u32)]) -> Vec<u8> {
        let mut bytes = b"R\0\0\0\x07outbox\0event\0d".to_vec();
        bytes.extend(u16::try_from(columns.len()).expect("few").to_be_bytes());
        for (name, kind) in columns {
            bytes.push(0);
            bytes.extend(name.as_bytes());
            bytes.push(0);
            bytes.extend(kind.to_be_bytes());
            bytes.extend((-1_i32).to_be_bytes());
        }
        bytes
    }

    fn insert(cells: &[Option<&str>]) -> Vec<u8> {
        let mut bytes = b"I\0\0\0\x07N".to_vec();
        bytes.extend(u16::try_from(cells.len()).expect("few").to_be_bytes());
        for cell in cells {
            match cell {
                None => bytes.push(b'n'),
                Some(text) => {
                    bytes.push(b't');
                    bytes.extend(u32::try_from(text.len()).expect("short").to_be_bytes());
                    bytes.extend(text.as_bytes());
                }
            }
        }
        bytes
    }

    const NAMES: [(&str, u32); 11] = [
        ("seq", 20),
        ("id", 2950),
        ("aggregatetype", 25),
        ("aggregateid", 25),
        ("type", 25),
        ("payload", BYTEA),
        ("headers", 3802),
        ("tracingspancontext", 25),
        ("key_seq", 20),
        ("created_at", 1184),
        ("xid", 5069),
    ];

    fn cells() -> [Option<&'static str>; 11] {
        [
            Some("42"),
            Some("00000000-0000-0000-0000-000000000007"),
            Some("order"),
            Some("536365"),
            Some("Placed"),
            Some("\\x00ff7B"),
            Some(r#"{"tenant": "acme"}"#),
            None,
            Some("3"),
            Some("2023-11-14 22:13:20.1239+00"),
            Some("8589934597"),
        ]
    }

    #[test]
    fn an_inserted_row_is_an_event() {
        let mut decoder = Decoder::new(Table::default());
        assert_eq!(decoder.decode(&relation(&NAMES)), Ok(None));
        let row = decoder.decode(&insert(&cells())).expect("decodes").expect("a row");
        assert_eq!(row.xid, 8_589_934_597);
        assert_eq!((row.event.seq, row.event.key_seq, row.event.id), (42, Some(3), Uuid::from_u128(7)));
        assert_eq!(row.event.payload.as_deref(), Some(&[0, 255, 123][..]));
        assert_eq!(row.event.headers, [("tenant".to_owned(), "acme".to_owned())]);
        assert_eq!(
            (row.event.created_at, row.event.trace, row.event.defect),
            (1_700_000_000_123, None, None)
        );
    }

    #[test]
    fn a_debezium_table_with_other_columns_and_json_is_read_by_name() {
        let table = Table::named("public.outboxevent").column("aggregatetype", "kind");
        let mut decoder = Decoder::new(table);
        let names = [
            ("kind", 25),
            ("id", 2950),
            ("aggregateid", 25),
            ("type", 25),
            ("payload", 3802),
            ("xid", 5069),
            ("seq", 20),
        ];
        decoder.decode(&relation(&names)).expect("decodes");
        let cells = ["order", "not a uuid", "1", "Placed", r#"{"a": 1}"#, "9", "1"].map(Some);
        let event = decoder.decode(&insert(&cells)).expect("decodes").expect("a row").event;
        assert_eq!(
            (event.aggregate_type.as_str(), event.payload.as_deref()),
            ("order", Some(&br#"{"a": 1}"#[..]))
        );
        assert!(event.defect.expect("has one").starts_with("the id is no UUID"));
    }

    #[test]
    fn what_is_not_of_interest_is_passed_over_and_nonsense_is_named() {
        let mut decoder = Decoder::new(Table::default());
        for message in [&b"B"[..], b"C", b"T\0\0", b"Y"] {
            assert_eq!(decoder.decode(message), Ok(None));
        }
        assert_eq!(decoder.decode(&insert(&cells())), Err("a row of an unknown relation".into()));
        assert_eq!(decoder.decode(b""), Err("a message is cut short".into()));
        for text in ["ff", "\\x0", "\\xzz"] {
            bytes(text).expect_err(text);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(message: Vec<u8>, at in 0..200_usize) {
            let mut decoder = Decoder::new(Table::default());
            let _ = decoder.decode(&message);
            decoder.decode(&relation(&NAMES)).expect("decodes");
            let mut cut = insert(&cells());
            cut.truncate(at);
            let _ = decoder.decode(&cut);
        }
    }
}
