//! etcd as it is measured beside Roster, if its server is installed: through its JSON gateway, which
//! needs no library and costs more than gRPC.
//!
//! An instance is a lease and a key that hangs off it.

use std::ffi::OsString;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use serde::Deserialize;

use super::JSON;
use super::http::{Answer, Connection};
use super::load::Request;
use super::scale::system::{Lease, Place, System, Watch, metadata};

/// Of the fleet: it outlasts all measurements.
const FLEET_TTL_SECONDS: u64 = 24 * 60 * 60;

/// Leases have numbers that their clients may choose, and none is 0.
const FLEET_LEASES: usize = 1;
const SHORT_LEASES: usize = 1 << 40;

#[derive(Clone)]
pub struct Etcd {
    program: PathBuf,
    /// Members of the fleet that are registered at the most.
    fleet: usize,
}

impl Etcd {
    /// The `etcd` that is found on the PATH.
    pub fn found(fleet: usize) -> Option<Self> {
        let path = std::env::var_os("PATH")?;
        let mut programs = std::env::split_paths(&path).map(|folder| folder.join("etcd"));
        programs.find(|program| program.is_file()).map(|program| Self { program, fleet })
    }

    /// The keys of this prefix.
    pub fn list(prefix: &str) -> Request {
        post("/v3/kv/range", format!("{{{}}}", range(prefix)))
    }

    /// An instance of which nobody hears again: the first half grants the lease, the second puts the
    /// key.
    pub fn register(app: &str, number: usize, half: usize) -> Request {
        let lease = SHORT_LEASES * 2 + number;
        match half {
            0 => grant(lease, FLEET_TTL_SECONDS),
            _ => put(&format!("{app}/{number}"), &value(number), lease),
        }
    }

    async fn version(&self) -> Option<String> {
        let output = tokio::process::Command::new(&self.program).arg("--version").output().await;
        let text = String::from_utf8(output.ok()?.stdout).ok()?;
        Some(text.lines().next()?.trim_start_matches("etcd Version: ").to_owned())
    }

    /// What is measured, for the reader.
    pub async fn description(&self) -> String {
        let version = self.version().await.unwrap_or_else(|| "of an unknown version".into());
        format!(
            "{version} ({}), three processes, default settings, through its JSON gateway (dearer than \
             gRPC)",
            self.program.display()
        )
    }
}

fn post(path: &str, body: impl Into<Bytes>) -> Request {
    Request { method: Method::POST, path: path.into(), content_type: JSON, body: body.into() }
}

