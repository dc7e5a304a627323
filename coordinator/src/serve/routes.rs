//! Every route, with who may use it: one table, from which the router is built and the tests are run.

use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode};
use axum::routing::{MethodRouter, get, post};
use axum::{Router, middleware};

use super::guard::{Access, guard, harden};
use super::problem::Problem;
use super::{App, api, ask, console, metrics};

/// One route.
pub(crate) struct Route {
    #[cfg_attr(not(test), expect(dead_code, reason = "the handler knows it; tests and the document ask"))]
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) access: Access,
    handler: MethodRouter<App>,
}

fn read(path: &'static str, access: Access, handler: MethodRouter<App>) -> Route {
    Route { method: Method::GET, path, access, handler }
}

fn write(path: &'static str, access: Access, handler: MethodRouter<App>) -> Route {
    Route { method: Method::POST, path, access, handler }
}

/// The largest body: a file of manifests.
const BODY_MOST: usize = 4 << 20;

/// The table. What is not in `openapi.json` is refused by a test, and the other way round.
pub(crate) fn routes() -> Vec<Route> {
    use Access::{Open, Operator, Viewer};
    vec![
        read("/", Open, get(console::page)),
        read("/console.js", Open, get(console::script)),
        read("/graph.js", Open, get(console::graph)),
        read("/console.css", Open, get(console::style)),
        read("/icon.svg", Open, get(console::icon)),
        read("/openapi.json", Open, get(console::openapi)),
        read("/livez", Open, get(api::livez)),
        read("/readyz", Open, get(api::readyz)),
        read("/metrics", Viewer, get(metrics::metrics)),
        read("/api/me", Viewer, get(api::me)),
        read("/api/runs", Viewer, get(api::list)),
        read("/api/runs/{run}", Viewer, get(api::view)),
        read("/api/runs/{run}/timeline", Viewer, get(api::timeline)),
        read("/api/runs/{run}/preview", Viewer, get(api::preview)),
        read("/api/runs/{run}/journal", Operator, get(api::journal)),
        read("/api/runs/{run}/requests/{mail}", Viewer, get(ask::answer)),
        write("/api/runs/{run}/requests", Operator, post(ask::ask)),
        read("/api/sagas/{definition}/{saga}", Viewer, get(api::find)),
        read("/api/blocked", Viewer, get(api::blocked)),
        write("/api/blocked/{group}/retry", Operator, post(ask::retry_group)),
        read("/api/definitions", Viewer, get(api::definitions)),
        read("/api/workers", Viewer, get(api::workers)),
        read("/api/counts", Viewer, get(api::counts)),
        write("/api/check", Viewer, post(api::check)),
    ]
}

pub(crate) fn router(app: App) -> Router {
    let mut router = Router::new();
    for Route { path, access, handler, .. } in routes() {
        let guarded = middleware::from_fn_with_state((app.clone(), access), guard);
        // Outside of `route_layer` so that a wrong method on a known path is guarded too.
        router = router.route(path, handler.layer(guarded));
    }
    router
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing here"))
        .layer(DefaultBodyLimit::max(BODY_MOST))
        .layer(middleware::from_fn(harden))
        .with_state(app)
}
