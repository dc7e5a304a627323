//! Polling Kafka on a thread of its own, because its client blocks and calls back while it polls.

use super::{ConsumerSettings, ConsumerStats, Database, Received};
use crate::error::{Error, Result};
use outbox::{Assignment, Inbox};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Message as _, Offset, TopicPartitionList};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Records of one assigned partition, in order.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) assignment: Arc<Assignment>,
    pub(super) records: Vec<Received>,
}

/// What was polled and not handed over yet.
///
/// A record belongs to the assignment it was read under, which is known only at the moment it is polled: the
/// next poll may call back with another. Under that one everything is read again from the database's
/// watermark, so a record of the old one that passed for one of the new would leave a gap behind it.
#[derive(Default)]
struct Gathered {
    batches: Vec<Batch>,
}

impl Gathered {
    fn add(&mut self, assignment: &Arc<Assignment>, record: Received) {
        match self.batches.iter_mut().find(|batch| Arc::ptr_eq(&batch.assignment, assignment)) {
            Some(batch) => batch.records.push(record),
            None => self.batches.push(Batch { assignment: assignment.clone(), records: vec![record] }),
        }
    }
}

/// What the worker tells of batches.
#[derive(Debug)]
pub(super) enum Told {
    /// Everything of this partition before the offset is applied.
    Applied { topic: String, partition: i32, next: i64 },
    /// The partition has a newer owner than this assignment.
    Fenced(Arc<Assignment>),
}

type Started = (mpsc::Receiver<Batch>, std_mpsc::Sender<Told>, JoinHandle<Result<()>>);

const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(250);

/// Joins the group and starts polling, until the token is cancelled or nobody takes batches.
pub(super) fn start<D: Database>(
    settings: &ConsumerSettings,
    inbox: Inbox,
    database: D,
    stats: Arc<ConsumerStats>,
    stop: CancellationToken,
) -> Result<Started> {
    let mut config = settings.kafka.reader()?;
    if config.get("session.timeout.ms").is_none() {
        // Kafka's own default of 45 s is how long a dead consumer's partitions would stand still.
        config.set("session.timeout.ms", "10000");
    }
    config
        .set("group.id", &settings.group)
        .set("client.id", "outbox-consumer")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "false")
        // An offset the broker no longer has is for `begin_at` to judge, not to be passed over.
        .set("auto.offset.reset", "error")
        .set("fetch.wait.max.ms", "50")
        .set("partition.assignment.strategy", "range,roundrobin");
    let membership = Membership {
        inbox,
        database,
        owner: settings.owner.clone(),
        skip_expired: settings.skip_expired,
        stats,
        stop: stop.clone(),
        runtime: Handle::current(),
        state: Mutex::default(),
    };
    let consumer: BaseConsumer<Membership<D>> =
        config.create_with_context(membership).map_err(|error| Error::Config(format!("kafka: {error}")))?;
    subscribe(&consumer, &settings.topics)?;
    let (batches_in, batches) = mpsc::channel(4);
    let (told_in, told) = std_mpsc::channel();
    let (size, topics) = (settings.batch, settings.topics.clone());
    let thread = std::thread::Builder::new()
        .name("outbox-consumer".into())
        .spawn(move || poll(&consumer, &topics, &batches_in, &told, size, &stop))
        .map_err(|error| Error::Config(format!("a thread cannot be started: {error}")))?;
    Ok((batches, told_in, thread))
}

fn subscribe<D: Database>(consumer: &BaseConsumer<Membership<D>>, topics: &[String]) -> Result<()> {
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    Ok(consumer.subscribe(&topics)?)
}

