//! What a node tells those who watch it: `GET /metrics`.
//!
//! All of it is read when it is asked for, from the state itself and from counters that stand where the
//! work is done: nothing is copied by a timer. [`node`] tells of this process and what clients ask of
//! it, [`cluster`] of Raft, the catalogue and the leader's knowledge. `docs/metrics.md` lists all
//! families; a test holds it against a live node.
//!
//! Nothing that a client names (apps, ids, paths) becomes a label: labels are words of this program,
//! the router's templates and the ids of member nodes.

mod cluster;
pub mod counts;
mod families;
mod node;
mod text;

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;
use roster_api::registry::{Check, Exposition};
use roster_api::traffic::Traffic;

use crate::aside::AsideLoad;
use crate::node::Running;
use families::Families;

/// What a node looks like when it is asked.
#[derive(Clone)]
pub struct Seen {
    /// `None` while it starts, joins or loads.
    pub running: Option<Arc<Running>>,
    pub checks: Vec<Check>,
    pub traffic: Traffic,
    pub aside: AsideLoad,
    /// Clients that are connected, and how many may be.
    pub connections: usize,
    pub connections_max: usize,
    pub counts: Arc<counts::Counts>,
}

impl Seen {
    /// All families, in one text.
    pub fn tell(self, form: Exposition) -> String {
        let mut ours = Registry::with_prefix("roster");
        ours.register_collector(Box::new(Ours(self)));
        // The names that every dashboard for processes knows.
        let mut process = Registry::default();
        process.register_collector(Box::new(node::Process));
        let mut told = String::with_capacity(64 << 10);
        let written = encode_registry(&mut told, &ours)
            .and_then(|()| encode_registry(&mut told, &process))
            .and_then(|()| encode_eof(&mut told));
        if written.is_err() {
            tracing::error!("the metrics could not be written whole");
        }
        match form {
            Exposition::OpenMetrics => told,
            Exposition::Text => text::from_open_metrics(&told),
        }
    }
}

struct Ours(Seen);

impl Collector for Ours {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut families = Families(encoder);
        node::tell(&self.0, &mut families)?;
        cluster::tell(self.0.running.as_deref(), &mut families)
    }
}

impl fmt::Debug for Ours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ours")
    }
}

/// 1 or 0.
fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}
