//! `roster watch`: what is there, then every change as it happens.

use super::asking::{End, Output, Target, note, output_closed, print, print_json, print_name};
use super::table::{Change, HEADER, name, row};
use crate::client::{self, Item, Revision, WatchRequest};
use crate::shutdown;

/// Show what is there, then every change as it happens, until Ctrl-C. When a connection breaks it
/// goes on where it was, on the next node, and says so on standard error.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: roster watch --app pay --kind instance -o json")]
pub(super) struct Watch {
    /// Only this app; may be given more than once
    #[arg(long, value_name = "APP")]
    app: Vec<String>,
    /// Only this lock; may be given more than once
    #[arg(long, value_name = "NAME")]
    lock: Vec<String>,
    /// Only this election; may be given more than once
    #[arg(long, value_name = "NAME")]
    election: Vec<String>,
    /// Only this kind: app, instance, shard, document, ring, worker or latch; may be given more than
    /// once
    #[arg(long, value_name = "KIND")]
    kind: Vec<String>,
    /// Only instances for which this CEL expression is true, such as 'zone == "a"'
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<String>,
    /// Every change after this revision, without what was there before; fails if some are not
    /// kept any more
    #[arg(long, value_name = "REVISION")]
    from: Option<Revision>,
    #[command(flatten)]
    target: Target,
}

impl Watch {
    pub async fn run(self) -> Result<(), End> {
        let stop = shutdown::on_signal().map_err(End::Signals)?;
        let (output, look) = (self.target.output, self.target.look());
        let mut watch = self.target.client()?.watch(self.request());
        let is_table = [Output::Table, Output::Wide].contains(&output);
        if is_table && look.headers {
            print(HEADER)?;
        }
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            end = show(&mut watch, output, look.colours) => end,
        }
    }

    /// Who asks for every change wants to know if some are missing; who began with what is there is
    /// served by a new beginning.
    fn request(self) -> WatchRequest {
        WatchRequest {
            apps: self.app,
            locks: self.lock,
            elections: self.election,
            kinds: self.kind,
            filter: self.filter,
            restart: self.from.is_none(),
            from: self.from,
            ..WatchRequest::default()
        }
    }
}

async fn show(watch: &mut client::Watch, output: Output, coloured: bool) -> Result<(), End> {
    loop {
        let item = watch.next().await?;
        match output {
            Output::Table | Output::Wide => as_table(&item, coloured)?,
            Output::Name => as_name(&item)?,
            Output::Json => as_json(&item)?,
        }
        tell(&item);
    }
}

fn as_table(item: &Item, coloured: bool) -> Result<(), End> {
    match item {
        Item::SnapshotBegin { revision, .. } => {
            print(&format!("# what is there at revision {revision}"))
        }
        Item::Listed(event) => print(&row(Change::Listed, event, coloured)),
        Item::SnapshotEnd { revision, .. } => {
            print(&format!("# changes after revision {revision}"))
        }
        Item::Changed(event) => print(&row(event.action.into(), event, coloured)),
        Item::Bookmark { .. } if output_closed() => Err(End::OutputClosed),
        Item::Bookmark { .. }
        | Item::Compacted { .. }
        | Item::Interrupted { .. }
        | Item::Resumed { .. } => Ok(()),
    }
}

/// Of whatever is there or changes.
fn as_name(item: &Item) -> Result<(), End> {
    match item {
        Item::Listed(event) | Item::Changed(event) => print_name(&name(event)),
        Item::Bookmark { .. } if output_closed() => Err(End::OutputClosed),
        Item::SnapshotBegin { .. }
        | Item::SnapshotEnd { .. }
        | Item::Bookmark { .. }
        | Item::Compacted { .. }
        | Item::Interrupted { .. }
        | Item::Resumed { .. } => Ok(()),
    }
}

/// A reader of the lines needs those that change what it knows; how the connections are is for
/// people.
fn as_json(item: &Item) -> Result<(), End> {
    match item {
        Item::SnapshotBegin { line, .. }
        | Item::SnapshotEnd { line, .. }
        | Item::Bookmark { line, .. }
        | Item::Compacted { line: Some(line), .. } => print_json(line),
        Item::Listed(event) | Item::Changed(event) => print_json(&event.line),
        Item::Compacted { line: None, .. } | Item::Interrupted { .. } | Item::Resumed { .. } => {
            Ok(())
        }
    }
}

fn tell(item: &Item) {
    match item {
        Item::Compacted { detail, .. } => {
            note(&format!("some changes are not kept any more ({detail}); beginning again"));
        }
        Item::Interrupted { endpoint, why } => {
            note(&format!("{endpoint}: {why}; trying to go on"));
        }
        Item::Resumed { endpoint, from: Some(from) } => {
            note(&format!("goes on at {endpoint} after revision {from}"));
        }
        Item::Resumed { endpoint, from: None } => {
            note(&format!("goes on at {endpoint} with what is there"));
        }
        Item::SnapshotBegin { .. }
        | Item::Listed(_)
        | Item::SnapshotEnd { .. }
        | Item::Changed(_)
        | Item::Bookmark { .. } => {}
    }
}
