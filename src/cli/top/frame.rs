//! What is seen, as lines of text.

use serde_json::Value;

use super::reading::{Agreement, AppSeen, Health, NodeSeen, Reading, brakes};
use crate::cli::grid::{Grid, Look, columns_of, state_colour};
use crate::cli::ring::word;
use crate::cli::table::{Change, escaped, row};

/// Lines of a part without a terminal.
const LINES_WITHOUT_TERMINAL: usize = 20;

/// By what apps are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    #[default]
    Instances,
    Changes,
    Suspect,
    Name,
}

impl Sort {
    pub fn next(self) -> Self {
        match self {
            Self::Instances => Self::Changes,
            Self::Changes => Self::Suspect,
            Self::Suspect => Self::Name,
            Self::Name => Self::Instances,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Instances => "instances",
            Self::Changes => "changes in 10 s",
            Self::Suspect => "suspect",
            Self::Name => "name",
        }
    }
}

/// What can be scrolled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Part {
    #[default]
    Apps,
    Sets,
    Events,
}

impl Part {
    const ALL: [Self; 3] = [Self::Apps, Self::Sets, Self::Events];

    pub fn next(self) -> Self {
        match self {
            Self::Apps => Self::Sets,
            Self::Sets => Self::Events,
            Self::Events => Self::Apps,
        }
    }

    pub fn previous(self) -> Self {
        self.next().next()
    }
}

impl Reading {
    fn count(&self, part: Part) -> usize {
        match part {
            Part::Apps => self.apps.len(),
            Part::Sets => self.sets.len(),
            Part::Events => self.events.len(),
        }
    }
}

/// How it is looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub is_paused: bool,
    pub sort: Sort,
    pub part: Part,
    /// Rows that are scrolled over, of each part in its order.
    scrolled: [usize; Part::ALL.len()],
}

impl View {
    pub fn scroll_by(&mut self, rows: isize) {
        let scrolled = &mut self.scrolled[self.part as usize];
        *scrolled = scrolled.saturating_add_signed(rows);
    }

    /// Who scrolled beyond the end comes back with the first step.
    pub fn stay_within(&mut self, reading: &Reading, height: usize) {
        let shown = Frame { reading, view: self, colours: false }.rows(height);
        for part in Part::ALL {
            let place = part as usize;
            self.scrolled[place] = self.first(part, reading.count(part), shown[place]);
        }
    }

    fn first(&self, part: Part, count: usize, shown: usize) -> usize {
        self.scrolled[part as usize].min(count.saturating_sub(shown))
    }
}

/// One picture.
pub(super) struct Frame<'a> {
    pub reading: &'a Reading,
    pub view: &'a View,
    pub colours: bool,
}

