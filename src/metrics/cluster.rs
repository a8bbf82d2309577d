//! Raft, the catalogue, and what the leader knows. Nothing of it is known before Raft runs: then the
//! families are told of without a value. None of it walks over instances or sessions.

use std::collections::BTreeMap;
use std::fmt::Error;

use openraft::async_runtime::WatchReceiver;
use roster_storage::catalog::{Catalog, Counts};
use roster_storage::shards;
use roster_storage::version::Version;

use super::families::{Families, NANOSECONDS, family};
use super::flag;
use crate::leaders::{leads, told_leader};
use crate::leading::leading_term;
use crate::node::Running;
use crate::peers::Purpose;

/// What milliseconds are divided by to be seconds.
const MILLISECONDS: f64 = 1e3;

/// What numbers are divided by that are in their family's unit already.
const AS_THEY_ARE: f64 = 1.0;

/// The lowest bits of a state hash: what a metric's floating point holds exactly.
const HASH_BITS: u64 = (1 << 52) - 1;

pub fn tell(running: Option<&Running>, to: &mut Families<'_>) -> Result<(), Error> {
    let version = running.map(|running| running.published.load());
    let version = version.as_deref();
    raft(running, version, to)?;
    followers(running, to)?;
    disk(running, to)?;
    applying(running, to)?;
    state_hash(version, to)?;
    state(version.map(|version| &version.catalog), to)?;
    heartbeats(running, version, to)?;
    expiry(running, version, to)?;
    forwarded(running, to)?;
    watches(running, to)
}

fn raft(
    running: Option<&Running>,
    version: Option<&Version>,
    to: &mut Families<'_>,
) -> Result<(), Error> {
    let number = |of: fn(&Running) -> f64| running.map(of);
    to.gauge(
        family("raft_leading", "Whether this node leads: 1, else 0."),
        number(|r| flag(leads(r))),
    )?;
    to.gauge(
        family("raft_leader_known", "Whether this node knows a leader: 1, else 0."),
        number(|r| flag(told_leader(r).is_some())),
    )?;
    to.gauge(
        family("raft_term", "The Raft term that this node is in."),
        number(|r| r.term() as f64),
    )?;
    to.counter(
        family(
            "raft_leader_changes",
            "How often this node saw another leader begin, the first one among them.",
        ),
        number(|r| r.leaders.changes() as f64),
    )?;
    to.gauge(
        family("raft_last_log_index", "Index of the last entry in this node's log."),
        number(|r| r.raft.metrics().borrow_watched().last_log_index.unwrap_or(0) as f64),
    )?;
    to.gauge(
        family("raft_commit_index", "Index up to which this node knows entries to be committed."),
        number(|r| r.commit() as f64),
    )?;
    to.gauge(
        family(
            "raft_applied_index",
            "Index of the last entry that this node has applied: its revision.",
        ),
        version.map(|version| version.revision().0 as f64),
    )?;
    let members = running.map(|running| {
        let metrics = running.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        [("voter", membership.voter_ids().count()), ("learner", membership.learner_ids().count())]
    });
    to.gauges(
        family("raft_members", "Members of the cluster that this node knows, by their role."),
        members.into_iter().flatten().map(|(role, count)| (vec![("role", role)], count as f64)),
    )
}

/// Known to the leader alone.
fn followers(running: Option<&Running>, to: &mut Families<'_>) -> Result<(), Error> {
    let mut lags = BTreeMap::new();
    if let Some(running) = running.filter(|running| leading_term(&running.raft).is_some()) {
        let metrics = running.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        for (node, matched) in metrics.replication.iter().flatten() {
            if *node != running.config.node_id {
                let matched = matched.as_ref().map_or(0, |id| id.index);
                lags.insert(node.to_string(), last.saturating_sub(matched) as f64);
            }
        }
    }
    to.gauges(
        family(
            "raft_follower_lag_entries",
            "As leader: entries of the log that another node does not have yet.",
        ),
        lags.iter().map(|(node, lag)| (vec![("node", node.as_str())], *lag)),
    )
}

