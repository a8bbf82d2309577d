//! What all commands that ask a running cluster have in common: whom they ask, how they print, how
//! they end.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::ValueEnum;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::grid::{Grid, Look};
use super::{FAILED, USAGE, fail};
use crate::client::{Answer, Client, Error};
use crate::config::ConfigError;

/// What `roster dev` serves.
pub(crate) const ENDPOINTS: &str = "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403";

#[derive(Debug, clap::Args)]
pub(super) struct Target {
    /// API addresses of the nodes, HOST:PORT,…; the next one is asked when one does not answer
    #[arg(long, env = "ROSTER_ENDPOINT", default_value = ENDPOINTS, value_name = "LIST")]
    endpoint: String,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Table, value_name = "FORMAT")]
    pub output: Output,
    /// Leave the first line of tables out, which names the columns
    #[arg(long)]
    no_headers: bool,
    /// When states are coloured; `auto`: on a terminal, unless NO_COLOR is set
    #[arg(long, value_enum, default_value_t = Colours::Auto, value_name = "WHEN")]
    color: Colours,
}

/// When states are coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Colours {
    Auto,
    Always,
    Never,
}

impl Colours {
    pub fn wanted(self) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => {
                let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
                io::stdout().is_terminal() && !refused && !dumb
            }
        }
    }
}

