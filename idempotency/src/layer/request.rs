//! From a request to what is asked of the store, or to a refusal before anything is.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, header};
use http_body::Body as HttpBody;

use super::body::{self, Body, BoxError, Read};
use super::problem::Problem;
use super::{Settings, target};
use crate::barrier::{Call, SAGA_RUN};
use crate::headers::IDEMPOTENCY_KEY;
use crate::row::Stamp;
use crate::seal::Place;
use crate::{ClaimRequest, Direction, Fingerprint, Key, KeyId};

/// What a request under a key asks for. Its head is apart: it goes to the handler.
pub(crate) struct Job {
    pub(crate) body: Bytes,
    pub(crate) id: KeyId,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) direction: Direction,
    pub(crate) key: Option<Key>,
    pub(crate) of_saga: bool,
}

#[allow(clippy::large_enum_variant, reason = "returned and matched at once")]
pub(crate) enum Entry {
    /// Not protected.
    Pass(Request<Body>),
    /// A request under a key, read whole.
    Run(Box<Job>, Parts),
    Refuse(Problem),
}

/// Looks at a request. Reads nothing of its body unless it is under a key.
pub(crate) async fn enter<B>(settings: &Settings, request: Request<B>) -> Entry
where
    B: HttpBody + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let (parts, body) = request.into_parts();
    if !settings.protects(&parts) {
        return Entry::Pass(Request::from_parts(parts, Body::stream(body)));
    }
    let named = match name(settings, &parts.headers) {
        Ok(Some(named)) => named,
        Ok(None) if settings.required => return Entry::Refuse(Problem::key_missing()),
        Ok(None) => return Entry::Pass(Request::from_parts(parts, Body::stream(body))),
        Err(problem) => return Entry::Refuse(problem),
    };
    let Some(scope) = (settings.scope)(&parts) else { return Entry::Refuse(Problem::scope_missing()) };
    let length =
        parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > settings.body_max as u64) {
        return Entry::Refuse(Problem::body_too_large(settings.body_max));
    }
    let body = match body::read(body, settings.body_max).await {
        Read::Whole(body, _) => body,
        Read::TooLarge(_) => return Entry::Refuse(Problem::body_too_large(settings.body_max)),
        Read::Broken(_) => return Entry::Refuse(Problem::body_unreadable()),
    };
    let fingerprint = target::fingerprint(&settings.secret, &parts, &body, settings.canonical_json);
    let (id, direction, key, of_saga) = match named {
        Name::Key(key) => (settings.secret.key_id(&scope, &key), Direction::Action, Some(key), false),
        Name::Call(call) => (call.key_id(&settings.secret, &scope), call.direction, None, true),
    };
    Entry::Run(Box::new(Job { body, id, fingerprint, direction, key, of_saga }), parts)
}

enum Name {
    Key(Key),
    Call(Call),
}

fn name(settings: &Settings, headers: &HeaderMap) -> Result<Option<Name>, Problem> {
    if settings.barrier {
        let repeated = |name: &str| headers.get_all(name).iter().nth(1).is_some();
        let probe = Call::read(|name| headers.get(name).map(http::HeaderValue::as_bytes));
        match probe {
            Ok(Some(call)) => {
                if let Some((name, _)) = call.headers().iter().find(|(name, _)| repeated(name)) {
                    return Err(Problem::saga_headers(format!("the header {name} is repeated")));
                }
                return Ok(Some(Name::Call(call)));
            }
            Ok(None) => {}
            Err(error) => return Err(Problem::saga_headers(error.to_string())),
        }
    }
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::key_malformed("the header is repeated: send one key"));
    }
    let key = Key::from_header(value.as_bytes(), settings.syntax);
    key.map(|key| Some(Name::Key(key))).map_err(|error| Problem::key_malformed(error.to_string()))
}

impl Settings {
    /// A saga's call is one by its headers: a compensation may well be a DELETE, and a settlement a GET.
    fn protects(&self, parts: &Parts) -> bool {
        self.methods.contains(&parts.method) || self.barrier && parts.headers.contains_key(SAGA_RUN)
    }
}

impl Job {
    /// What is asked of the store.
    pub(crate) fn claim(&self, settings: &Settings) -> ClaimRequest {
        ClaimRequest {
            id: self.id,
            fingerprint: self.fingerprint,
            direction: self.direction,
            stamp: Stamp::random(),
            lease: settings.lease,
            keep: settings.keep_barrier,
            in_doubt: settings.in_doubt,
            undo_by_key: settings.undo_by_key,
            point: None,
        }
    }

    /// How long an answer to it is kept.
    pub(crate) fn keep(&self, settings: &Settings) -> std::time::Duration {
        if self.of_saga { settings.keep_barrier } else { settings.keep }
    }

    /// Where an answer to it, or to its action, is sealed.
    pub(crate) fn place(&self, direction: Direction) -> Place<'_> {
        let caller_key = self.key.as_ref().map_or(&b""[..], |key| key.expose().as_bytes());
        Place { id: &self.id, direction, caller_key }
    }

    /// The request for the handler.
    pub(crate) fn request(&self, parts: Parts) -> Request<Body> {
        Request::from_parts(parts, Body::from(self.body.clone()))
    }
}
