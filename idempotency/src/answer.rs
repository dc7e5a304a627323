//! An answer as it is kept.

use bytes::{Buf, BufMut, Bytes};

const VERSION: u8 = 1;

/// What a handler answered: status, the headers that may be kept, body, trailers.
///
/// The encoding is versioned and compact; a body is kept byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status, or 200 for what is not HTTP.
    pub status: u16,
    /// Names in lower case, and values, in order.
    pub headers: Vec<(String, Bytes)>,
    /// The body.
    pub body: Content,
    /// Trailers, for gRPC.
    pub trailers: Vec<(String, Bytes)>,
}

/// A kept body, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The bytes.
    Kept(Bytes),
    /// Larger than the limit: a tombstone stands for it. The effect took place and is not repeated.
    TooLarge,
    /// It broke off while it was read: the effect took place, the body is lost.
    Broken,
}

impl Answer {
    /// An answer of a status and a body.
    pub fn new(status: u16, body: impl Into<Bytes>) -> Self {
        Self { status, headers: Vec::new(), body: Content::Kept(body.into()), trailers: Vec::new() }
    }

    /// The encoded form, for a store.
    pub fn encode(&self) -> Bytes {
        let body: &[u8] = if let Content::Kept(body) = &self.body { body } else { &[] };
        let mut out = Vec::with_capacity(64 + body.len());
        out.put_u8(VERSION);
        out.put_u16(self.status);
        out.put_u8(match self.body {
            Content::Kept(_) => 0,
            Content::TooLarge => 1,
            Content::Broken => 2,
        });
        put_fields(&mut out, &self.headers);
        put_fields(&mut out, &self.trailers);
        out.put_slice(body);
        out.into()
    }

    /// Reads the encoded form. `None` if it is not one, or is of a later version.
    pub fn decode(encoded: &Bytes) -> Option<Self> {
        let mut rest = encoded.clone();
        if rest.remaining() < 4 || rest.get_u8() != VERSION {
            return None;
        }
        let (status, kind) = (rest.get_u16(), rest.get_u8());
        let (headers, trailers) = (fields(&mut rest)?, fields(&mut rest)?);
        let body = match kind {
            0 => Content::Kept(rest),
            1 => Content::TooLarge,
            2 => Content::Broken,
            _ => return None,
        };
        Some(Self { status, headers, body, trailers })
    }
}

fn put_fields(out: &mut Vec<u8>, fields: &[(String, Bytes)]) {
    out.put_u16(u16::try_from(fields.len()).unwrap_or(u16::MAX));
    for (name, value) in fields.iter().take(usize::from(u16::MAX)) {
        out.put_u32(u32::try_from(name.len()).expect("a header's name is short"));
        out.put_slice(name.as_bytes());
        out.put_u32(u32::try_from(value.len()).expect("a header's value is short"));
        out.put_slice(value);
    }
}

fn fields(rest: &mut Bytes) -> Option<Vec<(String, Bytes)>> {
    let count = (rest.remaining() >= 2).then(|| rest.get_u16())?;
    (0..count).map(|_| Some((String::from_utf8(field(rest)?.to_vec()).ok()?, field(rest)?))).collect()
}

fn field(rest: &mut Bytes) -> Option<Bytes> {
    let length = (rest.remaining() >= 4).then(|| rest.get_u32())?;
    let length = usize::try_from(length).ok()?;
    (rest.remaining() >= length).then(|| rest.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_survives_its_encoding() {
        let mut answer = Answer::new(201, &b"\x00body\xff"[..]);
        answer.headers.push(("location".into(), Bytes::from_static(b"/orders/1")));
        answer.trailers.push(("grpc-status".into(), Bytes::from_static(b"0")));
        for body in [answer.body.clone(), Content::TooLarge, Content::Broken] {
            answer.body = body;
            assert_eq!(Answer::decode(&answer.encode()).as_ref(), Some(&answer));
        }
    }

    #[test]
    fn a_cut_or_foreign_encoding_is_refused() {
        let mut answer = Answer::new(200, &b""[..]);
        answer.headers.push(("a".into(), Bytes::from_static(b"b")));
        let encoded = answer.encode();
        for cut in 0..encoded.len() {
            assert_eq!(Answer::decode(&encoded.slice(..cut)), None, "cut at {cut}");
        }
        assert_eq!(Answer::decode(&Bytes::from_static(b"\x02\x00\xc8\x00\x00\x00\x00\x00")), None);
    }
}
