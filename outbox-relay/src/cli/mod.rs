//! The command line.

mod check;
mod config;
mod doctor;
mod duration;
mod http;
mod metrics;
mod migrate;
mod parked;
mod replay;
mod run;
mod source;
mod telemetry;
mod verify;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Publishes the events of an outbox table to Kafka: in order per key, none lost.
///
/// A service writes each event as a row of its own database, in the transaction that makes it true.
/// This program beside it reads what is committed and publishes it. One relay at a time holds the
/// outbox's lease; start a second one as a standby.
#[derive(Debug, Parser)]
#[command(name = "outbox-relay", version, max_term_width = 100)]
#[command(after_long_help = "\
FIRST STEPS
  1. Write outbox-relay.toml:

       [source]
       url = \"postgres://relay@localhost/shop\"     # or sqlite:/path/to/shop.db

       [kafka]
       brokers = \"localhost:9092\"

  2. outbox-relay migrate     makes the tables, or --print shows the SQL
  3. outbox-relay doctor      looks at database and broker, and says what to do
  4. outbox-relay run

SETTINGS
  Every setting of the file can be given by the environment, with two underscores between section and
  name; the environment wins:

       OUTBOX_RELAY_SOURCE__URL=postgres://…
       OUTBOX_RELAY_KAFKA__BROKERS=kafka:9092
       OUTBOX_RELAY_KAFKA__PROPERTIES__SASL_PASSWORD=…      (sasl.password)

  `outbox-relay check` prints all of them as they are in effect, with secrets hidden.")]
pub(crate) struct Arguments {
    /// The settings file; outbox-relay.toml here, if there is one.
    #[arg(long, short, global = true, env = "OUTBOX_RELAY_CONFIG")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Publish until SIGTERM or SIGINT; then drain, give the lease up, and leave.
    Run,
    /// Print the settings in effect, secrets hidden, and whether they make sense. Connects to nothing.
    Check,
    /// Make or update the tables; add what an existing Debezium table lacks.
    ///
    /// If such a table has rows, say what is to become of them: `--existing-are-published` or `--publish-existing`.
    Migrate(migrate::Migrate),
    /// Examine database and broker, and say what to do. Exits with 1 if the relay cannot work.
    Doctor,
    /// Compare the rows that are still there with the topics: lost, duplicated, reordered, strayed.
    /// Exits with 1 if a promise was broken. Set `source.keep` for rows to compare with.
    Verify {
        /// Machine-readable.
        #[arg(long)]
        json: bool,
    },
    /// Publish again rows that are still there (`source.keep`), under the ids they had.
    Replay {
        /// The first row's seq.
        #[arg(long)]
        from: i64,
        /// The last row's seq.
        #[arg(long)]
        to: i64,
    },
    /// Look at events that were set aside, and decide about them.
    #[command(subcommand)]
    Parked(parked::ParkedVerb),
}

/// What is told to the user: one line.
pub(crate) type Failed = Box<dyn std::error::Error + Send + Sync>;

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, Failed> {
    let config = config::Config::load(arguments.config.as_deref())?;
    match arguments.verb {
        Verb::Run => run::run(config).await,
        Verb::Check => check::check(&config),
        Verb::Migrate(how) => migrate::migrate(&config, &how).await,
        Verb::Doctor => doctor::doctor(&config).await,
        Verb::Verify { json } => verify::verify(&config, json).await,
        Verb::Replay { from, to } => replay::replay(&config, from, to).await,
        Verb::Parked(verb) => parked::parked(&config, verb).await,
    }
}
