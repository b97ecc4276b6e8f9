//! A child process that never outlives this one.
//!
//! Each program runs under a small `sh` that reads a pipe from this process. Lines on it are signals to pass on; its end,
//! which comes also when this process is killed, kills the program. The shell signals its own child before
//! it waits for it, so a process id that the system has given to someone else is never hit.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;

const SUPERVISE: &str = r#"
log=$1
shift
exec 3<&0 </dev/null
"$@" >>"$log" 2>&1 3<&- &
child=$!
echo "$child"
(
    while read -r signal <&3; do
        kill -s "$signal" "$child" 2>/dev/null
        echo done
    done
    kill -s KILL "$child" 2>/dev/null
) &
reader=$!
exec 3<&- >/dev/null 2>&1
wait "$child"
code=$?
kill -s KILL "$reader"
exit "$code"
"#;

const POLL_INTERVAL: Duration = Duration::from_millis(10);
const LOG_TAIL_LINES: usize = 20;

/// A running program, killed when this is dropped, and when this process ends in any other way.
#[derive(Debug)]
pub struct Process {
    pub(crate) program: &'static str,
    pub(crate) pid: u32,
    log: PathBuf,
    supervisor: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Process {
    /// Starts `binary` (a path, or a name on the `PATH`), called `program` in errors; what it prints goes to the end of
    /// `log`.
    ///
    /// # Errors
    /// When no process can be made. A binary that is not there shows in [`Self::exit_status`].
    pub fn start(
        program: &'static str,
        binary: &Path,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        log: &Path,
    ) -> Result<Self, Error> {
        let failed = || Error::io(format!("start {program}"));
        let mut supervisor = Command::new("sh")
            .args(["-c", SUPERVISE, "supervise"])
            .arg(log)
            .arg(binary)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A group of its own: an interrupt at the terminal is for this process, which stops the programs in order.
            .process_group(0)
            .spawn()
            .map_err(failed())?;
        let broken = || failed()(std::io::ErrorKind::BrokenPipe.into());
        let commands = Some(supervisor.stdin.take().ok_or_else(broken)?);
        let mut answers = BufReader::new(supervisor.stdout.take().ok_or_else(broken)?);
        let mut line = String::new();
        answers.read_line(&mut line).map_err(failed())?;
        let pid = line.trim().parse().map_err(|_| broken())?;
        Ok(Self {
            program,
            pid,
            log: log.to_owned(),
            supervisor,
            commands,
            answers,
        })
    }

    /// The program's process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The program's exit status, or nothing while it runs.
    ///
    /// A program that a signal ended shows as the exit code 128 + signal, as in a shell.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.supervisor.try_wait().ok().flatten()
    }

    /// Sends a signal (`TERM`, `STOP`, …) and returns when it has been sent.
    ///
    /// # Errors
    /// When the program has ended.
    pub fn signal(&mut self, signal: &str) -> Result<(), Error> {
        let action = format!("send {} the signal {signal}", self.program);
        let not_running = || Error::NotRunning {
            program: self.program,
            action: action.clone(),
        };
        let commands = self.commands.as_mut().ok_or_else(not_running)?;
        writeln!(commands, "{signal}").map_err(|_| not_running())?;
        let mut answer = String::new();
        self.answers
            .read_line(&mut answer)
            .map_err(Error::io(action.clone()))?;
        // A program that such a signal ends takes its supervisor with it, sometimes before that has answered.
        let ends_it = matches!(signal, "KILL" | "TERM" | "INT");
        if answer.is_empty() && !ends_it {
            Err(not_running())
        } else {
            Ok(())
        }
    }

    /// Asks the program to end, kills it when it has not after `patience`, and returns when it is gone.
    pub fn stop(&mut self, patience: Duration) {
        // A frozen program would not see the request. Errors mean that it has ended already.
        let _ = self.signal("CONT");
        let _ = self.signal("TERM");
        let started = Instant::now();
        while self.exit_status().is_none() && started.elapsed() < patience {
            thread::sleep(POLL_INTERVAL);
        }
        self.kill();
    }

    /// Kills the program and returns when it is gone.
    pub fn kill(&mut self) {
        drop(self.commands.take());
        let _ = self.supervisor.wait();
    }

    /// The error of a program that did not come up, with the end of its log.
    pub fn not_started(&self, reason: String) -> Error {
        Error::NotStarted {
            program: self.program,
            reason,
            log: log_tail(&self.log),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn log_tail(path: &Path) -> String {
    let text = fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(LOG_TAIL_LINES);
    lines.get(first..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(arguments: &[&str], log: &Path) -> Process {
        Process::start("sh", Path::new("sh"), arguments, log).unwrap()
    }

    fn is_alive(pid: u32) -> bool {
        Command::new("kill")
            .args(["-s", "0", &pid.to_string()])
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    }

    fn wait_until(description: &str, condition: impl Fn() -> bool) {
        let started = Instant::now();
        while !condition() {
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "not seen: {description}"
            );
            thread::sleep(POLL_INTERVAL);
        }
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let process = start(&["-c", "exec sleep 1000"], &folder.path().join("log"));
        let pid = process.pid;
        assert!(is_alive(pid));
        drop(process);
        assert!(!is_alive(pid));
    }

    #[test]
    fn a_process_that_ignores_the_request_to_end_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut process = start(
            &["-c", "trap '' TERM; echo deaf; while :; do sleep 0.05; done"],
            &log,
        );
        wait_until("its first line", || log_tail(&log) == "deaf");
        let started = Instant::now();
        process.stop(Duration::from_millis(200));
        assert!(
            started.elapsed() >= Duration::from_millis(200),
            "it was not given the time to end by itself"
        );
        assert!(!is_alive(process.pid));
    }

    #[test]
    fn a_process_that_ends_by_itself_is_noticed_with_its_exit_code_and_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = start(&["-c", "echo the reason; exit 7"], &folder.path().join("log"));
        let started = Instant::now();
        while process.exit_status().is_none() {
            assert!(started.elapsed() < Duration::from_secs(20));
            thread::sleep(POLL_INTERVAL);
        }
        assert_eq!(process.exit_status().unwrap().code(), Some(7));
        assert!(
            process
                .not_started("it ended".to_owned())
                .to_string()
                .contains("the reason")
        );
        assert!(matches!(process.signal("TERM"), Err(Error::NotRunning { .. })));
    }

    #[test]
    fn a_frozen_process_is_stopped_too() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = start(&["-c", "exec sleep 1000"], &folder.path().join("log"));
        process.signal("STOP").unwrap();
        process.stop(Duration::from_secs(20));
        assert!(!is_alive(process.pid));
    }
}
