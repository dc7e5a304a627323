//! `replay`: publishing again what is still there.

use super::Failed;
use super::config::Config;
use super::source::postgres;
use std::process::ExitCode;

pub(super) async fn replay(config: &Config, from: i64, to: i64) -> Result<ExitCode, Failed> {
    if from > to {
        return Err(format!("--from {from} is beyond --to {to}").into());
    }
    let rows = postgres(config).await?.replay(from, to).await?;
    println!("{rows} rows will be published again by the running relay, under the ids they had");
    if rows == 0 {
        println!("rows that are done are removed; source.keep keeps them for some time");
    }
    Ok(ExitCode::SUCCESS)
}
