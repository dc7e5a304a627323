//! A network that loses things: a proxy before the service.
//!
//! A lost request does not arrive. A lost answer belongs to a request that did, and was carried out. In both cases
//! the client sees a connection that breaks, and nothing more.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A proxy that runs until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    fate: Arc<Fate>,
    listening: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Fate {
    chance: Mutex<StdRng>,
    lose: u32,
    lost_requests: AtomicU64,
    lost_answers: AtomicU64,
}

impl Proxy {
    /// A proxy before `service` that loses so many of a hundred requests, and so many of a hundred answers.
    pub async fn start(service: SocketAddr, lose: u8, seed: u64) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let fate = Arc::new(Fate {
            chance: Mutex::new(StdRng::seed_from_u64(seed)),
            lose: u32::from(lose),
            lost_requests: AtomicU64::new(0),
            lost_answers: AtomicU64::new(0),
        });
        let of_all = fate.clone();
        let listening = tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                let fate = of_all.clone();
                tokio::spawn(async move { carry(client, service, &fate).await });
            }
        });
        Ok(Self { address, fate, listening })
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests that did not arrive.
    pub fn lost_requests(&self) -> u64 {
        self.fate.lost_requests.load(Ordering::Relaxed)
    }

    /// Answers that did not arrive.
    pub fn lost_answers(&self) -> u64 {
        self.fate.lost_answers.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Fate {
    fn strikes(&self) -> bool {
        self.chance.lock().unwrap_or_else(PoisonError::into_inner).random_ratio(self.lose, 100)
    }
}

/// Carries one connection until something on it is lost, or one side has had enough.
async fn carry(mut client: TcpStream, service: SocketAddr, fate: &Fate) -> io::Result<()> {
    let mut server = TcpStream::connect(service).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut up, mut down) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    // Whether the first piece of what comes next begins a request, or an answer.
    let (mut idle, mut unanswered) = (true, false);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                if std::mem::take(&mut idle) {
                    if fate.strikes() {
                        fate.lost_requests.fetch_add(1, Ordering::Relaxed);
                        return Ok(());
                    }
                    unanswered = true;
                }
                server.write_all(&up[..read]).await?;
            }
            read = server.read(&mut down) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                if std::mem::take(&mut unanswered) {
                    if fate.strikes() {
                        fate.lost_answers.fetch_add(1, Ordering::Relaxed);
                        return Ok(());
                    }
                    idle = true;
                }
                client.write_all(&down[..read]).await?;
            }
        }
    }
}
