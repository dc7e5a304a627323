//! The command line: what can be typed, and which command answers it.

mod args;
mod ask;
mod bulk;
mod check;
mod doctor;
mod look;
mod start;

use std::path::Path;

use clap::{Args, Parser, Subcommand};
use saga_core::admin::Admin;
use saga_core::store::Backend;
use serde::Serialize;

use crate::fault::{EXIT_CODES, Exit, Fault};
use crate::serve;

/// Shows and steers sagas.
///
/// A saga is one run of a definition, under an id that its user gave it. Where a command takes a SAGA,
/// give DEFINITION/ID (`place-order/order-17`) or the run id that `saga list` shows.
///
/// Begin with `saga doctor`; `saga blocked` shows what needs a person, `saga show` one saga in full.
/// What changes a saga is a request: its owner, a worker, reads it and answers, and the saga's journal
/// keeps who asked, why, and the answer.
#[derive(Debug, Parser)]
#[command(name = "saga", version, after_help = EXIT_CODES, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Where the sagas are: sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE.
    ///
    /// Prefer the environment variable for a URL with a password: other users of this machine can read
    /// a command line.
    #[arg(long, global = true, env = "SAGA_STORE", hide_env_values = true, value_name = "URL")]
    store: Option<String>,
    /// Print JSON: one object or array, or one object per line for a journal.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List sagas, newest first.
    List(look::List),
    /// Draw one saga: its steps as a tree, where each stands, and what can be done.
    Show(look::Show),
    /// Print a saga's history: in words, or with --json as it is stored, payloads included.
    Journal(look::Journal),
    /// Wait until a saga has ended.
    Wait(start::Wait),
    /// Start a saga of a registered definition from JSON.
    ///
    /// Starting the same id with the same input again gives the same saga and runs nothing twice.
    Start(start::Start),
    /// Ask a saga to undo what it did; refused from its pivot on.
    Cancel(ask::Cancel),
    /// Ask a saga to try again now: where it is blocked, or where it rests until its next attempt.
    Retry(ask::Retry),
    /// Leave one effect of a blocked saga as it is and undo the rest: it ends partially compensated.
    Skip(ask::Skip),
    /// Tell a blocked saga that a step is done: by hand, or by a participant that could not say so.
    Resolve(ask::Resolve),
    /// End a saga as it stands: nothing more is done or undone.
    Abandon(ask::Abandon),
    /// Show what needs a person, grouped by what is wrong; retry a group as one.
    Blocked(bulk::Blocked),
    /// List the workers that drive sagas.
    Workers,
    /// List definitions, what is in flight of each, and what waits for code.
    Definitions,
    /// Count sagas by definition and state.
    Counts,
    /// Before a deploy: compare a file of manifests with what is in flight.
    ///
    /// The file holds what `Worker::manifests` gives, as JSON: have your service's CI write it.
    Check(check::Check),
    /// Create or update the store's tables.
    Migrate,
    /// Check the store, its workers and what is in flight, and say what to do.
    Doctor,
    /// Serve the HTTP API and the console.
    Serve(serve::Serve),
}

/// What a command has to say.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) text: String,
    pub(crate) exit: Exit,
}

impl Said {
    fn yes(text: String) -> Self {
        Self { text, exit: Exit::Yes }
    }

    /// JSON where it was asked for, else what `text` makes.
    fn either<T: Serialize>(json: bool, value: &T, text: impl FnOnce() -> String) -> Self {
        Self::yes(if json { to_json(value) } else { text() })
    }

    fn exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }
}

fn to_json<T: Serialize>(value: &T) -> String {
    let mut text = serde_json::to_string(value).expect("answers hold strings, numbers and JSON");
    text.push('\n');
    text
}

/// Runs one command.
pub(crate) async fn run(cli: Cli) -> Result<Said, Fault> {
    let Cli { common, command } = cli;
    let json = common.json;
    if let Command::Migrate = command {
        return migrate(&common).await;
    }
    if let Command::Check(check) = &command {
        check.read()?;
    }
    let backend = common.connect().await?;
    let admin = Admin::new(backend.clone());
    match command {
        Command::List(list) => list.run(&admin, json).await,
        Command::Show(show) => show.run(&admin, json).await,
        Command::Journal(journal) => journal.run(&admin, json).await,
        Command::Wait(wait) => wait.run(&admin, json).await,
        Command::Start(start) => start.run(&admin, json).await,
        Command::Cancel(cancel) => cancel.run(&admin, json).await,
        Command::Retry(retry) => retry.run(&admin, json).await,
        Command::Skip(skip) => skip.run(&admin, json).await,
        Command::Resolve(resolve) => resolve.run(&admin, json).await,
        Command::Abandon(abandon) => abandon.run(&admin, json).await,
        Command::Blocked(blocked) => blocked.run(&admin, json).await,
        Command::Workers => look::workers(&admin, json).await,
        Command::Definitions => look::definitions(&admin, json).await,
        Command::Counts => look::counts(&admin, json).await,
        Command::Check(check) => check.run(&admin, json).await,
        Command::Doctor => doctor::run(&admin, json).await,
        Command::Serve(serve) => serve.run(admin).await.map(|()| Said::yes(String::new())),
        Command::Migrate => unreachable!("answered above, without a connection"),
    }
}

impl Common {
    fn url(&self) -> Result<&str, Fault> {
        self.store.as_deref().filter(|url| !url.is_empty()).ok_or_else(|| {
            Fault::usage("which store? Give --store URL or set SAGA_STORE (sqlite:PATH or postgres://…)")
        })
    }

    async fn connect(&self) -> Result<Backend, Fault> {
        let url = self.url()?;
        // Opening would create the file, and a mistyped path would look like a store without sagas.
        if let Some(path) = sqlite_path(url).filter(|path| !Path::new(path).exists()) {
            let message = format!("there is no file {path}; is --store right? `saga migrate` creates it");
            return Err(Fault::new(Exit::Store, message));
        }
        Ok(saga_core::store::connect(url).await?)
    }
}

/// The path of a SQLite store.
fn sqlite_path(url: &str) -> Option<&str> {
    match url.split_once(':') {
        Some(("sqlite", path)) => Some(path.strip_prefix("//").unwrap_or(path)),
        None => Some(url),
        Some((drive, _)) if drive.len() == 1 => Some(url),
        Some(_) => None,
    }
}

async fn migrate(common: &Common) -> Result<Said, Fault> {
    let url = common.url()?;
    if url.starts_with("postgres:") || url.starts_with("postgresql:") {
        saga_core::store::PostgresStore::migrate(url).await?;
    }
    // Connecting to a SQLite file creates it and brings its tables up to date.
    saga_core::store::connect(url).await?;
    Ok(Said::either(common.json, &serde_json::json!({ "migrated": true }), || {
        "the store's tables are up to date\n".into()
    }))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn only_sqlite_urls_name_files() {
        for (url, path) in [
            ("sqlite:a.db", Some("a.db")),
            ("sqlite:///var/a.db", Some("/var/a.db")),
            ("a.db", Some("a.db")),
            ("postgres://db/x", None),
            ("memory:", None),
        ] {
            assert_eq!(sqlite_path(url), path, "{url}");
        }
    }
}
