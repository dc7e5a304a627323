//! What must hold of every run, whatever went wrong in it.
//!
//! Three witnesses are heard: the journal, the store's row, and the participants' book. A rule that is
//! broken is a sentence.

mod causes;
mod effects;
mod history;

use super::evidence::Evidence;

/// Adds every rule that the run broke to its evidence.
pub(super) fn judge(evidence: &mut Evidence) {
    let mut broken = std::mem::take(&mut evidence.broken);
    if evidence.settled {
        history::judge(evidence, &mut broken);
        effects::judge(evidence, &mut broken);
        causes::judge(evidence, &mut broken);
    } else {
        let state = evidence.summary.as_ref().map_or("not started", |summary| summary.state.as_str());
        broken.push(format!("it has not come to rest within {:.0?}: it is {state}", evidence.took));
    }
    evidence.broken = broken;
}
