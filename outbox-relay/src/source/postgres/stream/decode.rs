//! The messages of the `pgoutput` plugin, version 1, as far as inserts need them.
//!
//! Pure. Values arrive in binary where the session asked for that, and as text otherwise: then in UTC,
//! with ISO dates and hexadecimal bytes, which the session asks for too.

use crate::event::{Event, Fields};
use crate::source::Defects;
use crate::source::postgres::input::{self, Input};
use crate::source::postgres::table::Table;
use chrono::{DateTime, NaiveDateTime};
use std::borrow::Cow;
use std::collections::HashMap;
use uuid::Uuid;

/// An inserted row, and the transaction that wrote it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) event: Event,
    /// `None` if the table does not say it.
    pub(super) xid: Option<u64>,
}

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
const JSONB: u32 = 3802;

/// Which of [`COLUMNS`] the relation's columns hold, and of what type they are.
type Places = Vec<Option<(usize, u32)>>;

/// Decodes one session's messages; remembers the relations it was told of.
#[derive(Debug)]
pub(super) struct Decoder {
    table: Table,
    /// `None`: another table, which the publication has too.
    relations: HashMap<u32, Option<Places>>,
    /// How often the table was described: again after whatever may have changed it or its publication.
    pub(super) described: u32,
    /// The place in the log of the row decoded last, and how many rows it has had.
    last: (u64, i64),
}

impl Decoder {
    pub(super) fn new(table: Table) -> Self {
        Self { table, relations: HashMap::new(), described: 0, last: (0, 0) }
    }

    /// The row that a message at this place in the log inserts, if it inserts one. A row without a
    /// number of its own is numbered by its place, which orders a key's events as well.
    ///
    /// # Errors
    ///
    /// If the message is cut short or is not what the protocol says.
    pub(super) fn decode(&mut self, lsn: u64, message: &[u8]) -> Result<Option<Row>, String> {
        let mut input = Input::new(message);
        match input.u8()? {
            b'R' => self.relation(&mut input).map(|()| None),
            b'I' => {
                let place = self.place(lsn);
                self.insert(place, &mut input)
            }
            _ => Ok(None),
        }
    }

    fn relation(&mut self, input: &mut Input<'_>) -> Result<(), String> {
        let id = input.u32()?;
        let (schema, name) = (input.text()?, input.text()?);
        let ours = self.table.name.split_once('.') == Some((schema, name));
        let _replica_identity = input.u8()?;
        let mut places = Vec::new();
        for _ in 0..input.u16()? {
            let _flags = input.u8()?;
            let name = input.text()?;
            let kind = input.u32()?;
            let _modifier = input.u32()?;
            let standard = COLUMNS.iter().position(|standard| self.table.here(standard) == name);
            places.push(standard.map(|standard| (standard, kind)));
        }
        self.described += u32::from(ours);
        self.relations.insert(id, ours.then_some(places));
        Ok(())
    }

    /// One record in the log may insert many rows; it is longer in bytes than it has rows.
    fn place(&mut self, lsn: u64) -> i64 {
        self.last = if self.last.0 == lsn { (lsn, self.last.1 + 1) } else { (lsn, 0) };
        i64::try_from(lsn).unwrap_or(i64::MAX).saturating_add(self.last.1)
    }