fn disk(running: Option<&Running>, to: &mut Families<'_>) -> Result<(), Error> {
    to.gauge(
        family("raft_log", "What the Raft log takes on disk.").bytes(),
        running.map(|r| r.log.bytes() as f64),
    )?;
    to.histogram(
        family(
            "raft_log_write_duration",
            "Of one append or vote, from where it was handed to the log's writer until it was fsynced.",
        )
        .seconds(),
        NANOSECONDS,
        running.map(|r| r.log.times().read()),
    )?;
    to.gauge(
        family("disk_writable", "Whether more is free on the disk than the reserve, so that this node takes writes: 1, else 0."),
        running.map(|r| flag(r.disk.writable().is_ok())),
    )?;
    to.gauge(
        family("disk_free", "What is free on the disk of the data folder.").bytes(),
        running.and_then(|r| r.disk.free_bytes().ok()).map(|bytes| bytes as f64),
    )?;
    to.gauge(
        family(
            "disk_reserve",
            "Below so much free space this node takes no writes (--disk-reserve-mib).",
        )
        .bytes(),
        running.map(|r| r.config.disk_reserve_bytes as f64),
    )?;
    checkpoints(running, to)
}

fn checkpoints(running: Option<&Running>, to: &mut Families<'_>) -> Result<(), Error> {
    let newest = running.and_then(|running| running.checkpoints.newest());
    let measures = running.map(|running| running.checkpoints.measures());
    to.histogram(
        family("checkpoint_write_duration", "Of one checkpoint that this node wrote.").seconds(),
        NANOSECONDS,
        measures.map(|measures| measures.times.read()),
    )?;
    to.counter(
        family("checkpoint_written", "Written into checkpoints.").bytes(),
        measures.map(|measures| measures.written_bytes() as f64),
    )?;
    to.counter(
        family(
            "checkpoints_installed",
            "Checkpoints of a leader that took the place of this node's state.",
        ),
        measures.map(|measures| measures.installed() as f64),
    )?;
    to.gauge(
        family(
            "checkpoint_index",
            "Index of the last entry in the newest checkpoint; 0 without one.",
        ),
        running.map(|_| newest.as_ref().map_or(0, |newest| newest.index()) as f64),
    )?;
    to.gauge(
        family("checkpoint_size", "Of the newest checkpoint.").bytes(),
        newest.map(|newest| newest.bytes as f64),
    )
}

fn applying(running: Option<&Running>, to: &mut Families<'_>) -> Result<(), Error> {
    to.histogram(
        family("raft_apply_duration", "Of applying one batch of entries and telling of it.")
            .seconds(),
        NANOSECONDS,
        running.map(|r| r.applying.times.read()),
    )?;
    to.histogram(
        family(
            "raft_apply_batch_entries",
            "Entries that were applied together; the sum counts all entries.",
        ),
        AS_THEY_ARE,
        running.map(|r| r.applying.entries.read()),
    )
}

/// Nodes with the same index must have the same hash.
fn state_hash(version: Option<&Version>, to: &mut Families<'_>) -> Result<(), Error> {
    let mark = version.and_then(|version| version.catalog.hash_marks().last());
    to.gauge(
        family("state_hash_mark", "The lowest 52 bits of the state hash at state_hash_mark_index."),
        mark.map(|(_, hash)| (hash & HASH_BITS) as f64),
    )?;
    to.gauge(
        family("state_hash_mark_index", "The last index divisible by 1,024 that this node has applied; nodes with the same one must have the same state_hash_mark."),
        mark.map(|(index, _)| index as f64),
    )
}

