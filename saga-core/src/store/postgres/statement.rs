//! The statement of a batch of commits.
//!
//! Everything in it hangs on `won`, the journal rows that it could insert, and those hang on `me`, the
//! worker's row with the worker's epoch. Rows are touched in the order of their runs.
//!
//! Five things look odd, and are there for the server:
//!
//! - tables are probed by `LATERAL (… LIMIT 1)`, which can only be done through an index, row by row;
//! - rows are written where `run = ANY (…)`, and never joined: of a table that is empty when a statement is planned, a
//!   join would read the whole, for every batch, for as long as the server has not looked again. What a row is set to
//!   stands in its list at `array_position`, which is no look-up but costs less than a join at the lengths of batches;
//! - `(run IN (SELECT run FROM won)) IS TRUE` is hashed once, where a join of two lists of unknown length
//!   would compare each with each;
//! - `(owner = …) IS TRUE` keeps the index of owners out: beside a million sagas that wait it looks as good as
//!   the key, and then each row would read all that its worker owns;
//! - it is put together of what its batch asks for: each part costs its set-up, whether or not anything comes of it,
//!   which a saga that goes alone feels.

use std::sync::OnceLock;

use chrono::{DateTime, Utc};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::Binding;
use super::read::rounded;
use crate::id::Key;
use crate::store::commit::{Commit, LastError, Then};
use crate::store::query::State;
use crate::store::worker::Fence;

/// Writes the rows.
const WON: &str = "WITH me AS MATERIALIZED (
    SELECT id FROM saga.worker WHERE id = $1 AND epoch = $2 AND NOT drained FOR KEY SHARE
), won AS (
    INSERT INTO saga.journal (run, number, worker, body)
    SELECT b.run, b.number, me.id, b.body
    FROM me CROSS JOIN unnest($3::uuid[], $4::int[], $5::text[]) AS b (run, number, body)
        CROSS JOIN LATERAL (
            SELECT 1 FROM saga.live l WHERE l.run = b.run AND (l.owner = $1) IS TRUE LIMIT 1) owned
        CROSS JOIN LATERAL (
            SELECT 1 FROM saga.journal j WHERE j.run = b.run AND j.number = b.number - 1 LIMIT 1) previous
    RETURNING run
)";

/// There is no way back from a pivot, so a cancel that can be seen comes first. (`OFFSET 0` has the mail looked up,
/// instead of all unread mail read into a hash table.)
const UNLESS_MAIL: &str = "    WHERE NOT b.pivot OR NOT EXISTS (SELECT FROM saga.mail m
        WHERE m.run = b.run AND m.consumed IS NULL AND m.id <> ALL ($read_ids::uuid[]) OFFSET 0)
";

/// Marks the mail that was read.
const READ: &str = ", read AS (
    UPDATE saga.mail m SET consumed = ($4::int[])[array_position($3::uuid[], m.run)]
    WHERE m.run = ANY ($read_runs::uuid[]) AND ((m.run, m.id) IN (
            SELECT r.run, r.id FROM unnest($read_runs::uuid[], $read_ids::uuid[]) AS r (run, id))) IS TRUE
        AND (m.run IN (SELECT run FROM won)) IS TRUE
)";

/// Gives sagas up; one without a new state stays, with another error. A row is written once in a statement, so
/// these are one.
const RELEASED: &str = ", released AS (
    UPDATE saga.live l SET (owner, state, due, since, error) = (
        SELECT CASE WHEN t.state IS NULL THEN l.owner END, coalesce(t.state, l.state),
            CASE WHEN t.state IS NULL THEN l.due WHEN t.state = 'queued' THEN l.until ELSE t.due END,
            CASE WHEN t.state IS NULL OR t.state = 'queued' THEN l.since ELSE now() END,
            CASE WHEN t.error IS NULL THEN l.error ELSE nullif(t.error, '') END
        FROM (SELECT ($states::text[])[place] AS state, ($dues::timestamptz[])[place] AS due,
                ($errors::text[])[place] AS error
            FROM array_position($released::uuid[], l.run) AS place) t)
    WHERE l.run = ANY ($released::uuid[]) AND (l.run IN (SELECT run FROM won)) IS TRUE
)";

