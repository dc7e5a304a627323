//! The idempotency key: the name a caller gives to one intended effect.
//!
//! The header is read as the IETF draft says, as a structured-field string (RFC 8941): `"abc"`. Stripe's
//! clients and many others send the bare token `abc`; [`Syntax::Lenient`] takes both, and both mean the
//! same key.

use std::fmt;

/// The longest key that is accepted, in bytes after unquoting.
pub const KEY_BYTES_MAX: usize = 255;

/// The name of one intended effect, chosen by the caller.
///
/// A key is a bearer secret: whoever knows it can fetch the answer stored under it. It is therefore not
/// printed by `Debug`, not logged, and not stored; stores see only a keyed digest, the
/// [`KeyId`](crate::KeyId).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(Box<str>);

impl Key {
    /// Takes a key as it is: 1 to 255 printable ASCII characters.
    pub fn new(text: impl Into<String>) -> Result<Self, KeyError> {
        let text = text.into();
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if text.len() > KEY_BYTES_MAX {
            return Err(KeyError::TooLong { bytes: text.len() });
        }
        if !text.bytes().all(|b| (0x20..=0x7e).contains(&b)) {
            return Err(KeyError::Character);
        }
        Ok(Self(text.into_boxed_str()))
    }

    /// Reads the value of an `Idempotency-Key` header.
    pub fn from_header(value: &[u8], syntax: Syntax) -> Result<Self, KeyError> {
        // Refused before anything is done with it: a quoted key has at most two bytes per character.
        if value.len() > 4 * KEY_BYTES_MAX {
            return Err(KeyError::TooLong { bytes: value.len() });
        }
        let value = trim_spaces(value);
        match value.first() {
            None => Err(KeyError::Empty),
            Some(b'"') => quoted(value).and_then(Self::new),
            Some(_) if syntax == Syntax::Strict => Err(KeyError::NotQuoted),
            Some(_) => bare(value).and_then(Self::new),
        }
    }

    /// A fresh random key (a version 7 UUID). Keep it across the retries of one intent.
    pub fn random() -> Self {
        Self(uuid::Uuid::now_v7().to_string().into_boxed_str())
    }

    /// The key as text. Treat it as a secret.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The key as an `Idempotency-Key` header's value: a quoted structured-field string.
    pub fn to_header(&self) -> String {
        let mut text = String::with_capacity(self.0.len() + 2);
        text.push('"');
        for c in self.0.chars() {
            if c == '"' || c == '\\' {
                text.push('\\');
            }
            text.push(c);
        }
        text.push('"');
        text
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key(<{} bytes>)", self.0.len())
    }
}

/// How the header may be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Syntax {
    /// Only as a structured-field string, `"abc"`, as the IETF draft requires.
    #[default]
    Strict,
    /// Also as a bare token, `abc`, as Stripe's clients send it.
    Lenient,
}

/// Why a key was refused. The caller's fault, always: answer 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is nothing in it.
    #[error("the key is empty: send 1 to {KEY_BYTES_MAX} characters")]
    Empty,
    /// Longer than [`KEY_BYTES_MAX`].
    #[error("the key has {bytes} bytes: at most {KEY_BYTES_MAX} are accepted")]
    TooLong {
        /// How many bytes were sent.
        bytes: usize,
    },
    /// A control character or one outside ASCII.
    #[error("the key contains a character that is not printable ASCII")]
    Character,
    /// A bare token where a quoted string is required.
    #[error("the key is not quoted: send it as a structured-field string, with double quotes around it")]
    NotQuoted,
    /// The quotes or escapes are wrong, or something unreadable follows them.
    #[error("the key is not a well-formed structured-field string (RFC 8941)")]
    Malformed,
}

fn trim_spaces(mut value: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' '] = value {
        value = rest;
    }
    value
}

fn bare(value: &[u8]) -> Result<String, KeyError> {
    // A comma would be two list members, a quote half a string, a space two words: none is a token.
    if value.iter().any(|b| matches!(b, b'"' | b',' | b';' | b' ' | b'\\')) {
        return Err(KeyError::Malformed);
    }
    ascii(value)
}

fn quoted(value: &[u8]) -> Result<String, KeyError> {
    let mut text = Vec::with_capacity(value.len());
    let mut rest = &value[1..];
    loop {
        match rest {
            [b'\\', c @ (b'"' | b'\\'), tail @ ..] => {
                text.push(*c);
                rest = tail;
            }
            [b'\\', ..] | [] => return Err(KeyError::Malformed),
            [b'"', tail @ ..] => {
                skip_parameters(tail)?;
                return ascii(&text);
            }
            [c, tail @ ..] => {
                text.push(*c);
                rest = tail;
            }
        }
    }
}

