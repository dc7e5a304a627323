//! A proxy between a store and its server. Once armed it strikes a single time, at the first message that holds a
//! given text.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::server::Postgres;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Strike {
    /// The connection breaks before the server has seen the message.
    Before,
    /// The server has answered, and the connection breaks.
    After,
    /// The server has answered, and its connection breaks: the proxy, a pooler, says so and hangs up.
    Pooler,
    /// The server has the message; its answer is held.
    Hold,
}

#[derive(Clone)]
pub(crate) struct Proxy {
    at: &'static str,
    strike: Strike,
    armed: Arc<AtomicBool>,
    struck: Arc<Notify>,
    released: Arc<Notify>,
    upstream: u16,
    url: String,
}

impl Proxy {
    pub(crate) async fn start(server: &Postgres, at: &'static str, strike: Strike) -> Self {
        let (_, rest) = server.url().rsplit_once("127.0.0.1:").unwrap();
        let (upstream, database) = rest.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = Self {
            at,
            strike,
            armed: Arc::default(),
            struck: Arc::default(),
            released: Arc::default(),
            upstream: upstream.parse().unwrap(),
            url: format!("postgres://postgres@127.0.0.1:{port}/{database}"),
        };
        let own = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(own.clone().carry(client));
            }
        });
        proxy
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn has_struck(&self) -> bool {
        !self.armed.load(Ordering::SeqCst)
    }

    pub(crate) async fn struck(&self) {
        self.struck.notified().await;
    }

    /// Lets go what is held.
    pub(crate) fn release(&self) {
        self.released.notify_one();
    }

    async fn carry(self, mut client: TcpStream) {
        let mut server = TcpStream::connect(("127.0.0.1", self.upstream)).await.unwrap();
        let (mut from_client, mut from_server) = (vec![0; 65_536], vec![0; 65_536]);
        loop {
            tokio::select! {
                read = client.read(&mut from_client) => {
                    let Ok(n @ 1..) = read else { return };
                    let strikes = self.strikes(&from_client[..n]);
                    if strikes && self.strike == Strike::Before {
                        return;
                    }
                    server.write_all(&from_client[..n]).await.unwrap();
                    if !strikes {
                        continue;
                    }
                    self.struck.notify_one();
                    if self.strike == Strike::Hold {
                        self.released.notified().await;
                        continue;
                    }
                    let _ = server.read(&mut from_server).await;
                    if self.strike == Strike::Pooler {
                        let _ = client.write_all(&lost_server()).await;
                    }
                    return;
                }
                read = server.read(&mut from_server) => {
                    let Ok(n @ 1..) = read else { return };
                    if client.write_all(&from_server[..n]).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn strikes(&self, message: &[u8]) -> bool {
        let found = message.windows(self.at.len()).any(|window| window == self.at.as_bytes());
        found && self.armed.swap(false, Ordering::SeqCst)
    }
}

/// What PgBouncer says when its server's connection has died.
fn lost_server() -> Vec<u8> {
    let fields = b"SFATAL\0VFATAL\0C08P01\0Mserver conn crashed?\0\0";
    let length = u32::try_from(fields.len() + 4).unwrap().to_be_bytes();
    [b"E", &length[..], &fields[..]].concat()
}
