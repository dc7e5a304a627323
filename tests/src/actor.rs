//! A part of a test that runs in a process of its own, so that it can be killed and frozen for real.
//!
//! The test program starts itself a second time with the name of one test, which finds its
//! [`role`] in the environment and plays it:
//!
//! ```
//! use tests::actor::{self, Actor};
//!
//! # #[allow(unused)]
//! async fn a_relay_is_killed() {
//!     if let Some(database) = actor::role("relay") {
//!         return relay(&database).await; // until it is killed
//!     }
//!     let mut relay = Actor::start("relay", "the database's URL");
//!     relay.kill();
//! }
//! # #[allow(unused)]
//! # async fn relay(_: &str) {}
//! ```

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use crate::servers::process::{freeze_tree, kill_tree, thaw_tree};

const ROLE: &str = "TEST_ROLE";
const SCRIPT: &str = "TEST_ROLE_SCRIPT";

/// What this process was told to play this role with; none in the test program itself.
pub fn role(name: &str) -> Option<String> {
    (std::env::var(ROLE).ok()? == name).then(|| std::env::var(SCRIPT).expect("an actor has a script"))
}

/// A second process. It ends when this is dropped, or with the test program.
#[derive(Debug)]
pub struct Actor {
    process: Child,
}

impl Actor {
    /// Starts the running test a second time, in this role. The script is handed to [`role`].
    pub fn start(role: &str, script: impl AsRef<str>) -> Self {
        // The harness runs each test in a thread that has its name.
        let thread = std::thread::current();
        let test =
            thread.name().filter(|name| name.contains("::")).expect("started from the thread of a test");
        // `cat` ends with this process's end of the pipe, however this process ends, and takes the actor along.
        let process = Command::new("sh")
            .args(["-c", r#""$@" & actor=$!; cat >/dev/null; kill -KILL $actor"#, "actor"])
            .arg(std::env::current_exe().expect("this program has a path"))
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(SCRIPT, script.as_ref())
            .stdout(Stdio::null())
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("this program can be started again");
        Self { process }
    }

    /// SIGKILL.
    pub fn kill(self) {
        drop(self);
    }

    /// SIGKILL, for one that is borrowed. What is done to it afterwards has no effect.
    pub fn end(&self) {
        kill_tree(self.process.id());
    }

    /// Stops it, as a process that hangs.
    pub fn freeze(&self) {
        freeze_tree(self.process.id());
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        thaw_tree(self.process.id());
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        kill_tree(self.process.id());
        let _ = self.process.wait();
    }
}
