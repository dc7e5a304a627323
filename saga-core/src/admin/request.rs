//! What operators ask of a saga, and what its owner answers.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Admin, Error};
use crate::id::{MailId, Place, RunId};
use crate::journal::{Answer, EndKind, MailBody, Record, Verb};
use crate::payload::Payload;
use crate::store::{Mail, Posted, State};

/// What an operator asks of a saga.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    /// Undo what was done, unless the pivot has begun.
    Cancel,
    /// Try a place that needs a person again, now.
    Retry {
        /// The place.
        at: Place,
    },
    /// Leave an effect as it is and undo the rest: the saga ends partially compensated.
    Skip {
        /// The place.
        at: Place,
    },
    /// Take a place as done: an action with this output, a compensation as undone by hand.
    Resolve {
        /// The place.
        at: Place,
        /// What the action would have given; any value, `null` for instance, for a compensation.
        output: Payload,
    },
    /// End the saga as it stands: nothing more is done or undone.
    Abandon,
}

/// Who asks, and why: kept in the journal with the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    who: String,
    why: String,
}

impl By {
    /// The longest name, in characters.
    pub const WHO_MOST: usize = 100;
    /// The longest reason, in characters.
    pub const WHY_MOST: usize = 500;

    /// Who asks and why; both must be given, and fit into a line.
    pub fn new(who: impl Into<String>, why: impl Into<String>) -> Result<Self, Error> {
        let (who, why) = (who.into().trim().to_owned(), why.into().trim().to_owned());
        let fits = |text: &str, most| {
            !text.is_empty() && text.chars().count() <= most && !text.chars().any(char::is_control)
        };
        if !fits(&who, Self::WHO_MOST) {
            return Err(Error::BadWords { what: "who asks", most: Self::WHO_MOST });
        }
        if !fits(&why, Self::WHY_MOST) {
            return Err(Error::BadWords { what: "the reason", most: Self::WHY_MOST });
        }
        Ok(Self { who, why })
    }

    /// Who asks.
    pub fn who(&self) -> &str {
        &self.who
    }

    /// Why.
    pub fn why(&self) -> &str {
        &self.why
    }
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's id, under which its answer can be asked for again.
    pub mail: MailId,
    /// The answer.
    #[serde(flatten)]
    pub answered: Answered,
}

/// What a saga's owner said, or that it has said nothing yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answered {
    /// It took effect.
    Accepted,
    /// A cancel that came after the pivot began, or after the saga had begun to undo itself.
    TooLate,
    /// The place does not allow it, or needs nobody.
    Refused {
        /// Why.
        why: String,
    },
    /// The saga ended before it was read, so it changed nothing.
    Ended {
        /// How.
        end: EndKind,
    },
    /// No worker has read it yet. It is kept, and will be read and answered.
    Unanswered,
}

impl Request {
    fn into_mail(self, by: &By) -> MailBody {
        let (who, why) = (by.who.clone(), by.why.clone());
        let operator = |at, verb| MailBody::Operator { at, verb, who: by.who.clone(), why: by.why.clone() };
        match self {
            Self::Cancel => MailBody::Cancel { reason: format!("{why} (asked by {who})") },
            Self::Retry { at } => operator(at, Verb::Retry),
            Self::Skip { at } => operator(at, Verb::Skip),
            Self::Resolve { at, output } => operator(at, Verb::Resolve(output)),
            Self::Abandon => MailBody::Abandon { who, why },
        }
    }
}

/// Whether both ask for the same. Of an output that the journal holds closed it cannot be told.
fn is_same(sent: &MailBody, kept: &MailBody) -> bool {
    let mut kept = kept.clone();
    if let (
        MailBody::Operator { verb: Verb::Resolve(sent), .. },
        MailBody::Operator { verb: Verb::Resolve(kept), .. },
    ) = (sent, &mut kept)
        && kept.is_closed()
    {
        *kept = sent.clone();
    }
    *sent == kept
}

impl Admin {
    /// Posts a request and waits for the owner's answer, at most for `patience`.
    ///
    /// `mail` is chosen by the caller: posting the same request under the same id again asks for nothing
    /// twice, so a lost answer is cured by repeating the call.
    ///
    /// # Errors
    ///
    /// [`Error::OtherRequest`] where something else was asked under that id before: the answer would be to that.
    ///
    /// # Cancellation
    ///
    /// Dropping the future stops waiting; a request that was posted stays.
    pub async fn request(
        &self,
        run: RunId,
        mail: MailId,
        request: &Request,
        by: &By,
        patience: Duration,
    ) -> Result<Reply, Error> {
        let body = request.clone().into_mail(by);
        let posted = self.backend.store.post(&[Mail::new(mail, run, &body)]).await?;
        if matches!(posted.first(), Some(Posted::NoSuchSaga) | None) {
            return Err(Error::NoSuchRun(run));
        }
        match self.told(run, mail).await? {
            Some(kept) if !is_same(&body, &kept) => Err(Error::OtherRequest { run, mail }),
            _ => self.answer(run, mail, patience).await,
        }
    }

    /// What is kept under an id, whether or not it was read.
    async fn told(&self, run: RunId, mail: MailId) -> Result<Option<MailBody>, Error> {
        let unread = self.backend.store.load(run).await?.map(|loaded| loaded.mail).unwrap_or_default();
        if let Some(unread) = unread.iter().find(|unread| unread.id == mail) {
            return Ok(unread.read());
        }
        // After the unread: what was read in between is in the journal by now.
        let records = self.journal(run).await?.into_iter().rev().flat_map(|entry| entry.records);
        let mut read = records.filter_map(|record| match record {
            Record::Received { mail: read, body, .. } if read == mail => Some(body),
            _ => None,
        });
        Ok(read.next())
    }

    /// The answer to a request that was posted before, waiting for it at most for `patience`.
    pub async fn answer(&self, run: RunId, mail: MailId, patience: Duration) -> Result<Reply, Error> {
        let until = Instant::now() + patience;
        let mut pause = Duration::from_millis(10);
        loop {
            if let Some(answered) = self.answered(run, mail).await? {
                return Ok(Reply { mail, answered });
            }
            if Instant::now() >= until {
                return Ok(Reply { mail, answered: Answered::Unanswered });
            }
            tokio::time::sleep_until((Instant::now() + pause).min(until)).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    async fn answered(&self, run: RunId, mail: MailId) -> Result<Option<Answered>, Error> {
        // The state first: what is in the journal of a saga that had ended by now stays as it is.
        let state = self.summary(run).await?.state;
        for record in self.journal(run).await?.into_iter().rev().flat_map(|entry| entry.records) {
            match record {
                Record::Received { mail: read, answer, .. } if read == mail => {
                    return Ok(Some(match answer {
                        Answer::Accepted => Answered::Accepted,
                        Answer::TooLate => Answered::TooLate,
                        Answer::Refused(why) => Answered::Refused { why },
                    }));
                }
                _ => {}
            }
        }
        Ok(match state {
            State::Ended(end) => Some(Answered::Ended { end }),
            _ => None,
        })
    }
}
