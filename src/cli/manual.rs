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
                        roster man lock run > /usr/local/share/man/man1/roster-lock-run.1")]
pub(super) struct Manual {
    /// The command that it is about; all of them without one
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
}

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
        let mut text = Vec::new();
        clap_mangen::Man::new(command.clone()).render(&mut text)?;
        print_all(&text)
    }
}

fn print_all(text: &[u8]) -> Result<(), End> {
    let mut out = io::stdout().lock();
    out.write_all(text)?;
    Ok(out.flush()?)
}
