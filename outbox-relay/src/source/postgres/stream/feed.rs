//! A stream that has begun.
//!
//! Two run beside each other on one connection. Whoever takes pages reads, and reads nothing while there is no room for
//! events: then the server waits. A task of its own tells the server again and again how far all is done, whether
//! or not anybody reads: a server that hears nothing for `wal_sender_timeout` ends the stream.

use super::connection::{Socket, broken};
use super::frames::Frames;
use crate::error::{Error, Result};
use crate::source::postgres::input::Input;
use pgwire_replication::Lsn;
use pgwire_replication::protocol::framing::{write_copy_data, write_copy_done};
use pgwire_replication::protocol::messages::parse_error_response;
use pgwire_replication::protocol::replication::{encode_standby_status_update, unix_to_pg_timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How often the server is told how far all is done.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// How long a connection that takes nothing may hold up its end.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

pub(super) struct Feed {
    socket: ReadHalf<Socket>,
    frames: Frames,
    done: Arc<Done>,
    end: CancellationToken,
}

/// What the server is told.
#[derive(Debug, Default)]
struct Done {
    /// Everything before it may be forgotten.
    lsn: AtomicU64,
    /// The server asks.
    asked: Notify,
}

/// What was sent.
#[derive(Debug)]
pub(super) enum Sent<'a> {
    /// A message of the plugin, about this place in the log.
    Message(u64, &'a [u8]),
    /// The server is there.
    Alive,
}

impl Feed {
    pub(super) fn new(socket: Socket, frames: Frames, from: u64) -> Self {
        let (socket, writes) = tokio::io::split(socket);
        let done = Arc::new(Done { lsn: from.into(), asked: Notify::new() });
        let end = CancellationToken::new();
        tokio::spawn(tell(writes, done.clone(), end.clone()));
        Self { socket, frames, done, end }
    }

    /// What is sent next. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Sent<'_>> {
        let frame = self.frames.next(&mut self.socket).await.map_err(broken)?;
        match frame.kind {
            b'd' => {
                let sent = sent(frame.body).map_err(Error::Replication)?;
                if let (Sent::Alive, Some(1)) = (&sent, frame.body.last()) {
                    self.done.asked.notify_one();
                }
                Ok(sent)
            }
            b'E' => Err(Error::Replication(parse_error_response(frame.body))),
            b'c' => Err(Error::Replication("the server ended the stream".into())),
            _ => Ok(Sent::Alive),
        }
    }

    /// Everything before this place in the log may be forgotten. The server is told within a second.
    pub(super) fn acknowledge(&self, lsn: u64) {
        self.done.lsn.fetch_max(lsn, Ordering::Relaxed);
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

fn sent(body: &[u8]) -> std::result::Result<Sent<'_>, String> {
    let mut input = Input::new(body);
    match input.u8()? {
        b'w' => {
            let lsn = input.u64()?;
            let _end_and_time = input.take(16)?;
            Ok(Sent::Message(lsn, input.rest()))
        }
        b'k' => Ok(Sent::Alive),
        kind => Err(format!("a message of kind {:?} in the stream", char::from(kind))),
    }
}

/// Tells the server how far all is done until the stream's end, or the connection's.
async fn tell(mut socket: WriteHalf<Socket>, done: Arc<Done>, end: CancellationToken) {
    let telling = async {
        loop {
            let _ = tokio::time::timeout(TOLD_EVERY, done.asked.notified()).await;
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
            let now = unix_to_pg_timestamp(i64::try_from(since).unwrap_or_default());
            let lsn = Lsn::from_u64(done.lsn.load(Ordering::Relaxed));
            if write_copy_data(&mut socket, &encode_standby_status_update(lsn, now, false)).await.is_err() {
                // Whoever reads is told why.
                return end.cancelled().await;
            }
        }
    };
    end.run_until_cancelled(telling).await;
    let _ = tokio::time::timeout(ENDS_WITHIN, write_copy_done(&mut socket)).await;
}
