//! The threads of a node, in three groups, so that nothing that a client asks for can keep a leader
//! from leading.
//!
//! - The **core** runs Raft, the peers' port, the lease keeper and the way to the leader. Whatever
//!   comes in there was bounded and gathered before.
//! - The **client threads** serve the API: they parse requests, answer light ones and write to
//!   sockets. Heartbeats pass through them, so nothing that takes long runs there.
//! - The **background threads** do what takes long: searches, long lists, snapshots for watches,
//!   reads of the history. The kernel gives them what the others leave.

use tokio::runtime::{Builder, Handle, Runtime};

/// How much nicer the background threads are than the others: where all want the same core, they get
/// about a tenth of it.
const BACKGROUND_NICE: i32 = 10;

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
        Ok(Self {
            core: group("core", counts.core).build()?,
            clients: group("clients", counts.clients).build()?,
            background: background.build()?,
        })
    }

    pub fn places(&self) -> Places {
        Places {
            clients: self.clients.handle().clone(),
            background: self.background.handle().clone(),
        }
    }

    /// Runs a node on the core. What is left on the other threads when it ends is dropped.
    pub fn run<T>(self, node: impl Future<Output = T>) -> T {
        let ended = self.core.block_on(node);
        self.background.shutdown_background();
        self.clients.shutdown_background();
        ended
    }
}

fn group(name: &str, threads: usize) -> Builder {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(threads).thread_name(name).enable_all();
    builder
}

/// On Linux this is of the calling thread alone.
fn yield_to_others() {
    if let Err(e) = rustix::process::nice(BACKGROUND_NICE) {
        tracing::warn!("the background threads run like all others: {e}");
    }
}
