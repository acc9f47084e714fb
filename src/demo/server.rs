//! A `postgres` process that does not outlive us, whatever becomes of us.
//!
//! Hazard: a test that is killed leaves a server behind, which keeps its port, its shared memory and its
//! data until someone wonders. A destructor does not run on SIGKILL, and the kernel's parent-death
//! signal belongs to a thread and is Linux's alone. So beside every server sits a [`Guard`]: a small
//! shell blocked on a pipe whose other end only we hold. The kernel closes our end however we end; the
//! guard wakes, stops the server and removes its directory.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::error::{Error, ErrorKind, Result};

const READY_TIMEOUT: Duration = Duration::from_secs(60);
const FAST_TIMEOUT: Duration = Duration::from_secs(30);
const IMMEDIATE_TIMEOUT: Duration = Duration::from_secs(10);

/// How to stop a server (docs: `server-shutdown`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// SIGINT: sessions are cut off, a checkpoint is written, walsenders may send what they still have.
    Fast,
    /// SIGQUIT: at once; the next start recovers from the WAL.
    Immediate,
    /// SIGKILL to the postmaster: as if the machine had gone.
    Kill,
}

/// The system account that server programs run under, when we are root and they refuse to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Account {
    /// The account to step down to: `None` unless we are root, as the owner of what we made shows.
    pub(super) fn needed_for(ours: &Path) -> Result<Option<Account>> {
        let doing = "find an account for the server to run under";
        let owner = ours.metadata().map_err(|cause| Error::new(ErrorKind::Local, doing).because(cause))?;
        if owner.uid() != 0 {
            return Ok(None);
        }
        let found = ["postgres", "nobody"].into_iter().find_map(|name| {
            let id = |which| {
                let output = Command::new("id").args([which, name]).stderr(Stdio::null()).output().ok()?;
                String::from_utf8(output.stdout).ok()?.trim().parse::<u32>().ok()
            };
            Some(Account { uid: id("-u")?, gid: id("-g")? })
        });
        found.map(Some).ok_or_else(|| {
            Error::new(ErrorKind::Local, doing)
                .hint("PostgreSQL refuses to run as root. Run as another user, or create a user `postgres`.")
        })
    }
}

/// A command that runs as `account` in `directory`, free of our `PG*` variables and our terminal's signals.
pub(super) fn command(program: &Path, account: Option<Account>, directory: &Path) -> Command {
    let mut command = Command::new(program);
    // The account may not be allowed to see the folder we were started in.
    command.current_dir(directory).env("LC_ALL", "C").stdin(Stdio::null()).process_group(0);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    if let Some(account) = account {
        // As root, std also drops the supplementary groups.
        command.uid(account.uid).gid(account.gid);
    }
    command
}

/// A running postmaster; dropping it stops the server at once.
#[derive(Debug)]
pub(super) struct Server {
    pid: u32,
    /// Disconnected when the process has ended and was reaped.
    exited: Receiver<()>,
}

impl Server {
    /// Spawns the command and waits until the server takes connections.
    ///
    /// # Errors
    /// [`ErrorKind::Local`] when it ends first or takes a minute; what it said is in the log.
    pub(super) fn spawn(mut command: Command, log: File) -> Result<Server> {
        let failed = || Error::new(ErrorKind::Local, "start a PostgreSQL server");
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|cause| failed().because(cause))?;
        let pid = child.id();
        let stderr = child.stderr.take().ok_or_else(failed)?;
        let (ready_sender, ready) = bounded(1);
        let (exited_sender, exited) = bounded(0);
        let server = Server { pid, exited };
        thread::Builder::new()
            .name(format!("postgres {pid}"))
            .spawn(move || attend(child, stderr, log, &ready_sender, exited_sender))
            .map_err(|cause| failed().because(cause))?;
        // Disconnected: the process ended before it was ready.
        ready.recv_timeout(READY_TIMEOUT).map_err(|cause| failed().because(cause))?;
        Ok(server)
    }

    /// The postmaster's process id.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Stops the server and returns when the process is gone; a shutdown that hangs is made harsher.
    pub(super) fn stop(self, shutdown: Shutdown) {
        self.escalate(shutdown);
    }

    fn escalate(&self, shutdown: Shutdown) {
        let steps = [
            (Shutdown::Fast, "INT", FAST_TIMEOUT),
            (Shutdown::Immediate, "QUIT", IMMEDIATE_TIMEOUT),
            (Shutdown::Kill, "KILL", IMMEDIATE_TIMEOUT),
        ];
        for (_, signal, patience) in steps.into_iter().skip_while(|(step, ..)| *step != shutdown) {
            // A process we have reaped may have left its number to another.
            if !self.is_running() {
                return;
            }
            send_signal(self.pid, signal);
            if self.exited.recv_timeout(patience).is_err_and(|error| error.is_disconnected()) {
                return;
            }
        }
    }

    /// Whether the process still exists.
    pub(super) fn is_running(&self) -> bool {
        self.exited.try_recv().is_err_and(|error| error.is_empty())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fast would wait for walsenders whose peer may never answer, and nobody needs the checkpoint.
        self.escalate(Shutdown::Immediate);
    }
}

/// Copies the server's messages to the log, reports when it is ready, and reaps it.
///
/// Reading the pipe is what spares us polling: readiness and death both arrive here by themselves.
fn attend(mut child: Child, stderr: ChildStderr, mut log: File, ready: &Sender<()>, _exited: Sender<()>) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    while stderr.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let _ = log.write_all(&line);
        // "…to accept connections", or on a standby "…to accept read-only connections"; lc_messages is C.
        if String::from_utf8_lossy(&line).contains("database system is ready to accept") {
            let _ = ready.try_send(());
        }
        line.clear();
    }
    let _ = child.wait();
}

/// Sends a signal by way of the shell's builtin: the standard library knows only SIGKILL.
fn send_signal(pid: u32, signal: &str) {
    let script = r#"kill -"$1" "$2""#;
    let _ = Command::new("sh")
        .args(["-c", script, "sh", signal, &pid.to_string()])
        .stderr(Stdio::null())
        .status();
}

/// `$1` is the data directory, `$2` what to remove. Written for any POSIX shell.
const GUARD_SCRIPT: &str = r#"
read -r _
pid=$(head -n 1 "$1/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ] && kill -QUIT "$pid" 2>/dev/null; then
  tries=0
  while kill -0 "$pid" 2>/dev/null && [ $tries -lt 100 ]; do tries=$((tries + 1)); sleep 0.1; done
fi
rm -rf "$2"
"#;

/// The shell that outlives us just long enough to clear up.
#[derive(Debug)]
pub(super) struct Guard {
    shell: Child,
}

impl Guard {
    /// Starts the guard over `data`, which lies in `directory`.
    pub(super) fn start(data: &Path, directory: &Path) -> Result<Guard> {
        let shell = Command::new("sh")
            .args(["-c", GUARD_SCRIPT, "pgstream-guard"])
            .args([data, directory])
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let shell = shell.map_err(|cause| Error::new(ErrorKind::Local, "guard a server").because(cause))?;
        Ok(Guard { shell })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
