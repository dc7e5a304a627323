//! Is all well? What is not, and what to do about it.

use std::collections::BTreeMap;
use std::time::Instant;

use chrono::{TimeDelta, Utc};
use saga_core::admin::{Admin, DefinitionView};
use saga_core::journal::MailBody;
use saga_core::store::{UnreadMail, WorkerInfo};
use serde::Serialize;

use super::Said;
use crate::draw;
use crate::fault::{Exit, Fault};

/// What one check found.
#[derive(Debug, Serialize)]
struct Found {
    check: &'static str,
    health: Health,
    said: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Health {
    Well,
    /// Worth a look.
    Odd,
    /// Sagas suffer.
    Ill,
}

pub(super) async fn run(admin: &Admin, json: bool) -> Result<Said, Fault> {
    let begun = Instant::now();
    let workers = admin.workers().await?;
    let answered = begun.elapsed();
    let definitions = admin.definitions().await?;
    let mut found = vec![Found {
        check: "store",
        health: Health::Well,
        said: format!("it answers within {} ms", answered.as_millis().max(1)),
        advice: None,
    }];
    found.extend(look_at_workers(&workers, &definitions));
    found.extend(look_at_clocks(&workers));
    found.extend(definitions.iter().filter_map(look_at_overdue));
    found.extend(look_at_names(&definitions));
    found.extend(look_at_mail(&admin.unread_mail().await?));
    found.push(look_at_blocked(admin).await?);
    let exit = if found.iter().any(|f| f.health == Health::Ill) { Exit::No } else { Exit::Yes };
    Ok(Said::either(json, &found, || found.iter().map(Found::told).collect()).exit(exit))
}

impl Found {
    fn told(&self) -> String {
        let mark = match self.health {
            Health::Well => "ok ",
            Health::Odd => "odd",
            Health::Ill => "ILL",
        };
        let advice = self.advice.map(|advice| format!("     {advice}\n")).unwrap_or_default();
        format!("{mark}  {}: {}\n{advice}", self.check, self.said)
    }
}

fn look_at_workers(workers: &[WorkerInfo], definitions: &[DefinitionView]) -> Vec<Found> {
    let found = |health, said, advice| Found { check: "workers", health, said, advice };
    let in_flight: u64 = definitions.iter().map(|d| d.running + d.queued + d.waiting).sum();
    // Workers renew three times per lease, and leases of more than a few minutes help nobody.
    let silent = |worker: &&WorkerInfo| Utc::now() - worker.renewed_at > TimeDelta::minutes(2);
    let serving = workers.iter().filter(|worker| !worker.fenced && !silent(worker)).count();
    let mut all = vec![match (serving, in_flight) {
        (0, 0) => found(Health::Odd, "none is alive, and nothing is in flight".into(), None),
        (0, sagas) => found(
            Health::Ill,
            format!("none is alive, and {sagas} sagas are in flight"),
            Some("start the services that run workers; look at their logs if they are running"),
        ),
        (serving, _) => found(Health::Well, format!("{serving} serve"), None),
    }];
    let silent = workers.iter().filter(silent).count();
    if silent > 0 {
        all.push(found(
            if serving > 0 { Health::Odd } else { Health::Ill },
            format!("{silent} have not renewed their lease for two minutes and were not taken over"),
            Some("they died or cannot reach the store; any live worker takes over what they own"),
        ));
    }
    let fenced = workers.iter().filter(|worker| worker.fenced && worker.sagas > 0).count();
    if fenced > 0 {
        all.push(found(
            Health::Odd,
            format!("{fenced} were fenced and still own sagas"),
            Some("a takeover waits for their last commits; if it lasts, end their open transactions"),
        ));
    }
    all
}

fn look_at_clocks(workers: &[WorkerInfo]) -> Option<Found> {
    let ahead = workers.iter().map(|worker| worker.renewed_at - Utc::now()).max()?;
    (ahead > TimeDelta::seconds(5)).then(|| Found {
        check: "clocks",
        health: Health::Odd,
        said: format!("the store's clock is {} s ahead of this machine's", ahead.num_seconds()),
        advice: Some("no saga depends on it, but ages and due times shown here do; check NTP"),
    })
}

fn look_at_overdue(definition: &DefinitionView) -> Option<Found> {
    let overdue = definition.overdue.as_ref()?;
    let since = draw::since(overdue.since, Utc::now());
    let (name, version) = (&definition.name, definition.version);
    Some(Found {
        check: "overdue",
        health: Health::Ill,
        said: format!("{} of {name} version {version} for {since}: {}", overdue.runs, overdue.why),
        advice: Some("run a worker that registers this version, or give workers more room (Settings::sagas)"),
    })
}

fn look_at_names(definitions: &[DefinitionView]) -> Vec<Found> {
    let mut plans: BTreeMap<_, u32> = BTreeMap::new();
    for definition in definitions.iter().filter(|d| d.registered) {
        *plans.entry((&definition.name, definition.version)).or_default() += 1;
    }
    let twice = plans.into_iter().filter(|(_, plans)| *plans > 1);
    twice
        .map(|((name, version), plans)| Found {
            check: "definitions",
            health: Health::Odd,
            said: format!("{plans} different plans are registered as {name} version {version}"),
            advice: Some("give a changed definition a new version; `saga check` in CI finds this"),
        })
        .collect()
}

/// Sagas that were told something by a newer version, and wait for workers of it.
fn look_at_mail(unread: &[UnreadMail]) -> Option<Found> {
    let newer = unread.iter().filter(|unread| unread.format > MailBody::FORMAT);
    let (runs, formats) = newer.fold((0, Vec::new()), |(runs, mut formats), unread| {
        formats.push(unread.format.to_string());
        (runs + unread.runs, formats)
    });
    (runs > 0).then(|| Found {
        check: "mail",
        health: Health::Ill,
        said: format!(
            "{runs} sagas were told something that only newer workers read (format {}; this program knows {})",
            formats.join(", "),
            MailBody::FORMAT
        ),
        advice: Some("run workers of the version that the sender has; until then nothing of these sagas goes on"),
    })
}

async fn look_at_blocked(admin: &Admin) -> Result<Found, Fault> {
    let blocked = admin.blocked(None).await?;
    let groups = blocked.groups();
    Ok(match groups.iter().map(|group| group.first).min() {
        None => Found {
            check: "blocked",
            health: Health::Well,
            said: "nothing needs a person".into(),
            advice: None,
        },
        Some(first) => Found {
            check: "blocked",
            health: Health::Ill,
            said: format!(
                "{} sagas need a person, the longest for {}, for {} different reasons",
                blocked.runs.len(),
                draw::since(first, Utc::now()),
                groups.len()
            ),
            advice: Some("`saga blocked` shows why"),
        },
    })
}
