//! What a terminal shows: tables, trees, times.

mod saga;
mod table;
mod time;

use std::io::IsTerminal;
use std::sync::OnceLock;

use saga_core::admin::Look;
use saga_core::journal::EndKind;
use saga_core::store::State;

pub(crate) use saga::saga;
pub(crate) use table::Table;
pub(crate) use time::{length, since};

/// Whether a stream is shown to a person who wants colour (<https://no-color.org>).
pub(crate) fn in_colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

/// Text from elsewhere, made harmless for a terminal: control characters, which could move the cursor or
/// change what was printed before, are shown as `\u{…}`.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { c.escape_unicode().to_string() } else { c.to_string() })
        .collect()
}

/// `partially_compensated` → `partially compensated`.
pub(crate) fn words(name: &str) -> String {
    name.replace('_', " ")
}

/// A state in its colour.
pub(crate) fn state(state: State) -> String {
    let colour = match state {
        State::Running => Colour::Blue,
        State::Queued | State::Waiting => Colour::Grey,
        State::Blocked => Colour::Red,
        State::Ended(EndKind::Completed) => Colour::Green,
        State::Ended(EndKind::Compensated) => Colour::Yellow,
        State::Ended(EndKind::PartiallyCompensated) => Colour::Magenta,
    };
    colour.paint(&words(state.as_str()))
}

#[derive(Clone, Copy, Debug)]
enum Colour {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Blue = 34,
    Magenta = 35,
    Grey = 90,
}

impl Colour {
    fn of(look: Look) -> Self {
        match look {
            Look::Idle => Self::Grey,
            Look::Done => Self::Green,
            Look::Undone | Look::Refused | Look::Undoing => Self::Yellow,
            Look::Left => Self::Magenta,
            Look::Resting | Look::UnderWay => Self::Blue,
            Look::Stuck => Self::Red,
        }
    }

    fn paint(self, text: &str) -> String {
        static COLOUR: OnceLock<bool> = OnceLock::new();
        if *COLOUR.get_or_init(|| in_colour(&std::io::stdout())) {
            format!("\u{1b}[{}m{text}\u{1b}[0m", self as u8)
        } else {
            text.to_owned()
        }
    }
}

/// How many columns a text takes, colours not counted.
fn width(text: &str) -> usize {
    let mut width = 0;
    let mut in_escape = false;
    for c in text.chars() {
        match (in_escape, c) {
            (false, '\u{1b}') => in_escape = true,
            (false, _) => width += 1,
            (true, 'm') => in_escape = false,
            (true, _) => {}
        }
    }
    width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_cannot_steer_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\u{a}c");
        assert_eq!(clean("größe ✓"), "größe ✓");
    }

    #[test]
    fn colours_take_no_room() {
        assert_eq!(width("\u{1b}[31mblocked\u{1b}[0m"), 7);
    }
}
