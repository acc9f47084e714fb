//! Runs one tool and keeps what it complained about.
//!
//! Hazard: a child that fills its stderr while nobody reads stops for ever, and one that outlives us goes on
//! writing to the target. Stderr is read to its end, in bounded memory, and a dropped future kills the child.

use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use crate::error::{Error, ErrorKind, Result};
use crate::schema::environment::Environment;

/// What is kept of stderr, and the length at which a line is cut.
const KEPT_BYTES_MAX: usize = 4 << 20;
const LINE_BYTES_MAX: usize = 64 << 10;

/// How a tool ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Its exit code; `None` when a signal ended it.
    pub(super) code: Option<i32>,
    /// The lines of stderr that were wanted.
    pub(super) stderr: String,
    /// Whether all of them are there.
    pub(super) complete: Completeness,
}

/// Whether stderr fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Completeness {
    Whole,
    Cut,
}

/// Runs `program`, keeping the lines of its stderr for which `wanted` holds.
///
/// # Errors
/// `Tool` if it cannot be started; how it ended is the caller's to judge.
/// # Cancel safety
/// The child is killed when the future is dropped.
pub(super) async fn run(
    program: &Path,
    arguments: &[std::ffi::OsString],
    environment: &Environment,
    wanted: impl Fn(&str) -> bool,
) -> Result<Ended> {
    let mut command = Command::new(program);
    environment.apply(&mut command);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.kill_on_drop(true);
    let failed = |error| Error::new(ErrorKind::Tool, format!("run {}", program.display())).because(error);
    let mut child = command.spawn().map_err(failed)?;
    let mut lines = Lines::default();
    if let Some(stderr) = child.stderr.take() {
        lines.read(stderr, wanted).await.map_err(failed)?;
    }
    let status = child.wait().await.map_err(failed)?;
    Ok(Ended { code: status.code(), stderr: lines.kept, complete: lines.complete })
}

/// Lines kept so far, and the one being read.
struct Lines {
    kept: String,
    line: Vec<u8>,
    complete: Completeness,
}

impl Default for Lines {
    fn default() -> Lines {
        Lines { kept: String::new(), line: Vec::new(), complete: Completeness::Whole }
    }
}

impl Lines {
    async fn read(
        &mut self,
        mut from: impl AsyncRead + Unpin,
        wanted: impl Fn(&str) -> bool,
    ) -> std::io::Result<()> {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let read = from.read(&mut buffer).await?;
            if read == 0 {
                break;
            }
            for byte in buffer.iter().take(read) {
                match byte {
                    b'\n' => self.end_line(&wanted),
                    other if self.line.len() < LINE_BYTES_MAX => self.line.push(*other),
                    _ => {}
                }
            }
        }
        if !self.line.is_empty() {
            self.end_line(&wanted);
        }
        Ok(())
    }

    fn end_line(&mut self, wanted: impl Fn(&str) -> bool) {
        let line = String::from_utf8_lossy(&self.line);
        if wanted(&line) {
            if self.kept.len() + line.len() < KEPT_BYTES_MAX {
                self.kept.push_str(&line);
                self.kept.push('\n');
            } else {
                self.complete = Completeness::Cut;
            }
        }
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_wanted_lines_within_a_bound() {
        let noise = "x".repeat(LINE_BYTES_MAX * 2);
        let text = format!("keep a\ndrop b\n{noise}\nkeep the last");
        let mut lines = Lines::default();
        lines.read(text.as_bytes(), |line| !line.starts_with("drop")).await.unwrap();
        assert_eq!(lines.kept.len(), "keep a\nkeep the last\n".len() + LINE_BYTES_MAX + 1);
        assert_eq!(lines.complete, Completeness::Whole);
        let much = "y\n".repeat(KEPT_BYTES_MAX);
        lines.read(much.as_bytes(), |_| true).await.unwrap();
        assert!(lines.kept.len() <= KEPT_BYTES_MAX && lines.complete == Completeness::Cut);
    }
}
