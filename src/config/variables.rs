//! `ROSTER_…` variables that are no setting: most likely somebody meant one. They are no error, since
//! other programs may have variables of such names too.

use super::Settings;
use super::nearest::nearest;

/// What all variables of Roster begin with.
const PREFIX: &str = "ROSTER_";

/// Those of Roster's that are no settings of a node: of the other commands, of what runs under a lock or
/// a lead, and of the tests.
const OTHERS: [&str; 7] = [
    "ROSTER_CONFIG",
    "ROSTER_ENDPOINT",
    "ROSTER_LOCK_NAME",
    "ROSTER_LOCK_TOKEN",
    "ROSTER_ELECTION_NAME",
    "ROSTER_ELECTION_TOKEN",
    "ROSTER_BINARY",
];

/// What the tests' variables begin with.
const OF_TESTS: [&str; 2] = ["ROSTER_TEST_", "ROSTER_SOAK_"];

/// The variable of the setting with this key in a file.
pub fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase())
}

/// A warning for each of these names that looks like a setting and is none.
pub fn unknown_variables(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let settings: Vec<String> = Settings::keys().iter().map(|key| variable(key)).collect();
    let is_unknown = |name: &String| {
        name.starts_with(PREFIX)
            && !settings.contains(name)
            && !OTHERS.contains(&name.as_str())
            && !OF_TESTS.iter().any(|prefix| name.starts_with(prefix))
            && !is_of_kubernetes(name)
    };
    let mut unknown: Vec<String> = names.into_iter().filter(is_unknown).collect();
    unknown.sort();
    unknown.iter().map(|name| warning(name, &settings)).collect()
}

fn warning(name: &str, settings: &[String]) -> String {
    // What all have in common makes none of them more alike.
    let own = |name: &'static str| name.trim_start_matches(PREFIX);
    let names = settings.iter().map(|name| name.trim_start_matches(PREFIX));
    match nearest(name.trim_start_matches(PREFIX), names.chain(OTHERS.map(own))) {
        Some(near) => format!("{name} is no setting and is ignored; did you mean {PREFIX}{near}?"),
        None => {
            format!("{name} is no setting and is ignored; `roster serve --help` lists all of them")
        }
    }
}

/// Kubernetes sets some for each service that it knows, of which one may well be called `roster`:
/// `ROSTER_SERVICE_HOST`, `ROSTER_PORT_7400_TCP_ADDR` and others.
fn is_of_kubernetes(name: &str) -> bool {
    let is_number = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.split_once("_PORT_").is_some_and(|(_, rest)| is_number(rest))
}

/// The names of this process's variables, as far as they are text.
pub fn own_names() -> impl Iterator<Item = String> {
    std::env::vars_os().filter_map(|(name, _)| name.into_string().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(names: &[&str]) -> Vec<String> {
        unknown_variables(names.iter().map(|name| (*name).to_owned()))
    }

    #[test]
    fn a_variable_that_is_no_setting_is_told_with_the_nearest_one() {
        let warnings = warnings(&["ROSTER_QWERTZ", "ROSTER_LISSTEN", "LISSTEN", "PATH"]);
        assert_eq!(
            warnings,
            [
                "ROSTER_LISSTEN is no setting and is ignored; did you mean ROSTER_LISTEN?",
                "ROSTER_QWERTZ is no setting and is ignored; `roster serve --help` lists all of them",
            ]
        );
    }

    #[test]
    fn settings_and_what_other_programs_set_are_not_told() {
        let settings: Vec<_> = Settings::keys().iter().map(|key| variable(key)).collect();
        assert_eq!(unknown_variables(settings), [""; 0]);
        assert_eq!(warnings(&OTHERS), [""; 0]);
        let of_kubernetes = [
            "ROSTER_SERVICE_HOST",
            "ROSTER_SERVICE_PORT_HTTP",
            "ROSTER_PEERS_PORT",
            "ROSTER_PORT_7400_TCP_ADDR",
            "ROSTER_TEST_SEED",
        ];
        assert_eq!(warnings(&of_kubernetes), [""; 0]);
    }
}
