//! A TOML file of settings, and what to tell of one that is wrong: the line, and what to write there.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;
use std::path::Path;

use serde::de::IgnoredAny;
use toml::Spanned;

use super::nearest::nearest;
use super::{ConfigError, Settings, wrong};

impl Settings {
    /// Reads a TOML file. Unknown keys are errors.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let name = format!("--config {}", path.display());
        let text = std::fs::read_to_string(path)
            .map_err(|e| wrong(&name, format!("cannot read the file: {e}")))?;
        Self::from_toml(&text).map_err(|problem| wrong(&name, problem))
    }

    fn from_toml(text: &str) -> Result<Self, String> {
        let told = |e: toml::de::Error| told(text, e.span(), e.message());
        let keys: BTreeMap<Spanned<String>, IgnoredAny> = toml::from_str(text).map_err(told)?;
        let known = Self::keys();
        let unknown: Vec<_> = keys
            .keys()
            .filter(|key| !known.contains(key.get_ref()))
            .map(|key| (key.span(), unknown_key(key.get_ref(), &known)))
            .collect();
        if !unknown.is_empty() {
            return Err(all_told(text, unknown));
        }
        toml::from_str(text).map_err(told)
    }
}

fn unknown_key(key: &str, known: &[String]) -> String {
    match nearest(key, known.iter().map(String::as_str)) {
        Some(name) => format!("there is no setting `{key}`; did you mean `{name}`?"),
        None => format!("there is no setting `{key}`; `roster serve --help` lists all of them"),
    }
}

/// In the order of the file.
fn all_told(text: &str, mut problems: Vec<(Range<usize>, String)>) -> String {
    problems.sort_by_key(|(span, _)| span.start);
    let all: Vec<_> =
        problems.into_iter().map(|(span, problem)| told(text, Some(span), &problem)).collect();
    all.join("\n")
}

/// The problem with its line, and a sign below the place.
fn told(text: &str, span: Option<Range<usize>>, problem: &str) -> String {
    let Some(before) = span.and_then(|span| text.get(..span.start)) else { return problem.into() };
    let number = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count();
    let line = text.lines().nth(number - 1).unwrap_or_default();
    let mut told = format!("line {number}: {}", problem.trim_end().replace('\n', ", "));
    // A line that cannot be shown as it is would put the sign below another place.
    if !line.is_empty() && !line.contains(char::is_control) {
        // A string holds whatever is written to it.
        let _ = write!(told, "\n  {number} | {line}");
        let _ = write!(told, "\n  {:1$} | {2:column$}^", "", number.to_string().len(), "");
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        Settings::from_toml(text).expect_err(text)
    }

    #[test]
    fn what_is_no_toml_is_shown_with_its_line() {
        let problem = problem("node_id = 1\nlisten = \n");
        assert!(problem.starts_with("line 2: "), "{problem}");
        assert!(problem.contains("\n  2 | listen = \n"), "{problem}");
        assert!(problem.ends_with('^'), "{problem}");
    }

    #[test]
    fn keys_that_are_no_settings_are_told_with_their_lines_and_the_nearest_names() {
        let problem = problem("node_id = 1\nlissten = \"127.0.0.1:1\"\nqwertz = 2\n");
        assert_eq!(
            problem,
            "line 2: there is no setting `lissten`; did you mean `listen`?\n  \
             2 | lissten = \"127.0.0.1:1\"\n    | ^\n\
             line 3: there is no setting `qwertz`; `roster serve --help` lists all of them\n  \
             3 | qwertz = 2\n    | ^"
        );
    }

    #[test]
    fn a_value_of_another_kind_is_refused_with_its_place() {
        for value in ["\"yes\"", "1", "\"true\""] {
            let problem = problem(&format!("allow_unauthenticated = {value}\n"));
            assert!(problem.contains("expected a boolean"), "{problem}");
            assert!(problem.starts_with("line 1: "), "{problem}");
        }
        let problem = problem("request_timeout = \"soon\"\n");
        assert!(problem.contains("\"soon\" is not a duration"), "{problem}");
    }
}
