//! What shells and `man` know of the command line, made from the command line itself.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;
use super::asking::End;

/// Print the completions of a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: roster completion bash > /etc/bash_completion.d/roster")]
pub(super) struct Completion {
    #[arg(value_enum)]
    shell: Shell,
}

/// Print the manual page
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: roster man | man --local-file -\n\
                        roster man --all | man --local-file -\n\
                        roster man lock run > /usr/local/share/man/man1/roster-lock-run.1")]
pub(super) struct Manual {
    /// The command that it is about; `roster` itself without one, with the exit codes and the variables
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
    /// The pages of it and of all its commands, one after the other
    #[arg(long)]
    all: bool,
}

/// What holds for every command.
const FOR_ALL: &str = r#".SH "EXIT STATUS"
.TP
0
All went well.
.TP
1
It failed in a way that has no code of its own.
.TP
2
An argument or a setting is wrong.
.TP
3
What was asked for is not there.
.TP
4
Something else is so already, or what was held may be another's.
.TP
5
No leader, no answer in time, or overloaded: it may go better later.
.TP
126, 127
The command that was to be run cannot be run, or is not there.
.TP
130
Stopped by a second signal before all was cleared away.
.PP
What runs a command, such as
.BR "roster lock run" ,
ends with that command's own code.
.SH ENVIRONMENT
.TP
ROSTER_ENDPOINT
The API addresses of the nodes, HOST:PORT,\[u2026], for every command that asks a cluster, as \-\-endpoint.
.TP
ROSTER_CONFIG
The file of a node's settings, as \-\-config.
.TP
ROSTER_\fISETTING\fR
Every setting of a node, such as ROSTER_NODE_ID for \-\-node\-id; see
.BR "roster man serve" .
Flags go over variables, variables over the file.
.TP
ROSTER_LOCK_NAME, ROSTER_LOCK_TOKEN, ROSTER_ELECTION_NAME, ROSTER_ELECTION_TOKEN
Set for a command that runs while a lock or a lead is held.
.TP
NO_COLOR
Not empty: nothing is coloured.
"#;

impl Completion {
    pub fn run(self) -> Result<(), End> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "roster", &mut text);
        print_all(&text)
    }
}

impl Manual {
    pub fn run(self) -> Result<(), End> {
        let mut cli = Cli::command();
        cli.build();
        let mut command = &cli;
        for name in &self.command {
            let next = command.find_subcommand(name).filter(|next| !next.is_hide_set());
            command = next.ok_or_else(|| End::NoCommand(self.command.join(" ")))?;
        }
        let mut text = page(command)?;
        if self.command.is_empty() {
            text += FOR_ALL;
        }
        if self.all {
            text += &pages_below(command)?;
        }
        print_all(in_ascii(&text).as_bytes())
    }
}

fn page(command: &clap::Command) -> io::Result<String> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut text)?;
    String::from_utf8(text).map_err(io::Error::other)
}

/// Of all its commands, each before its own.
fn pages_below(command: &clap::Command) -> io::Result<String> {
    let mut text = String::new();
    let is_listed = |one: &&clap::Command| !one.is_hide_set() && one.get_name() != "help";
    for one in command.get_subcommands().filter(is_listed) {
        text += &page(one)?;
        text += &pages_below(one)?;
    }
    Ok(text)
}

/// As roff writes what is not ASCII: without a preprocessor it takes each byte for a character.
fn in_ascii(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_ascii() {
            true => escaped.push(character),
            false => escaped += &format!(r"\[u{:04X}]", u32::from(character)),
        }
    }
    escaped
}

fn print_all(text: &[u8]) -> Result<(), End> {
    let mut out = io::stdout().lock();
    out.write_all(text)?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ascii_is_written_as_roff_wants_it() {
        assert_eq!(in_ascii("A,\u{2026} \u{1F600}\\-"), r"A,\[u2026] \[u1F600]\-");
    }
}
