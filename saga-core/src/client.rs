//! The client: starts sagas, waits for them, tells them things.

mod starting;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use crate::attributes::BadAttribute;
use crate::clock::Clock;
use crate::codec::{Codec, CodecError};
use crate::engine::{Shared, Starter};
use crate::id::{BadKey, Key, MailId, Name, RunId};
use crate::journal::{self, End, EndKind, Failure, MailBody, Record};
use crate::payload::Payload;
use crate::saga::Definition;
use crate::store::{Backend, Mail, Posted, StartReply, State, Summary};
pub(crate) use starting::Sketch;
pub use starting::{Prepared, Starting, prepare};

/// How soon the store is asked again whether a saga has ended, at first and at most.
const POLL: Duration = Duration::from_millis(50);
const POLL_MOST: Duration = Duration::from_secs(1);
/// How many waits of one client ask the store at once: thousands of them must not queue up in front of it.
const POLLS: usize = 2;

/// Starts sagas and speaks to them. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    backend: Backend,
    starter: Starter,
    local: Option<Arc<Shared>>,
    codec: Option<Codec>,
    polls: Arc<Semaphore>,
}

/// Why a client's request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store failed; the request may be repeated.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    /// The id is taken by a saga with another input.
    #[error(
        "saga {saga:?} of {definition} exists with another input (run {run}); a repeated start must send the same input, another order needs another id"
    )]
    Mismatch {
        /// The definition.
        definition: String,
        /// The user's id.
        saga: String,
        /// The run that holds the id.
        run: RunId,
    },
    /// A saga's id that cannot be kept.
    #[error("a saga's id has 1 to 255 characters and no control characters; this one has not: {0:?}")]
    BadId(String),
    /// A key that cannot be kept.
    #[error(transparent)]
    BadKey(BadKey),
    /// An attribute that cannot be kept.
    #[error(transparent)]
    BadAttribute(BadAttribute),
    /// The definition's key function is not at hand.
    #[error(
        "definition {definition} takes its sagas' keys from their inputs by code that this program has not; give the key"
    )]
    NeedsKey {
        /// The definition.
        definition: String,
    },
    /// The saga would wait for the saga that waits for it.
    #[error(
        "key {0:?} is held by a saga that starts this one and awaits its end, so neither could go on; give it another key, or none: what it does is under that key already"
    )]
    KeyHeldAbove(Key),
    /// The input is larger than a journal keeps.
    #[error(
        "the input has {bytes} bytes, and at most {} are kept; store it elsewhere and start the saga with its address, or use a codec that offloads",
        Payload::BYTES_MAX
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A payload that could not be closed or opened.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A value that cannot be written or read as JSON of the expected type.
    #[error("{what} does not fit its type: {source}")]
    Payload {
        /// Which value.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// No worker has registered the definition yet.
    #[error(
        "no worker has registered definition {definition} version {version}; start a worker that has it, or check the name"
    )]
    NotRegistered {
        /// The definition.
        definition: String,
        /// The version.
        version: u32,
    },
    /// The run ended so long ago that its journal, and with it its output, was removed.
    #[error("run {run} ended {end} long ago; its journal was removed, and its output with it")]
    Expired {
        /// The run.
        run: RunId,
        /// How it ended.
        end: EndKind,
    },
    /// There is no such run.
    #[error("there is no run {0}")]
    NoSuchSaga(RunId),
    /// A journal that does not read: a fault of this crate or of the store.
    #[error("the journal of run {run} does not read: {why}")]
    Unreadable {
        /// The run.
        run: RunId,
        /// Why.
        why: String,
    },
}

impl Error {
    /// Whether nothing was started, and nothing ever will be by the same start.
    pub(crate) fn is_final(&self) -> bool {
        matches!(
            self,
            Self::BadId(_)
                | Self::BadKey(_)
                | Self::BadAttribute(_)
                | Self::NeedsKey { .. }
                | Self::KeyHeldAbove(_)
                | Self::TooLarge { .. }
                | Self::Payload { .. }
        )
    }
}

/// How a saga ended, with its typed output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended<Out> {
    /// All effects happened.
    Completed(Out),
    /// Every effect that happened was undone, because of this.
    Compensated(Failure),
    /// By an operator's decision some effects stand.
    PartiallyCompensated(Failure),
}

impl Client {
    /// A client on a store, in a process that need not run a worker.
    ///
    /// Must be called within a tokio runtime: its batches are sent by a task there.
    pub fn new(backend: impl Into<Backend>) -> Self {
        let backend = backend.into();
        let starter = crate::engine::spawn_starter(backend.store.clone(), Clock::default());
        Self { backend, starter, local: None, codec: None, polls: Arc::new(Semaphore::new(POLLS)) }
    }

