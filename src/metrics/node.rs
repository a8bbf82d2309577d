//! This node: whether it serves, what clients ask of it, what its process uses.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::families::{Families, NANOSECONDS, family};
use super::{Seen, flag};
use crate::node::VERSION;
use crate::process;

/// What every node tells from its first moment.
pub fn tell(seen: &Seen, to: &mut Families<'_>) -> Result<(), Error> {
    service(seen, to)?;
    http(seen, to)?;
    background(seen, to)?;
    writes(seen, to)
}

fn service(seen: &Seen, to: &mut Families<'_>) -> Result<(), Error> {
    to.gauges(
        family("build_info", "Always 1; the version of the binary is in its label."),
        [(vec![("version", VERSION)], 1.0)],
    )?;
    let ready = seen.checks.iter().all(|check| check.result.is_ok());
    to.gauge(family("ready", "Whether all checks of /readyz pass: 1, else 0."), Some(flag(ready)))?;
    to.gauges(
        family(
            "ready_check",
            "Whether one check of /readyz passes: 1, else 0. A node that starts has one.",
        ),
        seen.checks.iter().map(|c| (vec![("check", c.name)], flag(c.result.is_ok()))),
    )?;
    to.gauge(
        family("starting", "Whether the node starts, joins or loads its state still: 1, else 0."),
        Some(flag(seen.running.is_none())),
    )
}

fn http(seen: &Seen, to: &mut Families<'_>) -> Result<(), Error> {
    let requests = seen.traffic.requests();
    let counted = requests.iter().flat_map(|of| {
        of.answered.iter().map(|(answered, count)| {
            let labels =
                vec![("route", &*of.route), ("method", of.method), ("answer", answered.word())];
            (labels, *count as f64)
        })
    });
    to.counters(
        family(
            "http_requests",
            "Requests of clients by the router's template, method and class of the answer; hung-up: the client went before it.",
        ),
        counted,
    )?;
    let times = requests
        .iter()
        .map(|of| (vec![("route", &*of.route), ("method", of.method)], of.times.clone()));
    to.histograms(
        family(
            "http_request_duration",
            "Until the answer began. Long polls and waits for locks last as long as their clients want.",
        )
        .seconds(),
        NANOSECONDS,
        times,
    )?;
    to.gauge(
        family("http_requests_in_flight", "Requests of clients that are not answered yet."),
        Some(seen.traffic.in_flight() as f64),
    )?;
    to.gauge(
        family("http_connections", "Clients that are connected."),
        Some(seen.connections as f64),
    )?;
    to.gauge(
        family("http_connections_max", "Clients that may be connected (--connections)."),
        Some(seen.connections_max as f64),
    )
}

fn background(seen: &Seen, to: &mut Families<'_>) -> Result<(), Error> {
    let load = seen.aside;
    to.gauge(
        family("background_running", "Searches, long lists and pieces of snapshots under way."),
        Some(load.running as f64),
    )?;
    to.gauge(
        family(
            "background_running_max",
            "Searches, long lists and pieces of snapshots that may be under way at once.",
        ),
        Some(load.running_max as f64),
    )?;
    to.gauge(
        family("background_waiting", "Searches and long lists that wait for their turn."),
        Some(load.waiting as f64),
    )?;
    to.counter(
        family(
            "background_refused",
            "Searches and long lists that were refused, since too many waited.",
        ),
        Some(load.refused as f64),
    )
}

fn writes(seen: &Seen, to: &mut Families<'_>) -> Result<(), Error> {
    to.counters(
        family(
            "proposals",
            "Writes that clients asked this node for, by what became of them: decided, refused by the state, or why not taken.",
        ),
        seen.counts.proposals().map(|(result, count)| (vec![("result", result)], count as f64)),
    )?;
    to.counter(
        family(
            "heartbeat_calls_detoured",
            "Heartbeat calls that were taken to the leader while this node loaded its state.",
        ),
        Some(seen.counts.heartbeats_detoured() as f64),
    )
}

/// What the kernel counts of this process, under the names that all programs tell it by.
#[derive(Debug)]
pub struct Process;

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut to = Families(encoder);
        let usage = process::usage();
        to.counter(
            family("process_cpu", "CPU time of this process, of all its threads.").seconds(),
            Some(usage.cpu_seconds),
        )?;
        to.gauge(
            family("process_resident_memory", "Memory of this process that is in RAM.").bytes(),
            Some(usage.memory_bytes as f64),
        )?;
        let status = process::status();
        to.gauge(
            family("process_virtual_memory", "Address space of this process.").bytes(),
            status.map(|status| status.virtual_bytes as f64),
        )?;
        to.gauge(
            family("process_threads", "Threads of this process."),
            status.map(|status| status.threads as f64),
        )?;
        to.gauge(
            family("process_start_time", "When this process started, since 1970.").seconds(),
            process::started_at_seconds(),
        )?;
        to.gauge(
            family("process_open_fds", "Files and connections that this process has open."),
            process::open_files().map(|count| count as f64),
        )?;
        to.gauge(
            family("process_max_fds", "Files and connections that this process may have open."),
            process::file_limit().map(|count| count as f64),
        )
    }
}
