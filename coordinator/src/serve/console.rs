//! The console's files, compiled in.

use axum::http::header;
use axum::response::IntoResponse;

pub(crate) const PAGE: &str = include_str!("../../console/index.html");
pub(crate) const SCRIPT: &str = include_str!("../../console/console.js");
pub(crate) const GRAPH: &str = include_str!("../../console/graph.js");
pub(crate) const STYLE: &str = include_str!("../../console/console.css");
pub(crate) const ICON: &str = include_str!("../../console/icon.svg");
pub(crate) const OPENAPI: &str = include_str!("../../openapi.json");

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind)], text)
}

pub(crate) async fn page() -> impl IntoResponse {
    file("text/html; charset=utf-8", PAGE)
}

pub(crate) async fn script() -> impl IntoResponse {
    file("text/javascript; charset=utf-8", SCRIPT)
}

pub(crate) async fn graph() -> impl IntoResponse {
    file("text/javascript; charset=utf-8", GRAPH)
}

pub(crate) async fn style() -> impl IntoResponse {
    file("text/css; charset=utf-8", STYLE)
}

pub(crate) async fn icon() -> impl IntoResponse {
    file("image/svg+xml", ICON)
}

pub(crate) async fn openapi() -> impl IntoResponse {
    file("application/json", OPENAPI)
}
