//! Who is dead: a pure observer of the other workers' renewal counters.
//!
//! A peer is dead when its counter was *seen* not to move for its whole lease by this worker's own
//! clock. The store's clock takes no part, so that a jump of it expires nobody; and a worker that has
//! just started observes for a whole lease before it judges.

use std::collections::HashMap;
use std::time::Duration;

use crate::id::WorkerId;
use crate::store::Peer;

/// What was seen of the others.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    seen: HashMap<WorkerId, Seen>,
}

#[derive(Debug)]
struct Seen {
    renewals: i64,
    since: Duration,
}

impl Peers {
    /// Takes one look at time `now` (of the trusted clock) and says which peers are dead.
    pub(crate) fn observe(&mut self, peers: &[Peer], now: Duration) -> Vec<WorkerId> {
        self.seen.retain(|id, _| peers.iter().any(|peer| peer.id == *id));
        let mut dead = Vec::new();
        for peer in peers {
            let seen = self.seen.entry(peer.id).or_insert(Seen { renewals: peer.renewals, since: now });
            if seen.renewals != peer.renewals {
                *seen = Seen { renewals: peer.renewals, since: now };
            }
            if peer.gone || now.saturating_sub(seen.since) > peer.lease {
                dead.push(peer.id);
            }
        }
        dead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(id: WorkerId, renewals: i64) -> Peer {
        Peer { id, renewals, lease: Duration::from_secs(10), gone: false }
    }

    #[test]
    fn a_peer_is_dead_after_a_whole_lease_without_a_renewal_that_we_saw() {
        let id = WorkerId::new();
        let mut peers = Peers::default();
        let at = Duration::from_secs;
        // Whatever its past, observation begins with the first look.
        assert!(peers.observe(&[peer(id, 7)], at(1000)).is_empty());
        assert!(peers.observe(&[peer(id, 7)], at(1010)).is_empty());
        // A renewal, even a late one, begins it anew.
        assert!(peers.observe(&[peer(id, 8)], at(1011)).is_empty());
        assert!(peers.observe(&[peer(id, 8)], at(1021)).is_empty());
        assert_eq!(peers.observe(&[peer(id, 8)], at(1022)), [id]);
    }

    #[test]
    fn a_store_that_knows_the_process_is_gone_needs_no_observation() {
        let id = WorkerId::new();
        let gone = Peer { gone: true, ..peer(id, 0) };
        assert_eq!(Peers::default().observe(&[gone], Duration::ZERO), [id]);
    }
}