/// Ends sagas, and answers the mail that they have not read.
const ENDED: &str = ", ended AS (
    UPDATE saga.start s SET ended = ($ends::text[])[array_position($ended::uuid[], s.run)], ended_at = now()
    WHERE s.run = ANY ($ended::uuid[]) AND (s.run IN (SELECT run FROM won)) IS TRUE
), removed AS (
    DELETE FROM saga.live l WHERE l.run = ANY ($ended::uuid[]) AND (l.run IN (SELECT run FROM won)) IS TRUE
), answered AS (
    UPDATE saga.mail m SET consumed = -1
    WHERE m.run = ANY ($ended::uuid[]) AND m.consumed IS NULL AND m.id <> ALL ($read_ids::uuid[])
        AND (m.run IN (SELECT run FROM won)) IS TRUE
)";

/// Gives back the keys of sagas that end. (Whoever holds a key has no other.)
const FREED: &str = ", freed AS (
    UPDATE saga.key k SET run = NULL
    WHERE k.key = ANY ($freed::text[]) AND (k.run IN (SELECT run FROM won WHERE run = ANY ($freed_by::uuid[]))) IS TRUE
)";

/// The first row tells whether the fence was met and who won; the others are unread mail.
const TOLD: &str =
    " SELECT EXISTS (SELECT FROM me), ARRAY(SELECT run FROM won), NULL::uuid, NULL::uuid, NULL::text, NULL::smallint
UNION ALL
SELECT NULL, NULL, m.run, m.id, m.body, m.format FROM won CROSS JOIN LATERAL (
    SELECT m.run, m.id, m.body, m.format FROM saga.mail m WHERE m.run = won.run AND m.consumed IS NULL OFFSET 0) m";

/// Whether a journal row may be there already.
#[derive(Clone, Copy)]
pub(super) enum Conflicts {
    Unexpected,
    Expected,
}

/// What a batch asks for beside its rows of the journal.
#[derive(Clone, Copy, Debug, Default)]
struct Parts {
    pivot: bool,
    read: bool,
    released: bool,
    ended: bool,
    freed: bool,
}

impl Parts {
    fn text(self, conflicts: Conflicts) -> &'static str {
        static TEXTS: [OnceLock<String>; 64] = [const { OnceLock::new() }; 64];
        let parts = [self.pivot, self.read, self.released, self.ended, self.freed];
        let index = parts.iter().fold(conflicts as usize, |index, part| index * 2 + usize::from(*part));
        TEXTS[index].get_or_init(|| self.compose(conflicts))
    }

    fn compose(self, conflicts: Conflicts) -> String {
        let mut text = WON.to_owned();
        let mut before_returning = String::new();
        if self.pivot {
            text = text.replace("$5::text[])", "$5::text[], $pivots::bool[])");
            text = text.replace("b (run, number, body)", "b (run, number, body, pivot)");
            before_returning.push_str(UNLESS_MAIL);
        }
        if matches!(conflicts, Conflicts::Expected) {
            before_returning.push_str("    ON CONFLICT DO NOTHING\n");
        }
        text = text.replace("    RETURNING run", &format!("{before_returning}    RETURNING run"));
        let parts = [(self.read, READ), (self.released, RELEASED), (self.ended, ENDED), (self.freed, FREED)];
        parts.iter().filter(|(asked, _)| *asked).for_each(|(_, part)| text.push_str(part));
        text.push_str(TOLD);
        if !self.read {
            text = text.replace(" AND m.id <> ALL ($read_ids::uuid[])", "");
        }
        for (number, array) in (6..).zip(self.arrays()) {
            text = text.replace(&format!("${array}::"), &format!("${number}::"));
        }
        text
    }

    /// The names of its arrays, in the order in which [`statement`] binds them.
    fn arrays(self) -> Vec<&'static str> {
        let all: [(bool, &[&str]); 5] = [
            (self.pivot, &["pivots"]),
            (self.read, &["read_runs", "read_ids"]),
            (self.released, &["released", "states", "dues", "errors"]),
            (self.ended, &["ended", "ends"]),
            (self.freed, &["freed", "freed_by"]),
        ];
        all.iter().filter(|(asked, _)| *asked).flat_map(|(_, arrays)| *arrays).copied().collect()
    }
}

