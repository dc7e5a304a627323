//! Lengths of time as people say them.

use std::time::Duration;

use saga_core::journal::Timestamp;

/// How long ago: `42 s`, `3 min`, `2 h 5 min`, `4 d`.
pub(crate) fn since(then: Timestamp, now: Timestamp) -> String {
    length((now - then).to_std().unwrap_or_default())
}

/// A length of time, as exactly as its size deserves.
pub(crate) fn length(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => match seconds % 3600 / 60 {
            0 => format!("{} h", seconds / 3600),
            minutes => format!("{} h {minutes} min", seconds / 3600),
        },
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_said_as_people_say_them() {
        for (seconds, said) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3599, "59 min"),
            (3600, "1 h"),
            (7500, "2 h 5 min"),
            (90_000, "1 d"),
        ] {
            assert_eq!(length(Duration::from_secs(seconds)), said);
        }
    }
}