impl Target {
    /// A table as it was asked for.
    pub fn grid(&self, columns: &[&'static str]) -> Grid {
        Grid::with(columns, self.look())
    }

    pub fn look(&self) -> Look {
        let wide = self.output == Output::Wide;
        Look { wide, headers: !self.no_headers, colours: self.color.wanted() }
    }

    pub fn client(&self) -> Result<Client, Error> {
        Client::new(&self.endpoint)
    }

    /// Each node by itself.
    pub fn endpoints(&self) -> impl Iterator<Item = String> {
        self.endpoint.split(',').map(|one| one.trim().to_owned()).filter(|one| !one.is_empty())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people
    Table,
    /// For people with wide terminals: a table with more columns, where there are more
    Wide,
    /// For programs: JSON as the node sent it, an object per line
    Json,
    /// The name of each thing in a line of its own, as other commands take it
    Name,
}

/// Why a command ended before it was through.
#[derive(Debug)]
pub(crate) enum End {
    /// Nobody reads the output any more, as after `| head`: no failure.
    OutputClosed,
    Client(Error),
    /// The same, and the output has told it.
    Told(Error),
    /// It failed in a way that has no exit code of its own; for the terminal.
    Failed(String),
    /// What was waited for did not come in time; for the terminal.
    TooLate(String),
    /// There is no such command to tell about.
    NoCommand(String),
    /// A setting is wrong.
    Settings(ConfigError),
    /// Some of what was asked for was not done, since something else is so; the output tells which.
    NotAll(&'static str),
    Output(io::Error),
    Signals(io::Error),
    /// What was run for the user cannot be waited for.
    Waiting(io::Error),
    /// What was run for the user ended with this code, which is passed on. All has been told.
    Code(u8),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

impl From<String> for End {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Output(error),
        }
    }
}

/// Prints the error, if it is one.
pub(super) fn exit(result: Result<(), End>) -> ExitCode {
    match result {
        Ok(()) | Err(End::OutputClosed) => ExitCode::SUCCESS,
        Err(End::Client(error)) => {
            fail(code_of(&error), &super::table::escaped(&error.to_string()))
        }
        Err(End::Told(error)) => ExitCode::from(code_of(&error)),
        Err(End::Failed(why)) => fail(FAILED, &super::table::escaped(&why)),
        Err(End::TooLate(why)) => fail(LATER, &super::table::escaped(&why)),
        Err(End::NoCommand(name)) => fail(
            USAGE,
            &format!(
                "there is no command {:?}; `roster help` lists them",
                super::table::escaped(&name)
            ),
        ),
        Err(End::Code(code)) => ExitCode::from(code),
        // A file's problem is told with the line that has it.
        Err(End::Settings(e)) => fail(USAGE, &by_line(&e.to_string())),
        Err(End::NotAll(what)) => fail(CONFLICT, &what),
        Err(End::Output(e)) => fail(FAILED, &format!("cannot write the output: {e}")),
        Err(End::Waiting(e)) => {
            fail(FAILED, &format!("cannot tell how the command has ended: {e}"))
        }
        Err(End::Signals(e)) => fail(FAILED, &format!("cannot listen for signals: {e}")),
    }
}

/// Lines stay lines; a terminal obeys nothing else of it.
fn by_line(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(super::table::escaped).collect();
    lines.join("\n")
}

/// Not found.
const NOT_FOUND: u8 = 3;

/// Something else is so already.
pub(super) const CONFLICT: u8 = 4;

/// It may go better later: no leader, no answer in time, overloaded.
const LATER: u8 = 5;

fn code_of(error: &Error) -> u8 {
    match error {
        Error::Invalid(_) => USAGE,
        Error::NoAnswer { .. } | Error::Unheard { .. } => LATER,
        Error::NotRoster { .. } | Error::Compacted { .. } | Error::TooLarge { .. } => FAILED,
        Error::Refused(problem) => match problem.status {
            400 => USAGE,
            404 => NOT_FOUND,
            409 | 412 => CONFLICT,
            503 | 504 => LATER,
            _ => FAILED,
        },
    }
}

/// Prints a line to standard output at once.
pub(crate) fn print(line: &str) -> Result<(), End> {
    Ok(write_line(line)?)
}

/// As `print`, for those who end in another way. A reader who is gone is an error, not a panic.
pub(crate) fn write_line(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Prints an answer about the thing of this name: to programs as it came, to people as `text` puts it.
pub(super) fn print_answer(
    output: Output,
    answer: &Answer,
    name: &str,
    text: impl FnOnce() -> Result<String, Error>,
) -> Result<(), End> {
    match output {
        Output::Json => print_json(&String::from_utf8_lossy(&answer.body)),
        Output::Name => print_name(name),
        Output::Table | Output::Wide => print(&text()?),
    }
}

/// Prints JSON for programs, as it is. On a terminal, what that would obey or hide is written as JSON
/// escapes it: it stays the same JSON.
pub(super) fn print_json(json: &str) -> Result<(), End> {
    match io::stdout().is_terminal() {
        true => print(&super::table::escaped_json(json)),
        false => print(json),
    }
}

/// Prints a name for the next command, as it is; a terminal must not obey it.
pub(super) fn print_name(name: &str) -> Result<(), End> {
    match io::stdout().is_terminal() {
        true => print(&super::table::escaped(name)),
        false => print(name),
    }
}

/// Asks whether to go on. Where there is nobody to ask, `--yes` must have been said.
pub(super) fn confirm(yes: bool, what: &str) -> Result<(), End> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        let problem = format!("{what}: without a terminal to ask at, this needs --yes");
        return Err(Error::Invalid(problem).into());
    }
    eprint!("{what}. Go on? [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(End::NotAll("nothing was done")),
    }
}

/// Tells the user, not the output's reader. Nothing stops where nobody reads it any more.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "roster: {}", super::table::escaped(text));
}

/// Whether nobody reads the output any more. Who has nothing to write would not notice.
pub(super) fn output_closed() -> bool {
    let out = io::stdout();
    let mut fds = [PollFd::new(&out, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut fds, Some(&at_once)) {
        Ok(_) => fds[0].revents().contains(PollFlags::ERR),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Outcome, Problem};

    #[test]
    fn each_kind_of_failure_has_its_exit_code() {
        let refused = |status| {
            let problem = Problem {
                status,
                code: String::new(),
                detail: String::new(),
                outcome: Outcome::Nothing,
                retryable: false,
                revision: None,
                incarnation: None,
                restart_from: None,
                retry_after: None,
            };
            code_of(&Error::Refused(Box::new(problem)))
        };
        let codes = [400, 403, 404, 409, 412, 429, 500, 503, 504].map(refused);
        assert_eq!(codes, [2, 1, 3, 4, 4, 1, 1, 5, 5]);
        let (endpoint, detail) = (String::new(), String::new());
        assert_eq!(code_of(&Error::NoAnswer { endpoint, detail, outcome: Outcome::Nothing }), 5);
        assert_eq!(code_of(&Error::Unheard { session: "4".into() }), 5);
    }
}
