//! A page of rows by `COPY … TO STDOUT (FORMAT binary)`.
//!
//! Catching up is limited by the processor, and what a query costs per row (a row description looked up
//! by name, a message per row that is kept until the page is whole) is more than all that is done with
//! the row afterwards. Here each row is decoded as it arrives, and forgotten.

use super::PostgresSource;
use super::input::{Input, millis};
use super::session::{BEGIN, answered};
use crate::error::{Error, Result};
use crate::event::{Event, Fields};
use crate::source::Defects;
use futures::TryStreamExt as _;
use sqlx::PgConnection;
use uuid::Uuid;

/// A connection that is used for nothing else.
///
/// A COPY that is not read to its end leaves its connection in the middle of a conversation, and a pool
/// would hand it to somebody who takes the rest for an answer. So a connection is kept only after a whole
/// page; whatever else happens, an error or a task that is aborted, it is dropped.
#[derive(Debug, Default)]
pub(super) struct Reader {
    connection: Option<PgConnection>,
}

impl Reader {
    /// Runs a COPY of a [select list](super::table::Statements) and decodes its rows.
    pub(super) async fn read(
        &mut self,
        source: &PostgresSource,
        copy: &str,
        expected: usize,
    ) -> Result<Vec<Event>> {
        answered(self.copy(source, copy, expected)).await
    }

    async fn copy(&mut self, source: &PostgresSource, copy: &str, expected: usize) -> Result<Vec<Event>> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => source.pool.acquire().await?.detach(),
        };
        if source.pooled {
            sqlx::raw_sql(BEGIN).execute(&mut connection).await?;
        }
        let mut events = Vec::with_capacity(expected);
        let mut decoder = Decoder::default();
        let mut messages = connection.copy_out_raw(copy).await?;
        while let Some(message) = messages.try_next().await? {
            decoder
                .decode(&message, &mut events)
                .map_err(|problem| Error::Corrupt { what: "a row of the outbox table".into(), problem })?;
        }
        drop(messages);
        if source.pooled {
            sqlx::raw_sql("COMMIT").execute(&mut connection).await?;
        }
        self.connection = Some(connection);
        Ok(events)
    }
}

/// The beginning of every binary COPY, before two 32-bit numbers: flags, and the length of an extension.
const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
const COLUMNS: u16 = 10;

/// Decodes one COPY's messages, each of which holds whole rows.
#[derive(Debug, Default)]
struct Decoder {
    begun: bool,
}

impl Decoder {
    fn decode(&mut self, message: &[u8], into: &mut Vec<Event>) -> Result<(), String> {
        let mut input = Input::new(message);
        if !self.begun {
            self.begun = true;
            if input.take(SIGNATURE.len())? != SIGNATURE {
                return Err("the answer is no binary COPY".into());
            }
            let _flags = input.take(4)?;
            let extension = input.u32()?;
            input.take(extension as usize)?;
        }
        while !input.is_empty() {
            match input.u16()? {
                u16::MAX => return Ok(()),
                COLUMNS => into.push(event(&mut input)?),
                columns => return Err(format!("a row of {columns} columns")),
            }
        }
        Ok(())
    }
}

/// One row, in the order of the select list.
fn event(input: &mut Input<'_>) -> Result<Event, String> {
    let mut defects = Defects::default();
    let fields = Fields {
        seq: number(input)?.ok_or("a row without seq")?,
        id: match cell(input)? {
            Some(bytes) if bytes.len() == 16 => Uuid::from_slice(bytes).expect("16 bytes are a UUID"),
            bytes => defects.id(bytes),
        },
        aggregate_type: defects.name("aggregatetype", text(input)?),
        aggregate_id: defects.name("aggregateid", text(input)?),
        event_type: defects.name("type", text(input)?),
        payload: cell(input)?,
        ..Fields::default()
    };
    let headers = defects.headers(text(input)?);
    Ok(Event::from(Fields {
        headers: &headers,
        trace: text(input)?,
        key_seq: number(input)?,
        created_at: number(input)?.map_or(0, millis),
        defect: defects.first().as_deref(),
        ..fields
    }))
}