fn state(catalog: Option<&Catalog>, to: &mut Families<'_>) -> Result<(), Error> {
    let number = |of: fn(&Catalog) -> f64| catalog.map(of);
    to.gauges(
        family("instances", "Live instances of all apps by the state that clients see."),
        catalog.into_iter().flat_map(by_state).map(|(s, count)| (vec![("state", s)], count as f64)),
    )?;
    to.gauge(family("apps", "Apps."), number(|c| c.app_count() as f64))?;
    to.gauge(
        family("sessions", "Sessions, those of single instances among them."),
        number(|c| c.session_count() as f64),
    )?;
    to.gauge(
        family(
            "suspect_sessions",
            "Sessions that fell silent in a mass loss and are not removed yet.",
        ),
        number(|c| c.suspect_count() as f64),
    )?;
    to.gauge(
        family(
            "overrides",
            "Instance ids that an operator drains or has in maintenance, live or not.",
        ),
        number(|c| c.override_count() as f64),
    )?;
    let sets = catalog.map(shard_counts);
    to.gauge(family("shard_sets", "Shard sets."), number(|c| c.shard_sets().count() as f64))?;
    let shards = sets.map(|sets| {
        [
            ("held", sets.assigned - sets.pending),
            ("moving", sets.pending),
            ("orphaned", sets.orphaned),
            ("deleted", sets.gone),
        ]
    });
    to.gauges(
        family("shards", "Shards of all shard sets: held, moving to another worker, without a worker, deleted and not let go yet."),
        shards.into_iter().flatten().map(|(s, count)| (vec![("state", s)], count as f64)),
    )?;
    let workers = sets.map(|sets| {
        let (all, available) = (sets.workers, sets.available_workers);
        [("available", available), ("leaving", all - available)]
    });
    to.gauges(
        family("shard_workers", "Workers of all shard sets: available, or leaving since they drain or are in maintenance."),
        workers.into_iter().flatten().map(|(s, count)| (vec![("state", s)], count as f64)),
    )
}

