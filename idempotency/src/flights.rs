//! What runs in this process right now: so that duplicates wait for the first here, and not in the store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::{Fingerprint, KeyId};

/// The keys in flight in this process.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<KeyId, Entry>>);

#[derive(Debug)]
struct Entry {
    print: Fingerprint,
    landed: watch::Sender<()>,
}

/// One key in flight; it lands when this is dropped.
#[derive(Debug)]
pub(crate) struct Flight {
    flights: Arc<Flights>,
    id: KeyId,
}

/// What [`Flights::board`] found.
#[derive(Debug)]
pub(crate) enum Boarding {
    /// Nobody is ahead.
    First(Flight),
    /// The same request is ahead: wait, then look.
    Wait(watch::Receiver<()>),
    /// Another request is ahead under the same key.
    #[cfg_attr(
        not(any(feature = "postgres", feature = "sqlite")),
        allow(dead_code, reason = "waited for by the fused guarantee only")
    )]
    Other(watch::Receiver<()>),
}

impl Flights {
    /// Announces a key, or finds who is ahead.
    pub(crate) fn board(self: &Arc<Self>, id: KeyId, print: Fingerprint) -> Boarding {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match entries.get(&id) {
            Some(entry) if entry.print == print => Boarding::Wait(entry.landed.subscribe()),
            Some(entry) => Boarding::Other(entry.landed.subscribe()),
            None => {
                entries.insert(id, Entry { print, landed: watch::Sender::new(()) });
                Boarding::First(Flight { flights: self.clone(), id })
            }
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        // Dropping the sender wakes all who wait.
        self.flights.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{fresh_id, print};

    #[tokio::test]
    async fn those_who_wait_wake_when_the_first_lands() {
        let (flights, id) = (Arc::new(Flights::default()), fresh_id());
        let Boarding::First(first) = flights.board(id, print("{}")) else { panic!("nobody is ahead") };
        let Boarding::Wait(mut second) = flights.board(id, print("{}")) else { panic!("the first is ahead") };
        assert!(matches!(flights.board(id, print("other")), Boarding::Other(_)));
        assert!(matches!(flights.board(fresh_id(), print("{}")), Boarding::First(_)));
        drop(first);
        assert!(second.changed().await.is_err());
        assert!(matches!(flights.board(id, print("{}")), Boarding::First(_)));
    }
}