    pub(crate) fn local(shared: Arc<Shared>) -> Self {
        let starter = crate::engine::spawn_starter(shared.backend.store.clone(), shared.clock.clone());
        let codec = shared.keeping.codec.clone();
        let polls = Arc::new(Semaphore::new(POLLS));
        Self { backend: shared.backend.clone(), starter, local: Some(shared), codec, polls }
    }

    /// Has inputs sealed or offloaded on their way to the journal, and outputs opened. The client of a worker has
    /// its worker's codec.
    #[must_use]
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = Some(codec);
        self
    }

    /// Starts a saga under an id that is unique within its definition.
    ///
    /// Await what this gives; before that, it can be told more:
    ///
    /// ```no_run
    /// # use saga_core::{Client, Definition, client::Error};
    /// # async fn example(client: Client, place_order: Definition<(), u64, u64>) -> Result<(), Error> {
    /// let saga = client.start(&place_order, "order-1", &42).key("customer-17").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// When it has been awaited the saga is durable and will end with all of its effects or none. Starting it
    /// again with the same id and input gives the same saga and runs nothing twice, whether it is under way or
    /// over.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves it open whether the saga was started; start it again to find out.
    pub fn start<A, In, Out>(
        &self,
        definition: &Definition<A, In, Out>,
        saga: &str,
        input: &In,
    ) -> Starting<Out>
    where
        In: Serialize,
    {
        Starting::new(self.clone(), prepare(definition, saga, input))
    }

    /// Starts a saga of a definition that this process has no code for, by name and JSON: await what this
    /// gives.
    pub async fn start_named(
        &self,
        definition: &Name,
        version: u32,
        saga: &str,
        input: Payload,
    ) -> Result<Starting<serde_json::Value>, Error> {
        let manifests = self.backend.query.manifests().await?;
        let manifest =
            manifests.into_iter().find(|m| m.plan.name == *definition && m.plan.version == version);
        let Some(manifest) = manifest else {
            return Err(Error::NotRegistered { definition: definition.to_string(), version });
        };
        Ok(Starting::named(self.clone(), manifest.plan, saga, input))
    }

    async fn send(&self, sketch: Sketch) -> Result<(RunId, Option<Already>), Error> {
        let (run, digest) = (sketch.run, sketch.digest);
        let taken = |earlier| {
            let Record::Began { definition, saga, .. } = sketch.began.clone() else {
                unreachable!("see Sketch")
            };
            Error::Mismatch { definition: definition.to_string(), saga, run: earlier }
        };
        match self.insert(&sketch).await? {
            StartReply::Started | StartReply::Queued => Ok((run, None)),
            StartReply::Exists { run, digest: earlier, end } if earlier == digest => {
                Ok((run, Some(Already { end })))
            }
            StartReply::Exists { run, .. } => Err(taken(run)),
        }
    }

    /// Has the worker of this process insert and drive it, or inserts it for whoever claims it.
    async fn insert(&self, sketch: &Sketch) -> Result<StartReply, crate::store::Error> {
        if let Some(reply) = self.local.as_ref().and_then(|shared| shared.start(sketch)) {
            match reply.await {
                Ok(Err(crate::store::Error::Fenced)) => {}
                Ok(reply) => return reply,
                Err(_) => return Err(crate::store::Error::Unknown("the worker is shutting down".into())),
            }
        }
        let gone = || crate::store::Error::Unknown("the runtime is shutting down".into());
        // In a task of its own: who opens a lane carries the starts of others, and must not stop half-way.
        let (starter, start) = (self.starter.clone(), sketch.clone().into_start());
        tokio::spawn(async move { starter.send(start).await }).await.ok().flatten().ok_or_else(gone)?
    }

    /// A handle to a run that was started before.
    pub fn saga<Out>(&self, run: RunId) -> Saga<Out> {
        Saga { client: self.clone(), run, already: None, output: PhantomData }
    }

    /// Where a run stands, at a glance.
    pub async fn status(&self, run: RunId) -> Result<Summary, Error> {
        self.backend.query.summary(run).await?.ok_or(Error::NoSuchSaga(run))
    }

    /// Asks a saga to undo what it did. Its owner answers: a cancel that comes after the pivot's start,
    /// or after the saga began to undo itself, changes nothing. The journal tells the answer.
    pub async fn cancel(&self, run: RunId, reason: &str) -> Result<Posted, Error> {
        self.post(run, MailBody::Cancel { reason: reason.into() }).await
    }

    /// Posts mail to a saga.
    pub async fn post(&self, run: RunId, body: MailBody) -> Result<Posted, Error> {
        let mail = Mail::new(MailId::new(), run, &body);
        let posted = self.backend.store.post(std::slice::from_ref(&mail)).await?;
        if let Some(shared) = &self.local {
            shared.nudge.notify_one();
        }
        Ok(posted[0])
    }

    /// Waits until a run has ended, and says how.
    ///
    /// # Cancellation
    ///
    /// Dropping the future stops waiting, nothing else.
    pub async fn wait(&self, run: RunId) -> Result<End, Error> {
        let Some(shared) = &self.local else { return self.poll_end(run).await };
        loop {
            // First listen, then look: a driver that ends in between is heard.
            let heard = shared.ended(run);
            if shared.is_driven(run) {
                if let Some(end) = heard.await {
                    return Ok(end);
                }
            } else {
                // It may have ended before we listened, be driven elsewhere, or come here yet.
                tokio::select! {
                    biased;
                    end = heard => if let Some(end) = end { return Ok(end) },
                    end = self.poll_end(run) => return end,
                }
            }
        }
    }

    /// Asks the store until it knows.
    async fn poll_end(&self, run: RunId) -> Result<End, Error> {
        let mut pause = POLL;
        loop {
            // A driver of this process tells its saga's end by itself.
            if !self.local.as_ref().is_some_and(|shared| shared.is_driven(run)) {
                let _turn = self.polls.acquire().await.expect("never closed");
                let summary = self.backend.query.summary(run).await?.ok_or(Error::NoSuchSaga(run))?;
                if let State::Ended(end) = summary.state {
                    return self.read_end(run, end).await;
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL_MOST);
        }
    }

    async fn read_end(&self, run: RunId, end: EndKind) -> Result<End, Error> {
        let unreadable = |why: String| Error::Unreadable { run, why };
        let rows = self.backend.query.journal(run).await?;
        let last = rows.last().ok_or(Error::Expired { run, end })?;
        let records = journal::decode(&last.body).map_err(|e| unreadable(e.to_string()))?;
        match records.into_iter().next_back() {
            Some(Record::Closed { end: End::Completed { output } }) if output.is_closed() => {
                let Some(codec) = &self.codec else { return Ok(End::Completed { output }) };
                Ok(End::Completed { output: codec.open(&output, run).await? })
            }
            Some(Record::Closed { end }) => Ok(end),
            _ => Err(unreadable("the saga has ended but its last record is no end".into())),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("local", &self.local.is_some()).finish_non_exhaustive()
    }
}

/// The saga was there before it was started: the same id and the same input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Already {
    /// How it had ended, if it had. Its output may be gone: [`Saga::wait`] then answers [`Error::Expired`].
    pub end: Option<EndKind>,
}

