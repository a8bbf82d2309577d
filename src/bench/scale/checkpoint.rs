//! How long a checkpoint holds up writes and heartbeats: small steady requests beside it, and the
//! longest time in which none of a kind was answered. And what the disk does meanwhile to a program that
//! has nothing to do with Roster: no write is answered before its log is synced.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::outage::Probe;
use super::roster::Roster;
use super::servers::Servers;
use super::system::{NODES, System};
use crate::bench::http::Connection;

/// Log entries between two checkpoints while this is measured, so that the probes' writes bring
/// some about.
const CHECKPOINT_EVERY: &str = "1000";

/// Between two requests of one kind at one node.
const PERIOD: Duration = Duration::from_millis(10);

/// What the bench writes to a file of its own before it syncs that.
pub const SYNCED_BYTES: usize = 4096;

/// Between two such syncs: they are some load too, but pauses above what is wanted are seen.
const SYNC_PERIOD: Duration = Duration::from_millis(50);

/// Each node must have written one within this.
const PATIENCE: Duration = Duration::from_secs(90);

/// How often the folders are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// The longest waits of a kind, in seconds; of requests, what is beyond their period.
#[derive(Clone, Copy, Debug, Default)]
pub struct Longest {
    pub beside: f64,
    /// In all of the rest of the time, for comparison.
    pub without: f64,
}

impl Longest {
    /// Takes a wait in, of which `late` counts, under whether a checkpoint was written meanwhile.
    fn count(&mut self, wait: Span, late: Duration, writing: &[Span]) {
        let beside = writing.iter().any(|span| span.from < wait.to && wait.from < span.to);
        let longest = if beside { &mut self.beside } else { &mut self.without };
        *longest = longest.max(late.as_secs_f64());
    }
}

#[derive(Debug)]
pub struct Pauses {
    pub writes: Longest,
    pub heartbeats: Longest,
    /// Of the bench's own writes and syncs of [`SYNCED_BYTES`], or why there is none.
    pub disk: Result<Longest, String>,
    pub checkpoints: usize,
    /// The time during which one of the nodes wrote a checkpoint.
    pub writing: Duration,
}

/// Restarts the nodes with frequent checkpoints, and asks them until each has written one.
pub async fn pauses(servers: &mut Servers<Roster>, quiet: Duration) -> Result<Pauses, String> {
    servers.restart_with(&["--checkpoint-every", CHECKPOINT_EVERY]).await?;
    let stop = CancellationToken::new();
    // However this ends: a thread that goes on would hold up the end of the process.
    let _ended = stop.clone().drop_guard();
    let watchers: Vec<_> =
        (0..NODES).map(|node| watch_folder(servers.data(node).to_owned(), &stop)).collect();
    let (writer, beater) = (servers.system.clone(), servers.system.clone());
    let writes = Asking::start(servers, Arc::new(move |n| writer.write(n)), &stop).await?;
    let beats = Asking::start(servers, Arc::new(move |n| beater.heartbeat(n)), &stop).await?;
    let syncs = sync_beside(servers.folder(), &stop);
    let begun = Instant::now();
    loop {
        sleep(LOOK_EVERY).await;
        let all = watchers.iter().all(|watcher| watcher.seen.load(Ordering::Relaxed));
        if all && begun.elapsed() >= quiet {
            break;
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("not every node wrote a checkpoint in {} s", PATIENCE.as_secs()));
        }
    }
    stop.cancel();
    let mut spans = Vec::new();
    for watcher in watchers {
        spans.extend(watcher.task.await.map_err(|e| e.to_string())?);
    }
    let (writes, heartbeats) = (writes.end(&spans).await?, beats.end(&spans).await?);
    let disk = syncs.await.map_err(|e| e.to_string()).flatten().map(|syncs| {
        let mut longest = Longest::default();
        syncs.into_iter().for_each(|sync| longest.count(sync, sync.to - sync.from, &spans));
        longest
    });
    let writing = spans.iter().map(|span| span.to - span.from).sum();
    Ok(Pauses { writes, heartbeats, disk, checkpoints: spans.len(), writing })
}

