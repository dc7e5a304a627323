//! The bytes of a message of Postgres'. Pure.

/// From Postgres' epoch, 2000-01-01, to Unix'.
const EPOCH_MS: i64 = 946_684_800_000;

/// A time in microseconds since Postgres' epoch, in milliseconds since Unix'; 0, which is "unknown", for one that never
/// comes or never was.
pub(super) fn millis(micros: i64) -> i64 {
    match micros {
        i64::MIN | i64::MAX => 0,
        micros => micros.div_euclid(1_000) + EPOCH_MS,
    }
}

/// A message, from which is read from the front.
#[derive(Debug)]
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self(message)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (head, rest) = self.0.split_at_checked(count).ok_or("a message is cut short")?;
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, String> {
        Ok(u16::from_be_bytes(self.take(2)?.try_into().expect("two bytes")))
    }

    pub(super) fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    pub(super) fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_be_bytes(self.take(8)?.try_into().expect("eight bytes")))
    }

    /// All that was not taken.
    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Text that a zero byte ends.
    pub(super) fn text(&mut self) -> Result<&'a str, String> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or("a message is cut short")?;
        let text = self.take(end)?;
        self.u8()?;
        std::str::from_utf8(text).map_err(|_| "a name is no UTF-8".into())
    }
}
