//! The claimer: finds sagas that are due, and hands mail to those that are driven here.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::driver::Driver;
use super::live::{self, Saga};
use super::shared::{Incarnation, LOCK, Shared};
use super::unfit::set_aside;
use crate::journal::MailBody;
use crate::payload;
use crate::store::{Claim, Claimed, Error, Loaded};

/// How many sagas one claim takes at most: enough to fill a worker quickly, few enough that several
/// workers that start together share what is there.
const CLAIM: usize = 256;

/// Claims until the incarnation is lost or the worker drains.
pub(super) async fn claim(shared: Arc<Shared>, incarnation: Arc<Incarnation>) {
    let fingerprints = shared.registry.fingerprints();
    let mut pause = shared.settings.poll.start;
    // Journals that are too much for one answer would be so for ever: what fails is asked for in smaller parts.
    let mut most = CLAIM;
    while !incarnation.lost.is_cancelled() && !shared.draining.is_cancelled() {
        let limit = match shared.paused.load(Relaxed) {
            true => 0,
            false => shared.capacity.available_permits().min(most),
        };
        let claim = Claim {
            fence: incarnation.fence,
            fingerprints: fingerprints.clone(),
            limit,
            reads: MailBody::FORMAT,
        };
        match shared.backend.store.claim(&claim).await {
            Ok(claimed) => {
                let full = limit > 0 && claimed.sagas.len() == limit;
                most = (most * 2).min(CLAIM);
                let quiet = claimed.sagas.is_empty();
                take(&shared, &incarnation, claimed).await;
                pause = match (full, quiet) {
                    (true, _) => Duration::ZERO,
                    (_, true) => (pause * 2).clamp(shared.settings.poll.start, shared.settings.poll.end),
                    _ => shared.settings.poll.start,
                };
            }
            Err(Error::Fenced) => incarnation.lost.cancel(),
            Err(error) => {
                tracing::warn!(%error, limit, "nothing could be claimed; trying again");
                most = (most / 2).max(1);
                pause = shared.settings.poll.end;
            }
        }
        let jittered = pause.mul_f64(0.75 + shared.clock.jitter() / 2.0);
        tokio::select! {
            biased; // the same run in virtual time
            () = shared.draining.cancelled() => {}
            () = incarnation.lost.cancelled() => {}
            () = shared.nudge.notified() => {}
            () = tokio::time::sleep(jittered) => {}
        }
    }
}

async fn take(shared: &Arc<Shared>, incarnation: &Arc<Incarnation>, claimed: Claimed) {
    for mail in claimed.mail {
        if let Some(mailbox) = incarnation.mailboxes.lock().expect(LOCK).get(&mail.run) {
            let _ = mailbox.send(mail);
        }
    }
    let (closed, plain) =
        claimed.sagas.into_iter().partition::<Vec<_>, _>(|loaded| is_closed(shared, loaded));
    for loaded in closed {
        let permit = shared.capacity.clone().acquire_owned().await.expect("never closed");
        tokio::spawn(open(shared.clone(), incarnation.clone(), loaded, permit));
    }
    let mut sagas = Vec::with_capacity(plain.len());
    for loaded in plain {
        let program = shared.registry.get(loaded.fingerprint).expect("claimed by its fingerprint").clone();
        match Saga::load(&loaded, program.clone(), &shared.keeping) {
            Ok(saga) => sagas.push(saga),
            Err(unfit) => {
                let (shared, incarnation) = (shared.clone(), incarnation.clone());
                let aside = set_aside(shared, incarnation.clone(), loaded, unfit, program.plan.clone());
                incarnation.drivers.spawn(aside);
            }
        }
    }
    // Suspects wait for each other in this order: the one with the fewest deaths goes first, so that
    // kills that have nothing to do with them do not gather on one.
    sagas.sort_by_key(|saga| saga.machine.deaths());
    for saga in sagas {
        // Claims take no more than was free, but a local start may have taken a permit meanwhile.
        let permit = shared.capacity.clone().acquire_owned().await.expect("never closed");
        Driver::spawn(shared.clone(), incarnation.clone(), saga, permit);
    }
}

/// Whether its journal holds what has to be opened first.
fn is_closed(shared: &Shared, loaded: &Loaded) -> bool {
    shared.keeping.codec.is_some() && loaded.journal.iter().any(|row| row.body.contains(payload::CLOSED))
}

/// Opens a journal, in a task of its own because a store of blobs may be slow or away for a while, and drives
/// its saga. Given up, it rests with its owner until another worker takes over.
async fn open(
    shared: Arc<Shared>,
    incarnation: Arc<Incarnation>,
    loaded: Loaded,
    permit: OwnedSemaphorePermit,
) {
    let run = loaded.run;
    let program = shared.registry.get(loaded.fingerprint).expect("claimed by its fingerprint").clone();
    let gone = || incarnation.lost.is_cancelled() || shared.draining.is_cancelled();
    let mut pause = Duration::from_millis(100);
    let saga = match live::read(&loaded) {
        Ok(mut commits) => {
            while let Err(error) = shared.keeping.open(&mut commits, run).await {
                if gone() {
                    return;
                }
                tracing::warn!(%run, %error, "its payloads could not be read yet");
                let _ = tokio::time::timeout(pause, incarnation.lost.cancelled()).await;
                pause = (pause * 2).min(Duration::from_secs(5));
            }
            Saga::replay(&loaded, &commits, program.clone(), &shared.keeping)
        }
        Err(unfit) => Err(unfit),
    };
    match saga {
        Ok(saga) => Driver::spawn(shared, incarnation, saga, permit),
        Err(unfit) => set_aside(shared, incarnation, loaded, unfit, program.plan.clone()).await,
    }
}
