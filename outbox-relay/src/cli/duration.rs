//! Durations as people write them: `500ms`, `10s`, `2m`, `7d`.

use serde::{Deserialize as _, Deserializer, Serializer};
use std::time::Duration;

pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(input)?;
    parse(&text).ok_or_else(|| {
        serde::de::Error::custom(format!(
            "{text:?} is no duration, such as \"500ms\", \"10s\", \"2m\", \"1h\" or \"7d\""
        ))
    })
}

pub(super) fn serialize<S: Serializer>(duration: &Duration, output: S) -> Result<S::Ok, S::Error> {
    let millis = duration.as_millis();
    output.serialize_str(&if millis.is_multiple_of(1_000) {
        format!("{}s", millis / 1_000)
    } else {
        format!("{millis}ms")
    })
}

fn parse(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let millis = match text[digits..].trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write_and_nothing_that_could_mean_two_things() {
        for (text, millis) in
            [("500ms", 500), ("10s", 10_000), ("2 m", 120_000), ("1h", 3_600_000), ("7d", 604_800_000)]
        {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "10", "s", "-1s", "1.5s", "10 parsecs", "99999999999999999999s"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
