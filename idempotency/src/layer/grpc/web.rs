//! Where gRPC-Web says how a call ended: browsers read no trailers, so these are a last frame of the body.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};

use super::STATUS;

/// The status in a body of gRPC-Web, in its binary or its text form.
pub(super) fn status(headers: &HeaderMap, body: &[u8]) -> Option<u16> {
    let kind = headers.get(header::CONTENT_TYPE)?.as_bytes().strip_prefix(b"application/grpc-web")?;
    match kind.starts_with(b"-text") {
        true => in_frames(&decoded(body)?),
        false => in_frames(body),
    }
}

/// A frame is a flag, a length, and as many bytes.
fn in_frames(mut frames: &[u8]) -> Option<u16> {
    loop {
        let (&[flag, length @ ..], rest) = frames.split_first_chunk::<5>()?;
        let (frame, rest) = rest.split_at_checked(u32::from_be_bytes(length) as usize)?;
        if flag & 0x80 != 0 {
            return in_trailers(&String::from_utf8_lossy(frame));
        }
        frames = rest;
    }
}

fn in_trailers(trailers: &str) -> Option<u16> {
    let mut fields = trailers.lines().filter_map(|line| line.split_once(':'));
    let (_, status) = fields.find(|(name, _)| name.trim().eq_ignore_ascii_case(STATUS))?;
    status.trim().parse().ok()
}

/// Frames may be encoded each by itself: there is padding in the middle, too.
fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    for four in text.chunks(4) {
        STANDARD.decode_vec(four, &mut bytes).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: &str, body: &[u8]) -> Option<u16> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
        status(&headers, body)
    }

    #[test]
    fn a_status_is_found_behind_the_messages() {
        const BINARY: &[u8] = b"\0\0\0\0\x02ok\x80\0\0\0\x21grpc-message:no\r\nGRPC-Status:13\r\n";
        assert_eq!(of("application/grpc-web", BINARY), Some(13));
        assert_eq!(of("application/grpc-web+proto", b"\x80\0\0\0\x0egrpc-status: 0"), Some(0));
        assert_eq!(of("application/grpc-web-text", b"AAAAAAJvaw==gAAAABBncnBjLXN0YXR1czogOQ0K"), Some(9));
        assert_eq!(of("application/grpc", BINARY), None, "which has trailers");
    }

    #[test]
    fn what_is_cut_off_or_malformed_says_nothing() {
        let whole = b"\0\0\0\0\x02ok\x80\0\0\0\x0egrpc-status: 0";
        for length in 0..whole.len() {
            assert_eq!(of("application/grpc-web", &whole[..length]), None, "{length}");
        }
        assert_eq!(of("application/grpc-web", b"\x80\0\0\0\x0egrpc-status: x"), None);
        assert_eq!(of("application/grpc-web", b"\x80\xff\xff\xff\xffgrpc-status: 0"), None);
        assert_eq!(of("application/grpc-web-text", b"AAAAAAJvaw==gAA"), None);
    }
}
