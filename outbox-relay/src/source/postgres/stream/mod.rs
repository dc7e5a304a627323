//! Reading events from the write-ahead log, as soon as they are committed.
//!
//! # The slot is only a shortcut
//!
//! The replication slot is *temporary*: it belongs to one connection and ends with it, so a relay that is
//! away keeps no log from being removed, and no slot can be forgotten, invalidated or out of step with
//! the cursor. Nothing is lost with it, because the cursor over the table is the truth, in both modes.
//!
//! # From polling to streaming
//!
//! 1. Polling has caught up. A connection makes a temporary slot; that waits for the transactions that
//!    are open, so polling goes on meanwhile.
//! 2. The slot exists, and says by a snapshot of its own what had committed in the log before it begins: that it
//!    does not send. A snapshot that is only taken later than that may see less: a transaction is in the log before
//!    others see it, while it waits for the disk, for a standby, or for the processor.
//! 3. So polling goes on until what it has read covers the slot's snapshot. From then on the stream is read, and
//!    what polling has read is skipped in it: each row says which transaction wrote it.
//!
//! # From streaming to polling
//!
//! While it streams, the relay writes its current snapshot into the log, as a message. All that the
//! snapshot sees was committed before the message, and has been read from the stream when the
//! message arrives: so the message is a [mark](crate::Mark), and acknowledging it moves the cursor to its
//! snapshot. The reverse is not true: a transaction that is in the log before others see it was streamed before a mark
//! whose snapshot does not see it. If the stream breaks, polling goes on from the last mark's snapshot, and skips by id
//! what was streamed and is not seen by it. A relay that begins again from there finds the same events in the
//! topics: the mark [says](crate::Page::beyond) how far back.
//!
//! A backlog never goes through here: catching up is the table's business, which is faster at it. Only
//! a table that cannot be polled is read from the log [from the beginning](slot).

mod connection;
mod decode;
mod feed;
mod frames;
mod publication;
mod session;
pub(super) mod slot;

use super::PostgresSource;
use super::cursor::{Cursor, Snapshot};
use super::poll::Poll;
use crate::error::{Error, Result};
use crate::event::{Event, Page};
use crate::source::PageSize;
use decode::Row;
use session::{Heard, Opening};
pub(super) use session::{READ_TABLE, Session, message_prefix};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use uuid::Uuid;

/// A stream that says nothing for so long is given up. The table is polled then, so a wrong guess costs little.
const SILENCE: Duration = Duration::from_secs(20);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Where reading by stream stands.
#[derive(Debug)]
pub(super) enum Stream {
    /// Polling; when to try to stream again, and how long to wait after that.
    Off { again: Instant, pause: Duration },
    /// Polling, while a slot is made.
    Opening { session: JoinHandle<Result<Session>>, pause: Duration },
    /// Polling, to the end of a tick that covers what the slot does not send.
    Joining(Box<Session>),
    /// Streaming.
    On(Box<Streaming>),
}

#[derive(Debug)]
pub(super) struct Streaming {
    session: Session,
    /// What polling had read when it ended.
    polled: Snapshot,
    /// Events streamed that the last mark's snapshot does not see, in order.
    beyond_mark: Vec<Beyond>,
    /// How many events were streamed.
    streamed: usize,
    /// The error with which it ended, behind a page.
    broken: Option<Error>,
}

/// An event that no mark stands for yet.
#[derive(Clone, Copy, Debug)]
struct Beyond {
    id: Uuid,
    xid: u64,
    /// How many were streamed before it.
    after: usize,
}

impl Stream {
    pub(super) fn off() -> Self {
        Self::Off { again: Instant::now(), pause: FIRST_RETRY }
    }
}

/// The next page, in whichever way events are read now.
pub(super) async fn read(source: &PostgresSource, limit: usize) -> Result<Page> {
    if !source.statements().await?.polls {
        return slot::read(source, limit).await;
    }
    let mut poll = source.poll.lock().await;
    if let Stream::On(_) = poll.stream {
        let Stream::On(streaming) = &mut poll.stream else { unreachable!("it is on") };
        match streaming.read(source, limit).await {
            Ok((page, mark)) => {
                if let Some(cursor) = mark {
                    poll.cursor = cursor;
                }
                return Ok(page);
            }
            Err(error) => fall_back(source, &mut poll, &error),
        }
    }
    opened(&mut poll).await;
    let page = super::poll::read_locked(source, &mut poll, limit).await?;
    let tick_ended = poll.cursor.tick.is_none();
    let caught_up = tick_ended && page.events.len() < limit.min(super::poll::SMALL);
    let joins = matches!(&poll.stream, Stream::Joining(session) if session.is_covered_by(&poll.cursor.base));
    if joins && tick_ended {
        join(source, &mut poll);
    } else if caught_up {
        open(source, &mut poll);
    }
    Ok(page)
}

