//! `roster service`: the services of OpenStack that are here.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;

use super::asking::{End, Output, Target, print, print_json, print_name};
use super::grid::Grid;
use crate::client::{Call, Client, Error};

/// The largest page of a list.
const PAGE: usize = 10_000;

/// The instances that Nova's driver registers, by the mark in their metadata.
const OURS: &str = r#"metadata.servicegroup == "nova""#;

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
    /// Only those that are here: a service whose processes are gone is not in the registry. So State is
    /// always ":-)", as Nova's driver answers: what is here is up, also what an operator drains or has
    /// in maintenance. Status is "-": whether a service is disabled is in Nova's database.
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
    /// RFC 3339, UTC.
    last_heartbeat: Option<String>,
}

/// One service of one host: it is up while any of its processes is here, in whatever state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Row {
    zone: String,
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
        let rows = self.rows(&self.target.client()?).await?;
        match self.target.output {
            Output::Json => rows.iter().try_for_each(|(key, row)| print_json(&as_json(key, row))),
            Output::Name => {
                rows.keys().try_for_each(|(binary, host)| print_name(&format!("{binary}/{host}")))
            }
            Output::Table | Output::Wide => print(&as_table(&rows)),
        }
    }

    /// Asks for one page after the other, and keeps of each only its services.
    async fn rows(&self, client: &Client) -> Result<Rows, Error> {
        #[derive(Deserialize)]
        struct Page {
            instances: Vec<Instance>,
            next_cursor: Option<String>,
        }
        let (mut rows, mut cursor) = (Rows::new(), None::<String>);
        loop {
            let mut call = Call::get("/v1/instances".into()).query("filter", OURS);
            call = call.query("heartbeats", true).query("limit", PAGE);
            if let Some(cursor) = &cursor {
                call = call.query("cursor", cursor);
            }
            let page: Page = client.send(call).await?.json()?;
            let ours = page.instances.into_iter();
            fold(&mut rows, ours.filter(|instance| instance.app.starts_with(&self.prefix)));
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(rows);
            }
        }
    }
}

/// By binary and host.
type Rows = BTreeMap<(String, String), Row>;

fn fold(rows: &mut Rows, instances: impl Iterator<Item = Instance>) {
    for Instance { zone, metadata, last_heartbeat, .. } in instances {
        let text = |name: &str| metadata.get(name).cloned().unwrap_or_else(|| "-".into());
        let row = rows.entry((text("binary"), text("host"))).or_default();
        // Of times in this form the later one is the greater text. Of processes that disagree, the one
        // that was heard last knows where it is.
        if row.processes == 0 || last_heartbeat > row.updated_at {
            (row.zone, row.updated_at) = (zone, last_heartbeat);
        }
        row.processes += 1;
    }
}

fn as_table(rows: &Rows) -> String {
    let mut grid = Grid::new(&["Binary", "Host", "Zone", "Status", "State", "Updated_At"]);
    for ((binary, host), row) in rows {
        let updated_at = row.updated_at.as_deref().map_or_else(|| "-".into(), to_seconds);
        grid.row(&[binary, host, &row.zone, &"-", &":-)", &updated_at]);
    }
    grid.text()
}

/// `2026-11-21T20:36:17.350Z` as `nova-manage` writes it: `2026-11-21 20:36:17`.
fn to_seconds(time: &str) -> String {
    let whole = time.split(['.', 'Z']).next().unwrap_or(time);
    whole.replacen('T', " ", 1)
}

fn as_json((binary, host): &(String, String), row: &Row) -> String {
    let Row { zone, updated_at, processes } = row;
    let told = json!({
        "binary": binary, "host": host, "zone": zone, "status": null, "state": "up",
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
    fn a_host_is_one_row_and_up_while_any_of_its_processes_is_here() {
        let instances = [
            process("nova.conductor", "h1/7", "draining", "2026-11-21T20:36:19.350Z"),
            process("nova.conductor", "h1/8", "up", "2026-11-21T20:36:18.350Z"),
            process("nova.compute", "h2/9", "maintenance", "2026-11-21T20:36:17.350Z"),
        ];
        let mut rows = Rows::new();
        fold(&mut rows, instances.into_iter());
        let lines = [
            "Binary          Host  Zone  Status  State  Updated_At",
            "nova-compute    h2    nova  -       :-)    2026-11-21 20:36:17",
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
