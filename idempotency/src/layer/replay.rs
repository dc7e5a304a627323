//! From a response to a kept answer, and back.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use super::body::Body;
use super::problem::Problem;
use crate::headers::{IDEMPOTENCY_STATUS, IDEMPOTENT_REPLAYED, Status};
use crate::{Answer, Content};

/// The headers that are kept by default: what describes the body, and what names the thing that was made.
pub(super) const DEFAULT_HEADERS: [HeaderName; 13] = [
    header::CONTENT_TYPE,
    header::CONTENT_LANGUAGE,
    header::CONTENT_ENCODING,
    header::CONTENT_DISPOSITION,
    header::CONTENT_LOCATION,
    header::LOCATION,
    header::ETAG,
    header::LAST_MODIFIED,
    header::LINK,
    header::RETRY_AFTER,
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
];

/// Headers that belong to one caller's session.
pub(super) fn is_secret(name: &HeaderName) -> bool {
    [
        header::SET_COOKIE,
        header::COOKIE,
        header::AUTHORIZATION,
        header::PROXY_AUTHORIZATION,
        header::WWW_AUTHENTICATE,
        header::PROXY_AUTHENTICATE,
    ]
    .contains(name)
        || name == "authentication-info"
        || name == "set-cookie2"
}

/// What is kept of a response.
pub(super) fn answer(
    parts: &http::response::Parts,
    content: Content,
    trailers: Option<&HeaderMap>,
    kept_headers: &[HeaderName],
) -> Answer {
    let kept = |headers: &HeaderMap| {
        let kept = headers.iter().filter(|(name, _)| kept_headers.contains(name));
        kept.map(|(name, value)| (name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes())))
            .collect()
    };
    Answer {
        status: parts.status.as_u16(),
        headers: kept(&parts.headers),
        body: content,
        trailers: trailers.map(kept).unwrap_or_default(),
    }
}

/// A kept answer as a response: the same status, bytes and kept headers.
pub(super) fn response(answer: Answer, docs: Option<&str>) -> Response<Body> {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let mut response = match answer.body {
        Content::Kept(bytes) => {
            let trailers = (!answer.trailers.is_empty()).then(|| headers(answer.trailers));
            let mut response = Response::new(Body::whole(bytes, trailers));
            *response.status_mut() = status;
            *response.headers_mut() = headers(answer.headers);
            response
        }
        Content::TooLarge | Content::Broken => {
            let mut response = Problem::not_retained(status).into_response(docs);
            let describes_the_body = |name: &HeaderName| name.as_str().starts_with("content-");
            for (name, value) in headers(answer.headers) {
                if let Some(name) = name.filter(|name| !describes_the_body(name)) {
                    response.headers_mut().append(name, value);
                }
            }
            response
        }
    };
    response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    response.headers_mut().insert(IDEMPOTENCY_STATUS, Status::Kept.value());
    response
}

fn headers(fields: Vec<(String, Bytes)>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(fields.len() + 2);
    for (name, value) in fields {
        // Both were taken from a response: they are valid unless the row was damaged.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_maybe_shared(value)) {
            headers.append(name, value);
        }
    }
    headers
}
