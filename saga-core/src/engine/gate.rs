//! A number of passes, and a queue for them in which priority counts as time.
//!
//! Whoever gives a pass back hands it to the first in the queue himself, so nobody who comes later takes it
//! on its way, and a queue that moves always moves in its order.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::shared::LOCK;
use crate::priority::Priority;

/// At most so many pass at once.
#[derive(Debug)]
pub(crate) struct Gate {
    began: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// How many have ever queued.
    queued: u64,
    queue: BTreeMap<Turn, oneshot::Sender<Pass>>,
}

/// When it is somebody's turn: his arrival in milliseconds, moved by his priority; among equals, who came first.
type Turn = (i64, u64);

/// One of the passes; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Pass(Option<Arc<Gate>>);

impl Gate {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        let state = State { free: most.max(1), queued: 0, queue: BTreeMap::new() };
        Arc::new(Self { began: Instant::now(), state: Mutex::new(state) })
    }

    /// A pass, if one is free. (Then nobody queues.)
    pub(crate) fn try_pass(self: &Arc<Self>) -> Option<Pass> {
        let mut state = self.state.lock().expect(LOCK);
        state.free = state.free.checked_sub(1)?;
        Some(Pass(Some(self.clone())))
    }

    /// Waits for its turn.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the queue; a pass that was handed over meanwhile goes to the next.
    pub(crate) async fn pass(self: &Arc<Self>, priority: Priority) -> Pass {
        let turn = {
            let mut state = self.state.lock().expect(LOCK);
            if state.free > 0 {
                state.free -= 1;
                return Pass(Some(self.clone()));
            }
            let (sender, turn) = oneshot::channel();
            let arrived = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX);
            let at = arrived.saturating_sub(priority.head_start().num_milliseconds());
            state.queued += 1;
            let number = state.queued;
            state.queue.insert((at, number), sender);
            turn
        };
        turn.await.expect("whoever gives a pass back hands it on, and the gate outlives its queue")
    }

    /// Hands a pass to the first that still waits.
    fn hand_on(self: Arc<Self>) {
        loop {
            let mut state = self.state.lock().expect(LOCK);
            let Some((_, first)) = state.queue.pop_first() else {
                state.free += 1;
                return;
            };
            drop(state);
            match first.send(Pass(Some(self.clone()))) {
                Ok(()) => return,
                // He went away. His pass must not be handed on from within here.
                Err(mut pass) => drop(pass.0.take()),
            }
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(gate) = self.0.take() {
            gate.hand_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;

    /// Lets everybody queue, and tells who passes in which order.
    async fn order(queue: &[(Priority, u64)]) -> Vec<usize> {
        let gate = Gate::new(1);
        let first = gate.try_pass().expect("nobody is there yet");
        let passed = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for (index, (priority, pause)) in queue.iter().copied().enumerate() {
            tokio::time::sleep(Duration::from_secs(pause)).await;
            let (gate, passed) = (gate.clone(), passed.clone());
            tasks.push(tokio::spawn(async move {
                let _pass = gate.pass(priority).await;
                passed.lock().unwrap().push(index);
            }));
            tokio::task::yield_now().await;
        }
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        std::mem::take(&mut *passed.lock().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn priority_counts_as_a_minute_of_waiting() {
        use Priority::{High, Low, Normal};
        assert_eq!(order(&[(Normal, 0), (Normal, 1), (Normal, 1)]).await, [0, 1, 2]);
        assert_eq!(order(&[(Low, 0), (Normal, 1), (High, 1)]).await, [2, 1, 0]);
        assert_eq!(order(&[(Normal, 0), (High, 59)]).await, [1, 0]);
        assert_eq!(
            order(&[(Normal, 0), (High, 61)]).await,
            [0, 1],
            "who has waited longer than that goes first"
        );
        assert_eq!(order(&[(Low, 0), (High, 121)]).await, [0, 1]);
    }

    #[tokio::test]
    async fn whoever_goes_away_keeps_nothing() {
        let gate = Gate::new(1);
        let held = gate.try_pass().unwrap();
        assert!(gate.try_pass().is_none());
        let mut waits = Box::pin(gate.pass(Priority::Normal));
        assert!(waits.as_mut().now_or_never().is_none());
        let mut also = Box::pin(gate.pass(Priority::Normal));
        assert!(also.as_mut().now_or_never().is_none());
        // One leaves the queue before his turn, the other after it was given to him.
        drop(waits);
        drop(held);
        drop(also);
        assert!(gate.try_pass().is_some());
    }
}
