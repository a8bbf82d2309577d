//! `roster bench scale`: the figures that are wanted of a million instances, measured on this machine.
//!
//! It starts three nodes of its own, with default settings and everything durable, and throws them
//! away at the end. etcd does beside it what it can do too, in the same run, if its server
//! is installed. The load comes from the same machine, so CPU figures are those of the servers alone.

mod checkpoint;
mod figures;
mod fill;
mod lateness;
mod machine;
mod outage;
mod roster;
mod servers;
pub(super) mod system;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::http::Method;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;

use super::etcd::Etcd;
use super::http::Connection;
use super::load::{Job, Load, Measured as Loaded, Request, run_load};
use super::{LISTED, MANY, register_job};
use crate::shutdown;
use figures::{Figure, Line, Measured, Peer, Report, grouped};
use fill::{Beating, Filling, come_to_rest, fill, send_each, settled_memory};
use machine::Machine;
use roster::{HEARTBEATS_AT_ONCE, REGISTERED_AT_ONCE, Roster};
use servers::Servers;
use system::System;

/// Some figures are also wanted of so many instances, and etcd is measured with no more.
const SMALL: usize = 100_000;

const FLEET_MIN: u64 = 1_000;
const FLEET_MAX: u64 = 5_000_000;

/// Connections that send many heartbeats per call.
const BATCHING: usize = 6;

/// Connections that register many instances per call: so many that the nodes do not wait for them. With
/// six, two cores were idle for a seventh of the time.
const REGISTERING: usize = 16;

/// Each instance heartbeats once in this time while all do, as with the default TTL.
const BEAT_EVERY: Duration = Duration::from_secs(5);

/// How wide the table is where nobody says how wide the terminal is.
const WIDTH: usize = 140;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "For the suite `scale`")]
pub struct Options {
    /// Instances that are registered
    #[arg(long, default_value_t = 1_000_000, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(FLEET_MIN..=FLEET_MAX))]
    instances: u64,
    /// Leaders that are killed, to see for how long no write is taken
    #[arg(long, default_value_t = 20, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=1_000))]
    kills: u64,
    /// Instances that stop heartbeating, to see how late they are removed
    #[arg(long, default_value_t = 100, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    tries: u64,
    /// Make the servers' temporary folders here [default: the system's folder for temporary files]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Write the figures into this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure nodes of this program, such as another version of it [default: this very one]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Do not measure etcd, also if it is installed
    #[arg(long)]
    no_etcd: bool,
}

/// What is measured how.
struct Plan {
    fleet: usize,
    kills: usize,
    tries: usize,
    duration: Duration,
    figures: Vec<Figure>,
    folder: PathBuf,
    /// The nodes are this program.
    program: PathBuf,
}

impl Plan {
    fn wants(&self, figures: &[Figure]) -> bool {
        figures.iter().any(|figure| self.figures.contains(figure))
    }
}

/// Measures and prints. The error is for the terminal.
pub async fn run(options: &Options, duration: Duration, only: Option<&str>) -> Result<(), String> {
    let stop = shutdown::on_signal().map_err(|e| format!("cannot listen for signals: {e}"))?;
    let plan = plan(options, duration, only)?;
    let machine = Machine::look(&plan.folder);
    print_facts(&machine, &plan);
    let etcd = if options.no_etcd { None } else { Etcd::found(plan.fleet.min(SMALL)) };
    if let Some(etcd) = &etcd {
        println!("etcd {}", etcd.description().await);
    }
    let (of_roster, of_etcd) = (Sink::default(), Sink::default());
    let measuring = async {
        measure_roster(&plan, &of_roster).await?;
        match &etcd {
            Some(etcd) => measure_etcd(&plan, etcd.clone(), &of_etcd).await,
            None => Ok(()),
        }
    };
    let end = tokio::select! {
        end = measuring => end,
        // What was measured until now is shown; the servers end with what was dropped.
        () = stop.cancelled() => Err("stopped before the end; nothing is left behind".into()),
    };
    let roster = of_roster.taken();
    let etcd = match (etcd, options.no_etcd) {
        (Some(_), _) => Peer::Measured(of_etcd.taken()),
        (None, true) => Peer::Absent("not asked"),
        (None, false) => Peer::Absent("not found"),
    };
    let report = Report { fleet: plan.fleet, figures: &plan.figures, roster: &roster, etcd: &etcd };
    println!("\n{}\n{}", report.header(width()), report.text(width()));
    if let Some(file) = &options.json {
        write_json(file, &machine, &plan, &report)?;
    }
    end?;
    if roster.has_failed() { Err("some figures could not be measured".into()) } else { Ok(()) }
}