/// Writes a little to a file and syncs it, again and again, as a log does.
fn sync_beside(folder: &Path, stop: &CancellationToken) -> JoinHandle<Result<Vec<Span>, String>> {
    let (path, stop) = (folder.join("synced"), stop.clone());
    tokio::task::spawn_blocking(move || {
        let failed = |e| format!("cannot write {}: {e}", path.display());
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        let mut syncs = Vec::new();
        while !stop.is_cancelled() {
            let from = Instant::now();
            file.write_all(&[0; SYNCED_BYTES]).and_then(|()| file.sync_data()).map_err(failed)?;
            let to = Instant::now();
            syncs.push(Span { from, to });
            std::thread::sleep(SYNC_PERIOD.saturating_sub(to - from));
        }
        Ok(syncs)
    })
}

#[derive(Clone, Copy)]
struct Span {
    from: Instant,
    to: Instant,
}

struct FolderWatcher {
    /// It has seen a whole checkpoint.
    seen: Arc<AtomicBool>,
    task: JoinHandle<Vec<Span>>,
}

/// Notes when a node writes checkpoints: then there is a file that is not whole, or a new one.
fn watch_folder(folder: PathBuf, stop: &CancellationToken) -> FolderWatcher {
    let (seen, stop) = (Arc::new(AtomicBool::new(false)), stop.clone());
    let task = tokio::spawn({
        let seen = seen.clone();
        async move {
            let mut spans: Vec<Span> = Vec::new();
            let mut before = look(&folder);
            let mut looked = Instant::now();
            let mut goes_on = before.unfinished;
            while !stop.is_cancelled() {
                sleep(LOOK_EVERY).await;
                let (now, at) = (look(&folder), Instant::now());
                let finished = now.newest != before.newest;
                if now.unfinished || finished {
                    match spans.last_mut().filter(|_| goes_on) {
                        Some(span) => span.to = at,
                        None => spans.push(Span { from: looked, to: at }),
                    }
                }
                if finished {
                    seen.store(true, Ordering::Relaxed);
                }
                (goes_on, before, looked) = (now.unfinished, now, at);
            }
            spans
        }
    });
    FolderWatcher { seen, task }
}

#[derive(Default, PartialEq)]
struct Look {
    unfinished: bool,
    newest: Option<String>,
}

fn look(folder: &Path) -> Look {
    let names = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let top = names(folder);
    let below = top.iter().filter(|path| path.is_dir()).flat_map(|path| names(path));
    let files = top.iter().cloned().chain(below);
    let names = files.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
    let mut look = Look::default();
    for name in names {
        if name.ends_with(".tmp") {
            look.unfinished = true;
        } else if name.starts_with("checkpoint-") {
            look.newest = look.newest.max(Some(name));
        }
    }
    look
}

/// Requests of one kind, to each node one per period.
struct Asking(JoinSet<Result<Answers, String>>);

/// When one node answered, from the first request until the end.
struct Answers {
    begun: Instant,
    at: Vec<Instant>,
    ended: Instant,
    /// Answers that said no, and the first of them.
    failed: usize,
    failure: String,
}

impl Answers {
    /// The times without an answer. One that was still awaited at the end counts too.
    fn gaps(&self) -> impl Iterator<Item = Span> {
        let starts = std::iter::once(self.begun).chain(self.at.iter().copied());
        let ends = self.at.iter().copied().chain([self.ended]);
        starts.zip(ends).map(|(from, to)| Span { from, to })
    }
}

impl Asking {
    async fn start(
        servers: &Servers<Roster>,
        probe: Probe,
        stop: &CancellationToken,
    ) -> Result<Self, String> {
        let mut tasks = JoinSet::new();
        for (node, address) in servers.addresses().into_iter().enumerate() {
            let connection = Connection::open(&address).await?;
            tasks.spawn(ask(connection, node, probe.clone(), stop.clone()));
        }
        Ok(Self(tasks))
    }

