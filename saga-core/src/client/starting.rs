//! What a start asks for, before it is sent.

use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde::Serialize;

use super::{Client, Error, Saga};
use crate::attributes::{Attributes, BadAttribute};
use crate::codec::Codec;
use crate::id::{Key, RunId};
use crate::journal::{self, Record};
use crate::payload::Payload;
use crate::priority::Priority;
use crate::saga::{Definition, Plan, later};
use crate::step::Cx;
use crate::store::{Keyed, Start};

/// A saga that is started once this is awaited; see [`Client::start`].
#[must_use = "a saga is started only when this is awaited"]
#[derive(Debug)]
pub struct Starting<Out> {
    client: Client,
    prepared: Prepared,
    output: PhantomData<fn() -> Out>,
}

/// A saga to insert in a transaction of the caller's; see [`prepare`].
#[must_use = "a saga is started only when what `build` gives is inserted"]
#[derive(Debug)]
pub struct Prepared {
    run: RunId,
    plan: Arc<Plan>,
    saga: String,
    input: Result<Payload, Error>,
    /// Of the input, unless a codec has another for it.
    digest: Option<[u8; 32]>,
    key: Option<String>,
    priority: Priority,
    attributes: Result<Attributes, BadAttribute>,
    /// The keys that are held above it.
    above: Arc<[Key]>,
}

/// What a store needs to start a saga, for
/// [`PostgresStore::start_in`](crate::store::PostgresStore::start_in) and
/// [`SqliteStore::start_in`](crate::store::SqliteStore::start_in).
///
/// ```
/// # use saga_core::{client, Definition};
/// # fn example(place_order: &Definition<(), u64, u64>) -> Result<(), client::Error> {
/// let start = client::prepare(place_order, "order-1", &42).key("customer-17").build()?;
/// # Ok(()) }
/// ```
pub fn prepare<A, In, Out>(definition: &Definition<A, In, Out>, saga: &str, input: &In) -> Prepared
where
    In: Serialize,
{
    let encoded = Payload::encode(input).map_err(|source| Error::Payload { what: "the input", source });
    let key = definition.key.as_ref().map(|of| of(input));
    Prepared { key, ..Prepared::new(definition.plan().clone(), saga, encoded) }
}

impl Prepared {
    fn new(plan: Arc<Plan>, saga: &str, input: Result<Payload, Error>) -> Self {
        Self {
            run: RunId::new(),
            plan,
            saga: saga.into(),
            input,
            digest: None,
            key: None,
            priority: Priority::default(),
            attributes: Ok(Attributes::default()),
            above: Arc::default(),
        }
    }

    /// See [`Starting::key`].
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// See [`Starting::attribute`].
    pub fn attribute(mut self, name: &str, value: impl Into<String>) -> Self {
        // The first that cannot be kept is what is told.
        self.attributes = self.attributes.and_then(|mut all| all.set(name, value).map(|()| all));
        self
    }

    /// See [`Starting::priority`].
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Closes the input as a [`Client`] that has this codec would.
    pub async fn closed_by(mut self, codec: &Codec) -> Result<Self, Error> {
        let input = self.input?;
        self.digest = Some(codec.digest(input.digest()));
        self.input = Ok(codec.close(input, self.run).await?);
        Ok(self)
    }

    /// What the store is given.
    ///
    /// # Errors
    ///
    /// Those of [`Client::start`] that need no store: [`Error::BadId`], [`Error::BadKey`],
    /// [`Error::NeedsKey`], [`Error::KeyHeldAbove`], [`Error::BadAttribute`], [`Error::TooLarge`],
    /// [`Error::Payload`].
    pub fn build(self) -> Result<Start, Error> {
        Ok(self.sketch()?.into_start())
    }

    pub(super) fn sketch(self) -> Result<Sketch, Error> {
        let Self { run, plan, saga, input, digest, key, priority, attributes, above } = self;
        let (input, attributes) = (input?, attributes.map_err(Error::BadAttribute)?);
        if saga.is_empty() || saga.chars().count() > 255 || saga.chars().any(char::is_control) {
            return Err(Error::BadId(saga));
        }
        if input.kept_bytes() > Payload::BYTES_MAX {
            return Err(Error::TooLarge { bytes: input.bytes() });
        }
        let key = key.map(Key::new).transpose().map_err(Error::BadKey)?;
        if key.is_none() && plan.keyed {
            return Err(Error::NeedsKey { definition: plan.name.to_string() });
        }
        if let Some(key) = key.as_ref().filter(|key| above.contains(key)) {
            return Err(Error::KeyHeldAbove(key.clone()));
        }
        let digest = digest.unwrap_or_else(|| input.digest());
        let began = Record::Began {
            definition: plan.name.clone(),
            version: plan.version,
            fingerprint: plan.fingerprint(),
            saga,
            input,
            deadline: plan.deadline.map(|limit| later(chrono::Utc::now(), limit)),
            key,
            above: above.to_vec(),
        };
        Ok(Sketch { run, digest, priority, attributes, began })
    }
}

