//! Lists and single objects: page after page as rows, names or JSON; once, or with what changes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

use super::asking::{End, Output, Target, note, output_closed, print, print_json, print_name};
use super::grid::Grid;
use crate::client::{Answer, Call, Client, Error, Item, Revision, Watch, WatchRequest};
use crate::shutdown;

/// The largest page of a list. Not more is held in memory, unless it is watched.
const PAGE: usize = 10_000;

/// Changes that come within this time are read and shown together.
const GATHER: Duration = Duration::from_millis(200);

/// When a read failed that a change had caused, it is tried again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Where objects come from, and how each is shown.
pub(super) struct Source<'a> {
    pub target: &'a Target,
    /// The read, without limit and cursor.
    pub call: Call,
    /// Which field of an answer has the objects; the answer is the object where there is none.
    pub items: Option<&'static str>,
    pub columns: &'a [&'static str],
    pub row: fn(&mut Grid, &Value),
    pub name: fn(&Value) -> String,
    /// Not more than so many; all without it.
    pub limit: Option<usize>,
}

/// How a list is asked for.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Paging {
    /// At most so many; all without it. Not with --watch: what is left out would look as if it were gone
    #[arg(long, value_name = "COUNT", conflicts_with = "watch", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    pub follow: Follow,
}

impl Paging {
    pub fn limit(&self) -> Option<usize> {
        self.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
    }
}

/// Whether changes are to be shown.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Follow {
    /// Then show what changes, a row each time, until Ctrl-C
    #[arg(short, long)]
    pub watch: bool,
}

impl Source<'_> {
    /// Shows what is there; with `follow` what changes then too, which `request` tells of.
    pub async fn show(self, follow: Follow, request: WatchRequest) -> Result<(), End> {
        match follow.watch {
            false => self.print().await,
            true => self.until_stopped(request).await,
        }
    }

    /// Everything once, each page as it comes.
    async fn print(&self) -> Result<(), End> {
        let client = self.target.client()?;
        let mut grid = self.target.grid(self.columns);
        let mut shown = Ok(());
        self.each_page(&client, |answer, items| {
            shown = self.show_page(&mut grid, answer, &items);
            shown.is_ok()
        })
        .await?;
        shown
    }

    fn show_page(&self, grid: &mut Grid, answer: &Answer, items: &[Value]) -> Result<(), End> {
        match self.target.output {
            Output::Json => print_json(&String::from_utf8_lossy(&answer.body)),
            Output::Name => items.iter().try_for_each(|item| print_name(&(self.name)(item))),
            Output::Table | Output::Wide => {
                items.iter().for_each(|item| (self.row)(grid, item));
                print_next(grid)
            }
        }
    }

    /// Calls `each` with every page, until that says no. Gives the revision of the first one.
    async fn each_page(
        &self,
        client: &Client,
        mut each: impl FnMut(&Answer, Vec<Value>) -> bool,
    ) -> Result<Option<Revision>, Error> {
        let (mut cursor, mut left, mut revision) = (None::<String>, self.limit, None);
        loop {
            let mut call = self.call.clone();
            if self.items.is_some() {
                call = call.query("limit", left.map_or(PAGE, |left| left.min(PAGE)));
            }
            if let Some(cursor) = &cursor {
                call = call.query("cursor", cursor);
            }
            let answer = client.send(call).await?;
            revision = revision.or(answer.revision);
            let mut page: Value = answer.json()?;
            let items = match self.items {
                Some(field) => as_list(page[field].take()),
                None => vec![page.clone()],
            };
            let count = items.len();
            cursor = page["next_cursor"].as_str().map(str::to_owned);
            left = left.map(|left| left.saturating_sub(count));
            if !each(&answer, items) || cursor.is_none() || left == Some(0) {
                return Ok(revision);
            }
        }
    }

    async fn until_stopped(self, request: WatchRequest) -> Result<(), End> {
        let stop = shutdown::on_signal().map_err(End::Signals)?;
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            end = self.follow(request) => end,
        }
    }

    async fn follow(&self, request: WatchRequest) -> Result<(), End> {
        let client = self.target.client()?;
        let mut known = BTreeMap::new();
        let (now, revision) = self.read(&client).await?;
        let mut grid = self.target.grid(self.columns);
        self.show_changes(&mut grid, &mut known, now)?;
        let request = WatchRequest { from: revision, restart: true, ..request };
        let mut watch = client.watch(request);
        loop {
            change(&mut watch).await?;
            gather(&mut watch).await?;
            let now = match again(|| self.read(&client)).await {
                Ok((now, _)) => now,
                // What is gone is shown so.
                Err(error) if is_gone(&error) => Vec::new(),
                Err(error) => return Err(error.into()),
            };
            self.show_changes(&mut grid, &mut known, now)?;
        }
    }

    async fn read(&self, client: &Client) -> Result<(Vec<Value>, Option<Revision>), Error> {
        let mut all = Vec::new();
        let each = |_: &Answer, items| {
            all.extend(items);
            true
        };
        let revision = self.each_page(client, each).await?;
        Ok((all, revision))
    }

    /// A row for each that is other than it was known, and for each that is gone.
    fn show_changes(
        &self,
        grid: &mut Grid,
        known: &mut BTreeMap<String, Seen>,
        now: Vec<Value>,
    ) -> Result<(), End> {
        let mut seen = BTreeMap::new();
        for item in now {
            let name = (self.name)(&item);
            let rows = self.rows(&item);
            if known.remove(&name).is_none_or(|before| before != rows) {
                self.show_one(grid, &item, &name, &rows)?;
            }
            seen.insert(name, rows);
        }
        for (name, rows) in std::mem::replace(known, seen) {
            self.show_gone(grid, &name, rows)?;
        }
        // An empty list has its header too.
        print_next_if(self.target.output, grid)
    }

    fn rows(&self, item: &Value) -> Seen {
        let mut grid = Grid::new(self.columns);
        (self.row)(&mut grid, item);
        grid.take_rows()
    }

    fn show_one(&self, grid: &mut Grid, item: &Value, name: &str, rows: &Seen) -> Result<(), End> {
        match self.target.output {
            Output::Json => print_json(&item.to_string()),
            Output::Name => print_name(name),
            Output::Table | Output::Wide => {
                grid.add(rows.clone());
                Ok(())
            }
        }
    }

    fn show_gone(&self, grid: &mut Grid, name: &str, rows: Seen) -> Result<(), End> {
        match self.target.output {
            Output::Json => print_json(&json!({"name": name, "gone": true}).to_string()),
            Output::Name => Ok(()),
            Output::Table | Output::Wide => {
                grid.add(rows.into_iter().map(|row| gone(self.columns, row)).collect());
                Ok(())
            }
        }
    }
}

