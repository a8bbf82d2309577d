//! `roster top`: the cluster in a terminal, alive.
//!
//! [`Readings`] asks one node at a time and keeps what it saw, [`Frame`] makes lines of it without a
//! terminal or a clock, [`Screen`] is the terminal. A node that dies is left for the next one.

mod frame;
mod reading;
mod screen;

use std::io::{self, IsTerminal};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::asking::{Colours, ENDPOINTS, End, print};
use crate::client::Error;
use crate::config::Span;
use crate::shutdown;
use frame::{Frame, View};
use reading::{Reading, Readings};
use screen::{Key, Screen};

/// Shorter would be more than anybody sees.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Show the cluster in this terminal, alive: nodes, instances, apps, shard sets, events
///
/// Keys: q ends it, p pauses, s sorts the apps by something else, n asks another node, Tab chooses a
/// part and the arrows scroll it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: roster top --interval 1s\n\
                        roster top --once | grep -i suspect")]
pub(super) struct Top {
    /// API addresses of the nodes, HOST:PORT,…; one of them is asked, and the next one when it does
    /// not answer
    #[arg(long, env = "ROSTER_ENDPOINT", default_value = ENDPOINTS, value_name = "LIST")]
    endpoint: String,
    /// How often a node is asked
    #[arg(long, default_value = "1s", value_name = "DURATION")]
    interval: Span,
    /// Print one picture as text and end
    #[arg(long)]
    once: bool,
    /// When states are coloured; `auto`: on a terminal, unless NO_COLOR is set
    #[arg(long, value_enum, default_value_t = Colours::Auto, value_name = "WHEN")]
    color: Colours,
}

impl Top {
    pub async fn run(self) -> Result<(), End> {
        let readings = Readings::of(&self.endpoint)?;
        if self.once {
            return self.print_once(readings).await;
        }
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            let problem = "this is no terminal; --once prints one picture as text";
            return Err(Error::Invalid(problem.into()).into());
        }
        self.live(readings).await
    }

    async fn print_once(&self, mut readings: Readings) -> Result<(), End> {
        let reading = readings.read_from_any().await?;
        let frame =
            Frame { reading: &reading, view: &View::default(), colours: self.color.wanted() };
        let lines = frame.all_lines();
        print(&lines.join("\n"))
    }

    async fn live(&self, readings: Readings) -> Result<(), End> {
        let stop = shutdown::on_signal().map_err(End::Signals)?;
        let mut resized = signal(SignalKind::window_change()).map_err(End::Signals)?;
        let mut screen = Screen::open()?;
        let mut keys = screen::keys();
        let mut looking = Looking::new(readings, self.interval.0.max(INTERVAL_MIN));
        let colours = self.color.wanted();
        loop {
            if let Some(reading) = &looking.reading {
                let frame = Frame { reading, view: &looking.view, colours };
                screen.draw(|width, height| frame.lines(width, height))?;
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = resized.recv() => {}
                key = keys.recv() => match key {
                    None | Some(Key::Quit) => return Ok(()),
                    Some(key) => looking.press(key),
                },
                () = looking.read_when_due() => {}
            }
        }
    }
}

/// What is looked at, and how.
struct Looking {
    readings: Readings,
    reading: Option<Reading>,
    view: View,
    every: Duration,
    next: Instant,
}

impl Looking {
    fn new(readings: Readings, every: Duration) -> Self {
        Self { readings, reading: None, view: View::default(), every, next: Instant::now() }
    }

    /// May be cancelled: what was begun is asked anew then.
    async fn read_when_due(&mut self) {
        if self.view.is_paused {
            return std::future::pending().await;
        }
        sleep_until(self.next).await;
        let reading = self.readings.read().await;
        self.next = Instant::now() + self.every;
        match (reading, &mut self.reading) {
            (Ok(reading), _) => self.reading = Some(reading),
            // What was seen last stays on the screen, with why there is nothing newer.
            (Err(why), Some(last)) => last.problem = Some(why.to_string()),
            (Err(why), none) => *none = Some(Reading::without(why.to_string())),
        }
    }

    fn press(&mut self, key: Key) {
        match key {
            Key::Pause => self.view.is_paused = !self.view.is_paused,
            Key::Sort => self.view.sort = self.view.sort.next(),
            Key::NextPart => self.view.part = self.view.part.next(),
            Key::PreviousPart => self.view.part = self.view.part.previous(),
            Key::Up => self.view.scroll_by(-1),
            Key::Down => self.view.scroll_by(1),
            Key::PageUp => self.view.scroll_by(-10),
            Key::PageDown => self.view.scroll_by(10),
            Key::OtherNode => {
                self.readings.go_on();
                self.view.is_paused = false;
                self.next = Instant::now();
            }
            Key::Quit | Key::Other => {}
        }
    }
}
