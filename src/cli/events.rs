//! `roster events`: past changes, with their reasons.

use clap::ValueEnum;

use super::asking::{End, Output, Target, note, print, print_json, print_name};
use super::table::{HEADER, name, row};
use crate::client::{EventsRequest, Order, Page, Revision};

/// Show past changes, with their reasons, from the history that the asked node keeps.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: roster events --app pay --kind instance --since 2026-11-21T20:00:00Z"
)]
pub(super) struct Events {
    /// Only of this app
    #[arg(long, value_name = "APP")]
    app: Option<String>,
    /// Only of this instance
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
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
    /// After this revision or time (2026-11-21T20:36:17Z)
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Up to this revision or time
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 500, value_name = "COUNT")]
    limit: usize,
    /// By revision, or the newest first
    #[arg(long, value_enum, default_value_t = OrderWord::Desc, value_name = "ORDER")]
    order: OrderWord,
    #[command(flatten)]
    target: Target,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OrderWord {
    Asc,
    Desc,
}

impl Events {
    pub async fn run(self) -> Result<(), End> {
        let output = self.target.output;
        let look = self.target.look();
        let mut pages = self.target.client()?.events(self.request());
        let is_table = [Output::Table, Output::Wide].contains(&output);
        let mut header = (is_table && look.headers).then_some(HEADER);
        let mut told = Vec::new();
        while let Some(page) = pages.next_page().await? {
            tell_missing(&page.missing, &mut told);
            if let Some(header) = header.take() {
                print(header)?;
            }
            show(&page, output, look.colours)?;
        }
        Ok(())
    }

    fn request(self) -> EventsRequest {
        EventsRequest {
            app: self.app,
            instance: self.instance,
            locks: self.lock,
            elections: self.election,
            kinds: self.kind,
            since: self.since,
            until: self.until,
            order: match self.order {
                OrderWord::Asc => Order::Ascending,
                OrderWord::Desc => Order::Descending,
            },
            limit: Some(self.limit),
        }
    }
}

fn show(page: &Page, output: Output, coloured: bool) -> Result<(), End> {
    for event in &page.events {
        match output {
            Output::Table | Output::Wide => print(&row(event.action.into(), event, coloured))?,
            Output::Name => print_name(&name(event))?,
            Output::Json => print_json(&event.line)?,
        }
    }
    Ok(())
}

/// What is missing must not look like silence. Pages may come from different nodes, so this is told
/// whenever it is not what was `told` before.
fn tell_missing(missing: &[(Revision, Revision)], told: &mut Vec<(Revision, Revision)>) {
    if missing == told {
        return;
    }
    *told = missing.to_vec();
    if missing.is_empty() {
        return;
    }
    note(&format!(
        "some revisions are not in the history of the asked node, and what happened in them is not \
         shown: {}; another node may have them",
        ranges(missing)
    ));
}

/// The newest are the last ones; a history has many gaps only if its disk is failing.
const RANGES_TOLD_MAX: usize = 20;

fn ranges(ranges: &[(Revision, Revision)]) -> String {
    let untold = ranges.len().saturating_sub(RANGES_TOLD_MAX);
    let told = ranges[untold..].iter().map(|(from, to)| format!("{from} to {to}"));
    let told = told.collect::<Vec<_>>().join(", ");
    match untold {
        0 => told,
        _ => format!("{untold} older ranges, {told}"),
    }
}