/// The statement that commits a batch: all of it that meets the fence and is its saga's next row.
pub(super) fn statement(fence: Fence, batch: &[Commit], conflicts: Conflicts) -> Binding {
    let mut commits: Vec<&Commit> = batch.iter().collect();
    commits.sort_unstable_by_key(|commit| commit.run);
    let read: Vec<(&Commit, Uuid)> =
        commits.iter().flat_map(|commit| commit.mail.iter().map(move |id| (*commit, id.0))).collect();
    let released: Vec<Released> = commits.iter().filter_map(|commit| Released::of(commit)).collect();
    let ended: Vec<(Uuid, &str)> =
        commits.iter().filter_map(|commit| Some((commit.run.0, commit.end()?))).collect();
    // In the order of the keys, so that two batches wait for each other in one order.
    let mut freed: Vec<(&Key, Uuid)> = commits.iter().filter_map(|commit| given_back(commit)).collect();
    freed.sort_unstable();
    let parts = Parts {
        pivot: commits.iter().any(|commit| commit.pivot),
        read: !read.is_empty(),
        released: !released.is_empty(),
        ended: !ended.is_empty(),
        freed: !freed.is_empty(),
    };
    let mut statement = sqlx::query(AssertSqlSafe(parts.text(conflicts)))
        .bind(fence.worker.0)
        .bind(fence.epoch)
        .bind(commits.iter().map(|c| c.run.0).collect::<Vec<Uuid>>())
        .bind(commits.iter().map(|c| c.number.cast_signed()).collect::<Vec<i32>>())
        .bind(commits.iter().map(|c| &*c.body).collect::<Vec<&str>>());
    if parts.pivot {
        statement = statement.bind(commits.iter().map(|c| c.pivot).collect::<Vec<bool>>());
    }
    if parts.read {
        statement = statement
            .bind(read.iter().map(|(c, _)| c.run.0).collect::<Vec<Uuid>>())
            .bind(read.iter().map(|(_, id)| *id).collect::<Vec<Uuid>>());
    }
    if parts.released {
        statement = statement
            .bind(released.iter().map(|r| r.run).collect::<Vec<Uuid>>())
            .bind(released.iter().map(|r| r.state).collect::<Vec<Option<&str>>>())
            .bind(released.iter().map(|r| r.due).collect::<Vec<Option<DateTime<Utc>>>>())
            .bind(released.iter().map(|r| r.error.as_deref()).collect::<Vec<Option<&str>>>());
    }
    if parts.ended {
        let (runs, ends): (Vec<Uuid>, Vec<&str>) = ended.into_iter().unzip();
        statement = statement.bind(runs).bind(ends);
    }
    if parts.freed {
        let (keys, runs): (Vec<&str>, Vec<Uuid>) =
            freed.into_iter().map(|(key, run)| (key.as_str(), run)).unzip();
        statement = statement.bind(keys).bind(runs);
    }
    statement
}

/// What becomes of a saga's row that stays.
struct Released {
    run: Uuid,
    state: Option<&'static str>,
    due: Option<DateTime<Utc>>,
    error: Option<String>,
}

impl Released {
    fn of(commit: &Commit) -> Option<Self> {
        let (state, due) = match commit.then {
            Then::Go if commit.error == LastError::Same => return None,
            Then::End(_) => return None,
            Then::Go => (None, None),
            Then::Wait(due) => (Some(State::Waiting), Some(rounded(due))),
            Then::Block => (Some(State::Blocked), None),
            Then::Queue => (Some(State::Queued), None),
        };
        Some(Self { run: commit.run.0, state: state.map(State::as_str), due, error: commit.error.text() })
    }
}

/// The key that a commit gives back.
fn given_back(commit: &Commit) -> Option<(&Key, Uuid)> {
    let key = commit.key.as_ref().filter(|_| matches!(commit.then, Then::End(_)))?;
    Some((key, commit.run.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_asked_for_the_arrays_are_numbered_from_the_sixth_on_and_each_is_used() {
        for bits in 0..32 {
            let asked = |part: u32| bits & (1 << part) != 0;
            let parts = Parts {
                pivot: asked(0),
                read: asked(1),
                released: asked(2),
                ended: asked(3),
                freed: asked(4),
            };
            for conflicts in [Conflicts::Unexpected, Conflicts::Expected] {
                let text = parts.text(conflicts);
                let last = 5 + parts.arrays().len();
                let used = |number: usize| {
                    text.match_indices(&format!("${number}"))
                        .any(|(at, name)| !text[at + name.len()..].starts_with(|c: char| c.is_ascii_digit()))
                };
                assert!((1..=last).all(used) && !used(last + 1), "{parts:?}: {text}");
                let named =
                    text.match_indices('$').any(|(at, _)| text[at + 1..].starts_with(char::is_alphabetic));
                assert!(!named, "{parts:?}: {text}");
                assert_eq!(text.contains("ON CONFLICT"), matches!(conflicts, Conflicts::Expected));
            }
        }
    }
}
