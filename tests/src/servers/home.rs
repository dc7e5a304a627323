//! A server's directory, and the watcher that cleans up after a test process that did not.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// Reads process ids, one per line, an empty line for none; when the pipe closes, kills the last one and
/// removes the directory. Children of a killed Postgres take a moment to notice and may still create files,
/// so removal is tried again.
const WATCHER: &str = r#"
pid=
while read -r line; do pid=$line; done
[ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf -- "$1" 2>/dev/null && exit 0
    sleep 0.2
done
exit 1
"#;

#[derive(Debug)]
pub(super) struct Home {
    dir: PathBuf,
    watcher: Child,
    pipe: Option<ChildStdin>,
}

impl Home {
    pub(super) fn new(server: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix(&format!("saga-tests-{server}-"))
            .tempdir()
            .expect("the temporary directory is writable (TMPDIR names it)")
            .keep();
        let mut watcher = Command::new("sh")
            .args(["-c", WATCHER, "watcher"])
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("`sh` can be started");
        let pipe = watcher.stdin.take();
        Self { dir, watcher, pipe }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    /// The log, opened for appending: a restarted server continues it.
    pub(super) fn open_log(&self) -> File {
        File::options().create(true).append(true).open(self.log()).expect("the server's log can be opened")
    }

    /// The last lines of the log, for the message of a failure.
    pub(super) fn log_tail(&self) -> String {
        let log = std::fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    /// Makes the watcher kill this process, and no other, should the test process die.
    pub(super) fn watch(&mut self, pid: Option<u32>) {
        let line = pid.map_or_else(|| "\n".to_owned(), |pid| format!("{pid}\n"));
        let pipe = self.pipe.as_mut().expect("the pipe is open until the home is dropped");
        pipe.write_all(line.as_bytes()).expect("the watcher reads until its pipe closes");
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.pipe = None;
        let _ = self.watcher.wait();
    }
}
