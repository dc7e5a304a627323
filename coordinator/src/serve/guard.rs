//! What stands before every handler.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::App;
use super::problem::Problem;
use super::token::{Caller, Role};

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everyone: it tells nothing about sagas.
    Open,
    /// Whoever may look.
    Viewer,
    /// Whoever may steer.
    Operator,
}

/// Lets a request through to its handler, with its [`Caller`], or answers why not.
pub(crate) async fn guard(
    State((app, access)): State<(App, Access)>,
    mut request: Request,
    next: Next,
) -> Response {
    match admit(&app, access, request.method(), request.headers()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

fn admit(app: &App, access: Access, method: &Method, headers: &HeaderMap) -> Result<Caller, Problem> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if app.access.are_none() && !names_this_machine(host) {
        let detail = "without tokens only requests to localhost are answered";
        return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "foreign_host", detail));
    }
    let caller = match (access, app.access.are_none()) {
        (Access::Open, _) => Caller { name: None, role: Role::Viewer },
        (_, true) => Caller { name: None, role: Role::Operator },
        (_, false) => {
            let caller = bearer(headers).and_then(|token| app.access.caller(token));
            caller.cloned().ok_or_else(|| {
                Problem::new(StatusCode::UNAUTHORIZED, "token_needed", "send Authorization: Bearer TOKEN")
            })?
        }
    };
    if access == Access::Operator && caller.role < Role::Operator {
        let detail = "this token may look only; an operator's is needed";
        return Err(Problem::new(StatusCode::FORBIDDEN, "operator_needed", detail));
    }
    if !method.is_safe() {
        not_forged(headers, host)?;
    }
    Ok(caller)
}

/// Refuses what a foreign page could have made a browser send.
fn not_forged(headers: &HeaderMap, host: &str) -> Result<(), Problem> {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let kind = text(header::CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let detail = "send Content-Type: application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "json_needed", detail));
    }
    let foreign = || Problem::new(StatusCode::FORBIDDEN, "foreign_origin", "this came from a foreign page");
    if let Some(origin) = text(header::ORIGIN) {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        if authority != Some(host) {
            return Err(foreign());
        }
    }
    match text(HeaderName::from_static("sec-fetch-site")) {
        None | Some("same-origin" | "none") => Ok(()),
        Some(_) => Err(foreign()),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Whether a `Host` header names loopback, whatever the port.
fn names_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(name, _)| name),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What every answer carries: a browser runs only the console's own script, embeds it nowhere, and keeps
/// no answer.
pub(crate) async fn harden(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in HARDENING {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

const HARDENING: [(&str, &str); 7] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri \
         'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cache-control", "no-store"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_known_by_its_names() {
        for ours in ["localhost", "LOCALHOST:7400", "127.0.0.1:7400", "127.8.9.1", "[::1]:7400", "[::1]"] {
            assert!(names_this_machine(ours), "{ours}");
        }
        for foreign in
            ["", "evil.example", "localhost.evil.example:7400", "10.0.0.1", "[::2]:1", "127.0.0.1.x:7400"]
        {
            assert!(!names_this_machine(foreign), "{foreign}");
        }
    }
}
