//! One connection: two streams of bytes, each under the rules of the moment.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{Notify, oneshot, watch};

use super::rules::{Direction, Way};
use super::trap::{Armed, Fate, Scanner};
use super::{Shared, lock};

/// What the request stream tells the answer stream of the same connection.
type DoomedAnswer = Mutex<Option<oneshot::Sender<()>>>;

/// Forwards until both sides are done, or until the connection is cut or torn: then both sides are reset.
pub(super) async fn serve(mut client: TcpStream, shared: Arc<Shared>, mut generation: watch::Receiver<u64>) {
    let mut server = match TcpStream::connect(shared.target).await {
        Ok(server) => server,
        Err(_) => {
            let _ = client.set_zero_linger();
            return;
        }
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let whole = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let (doomed, asked) = (DoomedAnswer::default(), AtomicBool::new(false));
        let stranded = Notify::new();
        let both = async {
            tokio::try_join!(
                requests(from_client, to_server, &shared, &doomed, &asked, &stranded),
                answers(from_server, to_client, &shared, &doomed, &asked, &stranded)
            )
        };
        tokio::select! {
            ended = both => ended.is_ok(),
            _ = generation.changed() => false,
        }
    };
    if !whole {
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

async fn requests(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    shared: &Shared,
    doomed: &DoomedAnswer,
    asked: &AtomicBool,
    stranded: &Notify,
) -> io::Result<()> {
    let mut gate = Gate::new(shared, Direction::Request);
    let mut scanner = Scanner::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let piece = from.read(&mut buffer).await?;
        if let Some(trap) = springs(shared, &mut scanner, &buffer[..piece]) {
            match trap.fate {
                Fate::RequestLost => {
                    let _ = trap.sprung.send(());
                    return Err(torn());
                }
                Fate::AnswerLost => *lock(doomed) = Some(trap.sprung),
                Fate::RequestHeld => {
                    shared.seen.send_modify(|seen| seen.held += 1);
                    let _ = trap.sprung.send(());
                    let _ = trap.released.await;
                }
                Fate::Stranded => {
                    stranded.notify_one();
                    let _ = trap.sprung.send(());
                    return std::future::pending().await;
                }
            }
        }
        if gate.open(piece).await? {
            if piece == 0 {
                return to.shutdown().await;
            }
            // Whatever is sent before an answer comes travels together.
            let turns = !asked.swap(true, Ordering::AcqRel);
            shared.seen.send_modify(|seen| {
                seen.requested += piece as u64;
                seen.round_trips += u64::from(turns);
            });
            to.write_all(&buffer[..piece]).await?;
        }
    }
}

async fn answers(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    shared: &Shared,
    doomed: &DoomedAnswer,
    asked: &AtomicBool,
    stranded: &Notify,
) -> io::Result<()> {
    let mut gate = Gate::new(shared, Direction::Answer);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let piece = tokio::select! {
            piece = from.read(&mut buffer) => piece?,
            () = gate.resumed_after_loss() => return Err(torn()),
            () = stranded.notified() => return std::future::pending().await,
        };
        let lost = lock(doomed).take();
        if let Some(sprung) = lost {
            shared.seen.send_modify(|seen| seen.swallowed += piece as u64);
            let _ = sprung.send(());
            return Err(torn());
        }
        if gate.open(piece).await? {
            if piece == 0 {
                return to.shutdown().await;
            }
            asked.store(false, Ordering::Release);
            to.write_all(&buffer[..piece]).await?;
            shared.seen.send_modify(|seen| seen.answered += piece as u64);
        }
    }
}

/// Applies the rules to one direction of one connection.
struct Gate<'a> {
    shared: &'a Shared,
    direction: Direction,
    /// Bytes of this stream were lost, so it must not go on.
    torn: bool,
}

impl<'a> Gate<'a> {
    fn new(shared: &'a Shared, direction: Direction) -> Self {
        Self { shared, direction, torn: false }
    }

    /// Waits while the rules hold bytes back. True: pass them on. False: they were swallowed. The end of the
    /// stream (a piece of no bytes) is held as long as bytes would be held or swallowed.
    async fn open(&mut self, piece: usize) -> io::Result<bool> {
        let mut rules = self.shared.rules.subscribe();
        let stopped = |way: Way| way == Way::Hold || (way == Way::Swallow && piece == 0);
        if stopped(rules.borrow().way(self.direction)) {
            self.shared.seen.send_modify(|seen| seen.held += 1);
        }
        let now = *rules.wait_for(|rules| !stopped(rules.way(self.direction))).await.map_err(|_| torn())?;
        if now.way(self.direction) == Way::Swallow {
            self.torn = true;
            self.shared.seen.send_modify(|seen| seen.swallowed += piece as u64);
            return Ok(false);
        }
        if self.torn {
            return Err(torn());
        }
        tokio::time::sleep(now.delay(self.direction)).await;
        Ok(true)
    }

    /// Waits until bytes may pass again on a stream that has lost some. Its client waits for an answer that
    /// will not come.
    async fn resumed_after_loss(&self) {
        if !self.torn {
            return std::future::pending().await;
        }
        let mut rules = self.shared.rules.subscribe();
        let _ = rules.wait_for(|rules| rules.way(self.direction) == Way::Pass).await;
    }
}

/// Takes the trap if this piece of a request completes what it waits for.
fn springs(shared: &Shared, scanner: &mut Scanner, piece: &[u8]) -> Option<Armed> {
    let mut armed = lock(&shared.armed);
    match armed.as_ref() {
        Some(trap) if scanner.finds(&trap.bytes, piece) => armed.take(),
        Some(_) => None,
        None => {
            scanner.forget();
            None
        }
    }
}

fn torn() -> io::Error {
    io::Error::other("bytes of this connection were lost on purpose")
}