fn poll<D: Database>(
    consumer: &BaseConsumer<Membership<D>>,
    topics: &[String],
    batches: &mpsc::Sender<Batch>,
    told: &std_mpsc::Receiver<Told>,
    size: usize,
    stop: &CancellationToken,
) -> Result<()> {
    let membership = consumer.context().clone();
    // What arrives while a batch is handed over comes first in the next round.
    let mut gathered = Gathered::default();
    while !stop.is_cancelled() && !batches.is_closed() {
        let mut wait = Duration::from_millis(100);
        for _ in 0..size {
            if !gather(consumer, wait, &mut gathered)? {
                break;
            }
            wait = Duration::ZERO;
        }
        let failed = membership.state.lock().expect("never poisoned").failed.take();
        match failed {
            None => {}
            Some(error) if error.is_transient() => {
                tracing::warn!(%error, "joins the group anew");
                membership.stats.rejoined.add(1);
                consumer.unsubscribe();
                std::thread::sleep(PAUSE);
                subscribe(consumer, topics)?;
                continue;
            }
            Some(error) => return Err(error),
        }
        for batch in std::mem::take(&mut gathered).batches {
            if let Some(batch) = check(batch)? {
                hand_over(consumer, batches, batch, &mut gathered, stop)?;
            }
        }
        hear(consumer, told);
    }
    hear(consumer, told);
    leave(consumer);
    Ok(())
}

/// Polls once, and keeps what comes. False when nothing came.
fn gather<D: Database>(
    consumer: &BaseConsumer<Membership<D>>,
    wait: Duration,
    gathered: &mut Gathered,
) -> Result<bool> {
    match consumer.poll(wait) {
        Some(Ok(message)) => {
            // Without an assignment it was read under one that is gone.
            if let Some(assignment) = consumer.context().assignment(message.topic(), message.partition()) {
                gathered.add(&assignment, Received::from_message(&message));
            }
            Ok(true)
        }
        Some(Err(error)) => complain(consumer.context(), error).map(|()| true),
        None => Ok(false),
    }
}

/// Leaves the group, so that others need not wait for this member's session to end. Dropping the
/// client alone does not always say goodbye.
fn leave<D: Database>(consumer: &BaseConsumer<Membership<D>>) {
    let assigned = || !consumer.context().state.lock().expect("never poisoned").assigned.is_empty();
    consumer.unsubscribe();
    let deadline = Instant::now() + Duration::from_secs(3);
    while assigned() && Instant::now() < deadline {
        let _ = consumer.poll(Duration::from_millis(20));
    }
    let _ = consumer.poll(Duration::from_millis(200));
}

/// Gives a batch to the worker. While it has no room the partitions are paused and polling goes on, which
/// keeps the membership alive: other partitions may be assigned meanwhile, and records of theirs arrive
/// before they are paused too.
fn hand_over<D: Database>(
    consumer: &BaseConsumer<Membership<D>>,
    batches: &mpsc::Sender<Batch>,
    batch: Batch,
    gathered: &mut Gathered,
    stop: &CancellationToken,
) -> Result<()> {
    let membership = consumer.context();
    let permit = loop {
        let room = async { tokio::time::timeout(Duration::from_secs(1), batches.reserve()).await };
        match membership.runtime.block_on(room) {
            Ok(permit) => break permit.ok(),
            Err(_) if stop.is_cancelled() => break None,
            Err(_) => {}
        }
        // Every time: what was assigned since the last time is not paused yet.
        membership.pause(consumer)?;
        gather(consumer, Duration::ZERO, gathered)?;
    };
    membership.resume(consumer)?;
    if let Some(permit) = permit {
        permit.send(batch);
    }
    Ok(())
}

/// Hears what became of batches. Kafka is told how far the database is, which is only a hint: an error is not worth a
/// word.
fn hear<D: Database>(consumer: &BaseConsumer<Membership<D>>, told: &std_mpsc::Receiver<Told>) {
    let mut latest: HashMap<(String, i32), i64> = HashMap::new();
    for told in told.try_iter() {
        match told {
            Told::Applied { topic, partition, next } => _ = latest.insert((topic, partition), next),
            Told::Fenced(assignment) => consumer.context().fenced(&assignment),
        }
    }
    let mut list = TopicPartitionList::new();
    for ((topic, partition), next) in latest {
        let _ = list.add_partition_offset(&topic, partition, Offset::Offset(next));
    }
    if list.count() > 0 {
        let _ = consumer.commit(&list, CommitMode::Async);
    }
}

