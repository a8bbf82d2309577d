//! `roster config`, which asks nobody.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn file(&self, text: &str) -> PathBuf {
        let path = self.0.path().join("roster.toml");
        std::fs::write(&path, text).expect("written");
        path
    }
}

/// Nothing of the environment counts but `variables`.
fn config(arguments: &[&str], file: &Path, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roster"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ROSTER_") {
            command.env_remove(name);
        }
    }
    let command = command.arg("config").args(arguments).arg("--config").arg(file);
    command.envs(variables.iter().copied()).output().expect("it runs")
}

fn text(output: &[u8]) -> String {
    String::from_utf8(output.to_vec()).expect("text")
}

const WHOLE: &str = "node_id = 2\ndata_dir = \"/nowhere\"\ncluster = \"1=a:1,2=b:1,3=c:1\"\n";

#[test]
fn settings_are_checked_without_starting_anything() {
    let folder = Folder::new();
    let right = config(&["check"], &folder.file(WHOLE), &[]);
    assert!(right.status.success(), "{}", text(&right.stderr));
    assert!(text(&right.stdout).contains("node 2 of 3"), "{}", text(&right.stdout));
    for (file, named) in [
        (format!("{WHOLE}brake_share = 101\n"), "--brake-share: 101 is too high"),
        (
            format!("{WHOLE}brake_shares = 10\n"),
            "roster.toml: line 4: there is no setting `brake_shares`; did you mean `brake_share`?\n  \
             4 | brake_shares = 10\n",
        ),
        (format!("{WHOLE}allow_unauthenticated = \"yes\"\n"), "expected a boolean\n  4 | allow_"),
        (format!("{WHOLE}log = \"foo=bar=baz\"\n"), "--log: \"foo=bar=baz\" is not a log filter"),
        ("node_id = 2\n".to_owned(), "--data-dir: is missing"),
        ("node_id = \n".to_owned(), "\n  1 | node_id = \n"),
    ] {
        let wrong = config(&["check"], &folder.file(&file), &[]);
        assert_eq!(wrong.status.code(), Some(2), "{file}");
        assert!(text(&wrong.stderr).contains(named), "{file}: {}", text(&wrong.stderr));
    }
    let none = config(&["check"], Path::new("not-there.toml"), &[]);
    assert_eq!(none.status.code(), Some(2));
    assert!(text(&none.stderr).contains("not-there.toml"), "{}", text(&none.stderr));
}

#[test]
fn a_variable_that_nearly_is_a_setting_is_warned_of() {
    let folder = Folder::new();
    let variables = [("ROSTER_LISSTEN", "1"), ("ROSTER_ENDPOINT", "a:1")];
    let checked = config(&["check"], &folder.file(WHOLE), &variables);
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    assert_eq!(
        text(&checked.stderr),
        "roster: ROSTER_LISSTEN is no setting and is ignored; did you mean ROSTER_LISTEN?\n"
    );
    let right = config(&["check"], &folder.file(WHOLE), &variables[1..]);
    assert_eq!(text(&right.stderr), "");
}

#[test]
fn a_variable_says_yes_and_no_as_people_do() {
    let folder = Folder::new();
    let file = folder.file(WHOLE);
    for (value, said) in [("1", true), ("yes", true), ("true", true), ("0", false), ("No", false)] {
        let shown = config(&["show", "-o", "json"], &file, &[("ROSTER_LEASE_READS", value)]);
        let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("JSON");
        assert_eq!(shown["lease_reads"]["value"], said, "{value}");
    }
    let wrong = config(&["check"], &file, &[("ROSTER_LEASE_READS", "maybe")]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("write true or false"), "{}", text(&wrong.stderr));
}

#[test]
fn what_goes_over_what_is_told_with_each_value() {
    let folder = Folder::new();
    let file = folder.file(&format!("{WHOLE}workers = 2\nraft_workers = 2\nlog = \"warn\"\n"));
    let variables = [("ROSTER_WORKERS", "3"), ("ROSTER_LOG", "debug")];
    let shown = config(&["show", "--log", "trace"], &file, &variables);
    let shown = text(&shown.stdout);
    let line = |key: &str| {
        let line = shown.lines().find(|line| line.starts_with(&format!("{key} = ")));
        let line = line.unwrap_or_else(|| panic!("{key}: {shown}")).split("  #");
        line.map(|part| part.trim().to_owned()).collect::<Vec<_>>().join(" from ")
    };
    let in_file = format!("file {}", file.display());
    assert_eq!(line("raft_workers"), format!("raft_workers = 2 from {in_file}"));
    assert_eq!(line("workers"), "workers = 3 from environment ROSTER_WORKERS");
    assert_eq!(line("log"), r#"log = "trace" from flag --log"#);
    assert!(!shown.contains("default"), "{shown}");

    let all = config(&["show", "--effective", "-o", "json"], &file, &variables);
    let all: serde_json::Value = serde_json::from_slice(&all.stdout).expect("JSON");
    assert_eq!(all["brake_pace"], serde_json::json!({"value": "15m", "origin": "default"}));
    assert_eq!(all["advertise_peer"]["value"], "b:1");
    assert_eq!(all["sentinel_dead"]["value"], serde_json::Value::Null);
}

/// What is shown is a file again.
#[test]
fn what_is_in_force_serves_as_a_file() {
    let folder = Folder::new();
    let shown = config(&["show", "--effective"], &folder.file(WHOLE), &[]);
    let again = config(&["show", "--effective"], &folder.file(&text(&shown.stdout)), &[]);
    let values = |output: &Output| {
        let lines = text(&output.stdout);
        let values =
            lines.lines().map(|line| line.split("  #").next().unwrap_or("").trim().to_owned());
        values.collect::<Vec<_>>()
    };
    assert_eq!(values(&again), values(&shown), "{}", text(&again.stderr));
}
