//! That a saga is driven here.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::engine::shared::{Incarnation, LOCK, Shared};
use crate::id::RunId;
use crate::store::Mail;

/// While a driver has it, mail for its saga goes to it, and whoever waits for the saga's end waits for the driver.
/// However the driver ends, they hear of it.
pub(super) struct Seat {
    shared: Arc<Shared>,
    incarnation: Arc<Incarnation>,
    run: RunId,
    letterbox: mpsc::UnboundedSender<Mail>,
}

impl Seat {
    pub(super) fn take(
        shared: Arc<Shared>,
        incarnation: Arc<Incarnation>,
        run: RunId,
    ) -> (Self, mpsc::UnboundedReceiver<Mail>) {
        let (letterbox, mailbox) = mpsc::unbounded_channel();
        incarnation.mailboxes.lock().expect(LOCK).insert(run, letterbox.clone());
        (Self { shared, incarnation, run, letterbox }, mailbox)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        {
            // The saga may have been claimed here again already: then the mailbox is its new driver's.
            let mut mailboxes = self.incarnation.mailboxes.lock().expect(LOCK);
            if mailboxes.get(&self.run).is_some_and(|present| present.same_channel(&self.letterbox)) {
                mailboxes.remove(&self.run);
            }
        }
        // In this order: who looks whether it is driven after he is told finds that it is not.
        self.shared.dismiss(self.run);
    }
}
