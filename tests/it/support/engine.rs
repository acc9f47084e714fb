//! The real `pgstream` program as a child process: started, watched, interrupted, killed.

use std::ffi::OsStr;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::PATIENCE;
use super::scenario::Side;

/// Lines that a failing scenario shows of what the engine said.
const LAST_LINES: usize = 60;

/// A running engine. Dropping it kills the process.
pub(crate) struct Engine {
    child: Child,
    stdout: Capture,
    stderr: Capture,
}

/// What an engine left when it ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Engine {
    /// Runs `pgstream` with these arguments.
    pub(crate) fn start<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Engine {
        let mut command = Engine::command();
        command.args(arguments);
        Engine::spawn(command)
    }

    /// The program, free of the `PG*` variables of whoever runs the tests; arguments are still to come.
    pub(crate) fn command() -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgstream"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Runs a command that is ready.
    pub(crate) fn spawn(mut command: Command) -> Engine {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program was built with the tests");
        let stdout = Capture::start(child.stdout.take().expect("stdout is piped"));
        let stderr = Capture::start(child.stderr.take().expect("stderr is piped"));
        Engine { child, stdout, stderr }
    }

    /// Waits for a line on stderr that contains `text`.
    ///
    /// # Panics
    /// When the engine ends first, or takes longer than `patience`; shows what it said.
    pub(crate) async fn wait_for_stderr(&mut self, text: &str, patience: Duration) {
        let seen = timeout(patience, self.stderr.wait_for(text)).await;
        assert!(seen == Ok(true), "never said {text:?} ({seen:?}):\n{}", self.stderr.text());
    }

    /// What it has said on stderr so far.
    pub(crate) fn stderr_text(&self) -> String {
        self.stderr.text()
    }

    /// Its process, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// SIGKILL, and the process reaped: nothing of it runs when this returns.
    pub(crate) async fn kill(mut self) -> Outcome {
        // An engine that has ended already is as dead.
        let _ = self.child.kill().await;
        self.outcome().await
    }

    /// SIGINT, as Ctrl-C sends it.
    pub(crate) async fn interrupt(&self) {
        self.signal("INT").await;
    }

    /// A signal by its name.
    pub(crate) async fn signal(&self, name: &str) {
        let Some(pid) = self.child.id() else { return };
        let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().await;
        assert!(status.expect("there is a shell").success(), "signal the engine");
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it does not within `patience`; it is killed, and what it said is shown.
    pub(crate) async fn wait(mut self, patience: Duration) -> Outcome {
        if timeout(patience, self.child.wait()).await.is_err() {
            let outcome = self.kill().await;
            panic!("still ran after {patience:?}\n{}\n{}", outcome.stdout, outcome.stderr);
        }
        self.outcome().await
    }

    /// Kills the engine at the moment `condition`, an SQL boolean, becomes true on `side`: a point named
    /// by durable state, which is what a resumed run will find.
    ///
    /// A condition that reads a table that does not exist yet counts as false.
    ///
    /// # Panics
    /// When the engine ends before, or the moment does not come.
    pub(crate) async fn kill_when(mut self, side: &Side, condition: &str) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        let session = side.session().await;
        let sql = format!("SELECT ({condition}) IS TRUE");
        loop {
            let holds = session.query_one(sql.as_str(), &[]).await.is_ok_and(|row| row.get(0));
            if holds {
                return self.kill().await;
            }
            if let Some(status) = self.child.try_wait().expect("the engine is our child") {
                panic!("ended ({status}) before {condition}:\n{}", self.stderr.text());
            }
            if Instant::now() > deadline {
                panic!("did not happen: {condition}\n{}", self.kill().await.stderr);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn outcome(mut self) -> Outcome {
        let status = self.child.wait().await.expect("the engine is our child");
        Outcome { status, stdout: self.stdout.finish().await, stderr: self.stderr.finish().await }
    }
}

impl Outcome {
    /// Asserts the exit code, showing what the engine said.
    pub(crate) fn expect_code(self, code: i32) -> Outcome {
        assert_eq!(self.status.code(), Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// The document that `--json` prints.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON on stdout: {error}\n{}", self.stdout))
    }
}

/// Collects a stream, line by line, for anyone who waits for one. With `PGSTREAM_TEST_ALOUD` set, and
/// `--nocapture`, each line is shown as it comes.
struct Capture {
    text: watch::Receiver<String>,
    reader: JoinHandle<()>,
}

impl Capture {
    fn start(stream: impl AsyncRead + Unpin + Send + 'static) -> Capture {
        let (sender, text) = watch::channel(String::new());
        let reader = tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            let aloud = std::env::var_os("PGSTREAM_TEST_ALOUD").is_some();
            while stream.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
                if aloud {
                    eprint!("{}", String::from_utf8_lossy(&line));
                }
                sender.send_modify(|all| all.push_str(&String::from_utf8_lossy(&line)));
                line.clear();
            }
        });
        Capture { text, reader }
    }

    /// Whether `text` came before the stream ended.
    async fn wait_for(&mut self, text: &str) -> bool {
        self.text.wait_for(|all| all.contains(text)).await.is_ok()
    }

    fn text(&self) -> String {
        self.text.borrow().clone()
    }

    async fn finish(mut self) -> String {
        let _ = (&mut self.reader).await;
        self.text.borrow().clone()
    }
}

/// Of a scenario that fails elsewhere than in the engine, what the engine said is half of the story.
impl Drop for Capture {
    fn drop(&mut self) {
        let text = self.text.borrow();
        if std::thread::panicking() && !text.is_empty() {
            let lines: Vec<&str> = text.lines().collect();
            let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
            eprintln!("the engine's last lines:\n{last}");
        }
    }
}