fn plan(options: &Options, duration: Duration, only: Option<&str>) -> Result<Plan, String> {
    let figures: Vec<Figure> = Figure::ALL
        .into_iter()
        .filter(|figure| only.is_none_or(|only| figure.what().contains(only)))
        .collect();
    if figures.is_empty() {
        let all: Vec<_> = Figure::ALL.into_iter().map(Figure::what).collect();
        return Err(format!(
            "--only: no figure has that in its name; there are\n{}",
            all.join("\n")
        ));
    }
    let folder = options.data_dir.clone().unwrap_or_else(std::env::temp_dir);
    if !folder.is_dir() {
        return Err(format!("--data-dir {}: there is no such folder", folder.display()));
    }
    let program = match &options.program {
        Some(program) => program.canonicalize().map_err(|e| (program.display().to_string(), e)),
        None => std::env::current_exe().map_err(|e| ("this one".to_owned(), e)),
    };
    let program = program.map_err(|(which, e)| format!("--program: cannot find {which}: {e}"))?;
    Ok(Plan {
        fleet: options.instances as usize,
        kills: options.kills as usize,
        tries: options.tries as usize,
        duration,
        figures,
        folder,
        program,
    })
}

fn print_facts(machine: &Machine, plan: &Plan) {
    println!("{machine}");
    println!(
        "roster {} ({}), three nodes, default settings, everything durable",
        env!("CARGO_PKG_VERSION"),
        plan.program.display()
    );
    println!(
        "{} instances, {} bytes of metadata each; {} per load; the servers share the cores with the \
         load",
        grouped(plan.fleet as f64),
        system::METADATA_BYTES,
        humantime::format_duration(plan.duration)
    );
    if cfg!(debug_assertions) {
        println!(
            "\nTHIS IS A DEBUG BUILD: it is many times slower, and its figures say nothing. Build with \
             `cargo build --release`.\n"
        );
    }
    if machine.is_busy() {
        println!(
            "\nOTHERS USE THIS MACHINE: its load was {:.1} before the servers were started. Rates and \
             times are worse than they are by themselves, CPU figures somewhat.\n",
            machine.load_before
        );
    }
    if machine.writes_to_memory() {
        println!(
            "\nTHE DATA IS IN MEMORY: nothing is durable there and a sync costs nothing, so the \
             figures are too good. Name a folder on a disk with --data-dir.\n"
        );
    }
}

/// Where figures go while they are measured, so that an interrupted run can show what it has.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Measured>>);

impl Sink {
    fn taken(&self) -> Measured {
        self.0.lock().clone()
    }

    /// What came of one measurement that has all of these figures. A failure is theirs alone: the
    /// others go on.
    fn put<T>(
        &self,
        name: &str,
        figures: &[Figure],
        result: Result<T, String>,
        store: impl FnOnce(T, &mut Measured),
    ) {
        let mut measured = self.0.lock();
        match result {
            Ok(value) => store(value, &mut measured),
            Err(e) => figures.iter().for_each(|figure| measured.fail(*figure, &e)),
        }
        eprintln!("{name}{}", measured.progress(figures));
    }
}

/// The terminal's, or what the environment says.
fn width() -> usize {
    let out = std::io::stdout();
    let of_terminal = || {
        let size = rustix::termios::tcgetwinsize(&out).ok()?;
        (out.is_terminal() && size.ws_col > 0).then_some(usize::from(size.ws_col))
    };
    let told = || std::env::var("COLUMNS").ok()?.parse().ok();
    of_terminal().or_else(told).unwrap_or(WIDTH)
}

#[derive(Serialize)]
struct Document<'a> {
    version: &'static str,
    debug_build: bool,
    machine: &'a Machine,
    instances: usize,
    metadata_bytes: usize,
    load_ms: u128,
    figures: Vec<Line>,
}

