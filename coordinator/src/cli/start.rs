//! Starting a saga, and waiting for its end.

use std::time::Duration;

use clap::Args;
use saga_core::admin::Admin;
use saga_core::journal::{End, EndKind};
use saga_core::{Client, Name, Priority};
use serde_json::json;

use super::Said;
use super::args::{Which, age, attribute, json as read_json};
use super::look::name;
use crate::draw;
use crate::fault::{Exit, Fault};

#[derive(Debug, Args)]
pub(crate) struct Start {
    /// The definition's name.
    #[arg(value_parser = name)]
    definition: Name,
    /// The saga's id, unique within the definition: an order number, say.
    id: String,
    /// What it is started with: JSON, @FILE, or - for standard input.
    input: String,
    /// The definition's version; by default the highest that is registered.
    #[arg(long)]
    version: Option<u32>,
    /// Of all sagas of one key, one is under way at a time. Needed where the definition takes keys from its
    /// inputs: this program has not its code.
    #[arg(long)]
    key: Option<String>,
    /// Something to find it by; may be given several times.
    #[arg(long, value_parser = attribute, value_name = "NAME=VALUE")]
    attribute: Vec<(String, String)>,
    /// Who goes first where there is more to do than can be done: low, normal or high.
    #[arg(long, value_parser = priority, default_value = "normal")]
    priority: Priority,
    /// Wait for its end, at most this time: 90s, 15m.
    #[arg(long, value_parser = age, value_name = "TIME")]
    wait: Option<Duration>,
}

fn priority(text: &str) -> Result<Priority, String> {
    Priority::from_name(text).ok_or_else(|| "priorities are low, normal and high".into())
}

impl Start {
    pub(super) async fn run(self, admin: &Admin, json: bool) -> Result<Said, Fault> {
        let input = read_json(&self.input)?;
        let version = match self.version {
            Some(version) => version,
            None => self.newest(admin).await?,
        };
        let client = Client::new(admin.backend().clone());
        let mut starting = client.start_named(&self.definition, version, &self.id, input).await?;
        starting = starting.priority(self.priority);
        if let Some(key) = &self.key {
            starting = starting.key(key);
        }
        for (name, value) in &self.attribute {
            starting = starting.attribute(name, value);
        }
        let saga = starting.await?;
        match self.wait {
            Some(patience) => wait(admin, &client, saga.run(), patience, json).await,
            None => Ok(Said::either(json, &json!({ "run": saga.run() }), || format!("{}\n", saga.run()))),
        }
    }

    async fn newest(&self, admin: &Admin) -> Result<u32, Fault> {
        let manifests = admin.backend().query.manifests().await?;
        let versions = manifests.iter().filter(|m| m.plan.name == self.definition).map(|m| m.plan.version);
        versions.max().ok_or_else(|| {
            let name = &self.definition;
            Fault::new(
                Exit::Missing,
                format!("no worker has registered a definition {name}; `saga definitions` lists them"),
            )
        })
    }
}

#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// DEFINITION/ID, or a run id.
    saga: Which,
    /// Give up after this time: 90s, 15m, 2h.
    #[arg(long, value_parser = age, default_value = "10m", value_name = "TIME")]
    timeout: Duration,
}

impl Wait {
    pub(super) async fn run(self, admin: &Admin, json: bool) -> Result<Said, Fault> {
        let run = self.saga.find(admin).await?.run;
        let client = Client::new(admin.backend().clone());
        wait(admin, &client, run, self.timeout, json).await
    }
}

async fn wait(
    admin: &Admin,
    client: &Client,
    run: saga_core::RunId,
    patience: Duration,
    json: bool,
) -> Result<Said, Fault> {
    let Ok(end) = tokio::time::timeout(patience, client.wait(run)).await else {
        let state = admin.summary(run).await?.state;
        let advice = if state.as_str() == "blocked" { "; `saga show` tells what it needs" } else { "" };
        let message = format!("it is still {} after {}{advice}", state.as_str(), draw::length(patience));
        return Err(Fault::new(Exit::Unanswered, message));
    };
    let end = end?;
    let exit = if end.kind() == EndKind::Completed { Exit::Yes } else { Exit::No };
    let said = json!({ "run": run, "end": end });
    Ok(Said::either(json, &said, || match &end {
        End::Completed { output } => format!("completed: {}\n", output.as_str()),
        End::Compensated { cause } => format!("compensated: {}\n", draw::clean(cause.message())),
        End::PartiallyCompensated { cause } => {
            format!("partially compensated: {}\n", draw::clean(cause.message()))
        }
    })
    .exit(exit))
}
