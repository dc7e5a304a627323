//! The statements. `now!()` is the host's clock, read by SQLite when the statement runs.

macro_rules! now {
    () => {
        "(CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER) * 1000)"
    };
}

macro_rules! update {
    ($condition:literal) => {
        concat!(
            "UPDATE idempotency_keys SET action = ?2, undo = ?3, refused = ?4, doubt = ?5, running = ?6, \
             stamp = ?7, fence = ?8, action_print = ?9, undo_print = ?10, action_answer = ?11, \
             undo_answer = ?12, operation = ?13, phase = ?14, memo = ?15, lease_until = ",
            now!(),
            " + ?16, expires_at = ",
            now!(),
            " + ?17, created_at = iif(?18, ",
            now!(),
            ", created_at) WHERE id = ?1 AND ",
            $condition
        )
    };
}

pub(crate) const PUT_IF_ABSENT: &str = concat!(
    "INSERT INTO idempotency_keys (id, action, undo, refused, doubt, running, stamp, fence, action_print, \
     undo_print, action_answer, undo_answer, operation, phase, memo, lease_until, expires_at, created_at) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ",
    now!(),
    " + ?16, ",
    now!(),
    " + ?17, ",
    now!(),
    ") ON CONFLICT (id) DO NOTHING"
);

pub(crate) const PUT_IF_EXACTLY: &str = update!("stamp = ?19 AND lease_until IS ?20 AND running = ?21");

pub(crate) const PUT_IF_HELD: &str = update!("stamp = ?19 AND running");

pub(super) const DELETE_IF_EXACTLY: &str =
    "DELETE FROM idempotency_keys WHERE id = ?1 AND stamp = ?2 AND lease_until IS ?3 AND running = ?4";

pub(super) const DELETE_IF_HELD: &str =
    "DELETE FROM idempotency_keys WHERE id = ?1 AND stamp = ?2 AND running";

pub(crate) const READ: &str =
    concat!("SELECT ", now!(), " AS now, k.* FROM (SELECT 1) LEFT JOIN idempotency_keys k ON k.id = ?1");

pub(super) const SWEEP: &str = concat!(
    "DELETE FROM idempotency_keys WHERE id IN (SELECT id FROM idempotency_keys \
     WHERE expires_at <= ",
    now!(),
    " AND NOT running ORDER BY expires_at LIMIT ?1)"
);

pub(super) const COUNT: &str = concat!(
    "WITH k AS (SELECT action, undo, running, running AND lease_until <= ",
    now!(),
    " AS over FROM idempotency_keys WHERE expires_at IS NULL OR expires_at > ",
    now!(),
    ") SELECT \
     count(*) FILTER (WHERE running AND over IS NOT 1) AS running, \
     count(*) FILTER (WHERE over) AS in_doubt, \
     count(*) FILTER (WHERE NOT running AND undo = 0 AND action = 2) AS applied, \
     count(*) FILTER (WHERE NOT running AND undo = 0 AND action = 3) AS rejected, \
     count(*) FILTER (WHERE NOT running AND undo <> 0) AS undone, \
     count(*) FILTER (WHERE NOT running AND undo = 0 AND action = 0) AS refused FROM k"
);

pub(super) const UNFINISHED: &str = concat!(
    "SELECT id FROM idempotency_keys WHERE operation = ?1 AND running AND lease_until <= ",
    now!(),
    " ORDER BY fence, lease_until LIMIT ?2"
);
