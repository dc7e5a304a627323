//! Rates, side by side.

use std::time::{Duration, Instant};

pub(crate) type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Operations per second of `operation`, run by `tasks` at once for `time`.
pub(crate) async fn rate<F, O>(tasks: usize, time: Duration, operation: F) -> f64
where
    F: Fn() -> O + Clone + Send + 'static,
    O: Future<Output = ()> + Send,
{
    let begin = Instant::now();
    let running: Vec<_> = (0..tasks)
        .map(|_| {
            let operation = operation.clone();
            tokio::spawn(async move {
                let mut count = 0_u64;
                while begin.elapsed() < time {
                    operation().await;
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut count = 0;
    for task in running {
        count += task.await.expect("an operation does not panic");
    }
    count as f64 / begin.elapsed().as_secs_f64()
}

/// Measures two operations in alternating rounds, and prints both with their ratio.
pub(crate) async fn compare<A, B, P, Q>(what: &str, tasks: usize, limit: (&str, A), ours: (&str, B))
where
    A: Fn() -> P + Clone + Send + 'static,
    P: Future<Output = ()> + Send,
    B: Fn() -> Q + Clone + Send + 'static,
    Q: Future<Output = ()> + Send,
{
    const ROUNDS: usize = 11;
    let time = Duration::from_millis(250);
    // One round to warm caches and pools is not counted.
    rate(tasks, time, limit.1.clone()).await;
    rate(tasks, time, ours.1.clone()).await;
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let a = rate(tasks, time, limit.1.clone()).await;
        let b = rate(tasks, time, ours.1.clone()).await;
        rounds.push((b / a, a, b));
    }
    // The median round: a disturbance from outside spoils its own round only.
    rounds.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (ratio, a, b) = rounds[ROUNDS / 2];
    println!(
        "{what:<44} {tasks:>3} tasks | {:<28} {a:>9.0}/s | {:<28} {b:>9.0}/s | ratio {:.2}",
        limit.0, ours.0, ratio
    );
}
