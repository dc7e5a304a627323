//! Whether removing rows makes room.
//!
//! A removed row stays in the table, dead, until no snapshot anywhere can see it. Behind somebody's
//! transaction of an hour dead rows would pile up, and every read would wade through them. Rows that
//! are merely done cost nothing until they are swept. So while the oldest snapshot stands still for
//! longer than [`PATIENCE`], sweeping stops once there are [`DEAD_ROWS_MAX`] dead rows.
//!
//! The oldest snapshot is what this role may see of it: sessions of other roles show theirs only to
//! members of `pg_read_all_stats`. The number of dead rows is seen by all, and stands in for the rest.

use super::PostgresSource;
use crate::error::Result;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
const DEAD_ROWS_MAX: i64 = 50_000;

/// The oldest transaction that some snapshot may still need, and since when it has been that.
#[derive(Debug, Default)]
pub(super) struct Horizon {
    seen: Option<(i64, Instant)>,
}

impl Horizon {
    /// Whether removing rows now makes room before long.
    fn may_remove(&mut self, oldest: i64, dead_rows: i64, now: Instant) -> bool {
        match self.seen {
            Some((seen, since)) if seen == oldest => {
                now.saturating_duration_since(since) < PATIENCE || dead_rows < DEAD_ROWS_MAX
            }
            _ => {
                self.seen = Some((oldest, now));
                true
            }
        }
    }
}

pub(super) async fn may_remove(source: &PostgresSource) -> Result<bool> {
    // `txid_snapshot_xmin` covers writers of every database; ages are compared because the views
    // hold 32-bit ids.
    let (oldest, dead): (i64, i64) = sqlx::query_as(
        "SELECT (txid_snapshot_xmax(now) - greatest(\
                 txid_snapshot_xmax(now) - txid_snapshot_xmin(now), \
                 (SELECT max(age(backend_xmin)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()), \
                 (SELECT max(age(transaction)) FROM pg_prepared_xacts), \
                 (SELECT max(age(xmin)) FROM pg_replication_slots)))::bigint, \
             coalesce(pg_stat_get_dead_tuples(to_regclass($1)), 0)::bigint \
         FROM (SELECT txid_current_snapshot() AS now) AS s",
    )
    .bind(&source.table.name)
    .fetch_one(&source.pool)
    .await?;
    Ok(source.horizon.lock().expect("never poisoned").may_remove(oldest, dead, Instant::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_removed_until_the_horizon_has_stood_still_and_dead_rows_have_piled_up() {
        let (mut horizon, start) = (Horizon::default(), Instant::now());
        assert!(horizon.may_remove(700, 900_000, start), "it has only just been seen");
        assert!(horizon.may_remove(700, 900_000, start + PATIENCE / 2));
        assert!(horizon.may_remove(700, DEAD_ROWS_MAX - 1, start + PATIENCE));
        assert!(!horizon.may_remove(700, DEAD_ROWS_MAX, start + PATIENCE));
        assert!(horizon.may_remove(701, DEAD_ROWS_MAX, start + PATIENCE), "it moves");
    }
}
