//! Whether removing rows makes room.
//!
//! A removed row stays in the table, dead, until no snapshot anywhere can see it. Behind somebody's
//! transaction of an hour dead rows would pile up, and every read would wade through them. Rows that
//! are merely done cost nothing until they are swept. So while the oldest snapshot stands still, only so
//! many rows are removed; then they stay, until it moves.
//!
//! The oldest snapshot is what this role may see of it: sessions of other roles show theirs only to
//! members of `pg_read_all_stats`. To a role that is no member the number of dead rows stands in for the
//! rest: where many more have piled up than cleaning usually leaves, nothing is removed until they are gone.

use super::PostgresSource;
use crate::error::Result;

/// Rows removed while the oldest snapshot stands still, unless told otherwise.
pub(super) const DEAD_ROWS_MAX: u64 = 50_000;
/// Dead rows beyond which there must be a snapshot that is not seen, as a multiple of the above. They are
/// cleaned once a minute, so this also bounds how many can be removed in that time.
const UNEXPLAINED: u64 = 40;

/// The oldest transaction that some snapshot may still need, and how many rows were removed since it
/// was first seen.
#[derive(Debug)]
pub(super) struct Horizon {
    most: u64,
    oldest: Option<i64>,
    removed: u64,
}

impl Horizon {
    /// At most so many rows at a standstill.
    pub(super) fn new(most: u64) -> Self {
        Self { most, oldest: None, removed: 0 }
    }

    /// How many rows may be removed now.
    fn room(&mut self, oldest: i64, sees_all: bool, dead_rows: u64) -> u64 {
        if self.oldest != Some(oldest) {
            (self.oldest, self.removed) = (Some(oldest), 0);
        }
        if !sees_all && dead_rows >= self.most.saturating_mul(UNEXPLAINED) {
            return 0;
        }
        self.most.saturating_sub(self.removed)
    }

    /// So many were removed.
    pub(super) fn removed(&mut self, rows: u64) {
        self.removed += rows;
    }
}

/// How many rows may be removed now.
pub(super) async fn room(source: &PostgresSource) -> Result<u64> {
    // `txid_snapshot_xmin` covers writers of every database; ages are compared because the views
    // hold 32-bit ids.
    let (oldest, sees_all, dead): (i64, bool, i64) = sqlx::query_as(
        "SELECT (txid_snapshot_xmax(now) - greatest(\
                 txid_snapshot_xmax(now) - txid_snapshot_xmin(now), \
                 (SELECT max(age(backend_xmin)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()), \
                 (SELECT max(age(transaction)) FROM pg_prepared_xacts), \
                 (SELECT max(age(xmin)) FROM pg_replication_slots)))::bigint, \
             pg_has_role('pg_read_all_stats', 'USAGE'), \
             coalesce(pg_stat_get_dead_tuples(to_regclass($1)), 0)::bigint \
         FROM (SELECT txid_current_snapshot() AS now) AS s",
    )
    .persistent(source.named())
    .bind(&source.table.name)
    .fetch_one(&mut *source.session().await?)
    .await?;
    Ok(source.horizon.lock().expect("never poisoned").room(oldest, sees_all, dead.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounded_number_of_rows_is_removed_until_the_horizon_moves() {
        let mut horizon = Horizon::new(100);
        assert_eq!(horizon.room(700, true, 0), 100);
        horizon.removed(60);
        assert_eq!(horizon.room(700, true, 9_000), 40, "dead rows of before are not counted twice");
        horizon.removed(40);
        assert_eq!(horizon.room(700, true, 9_000), 0, "it stands still");
        assert_eq!(horizon.room(701, true, 9_000), 100, "it has moved");
    }

    #[test]
    fn where_nobody_is_seen_to_hold_it_the_dead_rows_tell() {
        let mut horizon = Horizon::new(100);
        for oldest in 700..710 {
            assert_eq!(horizon.room(oldest, false, 4_000), 0);
        }
        assert_eq!(horizon.room(710, false, 3_999), 100, "they were cleaned");
    }
}
