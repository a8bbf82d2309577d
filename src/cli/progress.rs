//! How far long work has come, as a line on standard error; only where that is a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use tokio::time::sleep;

/// The line is written anew at most so often.
const EVERY: Duration = Duration::from_millis(100);

/// What takes the line away, whatever it was.
const CLEAR: &str = "\r\x1b[K";

/// Characters of the bar.
const WIDTH: usize = 30;

/// A line that goes when this is dropped.
pub(crate) struct Progress {
    what: String,
    /// How many there will be; 0 where nobody knows.
    all: u64,
    written: Option<Instant>,
    is_shown: bool,
}

impl Progress {
    /// `what` is done, of `all` things, or of nobody knows how many with 0.
    pub fn of(what: impl Into<String>, all: u64) -> Self {
        let is_shown = io::stderr().is_terminal();
        Self { what: what.into(), all, written: None, is_shown }
    }

    /// So many of all are done.
    pub fn at(&mut self, done: u64) {
        let is_due = self.written.is_none_or(|at| at.elapsed() >= EVERY);
        if self.is_shown && is_due {
            self.written = Some(Instant::now());
            write(&format!("{CLEAR}{}", line(&self.what, done, self.all)));
        }
    }

    /// Makes room for another line, until more is done.
    pub fn clear(&self) {
        if self.written.is_some() {
            write(CLEAR);
        }
    }
}

/// Waits for what is expected to take so long, and shows how much of that is over.
pub(crate) async fn during<T>(what: &str, expected: Duration, work: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let mut progress = Progress::of(what, expected.as_millis() as u64);
    let mut work = std::pin::pin!(work);
    while progress.is_shown {
        tokio::select! {
            done = &mut work => return done,
            () = sleep(EVERY) => progress.at(begun.elapsed().as_millis() as u64),
        }
    }
    work.await
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Who cannot be told how far it is does not stop the work.
fn write(text: &str) {
    let mut out = io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn line(what: &str, done: u64, all: u64) -> String {
    if all == 0 {
        return format!("{what} {done}");
    }
    let part = done.min(all) as f64 / all as f64;
    let full = (part * WIDTH as f64) as usize;
    let bar = format!("{}{}", "#".repeat(full), "-".repeat(WIDTH - full));
    format!("{what} [{bar}] {:>3.0} %", part * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_full_as_the_work_is_done() {
        let half = line("registering", 50, 100);
        assert_eq!(half, "registering [###############---------------]  50 %");
        assert!(line("x", 200, 100).contains("100 %"), "more than expected is all");
        assert_eq!(line("read", 7, 0), "read 7");
    }
}