/// A broker that is away comes back; what never mends ends the consumer. After an offset that the broker does not have
/// a partition stands still: joining anew finds out what became of it.
fn complain<D: Database>(membership: &Membership<D>, error: KafkaError) -> Result<()> {
    match error {
        KafkaError::MessageConsumptionFatal(_) => Err(error.into()),
        KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset) => {
            membership.fail(error.into());
            Ok(())
        }
        _ => {
            tracing::warn!(%error, "kafka");
            Ok(())
        }
    }
}

/// What this process has been assigned.
struct Membership<D> {
    inbox: Inbox,
    database: D,
    owner: String,
    skip_expired: bool,
    stats: Arc<ConsumerStats>,
    stop: CancellationToken,
    runtime: Handle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    assigned: HashMap<(String, i32), Arc<Assignment>>,
    /// What librdkafka is told to hold back, exactly: it keeps that over a rebalance, and to resume a partition that is
    /// not paused makes it read again from where it began.
    paused: HashSet<(String, i32)>,
    failed: Option<Error>,
}

impl<D: Database> ClientContext for Membership<D> {}

impl<D: Database> ConsumerContext for Membership<D> {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                let taken = self.take_over(consumer, list);
                let assigned = taken.and_then(|starts| consumer.assign(&starts).map_err(Error::from));
                if let Err(error) = assigned {
                    self.fail(error);
                    self.give_back(consumer);
                    // It is answered by an assignment, if by an empty one: after `unassign` librdkafka waits on for it.
                    let _ = consumer.assign(&partitions([]));
                }
            }
            _ => {
                self.give_back(consumer);
                let _ = consumer.unassign().map_err(|error| self.fail(error.into()));
            }
        }
    }
}

impl<D: Database> Membership<D> {
    /// Has the group joined anew, or the consumer ended, after the callbacks.
    fn fail(&self, error: Error) {
        self.state.lock().expect("never poisoned").failed.get_or_insert(error);
    }

    /// Joins anew where a partition that the group has given to this process has got a newer owner: one that was frozen
    /// as it took the partition over, say, and woke up when the group had long done without it. It may be gone
    /// before it could apply anything, and the group knows nothing of it.
    fn fenced(&self, assignment: &Arc<Assignment>) {
        let Assignment { topic, partition, epoch, .. } = &**assignment;
        if self.assignment(topic, *partition).is_some_and(|current| Arc::ptr_eq(&current, assignment)) {
            let fenced = outbox::Error::Fenced { topic: topic.clone(), partition: *partition, epoch: *epoch };
            self.fail(fenced.into());
        }
    }

    /// Forgets the assignment, and leaves nothing paused that may be assigned again. What cannot be resumed stays
    /// marked, for the next occasion.
    fn give_back(&self, consumer: &BaseConsumer<Self>) {
        self.state.lock().expect("never poisoned").assigned.clear();
        let _ = self.resume(consumer);
    }

    /// Holds back what is assigned and not held back yet.
    fn pause(&self, consumer: &BaseConsumer<Self>) -> Result<()> {
        let mut state = self.state.lock().expect("never poisoned");
        let State { assigned, paused, .. } = &mut *state;
        let fresh: Vec<_> = assigned.keys().filter(|at| !paused.contains(*at)).cloned().collect();
        if !fresh.is_empty() {
            consumer.pause(&partitions(&fresh))?;
            paused.extend(fresh);
        }
        Ok(())
    }

