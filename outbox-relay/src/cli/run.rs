//! `run`: the relay, until it is told to stop.

use super::Failed;
use super::config::{Config, Log};
use super::{http, telemetry};
use outbox_relay::tokio_util::sync::CancellationToken;
use outbox_relay::{KafkaSink, Relay};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

pub(super) async fn run(config: Config) -> Result<ExitCode, Failed> {
    start_log(&config.log)?;
    let _telemetry = telemetry::start()?;
    let sink = KafkaSink::with_settings(config.kafka())?;
    let source = super::source::open(&config).await?;
    let relay = Relay::between(source, Box::new(sink)).settings(config.relay());
    let stop = CancellationToken::new();
    if let Some(listen) = config.http.listen {
        http::serve(listen, relay.stats(), stop.clone()).await?;
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut running = tokio::spawn(relay.run(stop.clone()));
    let mut told = 0;
    loop {
        tokio::select! {
            ended = &mut running => {
                ended??;
                return Ok(ExitCode::SUCCESS);
            }
            _ = terminate.recv() => told += 1,
            _ = interrupt.recv() => told += 1,
        }
        if told > 1 {
            tracing::warn!("told twice: leaves at once; the lease runs out by itself");
            return Ok(ExitCode::FAILURE);
        }
        tracing::info!("drains; a second signal leaves at once");
        stop.cancel();
    }
}

fn start_log(log: &Log) -> Result<(), Failed> {
    let filter = EnvFilter::try_new(&log.level).map_err(|error| format!("setting log.level: {error}"))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if log.json {
        subscriber.json().init()
    } else {
        subscriber.init()
    }
    Ok(())
}