/// A column's bytes, `None` for null.
fn cell<'a>(input: &mut Input<'a>) -> Result<Option<&'a [u8]>, String> {
    match input.u32()? {
        u32::MAX => Ok(None),
        length => input.take(length as usize).map(Some),
    }
}

fn text<'a>(input: &mut Input<'a>) -> Result<Option<&'a str>, String> {
    let text = cell(input)?.map(std::str::from_utf8).transpose();
    text.map_err(|_| "a value is no UTF-8".into())
}

fn number(input: &mut Input<'_>) -> Result<Option<i64>, String> {
    let Some(bytes) = cell(input)? else { return Ok(None) };
    let bytes = bytes.try_into().map_err(|_| format!("a number of {} bytes", bytes.len()))?;
    Ok(Some(i64::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(cells: &[Option<&[u8]>]) -> Vec<u8> {
        let mut bytes = [SIGNATURE, &[0; 8][..]].concat();
        bytes.extend(u16::try_from(cells.len()).expect("few").to_be_bytes());
        for cell in cells {
            match cell {
                None => bytes.extend([0xff; 4]),
                Some(cell) => {
                    bytes.extend(u32::try_from(cell.len()).expect("short").to_be_bytes());
                    bytes.extend(*cell);
                }
            }
        }
        bytes
    }

    fn cells() -> [Option<&'static [u8]>; 10] {
        [
            Some(&[0, 0, 0, 0, 0, 0, 0, 42]),
            Some(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]),
            Some(b"order"),
            Some(b"536365"),
            Some(b"Placed"),
            Some(b"\x00\xff{"),
            Some(br#"{"tenant": "acme"}"#),
            None,
            Some(&[0, 0, 0, 0, 0, 0, 0, 3]),
            // 2023-11-14 22:13:20.1239, in microseconds since 2000.
            Some(&[0x00, 0x02, 0xad, 0x22, 0xdc, 0xe8, 0x43, 0xfc]),
        ]
    }

    fn decode(bytes: &[u8]) -> Result<Vec<Event>, String> {
        let mut events = Vec::new();
        Decoder::default().decode(bytes, &mut events).map(|()| events)
    }

    #[test]
    fn rows_are_events_and_the_trailer_is_none() {
        let mut bytes = message(&cells());
        let second = message(&cells())[19..].to_vec();
        bytes.extend(second);
        bytes.extend([0xff, 0xff]);
        let events = decode(&bytes).expect("decodes");
        assert_eq!(events.len(), 2);
        let event = &events[1];
        assert_eq!((event.seq, event.key_seq(), event.id), (42, Some(3), Uuid::from_u128(7)));
        assert_eq!((event.aggregate_id(), event.event_type()), ("536365", "Placed"));
        assert_eq!(event.payload(), Some(&b"\x00\xff{"[..]));
        assert_eq!(event.headers().collect::<Vec<_>>(), [("tenant", "acme")]);
        assert_eq!((event.trace(), event.defect()), (None, None));
        assert_eq!(event.created_at, 1_700_000_000_123);
    }

    #[test]
    fn what_a_writer_put_in_by_mistake_is_the_rows_defect() {
        let mut cells = cells();
        cells[1] = Some(b"00000000-0000-0000-0000-000000000009");
        assert_eq!(decode(&message(&cells)).expect("decodes")[0].id, Uuid::from_u128(9));
        cells[1] = Some(b"nine");
        let events = decode(&message(&cells)).expect("decodes");
        assert!(events[0].defect().expect("has one").starts_with("the id is no UUID"));
        cells[1] = None;
        cells[2] = None;
        let events = decode(&message(&cells)).expect("decodes");
        assert_eq!(events[0].defect(), Some("the row has no id"), "the first is told");
    }

    #[test]
    fn nonsense_is_named() {
        assert_eq!(decode(b"nonsense, really so"), Err("the answer is no binary COPY".into()));
        assert_eq!(decode(&message(&[None, None])), Err("a row of 2 columns".into()));
        let mut cells = cells();
        cells[0] = None;
        assert_eq!(decode(&message(&cells)), Err("a row without seq".into()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, at in 0..200_usize) {
            let _ = decode(&bytes);
            let mut cut = message(&cells());
            cut.truncate(at);
            let _ = decode(&cut);
        }
    }
}
