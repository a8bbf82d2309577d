//! The catalogue's promises as scripts: each `tests/scripts/*.script` says in its first lines what
//! it shows, then gives acts, `---`, and the effects of these acts, block by block.
//!
//! An act that is a command is applied as the next log entry: revisions count from 1. Cluster time
//! stands still but for `tick`. The words of each act are in `scripts/acts.rs`, the effects in
//! `scripts/effects.rs`. After every entry the catalogue must also pass its own `verify`.
//!
//! `UPDATE_SCRIPTS=1 cargo test -p roster-storage --test scripts` writes what it sees into the files.

#[path = "scripts/acts.rs"]
mod acts;
#[path = "scripts/effects.rs"]
mod effects;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use roster_storage::catalog::{At, Catalog};
use roster_storage::command::{Command, Stamp};
use roster_storage::names::Revision;

use acts::{Act, parse};

#[test]
fn every_script_has_the_effects_that_it_shows() {
    let files = script_files();
    assert!(!files.is_empty(), "no scripts found");
    let failed: Vec<String> = files.iter().filter_map(|file| failure_of(file)).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn script_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let entries = fs::read_dir(folder).expect("tests/scripts is there");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "script"));
    files.sort();
    files
}

/// Runs one file; tells what differs, or writes it down if the environment asks for that.
fn failure_of(file: &Path) -> Option<String> {
    let expected = fs::read_to_string(file).expect("readable");
    let actual = run(&expected).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    if actual == expected {
        return None;
    }
    if updates() {
        fs::write(file, actual).expect("writable");
        return None;
    }
    Some(format!("{}:\n{}", file.display(), difference(&expected, &actual)))
}

#[expect(clippy::disallowed_methods, reason = "a switch of the test, not of the state")]
fn updates() -> bool {
    std::env::var("UPDATE_SCRIPTS").is_ok_and(|value| value == "1")
}

/// The text of a script with the effects that its acts really have.
fn run(script: &str) -> Result<String, String> {
    let mut world = World { term: 1, ..World::default() };
    let mut blocks = Vec::new();
    for block in script.split("\n\n").map(str::trim).filter(|block| !block.is_empty()) {
        let acts = block.split("\n---").next().unwrap_or_default();
        if acts.lines().all(|line| line.starts_with('#')) {
            blocks.push(acts.to_string());
            continue;
        }
        let mut effects = String::new();
        for act in parse(acts)? {
            world.play(act, &mut effects)?;
        }
        blocks.push(format!("{acts}\n---\n{}", effects.trim_end()));
    }
    Ok(blocks.join("\n\n") + "\n")
}

#[derive(Default)]
struct World {
    catalog: Catalog,
    at: At,
    term: u64,
}

impl World {
    fn play(&mut self, act: Act, effects: &mut String) -> Result<(), String> {
        match act {
            Act::Term(term) => self.term = term,
            Act::Show => effects.push_str(&effects::shown(&self.catalog)),
            Act::ShowShardSets => effects.push_str(&effects::shown_sets(&self.catalog)),
            Act::ShowLatches => effects.push_str(&effects::shown_latches(&self.catalog)),
            Act::Command(command) => return self.apply(&command, self.at.stamp, effects),
            Act::Tick(by) => {
                let cluster_ms = self.at.stamp.cluster_ms.saturating_add_signed(by);
                let stamp = Stamp { cluster_ms, wall_ms: cluster_ms };
                return self.apply(&Command::Tick, stamp, effects);
            }
        }
        Ok(())
    }

    fn apply(
        &mut self,
        command: &Command,
        stamp: Stamp,
        effects: &mut String,
    ) -> Result<(), String> {
        let revision = Revision(self.at.revision.0 + 1);
        self.at = At { revision, term: self.term, stamp };
        let (outcome, events) = self.catalog.apply(self.at, command);
        self.catalog.verify().map_err(|e| format!("r{revision}, {command}: {e}"))?;
        let _ = write!(effects, "r{revision} {}", effects::told(revision, &outcome, &events));
        Ok(())
    }
}

/// The lines that differ, each with its number.
fn difference(expected: &str, actual: &str) -> String {
    let (expected, actual): (Vec<_>, Vec<_>) =
        (expected.lines().collect(), actual.lines().collect());
    let mut text = String::new();
    for line in 0..expected.len().max(actual.len()) {
        let (e, a) = (expected.get(line).unwrap_or(&""), actual.get(line).unwrap_or(&""));
        if e != a {
            let _ = writeln!(text, "  line {}\n    expected: {e}\n    actual:   {a}", line + 1);
        }
    }
    text
}
