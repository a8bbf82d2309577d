//! What keeps a command from outliving the process that holds a lock for it, however that one ends:
//! two small programs in between, and a look at who descends from whom.
//!
//! A process that is killed (SIGKILL, or for its memory) can do nothing more, so this is prepared
//! before. [`RunFor`] asks the kernel to kill it with its parent and then becomes the command. The
//! [`Guard`] is a process that leads the command's process group and ends the whole group when its
//! input ends, which happens when the process at the other end is gone, for whatever reason.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, getpgrp, getpid, getppid, kill_process, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::asking::{End, print};
use super::under::{Signals, code_of_failure, why_not_run};
use super::{FAILED, USAGE, fail};

/// Processes that are killed end at once, unless the kernel is at work for them: they are looked for
/// so often, with this pause.
const LOOKS_MAX: u32 = 100;
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Becomes a command that is killed when its parent ends.
#[derive(Debug, clap::Args)]
pub(super) struct RunFor {
    /// Who must be its parent, a process id
    parent: u32,
    /// What to run
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl RunFor {
    /// Comes back only if it fails. The kernel keeps the order through the exec that follows, except
    /// for programs that change who they run as, such as `sudo`.
    pub fn run(self) -> ExitCode {
        #[cfg(target_os = "linux")]
        if let Err(e) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
            return fail(FAILED, &format!("cannot be tied to the process that started it: {e}"));
        }
        // It may have ended before the order was given.
        if getppid().map(pid_number) != Some(self.parent) {
            return fail(FAILED, &"the process that started it is gone");
        }
        let [program, arguments @ ..] = &self.command[..] else { return ExitCode::from(USAGE) };
        let e = std::process::Command::new(program).args(arguments).exec();
        fail(code_of_failure(&e), &why_not_run(program, &e))
    }
}

fn pid_number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}

/// The command, which is killed when the thread ends that starts it. That must be the main thread: it
/// ends with the process, others may end before.
pub(crate) fn tied(command: &[OsString]) -> io::Result<Command> {
    let mut tied = this_program()?;
    tied.args(["run-for", &std::process::id().to_string(), "--"]).args(command);
    Ok(tied)
}

/// The very program that runs, also if another one has taken its place on the disk.
fn this_program() -> io::Result<Command> {
    let program =
        if cfg!(target_os = "linux") { "/proc/self/exe".into() } else { std::env::current_exe()? };
    let mut command = Command::new(program);
    command.arg0("roster");
    Ok(command)
}

/// Leads a process group, and kills it when the input ends.
#[derive(Debug, clap::Args)]
pub(super) struct GuardGroup {}

impl GuardGroup {
    pub async fn run(self) -> Result<(), End> {
        // Signals for the group are not for it.
        let _caught = Signals::caught()?;
        let group = getpgrp();
        if group != getpid() {
            return Err(End::Code(USAGE));
        }
        print("ready")?;
        drop(io::copy(&mut io::stdin().lock(), &mut io::sink()));
        kill_process_group(group, Signal::KILL).map_err(|e| End::Waiting(e.into()))
    }
}

/// A process that ends its group when this process is gone. As long as it is not dropped nobody else
/// can have the group's number.
#[derive(Debug)]
pub(super) struct Guard {
    /// With the other end of its input.
    process: Child,
    group: Pid,
}

impl Guard {
    pub async fn start() -> io::Result<Self> {
        let mut command = this_program()?;
        command.arg("guard-group").process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn()?;
        let mut ready = [0];
        if let Some(out) = &mut process.stdout {
            out.read_exact(&mut ready).await?;
        }
        let number = process.id().and_then(|id| i32::try_from(id).ok());
        match number.and_then(Pid::from_raw) {
            Some(group) => Ok(Self { process, group }),
            None => Err(io::Error::other("the guard of the command has ended")),
        }
    }

    /// The number of its group.
    pub fn group(&self) -> i32 {
        self.group.as_raw_nonzero().get()
    }

    /// A signal for all of the group.
    pub fn signal(&self, signal: Signal) {
        // Who has ended meanwhile needs none.
        let _ = kill_process_group(self.group, signal);
    }

    /// What the command has left behind in good order may stay. It is killed before its input ends.
    pub fn dismiss(&mut self) {
        drop(self.process.start_kill());
    }
}

/// From now on whoever descends from this process stays so when its parent ends.
pub(super) fn adopt_orphans() {
    // Where that is not there, only those are found whose parents live.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_child_subreaper(Some(getpid()));
}

/// Kills all that descend from this process.
pub(super) async fn kill_descendants() {
    for _ in 0..LOOKS_MAX {
        let left = descendants(getpid());
        if left.is_empty() {
            return;
        }
        for pid in left {
            let _ = kill_process(pid, Signal::KILL);
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Who descends from a process and has not ended; nobody, where the kernel does not tell.
pub(super) fn descendants(of: Pid) -> Vec<Pid> {
    let all = processes();
    let mut found = vec![of];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(all.iter().filter(|one| one.1 == parent).map(|one| one.0));
        next += 1;
    }
    found.split_off(1)
}

/// All that have not ended, with their parents.
fn processes() -> Vec<(Pid, Pid)> {
    let Ok(folders) = fs::read_dir("/proc") else { return Vec::new() };
    let stat = |folder: fs::DirEntry| {
        let pid = folder.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
        Some((pid, parent_in(&fs::read_to_string(folder.path().join("stat")).ok()?)?))
    };
    folders.flatten().filter_map(stat).collect()
}

/// The parent of who has not ended, by `/proc/<pid>/stat`: the number, the name in brackets, which may
/// have any characters, the state, the parent.
fn parent_in(stat: &str) -> Option<Pid> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut words = rest.split_whitespace();
    let has_ended = ["Z", "X"].contains(&words.next()?);
    let parent = words.next()?.parse().ok().and_then(Pid::from_raw)?;
    (!has_ended).then_some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_read_whatever_the_name_of_the_program() {
        let parent = |stat| parent_in(stat).map(pid_number);
        assert_eq!(parent("7 (sh) S 4 7 7 0 -1"), Some(4));
        assert_eq!(parent("7 (a) Z 1 (b) R 5 7"), Some(5));
        assert_eq!(parent("7 (sh) Z 4 7 7"), None, "it has ended");
        assert_eq!(parent("7 (kthreadd) S 0 0"), None);
        assert_eq!(parent(""), None);
    }
}
