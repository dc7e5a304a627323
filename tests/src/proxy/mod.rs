//! A TCP proxy that loses what networks lose, when a test tells it to.
//!
//! It stands on a port of its own in front of a server on this machine and forwards bytes. It knows no
//! protocol; "request" is what the client sends, "answer" what the server sends.
//!
//! Two kinds of fault:
//!
//! - **From now on**, for all connections, until [`forward`](Proxy::forward): [`refuse`](Proxy::refuse),
//!   [`black_hole`](Proxy::black_hole), [`swallow_answers`](Proxy::swallow_answers),
//!   [`delay`](Proxy::delay). [`cut`](Proxy::cut) resets the connections that are open now.
//! - **Once**, at the first request that contains given bytes ([`trap`]): it is lost, its answer is lost, it
//!   is held until the test lets it go, or its connection is silent from then on. This is how a test meets the one
//!   COMMIT it is about.
//!
//! Nothing is left to chance: a change of rules is in force when the call returns, and what happened can be
//! awaited ([`until`](Proxy::until), [`Trap::sprung`](trap::Trap::sprung)) instead of guessed at by sleeping.
//!
//! A connection from which bytes were lost is never used again as if nothing had happened: it is reset when
//! forwarding resumes, so no client sees a torn stream.

mod connection;
mod rules;
pub mod trap;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use self::rules::Seen;
use self::rules::{Rules, Way};
use self::trap::{Armed, Trap};
use crate::servers::free_port;

/// A proxy in front of one server. Dropping it closes its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    rules: watch::Sender<Rules>,
    seen: watch::Sender<Seen>,
    /// Counts up; connections that began under an earlier number end.
    generation: watch::Sender<u64>,
    armed: Mutex<Option<Armed>>,
    connections: Mutex<Vec<JoinHandle<()>>>,
}

impl Proxy {
    /// A proxy in front of `127.0.0.1:target`, forwarding. The server need not be there yet.
    pub async fn start(target: u16) -> Self {
        let shared = Arc::new(Shared {
            target: (Ipv4Addr::LOCALHOST, target).into(),
            rules: watch::Sender::new(Rules::default()),
            seen: watch::Sender::new(Seen::default()),
            generation: watch::Sender::new(0),
            armed: Mutex::new(None),
            connections: Mutex::new(Vec::new()),
        });
        loop {
            let address = (Ipv4Addr::LOCALHOST, free_port()).into();
            if let Ok(listener) = TcpListener::bind(address).await {
                let listening = Mutex::new(Some(tokio::spawn(listen(listener, Arc::clone(&shared)))));
                return Self { address, shared, listening };
            }
        }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port of [`address`](Self::address).
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `url` with this proxy's port in the place of the server's.
    pub fn url(&self, url: &str) -> String {
        let server = format!(":{}", self.shared.target.port());
        assert!(url.contains(&server), "{url} does not lead to {}", self.shared.target);
        url.replacen(&server, &format!(":{}", self.port()), 1)
    }

    /// Ends every fault. What was held back flows on; connections that lost bytes are reset.
    pub async fn forward(&self) {
        self.shared.rules.send_replace(Rules::default());
        let mut listening = lock(&self.listening).take();
        if listening.is_none() {
            let listener = TcpListener::bind(self.address).await;
            let listener = listener.expect("nobody else takes the proxy's port while it refuses");
            listening = Some(tokio::spawn(listen(listener, Arc::clone(&self.shared))));
        }
        *lock(&self.listening) = listening;
    }

    /// Connections are refused, and the open ones reset, as when a server has died.
    pub async fn refuse(&self) {
        let listening = lock(&self.listening).take();
        if let Some(listening) = listening {
            listening.abort();
            let _ = listening.await;
        }
        self.cut().await;
    }

    /// Connections are accepted and stay open, and no byte passes either way, as when a cable is pulled.
    /// Nothing is lost: when forwarding resumes, what was held arrives.
    pub fn black_hole(&self) {
        self.shared.rules.send_modify(|rules| (rules.requests, rules.answers) = (Way::Hold, Way::Hold));
    }

    /// Requests arrive and are acted upon; their answers are lost.
    pub fn swallow_answers(&self) {
        self.shared.rules.send_modify(|rules| rules.answers = Way::Swallow);
    }

    /// Every piece of an answer arrives this much later.
    pub fn delay(&self, delay: Duration) {
        self.shared.rules.send_modify(|rules| rules.delay = delay);
    }

    /// Resets every connection that is open now. They are gone, on both sides, when this returns.
    pub async fn cut(&self) {
        let connections = std::mem::take(&mut *lock(&self.shared.connections));
        self.shared.generation.send_modify(|generation| *generation += 1);
        for connection in connections {
            let _ = connection.await;
        }
    }

    /// The first request from now on that contains `bytes` does not arrive; its connection is reset.
    pub fn lose_request(&self, bytes: impl Into<Vec<u8>>) -> Trap {
        self.arm(bytes.into(), trap::Fate::RequestLost)
    }

    /// The first request from now on that contains `bytes` arrives and is answered; the answer is lost and the
    /// connection reset.
    pub fn lose_answer(&self, bytes: impl Into<Vec<u8>>) -> Trap {
        self.arm(bytes.into(), trap::Fate::AnswerLost)
    }

    /// The first request from now on that contains `bytes` is held back, and with it all that follows on its
    /// connection, until the trap is [released](Trap::release). So a process that froze between deciding and
    /// acting is made, and wakes up when it hurts.
    pub fn hold_request(&self, bytes: impl Into<Vec<u8>>) -> Trap {
        self.arm(bytes.into(), trap::Fate::RequestHeld)
    }

    /// The first request from now on that contains `bytes` is the last that its connection brings to either side. It
    /// stays open, as when a firewall has forgotten it; others go on.
    pub fn strand(&self, bytes: impl Into<Vec<u8>>) -> Trap {
        self.arm(bytes.into(), trap::Fate::Stranded)
    }

    /// What has passed so far.
    pub fn seen(&self) -> Seen {
        *self.shared.seen.borrow()
    }

    /// Waits until `condition` holds of what was seen.
    pub async fn until(&self, condition: impl FnMut(&Seen) -> bool) {
        self.shared.seen.subscribe().wait_for(condition).await.expect("the proxy holds the sender");
    }

    fn arm(&self, bytes: Vec<u8>, fate: trap::Fate) -> Trap {
        let (armed, trap) = trap::new(bytes, fate);
        let before = lock(&self.shared.armed).replace(armed);
        assert!(before.is_none(), "one trap at a time: the last one has not sprung yet");
        trap
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        lock(&self.listening).iter().for_each(JoinHandle::abort);
        lock(&self.shared.connections).iter().for_each(JoinHandle::abort);
    }
}

async fn listen(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        shared.seen.send_modify(|seen| seen.accepted += 1);
        let generation = shared.generation.subscribe();
        let connection = tokio::spawn(connection::serve(client, Arc::clone(&shared), generation));
        let mut connections = lock(&shared.connections);
        connections.retain(|connection| !connection.is_finished());
        connections.push(connection);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
