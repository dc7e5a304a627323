//! `check`: the settings in effect.

use super::Failed;
use super::config::{Config, Property};
use std::process::ExitCode;

pub(super) fn check(config: &Config) -> Result<ExitCode, Failed> {
    print!("{}", toml::to_string_pretty(&hidden(config))?);
    super::source::kind(config)?;
    config.table().check()?;
    outbox_relay::KafkaSink::with_settings(config.kafka())?;
    Ok(ExitCode::SUCCESS)
}

/// The settings without their secrets.
fn hidden(config: &Config) -> Config {
    let mut shown = config.clone();
    shown.source.url = without_password(&config.source.url);
    for (name, value) in &mut shown.kafka.properties {
        if outbox_relay::sink::kafka::is_secret(name) {
            *value = Property::Text("***".into());
        }
    }
    shown
}

/// `scheme://user:***@host/…`, and no secrets among the parameters either.
fn without_password(url: &str) -> String {
    let (url, query) = url.split_once('?').map_or((url, None), |(url, query)| (url, Some(query)));
    let mut shown = url.to_owned();
    if let Some((scheme, rest)) = url.split_once("://")
        && let Some((login, host)) = rest.rsplit_once('@')
    {
        let user = login.split(':').next().unwrap_or_default();
        let password = if login.contains(':') { ":***" } else { "" };
        shown = format!("{scheme}://{user}{password}@{host}");
    }
    if let Some(query) = query {
        let hide = |pair: &str| match pair.split_once('=') {
            Some((name, _)) if name.contains("password") => format!("{name}=***"),
            _ => pair.to_owned(),
        };
        shown.push('?');
        shown.push_str(&query.split('&').map(hide).collect::<Vec<_>>().join("&"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_printed() {
        for (url, shown) in [
            ("postgres://relay:hunter2@db:5432/shop", "postgres://relay:***@db:5432/shop"),
            ("postgres://relay:p@ss:w@rd@db/shop", "postgres://relay:***@db/shop"),
            (
                "postgres://relay@db/shop?password=hunter2&sslmode=require",
                "postgres://relay@db/shop?password=***&sslmode=require",
            ),
            ("sqlite:/var/shop.db", "sqlite:/var/shop.db"),
        ] {
            assert_eq!(without_password(url), shown);
        }
        let mut config = Config::default();
        config.kafka.properties.insert("sasl.password".into(), Property::Text("hunter2".into()));
        config.source.url = "postgres://u:hunter2@h/d".into();
        let text = toml::to_string_pretty(&hidden(&config)).expect("toml");
        assert!(!text.contains("hunter2") && text.contains("***"), "{text}");
    }
}
