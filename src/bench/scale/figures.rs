//! The figures that are wanted, and the table of what was measured.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::SMALL;

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    HeartbeatCpu,
    HeartbeatsBatched,
    HeartbeatsBatchedCpu,
    Register,
    RegisterBatched,
    MemorySmall,
    Memory,
    RemovalMedian,
    RemovalWorst,
    RemovalBusy,
    RestartSmall,
    Restart,
    NewLeader,
    CheckpointWrites,
    CheckpointHeartbeats,
    OutageMedian,
    OutageWorst,
    ListCpu,
}

#[derive(Clone, Copy, Debug)]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

#[derive(Clone, Copy, Debug)]
pub enum Unit {
    PerSecond,
    CpuPerThousand,
    Bytes,
    Milliseconds,
    Seconds,
}

impl Figure {
    pub const ALL: [Self; 18] = [
        Self::HeartbeatCpu,
        Self::HeartbeatsBatched,
        Self::HeartbeatsBatchedCpu,
        Self::Register,
        Self::RegisterBatched,
        Self::MemorySmall,
        Self::Memory,
        Self::RemovalMedian,
        Self::RemovalWorst,
        Self::RemovalBusy,
        Self::RestartSmall,
        Self::Restart,
        Self::NewLeader,
        Self::CheckpointWrites,
        Self::CheckpointHeartbeats,
        Self::OutageMedian,
        Self::OutageWorst,
        Self::ListCpu,
    ];

    /// What is measured, and what is wanted of it in its unit.
    fn facts(self) -> (&'static str, Goal, Unit) {
        use Goal::{AtLeast, AtMost};
        use Unit::{Bytes, CpuPerThousand, Milliseconds, PerSecond, Seconds};
        match self {
            Self::HeartbeatCpu => {
                ("heartbeats, single calls, 64 connections", AtMost(0.025), CpuPerThousand)
            }
            Self::HeartbeatsBatched => {
                ("heartbeats, 1,000 per call, msgpack", AtLeast(1_000_000.0), PerSecond)
            }
            Self::HeartbeatsBatchedCpu => {
                ("heartbeats, 1,000 per call, msgpack: CPU", AtMost(0.001), CpuPerThousand)
            }
            Self::Register => ("register, single calls, 64 writers", AtLeast(12_000.0), PerSecond),
            Self::RegisterBatched => ("register, 500 per call", AtLeast(100_000.0), PerSecond),
            // Of so few, logs and buffers of fixed size take most. What r-nacos takes at 100,000; ZooKeeper,
            // etcd and Consul take more.
            Self::MemorySmall => ("memory per instance", AtMost(2_400.0), Bytes),
            Self::Memory => ("memory per instance", AtMost(700.0), Bytes),
            Self::RemovalMedian => ("removal after TTL, idle, p50", AtMost(60.0), Milliseconds),
            Self::RemovalWorst => ("removal after TTL, idle, p99", AtMost(150.0), Milliseconds),
            Self::RemovalBusy => {
                ("removal after TTL, all heartbeating, p99", AtMost(500.0), Milliseconds)
            }
            Self::RestartSmall => ("restart until all is served", AtMost(0.6), Seconds),
            Self::Restart => ("restart until all is served", AtMost(6.0), Seconds),
            Self::NewLeader => ("kill of the leader until heartbeats", AtMost(1.0), Seconds),
            Self::CheckpointWrites => {
                ("checkpoint, longest pause of writes", AtMost(50.0), Milliseconds)
            }
            Self::CheckpointHeartbeats => {
                ("checkpoint, longest pause of heartbeats", AtMost(50.0), Milliseconds)
            }
            Self::OutageMedian => ("write outage, leader killed, p50", AtMost(0.6), Seconds),
            Self::OutageWorst => ("write outage, leader killed, worst", AtMost(1.0), Seconds),
            Self::ListCpu => ("list of 100, linearizable", AtMost(0.08), CpuPerThousand),
        }
    }

    /// Without the number of instances.
    pub fn what(self) -> &'static str {
        self.facts().0
    }

    /// Of how many instances this is, if the fleet has so many. `None`: there is no such line then.
    fn size(self, fleet: usize) -> Option<usize> {
        match self {
            Self::MemorySmall | Self::RestartSmall => Some(fleet.min(SMALL)),
            Self::Memory | Self::Restart => (fleet > SMALL).then_some(fleet),
            Self::OutageMedian | Self::OutageWorst => Some(0),
            Self::HeartbeatCpu
            | Self::HeartbeatsBatched
            | Self::HeartbeatsBatchedCpu
            | Self::Register
            | Self::RegisterBatched
            | Self::RemovalMedian
            | Self::RemovalWorst
            | Self::RemovalBusy
            | Self::NewLeader
            | Self::CheckpointWrites
            | Self::CheckpointHeartbeats
            | Self::ListCpu => Some(fleet),
        }
    }
}

