//! `migrate`: the tables.

use super::Failed;
use super::config::Config;
use super::source::{Kind, kind};
use clap::Args;
use outbox::migrations::{Migration, POSTGRES, SQLITE};
use outbox::sqlx::postgres::PgConnectOptions;
use outbox::sqlx::{Connection as _, PgConnection, SqliteConnection};
use outbox_relay::SqliteSource;
use outbox_relay::source::postgres::{Adopted, Existing, Table};
use std::process::ExitCode;

#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// Print the SQL instead of running it.
    #[arg(long)]
    print: bool,
    /// Only the relay's own tables. A table without `seq` and `xid` is then streamed, through a
    /// replication slot that lasts, and never polled.
    #[arg(long)]
    own: bool,
    /// The rows that are in your table now are not published: another has done it, or does it still.
    #[arg(long, conflicts_with = "own")]
    existing_are_published: bool,
    /// The rows that are in your table now are published, in the order in which they lie in it.
    #[arg(long, conflicts_with_all = ["own", "existing_are_published"])]
    publish_existing: bool,
}

impl Migrate {
    fn existing(&self) -> Option<Existing> {
        match (self.existing_are_published, self.publish_existing) {
            (true, _) => Some(Existing::Published),
            (_, true) => Some(Existing::Unpublished),
            _ => None,
        }
    }
}

pub(super) async fn migrate(config: &Config, how: &Migrate) -> Result<ExitCode, Failed> {
    let kind = kind(config)?;
    let (table, existing) = (config.table(), how.existing());
    // `outbox.event` is made with all its columns.
    let complete = how.own || table == Table::default();
    if existing.is_some() && (complete || matches!(kind, Kind::Sqlite(_))) {
        return Err(
            "only a table of your own, source.table, may have rows that somebody else has published".into()
        );
    }
    if how.print {
        match kind {
            Kind::Postgres(_) => {
                println!("CREATE SCHEMA IF NOT EXISTS outbox;\n");
                show(POSTGRES);
                if !complete {
                    show_additions(&table, existing)?;
                }
            }
            Kind::Sqlite(_) => show(SQLITE),
        }
        return Ok(ExitCode::SUCCESS);
    }
    let applied = match kind {
        Kind::Postgres(url) => {
            let options: PgConnectOptions = url.parse()?;
            // A pooler refuses what it does not know.
            let mut connection = PgConnection::connect_with(&options.extra_float_digits(None)).await?;
            let applied = outbox::migrate(&mut connection).await?;
            if !complete {
                tell(&table, existing, table.adopt(&mut connection, existing).await?);
            }
            applied
        }
        Kind::Sqlite(path) => {
            // It says what is wrong with the file.
            drop(SqliteSource::open(path).await?);
            let mut connection = SqliteConnection::connect(&format!("sqlite:{path}")).await?;
            outbox::migrate(&mut connection).await?
        }
    };
    for Migration { number, name, .. } in &applied {
        println!("applied {number} {name}");
    }
    if applied.is_empty() {
        println!("the tables are up to date");
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(table: &Table, existing: Option<Existing>, adopted: Adopted) {
    let name = &table.name;
    match adopted {
        Adopted::Before => println!("{name} has what polling needs already; its rows are what they were"),
        Adopted::Now { log_end } => {
            println!("{name} has what polling needs now");
            if existing == Some(Existing::Published) {
                println!(
                    "the rows that are there count as published: whoever publishes them must read the log up to \
                     {log_end} before it ends. Its slot has come so far when this is true:\n    SELECT \
                     confirmed_flush_lsn >= '{log_end}' FROM pg_replication_slots WHERE slot_name = …"
                );
            }
        }
    }
}

fn show_additions(table: &Table, existing: Option<Existing>) -> Result<(), Failed> {
    let (additions, published) = (table.additions()?, table.existing_are_published()?);
    match existing {
        Some(Existing::Published) => println!("BEGIN;\n{additions}{published}COMMIT;"),
        Some(Existing::Unpublished) => println!("{additions}"),
        None => println!(
            "-- publishes the rows that are there; not so with --existing-are-published\n{additions}"
        ),
    }
    Ok(())
}

fn show(migrations: &[Migration]) {
    for migration in migrations {
        println!("-- {} {}\n{}", migration.number, migration.name, migration.sql);
    }
}
