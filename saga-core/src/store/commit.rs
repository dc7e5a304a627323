//! What a store is given and gives back: plain data.

use std::sync::Arc;

use crate::attributes::Attributes;
use crate::error_id::ErrorId;
use crate::id::{Fingerprint, Key, MailId, Name, RunId, WorkerId};
use crate::journal::{EndKind, MailBody, Timestamp};
use crate::priority::Priority;

/// Everything one saga's progress makes true, at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The run.
    pub run: RunId,
    /// The commit's number in its run; the start is 0.
    pub number: u32,
    /// The records, as [`journal::encode`](crate::journal::encode) writes them.
    pub body: Arc<str>,
    /// The mail it consumes.
    pub mail: Vec<MailId>,
    /// What becomes of the saga.
    pub then: Then,
    /// The key that the saga was started under: its end gives it back.
    pub key: Option<Key>,
    /// What becomes of the saga's last error.
    pub error: LastError,
    /// It starts the pivot, from which there is no way back: it is written only if the saga has no unread mail
    /// but what this commit consumes. Else a cancel that was there in time would be too late.
    pub pivot: bool,
}

impl Commit {
    /// Whether it is a row of the journal and nothing else: its saga goes on as before.
    #[cfg(feature = "sqlite")]
    pub(super) fn is_plain(&self) -> bool {
        self.then == Then::Go && self.mail.is_empty() && self.error == LastError::Same
    }

    /// Whether it is of the kinds that stores have short statements for: its saga goes on or ends, and there is no mail,
    /// error or key to be written beside.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(super) fn is_short(&self) -> bool {
        let then = match self.then {
            Then::Go => true,
            Then::End(_) => self.key.is_none(),
            Then::Wait(_) | Then::Block | Then::Queue => false,
        };
        then && self.mail.is_empty() && self.error == LastError::Same
    }

    /// How it ends its saga, if it does.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(super) fn end(&self) -> Option<&'static str> {
        match self.then {
            Then::End(kind) => Some(kind.as_str()),
            _ => None,
        }
    }

    /// Whether it does not consume this unread mail of its run.
    pub fn misses(&self, mail: &Mail) -> bool {
        mail.run == self.run && !self.mail.contains(&mail.id)
    }
}

/// What a commit makes of its saga's last error, by which [`Query::list`](super::Query::list) finds it. An end
/// leaves nothing of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LastError {
    /// It stays as it was.
    #[default]
    Same,
    /// There is none any more.
    Gone,
    /// It is this one from now on.
    Now(ErrorId),
}

impl LastError {
    /// As the SQL stores are sent it: nothing where it stays, an empty text where it is gone.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(super) fn text(self) -> Option<String> {
        match self {
            Self::Same => None,
            Self::Gone => Some(String::new()),
            Self::Now(id) => Some(id.to_string()),
        }
    }
}

/// What becomes of a saga after a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Its owner goes on with it.
    Go,
    /// Nobody owns it until this time, or until mail comes. A time that is past gives it to whoever
    /// claims first.
    Wait(Timestamp),
    /// Nobody owns it until mail comes: a person is needed.
    Block,
    /// For a saga that does not hold its key yet: nobody owns it until its turn has come, until mail comes,
    /// or until it stops waiting ([`Keyed::until`]).
    Queue,
    /// It is over: the journal stays, the saga's live row goes. Mail that nobody read is dropped: its
    /// sender is answered from the end. The key that it holds is free.
    End(EndKind),
}

/// What a commit came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitReply {
    /// It is durable. With it comes the run's mail that no commit has consumed yet.
    Committed {
        /// The run's unconsumed mail.
        mail: Vec<Mail>,
    },
    /// It starts the pivot, and there is mail that it does not consume. Nothing was written.
    Unread {
        /// The run's unconsumed mail.
        mail: Vec<Mail>,
    },
    /// It is not the next commit of a saga in flight that the worker owns: the saga is not ours (any
    /// more). Nothing was written.
    Refused,
}

