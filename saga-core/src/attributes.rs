//! What users want to find sagas by, beside their ids: names with values, in a table of their own.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{BadName, Name};

/// A saga's attributes: `customer` is `17`, `channel` is `web`. They are kept as long as its start row, so also
/// when its journal was removed.
///
/// They are for finding, not for deciding: nothing in the engine reads them. What is secret does not belong
/// here, because lists show it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attributes(BTreeMap<Name, String>);

impl Attributes {
    /// How many attributes one saga has at most.
    pub const MOST: usize = 16;
    /// The longest value, in characters.
    pub const VALUE_CHARS_MAX: usize = 255;

    /// Adds an attribute; a name that is there already gets the new value.
    pub fn set(&mut self, name: &str, value: impl Into<String>) -> Result<(), BadAttribute> {
        let (name, value) = checked(name, value.into())?;
        if !self.0.contains_key(&name) && self.0.len() == Self::MOST {
            return Err(BadAttribute::TooMany { name });
        }
        self.0.insert(name, value);
        Ok(())
    }

    /// The value of one attribute.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| known.as_str() == name).map(|(_, value)| value)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every attribute, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &str)> {
        self.0.iter().map(|(name, value)| (name, value.as_str()))
    }

    /// Whether all of `wanted` are among them.
    pub fn have(&self, wanted: &Attributes) -> bool {
        wanted.0.iter().all(|(name, value)| self.0.get(name) == Some(value))
    }
}

impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.iter().enumerate() {
            write!(f, "{}{name}={value}", if index > 0 { " " } else { "" })?;
        }
        Ok(())
    }
}

/// An attribute that cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadAttribute {
    /// Its name.
    #[error("an attribute's name: {0}")]
    Name(#[from] BadName),
    /// Its value.
    #[error(
        "the value of attribute {name} has {chars} characters; it must have 1 to {} and no control characters",
        Attributes::VALUE_CHARS_MAX
    )]
    Value {
        /// The attribute.
        name: Name,
        /// How many characters its value has.
        chars: usize,
    },
    /// There are too many.
    #[error("attribute {name} is one too many: a saga has at most {}", Attributes::MOST)]
    TooMany {
        /// The first that does not fit.
        name: Name,
    },
}

fn checked(name: &str, value: String) -> Result<(Name, String), BadAttribute> {
    let name = Name::new(name)?;
    let chars = value.chars().count();
    let fine = (1..=Attributes::VALUE_CHARS_MAX).contains(&chars) && !value.chars().any(char::is_control);
    if fine { Ok((name, value)) } else { Err(BadAttribute::Value { name, chars }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_kept_and_named() {
        let mut attributes = Attributes::default();
        assert!(matches!(attributes.set("a b", "1"), Err(BadAttribute::Name(_))));
        for bad in ["", "a\nb", &"ä".repeat(256)] {
            let refused = attributes.set("customer", bad).unwrap_err().to_string();
            assert!(refused.contains("customer") && refused.contains("255"), "{refused}");
        }
        for n in 0..Attributes::MOST {
            attributes.set(&format!("a{n}"), "1").unwrap();
        }
        assert!(
            attributes.set("one-more", "1").unwrap_err().to_string().contains("one-more is one too many")
        );
        attributes.set("a3", "2").unwrap();
        assert_eq!(attributes.get("a3"), Some("2"));
    }

    #[test]
    fn all_that_is_wanted_has_to_be_there() {
        let of = |pairs: &[(&str, &str)]| {
            let mut attributes = Attributes::default();
            pairs.iter().for_each(|(name, value)| attributes.set(name, *value).unwrap());
            attributes
        };
        let all = of(&[("customer", "17"), ("channel", "web")]);
        for (wanted, have) in [
            (&[][..], true),
            (&[("customer", "17")], true),
            (&[("customer", "17"), ("channel", "web")], true),
            (&[("customer", "17"), ("channel", "shop")], false),
            (&[("region", "eu")], false),
        ] {
            assert_eq!(all.have(&of(wanted)), have, "{wanted:?}");
        }
        assert_eq!(all.to_string(), "channel=web customer=17");
    }
}
