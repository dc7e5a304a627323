//! The messages of a connection, out of one buffer.

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What is read at once, at most, and what is kept between reads.
const ROOM: usize = 256 * 1024;

/// A kind and a length that counts itself.
const HEAD: usize = 5;

/// What has arrived and was not taken yet.
///
/// A row is read where it arrived: no copy, no allocation and no task between the socket and whoever decodes it.
#[derive(Debug, Default)]
pub(super) struct Frames {
    buffer: BytesMut,
    /// The length of the message that was lent last, which still lies in front.
    lent: usize,
}

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) kind: u8,
    pub(super) body: &'a [u8],
}

impl Frames {
    /// Reads until a whole message is there. Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// If the connection fails or ends, and if what arrives is no message.
    pub(super) async fn next<R: AsyncRead + Unpin>(&mut self, from: &mut R) -> std::io::Result<Frame<'_>> {
        self.buffer.advance(std::mem::take(&mut self.lent));
        let length = loop {
            match whole(&self.buffer)? {
                Some(length) => break length,
                None => self.read(from).await?,
            }
        };
        self.lent = length;
        Ok(Frame { kind: self.buffer[0], body: &self.buffer[HEAD..length] })
    }

    async fn read<R: AsyncRead + Unpin>(&mut self, from: &mut R) -> std::io::Result<()> {
        if self.buffer.is_empty() && self.buffer.capacity() > 2 * ROOM {
            // A message was larger than all others.
            self.buffer = BytesMut::new();
        }
        // As much again as is there: a long message is given room as it arrives, whatever length it claims.
        let room = ROOM.saturating_sub(self.buffer.len()).max(self.buffer.len());
        self.buffer.reserve(room);
        match from.read_buf(&mut self.buffer).await? {
            0 => Err(std::io::Error::new(
                std::io::ErrorKind::UnexpectedEof,
                "the server closed the connection",
            )),
            _ => Ok(()),
        }
    }
}

/// The length of the message in front, if all of it is there.
fn whole(buffer: &[u8]) -> std::io::Result<Option<usize>> {
    let Some((head, _)) = buffer.split_first_chunk::<HEAD>() else { return Ok(None) };
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length < HEAD - 1 || length > i32::MAX as usize {
        let problem = format!("a message {:?} of {length} bytes", char::from(head[0]));
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, problem));
    }
    Ok((buffer.len() > length).then_some(length + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt as _;

    fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("short").to_be_bytes();
        [&[kind][..], &length, body].concat()
    }

    proptest! {
        #[test]
        fn however_they_arrive_they_are_what_was_sent(
            bodies in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..300)), 0..20),
            cuts in prop::collection::vec(1..200_usize, 1..20),
        ) {
            let sent: Vec<u8> = bodies.iter().flat_map(|(kind, body)| frame(*kind, body)).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let found = runtime.block_on(async {
                let (mut near, mut far) = tokio::io::duplex(1 << 20);
                let (mut frames, mut found, mut rest) = (Frames::default(), Vec::new(), &sent[..]);
                for cut in cuts.iter().cycle() {
                    if rest.is_empty() {
                        break;
                    }
                    let (now, later) = rest.split_at(rest.len().min(*cut));
                    far.write_all(now).await.expect("there is room");
                    rest = later;
                    while let Some(frame) = frames.next(&mut near).now_or_never() {
                        let frame = frame.expect("a message");
                        found.push((frame.kind, frame.body.to_vec()));
                    }
                }
                found
            });
            prop_assert_eq!(found, bodies);
        }
    }

    #[tokio::test]
    async fn a_long_message_finds_room_that_is_given_back() {
        let long = vec![7; 5 * ROOM];
        let sent = [frame(b'd', &long), frame(b'd', b"short"), frame(b'd', b"later")].concat();
        let (mut reads, mut frames) = (&sent[..], Frames::default());
        assert_eq!(frames.next(&mut reads).await.expect("a message"), Frame { kind: b'd', body: &long[..] });
        assert_eq!(frames.next(&mut reads).await.expect("a message").body, b"short");
        assert_eq!(frames.next(&mut reads).await.expect("a message").body, b"later");
        frames.next(&mut reads).await.expect_err("the end");
        assert!(frames.buffer.capacity() <= 2 * ROOM, "{}", frames.buffer.capacity());
    }

    #[tokio::test]
    async fn nonsense_is_named() {
        for (bytes, problem) in [
            (&b"d\0\0\0\x03"[..], "a message 'd' of 3 bytes"),
            (b"d\xff\xff\xff\xff", "a message 'd' of 4294967295 bytes"),
            (b"d\0\0\0\x09half", "the server closed the connection"),
        ] {
            let error = Frames::default().next(&mut &bytes[..]).await.expect_err(problem).to_string();
            assert_eq!(error, problem);
        }
    }
}
