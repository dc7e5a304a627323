//! The statements. Each of the first group answers one row: `done`, `now`, and what is stored if it was not done.
//!
//! `clock_timestamp()` in a written row is read when that row is written. For an update that is after its lock
//! was granted; for an insert that had to wait for somebody else's unfinished insert it is before the wait,
//! which can only make a lease shorter.

macro_rules! swap {
    ($($write:expr),+) => {
        concat!(
            "WITH put AS (", $($write,)+ " RETURNING 1) \
             SELECT EXISTS (SELECT FROM put) AS done, clock_timestamp() AS now, ", stored!(),
            " FROM (SELECT 1) one LEFT JOIN idempotency.keys k ON k.id = $1 AND NOT EXISTS (SELECT FROM put)"
        )
    };
}

macro_rules! stored {
    () => {
        "k.action, k.undo, k.refused, k.doubt, k.stamp, k.fence, k.action_print, k.undo_print, \
         k.action_answer, k.undo_answer, k.operation, k.phase, k.memo, k.created_at, k.lease_until, k.expires_at"
    };
}

macro_rules! update {
    () => {
        "UPDATE idempotency.keys SET action = $2, undo = $3, refused = $4, doubt = $5, running = $6, \
         stamp = $7, fence = $8, action_print = $9, undo_print = $10, action_answer = $11, \
         undo_answer = $12, operation = $13, phase = $14, memo = $15, \
         lease_until = clock_timestamp() + $16::bigint * interval '1 microsecond', \
         expires_at = clock_timestamp() + $17::bigint * interval '1 microsecond', \
         created_at = CASE WHEN $18 THEN clock_timestamp() ELSE created_at END WHERE id = $1 AND "
    };
}

pub(crate) const PUT_IF_ABSENT: &str = swap!(
    "INSERT INTO idempotency.keys (id, action, undo, refused, doubt, running, stamp, fence, action_print, \
     undo_print, action_answer, undo_answer, operation, phase, memo, lease_until, expires_at, created_at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, \
     clock_timestamp() + $16::bigint * interval '1 microsecond', \
     clock_timestamp() + $17::bigint * interval '1 microsecond', \
     clock_timestamp()) ON CONFLICT (id) DO NOTHING"
);

pub(crate) const PUT_IF_EXACTLY: &str =
    swap!(update!(), "stamp = $19 AND lease_until IS NOT DISTINCT FROM $20 AND running = $21");

pub(crate) const PUT_IF_HELD: &str = swap!(update!(), "stamp = $19 AND running");

pub(crate) const DELETE_IF_EXACTLY: &str = swap!(
    "DELETE FROM idempotency.keys WHERE id = $1 AND stamp = $2 AND lease_until IS NOT DISTINCT FROM $3 \
     AND running = $4"
);

pub(crate) const DELETE_IF_HELD: &str =
    swap!("DELETE FROM idempotency.keys WHERE id = $1 AND stamp = $2 AND running");

pub(crate) const READ_AS_SWAP: &str = concat!(
    "SELECT k.id IS NULL AS done, clock_timestamp() AS now, ",
    stored!(),
    " FROM (SELECT 1) one LEFT JOIN idempotency.keys k ON k.id = $1"
);

pub(crate) const READ: &str = READ_AS_SWAP;

/// The number of the transaction, if it claims the key by this.
pub(super) const CLAIM: &str = "SELECT idempotency.claim($1, $2)";

/// Writes the outcome of a claim that no row says. Only in the very transaction that claimed. Its first parameters are
/// those of [`SETTLE`].
pub(super) const SETTLE_CLAIM: &str = "INSERT INTO idempotency.keys (id, action, undo, refused, doubt, running, \
     action_answer, undo_answer, expires_at, stamp, fence, action_print, undo_print, created_at) \
     SELECT $1, $2, $3, $4, false, false, $5, $6, clock_timestamp() + $7::bigint * interval '1 microsecond', \
     $8, $9, $10, $11, clock_timestamp() \
     WHERE pg_current_xact_id()::text = $12 ON CONFLICT (id) DO NOTHING";

/// The number of the transaction under way, if it has one.
pub(super) const TRANSACTION: &str = "SELECT pg_current_xact_id_if_assigned()::text";

/// Whether the transaction of this number was committed.
pub(super) const COMMITTED: &str = "SELECT coalesce(pg_xact_status($1::text::xid8) = 'committed', false)";

/// Takes a key's lock, then sets the lock timeout back to `$2`.
pub(super) const WAIT: &str = "WITH held AS MATERIALIZED (SELECT pg_advisory_xact_lock($1)) \
     SELECT set_config('lock_timeout', $2, true) FROM held";

/// Sets the transaction's lock timeout to `$1` and answers what it was.
pub(super) const LOCK_TIMEOUT: &str = "WITH was AS MATERIALIZED (SELECT current_setting('lock_timeout') AS callers) \
     SELECT callers, set_config('lock_timeout', $1, true) FROM was";

/// Locks the row if there is one, then sets the lock timeout back to `$2` and reads the clock.
pub(super) const LOCK: &str = concat!(
    "WITH k AS MATERIALIZED (SELECT * FROM idempotency.keys WHERE id = $1 FOR UPDATE) \
     SELECT set_config('lock_timeout', $2, true), clock_timestamp() AS now, ",
    stored!(),
    " FROM (SELECT 1) one LEFT JOIN k ON true"
);

/// Only in the very transaction that wrote the claim. What the claim has written is not written again.
pub(super) const SETTLE: &str = "UPDATE idempotency.keys SET action = $2, undo = $3, refused = $4, doubt = false, \
     running = false, action_answer = $5, undo_answer = $6, operation = NULL, phase = NULL, memo = NULL, \
     lease_until = NULL, expires_at = clock_timestamp() + $7::bigint * interval '1 microsecond' \
     WHERE id = $1 AND stamp = $8 AND running AND xid = pg_current_xact_id()";

/// Marks a claim over a row that was there as this transaction's.
pub(super) const OWN: &str = "UPDATE idempotency.keys SET xid = pg_current_xact_id() WHERE id = $1";

pub(super) const SWEEP: &str = "DELETE FROM idempotency.keys WHERE NOT running AND id IN (\
     SELECT id FROM idempotency.keys WHERE expires_at <= clock_timestamp() AND NOT running \
     ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED)";

pub(super) const COUNT: &str = "SELECT \
     count(*) FILTER (WHERE running AND (lease_until IS NULL OR lease_until > now())) AS running, \
     count(*) FILTER (WHERE running AND lease_until <= now()) AS in_doubt, \
     count(*) FILTER (WHERE NOT running AND undo = 0 AND action = 2) AS applied, \
     count(*) FILTER (WHERE NOT running AND undo = 0 AND action = 3) AS rejected, \
     count(*) FILTER (WHERE NOT running AND undo <> 0) AS undone, \
     count(*) FILTER (WHERE NOT running AND undo = 0 AND action = 0) AS refused \
     FROM idempotency.keys WHERE expires_at IS NULL OR expires_at > now()";

pub(super) const UNFINISHED: &str = "SELECT id FROM idempotency.keys WHERE running AND operation = $1 \
     AND lease_until <= clock_timestamp() ORDER BY fence, lease_until LIMIT $2";

pub(super) const SETTINGS: &str = "SELECT current_setting('fsync') AS fsync, \
     current_setting('full_page_writes') AS full_page_writes, \
     current_setting('synchronous_commit') AS synchronous_commit, pg_is_in_recovery() AS in_recovery";
