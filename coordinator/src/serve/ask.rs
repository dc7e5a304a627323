//! What can be asked of sagas.

use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use saga_core::admin::{Bulk, By, Reply, Request};
use saga_core::{MailId, Payload, Place, RunId};
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::App;
use super::problem::Problem;
use super::token::Caller;

/// The longest time an answer is waited for, so that a proxy in between does not give up first.
const WAIT_MOST: Duration = Duration::from_secs(30);

/// A request, as it is sent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    verb: Verb,
    /// The place it is about.
    at: Option<Place>,
    /// What a resolved action would have given.
    #[serde(default, deserialize_with = "value")]
    output: Option<Payload>,
    who: Option<String>,
    why: Option<String>,
    /// The request's id: sent again with the same id it is asked once.
    mail: Option<MailId>,
    /// How long to wait for the answer.
    wait_seconds: Option<u64>,
}

/// A value as its sender wrote it, whatever it looks like: a payload itself is read as a journal keeps it.
fn value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Payload>, D::Error> {
    let sent = Option::<Box<RawValue>>::deserialize(deserializer)?;
    sent.map(|sent| Payload::from_json(sent.get().to_owned()).map_err(D::Error::custom)).transpose()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verb {
    Cancel,
    Retry,
    Skip,
    Resolve,
    Abandon,
}

/// Who asks and why. A named token speaks for nobody else.
fn by(caller: &Caller, who: Option<&String>, why: Option<&String>) -> Result<By, Problem> {
    let who = caller.name.as_ref().or(who);
    let who = who.ok_or_else(|| Problem::bad("who asks? Send \"who\""))?;
    let why = why.ok_or_else(|| Problem::bad("why? Send \"why\""))?;
    Ok(By::new(who, why)?)
}

impl Asked {
    fn request(&self) -> Result<Request, Problem> {
        let at = || self.at.clone().ok_or_else(|| Problem::bad("which place? Send \"at\""));
        Ok(match self.verb {
            Verb::Cancel => Request::Cancel,
            Verb::Abandon => Request::Abandon,
            Verb::Retry => Request::Retry { at: at()? },
            Verb::Skip => Request::Skip { at: at()? },
            Verb::Resolve => {
                let output = self.output.clone().unwrap_or_else(Payload::null);
                Request::Resolve { at: at()?, output }
            }
        })
    }
}

fn wait(seconds: Option<u64>) -> Duration {
    seconds.map_or(Duration::from_secs(10), Duration::from_secs).min(WAIT_MOST)
}

fn read<T>(body: Result<Json<T>, JsonRejection>) -> Result<T, Problem> {
    body.map(|Json(read)| read)
        .map_err(|rejected| Problem::new(rejected.status(), "bad_request", rejected.body_text()))
}

pub(crate) async fn ask(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(run): Path<RunId>,
    body: Result<Json<Asked>, JsonRejection>,
) -> Result<Json<Reply>, Problem> {
    let asked = read(body)?;
    let request = asked.request()?;
    let by = by(&caller, asked.who.as_ref(), asked.why.as_ref())?;
    let mail = asked.mail.unwrap_or_else(MailId::new);
    let reply = app.admin.request(run, mail, &request, &by, wait(asked.wait_seconds)).await?;
    tracing::info!(%run, who = by.who(), verb = ?asked.verb, answer = ?reply.answered, "asked");
    Ok(Json(reply))
}

pub(crate) async fn answer(
    State(app): State<App>,
    Path((run, mail)): Path<(RunId, MailId)>,
) -> Result<Json<Reply>, Problem> {
    Ok(Json(app.admin.answer(run, mail, Duration::ZERO).await?))
}

/// A request to a whole group, as it is sent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskedGroup {
    /// At most so many, the longest blocked first.
    limit: Option<usize>,
    /// Only say who would be asked.
    #[serde(default)]
    dry_run: bool,
    who: Option<String>,
    why: Option<String>,
    wait_seconds: Option<u64>,
}

pub(crate) async fn retry_group(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(group): Path<String>,
    body: Result<Json<AskedGroup>, JsonRejection>,
) -> Result<Json<Bulk>, Problem> {
    let AskedGroup { limit, dry_run, who, why, wait_seconds } = read(body)?;
    let by = by(&caller, who.as_ref(), why.as_ref())?;
    let bulk = app.admin.retry_group(&group, limit, &by, dry_run, wait(wait_seconds)).await?;
    tracing::info!(group, who = by.who(), dry_run, sagas = bulk.runs.len(), "a group was retried");
    Ok(Json(bulk))
}
