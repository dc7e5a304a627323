//! `/livez`, `/readyz` and `/metrics`, by as much of HTTP as a probe speaks.
//!
//! *Live*: the process answers. *Ready*: it leads or stands by; a broker or database that is away is
//! no reason to restart a relay, so neither is asked.

use super::{Failed, metrics};
use outbox_relay::stats::Stats;
use outbox_relay::tokio_util::sync::CancellationToken;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const REQUEST_BYTES_MAX: usize = 8 << 10;
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn serve(
    listen: SocketAddr,
    stats: Arc<Stats>,
    stop: CancellationToken,
) -> Result<(), Failed> {
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| format!("http.listen = \"{listen}\" cannot be used: {error}"))?;
    tracing::info!(%listen, "answers /livez, /readyz and /metrics");
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (stats, stop) = (stats.clone(), stop.clone());
                    tokio::spawn(tokio::time::timeout(PATIENCE, answer(stream, stats, stop)));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
    Ok(())
}

async fn answer(mut stream: TcpStream, stats: Arc<Stats>, stop: CancellationToken) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() > REQUEST_BYTES_MAX || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (status, body) = match (words.next(), words.next()) {
        (Some(b"GET"), Some(b"/livez")) => ("200 OK", "alive\n".to_owned()),
        (Some(b"GET"), Some(b"/readyz")) if stop.is_cancelled() => {
            ("503 Service Unavailable", "drains\n".into())
        }
        (Some(b"GET"), Some(b"/readyz")) => ("200 OK", state(&stats).into()),
        (Some(b"GET"), Some(b"/metrics")) => ("200 OK", metrics::text(&stats)),
        (Some(b"GET"), _) => ("404 Not Found", "try /livez, /readyz or /metrics\n".into()),
        _ => ("405 Method Not Allowed", "only GET\n".into()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

fn state(stats: &Stats) -> &'static str {
    if stats.is_leading() { "leads\n" } else { "stands by\n" }
}