fn write_json(
    file: &std::path::Path,
    machine: &Machine,
    plan: &Plan,
    report: &Report<'_>,
) -> Result<(), String> {
    let document = Document {
        version: env!("CARGO_PKG_VERSION"),
        debug_build: cfg!(debug_assertions),
        machine,
        instances: plan.fleet,
        metadata_bytes: system::METADATA_BYTES,
        load_ms: plan.duration.as_millis(),
        figures: report.lines(),
    };
    let text = serde_json::to_string_pretty(&document).map_err(|e| e.to_string())?;
    std::fs::write(file, text + "\n").map_err(|e| format!("--json {}: {e}", file.display()))
}

/// Everything with Roster. First what needs a small state, then with more and more instances; what
/// leaves the nodes changed comes last.
async fn measure_roster(plan: &Plan, sink: &Sink) -> Result<(), String> {
    use Figure::{Memory, MemorySmall, Restart, RestartSmall};
    let system = Roster { program: plan.program.clone(), fleet: plan.fleet };
    let mut servers = Servers::start(system, &plan.folder).await?;
    outages(plan, &mut servers, sink, "").await;
    let outages_only = [Figure::OutageMedian, Figure::OutageWorst];
    if plan.figures.iter().all(|figure| outages_only.contains(figure)) {
        return Ok(());
    }
    servers.ensure_up().await?;
    let empty = settled_memory(&servers).await;
    let filling = Filling { at_once: REGISTERED_AT_ONCE, connections: REGISTERING };
    let small = plan.fleet.min(SMALL);
    let busy = servers.cpu_seconds();
    let mut took = fill(&servers, 0..small, &filling).await?;
    let mut cpu = servers.cpu_seconds() - busy;
    let grown = (&empty[..], small);
    memory_and_restart(plan, &mut servers, grown, [MemorySmall, RestartSmall], sink, "").await;
    if plan.fleet > small {
        servers.ensure_up().await?;
        let busy = servers.cpu_seconds();
        took += fill(&servers, small..plan.fleet, &filling).await?;
        cpu += servers.cpu_seconds() - busy;
        let grown = (&empty[..], plan.fleet);
        memory_and_restart(plan, &mut servers, grown, [Memory, Restart], sink, "").await;
    }
    sink.put("", &[Figure::RegisterBatched], Ok(took), |took, measured| {
        let thousands = plan.fleet as f64 / 1e3;
        measured.set(Figure::RegisterBatched, thousands * 1e3 / took.as_secs_f64());
        let note = format!("{REGISTERING} writers, {:.4} CPU s per 1,000", cpu / thousands);
        measured.note(Figure::RegisterBatched, note);
    });
    loads(plan, &mut servers, sink).await;
    removals(plan, &mut servers, sink, "").await;
    removals_beside_all(plan, &mut servers, sink).await;
    new_leader(plan, &mut servers, sink).await;
    checkpoints(plan, &mut servers, sink).await;
    Ok(())
}

/// What etcd can do too.
async fn measure_etcd(plan: &Plan, system: Etcd, sink: &Sink) -> Result<(), String> {
    use Figure::{HeartbeatCpu, ListCpu, MemorySmall, Register, RestartSmall};
    let name = "etcd: ";
    let mut servers = Servers::start(system, &plan.folder).await?;
    outages(plan, &mut servers, sink, name).await;
    servers.ensure_up().await?;
    let filled = [HeartbeatCpu, Register, MemorySmall, RestartSmall];
    if plan.wants(&filled) {
        let empty = settled_memory(&servers).await;
        let small = plan.fleet.min(SMALL);
        fill(&servers, 0..small, &Filling { at_once: 1, connections: MANY }).await?;
        let grown = (&empty[..], small);
        memory_and_restart(plan, &mut servers, grown, [MemorySmall, RestartSmall], sink, name)
            .await;
    }
    let heartbeat: Job = Arc::new({
        let system = servers.system.clone();
        move |worker, call| system.heartbeat(system::mixed(worker << 40 | call) as usize)
    });
    if plan.wants(&[HeartbeatCpu]) {
        let beaten = load(plan, &mut servers, heartbeat, MANY, 1, 1).await;
        put_cpu(sink, name, HeartbeatCpu, beaten);
    }
    if plan.wants(&[ListCpu]) {
        let listed = async {
            for number in 0..LISTED {
                for half in [0, 1] {
                    send(&servers, Etcd::register("listed", number, half)).await?;
                }
            }
            let list: Job = Arc::new(|_, _| Etcd::list("listed/"));
            load(plan, &mut servers, list, MANY, 1, 1).await
        };
        put_cpu(sink, name, ListCpu, listed.await);
    }
    if plan.wants(&[Register]) {
        let register: Job = Arc::new(|worker, call| {
            Etcd::register("single", (call / 2) * MANY + worker + LISTED, call % 2)
        });
        let registered = load(plan, &mut servers, register, MANY, 1, 2).await;
        sink.put(name, &[Register], registered, |load, measured| {
            measured.set(Register, load.per_second / 2.0);
            measured.note(Register, format!("a lease, then a key on it; {}", load.note));
        });
    }
    removals(plan, &mut servers, sink, name).await;
    Ok(())
}

