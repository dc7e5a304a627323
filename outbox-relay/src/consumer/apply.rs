//! Applying batches, a transaction per partition.

use super::handler::{Handler, HandlerError, handle};
use super::poller::{Batch, Told};
use super::{ConsumerStats, Database, Received};
use crate::error::{Error, Result};
use crate::telemetry;
use opentelemetry::trace::SpanKind;
use outbox::{Assignment, Inbox};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

type KeyBytes = Option<Vec<u8>>;

/// Applies records, and knows which keys are parked in the partitions it has seen.
pub(super) struct Worker<D: Database, H> {
    database: D,
    inbox: Inbox,
    handler: Arc<H>,
    attempts: u32,
    stats: Arc<ConsumerStats>,
    partitions: HashMap<(String, i32), Partition>,
}

struct Partition {
    assignment: Arc<Assignment>,
    parked: HashSet<KeyBytes>,
}

/// How a transaction over some records ended.
enum Outcome {
    /// It committed; so many were applied, and so many were duplicates.
    Committed { applied: u64, duplicates: u64, parked: u64 },
    /// The handler failed at this index; nothing was committed.
    Failed { index: usize, error: HandlerError },
}

impl<D: Database, H: Handler<D::Connection>> Worker<D, H> {
    pub(super) fn new(
        database: D,
        inbox: Inbox,
        handler: H,
        attempts: u32,
        stats: Arc<ConsumerStats>,
    ) -> Self {
        Self { database, inbox, handler: Arc::new(handler), attempts, stats, partitions: HashMap::new() }
    }

    pub(super) fn has_parked(&self) -> bool {
        self.partitions.values().any(|partition| !partition.parked.is_empty())
    }

