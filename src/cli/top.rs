//! `roster top`: the cluster in a terminal, alive.
//!
//! [`Readings`] asks one node at a time and keeps what it saw, [`Frame`] makes lines of it without a
//! terminal or a clock, [`Screen`] is the terminal. A node that dies is left for the next one.

mod frame;
mod reading;
mod screen;

use std::io::{self, IsTerminal};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::asking::{Colours, ENDPOINTS, End, print};
use crate::client::Error;
use crate::config::Span;
use crate::shutdown;
use frame::{Frame, View};
use reading::{Reading, Readings, Told};
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
    /// How often a node is asked, 100ms at the shortest
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
            screen.draw(|width, height| looking.lines(width, height, colours))?;
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
    /// What a node was asked, and has not answered yet.
    asked: Option<BoxFuture<'static, Result<Told, Error>>>,
    reading: Option<Reading>,
    view: View,
    every: Duration,
    next: Instant,
}

impl Looking {
    fn new(readings: Readings, every: Duration) -> Self {
        let (view, next) = (View::default(), Instant::now());
        Self { readings, asked: None, reading: None, view, every, next }
    }

    /// Nothing before the first answer.
    fn lines(&mut self, width: usize, height: usize, colours: bool) -> Vec<String> {
        let Some(reading) = &self.reading else { return Vec::new() };
        self.view.stay_within(reading, height);
        Frame { reading, view: &self.view, colours }.lines(width, height)
    }

    /// May be cancelled: the next call waits for the same answer. However many keys are pressed meanwhile, a node
    /// that does not answer is left in time.
    async fn read_when_due(&mut self) {
        if self.view.is_paused {
            return std::future::pending().await;
        }
        if self.asked.is_none() {
            sleep_until(self.next).await;
        }
        let told = self.asked.get_or_insert_with(|| self.readings.ask()).await;
        self.asked = None;
        self.next = Instant::now() + self.every;
        match (self.readings.take(told), &mut self.reading) {
            (Ok(reading), _) => self.reading = Some(reading),
            // What was seen last stays on the screen, with why there is nothing newer.
            (Err(why), Some(last)) => last.grow_old(&why),
            (Err(why), none) => *none = Some(Reading::without(&why)),
        }
    }

    fn press(&mut self, key: Key) {
        match key {
            Key::Pause => {
                self.view.is_paused = !self.view.is_paused;
                self.asked = None;
            }
            Key::Sort => self.view.sort = self.view.sort.next(),
            Key::NextPart => self.view.part = self.view.part.next(),
            Key::PreviousPart => self.view.part = self.view.part.previous(),
            Key::Up => self.view.scroll_by(-1),
            Key::Down => self.view.scroll_by(1),
            Key::PageUp => self.view.scroll_by(-10),
            Key::PageDown => self.view.scroll_by(10),
            Key::OtherNode => {
                self.readings.go_on();
                self.asked = None;
                self.view.is_paused = false;
                self.next = Instant::now();
            }
            Key::Quit | Key::Other => {}
        }
    }
}