impl Goal {
    fn is_reached(self, measured: f64) -> bool {
        match self {
            Self::AtMost(most) => measured <= most,
            Self::AtLeast(least) => measured >= least,
        }
    }

    fn value(self) -> f64 {
        match self {
            Self::AtMost(value) | Self::AtLeast(value) => value,
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::AtMost(_) => "<=",
            Self::AtLeast(_) => ">=",
        }
    }
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::PerSecond => "per second",
            Self::CpuPerThousand => "CPU s per 1,000",
            Self::Bytes => "bytes",
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Self::PerSecond | Self::Bytes => grouped(value),
            Self::CpuPerThousand => {
                let text = format!("{value:.4}");
                text.strip_suffix('0').map(str::to_owned).unwrap_or(text)
            }
            Self::Milliseconds => format!("{value:.0}"),
            Self::Seconds => format!("{value:.2}"),
        }
    }
}

/// A whole number with a comma before each three digits.
pub fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::from(if value < 0.0 { "-" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What came of the measuring of one system.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    values: BTreeMap<Figure, Result<f64, String>>,
    notes: BTreeMap<Figure, String>,
}

impl Measured {
    pub fn set(&mut self, figure: Figure, value: f64) {
        self.values.insert(figure, Ok(value));
    }

    pub fn fail(&mut self, figure: Figure, why: &str) {
        self.values.entry(figure).or_insert_with(|| Err(why.to_owned()));
    }

    /// Shown under the line.
    pub fn note(&mut self, figure: Figure, note: String) {
        self.notes.insert(figure, note);
    }

    pub fn has_failed(&self) -> bool {
        self.values.values().any(Result::is_err)
    }

    /// For the terminal, as soon as it is measured.
    pub fn progress(&self, figures: &[Figure]) -> String {
        let shown = figures.iter().filter_map(|figure| {
            let (what, _, unit) = figure.facts();
            Some(match self.values.get(figure)? {
                Ok(value) => format!("{what}: {} {}", unit.show(*value), unit.name()),
                Err(e) => format!("{what}: failed: {e}"),
            })
        });
        shown.collect::<Vec<_>>().join("; ")
    }
}

/// The other system's column.
pub enum Peer {
    Measured(Measured),
    /// Why it was not measured, in a word or two.
    Absent(&'static str),
}

impl Peer {
    fn value(&self, figure: Figure) -> Option<&Result<f64, String>> {
        match self {
            Self::Measured(measured) => measured.values.get(&figure),
            Self::Absent(_) => None,
        }
    }

    fn shown(&self, figure: Figure, unit: Unit) -> String {
        match (self, self.value(figure)) {
            (Self::Absent(why), _) => (*why).to_owned(),
            (Self::Measured(_), None) => "-".to_owned(),
            (Self::Measured(_), Some(Ok(value))) => unit.show(*value),
            (Self::Measured(_), Some(Err(_))) => "failed".to_owned(),
        }
    }
}

/// Everything that is shown at the end.
pub struct Report<'a> {
    pub fleet: usize,
    /// Only these figures.
    pub figures: &'a [Figure],
    pub roster: &'a Measured,
    pub etcd: &'a Peer,
}

/// Columns of the bar, half of them below the goal.
const BAR: usize = 20;

/// Below this width a line takes two.
const ONE_LINE: usize = 136;

impl Report<'_> {
    /// The table for a terminal of this width.
    pub fn text(&self, width: usize) -> String {
        let mut text = String::new();
        for figure in self.figures {
            self.add_line(*figure, width, &mut text);
        }
        text
    }

    fn add_line(&self, figure: Figure, width: usize, text: &mut String) {
        let Some(size) = figure.size(self.fleet) else { return };
        let (what, goal, unit) = figure.facts();
        let at =
            if size > 0 { format!("{what} (at {})", grouped(size as f64)) } else { what.into() };
        let end = if width >= ONE_LINE { "" } else { "\n  " };
        let wanted = format!("{} {}", goal.sign(), unit.show(goal.value()));
        let (value, bar, verdict) = match self.roster.values.get(&figure) {
            Some(Ok(value)) => {
                let verdict = if goal.is_reached(*value) { "ok" } else { "OVER" };
                let verdict = match (verdict, goal) {
                    ("OVER", Goal::AtLeast(_)) => "UNDER",
                    (verdict, _) => verdict,
                };
                (unit.show(*value), bar(value / goal.value()), verdict)
            }
            Some(Err(_)) => ("failed".into(), String::new(), ""),
            None => ("-".into(), String::new(), ""),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{at:<56}{end}{:<15} {wanted:>12} {value:>9} {:>9} {bar:<22} {verdict}",
            unit.name(),
            self.etcd.shown(figure, unit),
        );
        let failed = [("", self.roster.values.get(&figure)), ("etcd: ", self.etcd.value(figure))];
        for (whose, value) in failed {
            if let Some(Err(e)) = value {
                let _ = writeln!(text, "    {whose}failed: {e}");
            }
        }
        let notes = [("", Some(self.roster)), ("etcd: ", self.etcd_measured())];
        for (whose, measured) in notes {
            if let Some(note) = measured.and_then(|measured| measured.notes.get(&figure)) {
                let _ = writeln!(text, "    {whose}{note}");
            }
        }
    }

    fn etcd_measured(&self) -> Option<&Measured> {
        match self.etcd {
            Peer::Measured(measured) => Some(measured),
            Peer::Absent(_) => None,
        }
    }

    /// What stands above the lines.
    pub fn header(&self, width: usize) -> String {
        let end = if width >= ONE_LINE { "" } else { "\n  " };
        format!(
            "{:<56}{end}{:<15} {:>12} {:>9} {:>9} bar: `|` is what is wanted",
            "what", "unit", "wanted", "measured", "etcd"
        )
    }

    pub fn lines(&self) -> Vec<Line> {
        self.figures.iter().filter_map(|figure| self.line(*figure)).collect()
    }

    fn line(&self, figure: Figure) -> Option<Line> {
        let (what, goal, unit) = figure.facts();
        let value = |value: Option<&Result<f64, String>>| value?.as_ref().ok().copied();
        let measured = value(self.roster.values.get(&figure));
        let note = |measured: &Measured| measured.notes.get(&figure).cloned();
        Some(Line {
            instances: figure.size(self.fleet)?,
            what,
            unit: unit.name(),
            wanted: goal.sign(),
            goal: goal.value(),
            measured,
            reached: measured.map(|measured| goal.is_reached(measured)),
            failure: self.roster.values.get(&figure).and_then(|value| value.clone().err()),
            note: note(self.roster),
            etcd: value(self.etcd.value(figure)),
            etcd_note: self.etcd_measured().and_then(note),
        })
    }
}