async fn send<S: System>(servers: &Servers<S>, request: Request) -> Result<(), String> {
    let Request { method, path, content_type, body } = request;
    let mut connection = Connection::open(&servers.addresses()[0]).await?;
    let answer = connection.send(method, &path, content_type, body).await?;
    if answer.status.is_success() { Ok(()) } else { Err(answer.to_string()) }
}

/// A load as the table shows it.
struct Loading {
    per_second: f64,
    /// Of all servers, per 1,000 operations.
    cpu_per_thousand: f64,
    note: String,
}

async fn load<S: System>(
    plan: &Plan,
    servers: &mut Servers<S>,
    job: Job,
    connections: usize,
    per_call: usize,
    round: usize,
) -> Result<Loading, String> {
    servers.ensure_up().await?;
    come_to_rest(servers).await;
    let load = Load { name: String::new(), connections, per_call, round, job };
    let before = servers.cpu_seconds();
    let loaded = run_load(&servers.addresses(), &load, plan.duration).await?;
    let cpu = servers.cpu_seconds() - before;
    if loaded.operations == 0 {
        return Err(format!("no call succeeded; the first: {}", loaded.failure));
    }
    let per_second = loaded.operations as f64 / loaded.seconds;
    Ok(Loading {
        per_second,
        cpu_per_thousand: cpu / loaded.operations as f64 * 1_000.0,
        note: told_of(&loaded, per_second),
    })
}

fn told_of(loaded: &Loaded, per_second: f64) -> String {
    let mut note = format!(
        "{} per second, p50 {:.2} ms, p99 {:.2} ms",
        grouped(per_second),
        loaded.percentile_ms(0.50),
        loaded.percentile_ms(0.99)
    );
    if loaded.failed > 0 {
        note += &format!("; {} calls failed, such as {}", loaded.failed, loaded.failure);
    }
    note
}

fn put_cpu(sink: &Sink, name: &str, figure: Figure, load: Result<Loading, String>) {
    sink.put(name, &[figure], load, |load, measured| {
        measured.set(figure, load.cpu_per_thousand);
        measured.note(figure, load.note);
    });
}

async fn outages<S: System>(plan: &Plan, servers: &mut Servers<S>, sink: &Sink, name: &str) {
    let figures = [Figure::OutageMedian, Figure::OutageWorst];
    if !plan.wants(&figures) {
        return;
    }
    let system = servers.system.clone();
    let probe: outage::Probe = Arc::new(move |number| system.write(number));
    let outages = outage::after_kills(servers, plan.kills, &probe).await;
    sink.put(name, &figures, outages, |outages, measured| {
        measured.set(Figure::OutageMedian, percentile(&outages, 0.50));
        measured.set(Figure::OutageWorst, percentile(&outages, 1.0));
        measured.note(Figure::OutageWorst, format!("of {} kills", outages.len()));
    });
}

