//! Money: whole cents, read exactly from decimal text.
//!
//! # What is read as what
//!
//! An amount is digits, at most one point, digits: `12`, `12.5`, `139.12`. No sign, no exponent, no thousands
//! separator. The text is read as the decimal number that it is; no binary floating point takes part.
//!
//! | distance to the nearest whole cent | read as | why |
//! |---|---|---|
//! | at most 10⁻⁶ cent | that cent | exports sum binary numbers: `22.200000000000003` is 22.20 |
//! | at most a tenth of a cent (and 10⁻⁶) | that cent, and [`Read::rounded`] says so | bulk prices below a cent: the report names the orders |
//! | more | refused | no noise explains it: it is another unit, or a mistake |

use std::fmt;
use std::iter::Sum;

use serde::{Deserialize, Serialize};

/// An amount of money in whole cents, never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Amount(u64);

/// An amount as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// The whole cents.
    pub amount: Amount,
    /// Whether the text held a fraction of a cent that is more than noise.
    pub rounded: bool,
}

/// Why a text is no amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAmount {
    /// There is no text.
    #[error("is empty; write it as 12.34")]
    Empty,
    /// It begins with a minus.
    #[error("is negative; an order costs nothing or more")]
    Negative,
    /// It is something else.
    #[error("is not an amount; write it as 12.34, without signs, separators or exponents")]
    Malformed,
    /// It is too far from a whole cent.
    #[error("is not a whole number of cents")]
    FractionOfACent,
    /// It is above [`Amount::MOST`].
    #[error("is too large; the most is {}", Amount::MOST)]
    TooLarge,
}

/// A tail (what follows the second decimal) is measured in these parts of a cent.
const PARTS: u64 = 10_000_000;
/// 10⁻⁶ cent: what summing up binary numbers leaves behind.
const NOISE: u64 = 10;
/// A tenth of a cent, with its noise.
const TENTH: u64 = PARTS / 10 + NOISE;

impl Amount {
    /// The largest amount of one order: a trillion. A million such orders still add up without overflow.
    pub const MOST: Self = Self(100_000_000_000_000);

    /// An amount of so many cents.
    pub fn from_cents(cents: u64) -> Self {
        Self(cents)
    }

    /// How many cents it is.
    pub fn cents(self) -> u64 {
        self.0
    }

    /// The difference, if `other` is not larger.
    pub fn minus(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// Reads an amount by the rules of this module.
    pub fn read(text: &str) -> Result<Read, BadAmount> {
        if text.is_empty() {
            return Err(BadAmount::Empty);
        }
        let (whole, fraction) = match text.split_once('.') {
            Some((_, "")) => return Err(BadAmount::Malformed),
            Some(parts) => parts,
            None => (text, ""),
        };
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.strip_prefix('-').is_some_and(|rest| !rest.is_empty() && digits(rest) && digits(fraction)) {
            return Err(BadAmount::Negative);
        }
        if whole.is_empty() || !digits(whole) || !digits(fraction) {
            return Err(BadAmount::Malformed);
        }
        let whole: u64 = whole.parse().map_err(|_| BadAmount::TooLarge)?;
        let (cents, tail, rest) = fraction_parts(fraction);
        let (up, distance) = if tail >= PARTS / 2 {
            // What is cut off brings the amount nearer to the next cent.
            (1, PARTS - tail)
        } else {
            (0, tail + u64::from(rest))
        };
        if distance > TENTH {
            return Err(BadAmount::FractionOfACent);
        }
        let amount = whole.checked_mul(100).map(|whole| Self(whole + cents + up));
        let amount = amount.filter(|amount| *amount <= Self::MOST).ok_or(BadAmount::TooLarge)?;
        Ok(Read { amount, rounded: distance > NOISE })
    }
}

/// The first two decimals, the next seven, and whether anything but zeros follows.
fn fraction_parts(fraction: &str) -> (u64, u64, bool) {
    let digit = |place: usize| fraction.as_bytes().get(place).map_or(0, |byte| u64::from(byte - b'0'));
    let number = |places: std::ops::Range<usize>| places.fold(0, |number, place| number * 10 + digit(place));
    let rest = fraction.bytes().skip(9).any(|byte| byte != b'0');
    (number(0..2), number(2..9), rest)
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = (self.0 / 100).to_string();
        let mut grouped = String::new();
        for (index, digit) in whole.chars().enumerate() {
            if index > 0 && (whole.len() - index).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        f.pad(&format!("{grouped}.{:02}", self.0 % 100))
    }
}

impl Sum for Amount {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        Self(amounts.map(|amount| amount.0).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cents(text: &str) -> Result<(u64, bool), BadAmount> {
        Amount::read(text).map(|read| (read.amount.cents(), read.rounded))
    }

    #[test]
    fn decimal_text_is_read_as_the_number_that_it_is() {
        for (text, expected) in [
            ("0", 0),
            ("0.38", 38),
            ("12", 1200),
            ("12.5", 1250),
            ("139.12", 13912),
            ("007.10", 710),
            ("1000000000000", Amount::MOST.cents()),
        ] {
            assert_eq!(cents(text), Ok((expected, false)), "{text}");
        }
    }

    #[test]
    fn the_noise_of_binary_sums_is_no_fraction_of_a_cent() {
        for (text, expected) in [
            ("22.200000000000003", 2220),
            ("70.05000000000001", 7005),
            ("168469.59999999998", 16_846_960),
            ("0.99999999", 100),
            ("1.000000000000000000000000000001", 100),
            ("1.00000001", 100),
        ] {
            assert_eq!(cents(text), Ok((expected, false)), "{text}");
        }
    }

    #[test]
    fn a_tenth_of_a_cent_is_rounded_and_said() {
        for (text, expected) in
            [("15.001", 1500), ("400.68100000000004", 40068), ("2.999", 300), ("1.00000002", 100)]
        {
            assert_eq!(cents(text), Ok((expected, true)), "{text}");
        }
        assert_eq!(cents("1.000000010000000001"), Ok((100, true)), "just above the noise");
    }

    #[test]
    fn everything_else_is_refused() {
        for (text, why) in [
            ("", BadAmount::Empty),
            ("-1", BadAmount::Negative),
            ("-0.01", BadAmount::Negative),
            ("-", BadAmount::Malformed),
            ("--1", BadAmount::Malformed),
            ("+1", BadAmount::Malformed),
            (".5", BadAmount::Malformed),
            ("5.", BadAmount::Malformed),
            ("1,50", BadAmount::Malformed),
            ("1.2.3", BadAmount::Malformed),
            ("1e3", BadAmount::Malformed),
            ("NaN", BadAmount::Malformed),
            (" 1", BadAmount::Malformed),
            ("£1", BadAmount::Malformed),
            ("1.005", BadAmount::FractionOfACent),
            ("1.0011", BadAmount::FractionOfACent),
            ("1.0010000200", BadAmount::FractionOfACent),
            ("1000000000000.01", BadAmount::TooLarge),
            ("99999999999999999999999", BadAmount::TooLarge),
        ] {
            assert_eq!(cents(text), Err(why), "{text:?}");
        }
    }

    #[test]
    fn amounts_are_shown_with_thousands() {
        for (cents, shown) in [(0, "0.00"), (7, "0.07"), (99_999, "999.99"), (891_140_790, "8,911,407.90")] {
            assert_eq!(Amount::from_cents(cents).to_string(), shown);
        }
    }
}