/// One line for programs. Values are in the unit's.
#[derive(Serialize)]
pub struct Line {
    what: &'static str,
    /// Registered while it was measured; 0: it does not depend on that.
    instances: usize,
    unit: &'static str,
    /// `<=` or `>=` the goal.
    wanted: &'static str,
    goal: f64,
    /// `None`: it was not measured.
    measured: Option<f64>,
    reached: Option<bool>,
    failure: Option<String>,
    note: Option<String>,
    etcd: Option<f64>,
    etcd_note: Option<String>,
}

/// What was measured, in parts of what is wanted: that is in the middle.
fn bar(part: f64) -> String {
    let filled = (part * BAR as f64 / 2.0).round().clamp(0.0, BAR as f64 + 1.0) as usize;
    let mut bar: String = (0..BAR).map(|at| if at < filled { '=' } else { ' ' }).collect();
    bar.insert(BAR / 2, '|');
    bar.push(if filled > BAR { '>' } else { ' ' });
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let shown = [0.4, 999.6, 12_000.0, 1_000_000.0, -1_500.0].map(grouped);
        assert_eq!(shown, ["0", "1,000", "12,000", "1,000,000", "-1,500"]);
    }

    #[test]
    fn a_bar_ends_at_its_mark_when_exactly_what_is_wanted_was_measured() {
        assert_eq!(bar(1.0), "==========|           ");
        assert_eq!(bar(0.5), "=====     |           ");
        assert_eq!(bar(2.0), "==========|========== ");
        assert_eq!(bar(7.0), "==========|==========>");
        assert_eq!(bar(f64::NAN).len(), bar(1.0).len());
    }

    #[test]
    fn each_line_says_what_is_wanted_and_whether_it_is_reached() {
        let mut roster = Measured::default();
        roster.set(Figure::HeartbeatCpu, 0.05);
        roster.set(Figure::Register, 15_000.0);
        roster.fail(Figure::Restart, "no node leads");
        let figures = [Figure::HeartbeatCpu, Figure::Register, Figure::Restart, Figure::Memory];
        let report = Report {
            fleet: 200_000,
            figures: &figures,
            roster: &roster,
            etcd: &Peer::Absent("not found"),
        };
        let wide = report.text(200);
        let lines: Vec<&str> = wide.lines().collect();
        assert!(lines[0].contains("<= 0.025     0.050 not found ====="), "{wide}");
        assert!(lines[0].ends_with("OVER") && lines[1].ends_with("ok"), "{wide}");
        assert!(lines[2].contains("(at 200,000)") && lines[2].contains("failed"), "{wide}");
        assert_eq!(lines[3], "    failed: no node leads");
        let narrow = report.text(80);
        assert!(narrow.lines().all(|line| line.chars().count() <= 80), "{narrow}");
    }

    #[test]
    fn a_small_fleet_has_no_lines_of_a_large_one() {
        let roster = Measured::default();
        let report = Report {
            fleet: 2_000,
            figures: &Figure::ALL,
            roster: &roster,
            etcd: &Peer::Absent("not found"),
        };
        let text = report.text(200);
        assert_eq!(text.matches("memory per instance").count(), 1, "{text}");
        assert_eq!(text.matches("restart until").count(), 1, "{text}");
        assert_eq!(report.lines().len(), 16);
    }
}