impl Frame<'_> {
    /// At most so many lines, each at most so wide.
    pub fn lines(&self, width: usize, height: usize) -> Vec<String> {
        let mut lines = self.head();
        lines.extend(self.nodes());
        let [apps, sets, events] = self.rows(height);
        lines.extend(self.apps(apps));
        lines.extend(self.sets(sets));
        lines.extend(self.events(events));
        lines.truncate(height.saturating_sub(1));
        lines.push(self.dim("q end  p pause  s sort  n other node  Tab part  arrows scroll"));
        lines.truncate(height);
        lines.iter().map(|line| clipped(line, width)).collect()
    }

    /// How many rows each part has, at least one: where there is no room for it, it is cut.
    fn rows(&self, height: usize) -> [usize; Part::ALL.len()] {
        // Apps and shard sets have a title, a header and a line before it, events no header; the last line is that
        // of the keys.
        let others = self.head().len() + self.nodes().len() + 3 + 3 + 2 + 1;
        let left = height.saturating_sub(others);
        let sets = self.reading.count(Part::Sets).min(left / 4).max(1);
        let apps = self.reading.count(Part::Apps).min(left.saturating_sub(sets) / 2).max(1);
        let events = left.saturating_sub(sets + apps).max(1);
        [apps, sets, events]
    }

    /// As many as a pipe takes.
    pub fn all_lines(&self) -> Vec<String> {
        let mut lines = self.head();
        lines.extend(self.nodes());
        lines.extend(self.apps(LINES_WITHOUT_TERMINAL));
        lines.extend(self.sets(LINES_WITHOUT_TERMINAL));
        lines.extend(self.events(LINES_WITHOUT_TERMINAL));
        lines
    }

    fn styled(&self, style: u8, text: &str) -> String {
        match self.colours {
            true => format!("\x1b[{style}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    fn dim(&self, text: &str) -> String {
        self.styled(2, text)
    }

    fn look(&self) -> Look {
        Look { colours: self.colours, ..Look::default() }
    }

    fn head(&self) -> Vec<String> {
        let Reading { node, at, cluster, problem, .. } = self.reading;
        let time = humantime::format_rfc3339_seconds(*at).to_string();
        let time = time.split(['T', 'Z']).nth(1).unwrap_or_default().to_owned();
        let health = Health::of(self.reading);
        let paused = if self.view.is_paused { "   PAUSED" } else { "" };
        let word = self.styled(health.colour, health.word);
        let mut lines = vec![
            format!("roster top   {}   {time} UTC{paused}", escaped(node)),
            format!("{word}: {}", escaped(&health.why)),
            self.figures(),
            self.instances(),
        ];
        if brakes(cluster) > 0 {
            lines.push(self.brake());
        }
        if let Some(problem) = problem {
            lines.push(self.styled(31, &escaped(problem)));
        }
        lines
    }

    fn figures(&self) -> String {
        let cluster = &self.reading.cluster;
        let leader = cluster.leader.as_deref().map_or_else(|| "none".into(), escaped);
        let beats = cluster.heartbeats_per_second;
        let beats = beats.map_or_else(|| "-".into(), |beats| beats.to_string());
        let same = match self.reading.agreement {
            Agreement::NotCompared => "not compared yet".into(),
            Agreement::Same { nodes } => format!("the same on {nodes} nodes"),
            Agreement::Differ { revision } => format!("differ at {revision}"),
        };
        let brake = if brakes(cluster) > 0 { "ON" } else { "off" };
        let term = cluster.term;
        let pace = match cluster.pace["told"].as_u64() {
            Some(percent) if percent != 100 => format!("   TTLs at {percent} %"),
            Some(_) | None => String::new(),
        };
        format!(
            "leader {leader}   term {term}   heartbeats {beats}/s   brake {brake}   states {same}{pace}"
        )
    }

    fn instances(&self) -> String {
        let counts = &self.reading.cluster.counts;
        let all: u64 = counts.values().sum();
        let states = ["up", "suspect", "draining", "maintenance"].map(|state| {
            let count = counts.get(state).copied().unwrap_or(0);
            let colour = state_colour(state).filter(|_| count > 0);
            let text = format!("{state} {count}");
            colour.map_or(text.clone(), |colour| self.styled(colour, &text))
        });
        format!("instances {all}: {}", states.join("   "))
    }

    fn brake(&self) -> String {
        let brakes = self.reading.cluster.brake.as_ref().map(|brake| &brake["brakes"]);
        let worst = brakes.and_then(|brakes| brakes.get(0)).unwrap_or(&Value::Null);
        let whose = worst["app"]
            .as_str()
            .map_or_else(|| escaped(word(&worst["scope"])), |app| format!("app {}", escaped(app)));
        let (missing, of) = (&worst["missing"], &worst["of"]);
        let text = format!(
            "brake: {missing} of {of} missing ({whose}); {} are removed in a minute",
            worst["removed_per_minute"]
        );
        self.styled(33, &text)
    }

    fn nodes(&self) -> Vec<String> {
        let nodes = &self.reading.cluster.nodes;
        let mut grid = Grid::with(
            &["NODE", "ROLE", ">APPLIED", ">LAG", "STATE HASH", "ADDRESS", "VERSION"],
            self.look(),
        );
        nodes.iter().for_each(|node| node_row(&mut grid, node));
        lines_of(grid, String::new())
    }

    fn title(&self, part: Part, text: &str) -> String {
        let mark = if self.view.part == part { ">" } else { " " };
        self.styled(1, &format!("{mark} {text}"))
    }

    fn apps(&self, rows: usize) -> Vec<String> {
        let mut apps: Vec<&AppSeen> = self.reading.apps.iter().collect();
        match self.view.sort {
            // The API gives them by name, and equal ones stay so.
            Sort::Name => {}
            Sort::Instances => apps.sort_by_key(|app| std::cmp::Reverse(app.instances())),
            Sort::Changes => apps.sort_by_key(|app| std::cmp::Reverse(app.changes)),
            Sort::Suspect => apps.sort_by_key(|app| std::cmp::Reverse(app.count("suspect"))),
        }
        let first = self.view.first(Part::Apps, apps.len(), rows);
        let columns =
            ["APP", ">INSTANCES", ">UP", ">SUSPECT", ">DRAINING", ">MAINTENANCE", ">CHANGES"];
        let mut grid = Grid::with(&columns, self.look());
        for app in apps.iter().skip(first).take(rows) {
            let [up, suspect, draining, maintenance] =
                ["up", "suspect", "draining", "maintenance"].map(|state| app.count(state));
            let (all, changes) = (app.instances(), app.changes);
            grid.row(&[&app.app, &all, &up, &suspect, &draining, &maintenance, &changes]);
        }
        let count = counted(apps.len(), self.reading.more_apps);
        let title = format!("Apps: {count}, by {}", self.view.sort.word());
        lines_of(grid, self.title(Part::Apps, &title))
    }

    fn sets(&self, rows: usize) -> Vec<String> {
        let sets = &self.reading.sets;
        let first = self.view.first(Part::Sets, sets.len(), rows);
        let columns =
            ["SHARD SET", "WORKERS", ">SHARDS", ">ASSIGNED", ">MOVING", ">ORPHANED", ">AVAILABLE"];
        let mut grid = Grid::with(&columns, self.look());
        for set in sets.iter().skip(first).take(rows) {
            let numbers = ["shards", "assigned", "pending", "orphaned", "available_workers"];
            let [shards, assigned, moving, orphaned, workers] =
                numbers.map(|field| &set["counts"][field]);
            let (name, app) = (word(&set["set"]), word(&set["workers"]));
            grid.row(&[&name, &app, shards, assigned, moving, orphaned, workers]);
        }
        let count = counted(sets.len(), self.reading.more_sets);
        lines_of(grid, self.title(Part::Sets, &format!("Shard sets: {count}")))
    }

    fn events(&self, rows: usize) -> Vec<String> {
        let events = &self.reading.events;
        let first = self.view.first(Part::Events, events.len(), rows);
        let mut lines = vec![String::new(), self.title(Part::Events, "Last events")];
        let shown = events.iter().skip(first).take(rows);
        lines.extend(shown.map(|event| {
            let change = Change::from(event.action);
            row(change, event, self.colours)
        }));
        lines
    }
}

fn counted(count: usize, more: bool) -> String {
    let more = if more { " and more" } else { "" };
    format!("{count}{more}")
}

fn node_row(grid: &mut Grid, node: &NodeSeen) {
    let number = |value: Option<u64>| value.map_or_else(|| "-".into(), |value| value.to_string());
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
    let role = node.role.clone().unwrap_or_else(|| "unreachable".into());
    let (applied, lag) = (number(node.applied), number(node.lag));
    let (hash, version) = (text(&node.state_hash), text(&node.version));
    grid.row(&[&node.id, &role, &applied, &lag, &hash, &node.api, &version]);
}

/// An empty line, the title if there is one, and the table.
fn lines_of(grid: Grid, title: String) -> Vec<String> {
    let mut lines = vec![String::new()];
    if !title.is_empty() {
        lines.push(title);
    }
    lines.extend(grid.text().lines().map(str::to_owned));
    lines
}

/// As much of a line as fits; what colours it takes no place.
fn clipped(line: &str, width: usize) -> String {
    let (mut text, mut used, mut in_escape, mut is_coloured) = (String::new(), 0, false, false);
    for c in line.chars() {
        if in_escape || c == '\x1b' {
            text.push(c);
            in_escape = c == '\x1b' || (in_escape && !c.is_ascii_alphabetic());
            is_coloured = true;
            continue;
        }
        let wide = columns_of(c);
        if used + wide > width {
            break;
        }
        used += wide;
        text.push(c);
    }
    if is_coloured {
        text.push_str("\x1b[0m");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::client::Error;

    fn reading() -> Reading {
        let app = |name: &str| serde_json::from_value(json!({"app": name})).expect("an app");
        let apps = ["a", "b", "c"].map(app).to_vec();
        Reading { apps, ..Reading::without(&Error::Invalid("nobody answers".into())) }
    }

    fn picture(reading: &Reading, view: &View) -> Vec<String> {
        Frame { reading, view, colours: false }.lines(80, 1)
    }

    #[test]
    fn who_scrolled_beyond_the_end_comes_back_with_the_first_step() {
        let (reading, height) = (reading(), 0);
        let mut view = View::default();
        view.scroll_by(100);
        view.stay_within(&reading, height);
        assert_eq!(view.first(Part::Apps, 3, 1), 2, "the last app is seen");
        view.scroll_by(-1);
        assert_eq!(view.first(Part::Apps, 3, 1), 1);
    }

    #[test]
    fn the_smallest_terminal_has_one_line_and_what_was_left_out_is_told_of() {
        let mut reading = reading();
        assert_eq!(picture(&reading, &View::default()).len(), 1);
        let all = |reading: &Reading| {
            Frame { reading, view: &View::default(), colours: false }.all_lines().join("\n")
        };
        assert!(all(&reading).contains("Apps: 3, by"));
        reading.more_apps = true;
        assert!(all(&reading).contains("Apps: 3 and more, by"));
        assert!(all(&reading).contains("nothing newer: nobody answers"));
    }

    #[test]
    fn a_line_is_cut_where_the_terminal_ends_and_colours_take_no_place() {
        assert_eq!(clipped("abcdef", 4), "abcd");
        assert_eq!(clipped("\x1b[31mabc\x1b[0mdef", 4), "\x1b[31mabc\x1b[0md\x1b[0m");
        assert_eq!(clipped("应用应用", 5), "应用", "half of a character does not fit");
    }
}