    fn insert(&self, place: i64, input: &mut Input<'_>) -> Result<Option<Row>, String> {
        let id = input.u32()?;
        let Some(places) = self.relations.get(&id).ok_or("a row of an unknown relation")? else {
            return Ok(None);
        };
        if input.u8()? != b'N' {
            return Err("an insert without a new row".into());
        }
        let cells = cells(input, places)?;
        let number = |column: usize| cells[column].number().map_err(|problem| named(column, problem));
        let mut defects = Defects::default();
        let payload = cells[4].bytes()?;
        let fields = Fields {
            id: match cells[0] {
                Cell::Binary(bytes, _) if bytes.len() == 16 => {
                    Uuid::from_slice(bytes).expect("16 bytes are a UUID")
                }
                cell => defects.id(cell.text()?.map(str::as_bytes)),
            },
            seq: number(9)?.unwrap_or(place),
            aggregate_type: defects.name(COLUMNS[1], cells[1].text()?),
            aggregate_id: defects.name(COLUMNS[2], cells[2].text()?),
            event_type: defects.name(COLUMNS[3], cells[3].text()?),
            payload: payload.as_deref(),
            trace: cells[6].text()?,
            key_seq: number(7)?,
            created_at: cells[8].millis(),
            ..Fields::default()
        };
        let headers = defects.headers(cells[5].text()?);
        let defect = defects.first();
        let event = Event::from(Fields { headers: &headers, defect: defect.as_deref(), ..fields });
        Ok(Some(Row { event, xid: number(10)?.map(i64::unsigned_abs) }))
    }
}

/// A message that somebody wrote into the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Emitted<'a> {
    /// Its place in the log.
    pub(super) lsn: u64,
    pub(super) prefix: &'a str,
    pub(super) content: &'a str,
}

/// What was written into the log by `pg_logical_emit_message`, as far as it is text; `None` for any other message.
///
/// # Errors
///
/// If the message is cut short.
pub(super) fn emitted(message: &[u8]) -> Result<Option<Emitted<'_>>, String> {
    let mut input = Input::new(message);
    if input.u8()? != b'M' {
        return Ok(None);
    }
    let _flags = input.u8()?;
    let lsn = input.u64()?;
    // Others may write what is no text.
    let Ok(prefix) = input.text() else { return Ok(None) };
    let length = input.u32()?;
    let content = std::str::from_utf8(input.take(length as usize)?);
    Ok(content.ok().map(|content| Emitted { lsn, prefix, content }))
}

fn named(column: usize, problem: String) -> String {
    format!("{} is {problem}", COLUMNS[column])
}

/// One value, as it came.
#[derive(Clone, Copy, Debug)]
enum Cell<'a> {
    Null,
    Text(&'a [u8], u32),
    Binary(&'a [u8], u32),
}

/// The values of [`COLUMNS`]; those that the relation does not have are null.
fn cells<'a>(input: &mut Input<'a>, places: &Places) -> Result<[Cell<'a>; COLUMNS.len()], String> {
    let mut cells = [Cell::Null; COLUMNS.len()];
    for place in 0..usize::from(input.u16()?) {
        let form = input.u8()?;
        let bytes = match form {
            b'n' | b'u' => continue,
            b't' | b'b' => {
                let length = input.u32()?;
                input.take(length as usize)?
            }
            form => return Err(format!("a value of kind {:?}", char::from(form))),
        };
        if let Some((column, kind)) = places.get(place).copied().flatten() {
            cells[column] = if form == b'b' { Cell::Binary(bytes, kind) } else { Cell::Text(bytes, kind) };
        }
    }
    Ok(cells)
}

impl<'a> Cell<'a> {
    fn text(self) -> Result<Option<&'a str>, String> {
        let bytes = match self {
            Self::Null => return Ok(None),
            // Its binary form is a version number and then its text.
            Self::Binary(bytes, JSONB) => bytes.split_first().map_or(bytes, |(_, text)| text),
            Self::Text(bytes, _) | Self::Binary(bytes, _) => bytes,
        };
        std::str::from_utf8(bytes).map(Some).map_err(|_| "a value is no UTF-8".into())
    }

    fn bytes(self) -> Result<Option<Cow<'a, [u8]>>, String> {
        match self {
            Self::Text(_, BYTEA) => self.text()?.map(|text| hexadecimal(text).map(Cow::Owned)).transpose(),
            Self::Binary(bytes, BYTEA) => Ok(Some(bytes.into())),
            _ => Ok(self.text()?.map(|text| text.as_bytes().into())),
        }
    }

    fn number(self) -> Result<Option<i64>, String> {
        match self {
            Self::Null => Ok(None),
            Self::Text(..) => {
                let text = self.text()?.unwrap_or_default();
                text.parse().map(Some).map_err(|_| format!("{text:?}"))
            }
            Self::Binary(bytes, _) => match *bytes {
                [a, b, c, d, e, f, g, h] => Ok(Some(i64::from_be_bytes([a, b, c, d, e, f, g, h]))),
                [a, b, c, d] => Ok(Some(i32::from_be_bytes([a, b, c, d]).into())),
                _ => Err(format!("a number of {} bytes", bytes.len())),
            },
        }
    }

    /// Milliseconds since the Unix epoch; 0, which is "unknown", for anything that is no time.
    fn millis(self) -> i64 {
        match self {
            Self::Binary(..) => self.number().ok().flatten().map_or(0, input::millis),
            _ => self.text().ok().flatten().map_or(0, millis),
        }
    }
}