/// Begins to make a slot, if it is time.
fn open(source: &PostgresSource, poll: &mut Poll) {
    if let (Stream::Off { again, pause }, Some(target)) = (&poll.stream, &source.stream_to)
        && *again <= Instant::now()
    {
        let opening = Opening {
            pool: source.pool.clone(),
            target: target.clone(),
            table: source.table.clone(),
            binary: source.statements.get().is_some_and(|statements| statements.binary),
            publication: source.publication.clone(),
            lasting: None,
        };
        poll.stream = Stream::Opening { session: tokio::spawn(Session::open(opening)), pause: *pause };
    }
}

/// Takes the session, if it has been opened.
async fn opened(poll: &mut Poll) {
    let Stream::Opening { session, pause } = &mut poll.stream else { return };
    if !session.is_finished() {
        return;
    }
    let pause = *pause;
    poll.stream = match session.await {
        Ok(Ok(session)) => Stream::Joining(Box::new(session)),
        Ok(Err(error)) => {
            tracing::info!(%error, "polls, and tries to stream again in {pause:?}");
            Stream::Off { again: Instant::now() + pause, pause: (pause * 2).min(LAST_RETRY) }
        }
        Err(_) => Stream::off(),
    };
}

/// Polling has read all that its snapshot sees: on with the stream.
fn join(source: &PostgresSource, poll: &mut Poll) {
    let Stream::Joining(session) = std::mem::replace(&mut poll.stream, Stream::off()) else { return };
    let polled = poll.cursor.base.clone();
    let streaming =
        Streaming { session: *session, polled, beyond_mark: Vec::new(), streamed: 0, broken: None };
    tracing::info!(outbox = source.table.name, "streams");
    poll.stream = Stream::On(Box::new(streaming));
    source.streams.store(true, Ordering::Relaxed);
}

/// Goes on polling from the last mark; what was streamed since is skipped there.
fn fall_back(source: &PostgresSource, poll: &mut Poll, error: &Error) {
    tracing::info!(outbox = source.table.name, %error, "polls");
    source.streams.store(false, Ordering::Relaxed);
    let off = Stream::Off { again: Instant::now() + FIRST_RETRY, pause: FIRST_RETRY * 2 };
    if let Stream::On(streaming) = std::mem::replace(&mut poll.stream, off) {
        poll.skip.extend(streaming.beyond_mark.iter().map(|event| event.id));
    }
}

impl Streaming {
    /// The events that are there, at most `limit`, up to the first mark.
    async fn read(&mut self, source: &PostgresSource, limit: usize) -> Result<(Page, Option<Cursor>)> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        let mut page = Page::default();
        match self.fill(source, limit, &mut page).await {
            Ok(mark) => Ok((page, mark)),
            Err(error) if page.events.is_empty() => Err(error),
            // What was taken is taken: polling will skip it.
            Err(error) => {
                self.broken = Some(error);
                Ok((page, None))
            }
        }
    }

    async fn fill(
        &mut self,
        source: &PostgresSource,
        limit: usize,
        page: &mut Page,
    ) -> Result<Option<Cursor>> {
        self.session.acknowledge(source.acknowledged_lsn.load(Ordering::Relaxed));
        let mut heard = self.session.next_within(SILENCE).await?;
        if heard.is_none() {
            return Ok(None);
        }
        let mut bytes = 0;
        while let Some(next) = heard {
            match next {
                Heard::Row(row) => {
                    bytes += row.event.bytes();
                    page.events.extend(self.take(row)?);
                }
                Heard::Mark { other_state: Some(_), .. } => return Err(session::changed()),
                Heard::Mark { snapshot, lsn, .. } => {
                    self.beyond_mark.retain(|event| !snapshot.sees(event.xid));
                    page.beyond = self.beyond_mark.first().map_or(0, |first| self.streamed - first.after);
                    let cursor = Cursor { base: snapshot, tick: None };
                    let mut marks = source.marks.lock().expect("never poisoned");
                    page.mark = Some(marks.set(cursor.clone(), Some(lsn)));
                    return Ok(Some(cursor));
                }
                Heard::Described => self.session.is_whole().await?,
                Heard::Nothing => {}
            }
            if page.events.len() >= limit || bytes >= PageSize::BYTES {
                break;
            }
            heard = self.session.next_at_once().transpose()?;
        }
        Ok(None)
    }

    fn take(&mut self, row: Row) -> Result<Option<Event>> {
        let xid = row.xid.ok_or_else(|| Error::Replication("a row without xid".into()))?;
        if self.polled.sees(xid) {
            return Ok(None);
        }
        self.beyond_mark.push(Beyond { id: row.event.id, xid, after: self.streamed });
        self.streamed += 1;
        self.session.has_events();
        Ok(Some(row.event))
    }
}