    /// Lets go on what is held back. A partition that is not assigned any more only loses its mark.
    fn resume(&self, consumer: &BaseConsumer<Self>) -> Result<()> {
        let mut state = self.state.lock().expect("never poisoned");
        if !state.paused.is_empty() {
            consumer.resume(&partitions(&state.paused))?;
            state.paused.clear();
        }
        Ok(())
    }

    /// Fences the earlier owners, and finds out where to read on.
    fn take_over(
        &self,
        consumer: &BaseConsumer<Self>,
        list: &TopicPartitionList,
    ) -> Result<TopicPartitionList> {
        let mut starts = TopicPartitionList::new();
        for element in list.elements() {
            let (topic, partition) = (element.topic(), element.partition());
            let Some(assignment) = self.runtime.block_on(self.assign(topic, partition))? else { break };
            let begin = self.begin(consumer, &assignment)?;
            starts.add_partition_offset(topic, partition, begin)?;
            let mut state = self.state.lock().expect("never poisoned");
            state.assigned.insert((topic.to_owned(), partition), Arc::new(assignment));
        }
        Ok(starts)
    }

    /// Where to begin to read, by what the broker has. One that has just come up may not answer yet, or say for a
    /// moment that it ends earlier than it does; where it begins is certain.
    fn begin(&self, consumer: &BaseConsumer<Self>, assignment: &Assignment) -> Result<Offset> {
        let deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            let watermarks =
                consumer.fetch_watermarks(&assignment.topic, assignment.partition, ANSWER_WITHIN);
            let (begin, certain) = match watermarks {
                Ok((low, high)) => {
                    let complete = assignment.next_offset.is_none_or(|next| next <= high);
                    (begin_at(assignment, low, high, self.skip_expired), complete)
                }
                Err(error) => (Err(error.into()), false),
            };
            if certain || Instant::now() > deadline || self.stop.is_cancelled() {
                return begin;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits for a database that is down, until told to stop.
    async fn assign(&self, topic: &str, partition: i32) -> Result<Option<Assignment>> {
        loop {
            let (inbox, database) = (self.inbox.clone(), self.database.clone());
            let (topic, owner) = (topic.to_owned(), self.owner.clone());
            let mut assigning = tokio::spawn(async move {
                let mut connection = database.connection().await?;
                Ok::<_, Error>(inbox.assign(&mut *connection, &topic, partition, &owner).await?)
            });
            // One statement of its own: unlike a transaction it may be given up half-way. A server
            // that died at the wrong moment may never answer.
            let assigned = match tokio::time::timeout(ANSWER_WITHIN, &mut assigning).await {
                Ok(assigned) => assigned.expect("assigning does not panic"),
                Err(_) => {
                    assigning.abort();
                    Err(Error::Database(sqlx::Error::PoolTimedOut))
                }
            };
            match assigned {
                Ok(assignment) => return Ok(Some(assignment)),
                Err(error) if error.is_transient() => tracing::warn!(%error, "waiting for the database"),
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = self.stop.cancelled() => return Ok(None),
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
        }
    }

    /// The assignment of a partition, while there is one.
    fn assignment(&self, topic: &str, partition: i32) -> Option<Arc<Assignment>> {
        let state = self.state.lock().expect("never poisoned");
        state.assigned.get(&(topic.to_owned(), partition)).cloned()
    }
}

fn partitions<'a>(at: impl IntoIterator<Item = &'a (String, i32)>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in at {
        list.add_partition(topic, *partition);
    }
    list
}

/// What there is to apply of a batch. The record that was applied last, read again, is compared and left out.
fn check(mut batch: Batch) -> Result<Option<Batch>> {
    let Batch { assignment, records } = &mut batch;
    if let (Some(next), Some(first), Some(last_id)) =
        (assignment.next_offset, records.first(), assignment.last_id)
        && first.offset + 1 == next
    {
        if first.id != Some(last_id) {
            let Assignment { topic, partition, .. } = &**assignment;
            return Err(Error::OtherTopic(format!(
                "partition {partition} of {topic:?} holds another event at offset {} than the one that was \
                 applied from there: the topic was deleted and made anew; if that was meant, delete this \
                 group's rows for it from inbox_partition",
                first.offset
            )));
        }
        records.remove(0);
    }
    Ok((!batch.records.is_empty()).then_some(batch))
}

/// Where to begin to read. One record before the watermark, to see that it is the one that was applied. Always a
/// number: while a partition waits for the broker to say what "the beginning" is, pausing it would discard the answer.
fn begin_at(assignment: &Assignment, low: i64, high: i64, skip_expired: bool) -> Result<Offset> {
    let Some(next) = assignment.next_offset else { return Ok(Offset::Offset(low)) };
    let Assignment { topic, partition, .. } = assignment;
    if next > high {
        return Err(Error::OtherTopic(format!(
            "partition {partition} of {topic:?} ends at offset {high}, but records up to {next} were applied: the \
             topic was deleted and made anew, or the broker lost data; if that was meant, delete this group's rows \
             for it from inbox_partition"
        )));
    }
    if next < low && !skip_expired {
        return Err(Error::OtherTopic(format!(
            "partition {partition} of {topic:?} begins at offset {low}, but only records up to {next} were applied: \
             the ones between have expired unread; `skip_expired` goes on without them"
        )));
    }
    let check = assignment.last_id.is_some() && next > low;
    Ok(Offset::Offset(if check { next - 1 } else { next.max(low) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn reading_goes_on_where_the_database_is_and_stops_where_that_cannot_be() {
        let at = |next_offset, last_id| Assignment {
            topic: "orders".into(),
            partition: 0,
            epoch: 1,
            next_offset,
            last_id,
        };
        let id = Some(Uuid::from_u128(7));
        let ok =
            |assignment: Assignment, low, high| begin_at(&assignment, low, high, false).expect("goes on");
        assert_eq!(ok(at(None, None), 5, 9), Offset::Offset(5));
        assert_eq!(ok(at(Some(7), id), 5, 9), Offset::Offset(6));
        assert_eq!(ok(at(Some(7), None), 5, 9), Offset::Offset(7));
        assert_eq!(ok(at(Some(9), id), 9, 9), Offset::Offset(9), "the last one applied has expired");
        let error = begin_at(&at(Some(10), id), 5, 9, false).expect_err("another topic");
        assert!(error.to_string().contains("ends at offset 9"), "{error}");
        let error = begin_at(&at(Some(3), id), 5, 9, false).expect_err("a gap");
        assert!(error.to_string().contains("expired unread"), "{error}");
        assert_eq!(begin_at(&at(Some(3), id), 5, 9, true).expect("skips"), Offset::Offset(5));
    }

    fn record(offset: i64) -> Received {
        let (topic, headers) = ("orders".into(), std::collections::BTreeMap::new());
        Received { topic, partition: 0, offset, id: None, key: None, payload: None, headers }
    }

    #[test]
    fn what_was_read_under_one_assignment_never_passes_for_the_other() {
        let assignment = |epoch, next_offset| {
            let topic = "orders".into();
            Arc::new(Assignment { topic, partition: 0, epoch, next_offset: Some(next_offset), last_id: None })
        };
        let (old, new) = (assignment(1, 0), assignment(2, 5));
        let mut gathered = Gathered::default();
        // The old one had read up to 12 when the partition was assigned anew, from what the database had.
        for (under, offset) in [(&old, 10), (&old, 11), (&new, 5), (&old, 12), (&new, 6)] {
            gathered.add(under, record(offset));
        }
        let batches: Vec<(i64, Vec<i64>)> = gathered
            .batches
            .iter()
            .map(|batch| (batch.assignment.epoch, batch.records.iter().map(|record| record.offset).collect()))
            .collect();
        assert_eq!(batches, [(1, vec![10, 11, 12]), (2, vec![5, 6])]);
    }
}