/// The value below which this part of them is; they are sorted.
fn percentile(sorted: &[f64], part: f64) -> f64 {
    let at = (sorted.len().saturating_sub(1) as f64 * part).ceil() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// `grown`: the memory of each node when it was empty, and how many instances there are now.
async fn memory_and_restart<S: System>(
    plan: &Plan,
    servers: &mut Servers<S>,
    grown: (&[u64], usize),
    [memory, restart]: [Figure; 2],
    sink: &Sink,
    name: &str,
) {
    let (empty, fleet) = grown;
    if plan.wants(&[memory]) {
        let now = settled_memory(servers).await;
        let each: Vec<f64> = now
            .iter()
            .zip(empty)
            .map(|(now, empty)| now.saturating_sub(*empty) as f64 / fleet as f64)
            .collect();
        let worst = each.iter().copied().fold(0.0, f64::max);
        sink.put(name, &[memory], Ok(worst), |worst, measured| {
            measured.set(memory, worst);
            let mib = |bytes: &[u64]| {
                let all: Vec<String> = bytes.iter().map(|b| format!("{}", b >> 20)).collect();
                all.join(", ")
            };
            measured.note(memory, format!("{} MiB when empty, {} MiB now", mib(empty), mib(&now)));
        });
    }
    if plan.wants(&[restart]) {
        let restarted = outage::restart(servers, fleet).await;
        sink.put(name, &[restart], restarted, |restarted, measured| {
            measured.set(restart, restarted.counted);
            let read = restarted.read;
            measured.note(restart, format!("all of them were read there after {read:.2} s"));
        });
    }
}

async fn loads(plan: &Plan, servers: &mut Servers<Roster>, sink: &Sink) {
    use Figure::{HeartbeatCpu, HeartbeatsBatched, HeartbeatsBatchedCpu, ListCpu, Register};
    if plan.wants(&[ListCpu]) {
        put_cpu(sink, "", ListCpu, list(plan, servers).await);
    }
    if plan.wants(&[HeartbeatCpu]) {
        let job = servers.system.any_heartbeat();
        put_cpu(sink, "", HeartbeatCpu, load(plan, servers, job, MANY, 1, 1).await);
    }
    let batched = [HeartbeatsBatched, HeartbeatsBatchedCpu];
    if plan.wants(&batched) {
        let beaten = batches(plan, servers).await;
        sink.put("", &batched, beaten, |load, measured| {
            measured.set(HeartbeatsBatched, load.per_second);
            measured.set(HeartbeatsBatchedCpu, load.cpu_per_thousand);
            measured.note(HeartbeatsBatched, load.note);
        });
    }
    if plan.wants(&[Register]) {
        let registered = register(plan, servers).await;
        sink.put("", &[Register], registered, |load, measured| {
            measured.set(Register, load.per_second);
            let cpu = load.cpu_per_thousand;
            measured.note(Register, format!("{}, {cpu:.3} CPU s per 1,000", load.note));
        });
    }
}

async fn list(plan: &Plan, servers: &mut Servers<Roster>) -> Result<Loading, String> {
    servers.ensure_up().await?;
    super::prepare(&servers.addresses(), "scale").await.map_err(|e| e.to_string())?;
    let path = "/v1/apps/scale-listed/instances";
    load(plan, servers, Arc::new(move |_, _| Request::get(path)), MANY, 1, 1).await
}

/// Of bodies that came before, as those do of whoever beats for others; what they cost the first time is
/// told beside it.
async fn batches(plan: &Plan, servers: &mut Servers<Roster>) -> Result<Loading, String> {
    servers.ensure_up().await?;
    let calls = servers.system.all_heartbeats();
    let read = send_each(&servers.addresses(), &calls, BATCHING).await?;
    let at_first = plan.fleet as f64 / read.as_secs_f64();
    let job: Job =
        Arc::new(move |worker, call| calls[(worker + call * BATCHING) % calls.len()].clone());
    let per_call = HEARTBEATS_AT_ONCE.min(plan.fleet);
    let mut beaten = load(plan, servers, job, BATCHING, per_call, 1).await?;
    beaten.note +=
        &format!("; {} per second the first time that each body came", grouped(at_first));
    Ok(beaten)
}

async fn register(plan: &Plan, servers: &mut Servers<Roster>) -> Result<Loading, String> {
    let loaded = load(plan, servers, register_job("single".into()), MANY, 1, 1).await?;
    let gone = Request {
        method: Method::DELETE,
        path: "/v1/apps/single?cascade=true".into(),
        content_type: "",
        body: Bytes::new(),
    };
    send(servers, gone).await?;
    Ok(loaded)
}

async fn removals<S: System>(plan: &Plan, servers: &mut Servers<S>, sink: &Sink, name: &str) {
    let figures = [Figure::RemovalMedian, Figure::RemovalWorst];
    if !plan.wants(&figures) {
        return;
    }
    let removed = async {
        servers.ensure_up().await?;
        come_to_rest(servers).await;
        lateness::removals(servers, plan.tries).await
    }
    .await;
    sink.put(name, &figures, removed, |late, measured| {
        measured.set(Figure::RemovalMedian, percentile(&late, 0.50) * 1e3);
        measured.set(Figure::RemovalWorst, percentile(&late, 0.99) * 1e3);
        measured.note(Figure::RemovalWorst, extremes(&late));
    });
}

fn extremes(late: &[f64]) -> String {
    let (first, last) = (percentile(late, 0.0) * 1e3, percentile(late, 1.0) * 1e3);
    let early = if first < 0.0 { "; NEGATIVE: REMOVED TOO EARLY" } else { "" };
    format!("of {} instances, from {first:.0} to {last:.0} ms late{early}", late.len())
}

async fn removals_beside_all(plan: &Plan, servers: &mut Servers<Roster>, sink: &Sink) {
    let figure = Figure::RemovalBusy;
    if !plan.wants(&[figure]) {
        return;
    }
    let removed = async {
        servers.ensure_up().await?;
        let calls = servers.system.all_heartbeats();
        let per_call = HEARTBEATS_AT_ONCE.min(plan.fleet);
        let beating = Beating::start(&servers.addresses(), calls, per_call, BEAT_EVERY).await?;
        let late = lateness::removals(servers, plan.tries).await?;
        Ok((late, beating.rate()))
    };
    sink.put("", &[figure], removed.await, |(late, (rate, failed)), measured| {
        measured.set(figure, percentile(&late, 0.99) * 1e3);
        let mut note = format!(
            "p50 {:.0} ms; {}; beside {} heartbeats per second of the {} that were to be",
            percentile(&late, 0.50) * 1e3,
            extremes(&late),
            grouped(rate),
            grouped(plan.fleet as f64 / BEAT_EVERY.as_secs_f64())
        );
        if failed > 0 {
            note += &format!(", of which {failed} calls failed");
        }
        measured.note(figure, note);
    });
}

async fn new_leader(plan: &Plan, servers: &mut Servers<Roster>, sink: &Sink) {
    let figure = Figure::NewLeader;
    if !plan.wants(&[figure]) {
        return;
    }
    let system = servers.system.clone();
    let probe: outage::Probe = Arc::new(move |number| system.heartbeat(number));
    let outages = outage::after_kills(servers, 1, &probe).await;
    sink.put("", &[figure], outages, |outages, measured| {
        measured.set(figure, percentile(&outages, 1.0));
    });
}

async fn checkpoints(plan: &Plan, servers: &mut Servers<Roster>, sink: &Sink) {
    let figures = [Figure::CheckpointWrites, Figure::CheckpointHeartbeats];
    if !plan.wants(&figures) {
        return;
    }
    let pauses = checkpoint::pauses(servers, plan.duration).await;
    sink.put("", &figures, pauses, |pauses, measured| {
        let disk = match &pauses.disk {
            Ok(disk) => format!(
                "; the bench's own writes and syncs of {} bytes took up to {:.0} ms beside them, {:.0} ms \
                 otherwise",
                checkpoint::SYNCED_BYTES,
                disk.beside * 1e3,
                disk.without * 1e3,
            ),
            Err(why) => format!("; the disk by itself was not measured: {why}"),
        };
        let all = [
            (Figure::CheckpointWrites, pauses.writes, disk.as_str()),
            // They write nothing.
            (Figure::CheckpointHeartbeats, pauses.heartbeats, ""),
        ];
        for (figure, longest, disk) in all {
            measured.set(figure, longest.beside * 1e3);
            measured.note(
                figure,
                format!(
                    "{} checkpoints, {:.2} s in all; {:.0} ms in the rest of the time{disk}",
                    pauses.checkpoints,
                    pauses.writing.as_secs_f64(),
                    longest.without * 1e3,
                ),
            );
        }
    });
}
