//! Stores and engines that are careless with the transactions of steps.

use async_trait::async_trait;

use super::super::play::Seams;
use super::stores::{TakesItForLost, with};
use super::{found, sagas};
use crate::id::RunId;
use crate::store::memory::Bug;
use crate::store::{Backend, Begun, Commit, CommitReply, Error, Fence, Kind, Lend, Lender, Loan, Result};

fn store(bug: Bug) -> Seams {
    Seams { transactions: Some(bug), ..Seams::default() }
}

#[test]
fn a_fence_that_is_read_first() {
    let found = found(sagas::lent(), store(Bug::ReadsTheFenceFirst));
    // The first thing found is a zombie that wakes up and writes its rows a second time.
    assert!(found.contains("was applied 2 times"), "{found}");
}

#[test]
fn a_commit_number_that_is_not_read_again() {
    // The next commit is refused then; an engine that does not look whose the saga is would leave it.
    let found =
        found(sagas::lent(), Seams { engine: Some(with(|| TakesItForLost)), ..store(Bug::ReadsNoNumber) });
    assert!(found.contains("it has not come to rest"), "{found}");
}

#[test]
fn rows_that_stay_when_their_transaction_does_not() {
    let found = found(sagas::lent(), store(Bug::KeepsWhatItRollsBack));
    assert!(found.contains("was applied 2 times") || found.contains("stands"), "{found}");
}

/// Takes a COMMIT that was not answered for one that did not happen; its engine does not look whose the saga is then.
struct TakesSilenceForNo(Lender);

#[async_trait]
impl Lend for TakesSilenceForNo {
    fn kind(&self) -> Kind {
        self.0.kind()
    }

    async fn begin(&self, fence: Fence, run: RunId, next: u32) -> Result<Begun<Loan>> {
        self.0.begin(fence, run, next).await
    }

    async fn commit_in(&self, loan: Loan, fence: Fence, commit: &Commit) -> Result<CommitReply> {
        match self.0.commit_in(loan, fence, commit).await {
            Err(Error::Unknown(why)) => Err(Error::Unavailable(why)),
            reply => reply,
        }
    }

    async fn roll_back(&self, loan: Loan) -> Result<()> {
        self.0.roll_back(loan).await
    }
}

#[test]
fn a_commit_whose_answer_was_lost_taken_as_rolled_back() {
    let engine = |real: Backend| {
        let lender = real.lender.clone().map(|lender| Lender::over(TakesSilenceForNo(lender)));
        with(|| TakesItForLost)(Backend { lender, ..real })
    };
    let found = found(sagas::lent(), Seams { engine: Some(Box::new(engine)), ..Seams::default() });
    assert!(found.contains("has not come to rest") || found.contains("was applied 2 times"), "{found}");
}

/// The same run tells the same story, with transactions in it too.
#[test]
fn a_transaction_is_hit_at_its_begin_and_at_its_end() {
    let explore = sagas::explored(sagas::lent());
    let trace = explore.play("").unwrap().trace;
    let points: Vec<String> = trace.iter().map(ToString::to_string).collect();
    let at = |what: &str| points.iter().filter(|point| point.ends_with(what)).count();
    assert_eq!(at(": begin"), 2, "{points:?}");
    assert!(points.iter().any(|point| point.contains("action 1 of book")), "{points:?}");
}
