//! A body that is either already here or still being streamed.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of requests and responses that pass through the layer.
#[derive(Default)]
pub struct Body(Inner);

#[derive(Default)]
enum Inner {
    #[default]
    Empty,
    Whole {
        bytes: Option<Bytes>,
        trailers: Option<HeaderMap>,
    },
    Stream {
        read: Option<Bytes>,
        rest: Pin<Box<dyn HttpBody<Data = Bytes, Error = BoxError> + Send>>,
    },
}

impl Body {
    /// Nothing.
    pub fn empty() -> Self {
        Self::default()
    }

    pub(crate) fn whole(bytes: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self(Inner::Whole { bytes: Some(bytes).filter(|bytes| !bytes.is_empty()), trailers })
    }

    /// What is streamed by another body.
    pub(crate) fn stream<B>(body: B) -> Self
    where
        B: HttpBody + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        Self::continued(Bytes::new(), erase(body))
    }

    pub(crate) fn continued(
        read: Bytes,
        rest: Pin<Box<dyn HttpBody<Data = Bytes, Error = BoxError> + Send>>,
    ) -> Self {
        Self(Inner::Stream { read: Some(read).filter(|read| !read.is_empty()), rest })
    }
}

fn erase<B>(body: B) -> Pin<Box<dyn HttpBody<Data = Bytes, Error = BoxError> + Send>>
where
    B: HttpBody + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    Box::pin(
        body.map_frame(|frame| frame.map_data(|mut data| data.copy_to_bytes(data.remaining())))
            .map_err(Into::into),
    )
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::whole(bytes, None)
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.0 {
            Inner::Empty => "Body(empty)",
            Inner::Whole { .. } => "Body(whole)",
            Inner::Stream { .. } => "Body(stream)",
        })
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Inner::Empty => Poll::Ready(None),
            Inner::Whole { bytes, trailers } => {
                let frame = bytes.take().map(Frame::data).or_else(|| trailers.take().map(Frame::trailers));
                Poll::Ready(frame.map(Ok))
            }
            Inner::Stream { read, rest } => match read.take() {
                Some(read) => Poll::Ready(Some(Ok(Frame::data(read)))),
                None => rest.as_mut().poll_frame(cx),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Empty => true,
            Inner::Whole { bytes, trailers } => bytes.is_none() && trailers.is_none(),
            Inner::Stream { read, rest } => read.is_none() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Empty => SizeHint::with_exact(0),
            Inner::Whole { bytes, .. } => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Inner::Stream { read, rest } => {
                let read = read.as_ref().map_or(0, |b| b.len() as u64);
                let mut hint = rest.size_hint();
                if let Some(upper) = hint.upper() {
                    hint.set_upper(upper + read);
                }
                hint.set_lower(hint.lower() + read);
                hint
            }
        }
    }
}

/// A body as far as it was read.
pub(crate) enum Read {
    Whole(Bytes, Option<HeaderMap>),
    /// More than the limit, or known to be endless: what was read, and the rest.
    TooLarge(Body),
    Broken(BoxError),
}

/// Reads a body up to `limit` bytes.
pub(crate) async fn read<B>(body: B, limit: usize) -> Read
where
    B: HttpBody + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let mut rest = erase(body);
    if rest.size_hint().lower() > limit as u64 {
        return Read::TooLarge(Body::continued(Bytes::new(), rest));
    }
    let (mut one, mut many): (Bytes, Option<BytesMut>) = (Bytes::new(), None);
    let mut trailers = None;
    while let Some(frame) = rest.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return Read::Broken(error),
        };
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                trailers = frame.into_trailers().ok();
                continue;
            }
        };
        // Almost every body is a single frame, which needs no copy.
        let before = many.as_ref().map_or(one.len(), BytesMut::len);
        match &mut many {
            None if one.is_empty() => one = data.clone(),
            None => {
                let mut joined = BytesMut::with_capacity(one.len() + data.len());
                joined.extend_from_slice(&one);
                joined.extend_from_slice(&data);
                many = Some(joined);
            }
            Some(joined) => joined.extend_from_slice(&data),
        }
        if before + data.len() > limit {
            let read = many.map_or(one, BytesMut::freeze);
            return Read::TooLarge(Body::continued(read, rest));
        }
    }
    Read::Whole(many.map_or(one, BytesMut::freeze), trailers)
}
