//! What commands have in common on the command line: sagas, ages, who and why.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use saga_core::admin::{Admin, By};
use saga_core::store::Summary;
use saga_core::{Attributes, Name, Payload, Place, RunId};

use crate::fault::Fault;

/// A saga, by its user's id or by its run.
#[derive(Clone, Debug)]
pub(crate) enum Which {
    Run(RunId),
    Named(Name, String),
}

impl FromStr for Which {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((definition, saga)) = text.split_once('/') {
            let name = Name::new(definition).map_err(|bad| bad.to_string())?;
            return Ok(Self::Named(name, saga.into()));
        }
        let run = text.parse().map_err(|_| "give DEFINITION/ID, or a run id as `saga list` shows it")?;
        Ok(Self::Run(run))
    }
}

impl Which {
    pub(crate) async fn find(&self, admin: &Admin) -> Result<Summary, Fault> {
        Ok(match self {
            Self::Run(run) => admin.summary(*run).await?,
            Self::Named(definition, saga) => admin.find(definition, saga).await?,
        })
    }
}

/// Who asks, why, and how long the answer is waited for.
#[derive(Debug, Args)]
pub(crate) struct Asking {
    /// Why: always needed, and kept in the saga's journal.
    #[arg(long, value_name = "REASON")]
    why: Option<String>,
    /// Who asks: kept in the saga's journal. By default your user name.
    #[arg(long, env = "SAGA_WHO", value_name = "NAME")]
    who: Option<String>,
    /// How long to wait for the owner's answer.
    #[arg(long, default_value = "10s", value_parser = age, value_name = "TIME")]
    pub(crate) wait: Duration,
}

impl Asking {
    pub(crate) fn by(&self) -> Result<By, Fault> {
        let user = || std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).ok();
        let who = self.who.clone().or_else(user);
        let who = who.ok_or_else(|| Fault::usage("who asks? Give --who NAME or set SAGA_WHO"))?;
        let why = self.why.clone();
        let why = why.ok_or_else(|| Fault::usage("why? Give --why REASON; the saga's journal keeps it"))?;
        Ok(By::new(who, why)?)
    }
}

/// A length of time as people write it: `90s`, `15m`, `2h`, `3d`.
pub(crate) fn age(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no length of time: write 90s, 15m, 2h or 3d");
    let (number, unit) = text.split_at(text.trim_end_matches(char::is_alphabetic).len());
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

/// `NAME=VALUE`.
pub(crate) fn attribute(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?}: write NAME=VALUE"))?;
    // Checked here already, so that the wrong one is named.
    Attributes::default().set(name, value).map_err(|bad| bad.to_string())?;
    Ok((name.into(), value.into()))
}

/// Several of them.
pub(crate) fn attributes(pairs: &[(String, String)]) -> Result<Attributes, Fault> {
    let mut attributes = Attributes::default();
    for (name, value) in pairs {
        attributes.set(name, value).map_err(|bad| Fault::usage(bad.to_string()))?;
    }
    Ok(attributes)
}

/// A place, as `saga show` names it.
pub(crate) fn place(text: &str) -> Result<Place, String> {
    let (step, item) = text.split_once('#').map_or((text, None), |(step, item)| (step, Some(item)));
    let step = Name::new(step).map_err(|bad| bad.to_string())?;
    match item {
        None => Ok(Place::of(&step)),
        Some(item) => {
            let index = item.parse().map_err(|_| format!("{text:?} is no place: an item is STEP#NUMBER"))?;
            Ok(Place::item(&step, index))
        }
    }
}

/// JSON from the command line, from `@FILE`, or from standard input as `-`.
pub(crate) fn json(text: &str) -> Result<Payload, Fault> {
    let read = match (text, text.strip_prefix('@')) {
        ("-", _) => std::io::read_to_string(std::io::stdin()),
        (_, Some(path)) => std::fs::read_to_string(path),
        (_, None) => Ok(text.to_owned()),
    };
    let read = read.map_err(|error| Fault::usage(format!("{text} cannot be read: {error}")))?;
    Payload::from_json(read).map_err(|error| {
        Fault::usage(format!("what was given is no JSON ({error}); a text needs its quotes: '\"text\"'"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read_as_people_write_them() {
        for (text, seconds) in
            [("0s", 0), ("90s", 90), ("15m", 900), ("15min", 900), ("2h", 7200), ("3d", 259_200)]
        {
            assert_eq!(age(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for wrong in ["", "s", "5", "-1s", "1.5h", "1w", "99999999999999999999d", "999999999999999999d"] {
            assert!(age(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_saga_is_named_by_its_user_or_by_its_run() {
        let run = RunId::new();
        assert!(matches!(run.to_string().parse(), Ok(Which::Run(parsed)) if parsed == run));
        let Ok(Which::Named(name, saga)) = "place-order/a/b".parse() else { panic!("is named") };
        assert_eq!((name.as_str(), saga.as_str()), ("place-order", "a/b"));
        assert!("order-17".parse::<Which>().is_err());
        assert!("place order/17".parse::<Which>().is_err());
    }

    #[test]
    fn attributes_are_names_and_values() {
        assert_eq!(attribute("customer=a=b"), Ok(("customer".into(), "a=b".into())));
        for wrong in ["customer", "=1", "a b=1", "customer="] {
            assert!(attribute(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn places_are_steps_and_items() {
        assert_eq!(place("charge").unwrap().as_str(), "charge");
        assert_eq!(place("reserve#3").unwrap().parts(), ("reserve", Some(3)));
        assert!(place("reserve#x").is_err() && place("").is_err());
    }
}
