//! The directory of one run: every database and log of it.

use std::io;
use std::path::{Path, PathBuf};

use saga_core::RunId;

/// A run's directory.
#[derive(Clone, Debug)]
pub struct Home {
    path: PathBuf,
    /// Whether it goes when the run was fine.
    fleeting: bool,
}

impl Home {
    /// Chooses a directory: the given one, which must be empty or not exist yet, or a new one beside other
    /// temporary files. Makes nothing yet.
    ///
    /// A directory belongs to one run: what an earlier one left there, an embedded Kafka would not remember.
    pub fn choose(given: Option<&Path>, keep: bool, run: RunId) -> Result<Self, String> {
        let Some(path) = given else {
            let path = std::env::temp_dir().join(format!("order-shop-{run}"));
            return Ok(Self { path, fleeting: !keep });
        };
        let named = |problem: String| format!("--dir {}: {problem}", path.display());
        match std::fs::read_dir(path).map(|mut files| files.next().is_none()) {
            Ok(true) => {}
            Ok(false) => {
                return Err(named(
                    "holds files already; a directory belongs to one run, name another".into(),
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(named(error.to_string())),
        }
        let path = std::path::absolute(path).map_err(|error| named(error.to_string()))?;
        Ok(Self { path, fleeting: false })
    }

    /// Makes it.
    pub fn make(&self) -> Result<(), String> {
        std::fs::create_dir_all(&self.path).map_err(|error| format!("{}: {error}", self.path.display()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The URL of a SQLite file in it.
    pub fn sqlite(&self, name: &str) -> String {
        // In a URL these two have a meaning of their own.
        let path = self.file(name).to_string_lossy().replace('%', "%25").replace('?', "%3F");
        format!("sqlite:{path}")
    }

    /// Removes it, if it was made for this run only.
    pub fn forget(&self) {
        if self.fleeting
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            eprintln!("{} could not be removed: {error}", self.path.display());
        }
    }
}
