//! Every call of a step's code, seen and harmed where the engine makes it.

use std::sync::Arc;

use super::plan::Spot;
use super::process::Process;
use super::scene::Scene;
use crate::engine::Wrap;
use crate::journal::Effect;
use crate::saga::Plan as Shape;
use crate::step::code::Bound;

/// Puts a point around every call that a process makes. With `repeat`, calls that may be repeated
/// arrive twice, and the second answer is the one that is heard.
pub(super) fn wrap(scene: Scene, process: Process, shape: Arc<Shape>, repeat: bool) -> Wrap {
    Arc::new(move |code: Bound| {
        let (scene, process, shape) = (scene.clone(), process.clone(), shape.clone());
        Arc::new(move |attempt, input, output| {
            let (scene, process, shape, code) = (scene.clone(), process.clone(), shape.clone(), code.clone());
            Box::pin(async move {
                process.pass().await;
                scene.called(&process, &attempt).await.expect("the journal can be read");
                let (place, effect) = (attempt.place.clone(), attempt.effect);
                let spot = Spot::Call { place: place.clone(), effect, attempt: attempt.number };
                let hit = scene.reach(&process, spot).await;
                scene.before(&process, hit).await.expect("no store takes part in a call");
                let under_way = scene.entered(&process, attempt.run);
                if repeat && may_repeat(&shape, place.parts().0, effect) {
                    process.live(code(attempt.clone(), input.clone(), output.clone())).await;
                }
                let reply = process.live(code(attempt, input, output)).await;
                drop(under_way);
                scene.after(&process, hit).await.expect("no store takes part in a call");
                reply
            })
        })
    })
}

/// Calls that are lent a transaction are made once in it.
fn may_repeat(shape: &Shape, step: &str, effect: Effect) -> bool {
    let node = shape.find(step).map(|node| &shape.nodes[node]);
    node.is_some_and(|node| !node.transactional && (effect != Effect::Action || node.idempotent))
}
