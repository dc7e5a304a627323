//! Stores that are broken on purpose. A suite that lets one of them pass checks nothing.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use idempotency::store::{Change, Expected, Swap};
use idempotency::{Counts, Dated, KeyId, MemoryStore, Put, Row, Store, StoreError, Time, testing};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    /// Whoever says that he holds a claim is believed, as in `WHERE key = $1 AND status = 'RUNNING'`.
    NoOwnership,
    /// A renewal that arrives after the completion opens the row again.
    RenewsWhatIsDone,
    /// Reads, waits a moment, and writes: get-then-set.
    NotAtomic,
    /// What stands in the way is overwritten.
    Overwrites,
    /// Running rows get the time to live of kept ones, and are swept.
    SweepsWhatRuns,
    /// A lease of milliseconds is stored in seconds' place.
    WrongUnit,
    /// A missing deadline reads as one that is over.
    NoDeadlineIsFree,
    /// Completion forgets what was asked.
    LosesFingerprint,
    /// Answers are cut at a limit.
    CutsAnswers,
    /// A kept answer never expires.
    NeverExpires,
    /// The recovery point is not written.
    LosesPoint,
    /// A refusal of the barrier is not written.
    ForgetsRefusals,
    /// Rows in doubt are counted as running.
    CountsWrong,
    /// Whatever has failed most often is found first.
    StarvesTheNew,
}

#[derive(Clone, Debug)]
struct Twin {
    store: MemoryStore,
    bug: Bug,
}

impl Twin {
    fn change(&self, mut put: Put) -> Put {
        let edit: fn(&mut Row) = match self.bug {
            Bug::LosesFingerprint => |row| row.action_print = row.action_print.filter(|_| row.running()),
            Bug::CutsAnswers => |row| {
                row.action_answer =
                    row.action_answer.take().map(|answer| answer.slice(..answer.len().min(65_536)));
            },
            Bug::LosesPoint => |row| row.point = None,
            Bug::ForgetsRefusals => |row| row.refused = false,
            _ => |_| {},
        };
        edit(&mut put.row);
        match self.bug {
            Bug::WrongUnit => put.lease = put.lease.map(|lease| lease / 1000),
            Bug::NeverExpires => put.keep = None,
            _ => {}
        }
        put
    }
}

#[async_trait]
impl Store for Twin {
    async fn swap(&self, id: &KeyId, expected: &Expected, change: &Change) -> Result<Swap, StoreError> {
        let (stored, now) = self.store.read(id).await?;
        // A store that answers nonsense for ever must not take the test's thread with it; and in between a read
        // and its write is where a careless store loses others' writes.
        tokio::task::yield_now().await;
        let held = stored.as_ref().is_some_and(|dated| match expected {
            Expected::Held(_) if self.bug == Bug::NoOwnership => dated.row.running(),
            Expected::Held(stamp) if self.bug == Bug::RenewsWhatIsDone => dated.row.stamp == *stamp,
            _ => false,
        });
        let met = held || expected.is_met(stored.as_ref()) || self.bug == Bug::Overwrites;
        if !met {
            return Ok(Swap::Other { dated: stored, now });
        }
        let change = match change {
            Change::Put(put) => Change::Put(self.change(put.clone())),
            Change::Delete => Change::Delete,
        };
        let careless =
            matches!(self.bug, Bug::NoOwnership | Bug::RenewsWhatIsDone | Bug::NotAtomic | Bug::Overwrites);
        if !careless {
            return self.store.swap(id, expected, &change).await;
        }
        loop {
            let there = self.store.read(id).await?.0;
            let own = there.as_ref().map_or(Expected::Absent, Expected::exactly);
            if matches!(self.store.swap(id, &own, &change).await?, Swap::Done) {
                return Ok(Swap::Done);
            }
        }
    }

    async fn read(&self, id: &KeyId) -> Result<(Option<Dated>, Time), StoreError> {
        let (mut dated, now) = self.store.read(id).await?;
        if let Some(dated) =
            dated.as_mut().filter(|dated| dated.row.running() && self.bug == Bug::NoDeadlineIsFree)
        {
            dated.lease_until = dated.lease_until.or(Some(Time(0)));
        }
        Ok((dated, now))
    }

    async fn sweep(&self, limit: u32) -> Result<u64, StoreError> {
        if self.bug == Bug::SweepsWhatRuns {
            self.forget_doubtful().await?;
        }
        self.store.sweep(limit).await
    }

    async fn count(&self) -> Result<Counts, StoreError> {
        let counts = self.store.count().await?;
        Ok(match self.bug {
            Bug::CountsWrong => Counts { running: counts.running + counts.in_doubt, in_doubt: 0, ..counts },
            _ => counts,
        })
    }

    async fn unfinished(&self, operation: &str, limit: u32) -> Result<Vec<KeyId>, StoreError> {
        let mut found = self.store.unfinished(operation, limit).await?;
        if self.bug == Bug::StarvesTheNew {
            found.reverse();
        }
        Ok(found)
    }
}

impl Twin {
    /// What a time to live on running rows does.
    async fn forget_doubtful(&self) -> Result<(), StoreError> {
        for id in self.store.ids() {
            let (Some(dated), now) = self.store.read(&id).await? else { continue };
            if dated.in_doubt(now) {
                self.store.swap(&id, &Expected::exactly(&dated), &Change::Delete).await?;
            }
        }
        Ok(())
    }
}

async fn passes(bug: Option<Bug>) -> bool {
    let store = MemoryStore::new();
    let mut suite = tokio::spawn(async move {
        testing::conformance(|| {
            let store: Arc<dyn Store> = match bug {
                Some(bug) => Arc::new(Twin { store: store.clone(), bug }),
                None => Arc::new(store.clone()),
            };
            async { store }
        })
        .await;
    });
    // A store that never lets a wait end does not pass either.
    let end = tokio::time::timeout(Duration::from_secs(20), &mut suite).await;
    suite.abort();
    matches!(end, Ok(Ok(())))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_catches_every_twin_and_passes_the_original() {
    assert!(passes(None).await, "the original");
    let bugs = [
        Bug::NoOwnership,
        Bug::RenewsWhatIsDone,
        Bug::NotAtomic,
        Bug::Overwrites,
        Bug::SweepsWhatRuns,
        Bug::WrongUnit,
        Bug::NoDeadlineIsFree,
        Bug::LosesFingerprint,
        Bug::CutsAnswers,
        Bug::NeverExpires,
        Bug::LosesPoint,
        Bug::ForgetsRefusals,
        Bug::CountsWrong,
        Bug::StarvesTheNew,
    ];
    let suites = bugs.map(|bug| tokio::spawn(async move { (bug, passes(Some(bug)).await) }));
    for suite in suites {
        let (bug, passed) = suite.await.unwrap();
        assert!(!passed, "the suite lets a store pass that {bug:?}");
    }
}
