//! Sending by reqwest.

use std::time::Duration;

use reqwest::{Client, ClientBuilder, redirect, retry};

use super::{Outcome, sign};
use crate::Key;
use crate::barrier::Call;

/// A reqwest client that sends a request as it is, once: it follows no redirect and repeats nothing by itself.
///
/// A client that does tells only of the last request it made. If that was refused a connection, nothing is known about
/// the first one, which may have taken effect; if it was answered with a page, that is nobody's answer to the call.
///
/// ```
/// # fn main() -> Result<(), reqwest::Error> {
/// use std::time::Duration;
///
/// use idempotency::client::Http;
///
/// let http = Http::new(reqwest::Client::builder().timeout(Duration::from_secs(10)))?;
/// let request = http.post("http://payments/charges").body("500");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Http(Client);

impl Http {
    /// With these settings, whatever they say about redirects and retries.
    ///
    /// # Errors
    /// As [`ClientBuilder::build`].
    pub fn new(settings: ClientBuilder) -> Result<Self, reqwest::Error> {
        settings.redirect(redirect::Policy::none()).retry(retry::never()).build().map(Self)
    }
}

impl std::ops::Deref for Http {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.0
    }
}

/// One call under one key, sent as often as it takes.
///
/// ```no_run
/// # async fn charge() -> Result<(), Box<dyn std::error::Error>> {
/// use idempotency::Key;
/// use idempotency::client::{Http, Outcome, Retries, Send};
///
/// let http = Http::new(reqwest::Client::builder())?;
/// let request = http.post("http://payments/charges").json(&serde_json::json!({ "cents": 500 }));
/// let send = Send::new(Key::new("0192f3a1/charge/action")?).retries(Retries::default());
/// match send.request(&http, request).await {
///     Outcome::Applied(response) => println!("charged: {}", response.text().await?),
///     Outcome::Rejected(response) => println!("declined: {}", response.status()),
///     Outcome::NotApplied { why, .. } => println!("nothing happened: {why}"),
///     Outcome::Unknown { why, .. } => println!("ask again later, with the same key: {why}"),
///     Outcome::Mismatch { why } => println!("a mistake in this program: {why}"),
/// }
/// # Ok(()) }
/// ```
///
/// # Cancellation
/// Dropping the future stops waiting. The request may have been, or be, carried out: the outcome is unknown.
#[derive(Clone, Debug)]
pub struct Send {
    key: Key,
    call: Option<Call>,
    retries: Retries,
}

/// How often a call is repeated within one [`Send`], always under the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Attempts in all. Default: 4.
    pub attempts_max: u32,
    /// The first pause; each further one is twice as long. The server's `Retry-After` overrides it. Default:
    /// 100 ms.
    pub pause: Duration,
    /// The longest pause, whoever asks for it. Default: 10 s.
    pub pause_max: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self { attempts_max: 4, pause: Duration::from_millis(100), pause_max: Duration::from_secs(10) }
    }
}

impl Retries {
    /// One attempt: for callers that have a retry policy of their own, such as a saga.
    pub fn none() -> Self {
        Self { attempts_max: 1, ..Self::default() }
    }
}

impl Send {
    /// A call under `key`, once. Keep the key where it survives this process: that is what makes a retry safe.
    pub fn new(key: Key) -> Self {
        Self { key, call: None, retries: Retries::none() }
    }

    /// With the headers of a saga's step, for a participant's [barrier](crate::barrier).
    pub fn call(mut self, call: Call) -> Self {
        self.call = Some(call);
        self
    }

    /// Repeats what had no effect or an unknown one.
    pub fn retries(mut self, retries: Retries) -> Self {
        self.retries = retries;
        self
    }

    /// Sends the request by `http`, whichever client it was made with.
    ///
    /// Once an attempt's outcome was unknown, a later refused connection does not make it "not applied": the
    /// doubt stays until the server has answered by the key.
    pub async fn request(self, http: &Http, request: reqwest::RequestBuilder) -> Outcome<reqwest::Response> {
        let mut request = match request.build() {
            Ok(request) => request,
            Err(error) => return Outcome::NotApplied { retry_after: None, why: error.to_string() },
        };
        sign(request.headers_mut(), &self.key, self.call.as_ref());
        let mut call = self.call.clone();
        let mut doubt: Option<String> = None;
        let mut pause = self.retries.pause;
        let mut attempt = 1;
        loop {
            // A body that is a stream can be sent only once.
            let (now, again) = match request.try_clone() {
                Some(copy) => (copy, attempt < self.retries.attempts_max),
                None => (std::mem::replace(&mut request, nothing()), false),
            };
            let outcome = match http.execute(now).await {
                Ok(response) => {
                    let headers = response.headers().clone();
                    Outcome::of(response.status(), &headers, response)
                }
                // Sent once: this connection would have been the first one's.
                Err(error) if error.is_connect() || error.is_builder() => {
                    Outcome::NotApplied { retry_after: None, why: cause(&error) }
                }
                Err(error) => Outcome::Unknown { retry_after: None, why: cause(&error) },
            };
            let asked = match &outcome {
                Outcome::NotApplied { retry_after, .. } => *retry_after,
                Outcome::Unknown { retry_after, why } => {
                    doubt.get_or_insert_with(|| why.clone());
                    *retry_after
                }
                Outcome::Applied(_) | Outcome::Rejected(_) | Outcome::Mismatch { .. } => return outcome,
            };
            if !again {
                return doubtful(outcome, doubt);
            }
            let spread = pause.mul_f64(0.5 + rand::random::<f64>() / 2.0);
            tokio::time::sleep(asked.unwrap_or(spread).min(self.retries.pause_max)).await;
            pause = (pause * 2).min(self.retries.pause_max);
            attempt += 1;
            if let Some(call) = &mut call {
                call.attempt = call.attempt.saturating_add(1);
                sign(request.headers_mut(), &self.key, Some(call));
            }
        }
    }
}

/// Stands where a request was that has been sent for good.
fn nothing() -> reqwest::Request {
    reqwest::Request::new(http::Method::GET, "http://localhost".parse().expect("a valid URL"))
}

/// Doubt is sticky.
fn doubtful<R>(outcome: Outcome<R>, doubt: Option<String>) -> Outcome<R> {
    match (outcome, doubt) {
        (Outcome::NotApplied { retry_after, why }, Some(doubt)) => {
            Outcome::Unknown { retry_after, why: format!("{doubt}; then: {why}") }
        }
        (outcome, _) => outcome,
    }
}

/// reqwest says what it did; its sources say what went wrong.
fn cause(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
