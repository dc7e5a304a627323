//! `saga`: what operators run. It shows sagas, asks them to do things, and serves both over HTTP with a
//! console for the browser.
//!
//! It links no application: definitions are known by the manifests that workers registered.

mod cli;
mod draw;
mod fault;
mod serve;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::fault::Exit;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    log();
    let json = cli.common.json;
    match cli::run(cli).await {
        Ok(said) => {
            // Whoever reads may have read enough (`saga list | head`): that is no failure.
            let _ = std::io::stdout().write_all(said.text.as_bytes());
            said.exit.into()
        }
        Err(fault) => {
            eprintln!("{}", fault.told(json));
            fault.exit.into()
        }
    }
}

/// Logs go to standard error; `SAGA_LOG` chooses what is logged, as `RUST_LOG` does elsewhere.
fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SAGA_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,saga=info"));
    let plain = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    plain.with_ansi(draw::in_colour(&std::io::stderr())).init();
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
