//! Completions and manual pages know every command.

use crate::run::out;

/// All that `--help` lists, with its own commands, and so on.
async fn all_commands() -> Vec<Vec<String>> {
    let mut all: Vec<Vec<String>> = vec![Vec::new()];
    let mut next = 0;
    while let Some(command) = all.get(next).cloned() {
        next += 1;
        let arguments: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let help = out(&arguments, "").await;
        let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
        let names = listed.take_while(|line| line.starts_with("  ")).filter_map(|line| {
            let is_continued = line.starts_with("   ");
            line.split_whitespace().next().filter(|name| !is_continued && *name != "help")
        });
        all.extend(names.map(|name| [&command[..], &[name.to_owned()]].concat()));
    }
    all
}

#[tokio::test]
async fn every_command_has_a_manual_page_a_completion_and_one_line_of_help() {
    let all = all_commands().await;
    for expected in ["app list", "instance register", "session keep", "top", "app document put"] {
        let expected: Vec<String> = expected.split(' ').map(str::to_owned).collect();
        assert!(all.contains(&expected), "{expected:?} in {all:?}");
    }
    let bash = out(&["completion", "bash"], "").await;
    for command in all.iter().filter(|command| !command.is_empty()) {
        let words: Vec<&str> =
            ["man"].into_iter().chain(command.iter().map(String::as_str)).collect();
        let page = out(&words, "").await;
        assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{command:?}");
        let named = page.lines().skip_while(|line| *line != ".SH NAME").nth(1).unwrap_or_default();
        assert!(named.contains(" \\- "), "{command:?} has no line that says what it does: {named}");
        let in_bash = format!("roster__subcmd__{}", command.join("__subcmd__")).replace('-', "__");
        let in_bash_before = format!("roster__{}", command.join("__")).replace('-', "__");
        let is_known = bash.contains(&in_bash) || bash.contains(&in_bash_before);
        assert!(is_known, "{command:?} is not completed");
    }
}

#[tokio::test]
async fn the_manual_says_how_commands_end_and_all_pages_come_one_after_the_other() {
    let page = out(&["man"], "").await;
    for section in [".SH \"EXIT STATUS\"", ".SH ENVIRONMENT", "ROSTER_ENDPOINT"] {
        assert!(page.contains(section), "{section}");
    }
    let all = out(&["man", "--all"], "").await;
    assert!(all.starts_with(&page));
    // The page of `roster` itself is no command of the list's.
    let commands = all_commands().await;
    assert_eq!(all.lines().filter(|line| line.starts_with(".TH ")).count(), commands.len());
    assert!(all.is_ascii(), "roff takes each byte of what is not ASCII for a character");
    assert!(all.contains(r"\[u2026]"), "an ellipsis stays one");
    assert!(
        all.contains("lock\\-run") || all.contains("lock run"),
        "commands of commands are there"
    );
}
