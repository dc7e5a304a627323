//! What can be looked at.

use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use saga_core::admin::{BlockedRuns, DefinitionView, Entry, Page, Preview, Report, Told, View, Wanted, tell};
use saga_core::store::{Counts, Manifest, State as RunState, Summary, WorkerInfo};
use saga_core::{Name, RunId, WorkerId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::App;
use super::problem::Problem;
use super::token::{Caller, Role};

type Answer<T> = Result<Json<T>, Problem>;

/// How long the store may take before it counts as not ready.
const READY_WITHIN: Duration = Duration::from_secs(2);

/// The process answers: nothing else is asked, so that a slow store restarts nobody.
pub(crate) async fn livez() -> &'static str {
    "alive\n"
}

/// The store answers.
pub(crate) async fn readyz(State(app): State<App>) -> (StatusCode, &'static str) {
    match tokio::time::timeout(READY_WITHIN, app.admin.workers()).await {
        Ok(Ok(_)) => (StatusCode::OK, "ready\n"),
        Ok(Err(error)) => {
            tracing::warn!(%error, "not ready");
            (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer as it should\n")
        }
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer in time\n"),
    }
}

pub(crate) async fn me(State(app): State<App>, Extension(caller): Extension<Caller>) -> Json<Value> {
    Json(json!({ "name": caller.name, "role": caller.role, "title": &*app.title }))
}

/// The longest page.
const LIMIT_MOST: usize = 1000;

pub(crate) async fn list(
    State(app): State<App>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Answer<Page> {
    Ok(Json(app.admin.list(&wanted(parameters)?).await?))
}

/// Reads what is wanted. `attribute` may be given several times; what is empty is as good as left out.
fn wanted(parameters: Vec<(String, String)>) -> Result<Wanted, Problem> {
    let mut wanted = Wanted::default();
    for (name, value) in parameters.into_iter().filter(|(_, value)| !value.is_empty()) {
        let bad = |what: &str| Problem::bad(format!("{name}={value:?}: {what}"));
        match name.as_str() {
            "definition" => wanted.definition = Some(Name::new(&value).map_err(|e| bad(&e.to_string()))?),
            "state" => {
                wanted.state = Some(RunState::from_name(&value).ok_or_else(|| bad("there is no such state"))?)
            }
            "attribute" => {
                let (key, value) = value.split_once('=').ok_or_else(|| bad("write attribute=NAME=VALUE"))?;
                wanted.attributes.set(key, value).map_err(|e| bad(&e.to_string()))?;
            }
            "older_than_seconds" => {
                let seconds = value.parse().map_err(|_| bad("it is a number of seconds"))?;
                wanted.older_than = Some(Duration::from_secs(seconds));
            }
            "before" => wanted.before = Some(value.parse().map_err(|_| bad("it is a run's id"))?),
            "limit" => {
                let limit: usize = value.parse().map_err(|_| bad("it is a number"))?;
                wanted.limit = limit.min(LIMIT_MOST);
            }
            "error" => {
                let error = value.parse().map_err(|error: saga_core::BadErrorId| bad(&error.to_string()))?;
                wanted.error = Some(error);
            }
            "id" => wanted.saga = Some(value),
            _ => return Err(Problem::bad(format!("there is no parameter {name:?}"))),
        }
    }
    Ok(wanted)
}

pub(crate) async fn find(
    State(app): State<App>,
    Path((definition, saga)): Path<(Name, String)>,
) -> Answer<Summary> {
    Ok(Json(app.admin.find(&definition, &saga).await?))
}

#[derive(Debug, Deserialize)]
pub(crate) struct ViewQuery {
    #[serde(default)]
    payloads: bool,
}

pub(crate) async fn view(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(run): Path<RunId>,
    Query(query): Query<ViewQuery>,
) -> Answer<View> {
    if query.payloads && caller.role < Role::Operator {
        let detail = "payloads hold what customers told the service; an operator's token is needed";
        return Err(Problem::new(StatusCode::FORBIDDEN, "operator_needed", detail));
    }
    let view = app.admin.view(run).await?;
    Ok(Json(if query.payloads { view } else { view.without_payloads() }))
}

/// One commit in words.
#[derive(Debug, Serialize)]
pub(crate) struct TimelineEntry {
    number: u32,
    at: saga_core::journal::Timestamp,
    worker: Option<WorkerId>,
    told: Vec<Told>,
}

pub(crate) async fn timeline(State(app): State<App>, Path(run): Path<RunId>) -> Answer<Vec<TimelineEntry>> {
    let entries = app.admin.journal(run).await?.into_iter();
    let told = entries.map(|Entry { number, at, worker, records, .. }| TimelineEntry {
        number,
        at,
        worker,
        told: records.iter().map(tell).collect(),
    });
    Ok(Json(told.collect()))
}

pub(crate) async fn journal(
    State(app): State<App>,
    Path(run): Path<RunId>,
) -> Result<impl IntoResponse, Problem> {
    let entries = app.admin.journal(run).await?;
    let lines: String = entries.iter().map(|entry| entry.to_line() + "\n").collect();
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], lines))
}

pub(crate) async fn preview(State(app): State<App>, Path(run): Path<RunId>) -> Answer<Preview> {
    Ok(Json(app.admin.preview_cancel(run).await?))
}

#[derive(Debug, Deserialize)]
pub(crate) struct BlockedQuery {
    definition: Option<Name>,
}

pub(crate) async fn blocked(State(app): State<App>, Query(query): Query<BlockedQuery>) -> Answer<Value> {
    let blocked = app.admin.blocked(query.definition.as_ref()).await?;
    let groups = blocked.groups();
    let BlockedRuns { mut runs, complete } = blocked;
    let shown = runs.len() <= LIMIT_MOST;
    runs.truncate(LIMIT_MOST);
    Ok(Json(json!({ "groups": groups, "runs": runs, "complete": complete && shown })))
}

pub(crate) async fn definitions(State(app): State<App>) -> Answer<Vec<DefinitionView>> {
    Ok(Json(app.admin.definitions().await?))
}

pub(crate) async fn workers(State(app): State<App>) -> Answer<Vec<WorkerInfo>> {
    Ok(Json(app.admin.workers().await?))
}

/// `Age` says how old the count is.
pub(crate) async fn counts(
    State(app): State<App>,
) -> Result<([(HeaderName, String); 1], Json<Vec<Counts>>), Problem> {
    let unknown = |why| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_counted", why);
    let count = app.metrics.counts(&app.admin).await.map_err(unknown)?;
    Ok(([(header::AGE, count.age().to_string())], Json(count.runs)))
}

pub(crate) async fn check(State(app): State<App>, Json(shipped): Json<Vec<Manifest>>) -> Answer<Report> {
    Ok(Json(app.admin.check(&shipped).await?))
}
