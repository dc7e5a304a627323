//! What an examination found, and what to do about it.

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Fine,
    /// The relay works, but something will trouble it.
    Warning,
    /// The relay cannot work.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    pub found: String,
    /// What to do about it; empty if nothing.
    pub advice: String,
}

impl Finding {
    /// As it should be.
    pub fn fine(found: impl Into<String>) -> Self {
        Self { severity: Severity::Fine, found: found.into(), advice: String::new() }
    }

    /// Something that will trouble the relay.
    pub fn warning(found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, found: found.into(), advice: advice.into() }
    }

    /// Something that keeps the relay from working.
    pub fn problem(found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { severity: Severity::Problem, found: found.into(), advice: advice.into() }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mark = match self.severity {
            Severity::Fine => "ok      ",
            Severity::Warning => "warning ",
            Severity::Problem => "PROBLEM ",
        };
        write!(f, "{mark}{}", self.found)?;
        if !self.advice.is_empty() {
            write!(f, "\n        → {}", self.advice)?;
        }
        Ok(())
    }
}
