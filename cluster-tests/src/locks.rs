//! A folder with one file per shard that is worked on: whoever works on it has put its mark there.
//!
//! The file is made only if there is none, so that two at once cannot pass unnoticed. What a process
//! leaves behind that was killed or frozen is taken over by whoever has the shard under a newer
//! grant; anything else is a violation, which is written down in the folder for the test to find.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::time::{ClockId, clock_gettime};

/// The folder. All processes of a test have the same.
#[derive(Clone, Debug)]
pub struct Locks(PathBuf);

/// Whose lock it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub pid: u32,
    pub grant: u64,
}

/// How a lock was had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    Free,
    /// From a process that is dead or frozen, or that was frozen and has not noticed yet.
    LeftBehind(Mark),
}

impl Locks {
    /// In a folder that is there.
    pub fn in_folder(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// Marks a shard as worked on. `Err` is a violation in words; it was written down.
    pub fn take(&self, shard: &str, mine: Mark) -> Result<Taken, String> {
        loop {
            if self.link(shard, mine, |new, lock| fs::hard_link(new, lock)) {
                return Ok(Taken::Free);
            }
            let Some(theirs) = self.mark(shard) else { continue };
            if theirs.grant >= mine.grant || !self.may_be_passed_over(theirs.pid) {
                return Err(self.violated(shard, mine, theirs));
            }
            if self.link(shard, mine, |new, lock| fs::rename(new, lock)) {
                return Ok(Taken::LeftBehind(theirs));
            }
        }
    }

    /// Takes the mark away, if it is still this one.
    pub fn give_back(&self, shard: &str, mine: Mark) {
        if self.mark(shard) == Some(mine) {
            fs::remove_file(self.file(shard)).expect("it is there");
        }
    }

    /// All shards that are marked.
    pub fn all(&self) -> BTreeMap<String, Mark> {
        let names = fs::read_dir(&self.0).expect("the folder").map(|entry| {
            entry.expect("an entry").file_name().into_string().expect("names are text")
        });
        let shards = names.filter_map(|name| Some(unescaped(name.strip_prefix("shard-")?)));
        shards.filter_map(|shard| Some((shard.clone(), self.mark(&shard)?))).collect()
    }

    /// What was found to be worked on by two at once, if anything.
    pub fn violations(&self) -> Option<String> {
        fs::read_to_string(self.0.join("VIOLATIONS")).ok()
    }

    /// From now on this process may be found with locks that are others' by right.
    pub fn will_be_frozen(&self, pid: u32) {
        fs::write(self.frozen(pid), "").expect("noted");
    }

    /// It has noticed that it was frozen, and has stopped what it did before.
    pub fn has_noticed(&self, pid: u32) {
        fs::remove_file(self.frozen(pid)).expect("it was noted");
    }

    /// Whether there was no file in the way.
    fn link(&self, shard: &str, mine: Mark, put: impl Fn(&Path, &Path) -> io::Result<()>) -> bool {
        // Written aside, so that a lock is never seen without its mark.
        let new = self.0.join(format!("new-{}", mine.pid));
        fs::write(&new, format!("{} {}", mine.pid, mine.grant)).expect("written");
        match put(&new, &self.file(shard)) {
            Ok(()) => {
                // After a rename it is not there.
                drop(fs::remove_file(&new));
                true
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => false,
            Err(e) => panic!("the lock of {shard}: {e}"),
        }
    }

    /// `None`: there is no lock.
    fn mark(&self, shard: &str) -> Option<Mark> {
        let text = match fs::read_to_string(self.file(shard)) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return None,
            Err(e) => panic!("the lock of {shard}: {e}"),
        };
        let (pid, grant) = text.split_once(' ').expect("a mark has two numbers");
        Some(Mark { pid: number(pid), grant: number(grant) })
    }

    fn may_be_passed_over(&self, pid: u32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The state follows the name, which stands in brackets.
        let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
        state.is_none_or(|state| "TZX".contains(state)) || self.frozen(pid).exists()
    }

    fn violated(&self, shard: &str, mine: Mark, theirs: Mark) -> String {
        let text = format!("{shard} is worked on by {theirs:?} and by {mine:?}");
        let file = self.0.join("VIOLATIONS");
        let file = OpenOptions::new().create(true).append(true).open(file);
        file.and_then(|mut file| writeln!(file, "{text}")).expect("written down");
        text
    }

    fn file(&self, shard: &str) -> PathBuf {
        self.0.join(format!("shard-{}", escaped(shard)))
    }

    fn frozen(&self, pid: u32) -> PathBuf {
        self.0.join(format!("frozen-{pid}"))
    }
}

/// As a file's name, and as one word.
pub fn escaped(shard: &str) -> String {
    shard.replace('%', "%25").replace('/', "%2F").replace(' ', "%20")
}

/// The other way around.
pub fn unescaped(name: &str) -> String {
    name.replace("%20", " ").replace("%2F", "/").replace("%25", "%")
}

/// A number that must be one.
pub fn number<N: FromStr>(text: &str) -> N {
    text.trim().parse().unwrap_or_else(|_| panic!("{text:?} is not a number"))
}

/// Microseconds by a clock that all processes of this machine share.
pub fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
}
