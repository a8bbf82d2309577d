//! The threads of a node, in three groups, so that nothing that a client asks for can keep a leader
//! from leading.
//!
//! - The **core** runs Raft, the peers' port, the lease keeper and the way to the leader of all but
//!   heartbeats. Whatever comes in there was bounded and gathered before.
//! - The **client threads** serve the API: they parse requests, answer light ones and write to
//!   sockets. Heartbeats are gathered there and taken to the leader (while the node loads its
//!   state, by the core), so nothing that takes long runs there.
//! - The **background threads** do what takes long: searches, long lists, snapshots for watches,
//!   reads of the history. The kernel gives them what the others leave.

use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::sleep;

use crate::serve::HEAD_TIMEOUT;

/// How much nicer the background threads are than the others: where all want the same core, they get
/// about a tenth of it.
const BACKGROUND_NICE: i32 = 10;

/// How long the core's last work may take when a node has ended. A name server that does not answer
/// holds a thread for many seconds, longer than who stops the process waits before killing it.
const LAST_WORK_TIMEOUT: Duration = Duration::from_secs(1);

/// See [`keep_a_timer`].
const TIMER_KEPT: Duration = Duration::from_secs(5);

const _: () = assert!(TIMER_KEPT.as_secs() < HEAD_TIMEOUT.as_secs(), "it would be the later one");

/// How many threads each group has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadCounts {
    pub core: usize,
    pub clients: usize,
    pub background: usize,
}

/// The threads of one node. Dropped, and so ended, by who started them.
#[derive(Debug)]
pub struct Threads {
    core: Runtime,
    clients: Runtime,
    background: Runtime,
}

/// Where the parts of a node run that are not the core.
#[derive(Clone, Debug)]
pub struct Places {
    pub clients: Handle,
    pub background: Handle,
}

impl Threads {
    pub fn start(counts: ThreadCounts) -> std::io::Result<Self> {
        let mut background = group("background", counts.background);
        background.on_thread_start(yield_to_others);
        let clients = group("clients", counts.clients).build()?;
        clients.spawn(keep_a_timer());
        Ok(Self {
            core: group("core", counts.core).build()?,
            clients,
            background: background.build()?,
        })
    }

    pub fn places(&self) -> Places {
        Places {
            clients: self.clients.handle().clone(),
            background: self.background.handle().clone(),
        }
    }

    /// Runs a node on the core. What is left on the other threads when it ends is dropped, and what
    /// is left on the core after a moment.
    pub fn run<T>(self, node: impl Future<Output = T>) -> T {
        let ended = self.core.block_on(node);
        self.background.shutdown_background();
        self.clients.shutdown_background();
        self.core.shutdown_timeout(LAST_WORK_TIMEOUT);
        ended
    }
}

fn group(name: &str, threads: usize) -> Builder {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(threads).thread_name(name).enable_all();
    builder
}

/// Ends before the timer that each request sets, for the time that its client has to send the next one, and
/// begins anew. tokio wakes the thread that waits for timers, by a system call, where one is set that is
/// earlier than all the others.
async fn keep_a_timer() {
    loop {
        sleep(TIMER_KEPT).await;
    }
}

/// On Linux this is of the calling thread alone.
fn yield_to_others() {
    if let Err(e) = rustix::process::nice(BACKGROUND_NICE) {
        tracing::warn!("the background threads run like all others: {e}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_node_that_ended_does_not_wait_for_a_thread_that_hangs() {
        let one_each = ThreadCounts { core: 1, clients: 1, background: 1 };
        let threads = Threads::start(one_each).expect("they start");
        let (answer, name_server) = mpsc::channel::<()>();
        let (tell, ended) = mpsc::channel();
        std::thread::spawn(move || {
            threads.run(async {
                tokio::task::spawn_blocking(move || name_server.recv());
            });
            tell.send(())
        });
        ended.recv_timeout(Duration::from_secs(60)).expect("it ends");
        drop(answer);
    }
}
