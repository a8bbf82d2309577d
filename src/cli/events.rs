//! `roster events`: past changes, with their reasons.

use clap::ValueEnum;

use super::asking::{End, Output, Target, note, print};
use super::table::{HEADER, row};
use crate::client::{EventsRequest, Order, Page, Revision};

/// Shows past changes, with their reasons, from the history that the asked node keeps.
#[derive(Debug, clap::Args)]
pub(super) struct Events {
    /// Only of this app
    #[arg(long, value_name = "APP")]
    app: Option<String>,
    /// Only of this instance
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// Only this kind: app, instance, shard or document; may be given more than once
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
        let mut pages = self.target.client()?.events(self.request());
        let mut first = true;
        while let Some(page) = pages.next_page().await? {
            if first && output == Output::Table {
                tell_gaps(&page);
                print(HEADER)?;
            }
            first = false;
            show(&page, output)?;
        }
        Ok(())
    }

    fn request(self) -> EventsRequest {
        EventsRequest {
            app: self.app,
            instance: self.instance,
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

fn show(page: &Page, output: Output) -> Result<(), End> {
    for event in &page.events {
        match output {
            Output::Table => print(&row(event.action.into(), event))?,
            Output::Json => print(&event.line)?,
        }
    }
    Ok(())
}

/// What is missing must not look like silence.
fn tell_gaps(page: &Page) {
    match page.covered.as_slice() {
        [] => note("this node has no history"),
        [(Revision(..=1), _)] => {}
        ranges => {
            let ranges: Vec<_> =
                ranges.iter().map(|(from, to)| format!("{from} to {to}")).collect();
            note(&format!("this node's history only has the revisions {}", ranges.join(", ")));
        }
    }
}