    /// Applies a batch to its end, unless its partition has another owner or the consumer is stopped.
    pub(super) async fn apply(
        &mut self,
        batch: Batch,
        told: &mpsc::Sender<Told>,
        stop: &CancellationToken,
    ) -> Result<()> {
        let Batch { assignment, records } = batch;
        self.know(&assignment, stop).await?;
        let rest = Arc::new(records);
        let mut failures = 0;
        let (mut from, mut upto) = (0, rest.len());
        while from < upto || upto < rest.len() {
            if from == upto {
                // The piece before a failing record is durable; now that one alone.
                upto = from + 1;
            }
            if stop.is_cancelled() {
                return Ok(());
            }
            let piece = Piece { records: rest.clone(), from, upto, park: None };
            match self.transact(&assignment, piece).await {
                Ok(Outcome::Committed { applied: a, duplicates, parked }) => {
                    self.count(a, duplicates, parked);
                    let (topic, partition) = (assignment.topic.clone(), assignment.partition);
                    let next = rest[upto - 1].offset + 1;
                    let _ = told.send(Told::Applied { topic, partition, next });
                    (from, upto, failures) = (upto, rest.len(), 0);
                }
                Ok(Outcome::Failed { index, .. }) if index > from => upto = index,
                Ok(Outcome::Failed { error, .. }) => {
                    failures += 1;
                    match self.reason_to_park(&error, failures) {
                        Some(reason) => match self.park(&assignment, &rest, from, reason, stop).await {
                            Ok(()) => (from, upto, failures) = (from + 1, rest.len(), 0),
                            Err(Error::Outbox(outbox::Error::Fenced { .. })) => {
                                return self.fenced(assignment, told);
                            }
                            // Stopped while the database was away: the next owner meets it again.
                            Err(error) if error.is_transient() => return Ok(()),
                            Err(error) => return Err(error),
                        },
                        None => {
                            upto = from + 1;
                            pause(failures, stop).await;
                        }
                    }
                }
                Err(Error::Outbox(outbox::Error::Fenced { .. })) => {
                    return self.fenced(assignment, told);
                }
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, "applies the batch again");
                    pause(3, stop).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn fenced(&self, assignment: Arc<Assignment>, told: &mpsc::Sender<Told>) -> Result<()> {
        self.stats.fenced.add(1);
        let _ = told.send(Told::Fenced(assignment));
        Ok(())
    }

    /// Hands released records to the handler, in order.
    pub(super) async fn apply_released(
        &mut self,
        told: &mpsc::Sender<Told>,
        stop: &CancellationToken,
    ) -> Result<()> {
        let waiting: Vec<Arc<Assignment>> = self
            .partitions
            .values()
            .filter(|partition| !partition.parked.is_empty())
            .map(|partition| partition.assignment.clone())
            .collect();
        for assignment in waiting {
            while !stop.is_cancelled() {
                match self.apply_one_released(&assignment).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(Error::Outbox(outbox::Error::Fenced { .. })) => {
                        self.partitions.remove(&(assignment.topic.clone(), assignment.partition));
                        self.fenced(assignment, told)?;
                        break;
                    }
                    Err(error) if error.is_transient() => {
                        tracing::warn!(%error, "applies released records later");
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    async fn apply_one_released(&mut self, assignment: &Arc<Assignment>) -> Result<bool> {
        let (database, inbox, handler) = (self.database.clone(), self.inbox.clone(), self.handler.clone());
        let at = assignment.clone();
        // `None` if nothing is released, else the keys that are still parked afterwards.
        let applied: Option<(u64, Vec<KeyBytes>)> = whole(async move {
            let mut tx = database.begin().await?;
            inbox.enter(&mut *tx, &at).await?;
            let Some(parked) = inbox.released(&mut *tx, &at).await? else { return Ok(None) };
            let received = Received::from_parked(&parked);
            let mut ids: Vec<Uuid> = received.id.into_iter().collect();
            ids = inbox.first_time(&mut *tx, &ids).await?;
            if (received.id.is_none() || !ids.is_empty())
                && let Err(error) = handle(&*handler, &mut *tx, &received).await
            {
                drop(tx);
                let mut tx = database.begin().await?;
                inbox.enter(&mut *tx, &at).await?;
                inbox.hold(&mut *tx, &parked, &reason(&error)).await?;
                D::commit(tx).await?;
                return Ok(None);
            }
            inbox.unpark(&mut *tx, &parked).await?;
            let keys = inbox.parked_keys(&mut *tx, &at).await?;
            D::commit(tx).await?;
            Ok(Some((1, keys)))
        })
        .await?;
        let Some((count, keys)) = applied else { return self.reload(assignment).await.map(|()| false) };
        self.stats.applied.add(count);
        self.remember(assignment, keys);
        Ok(true)
    }

    /// Reads which keys are parked: an operator may have dropped some.
    async fn reload(&mut self, assignment: &Arc<Assignment>) -> Result<()> {
        let (database, inbox, at) = (self.database.clone(), self.inbox.clone(), assignment.clone());
        let keys = whole(async move {
            let mut connection = database.connection().await?;
            Ok(inbox.parked_keys(&mut *connection, &at).await?)
        })
        .await?;
        self.remember(assignment, keys);
        Ok(())
    }

    fn remember(&mut self, assignment: &Arc<Assignment>, keys: Vec<KeyBytes>) {
        let partition = Partition { assignment: assignment.clone(), parked: keys.into_iter().collect() };
        self.partitions.insert((assignment.topic.clone(), assignment.partition), partition);
    }

    /// Learns which keys of a newly assigned partition are parked.
    async fn know(&mut self, assignment: &Arc<Assignment>, stop: &CancellationToken) -> Result<()> {
        let known = self.partitions.get(&(assignment.topic.clone(), assignment.partition));
        if known.is_some_and(|partition| partition.assignment.epoch == assignment.epoch) {
            return Ok(());
        }
        loop {
            match self.reload(assignment).await {
                Err(error) if error.is_transient() && !stop.is_cancelled() => {
                    tracing::warn!(%error, "waiting for the database");
                    pause(3, stop).await;
                }
                result => return result,
            }
        }
    }

    fn parked(&self, assignment: &Assignment) -> HashSet<KeyBytes> {
        let partition = self.partitions.get(&(assignment.topic.clone(), assignment.partition));
        partition.map(|partition| partition.parked.clone()).unwrap_or_default()
    }

    /// Sets a record aside; the later ones of its key follow it from then on.
    async fn park(
        &mut self,
        assignment: &Arc<Assignment>,
        records: &Arc<Vec<Received>>,
        index: usize,
        reason: String,
        stop: &CancellationToken,
    ) -> Result<()> {
        tracing::warn!(topic = assignment.topic, offset = records[index].offset, reason, "parked");
        loop {
            let piece =
                Piece { records: records.clone(), from: index, upto: index + 1, park: Some(reason.clone()) };
            match self.transact(assignment, piece).await {
                Ok(_) => break,
                Err(error @ Error::Outbox(outbox::Error::Fenced { .. })) => return Err(error),
                Err(error) if error.is_transient() && !stop.is_cancelled() => pause(3, stop).await,
                Err(error) => return Err(error),
            }
        }
        self.stats.parked.add(1);
        let key = records[index].key.clone();
        if let Some(partition) = self.partitions.get_mut(&(assignment.topic.clone(), assignment.partition)) {
            partition.parked.insert(key);
        }
        Ok(())
    }

    /// One transaction over some records of the batch, run to its end.
    async fn transact(&self, assignment: &Arc<Assignment>, piece: Piece) -> Result<Outcome> {
        let (database, inbox, handler) = (self.database.clone(), self.inbox.clone(), self.handler.clone());
        let (at, parked) = (assignment.clone(), self.parked(assignment));
        whole(async move {
            let records = &piece.records[piece.from..piece.upto];
            let written_in = records.iter().map(|record| record.header("traceparent").map(Cow::Borrowed));
            // Ends when it is dropped, with the transaction.
            let _span = telemetry::batch(SpanKind::Consumer, "process", &at.topic, written_in);
            let mut tx = database.begin().await?;
            let next = inbox.enter(&mut *tx, &at).await?.unwrap_or(0);
            let is_parked = |record: &Received| piece.park.is_some() || parked.contains(&record.key);
            let ids: Vec<Uuid> = records
                .iter()
                .filter(|record| record.offset >= next && !is_parked(record))
                .filter_map(|record| record.id)
                .collect();
            let mut fresh: HashSet<Uuid> = inbox.first_time(&mut *tx, &ids).await?.into_iter().collect();
            let (mut applied, mut duplicates, mut set_aside) = (0, 0, 0);
            for (index, record) in records.iter().enumerate().filter(|(_, record)| record.offset >= next) {
                if is_parked(record) {
                    let reason = piece.park.clone().unwrap_or_else(|| "its key is parked".into());
                    inbox.park(&mut *tx, &record.to_parked(reason)).await?;
                    set_aside += u64::from(piece.park.is_none());
                } else if record.id.is_some_and(|id| !fresh.remove(&id)) {
                    duplicates += 1;
                } else if let Err(error) = handle(&*handler, &mut *tx, record).await {
                    return Ok(Outcome::Failed { index: piece.from + index, error });
                } else {
                    applied += 1;
                }
            }
            let last = records.last().expect("a piece is not empty");
            inbox.advance(&mut *tx, &at, last.offset + 1, last.id).await?;
            D::commit(tx).await?;
            Ok(Outcome::Committed { applied, duplicates, parked: set_aside })
        })
        .await
    }

    fn reason_to_park(&self, error: &HandlerError, failures: u32) -> Option<String> {
        match error {
            HandlerError::Park(_) => Some(reason(error)),
            HandlerError::Retry(_) if failures >= self.attempts => Some(reason(error)),
            HandlerError::Retry(error) => {
                tracing::warn!(%error, failures, "the handler failed and is tried again");
                None
            }
        }
    }

    fn count(&self, applied: u64, duplicates: u64, parked: u64) {
        self.stats.applied.add(applied);
        self.stats.duplicates.add(duplicates);
        self.stats.parked.add(parked);
    }
}

/// Some records of a batch, and why they are to be parked, if they are.
struct Piece {
    records: Arc<Vec<Received>>,
    from: usize,
    upto: usize,
    park: Option<String>,
}

/// A failure's text, short enough to store.
fn reason(error: &HandlerError) -> String {
    let mut text = match error {
        HandlerError::Retry(error) => error.to_string(),
        HandlerError::Park(reason) => reason.clone(),
    };
    text.retain(|c| c != '\0');
    text.chars().take(1_000).collect()
}

async fn pause(failures: u32, stop: &CancellationToken) {
    let pause = Duration::from_millis(50) * 2_u32.pow(failures.min(7));
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(pause) => {}
    }
}

/// Runs a transaction to its end in its own task, even if nobody waits for it any more.
async fn whole<T: Send + 'static>(
    transaction: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(transaction).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::Config("the runtime is shutting down".into())),
    }
}
