//! `roster service`: the services of OpenStack that are here.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;

use super::asking::{End, Output, Target, print};
use super::grid::Grid;
use crate::client::{Call, Client, Error};

/// The largest page of a list.
const PAGE: usize = 10_000;

/// What marks, in their metadata, the instances that Nova's driver registers.
const MARK: (&str, &str) = ("servicegroup", "nova");

/// The state of an instance that takes work.
const UP: &str = "up";

/// Show what services of OpenStack are here
#[derive(Debug, clap::Args)]
pub(super) struct Service {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show Nova's services as `nova-manage service list` did, a row per binary and host
    ///
    /// Only those that are here: a service whose processes are gone is not in the registry. XXX is one
    /// that an operator has taken out. Status is "-": whether a service is disabled is in Nova's
    /// database.
    #[command(after_help = "Example: roster service list --prefix nova.comp")]
    List(List),
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only services of apps whose name begins so
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    prefix: String,
    #[command(flatten)]
    target: Target,
}

/// One process.
#[derive(Clone, Debug, Deserialize)]
struct Instance {
    app: String,
    #[serde(default)]
    zone: String,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    state: String,
    /// RFC 3339, UTC.
    last_heartbeat: Option<String>,
}

/// One service of one host: it is up while any of its processes is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Row {
    zone: String,
    is_up: bool,
    updated_at: Option<String>,
    processes: usize,
}

impl Service {
    pub async fn run(self) -> Result<(), End> {
        match self.what {
            What::List(list) => list.run().await,
        }
    }
}

impl List {
    async fn run(self) -> Result<(), End> {
        let instances = all(&self.target.client()?).await?;
        let ours = instances.into_iter().filter(|instance| instance.app.starts_with(&self.prefix));
        let rows = folded(ours);
        match self.target.output {
            Output::Json => rows.iter().try_for_each(|(key, row)| print(&as_json(key, row))),
            Output::Table => print(&as_table(&rows)),
        }
    }
}

async fn all(client: &Client) -> Result<Vec<Instance>, Error> {
    #[derive(Deserialize)]
    struct Page {
        instances: Vec<Instance>,
        next_cursor: Option<String>,
    }
    let (mut all, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let mut call = Call::get("/v1/instances".into());
        call = call.query("heartbeats", true).query("limit", PAGE);
        if let Some(cursor) = &cursor {
            call = call.query("cursor", cursor);
        }
        let page: Page = client.send(call).await?.json()?;
        all.extend(page.instances);
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(all);
        }
    }
}

/// Rows by binary and host.
fn folded(instances: impl Iterator<Item = Instance>) -> BTreeMap<(String, String), Row> {
    let mut rows = BTreeMap::<_, Row>::new();
    for Instance { zone, metadata, state, last_heartbeat, .. } in instances {
        if metadata.get(MARK.0).map(String::as_str) != Some(MARK.1) {
            continue;
        }
        let text = |name: &str| metadata.get(name).cloned().unwrap_or_else(|| "-".into());
        let row = rows.entry((text("binary"), text("host"))).or_default();
        let is_up = state == UP;
        // Of processes that disagree, one that is up knows where it is.
        if row.processes == 0 || (is_up && !row.is_up) {
            row.zone = zone;
        }
        row.is_up |= is_up;
        // Of times in this form the later one is the greater text.
        row.updated_at = row.updated_at.take().max(last_heartbeat);
        row.processes += 1;
    }
    rows
}

fn as_table(rows: &BTreeMap<(String, String), Row>) -> String {
    let mut grid = Grid::new(&["Binary", "Host", "Zone", "Status", "State", "Updated_At"]);
    for ((binary, host), row) in rows {
        let state = if row.is_up { ":-)" } else { "XXX" };
        let updated_at = row.updated_at.as_deref().map_or_else(|| "-".into(), to_seconds);
        grid.row(&[binary, host, &row.zone, &"-", &state, &updated_at]);
    }
    grid.text()
}

/// `2026-11-21T20:36:17.350Z` as `nova-manage` writes it: `2026-11-21 20:36:17`.
fn to_seconds(time: &str) -> String {
    let whole = time.split(['.', 'Z']).next().unwrap_or(time);
    whole.replacen('T', " ", 1)
}

fn as_json((binary, host): &(String, String), row: &Row) -> String {
    let Row { zone, is_up, updated_at, processes } = row;
    let state = if *is_up { UP } else { "down" };
    let told = json!({
        "binary": binary, "host": host, "zone": zone, "status": null, "state": state,
        "updated_at": updated_at, "processes": processes,
    });
    told.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(app: &str, id: &str, state: &str, heartbeat: &str) -> Instance {
        let (host, pid) = id.split_once('/').expect("host/pid");
        let binary = app.replace('.', "-");
        let text = json!({
            "app": app, "id": id, "zone": "nova", "state": state, "last_heartbeat": heartbeat,
            "metadata": {"servicegroup": "nova", "binary": binary, "host": host, "pid": pid},
        });
        serde_json::from_value(text).expect("an instance")
    }

    #[test]
    fn a_host_is_one_row_and_up_while_any_of_its_processes_is() {
        let mut other = process("nova.compute", "h9/1", "up", "2026-11-21T20:36:17.350Z");
        other.metadata.remove("servicegroup");
        let instances = [
            process("nova.conductor", "h1/7", "out_of_service", "2026-11-21T20:36:19.350Z"),
            process("nova.conductor", "h1/8", "up", "2026-11-21T20:36:18.350Z"),
            process("nova.compute", "h2/9", "out_of_service", "2026-11-21T20:36:17.350Z"),
            other,
        ];
        let rows = folded(instances.into_iter());
        let lines = [
            "Binary          Host  Zone  Status  State  Updated_At",
            "nova-compute    h2    nova  -       XXX    2026-11-21 20:36:17",
            "nova-conductor  h1    nova  -       :-)    2026-11-21 20:36:19",
        ];
        assert_eq!(as_table(&rows), lines.join("\n"));
        let (key, row) = rows.last_key_value().expect("a row");
        let told: serde_json::Value = serde_json::from_str(&as_json(key, row)).expect("JSON");
        assert_eq!(
            told,
            json!({
                "binary": "nova-conductor", "host": "h1", "zone": "nova", "status": null,
                "state": "up", "updated_at": "2026-11-21T20:36:19.350Z", "processes": 2,
            })
        );
    }
}