impl<Out> Starting<Out> {
    pub(super) fn new(client: Client, prepared: Prepared) -> Self {
        Self { client, prepared, output: PhantomData }
    }

    pub(super) fn named(client: Client, plan: Plan, saga: &str, input: Payload) -> Self {
        Self::new(client, Prepared::new(Arc::new(plan), saga, Ok(input)))
    }

    /// Of all sagas that were started under one key, whatever their definitions, one is under way at a time:
    /// from the first start of one of its steps until its end, also while it waits or is blocked. The others
    /// wait their turn, [queued](crate::store::State::Queued), at no cost but a row; they can be cancelled, and
    /// their deadlines hold.
    ///
    /// The order is that in which workers come to see them. The key takes the place of the one that the
    /// definition [chooses](crate::Builder::key).
    ///
    /// What a key cannot do: an attempt of a worker that froze may still reach its participant after the
    /// saga was taken over and has ended. It is an attempt under the saga's idempotency key, which the
    /// participant has seen.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.prepared = self.prepared.key(key);
        self
    }

    /// Something to find it by, beside its id: [`Filter::attributes`](crate::store::Filter::attributes), `saga
    /// list --attribute`. At most [`Attributes::MOST`], with short values; the same name again replaces it.
    pub fn attribute(mut self, name: &str, value: impl Into<String>) -> Self {
        self.prepared = self.prepared.attribute(name, value);
        self
    }

    /// Who goes first where there is more to do than can be done; see [`Priority`].
    pub fn priority(mut self, priority: Priority) -> Self {
        self.prepared = self.prepared.priority(priority);
        self
    }

    /// Says that an attempt of another saga starts it and awaits its end: a key that is held there, or
    /// further above, is then refused, because both would wait for ever. It goes first as that one does. [`child`](crate::step::child)
    /// says so itself.
    pub fn within<S>(mut self, cx: &Cx<S>) -> Self {
        self.prepared.above = cx.keys().clone();
        self.prepared.priority = cx.priority();
        self
    }
}

impl<Out: 'static> IntoFuture for Starting<Out> {
    type Output = Result<Saga<Out>, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { client, prepared, .. } = self;
        Box::pin(async move {
            let prepared = match &client.codec {
                Some(codec) => prepared.closed_by(codec).await?,
                None => prepared,
            };
            let sketch = prepared.sketch()?;
            let (run, input) = (sketch.run, sketch.input().clone());
            let sent = client.send(sketch).await;
            let taken = match &sent {
                Ok((earlier, _)) => *earlier != run,
                Err(error) => matches!(error, Error::Mismatch { .. }),
            };
            if let Some(codec) = client.codec.as_ref().filter(|_| taken) {
                codec.discard(&input, run).await;
            }
            let (run, already) = sent?;
            Ok(Saga { already, ..client.saga(run) })
        })
    }
}

/// A saga that may yet be started in one of two ways: owned, together with its first starts, or by nobody.
#[derive(Clone, Debug)]
pub(crate) struct Sketch {
    pub(crate) run: RunId,
    pub(crate) digest: [u8; 32],
    pub(crate) priority: Priority,
    pub(crate) attributes: Attributes,
    /// Always [`Record::Began`].
    pub(crate) began: Record,
}

impl Sketch {
    /// What it is started with.
    pub(crate) fn input(&self) -> &Payload {
        let Record::Began { input, .. } = &self.began else { unreachable!("see Sketch") };
        input
    }

    /// Nobody owns it.
    pub(crate) fn into_start(self) -> Start {
        let body = journal::encode(std::slice::from_ref(&self.began));
        self.with_body(body, false)
    }

    /// Whoever inserts it owns it, and acts upon the starts in these records.
    pub(crate) fn into_owned(self, records: &[Record]) -> Start {
        self.with_body(journal::encode(records), true)
    }

    fn with_body(self, body: String, owned: bool) -> Start {
        let body: Arc<str> = body.into();
        // Only where its key may not be free.
        let unowned = |began: &Record| match owned {
            true => journal::encode(std::slice::from_ref(began)).into(),
            false => body.clone(),
        };
        let Self { run, digest, priority, attributes, began } = self;
        let key = match &began {
            Record::Began { key: Some(key), deadline, .. } => {
                Some(Keyed { key: key.clone(), until: *deadline, began: unowned(&began) })
            }
            _ => None,
        };
        let Record::Began { definition, version, fingerprint, saga, .. } = began else {
            unreachable!("a sketch is made of the record that a saga began")
        };
        Start {
            run,
            definition,
            version,
            fingerprint,
            saga: saga.into(),
            digest,
            body,
            owned,
            key,
            priority,
            attributes,
        }
    }
}
