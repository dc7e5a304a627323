//! What a command fails with: one line that says whose fault it is and what to do, and an exit code.

use std::fmt;

use saga_core::{admin, client, store};

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// It worked.
    Yes = 0,
    /// It worked, and the answer is no.
    No = 1,
    /// The command line is wrong.
    Usage = 2,
    /// There is no such thing.
    Missing = 3,
    /// The store cannot be reached or used.
    Store = 4,
    /// No answer came in time.
    Unanswered = 5,
}

/// The exit codes, as `--help` explains them.
pub(crate) const EXIT_CODES: &str = "Exit codes:
  0  it worked
  1  it worked, and the answer is no: a request was refused or too late, a saga that was waited for was
     compensated, a check found something wrong
  2  the command line is wrong
  3  there is no such saga, definition or group
  4  the store cannot be reached or used
  5  no answer came in time; what was asked stays asked";

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) exit: Exit,
    message: String,
}

impl Fault {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// The wrong thing was typed.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// The line that is printed.
    pub(crate) fn told(&self, json: bool) -> String {
        if json {
            serde_json::json!({ "error": self.message, "exit": self.exit as u8 }).to_string()
        } else {
            format!("saga: {}", self.message)
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<store::Error> for Fault {
    fn from(error: store::Error) -> Self {
        let advice = match &error {
            store::Error::Unavailable(_) | store::Error::Unknown(_) => {
                "; is the database up, and is --store right? The same command may be repeated"
            }
            _ => "",
        };
        Self::new(Exit::Store, format!("{error}{advice}"))
    }
}

impl From<admin::Error> for Fault {
    fn from(error: admin::Error) -> Self {
        let exit = match &error {
            admin::Error::Store(store) => return store.clone().into(),
            admin::Error::NoSuchRun(_) | admin::Error::NoSuchSaga { .. } => {
                return Self::new(Exit::Missing, format!("{error}; `saga list` shows what there is"));
            }
            admin::Error::NoSuchGroup(_) | admin::Error::NoManifest { .. } => Exit::Missing,
            admin::Error::BadWords { .. } => Exit::Usage,
            _ => Exit::Store,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<client::Error> for Fault {
    fn from(error: client::Error) -> Self {
        let exit = match error {
            client::Error::Store(store) => return store.into(),
            client::Error::Mismatch { .. } => Exit::No,
            client::Error::BadId(_)
            | client::Error::BadKey(_)
            | client::Error::BadAttribute(_)
            | client::Error::NeedsKey { .. }
            | client::Error::TooLarge { .. }
            | client::Error::Payload { .. } => Exit::Usage,
            client::Error::NotRegistered { .. } | client::Error::NoSuchSaga(_) => Exit::Missing,
            _ => Exit::Store,
        };
        Self::new(exit, error.to_string())
    }
}
