//! A process with all its children: frozen, thawed and killed as one.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Stopping is asynchronous: the kernel is asked again until nothing of the tree runs.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often it is asked before what has stopped already is let go on for a moment.
const ASKED: u32 = 100;

/// Stops `root` and all its descendants. When this returns none of them runs, and so none can have started
/// another one.
///
/// A parent that has made a child by `vfork`, as `sh` does for every command, cannot stop before the child has become
/// another program, and the child cannot if it is stopped. So now and then all are let go on.
pub(crate) fn freeze_tree(root: u32) -> Vec<u32> {
    let deadline = Instant::now() + PATIENCE;
    for attempt in 1.. {
        let tree = tree(root);
        let running: Vec<u32> = tree.iter().copied().filter(|pid| runs(*pid)).collect();
        if running.is_empty() {
            return tree;
        }
        assert!(Instant::now() < deadline, "processes {running:?} do not stop although they were told to");
        if attempt % ASKED == 0 {
            thaw_tree(root);
            thread::sleep(Duration::from_millis(20));
        }
        running.iter().for_each(|pid| signal(*pid, Signal::STOP));
        thread::sleep(Duration::from_millis(1));
    }
    unreachable!("it is asked until the deadline")
}

/// Lets a frozen tree run again, children first, so that no parent misses one of them.
pub(crate) fn thaw_tree(root: u32) {
    tree(root).into_iter().rev().for_each(|pid| signal(pid, Signal::CONT));
}

/// Kills a tree at one point in time. The caller reaps `root`; the children are gone when this returns.
pub(crate) fn kill_tree(root: u32) {
    let tree = freeze_tree(root);
    tree.iter().for_each(|pid| signal(*pid, Signal::KILL));
    let deadline = Instant::now() + PATIENCE;
    for pid in tree.into_iter().filter(|pid| *pid != root) {
        while !gone(pid) {
            assert!(Instant::now() < deadline, "process {pid} outlives SIGKILL");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A signal to one process; one that has already ended is not an error.
pub(super) fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => panic!("cannot send {signal:?} to process {pid:?}: {error}"),
    }
}

/// Whether a process has ended (an unreaped one has).
pub(super) fn gone(pid: u32) -> bool {
    matches!(state(format!("/proc/{pid}/stat")), None | Some('Z' | 'X'))
}

/// `root` and its descendants, parents before children.
fn tree(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .expect("/proc can be read: the tests need Linux")
        .filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let parent = after_name(&stat)?.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut tree = vec![root];
    let mut next = 0;
    while next < tree.len() {
        let parent = tree[next];
        tree.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    tree
}

/// Whether any thread of a process can still run.
fn runs(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads
        .filter_map(Result::ok)
        .filter_map(|thread| state(thread.path().join("stat")))
        .any(|state| !matches!(state, 'T' | 't' | 'Z' | 'X'))
}

fn state(stat: impl AsRef<Path>) -> Option<char> {
    after_name(&std::fs::read_to_string(stat).ok()?)?.trim_start().chars().next()
}

/// What follows the process's name, which is in parentheses and may itself hold spaces and parentheses.
fn after_name(stat: &str) -> Option<&str> {
    stat.rsplit_once(')').map(|(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};

    /// Stopped at every moment of a shell's first milliseconds, so also while it waits for its child's `exec`.
    #[test]
    fn a_shell_that_has_just_begun_can_be_frozen() {
        for moment in 0..300 {
            let mut shell = Command::new("sh")
                .args(["-c", "cat & cat; true"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .process_group(0)
                .spawn()
                .expect("`sh` can be started");
            thread::sleep(Duration::from_micros(10 * moment));
            kill_tree(shell.id());
            shell.wait().expect("it was started here");
        }
    }
}