/// A saga to insert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Its run id, chosen by the starter.
    pub run: RunId,
    /// The definition's name.
    pub definition: Name,
    /// The definition's version.
    pub version: u32,
    /// The definition's fingerprint.
    pub fingerprint: Fingerprint,
    /// The user's id, unique within the definition.
    pub saga: Arc<str>,
    /// SHA-256 of the input: tells a repeated start from another order under the same id.
    pub digest: [u8; 32],
    /// The records of commit 0.
    pub body: Arc<str>,
    /// Whether the worker whose fence comes with the batch owns it from the start. A saga that needs a key is
    /// owned only if its key is free.
    pub owned: bool,
    /// The key that it needs, and what follows from it.
    pub key: Option<Keyed>,
    /// Who goes first.
    pub priority: Priority,
    /// What it can be found by.
    pub attributes: Attributes,
}

impl Start {
    /// Whether it has nothing but what every saga has.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(super) fn is_plain(&self) -> bool {
        self.key.is_none() && self.priority.is_normal() && self.attributes.is_empty()
    }
}

/// The key that a saga needs before anything of it may happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyed {
    /// The key.
    pub key: Key,
    /// When it is given to a worker although its key is not free: its deadline passes, and it ends.
    pub until: Option<Timestamp>,
    /// The records of commit 0 where nobody owns it: without the starts that an owner would act upon.
    pub began: Arc<str>,
}

/// What a start came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartReply {
    /// The saga exists, with the run id that was sent.
    Started,
    /// It exists, and was to be owned, but its key is not free (or others wait for it): nobody owns it, and
    /// its commit 0 is [`Keyed::began`]. A claim gives it to a worker when its turn has come.
    Queued,
    /// The (definition, saga id) was taken before.
    Exists {
        /// The earlier run.
        run: RunId,
        /// The digest of the earlier run's input.
        digest: [u8; 32],
        /// How the earlier run ended, if it has.
        end: Option<EndKind>,
    },
}

/// What somebody tells a saga.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// Chosen by the sender; posting it again changes nothing.
    pub id: MailId,
    /// The run it is for.
    pub run: RunId,
    /// What it is written in: see [`MailBody::format`].
    pub format: i16,
    /// What it says: a [`MailBody`] as JSON text. Stores keep it and look no further.
    pub body: Arc<str>,
}

impl Mail {
    /// Mail with this body.
    pub fn new(id: MailId, run: RunId, body: &MailBody) -> Self {
        let text =
            serde_json::to_string(body).expect("mail holds strings and JSON: all of it can be written");
        Self { id, run, format: body.format(), body: text.into() }
    }

    /// What it says; `None` where it was written by a newer version, in a format that this one does not know.
    pub fn read(&self) -> Option<MailBody> {
        if self.format > MailBody::FORMAT {
            return None;
        }
        let damaged = |_| MailBody::Damaged { text: (*self.body).into() };
        Some(serde_json::from_str(&self.body).unwrap_or_else(damaged))
    }
}

/// What posting came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posted {
    /// It waits for the saga's owner, or was consumed already.
    Accepted,
    /// The saga has ended; the mail was not kept.
    Ended(EndKind),
    /// There is no such run.
    NoSuchSaga,
}

/// One row of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalRow {
    /// The commit's number.
    pub number: u32,
    /// The worker that wrote it; absent for the start of a saga that nobody owned.
    pub worker: Option<WorkerId>,
    /// When, by the store's clock.
    pub at: Timestamp,
    /// The records' text.
    pub body: Arc<str>,
}

/// One saga as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The run.
    pub run: RunId,
    /// The definition's name.
    pub definition: Name,
    /// The definition's version.
    pub version: u32,
    /// The definition's fingerprint.
    pub fingerprint: Fingerprint,
    /// The user's id.
    pub saga: Arc<str>,
    /// The worker that owns it now.
    pub owner: Option<WorkerId>,
    /// The key that it was started under.
    pub key: Option<Key>,
    /// Its priority.
    pub priority: Priority,
    /// It does not hold its key yet: nothing may start, whoever owns it. It was given to a worker because of
    /// its mail, or because it has waited long enough.
    pub queued: bool,
    /// The whole journal, in order.
    pub journal: Vec<JournalRow>,
    /// The mail that no commit has consumed.
    pub mail: Vec<Mail>,
}
