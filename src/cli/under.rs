//! A command that runs while a lock or a lead is held, and is ended when it may be lost.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::fs::{Access, access};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::asking::{CONFLICT, End, note};
use super::tied::{Guard, adopt_orphans, descendants, kill_descendants, tied};
use crate::client::Held;

/// A command that was told to end when its lock may be lost gets this part of the TTL for it. The
/// cluster gives the lock to nobody before twice that is over.
const PARTS_TO_END: u32 = 10;

/// Exit codes as shells have them: not there, cannot be run, and above it what a signal ended.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;
const OF_SIGNALS: u8 = 128;

/// Those that ask a process for something, and that the command gets in its place.
pub(super) struct Signals {
    hangup: Stream,
    interrupt: Stream,
    quit: Stream,
    terminate: Stream,
    user_1: Stream,
    user_2: Stream,
}

impl Signals {
    /// From now on they do not end this process.
    pub fn caught() -> Result<Self, End> {
        let caught = |kind| signal(kind).map_err(End::Signals);
        Ok(Self {
            hangup: caught(SignalKind::hangup())?,
            interrupt: caught(SignalKind::interrupt())?,
            quit: caught(SignalKind::quit())?,
            terminate: caught(SignalKind::terminate())?,
            user_1: caught(SignalKind::user_defined1())?,
            user_2: caught(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.hangup.recv() => Signal::HUP,
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.quit.recv() => Signal::QUIT,
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.user_1.recv() => Signal::USR1,
            _ = self.user_2.recv() => Signal::USR2,
        }
    }

    /// As long as there is no command, a signal ends the waiting for it.
    pub async fn ended(&mut self) -> End {
        let signal = self.next().await;
        End::Code(OF_SIGNALS.saturating_add(u8::try_from(signal.as_raw()).unwrap_or(0)))
    }
}

/// Where a command is looked for if nobody says where.
const PATH: &str = "/bin:/usr/bin";

/// Looks for a command, before anything is waited for to run it.
pub(super) fn look_up(command: &[OsString]) -> Result<(), End> {
    let Some(program) = command.first() else { return Ok(()) };
    find(program).map_err(|e| {
        note(&why_not_run(program, &e));
        End::Code(code_of_failure(&e))
    })
}

/// As the system will look for it.
fn find(program: &OsStr) -> io::Result<()> {
    if program.as_bytes().contains(&b'/') {
        return check(Path::new(program));
    }
    let path = env::var_os("PATH").unwrap_or_else(|| PATH.into());
    let mut problem = io::Error::from(io::ErrorKind::NotFound);
    for folder in env::split_paths(&path) {
        match check(&folder.join(program)) {
            Ok(()) => return Ok(()),
            Err(e) if is_missing(&e) => {}
            Err(e) => problem = e,
        }
    }
    Err(problem)
}

fn check(program: &Path) -> io::Result<()> {
    if program.metadata()?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok(access(program, Access::EXEC_OK)?)
}

fn is_missing(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Of a command that could not be run.
pub(super) fn code_of_failure(e: &io::Error) -> u8 {
    if is_missing(e) { NOT_FOUND } else { NOT_RUN }
}

/// Why a command could not be run, for people.
pub(super) fn why_not_run(program: &OsStr, e: &io::Error) -> String {
    let name = program.display();
    match (is_missing(e), program.as_bytes().contains(&b'/')) {
        (true, true) => format!("{name}: there is no such file"),
        (true, false) => format!("{name}: there is no such command"),
        (false, _) => format!("cannot run {name}: {e}"),
    }
}

/// What is run, and what it is told of what is held.
pub(super) struct Under<'a> {
    /// For people: `lock "db"`.
    pub what: String,
    /// Names and values; the token is beside them.
    pub environment: &'a [(&'a str, &'a str)],
    /// The name of the variable that has the token.
    pub token: &'a str,
    pub command: &'a [OsString],
    /// Of the session.
    pub ttl: Duration,
}

impl Under<'_> {
    /// Runs the command until it ends, gives back what is held, and passes the exit code on.
    pub async fn run(self, mut held: Held, signals: &mut Signals) -> Result<(), End> {
        let ran = self.run_while(&mut held, signals).await;
        if let Err(error) = held.release().await {
            note(&format!("{} is given back by its TTL only: {error}", self.what));
        }
        ran
    }

    async fn run_while(&self, held: &mut Held, signals: &mut Signals) -> Result<(), End> {
        let mut process = self.started(held).await?;
        let mut killed_at = None::<Instant>;
        let status = loop {
            tokio::select! {
                status = process.child.wait() => break status.map_err(End::Waiting)?,
                loss = held.lost(), if killed_at.is_none() => {
                    note(&format!("{} may be another's ({loss}); ending the command", self.what));
                    adopt_orphans();
                    process.signal_all(Signal::TERM);
                    killed_at = Some(Instant::now() + self.ttl / PARTS_TO_END);
                }
                () = until(killed_at) => {
                    process.signal_all(Signal::KILL);
                    break process.child.wait().await.map_err(End::Waiting)?;
                }
                signal = signals.next() => process.pass_on(signal),
            }
        };
        if killed_at.is_some() {
            // Whatever it has started and not ended must not go on either.
            process.signal_all(Signal::KILL);
            kill_descendants().await;
            return Err(End::Code(CONFLICT));
        }
        process.dismiss_guard();
        match code_of(status) {
            0 => Ok(()),
            code => Err(End::Code(code)),
        }
    }

    async fn started(&self, held: &Held) -> Result<Process, End> {
        self.start(held).await.map_err(|e| {
            let program = self.command.first().map(OsString::as_os_str).unwrap_or_default();
            note(&format!("cannot run {}: {e}", program.display()));
            End::Code(NOT_RUN)
        })
    }

    async fn start(&self, held: &Held) -> io::Result<Process> {
        // What reads from a terminal must be of the group that has the terminal.
        let guard = match io::stdin().is_terminal() {
            true => None,
            false => Some(Guard::start().await?),
        };
        let mut command = tied(self.command)?;
        command.envs(self.environment.iter().copied());
        command.env(self.token, held.token().to_string()).kill_on_drop(true);
        if let Some(guard) = &guard {
            command.process_group(guard.group());
        }
        let child = command.spawn()?;
        Ok(Process { pid: pid_of(&child), child, guard })
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn pid_of(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()?).ok()?)
}

fn code_of(status: ExitStatus) -> u8 {
    let of_signal = || Some(i32::from(OF_SIGNALS) + status.signal()?);
    let code = status.code().or_else(of_signal).unwrap_or(i32::from(NOT_RUN));
    u8::try_from(code).unwrap_or(NOT_RUN)
}

/// The command that runs.
struct Process {
    child: Child,
    pid: Option<Pid>,
    /// Of its own process group, and all signals are for the group. None at a terminal.
    guard: Option<Guard>,
}

impl Process {
    /// A key on the terminal, such as Ctrl-C, has reached the command already.
    fn pass_on(&self, signal: Signal) {
        let from_keyboard =
            self.guard.is_none() && (signal == Signal::INT || signal == Signal::QUIT);
        if !from_keyboard {
            self.signal(signal);
        }
    }

    fn signal(&self, signal: Signal) {
        // Who has ended meanwhile needs no signal.
        match (&self.guard, self.pid) {
            (Some(guard), _) => guard.signal(signal),
            (None, Some(pid)) if self.child.id().is_some() => drop(kill_process(pid, signal)),
            (None, Some(_) | None) => {}
        }
    }

    /// Also for what it has started, where that has no group.
    fn signal_all(&self, signal: Signal) {
        let started = match (&self.guard, self.pid) {
            (None, Some(pid)) if self.child.id().is_some() => descendants(pid),
            (None, Some(_) | None) | (Some(_), _) => Vec::new(),
        };
        self.signal(signal);
        for pid in started {
            let _ = kill_process(pid, signal);
        }
    }

    fn dismiss_guard(&mut self) {
        if let Some(guard) = &mut self.guard {
            guard.dismiss();
        }
    }
}
