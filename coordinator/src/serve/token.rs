//! Bearer tokens: who may look, who may steer.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// May look, but sees no payloads.
    Viewer,
    /// May also see payloads, and ask sagas to do things.
    Operator,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Caller {
    /// The token's name, where tokens have names.
    pub(crate) name: Option<String>,
    /// What they may do.
    pub(crate) role: Role,
}

/// Every token, as digests: what is not kept cannot be logged.
pub(crate) struct Tokens {
    known: Vec<(Caller, [u8; 32])>,
}

/// The shortest token. 20 characters of a random hex string are 80 bits.
const SHORTEST: usize = 20;

/// Why tokens cannot be used. It never holds a token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadTokens(String);

impl Tokens {
    /// No tokens: everyone who can connect is an operator.
    pub(crate) fn none() -> Self {
        Self { known: Vec::new() }
    }

    /// One operator's token, without a name.
    pub(crate) fn one(token: &str) -> Result<Self, BadTokens> {
        let caller = Caller { name: None, role: Role::Operator };
        Ok(Self { known: vec![(caller, strong(token.trim(), "SAGA_TOKEN")?)] })
    }

    /// Named tokens from a file.
    pub(crate) fn read(file: &Path) -> Result<Self, BadTokens> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| BadTokens(format!("{} cannot be read: {error}", file.display())))?;
        Self::parse(&text).map_err(|bad| BadTokens(format!("{}: {}", file.display(), bad.0)))
    }

    fn parse(text: &str) -> Result<Self, BadTokens> {
        let mut known = Vec::new();
        let mut names = HashSet::new();
        for (number, line) in text.lines().enumerate() {
            let number = number + 1;
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                continue;
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, role, token] = words[..] else {
                return Err(BadTokens(format!("line {number} is not `NAME ROLE TOKEN`")));
            };
            let role = match role {
                "viewer" => Role::Viewer,
                "operator" => Role::Operator,
                _ => return Err(BadTokens(format!("line {number}: roles are viewer and operator"))),
            };
            if !names.insert(name) {
                return Err(BadTokens(format!("line {number}: {name} has a token already")));
            }
            let digest = strong(token, &format!("line {number}: the token of {name}"))?;
            known.push((Caller { name: Some(name.into()), role }, digest));
        }
        if known.is_empty() {
            return Err(BadTokens("it holds no token".into()));
        }
        Ok(Self { known })
    }

    /// Whether there are none, so that nobody needs one.
    pub(crate) fn are_none(&self) -> bool {
        self.known.is_empty()
    }

    /// Whose token this is. What is compared are digests, and always all of them, so that the time it takes
    /// tells nothing about a token.
    pub(crate) fn caller(&self, token: &str) -> Option<&Caller> {
        let given = digest(token);
        let mut found = None;
        for (caller, known) in &self.known {
            let differs = known.iter().zip(&given).fold(0, |bits, (a, b)| bits | (a ^ b));
            if std::hint::black_box(differs) == 0 {
                found = Some(caller);
            }
        }
        found
    }
}

fn strong(token: &str, whose: &str) -> Result<[u8; 32], BadTokens> {
    if token.len() < SHORTEST {
        let advice = "make one with: openssl rand -hex 32";
        return Err(BadTokens(format!("{whose} is shorter than {SHORTEST} characters; {advice}")));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(BadTokens(format!("{whose} has characters that no header can carry")));
    }
    Ok(digest(token))
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.known.iter().map(|(caller, _)| caller)).finish()
    }
}

impl fmt::Display for BadTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: &str = "0123456789abcdef0123456789abcdef";
    const EVE: &str = "fedcba9876543210fedcba9876543210";

    #[test]
    fn a_token_names_its_caller() {
        let tokens = Tokens::parse(&format!("# people\nann operator {ANN}\n\n  eve viewer {EVE}\n")).unwrap();
        let caller = tokens.caller(ANN).unwrap();
        assert_eq!((caller.name.as_deref(), caller.role), (Some("ann"), Role::Operator));
        assert_eq!(tokens.caller(EVE).unwrap().role, Role::Viewer);
        for wrong in ["", "0123", &ANN[1..], &format!("{ANN}0"), &ANN.to_uppercase()] {
            assert_eq!(tokens.caller(wrong), None, "{wrong}");
        }
        assert_eq!(Tokens::one(ANN).unwrap().caller(ANN).unwrap().name, None);
    }

    #[test]
    fn what_cannot_be_used_is_told_without_the_token() {
        for (text, told) in [
            ("ann operator short", "line 1: the token of ann is shorter than 20 characters"),
            (&*format!("ann king {ANN}"), "line 1: roles are viewer and operator"),
            (&*format!("ann {ANN}"), "line 1 is not `NAME ROLE TOKEN`"),
            (&*format!("a viewer {ANN}\na viewer {EVE}"), "line 2: a has a token already"),
            ("# nothing\n", "it holds no token"),
            ("ann operator schlüsselschlüsselschlüssel", "characters that no header can carry"),
        ] {
            let bad = Tokens::parse(text).unwrap_err().to_string();
            assert!(bad.contains(told), "{bad}");
            assert!(!bad.contains(ANN), "{bad}");
        }
        assert!(Tokens::one("short").is_err());
    }

    #[test]
    fn debug_shows_no_token() {
        let tokens = Tokens::parse(&format!("ann operator {ANN}")).unwrap();
        let shown = format!("{tokens:?}");
        assert!(shown.contains("ann") && !shown.contains(&ANN[..8]), "{shown}");
        let digest = format!("{:?}", digest(ANN));
        assert!(!shown.contains(&digest[1..9]), "{shown}");
    }
}
