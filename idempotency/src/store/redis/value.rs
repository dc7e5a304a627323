//! A row as a Redis value: the header that the script reads, then the row.

use bytes::{Buf, BufMut, Bytes};

use crate::Fingerprint;
use crate::row::{Dated, Point, Progress, Row, Stamp};
use crate::secret::hex;
use crate::store::{Expected, StoreError};
use crate::time::Time;

const HEADER_BYTES: usize = 32 + 1 + 20 + 20;
const VERSION: u8 = 1;
const NONE: u32 = u32::MAX;

/// The stamp, and whether the row is running: the first 33 bytes.
pub(super) fn mark(row: &Row) -> String {
    stamp_mark(&row.stamp, row.running())
}

fn stamp_mark(stamp: &Stamp, running: bool) -> String {
    let mut mark = hex(&stamp.0);
    mark.push(if running { 'r' } else { 'd' });
    mark
}

/// The script's mode, and the beginning of the value that it is to find.
pub(super) fn expected(expected: &Expected) -> (&'static str, String) {
    match expected {
        Expected::Absent => ("absent", String::new()),
        Expected::Held(stamp) => ("held", stamp_mark(stamp, true)),
        Expected::Exactly { stamp, lease_until, running } => {
            let mut header = stamp_mark(stamp, *running);
            match lease_until {
                Some(at) => header.push_str(&format!("{:020}", at.0)),
                None => header.push_str("--------------------"),
            }
            ("exactly", header)
        }
    }
}

/// A whole value, its header included.
pub(super) fn whole(row: &Row, lease_until: Time, created_at: Time) -> Vec<u8> {
    let mut value = format!("{}{:020}{:020}", mark(row), lease_until.0, created_at.0).into_bytes();
    value.extend_from_slice(&encode(row));
    value
}

/// The row, without its header.
pub(super) fn encode(row: &Row) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    out.put_u8(VERSION);
    out.put_i16(row.action.code());
    out.put_i16(row.undo.code());
    out.put_u8(u8::from(row.refused) | u8::from(row.doubt) << 1);
    out.put_u64(row.fence);
    let point = row.point.as_ref();
    let texts: [Option<&[u8]>; 7] = [
        row.action_print.as_ref().map(|print| print.as_bytes().as_slice()),
        row.undo_print.as_ref().map(|print| print.as_bytes().as_slice()),
        row.action_answer.as_deref(),
        row.undo_answer.as_deref(),
        point.map(|point| point.operation.as_bytes()),
        point.map(|point| point.phase.as_bytes()),
        point.map(|point| point.memo.as_ref()),
    ];
    for text in texts {
        match text {
            None => out.put_u32(NONE),
            Some(text) => {
                out.put_u32(u32::try_from(text.len()).expect("answers are limited to far less than 4 GiB"));
                out.put_slice(text);
            }
        }
    }
    out
}

/// A whole value.
pub(super) fn decode(value: &Bytes) -> Result<Dated, StoreError> {
    read(value).ok_or_else(|| StoreError::corrupt("redis", "value"))
}

fn read(value: &Bytes) -> Option<Dated> {
    if value.len() < HEADER_BYTES + 14 {
        return None;
    }
    let text = std::str::from_utf8(&value[..HEADER_BYTES]).ok()?;
    let mut stamp = [0; 16];
    for (byte, pair) in stamp.iter_mut().zip(0..16) {
        *byte = u8::from_str_radix(text.get(2 * pair..2 * pair + 2)?, 16).ok()?;
    }
    let lease_until = match &text[33..53] {
        "--------------------" => None,
        digits => Some(Time(digits.parse().ok()?)),
    };
    let created_at = Time(text[53..73].parse().ok()?);
    let mut rest = value.slice(HEADER_BYTES..);
    if rest.get_u8() != VERSION {
        return None;
    }
    let action = Progress::from_code(rest.get_i16())?;
    let undo = Progress::from_code(rest.get_i16())?;
    let flags = rest.get_u8();
    let fence = rest.get_u64();
    let action_print = print(field(&mut rest)?)?;
    let undo_print = print(field(&mut rest)?)?;
    let (action_answer, undo_answer) = (field(&mut rest)?, field(&mut rest)?);
    let (operation, phase, memo) = (field(&mut rest)?, field(&mut rest)?, field(&mut rest)?);
    let point = match (operation, phase, memo) {
        (Some(operation), Some(phase), Some(memo)) => Some(Point {
            operation: String::from_utf8(operation.to_vec()).ok()?,
            phase: String::from_utf8(phase.to_vec()).ok()?,
            memo,
        }),
        _ => None,
    };
    let row = Row {
        action,
        undo,
        refused: flags & 1 != 0,
        doubt: flags & 2 != 0,
        stamp: Stamp(stamp),
        fence,
        action_print,
        undo_print,
        action_answer,
        undo_answer,
        point,
    };
    // Redis itself removes what is over: a value that can be read has not expired.
    Some(Dated { row, created_at, lease_until, expires_at: None })
}

fn field(rest: &mut Bytes) -> Option<Option<Bytes>> {
    if rest.remaining() < 4 {
        return None;
    }
    let length = rest.get_u32();
    if length == NONE {
        return Some(None);
    }
    let length = usize::try_from(length).ok()?;
    (rest.remaining() >= length).then(|| Some(rest.split_to(length)))
}

fn print(bytes: Option<Bytes>) -> Option<Option<Fingerprint>> {
    match bytes {
        None => Some(None),
        Some(bytes) => Fingerprint::from_bytes(&bytes).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_survives_its_value_and_a_cut_one_is_refused() {
        let row = Row {
            action: Progress::Applied,
            undo: Progress::Running,
            refused: true,
            doubt: true,
            stamp: Stamp([9; 16]),
            fence: 7,
            action_print: Fingerprint::from_bytes(&[3; crate::fingerprint::FINGERPRINT_BYTES]),
            undo_print: None,
            action_answer: Some(Bytes::from_static(b"answer")),
            undo_answer: None,
            point: Some(Point { operation: "o".into(), phase: "p".into(), memo: Bytes::from_static(b"m") }),
        };
        let value = whole(&row, Time(5), Time(3));
        let dated = decode(&Bytes::from(value.clone())).unwrap();
        assert_eq!((dated.row, dated.lease_until, dated.created_at), (row, Some(Time(5)), Time(3)));
        for cut in 0..value.len() {
            assert!(decode(&Bytes::copy_from_slice(&value[..cut])).is_err(), "cut at {cut}");
        }
    }
}
