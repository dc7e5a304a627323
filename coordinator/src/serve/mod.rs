//! `saga serve`: the HTTP API and the console.
//!
//! # Who may do what
//!
//! Without tokens it listens on loopback only, and whoever is on this machine may do everything. It does
//! not listen anywhere else without tokens. With tokens every question about sagas needs one; a *viewer*
//! looks, an *operator* also sees payloads and asks sagas to do things. It speaks plain HTTP: put it
//! behind something that speaks TLS before a token crosses a network.
//!
//! # What a browser could be tricked into
//!
//! The console's page loads nothing from elsewhere and runs no inline script (see `guard`). A request that
//! changes something must be JSON and, when a browser sent it, come from the console's own origin. Without
//! tokens only requests that name this machine in `Host` are answered, so that a foreign page whose name
//! resolves to loopback gets nothing.

mod api;
mod ask;
mod console;
mod guard;
mod metrics;
mod problem;
mod routes;
#[cfg(test)]
mod tests;
mod token;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use clap::Args;
use saga_core::admin::Admin;

use crate::fault::{Exit, Fault};
use metrics::Metrics;
use token::{BadTokens, Tokens};

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where to listen. Beyond loopback it needs tokens.
    #[arg(long, default_value = "127.0.0.1:7400", env = "SAGA_LISTEN", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// A file with a line `NAME ROLE TOKEN` per person or program; roles are viewer and operator.
    ///
    /// Requests are then kept in journals under that NAME. For a single operator's token without a name
    /// set SAGA_TOKEN instead. Make a token with: openssl rand -hex 32
    #[arg(long, env = "SAGA_TOKENS", value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// What the console calls this store: production, say.
    #[arg(long, env = "SAGA_TITLE", default_value = "sagas", value_name = "TEXT")]
    title: String,
}

/// What every handler works with.
#[derive(Clone, Debug)]
pub(crate) struct App {
    admin: Admin,
    access: Arc<Tokens>,
    metrics: Arc<Metrics>,
    title: Arc<str>,
}

impl Serve {
    pub(crate) async fn run(self, admin: Admin) -> Result<(), Fault> {
        let usage = |bad: BadTokens| Fault::usage(bad.to_string());
        let tokens = match (&self.tokens, std::env::var("SAGA_TOKEN").ok()) {
            (Some(_), Some(_)) => {
                return Err(Fault::usage("both --tokens and SAGA_TOKEN are given: which one holds?"));
            }
            (Some(file), None) => Tokens::read(file).map_err(usage)?,
            (None, Some(token)) => Tokens::one(&token).map_err(usage)?,
            (None, None) => Tokens::none(),
        };
        if tokens.are_none() && !self.listen.ip().is_loopback() {
            let message = format!(
                "refusing to listen on {} without tokens: whoever reaches it could steer sagas; give --tokens \
                 FILE or SAGA_TOKEN, or listen on 127.0.0.1",
                self.listen
            );
            return Err(Fault::usage(message));
        }
        let listener = tokio::net::TcpListener::bind(self.listen).await;
        let cannot = |error| Fault::new(Exit::Usage, format!("cannot listen on {}: {error}", self.listen));
        let listener = listener.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let guarded = if tokens.are_none() { "no token needed on this machine" } else { "tokens needed" };
        eprintln!("saga: console and API on http://{address} ({guarded})");
        let router = App::new(admin, tokens, &self.title).router();
        let served = axum::serve(listener, router).with_graceful_shutdown(asked_to_stop());
        served.await.map_err(|error| Fault::new(Exit::Store, format!("the server ended: {error}")))
    }
}

impl App {
    fn new(admin: Admin, access: Tokens, title: &str) -> Self {
        Self { admin, access: Arc::new(access), metrics: Arc::default(), title: title.into() }
    }

    fn router(self) -> Router {
        routes::router(self)
    }
}

/// Resolves at SIGTERM or SIGINT; requests under way are answered before the server ends.
async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
