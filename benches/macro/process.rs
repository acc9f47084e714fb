//! Programs, run and weighed: wall time, CPU of each party, peak memory.
//!
//! Hazard: on a busy machine wall time says little, and CPU that a server spends on our behalf is not ours to
//! hide. So the CPU of both servers is taken as well: of the postmaster, of every child it has reaped, and of
//! those that live. All of it is read from Linux's `/proc`; a process that has ended is read before it is reaped.

use std::fs;
use std::io::PipeReader;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pgstream::error::{Error, ErrorKind, Result};

/// `USER_HZ`: what `/proc/<pid>/stat` counts in, on every Linux that runs here.
const TICKS_PER_SECOND: f64 = 100.0;
/// Between two looks at a running program.
const POLL: Duration = Duration::from_millis(5);

/// What a program took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) wall: Duration,
    /// CPU seconds of its own threads.
    pub(crate) own_seconds: f64,
    /// CPU seconds of the programs it ran.
    pub(crate) children_seconds: f64,
    /// The most memory it held at any time, in bytes.
    pub(crate) memory_bytes: u64,
}

/// One line of `/proc/<pid>/stat`.
#[derive(Debug, Clone, Copy)]
struct Stat {
    state: char,
    parent: u32,
    own_ticks: u64,
    reaped_ticks: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Stat> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The program's name may hold anything, even parentheses; what follows the last one is numbers.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Stat {
            state: fields.first()?.chars().next()?,
            parent: u32::try_from(number(1)?).ok()?,
            own_ticks: number(11)? + number(12)?,
            reaped_ticks: number(13)? + number(14)?,
        })
    }
}

/// CPU seconds of one process so far; none if it is gone.
pub(crate) fn cpu_seconds(pid: u32) -> Option<f64> {
    Stat::of(pid).map(|stat| stat.own_ticks as f64 / TICKS_PER_SECOND)
}

/// CPU seconds of a server so far: the postmaster, its living children, and those that have ended.
pub(crate) fn server_seconds(postmaster: u32) -> f64 {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let ticks: u64 = pids
        .filter_map(|pid| Some((pid, Stat::of(pid)?)))
        .map(|(pid, stat)| match pid {
            _ if pid == postmaster => stat.own_ticks + stat.reaped_ticks,
            _ if stat.parent == postmaster => stat.own_ticks,
            _ => 0,
        })
        .sum();
    ticks as f64 / TICKS_PER_SECOND
}

fn memory_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}

/// A program that runs; killed if it is dropped before it has ended.
pub(crate) struct Running {
    child: Child,
    name: String,
    started: Instant,
    memory_bytes: u64,
    /// A file, so that nobody needs to read while it runs.
    stderr: fs::File,
}

impl Running {
    /// Starts a program, free of our `PG*` variables.
    pub(crate) fn start(command: Command) -> Result<Running> {
        Running::spawn(command, Stdio::null())
    }

    /// Starts a program that reads from a pipe.
    pub(crate) fn start_reading(command: Command, from: PipeReader) -> Result<Running> {
        Running::spawn(command, from.into())
    }

    fn spawn(mut command: Command, stdin: Stdio) -> Result<Running> {
        let name = command.get_program().to_string_lossy().into_owned();
        let failed =
            |cause: std::io::Error| Error::new(ErrorKind::Tool, format!("run {name}")).because(cause);
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("PG") {
                command.env_remove(variable);
            }
        }
        let stderr = tempfile::tempfile().map_err(failed)?;
        let child =
            command.stdin(stdin).stderr(stderr.try_clone().map_err(failed)?).spawn().map_err(failed)?;
        Ok(Running { child, name, started: Instant::now(), memory_bytes: 0, stderr })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Takes note of its memory; what it held before it ended cannot be asked afterwards.
    pub(crate) fn weigh(&mut self) {
        self.memory_bytes = self.memory_bytes.max(memory_bytes(self.pid()));
    }

    /// The most memory it was seen to hold.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Fails at once if it has failed, instead of waiting for what it will never do.
    ///
    /// # Errors
    /// `Tool`, with what it said last.
    pub(crate) fn expect_no_failure(&mut self) -> Result<()> {
        match Stat::of(self.pid()) {
            Some(stat) if stat.state == 'Z' => self.reap(Some(stat)).map(drop),
            _ => Ok(()),
        }
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// `Tool` if it did not succeed, with what it said last.
    pub(crate) async fn finish(mut self) -> Result<Usage> {
        loop {
            self.weigh();
            match Stat::of(self.pid()) {
                Some(stat) if stat.state != 'Z' => tokio::time::sleep(POLL).await,
                stat => return self.reap(stat),
            }
        }
    }

    fn reap(&mut self, stat: Option<Stat>) -> Result<Usage> {
        let wall = self.started.elapsed();
        let failed = || Error::new(ErrorKind::Tool, format!("run {}", self.name));
        let status = self.child.wait().map_err(|cause| failed().because(cause))?;
        if !status.success() {
            let said =
                std::io::Seek::rewind(&mut &self.stderr).and_then(|()| std::io::read_to_string(&self.stderr));
            return Err(failed().because(format!("{status}\n{}", said.unwrap_or_default())));
        }
        let seconds = |ticks: fn(Stat) -> u64| stat.map_or(0.0, |stat| ticks(stat) as f64 / TICKS_PER_SECOND);
        Ok(Usage {
            wall,
            own_seconds: seconds(|stat| stat.own_ticks),
            children_seconds: seconds(|stat| stat.reaped_ticks),
            memory_bytes: self.memory_bytes,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