    /// Ends them, and divides what they saw by whether somebody wrote a checkpoint at that time.
    async fn end(mut self, spans: &[Span]) -> Result<Longest, String> {
        let mut longest = Longest::default();
        while let Some(task) = self.0.join_next().await {
            let answers = task.map_err(|e| e.to_string())??;
            if answers.at.is_empty() {
                let lasted = (answers.ended - answers.begun).as_secs_f64();
                let Answers { failed, failure, .. } = answers;
                return Err(format!(
                    "a node answered nothing well in {lasted:.1} s; {failed} calls failed, such as \
                     {failure}"
                ));
            }
            for gap in answers.gaps() {
                longest.count(gap, (gap.to - gap.from).saturating_sub(PERIOD), spans);
            }
        }
        Ok(longest)
    }
}

async fn ask(
    mut connection: Connection,
    node: usize,
    probe: Probe,
    stop: CancellationToken,
) -> Result<Answers, String> {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let begun = Instant::now();
    let mut answers =
        Answers { begun, at: Vec::new(), ended: begun, failed: 0, failure: String::new() };
    for call in (node..).step_by(NODES) {
        ticks.tick().await;
        if stop.is_cancelled() {
            break;
        }
        let request = probe(call);
        let answer = connection
            .send(request.method, &request.path, request.content_type, request.body)
            .await?;
        if answer.status.is_success() {
            answers.at.push(Instant::now());
        } else {
            if answers.failed == 0 {
                answers.failure = answer.to_string();
            }
            answers.failed += 1;
        }
    }
    answers.ended = Instant::now();
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(at: &[u64], ended: u64) -> Answers {
        let begun = Instant::now();
        let after = |ms: u64| begun + Duration::from_millis(ms);
        let at = at.iter().map(|ms| after(*ms)).collect();
        Answers { begun, at, ended: after(ended), failed: 0, failure: String::new() }
    }

    #[test]
    fn a_wait_counts_beside_the_checkpoint_that_was_written_meanwhile() {
        let begun = Instant::now();
        let span = |from: u64, to: u64| Span {
            from: begun + Duration::from_secs(from),
            to: begun + Duration::from_secs(to),
        };
        let both = |waits: &[Span], writing: &[Span]| {
            let mut longest = Longest::default();
            waits.iter().for_each(|wait| longest.count(*wait, wait.to - wait.from, writing));
            (longest.beside, longest.without)
        };
        let waits = [span(0, 10), span(10, 12), span(20, 24)];
        assert_eq!(both(&waits, &[]), (0.0, 10.0));
        assert_eq!(both(&waits, &[span(10, 11)]), (2.0, 10.0));
        assert_eq!(both(&waits, &[span(4, 5), span(23, 30)]), (10.0, 2.0));
        assert_eq!(both(&waits, &[span(12, 20)]), (0.0, 10.0));
    }

    #[tokio::test]
    async fn the_disk_is_asked_until_nobody_wants_to_know() {
        let folder = tempfile::tempdir().expect("a folder");
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let asking = sync_beside(folder.path(), &stop);
        let written = || std::fs::metadata(folder.path().join("synced")).map_or(0, |it| it.len());
        while written() == 0 {
            tokio::task::yield_now().await;
        }
        drop(guard);
        let syncs = asking.await.expect("no panic").expect("a disk that can be written");
        assert!(!syncs.is_empty());
    }

    #[test]
    fn a_pause_counts_also_before_the_first_answer_and_after_the_last_one() {
        let longest = |answers: &Answers| answers.gaps().map(|gap| gap.to - gap.from).max();
        for (at, ended) in [(&[300, 310][..], 320), (&[10, 310], 320), (&[10, 20], 320), (&[], 300)]
        {
            assert_eq!(longest(&answers(at, ended)), Some(Duration::from_millis(300)), "{at:?}");
        }
    }
}
