//! The client: starts sagas, waits for them, tells them things.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::clock::Clock;
use crate::engine::{Shared, Starter};
use crate::id::{MailId, Name, RunId};
use crate::journal::{self, End, EndKind, Failure, MailBody, Record};
use crate::payload::Payload;
use crate::saga::{Definition, Plan};
use crate::store::{Backend, Mail, Posted, Start, StartReply, State};

/// Starts sagas and speaks to them. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    backend: Backend,
    starter: Starter,
    local: Option<Arc<Shared>>,
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
    /// The input is larger than a journal keeps.
    #[error(
        "the input has {bytes} bytes, and at most {} are kept; store it elsewhere and start the saga with its address",
        Payload::BYTES_MAX
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
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
        Self { backend, starter, local: None }
    }

    pub(crate) fn local(shared: Arc<Shared>) -> Self {
        let starter = crate::engine::spawn_starter(shared.backend.store.clone(), shared.clock.clone());
        Self { backend: shared.backend.clone(), starter, local: Some(shared) }
    }

    /// Starts a saga under an id that is unique within its definition.
    ///
    /// When this returns the saga is durable and will end with all of its effects or none. Starting it
    /// again with the same id and input gives the same saga and runs nothing twice, whether it is under
    /// way or over.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves it open whether the saga was started; start it again to find out.
    pub async fn start<A, In, Out>(
        &self,
        definition: &Definition<A, In, Out>,
        saga: &str,
        input: &In,
    ) -> Result<Saga<Out>, Error>
    where
        In: Serialize,
    {
        let input = Payload::encode(input).map_err(|source| Error::Payload { what: "the input", source })?;
        let run = self.start_plan(definition.plan(), saga, input).await?;
        Ok(Saga { client: self.clone(), run, output: PhantomData })
    }

    /// Starts a saga of a definition that this process has no code for, by name and JSON.
    pub async fn start_named(
        &self,
        definition: &Name,
        version: u32,
        saga: &str,
        input: Payload,
    ) -> Result<Saga<serde_json::Value>, Error> {
        let manifests = self.backend.query.manifests().await?;
        let manifest =
            manifests.into_iter().find(|m| m.plan.name == *definition && m.plan.version == version);
        let Some(manifest) = manifest else {
            return Err(Error::NotRegistered { definition: definition.to_string(), version });
        };
        let run = self.start_plan(&Arc::new(manifest.plan), saga, input).await?;
        Ok(Saga { client: self.clone(), run, output: PhantomData })
    }

    async fn start_plan(&self, plan: &Arc<Plan>, saga: &str, input: Payload) -> Result<RunId, Error> {
        let (start, began) = prepare_plan(plan, saga, input)?;
        let (run, digest) = (start.run, start.digest);
        match self.send(start, &began).await? {
            StartReply::Started => Ok(run),
            StartReply::Exists { run, digest: earlier, .. } if earlier == digest => Ok(run),
            StartReply::Exists { run, .. } => {
                Err(Error::Mismatch { definition: plan.name.to_string(), saga: saga.into(), run })
            }
        }
    }

    /// Has the worker of this process insert and drive it, or inserts it for whoever claims it.
    async fn send(&self, start: Start, began: &Record) -> Result<StartReply, crate::store::Error> {
        if let Some(reply) = self.local.as_ref().and_then(|shared| shared.start(&start, began)) {
            match reply.await {
                Ok(Err(crate::store::Error::Fenced)) => {}
                Ok(reply) => return reply,
                Err(_) => return Err(crate::store::Error::Unknown("the worker is shutting down".into())),
            }
        }
        let gone = || crate::store::Error::Unknown("the runtime is shutting down".into());
        self.starter.send(start).await.ok_or_else(gone)?
    }

    /// A handle to a run that was started before.
    pub fn saga<Out>(&self, run: RunId) -> Saga<Out> {
        Saga { client: self.clone(), run, output: PhantomData }
    }

    /// Asks a saga to undo what it did. Its owner answers: a cancel that comes after the pivot's start,
    /// or after the saga began to undo itself, changes nothing. The journal tells the answer.
    pub async fn cancel(&self, run: RunId, reason: &str) -> Result<Posted, Error> {
        self.post(run, MailBody::Cancel { reason: reason.into() }).await
    }

    /// Posts mail to a saga.
    pub async fn post(&self, run: RunId, body: MailBody) -> Result<Posted, Error> {
        let mail = Mail { id: MailId::new(), run, body };
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
        let heard = shared.ended(run);
        // It may have ended before we listened, and it may be driven elsewhere: the poll sees both.
        let end = tokio::select! {
            biased;
            Ok(end) = heard => Ok(end),
            end = self.poll_end(run) => end,
        };
        shared.forget(run);
        end
    }

    async fn poll_end(&self, run: RunId) -> Result<End, Error> {
        let mut pause = Duration::from_millis(50);
        loop {
            tokio::time::sleep(pause).await;
            let summary = self.backend.query.summary(run).await?.ok_or(Error::NoSuchSaga(run))?;
            if let State::Ended(end) = summary.state {
                return self.read_end(run, end).await;
            }
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    async fn read_end(&self, run: RunId, end: EndKind) -> Result<End, Error> {
        let unreadable = |why: String| Error::Unreadable { run, why };
        let rows = self.backend.query.journal(run).await?;
        let last = rows.last().ok_or(Error::Expired { run, end })?;
        let records = journal::decode(&last.body).map_err(|e| unreadable(e.to_string()))?;
        match records.into_iter().next_back() {
            Some(Record::Closed { end }) => Ok(end),
            _ => Err(unreadable("the saga has ended but its last record is no end".into())),
        }
    }
}

/// What a store needs to start a saga, for
/// [`PostgresStore::start_in`](crate::store::PostgresStore::start_in) and
/// [`SqliteStore::start_in`](crate::store::SqliteStore::start_in).
pub fn prepare<A, In, Out>(
    definition: &Definition<A, In, Out>,
    saga: &str,
    input: &In,
) -> Result<Start, Error>
where
    In: Serialize,
{
    let input = Payload::encode(input).map_err(|source| Error::Payload { what: "the input", source })?;
    prepare_plan(definition.plan(), saga, input).map(|(start, _)| start)
}

fn prepare_plan(plan: &Plan, saga: &str, input: Payload) -> Result<(Start, Record), Error> {
    if saga.is_empty() || saga.chars().count() > 255 || saga.chars().any(char::is_control) {
        return Err(Error::BadId(saga.into()));
    }
    if input.bytes() > Payload::BYTES_MAX {
        return Err(Error::TooLarge { bytes: input.bytes() });
    }
    let (run, fingerprint, digest) = (RunId::new(), plan.fingerprint(), input.digest());
    let (definition, version) = (plan.name.clone(), plan.version);
    let began = Record::Began {
        definition: definition.clone(),
        version,
        fingerprint,
        saga: saga.into(),
        input,
        deadline: plan.deadline.map(|limit| chrono::Utc::now() + limit),
    };
    let body = journal::encode(std::slice::from_ref(&began)).into();
    let start =
        Start { run, definition, version, fingerprint, saga: saga.into(), digest, body, owned: false };
    Ok((start, began))
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("local", &self.local.is_some()).finish_non_exhaustive()
    }
}

/// One run, as its starter holds it.
pub struct Saga<Out> {
    client: Client,
    run: RunId,
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
