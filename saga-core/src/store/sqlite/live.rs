//! What commits that were written make of mail and of live rows: at most one statement for each kind of it,
//! whatever the number of commits.

use super::insert::{Binding, ids};
use super::read::micros;
use crate::store::commit::{Commit, Then};

/// Follows the rows of the journal in one text with them: parameters 1 to 5 are theirs.
pub(super) const THEN: &str = "
    UPDATE saga_mail SET consumed = CAST(substr(c.value, 65) AS INTEGER) FROM json_each($6) c
        WHERE saga_mail.run = unhex(substr(c.value, 1, 32)) AND saga_mail.id = unhex(substr(c.value, 33, 32));
    UPDATE saga_live SET owner = NULL, state = 'waiting', since = $3, due = CAST(substr(w.value, 33) AS INTEGER)
        FROM json_each($7) w WHERE run = unhex(substr(w.value, 1, 32));
    UPDATE saga_live SET owner = NULL, state = 'blocked', since = $3, due = NULL
        WHERE run IN (SELECT unhex(value) FROM json_each($8));
    UPDATE saga_start SET ended = substr(e.value, 33), ended_at = $3
        FROM json_each($9) e WHERE run = unhex(substr(e.value, 1, 32));
    DELETE FROM saga_live WHERE run IN (SELECT unhex(substr(value, 1, 32)) FROM json_each($9));
    UPDATE saga_mail SET consumed = -1 WHERE consumed IS NULL
        AND run IN (SELECT unhex(substr(value, 1, 32)) FROM json_each($9));
    UPDATE saga_live SET error = nullif(substr(e.value, 33), '')
        FROM json_each($10) e WHERE run = unhex(substr(e.value, 1, 32))";

/// Follows [`THEN`] where a keyed saga ends or waits on for its key: the row of a key that is given back stays
/// only where others wait for it.
pub(super) const KEYS: &str = "
    UPDATE saga_live SET owner = NULL, state = 'queued', due = until
        WHERE run IN (SELECT unhex(value) FROM json_each($11));
    UPDATE saga_key SET run = NULL FROM json_each($12) f
        WHERE saga_key.key = substr(f.value, 33) AND saga_key.run = unhex(substr(f.value, 1, 32));
    DELETE FROM saga_key WHERE run IS NULL AND key IN (SELECT substr(value, 33) FROM json_each($12))
        AND NOT EXISTS (SELECT 1 FROM saga_live l WHERE l.key = saga_key.key AND l.turn IS NOT NULL)";

/// Whether [`KEYS`] has something to do.
pub(super) fn concerns_keys(commit: &Commit) -> bool {
    commit.then == Then::Queue || given_back(commit).is_some()
}

/// The run, then the key.
fn given_back(commit: &Commit) -> Option<String> {
    let key = commit.key.as_ref().filter(|_| matches!(commit.then, Then::End(_)))?;
    Some(format!("{}{key}", commit.run.0.simple()))
}

/// Gives [`KEYS`] its values.
pub(super) fn bind_keys(statement: Binding, commits: &[&Commit]) -> Binding {
    let queued = commits.iter().filter(|c| c.then == Then::Queue).map(|c| c.run.0);
    let freed = commits.iter().filter_map(|commit| given_back(commit));
    statement.bind(ids(queued)).bind(list(freed))
}

/// Gives [`THEN`] its values.
pub(super) fn bind(statement: Binding, commits: &[&Commit]) -> Binding {
    // The run, the mail's id, then the number of the commit that consumed it.
    let read = commits
        .iter()
        .flat_map(|c| c.mail.iter().map(|id| format!("{}{}{}", c.run.0.simple(), id.0.simple(), c.number)));
    // The run, then the time.
    let waits = commits.iter().filter_map(|c| match c.then {
        Then::Wait(due) => Some(format!("{}{}", c.run.0.simple(), micros(due))),
        _ => None,
    });
    let blocked = commits.iter().filter(|c| c.then == Then::Block).map(|c| c.run.0);
    // The run, then the end's name.
    let ended = commits.iter().filter_map(|c| Some(format!("{}{}", c.run.0.simple(), c.end()?)));
    // The run, then the error.
    let errors = commits.iter().filter_map(|c| Some(format!("{}{}", c.run.0.simple(), c.error.text()?)));
    statement.bind(list(read)).bind(list(waits)).bind(ids(blocked)).bind(list(ended)).bind(list(errors))
}

fn list(items: impl Iterator<Item = String>) -> String {
    serde_json::to_string(&items.collect::<Vec<_>>()).expect("strings can be written")
}
