//! `migrate`: the tables.

use super::Failed;
use super::config::Config;
use super::source::{Kind, kind};
use outbox::migrations::{Migration, POSTGRES, SQLITE};
use outbox::sqlx::postgres::PgConnectOptions;
use outbox::sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection, raw_sql};
use std::process::ExitCode;

pub(super) async fn migrate(config: &Config, print: bool, own: bool) -> Result<ExitCode, Failed> {
    let kind = kind(config)?;
    let table = config.table();
    // `outbox.event` is made with all its columns.
    let complete = own || table == Default::default();
    if print {
        match kind {
            Kind::Postgres(_) => {
                println!("CREATE SCHEMA IF NOT EXISTS outbox;\n");
                show(POSTGRES);
                if !complete {
                    println!("{}", table.additions()?);
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
                raw_sql(AssertSqlSafe(table.additions()?)).execute(&mut connection).await?;
                println!("{} has what polling needs", table.name);
            }
            applied
        }
        Kind::Sqlite(path) => {
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

fn show(migrations: &[Migration]) {
    for migration in migrations {
        println!("-- {} {}\n{}", migration.number, migration.name, migration.sql);
    }
}
