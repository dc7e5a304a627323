//! What can be set, with the reasons for the defaults.

use crate::error::{Error, Result};
use crate::route::Routes;
use std::time::Duration;

/// How a relay behaves.
#[derive(Clone, Debug)]
pub struct RelaySettings {
    /// How long a dead relay's outbox waits for the next one. Ten seconds: longer than a pause of a
    /// busy database, shorter than the patience of who waits for the events.
    pub lease: Duration,
    /// Most events between source and broker; they are also what is published again at most if a topic's tail cannot
    /// be read. The more there are, the larger the producer's requests become, and the less one event costs it and the
    /// broker. With events of 200 bytes each thousand costs some 1.3 MiB, most of it the producer's: eleven thousand,
    /// with what is read ahead, are what 32 MiB hold with a margin.
    pub window_events: usize,
    /// Most memory they may hold, in bytes. Four mebibytes; the producer holds two to three times as much beside.
    pub window_bytes: usize,
    /// Most events read at once. Two such pages are read ahead of the window, and each is a query of its own.
    pub page_events: usize,
    /// For how long a refused topic (unknown, not allowed) is tried before its events are parked.
    pub refused_for: Duration,
    /// For how long a relay that was told to stop waits for what it has sent. Leave room for it in
    /// the pod's grace period.
    pub drain: Duration,
    /// Where events go.
    pub routes: Routes,
    /// What this relay calls itself in the lease, for people.
    pub holder: String,
}

impl Default for RelaySettings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(10),
            window_events: 11_000,
            window_bytes: 4 << 20,
            page_events: 1_500,
            refused_for: Duration::from_secs(30),
            drain: Duration::from_secs(10),
            routes: Routes::default(),
            holder: format!("{}:{}", hostname(), std::process::id()),
        }
    }
}

impl RelaySettings {
    pub(super) fn check(&self, longest_in_flight: Duration) -> Result<()> {
        let trusted = self.lease - self.lease / 5;
        if longest_in_flight >= trusted {
            return Err(Error::Config(format!(
                "the producer may try a record for {longest_in_flight:?}, which must be less than four fifths of the \
                 lease ({trusted:?}): shorten the message timeout or lengthen the lease"
            )));
        }
        if self.window_events == 0 || self.page_events == 0 || self.window_bytes == 0 {
            return Err(Error::Config("the relay's window and pages cannot be empty".into()));
        }
        Ok(())
    }
}

fn hostname() -> String {
    let name =
        std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    name.map_or_else(|| "host".into(), |name| name.trim().to_owned())
}