fn by_state(catalog: &Catalog) -> [(&'static str, u64); 4] {
    let Counts { up, suspect, draining, maintenance } = catalog.total_counts();
    [("up", up), ("suspect", suspect), ("draining", draining), ("maintenance", maintenance)]
}

/// Added up over the sets, of which there are few.
fn shard_counts(catalog: &Catalog) -> shards::Counts {
    let all = catalog.shard_sets().map(|(_, set)| set.group.counts());
    all.fold(shards::Counts::default(), |sum, of| shards::Counts {
        shards: sum.shards + of.shards,
        assigned: sum.assigned + of.assigned,
        pending: sum.pending + of.pending,
        orphaned: sum.orphaned + of.orphaned,
        gone: sum.gone + of.gone,
        workers: sum.workers + of.workers,
        available_workers: sum.available_workers + of.available_workers,
    })
}

fn heartbeats(
    running: Option<&Running>,
    version: Option<&Version>,
    to: &mut Families<'_>,
) -> Result<(), Error> {
    let calls = running.map(|running| running.forward.heartbeat_call_counts());
    let by_form = calls.map(|calls| [("single", calls.single), ("batched", calls.batched)]);
    to.counters(
        family(
            "heartbeat_calls",
            "Heartbeat calls of clients to this node, with one heartbeat or with many.",
        ),
        by_form.into_iter().flatten().map(|(form, count)| (vec![("form", form)], count as f64)),
    )?;
    to.counter(
        family("heartbeat_calls_late", "Heartbeat calls of clients to this node that waited for half a second or were refused."),
        calls.map(|calls| calls.late as f64),
    )?;
    to.counter(
        family(
            "heartbeat_calls_refused",
            "Heartbeat calls of clients to this node that were refused.",
        ),
        calls.map(|calls| calls.refused as f64),
    )?;
    to.counter(
        family(
            "heartbeats",
            "As leader: heartbeats that this node took, from clients of all nodes.",
        ),
        running.map(|r| r.leases.heartbeats_so_far() as f64),
    )?;
    to.gauge(
        family("heartbeat_stretch_ratio", "By how much TTLs and the time between heartbeats are lengthened for all: 1 is not at all."),
        version.map(|version| f64::from(version.catalog.pace().told_percent) / 100.0),
    )
}

fn expiry(
    running: Option<&Running>,
    version: Option<&Version>,
    to: &mut Families<'_>,
) -> Result<(), Error> {
    to.histogram(
        family("expiry_lateness", "As leader: from the deadline of a session until its removal was applied. The brake holds some for minutes.").seconds(),
        MILLISECONDS,
        running.map(|r| r.leases.lateness().read()),
    )?;
    to.gauge(
        family(
            "expiries_held_back",
            "As leader: overdue sessions that the brake does not let go yet.",
        ),
        running.map(|r| r.leases.held_back() as f64),
    )?;
    let mut brakes = BTreeMap::from([("all", 0.0), ("app", 0.0), ("node", 0.0)]);
    for (scope, _) in version.into_iter().flat_map(|version| version.catalog.brakes()) {
        *brakes.entry(scope.word()).or_default() += 1.0;
    }
    to.gauges(
        family("brakes", "Mass-loss brakes that are on, by what they are about."),
        brakes.into_iter().filter(|_| version.is_some()).map(|(s, n)| (vec![("scope", s)], n)),
    )?;
    to.counter(
        family(
            "lease_delay",
            "As leader: own delays, as of a paused process, that were left out of all deadlines.",
        )
        .seconds(),
        running.map(|r| r.leases.clock.held_ms() as f64 / MILLISECONDS),
    )
}

fn forwarded(running: Option<&Running>, to: &mut Families<'_>) -> Result<(), Error> {
    let purposes = [
        ("writes", Purpose::Writes),
        ("reads", Purpose::Reads),
        ("heartbeats", Purpose::Heartbeats),
    ];
    let counts =
        running.map(|r| purposes.map(|(word, of)| (word, r.forward.forwarded().of(of).counts())));
    to.counters(
        family(
            "forwarded_calls",
            "Calls of this node to the leader, each with what was gathered meanwhile.",
        ),
        counts.iter().flatten().map(|(word, (made, _))| (vec![("purpose", *word)], *made as f64)),
    )?;
    to.counters(
        family("forwarded_calls_failed", "Calls of this node to the leader that got no answer."),
        counts
            .iter()
            .flatten()
            .map(|(word, (_, failed))| (vec![("purpose", *word)], *failed as f64)),
    )
}

fn watches(running: Option<&Running>, to: &mut Families<'_>) -> Result<(), Error> {
    let load = running.map(|running| running.watches.load());
    to.gauge(
        family("watchers", "Watches and long polls that are open on this node."),
        load.map(|load| load.followers as f64),
    )?;
    to.gauge(
        family(
            "watchers_max",
            "Watches and long polls that may be open on this node (--watches-max).",
        ),
        load.map(|load| load.followers_max as f64),
    )?;
    to.counter(
        family("watch_changes", "Changes that were handed to readers, once for each of them."),
        load.map(|load| load.changes as f64),
    )?;
    to.counter(
        family("watch_queue_overflows", "How often a reader was so slow that its queue was dropped, and read on from the event log."),
        load.map(|load| load.overflows as f64),
    )?;
    to.counter(
        family(
            "watch_cut_lagging",
            "Readers that were cut since they took nothing for ten seconds.",
        ),
        load.map(|load| load.lagging as f64),
    )?;
    to.counter(
        family(
            "watch_cut_compacted",
            "Readers that were cut since what came next was not kept any more.",
        ),
        load.map(|load| load.compacted as f64),
    )?;
    to.gauge(
        family("event_log_changes", "Changes that are kept in memory."),
        load.map(|load| load.log_changes as f64),
    )?;
    to.gauge(
        family("event_log", "What the changes in memory take, by estimate.").bytes(),
        load.map(|load| load.log_bytes as f64),
    )?;
    let history = running.map(|running| running.watches.history_now());
    to.gauge(
        family("history_open", "Whether this node has a history that works: 1, else 0."),
        history.as_ref().map(|history| flag(history.is_some())),
    )?;
    to.gauge(
        family(
            "history_wanted",
            "Whether this node is to keep a history (--history-mib is not 0): 1, else 0.",
        ),
        running.map(|running| flag(running.config.history.is_some())),
    )?;
    let history = history.flatten();
    to.gauge(
        family("history", "What all changes in the history take.").bytes(),
        history.as_ref().map(|history| history.bytes_kept() as f64),
    )?;
    to.gauge(
        family("history_disk", "What the files of the history take.").bytes(),
        history.and_then(|history| history.bytes_on_disk().ok()).map(|bytes| bytes as f64),
    )
}
