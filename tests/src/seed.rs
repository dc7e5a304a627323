//! Chance that can be repeated.

use rand::SeedableRng;
use rand::rngs::StdRng;

/// A random number generator. Its seed is printed, which the test harness shows when the test fails;
/// `TEST_SEED` in the environment repeats it.
pub fn seeded() -> StdRng {
    let seed = std::env::var("TEST_SEED")
        .map_or_else(|_| rand::random(), |seed| seed.parse().expect("TEST_SEED is a whole number"));
    eprintln!("repeat with TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}
