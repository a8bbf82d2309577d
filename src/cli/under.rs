//! A command that runs while a lock or a lead is held, and is ended when it may be lost.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::asking::{CONFLICT, End, note};
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
        let mut process = self.started(held)?;
        let mut killed_at = None::<Instant>;
        let status = loop {
            tokio::select! {
                status = process.child.wait() => break status.map_err(End::Output)?,
                loss = held.lost(), if killed_at.is_none() => {
                    note(&format!("{} may be another's ({loss}); ending the command", self.what));
                    process.signal(Signal::TERM);
                    killed_at = Some(Instant::now() + self.ttl / PARTS_TO_END);
                }
                () = until(killed_at) => {
                    process.signal(Signal::KILL);
                    break process.child.wait().await.map_err(End::Output)?;
                }
                signal = signals.next() => process.pass_on(signal),
            }
        };
        if killed_at.is_some() {
            // Whatever it has started and not ended must not go on either.
            process.signal(Signal::KILL);
            return Err(End::Code(CONFLICT));
        }
        match code_of(status) {
            0 => Ok(()),
            code => Err(End::Code(code)),
        }
    }

    fn started(&self, held: &Held) -> Result<Process, End> {
        let [program, arguments @ ..] = self.command else { return Err(End::Code(NOT_RUN)) };
        // What reads from a terminal must be of the group that has the terminal.
        let group = !io::stdin().is_terminal();
        let mut command = Command::new(program);
        command.args(arguments).envs(self.environment.iter().copied());
        command.env(self.token, held.token().to_string()).kill_on_drop(true);
        if group {
            command.process_group(0);
        }
        match command.spawn() {
            Ok(child) => Ok(Process { pid: pid_of(&child), child, group }),
            Err(e) => {
                note(&format!("cannot run {}: {e}", program.display()));
                let missing = e.kind() == io::ErrorKind::NotFound;
                Err(End::Code(if missing { NOT_FOUND } else { NOT_RUN }))
            }
        }
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
    /// It leads a process group of its own, and all signals are for the group.
    group: bool,
}

impl Process {
    /// A key on the terminal, such as Ctrl-C, has reached the command already.
    fn pass_on(&self, signal: Signal) {
        let from_keyboard = !self.group && (signal == Signal::INT || signal == Signal::QUIT);
        if !from_keyboard {
            self.signal(signal);
        }
    }

    fn signal(&self, signal: Signal) {
        // Who has ended meanwhile needs no signal.
        match (self.pid, self.group) {
            (Some(pid), true) => drop(kill_process_group(pid, signal)),
            (Some(pid), false) if self.child.id().is_some() => drop(kill_process(pid, signal)),
            (Some(_) | None, _) => {}
        }
    }
}