/// `\x…` as Postgres writes bytes.
fn hexadecimal(text: &str) -> Result<Vec<u8>, String> {
    let hex = text.strip_prefix("\\x").ok_or("bytes are not in hexadecimal")?.as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(u8::try_from(digit(*high)? * 16 + digit(*low)?).expect("two digits make a byte")),
        _ => None,
    };
    hex.chunks(2).map(pair).collect::<Option<_>>().ok_or_else(|| "bytes are not in hexadecimal".into())
}

/// A time with or without an offset; without one it is in UTC, as the session asked.
fn millis(text: &str) -> i64 {
    let with_offset = DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z");
    let time = with_offset.map(|time| time.timestamp_millis()).or_else(|_| {
        let plain = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f");
        plain.map(|time| time.and_utc().timestamp_millis())
    });
    time.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn relation(columns: &[(&str, u32)]) -> Vec<u8> {
        relation_of("outbox\0event", columns)
    }

    fn relation_of(table: &str, columns: &[(&str, u32)]) -> Vec<u8> {
        let mut bytes = format!("R\0\0\0\x07{table}\0d").into_bytes();
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
        insert_as(b't', &cells.iter().map(|cell| cell.map(str::as_bytes)).collect::<Vec<_>>())
    }

    fn insert_as(form: u8, cells: &[Option<&[u8]>]) -> Vec<u8> {
        let mut bytes = b"I\0\0\0\x07N".to_vec();
        bytes.extend(u16::try_from(cells.len()).expect("few").to_be_bytes());
        for cell in cells {
            match cell {
                None => bytes.push(b'n'),
                Some(cell) => {
                    bytes.push(form);
                    bytes.extend(u32::try_from(cell.len()).expect("short").to_be_bytes());
                    bytes.extend(*cell);
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
        assert_eq!(decoder.decode(0x10, &relation(&NAMES)), Ok(None));
        let row = decoder.decode(0x10, &insert(&cells())).expect("decodes").expect("a row");
        assert_eq!(row.xid, Some(8_589_934_597));
        assert_eq!((row.event.seq, row.event.key_seq(), row.event.id), (42, Some(3), Uuid::from_u128(7)));
        assert_eq!(row.event.payload(), Some(&[0, 255, 123][..]));
        assert_eq!(row.event.headers().collect::<Vec<_>>(), [("tenant", "acme")]);
        assert_eq!(
            (row.event.created_at, row.event.trace(), row.event.defect()),
            (1_700_000_000_123, None, None)
        );
    }

    #[test]
    fn binary_values_mean_the_same() {
        let mut decoder = Decoder::new(Table::default());
        decoder.decode(0x10, &relation(&NAMES)).expect("decodes");
        let text = decoder.decode(0x10, &insert(&cells())).expect("decodes").expect("a row");
        let micros = 753_315_200_123_900_i64.to_be_bytes();
        let cells: [Option<&[u8]>; 11] = [
            Some(&42_i64.to_be_bytes()),
            Some(&7_u128.to_be_bytes()),
            Some(b"order"),
            Some(b"536365"),
            Some(b"Placed"),
            Some(b"\x00\xff{"),
            Some(b"\x01{\"tenant\": \"acme\"}"),
            None,
            Some(&3_i32.to_be_bytes()),
            Some(&micros),
            Some(&8_589_934_597_i64.to_be_bytes()),
        ];
        assert_eq!(decoder.decode(0x10, &insert_as(b'b', &cells)), Ok(Some(text)));
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
        decoder.decode(0x10, &relation_of("public\0outboxevent", &names)).expect("decodes");
        let cells = ["order", "not a uuid", "1", "Placed", r#"{"a": 1}"#, "9", "1"].map(Some);
        let event = decoder.decode(0x10, &insert(&cells)).expect("decodes").expect("a row").event;
        assert_eq!((event.aggregate_type(), event.payload()), ("order", Some(&br#"{"a": 1}"#[..])));
        assert!(event.defect().expect("has one").starts_with("the id is no UUID"));
    }

    #[test]
    fn rows_without_a_number_are_numbered_by_their_place() {
        let mut decoder = Decoder::new(Table::default());
        let names =
            [("id", 2950), ("aggregatetype", 25), ("aggregateid", 25), ("type", 25), ("payload", 3802)];
        decoder.decode(0x10, &relation(&names)).expect("decodes");
        let cells = ["00000000-0000-0000-0000-000000000007", "order", "1", "Placed", "{}"].map(Some);
        let places = [0x100, 0x200, 0x200, 0x200, 0x300];
        let rows = places.map(|lsn| decoder.decode(lsn, &insert(&cells)).expect("decodes").expect("a row"));
        assert_eq!(rows.map(|row| row.event.seq), [0x100, 0x200, 0x201, 0x202, 0x300]);
    }

    #[test]
    fn what_was_written_into_the_log_is_told_with_its_place() {
        let message = b"M\0\0\0\0\0\0\0\x01\x02outbox-relay a.b\0\0\0\0\x037:7";
        let told = Emitted { lsn: 0x102, prefix: "outbox-relay a.b", content: "7:7" };
        assert_eq!(emitted(message), Ok(Some(told)));
        assert_eq!(emitted(b"I\0\0\0\x07N"), Ok(None));
        for no_text in
            [&b"M\0\0\0\0\0\0\0\x01\x02\xff\0\0\0\0\x01x"[..], b"M\0\0\0\0\0\0\0\x01\x02x\0\0\0\0\x01\xff"]
        {
            assert_eq!(emitted(no_text), Ok(None));
        }
        for at in 0..10 {
            assert_eq!(emitted(&message[..at]), Err("a message is cut short".into()));
        }
    }

    #[test]
    fn what_is_not_of_interest_is_passed_over_and_nonsense_is_named() {
        let mut decoder = Decoder::new(Table::default());
        assert_eq!(millis("2023-11-14 22:13:20.1239"), 1_700_000_000_123);
        for message in [&b"B"[..], b"C", b"T\0\0", b"Y"] {
            assert_eq!(decoder.decode(0x10, message), Ok(None));
        }
        assert_eq!(decoder.decode(0x10, &insert(&cells())), Err("a row of an unknown relation".into()));
        decoder.decode(0x10, &relation_of("public\0orders", &NAMES)).expect("decodes");
        assert_eq!(decoder.decode(0x10, &insert(&cells())), Ok(None), "a row of another table");
        assert_eq!(decoder.decode(0x10, b""), Err("a message is cut short".into()));
        for text in ["ff", "\\x0", "\\xzz"] {
            hexadecimal(text).expect_err(text);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(message: Vec<u8>, at in 0..200_usize) {
            let mut decoder = Decoder::new(Table::default());
            let _ = (decoder.decode(0x10, &message), emitted(&message));
            decoder.decode(0x10, &relation(&NAMES)).expect("decodes");
            let mut cut = insert(&cells());
            cut.truncate(at);
            let _ = decoder.decode(0x10, &cut);
        }
    }
}