/// One run, as its starter holds it.
pub struct Saga<Out> {
    client: Client,
    run: RunId,
    already: Option<Already>,
    output: PhantomData<fn() -> Out>,
}

impl<Out: DeserializeOwned> Saga<Out> {
    /// Waits until the saga has ended.
    pub async fn wait(&self) -> Result<Ended<Out>, Error> {
        Ok(match self.client.wait(self.run).await? {
            End::Completed { output } => Ended::Completed(
                output.decode().map_err(|source| Error::Payload { what: "the saga's output", source })?,
            ),
            End::Compensated { cause } => Ended::Compensated(cause),
            End::PartiallyCompensated { cause } => Ended::PartiallyCompensated(cause),
        })
    }
}

impl<Out> Saga<Out> {
    /// The run's internal id.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// Whether this start found it there, because it was started before.
    pub fn already(&self) -> Option<Already> {
        self.already
    }

    /// Where it stands, at a glance.
    pub async fn status(&self) -> Result<Summary, Error> {
        self.client.status(self.run).await
    }

    /// Asks it to undo what it did; see [`Client::cancel`].
    pub async fn cancel(&self, reason: &str) -> Result<Posted, Error> {
        self.client.cancel(self.run, reason).await
    }
}

impl<Out> fmt::Debug for Saga<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Saga({})", self.run)
    }
}

impl<Out> Ended<Out> {
    /// Which of the three ends it is.
    pub fn kind(&self) -> EndKind {
        match self {
            Self::Completed(_) => EndKind::Completed,
            Self::Compensated(_) => EndKind::Compensated,
            Self::PartiallyCompensated(_) => EndKind::PartiallyCompensated,
        }
    }
}
