//! What the three servers have in common: one process in a home, which comes and goes.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::home::Home;
use super::process::{freeze_tree, kill_tree, signal, thaw_tree};

/// A server that has not answered after this long is broken. Generous: the machine may be busy compiling.
const READY_WITHIN: Duration = Duration::from_secs(120);
const ASK_AGAIN: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Supervised {
    name: &'static str,
    home: Home,
    process: Option<Child>,
}

/// The server ended before it answered.
#[derive(Debug)]
pub(super) struct Exited(ExitStatus);

impl Supervised {
    pub(super) fn new(name: &'static str, home: Home) -> Self {
        Self { name, home, process: None }
    }

    pub(super) fn home(&self) -> &Home {
        &self.home
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.as_ref().unwrap_or_else(|| panic!("{} is not running", self.name)).id()
    }

    /// Starts the process; it is not ready yet.
    pub(super) fn spawn(&mut self, command: &mut Command) {
        assert!(self.process.is_none(), "{} is running already", self.name);
        let log = self.home.open_log();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .current_dir(self.home.dir())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start ({command:?}): {error}", self.name));
        self.home.watch(Some(child.id()));
        self.process = Some(child);
    }

    /// Asks `probe` until it says that the server answers.
    pub(super) async fn answers(&mut self, mut probe: impl AsyncFnMut() -> bool) -> Result<(), Exited> {
        let deadline = Instant::now() + READY_WITHIN;
        while !probe().await {
            if let Some(status) = self.running().try_wait().expect("a child can be asked whether it ended") {
                self.forget();
                return Err(Exited(status));
            }
            assert!(
                Instant::now() < deadline,
                "{} does not answer. Its log:\n{}",
                self.name,
                self.home.log_tail()
            );
            tokio::time::sleep(ASK_AGAIN).await;
        }
        Ok(())
    }

    pub(super) fn fail(&self, exited: &Exited) -> ! {
        panic!("{} ended before it answered ({}). Its log:\n{}", self.name, exited.0, self.home.log_tail())
    }

    /// SIGKILL for the process and all its children, at one point in time.
    pub(super) fn kill(&mut self) {
        kill_tree(self.pid());
        let _ = self.running().wait();
        self.forget();
    }

    /// Asks the process to end and waits until it has.
    pub(super) async fn stop(&mut self, how: Signal) {
        signal(self.pid(), how);
        let deadline = Instant::now() + READY_WITHIN;
        while self.running().try_wait().expect("a child can be asked whether it ended").is_none() {
            assert!(Instant::now() < deadline, "{} does not end on {how:?}", self.name);
            tokio::time::sleep(ASK_AGAIN).await;
        }
        self.forget();
    }

    pub(super) fn freeze(&self) {
        freeze_tree(self.pid());
    }

    pub(super) fn thaw(&self) {
        thaw_tree(self.pid());
    }

    pub(super) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Whether the process has ended although nobody asked it to.
    pub(super) fn has_ended(&mut self) -> bool {
        let ended =
            |child: &mut Child| child.try_wait().expect("a child can be asked whether it ended").is_some();
        if self.process.as_mut().is_some_and(ended) {
            self.forget();
        }
        !self.is_running()
    }

    fn running(&mut self) -> &mut Child {
        self.process.as_mut().unwrap_or_else(|| panic!("{} is not running", self.name))
    }

    fn forget(&mut self) {
        self.process = None;
        self.home.watch(None);
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- {}'s log ends with:\n{}\n----", self.name, self.home.log_tail());
        }
        if self.is_running() {
            self.kill();
        }
    }
}