fn ascii(value: &[u8]) -> Result<String, KeyError> {
    String::from_utf8(value.to_vec()).map_err(|_| KeyError::Character)
}

/// A structured-field item may carry parameters. The draft defines none, and unknown ones are to be
/// ignored; what is no parameter at all is refused.
fn skip_parameters(mut rest: &[u8]) -> Result<(), KeyError> {
    while !rest.is_empty() {
        let [b';', tail @ ..] = rest else { return Err(KeyError::Malformed) };
        rest = trim_spaces(tail);
        let name = rest.iter().take_while(|b| is_parameter_name(**b)).count();
        if name == 0 || !matches!(rest[0], b'a'..=b'z' | b'*') {
            return Err(KeyError::Malformed);
        }
        rest = &rest[name..];
        if let [b'=', tail @ ..] = rest {
            rest = skip_bare_item(tail)?;
        }
    }
    Ok(())
}

fn is_parameter_name(b: u8) -> bool {
    matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'*')
}

fn skip_bare_item(value: &[u8]) -> Result<&[u8], KeyError> {
    if let [b'"', tail @ ..] = value {
        let mut escaped = false;
        for (i, b) in tail.iter().enumerate() {
            match b {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => return Ok(&tail[i + 1..]),
                _ => {}
            }
        }
        return Err(KeyError::Malformed);
    }
    let end = value.iter().position(|b| *b == b';').unwrap_or(value.len());
    let item = &value[..end];
    if item.is_empty() || !item.iter().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b',')) {
        return Err(KeyError::Malformed);
    }
    Ok(&value[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strict(value: &str) -> Result<String, KeyError> {
        Key::from_header(value.as_bytes(), Syntax::Strict).map(|k| k.expose().to_owned())
    }

    fn lenient(value: &str) -> Result<String, KeyError> {
        Key::from_header(value.as_bytes(), Syntax::Lenient).map(|k| k.expose().to_owned())
    }

    #[test]
    fn a_quoted_and_a_bare_key_are_the_same_key() {
        assert_eq!(strict(r#""8e03978e-40d5""#).unwrap(), "8e03978e-40d5");
        assert_eq!(lenient("8e03978e-40d5").unwrap(), "8e03978e-40d5");
        assert_eq!(lenient(r#""8e03978e-40d5""#).unwrap(), "8e03978e-40d5");
    }

    #[test]
    fn a_legal_string_may_hold_commas_colons_escapes_and_spaces() {
        assert_eq!(strict(r#" "a,b:c/d e" "#).unwrap(), "a,b:c/d e");
        assert_eq!(strict(r#""a\"b\\c""#).unwrap(), r#"a"b\c"#);
    }

    #[test]
    fn parameters_are_ignored_and_rubbish_is_refused() {
        for good in [r#""k";a"#, r#""k";a=1;b="x;y""#, r#""k"; a=tok"#] {
            assert_eq!(strict(good).unwrap(), "k", "{good}");
        }
        for bad in
            [r#""k"x"#, r#""k", "l""#, r#""k";"#, r#""k";A"#, r#""k";a="x"#, r#""k\n""#, r#"""#, r#""k"#]
        {
            assert_eq!(strict(bad), Err(KeyError::Malformed), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_a_key_is_refused_with_its_reason() {
        assert_eq!(strict(""), Err(KeyError::Empty));
        assert_eq!(strict(r#""""#), Err(KeyError::Empty));
        assert_eq!(strict("bare"), Err(KeyError::NotQuoted));
        assert_eq!(lenient("two words"), Err(KeyError::Malformed));
        assert_eq!(lenient("a,b"), Err(KeyError::Malformed));
        assert_eq!(strict("\"k\u{e9}\""), Err(KeyError::Character));
        assert_eq!(strict("\"k\u{1}\""), Err(KeyError::Character));
        assert_eq!(strict(&format!("\"{}\"", "k".repeat(256))), Err(KeyError::TooLong { bytes: 256 }));
        assert!(strict(&format!("\"{}\"", "k".repeat(255))).is_ok());
    }

    /// Whoever sends a key of a megabyte must not be paid in digests.
    #[test]
    fn a_huge_key_is_refused_by_its_length_alone() {
        for huge in ["x".repeat(1 << 20), format!("\"{}", "\\\"".repeat(1 << 20))] {
            let refused = Key::from_header(huge.as_bytes(), Syntax::Lenient);
            assert_eq!(refused, Err(KeyError::TooLong { bytes: huge.len() }));
        }
    }

    #[test]
    fn a_key_survives_its_own_header_and_hides_from_debug() {
        let key = Key::new(r#"0192f/charge#2/"action"\"#).unwrap();
        assert_eq!(Key::from_header(key.to_header().as_bytes(), Syntax::Strict).unwrap(), key);
        assert!(!format!("{key:?}").contains("charge"));
    }
}
