//! The pure machine by properties: random plans, random outcomes, crashes anywhere, and no I/O at all.

mod bounds;
mod plans;
mod records;
mod stages;
mod world;

use proptest::prelude::*;
use proptest::test_runner::Config;

use plans::{Sketch, sketch};
use world::World;

proptest! {
    #![proptest_config(Config { cases: 512, ..Config::default() })]

    /// However participants and operators answer, and wherever workers die, the saga ends; its end says
    /// what happened; what is undone is undone in reverse dependency order; and at every moment the
    /// journal alone leads to the same state.
    #[test]
    fn every_saga_ends_honestly_and_replays_to_itself(sketch in sketch(), tape in any_tape()) {
        World::new(&sketch, &tape).run_to_its_end();
    }

    /// Nothing that happens can be recorded twice.
    #[test]
    fn no_record_of_an_attempt_can_be_repeated(sketch in sketch(), tape in any_tape()) {
        let mut world = World::new(&sketch, &tape);
        world.run_to_its_end();
        world.repeat_every_record();
    }
}

/// What chance decides, one number after the other; when it is used up everybody does what is asked.
fn any_tape() -> impl Strategy<Value = Vec<u16>> {
    proptest::collection::vec(any::<u16>(), 0..250)
}

#[test]
fn sketches_become_plans() {
    let plan = Sketch::example().plan();
    assert_eq!(plan.nodes.iter().filter(|node| node.has_effect()).count(), 5);
}
