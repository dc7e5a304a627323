//! A disk of a few megabytes, which gets full for real.
//!
//! It is a `tmpfs` in a mount namespace of its own: a *holder*, a shell that reads from a pipe whose other end
//! only the test process has, makes the namespace and mounts it, and the server is started inside. Nobody else
//! sees the mount, and it goes with the last process inside: with holder and server, however they end. So there
//! is nothing that a test that failed could leave behind.
//!
//! Root needs no more than that. Others get a user namespace besides, if the kernel lets them; in it they are root,
//! which Postgres refuses, so that it has a second one within, where they are themselves again.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Mounts it, says so, and holds it until its input ends.
const HOLDER: &str = r#"mount -t tmpfs -o "$2" tmpfs "$1" && echo mounted && exec cat >/dev/null"#;

/// A small disk that is mounted where only what is started [inside](Disk::inside) sees it.
#[derive(Debug)]
pub struct Disk {
    at: PathBuf,
    holder: Child,
    /// Whom programs run as, where that is not who the tests run as.
    owner: Option<(u32, u32)>,
}

/// Why there is no small disk on this machine.
#[derive(Debug)]
pub struct NoDisk(String);

impl fmt::Display for NoDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = "mounting needs root, or a kernel that gives others a user and a mount namespace";
        write!(f, "no small disk can be mounted here ({}): {hint}", self.0.trim())
    }
}

impl Disk {
    /// Mounts a disk of so many bytes at a directory. `owner` is whom it belongs to, and whom programs run as, where
    /// the tests run as root.
    pub(super) fn mount(at: &Path, bytes: u64, owner: Option<(u32, u32)>) -> Result<Self, NoDisk> {
        let mut options = format!("size={bytes},mode=700");
        if let Some((user, group)) = owner {
            options.push_str(&format!(",uid={user},gid={group}"));
        }
        let mut command = Command::new("unshare");
        if owner.is_none() {
            command.args(["--user", "--map-root-user"]);
        }
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", HOLDER, "holder"])
            .arg(at)
            .arg(options);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = command.spawn().map_err(|error| NoDisk(format!("unshare: {error}")))?;
        let mut said = String::new();
        let heard = BufReader::new(holder.stdout.take().expect("it is piped")).read_line(&mut said);
        if heard.is_ok() && said.trim() == "mounted" {
            return Ok(Self { at: at.to_owned(), holder, owner });
        }
        let mut why = String::new();
        let _ = holder.stderr.take().expect("it is piped").read_to_string(&mut why);
        let _ = holder.wait();
        Err(NoDisk(why))
    }

    /// Takes all the room there is; what others give back meanwhile, too, when it is called again.
    pub fn fill(&self) {
        let full = self.sh(r#"cat /dev/zero >>"$1/filler""#);
        assert!(full.contains("No space left on device"), "the disk is full now: {full}");
    }

    /// Gives the room back.
    pub fn free(&self) {
        let failed = self.sh(r#"rm "$1/filler""#);
        assert!(failed.is_empty(), "{failed}");
    }

    /// A program that sees the disk, run by its owner.
    pub(super) fn inside(&self, program: &Path) -> Command {
        let mut command = self.enter();
        match self.owner {
            Some((user, group)) => {
                command.args(["--setuid", &user.to_string(), "--setgid", &group.to_string(), "--"]);
            }
            None => {
                let me = std::fs::metadata("/proc/self").expect("/proc can be read: the tests need Linux");
                command.args(["--", "unshare", "--user"]);
                command.arg(format!("--map-user={}", me.uid())).arg(format!("--map-group={}", me.gid()));
                command.arg("--");
            }
        }
        command.arg(program);
        command
    }

    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--mount"]);
        if self.owner.is_none() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command
    }

    /// What a script complains about.
    fn sh(&self, script: &str) -> String {
        let output = self.enter().args(["--", "sh", "-c", script, "sh"]).arg(&self.at).output();
        String::from_utf8_lossy(&output.expect("nsenter comes with unshare").stderr).into_owned()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}