/// Shows something that is no list; with `follow` anew whenever what `request` tells of changes.
pub(super) async fn shown_anew(
    target: &Target,
    follow: Follow,
    request: WatchRequest,
    call: Call,
    show: impl Fn(&Answer) -> Result<(), End>,
) -> Result<(), End> {
    let client = target.client()?;
    let answer = client.send(call.clone()).await?;
    show(&answer)?;
    if !follow.watch {
        return Ok(());
    }
    let stop = shutdown::on_signal().map_err(End::Signals)?;
    let mut watch = client.watch(WatchRequest { from: answer.revision, restart: true, ..request });
    let follow = async {
        loop {
            change(&mut watch).await?;
            gather(&mut watch).await?;
            let answer = match again(|| client.send(call.clone())).await {
                Ok(answer) => answer,
                // It may come again.
                Err(error) if is_gone(&error) => {
                    note(&error.to_string());
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            match target.output {
                Output::Table | Output::Wide => print("")?,
                Output::Json | Output::Name => {}
            }
            show(&answer)?;
        }
    };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        end = follow => end,
    }
}

/// Reads until it goes well, or will not go well.
async fn again<T, F: Future<Output = Result<T, Error>>>(read: impl Fn() -> F) -> Result<T, Error> {
    loop {
        match read().await {
            Err(error) if error.is_retryable() => note(&error.to_string()),
            done => return done,
        }
        sleep(AGAIN_AFTER).await;
    }
}

fn is_gone(error: &Error) -> bool {
    error.code().starts_with("unknown-")
}

/// The cells of an object, a row or more.
type Seen = Vec<Vec<String>>;

/// The last row of what is gone. Its state says so; where there is none, what follows its name does,
/// and nothing else is told of it.
fn gone(columns: &[&str], mut row: Vec<String>) -> Vec<String> {
    let state = columns.iter().position(|name| name.trim_start_matches(['+', '>']) == "STATE");
    if state.is_none() {
        row.iter_mut().skip(1).for_each(|cell| *cell = "-".into());
    }
    if let Some(cell) = row.get_mut(state.unwrap_or(1)) {
        *cell = "gone".into();
    }
    row
}

fn as_list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            Vec::new()
        }
    }
}

/// Prints what a grid has not given out yet.
pub(super) fn print_next(grid: &mut Grid) -> Result<(), End> {
    grid.next_text().map_or(Ok(()), |text| print(&text))
}

fn print_next_if(output: Output, grid: &mut Grid) -> Result<(), End> {
    match output {
        Output::Table | Output::Wide => print_next(grid),
        Output::Json | Output::Name => Ok(()),
    }
}

/// Waits until something has changed.
async fn change(watch: &mut Watch) -> Result<(), End> {
    loop {
        match watch.next().await? {
            Item::Changed(_) | Item::SnapshotEnd { .. } => return Ok(()),
            Item::Bookmark { .. } if output_closed() => return Err(End::OutputClosed),
            Item::Interrupted { endpoint, why } => {
                note(&format!("{endpoint}: {why}; trying to go on"));
            }
            Item::Resumed { .. }
            | Item::SnapshotBegin { .. }
            | Item::Listed(_)
            | Item::Bookmark { .. }
            | Item::Compacted { .. } => {}
        }
    }
}

/// Takes further changes for a while.
async fn gather(watch: &mut Watch) -> Result<(), End> {
    let until = Instant::now() + GATHER;
    loop {
        tokio::select! {
            () = sleep_until(until) => return Ok(()),
            item = watch.next() => drop(item?),
        }
    }
}