fn grant(lease: usize, ttl_seconds: u64) -> Request {
    post("/v3/lease/grant", format!(r#"{{"ID":"{lease}","TTL":"{ttl_seconds}"}}"#))
}

fn keep_alive(lease: usize) -> Request {
    post("/v3/lease/keepalive", format!(r#"{{"ID":"{lease}"}}"#))
}

fn put(key: &str, value: &str, lease: usize) -> Request {
    let (key, value) = (STANDARD.encode(key), STANDARD.encode(value));
    post("/v3/kv/put", format!(r#"{{"key":"{key}","value":"{value}","lease":"{lease}"}}"#))
}

/// All keys that begin like this; the last byte of a prefix is never the highest one here.
fn range(prefix: &str) -> String {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    format!(r#""key":"{}","range_end":"{}""#, STANDARD.encode(prefix), STANDARD.encode(end))
}

fn key(number: usize) -> String {
    format!(
        "fleet-{:04}/10.{}.{}.{}:8719",
        number / 1_000,
        number >> 16 & 255,
        number >> 8 & 255,
        number & 255
    )
}

fn value(number: usize) -> String {
    let mut text = format!(
        r#"{{"ip":"10.0.0.1","port":8719,"hostname":"host-{}","version":"1.8.9","zone":"a","metadata":"#,
        number / 10,
    );
    metadata(&mut text, number);
    text.push('}');
    text
}

#[derive(Deserialize)]
struct Granted {
    #[serde(rename = "TTL")]
    ttl: String,
}

#[derive(Deserialize)]
struct Status {
    header: Header,
    #[serde(default)]
    leader: String,
}

#[derive(Deserialize)]
struct Header {
    member_id: String,
}

/// Numbers are text, and left out where they are 0.
#[derive(Deserialize)]
struct Counted {
    #[serde(default)]
    count: String,
}

#[derive(Deserialize)]
struct Line {
    result: Told,
}

#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    created: bool,
    #[serde(default)]
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(default, rename = "type")]
    kind: String,
    kv: Changed,
}

#[derive(Deserialize)]
struct Changed {
    key: String,
}

async fn send(connection: &mut Connection, request: Request) -> Result<Answer, String> {
    let Request { method, path, content_type, body } = request;
    let answer = connection.send(method, &path, content_type, body).await?;
    if answer.status.is_success() { Ok(answer) } else { Err(answer.to_string()) }
}

impl System for Etcd {
    const NAME: &str = "etcd";

    fn command(&self, place: &Place) -> Vec<OsString> {
        let peer = |port: &u16| format!("http://127.0.0.1:{port}");
        let all: Vec<_> = place
            .peer_ports
            .iter()
            .enumerate()
            .map(|(node, port)| format!("n{node}={}", peer(port)))
            .collect();
        let (client, own) =
            (format!("http://{}", place.address()), peer(&place.peer_ports[place.node]));
        let mut command = vec![self.program.clone().into()];
        for (flag, value) in [
            ("--name", format!("n{}", place.node)),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", own.clone()),
            ("--initial-advertise-peer-urls", own),
            ("--initial-cluster", all.join(",")),
            ("--initial-cluster-token", format!("roster-bench-{}", std::process::id())),
        ] {
            command.extend([flag.into(), value.into()]);
        }
        command.extend(["--data-dir".into(), place.data.clone().into()]);
        command
    }

    fn is_setting(variable: &str) -> bool {
        variable.starts_with("ETCD_")
    }

    async fn is_ready(&self, address: &str) -> bool {
        let Ok(mut connection) = Connection::open(address).await else { return false };
        // Linearizable, so it answers when there is a leader and this node has what that one has.
        send(&mut connection, Self::list("nothing/")).await.is_ok()
    }

    async fn leads(&self, address: &str) -> Result<bool, String> {
        let mut connection = Connection::open(address).await?;
        let status: Status =
            send(&mut connection, post("/v3/maintenance/status", "{}")).await?.json()?;
        Ok(status.leader == status.header.member_id)
    }

    fn write(&self, number: usize) -> Request {
        put("probe", &number.to_string(), 0)
    }

    fn heartbeat(&self, number: usize) -> Request {
        keep_alive(FLEET_LEASES + number % self.fleet)
    }

    fn registrations(&self, numbers: Range<usize>) -> Vec<Request> {
        let each = |number| {
            let lease = FLEET_LEASES + number;
            [grant(lease, FLEET_TTL_SECONDS), put(&key(number), &value(number), lease)]
        };
        numbers.flat_map(each).collect()
    }

    async fn count(&self, address: &str) -> Result<usize, String> {
        let mut connection = Connection::open(address).await?;
        let body = format!(r#"{{{},"count_only":true}}"#, range("fleet-"));
        let counted: Counted = send(&mut connection, post("/v3/kv/range", body)).await?.json()?;
        Ok(counted.count.parse().unwrap_or(0))
    }

    async fn read_all(&self, address: &str) -> Result<usize, String> {
        let mut connection = Connection::open(address).await?;
        let counted: Counted = send(&mut connection, Self::list("fleet-")).await?.json()?;
        Ok(counted.count.parse().unwrap_or(0))
    }

    async fn appear(
        &self,
        connection: &mut Connection,
        number: usize,
        ttl: Duration,
    ) -> Result<Lease, String> {
        let lease = SHORT_LEASES + number;
        let granted: Granted =
            send(connection, grant(lease, ttl.as_secs().max(1))).await?.json()?;
        let seconds = granted.ttl.parse().map_err(|e| format!("TTL {:?}: {e}", granted.ttl))?;
        send(connection, put(&format!("late/{number}"), "{}", lease)).await?;
        Ok(Lease { ttl: Duration::from_secs(seconds), heartbeat: keep_alive(lease) })
    }

    fn watch(&self, _: Range<usize>) -> Watch {
        let body = format!(r#"{{"create_request":{{{}}}}}"#, range("late/"));
        Watch { method: Method::POST, path: "/v3/watch".into(), body: body.into() }
    }

    fn is_following(&self, line: &str) -> bool {
        serde_json::from_str(line).is_ok_and(|line: Line| line.result.created)
    }

    fn departures(&self, line: &str) -> Vec<usize> {
        let Ok(line) = serde_json::from_str::<Line>(line) else { return Vec::new() };
        let deleted = line.result.events.into_iter().filter(|event| event.kind == "DELETE");
        let keys = deleted.filter_map(|event| STANDARD.decode(event.kv.key).ok());
        keys.filter_map(|key| std::str::from_utf8(&key).ok()?.strip_prefix("late/")?.parse().ok())
            .collect()
    }
}
