//! Roster as it is measured.

use std::ffi::OsString;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use http::Method;
use serde::{Deserialize, Serialize};

use super::system::{Lease, NODES, Place, System, Watch, decimal, metadata, mixed};
use crate::bench::JSON;
use crate::bench::http::Connection;
use crate::bench::load::{Job, Request};

/// Instances of one call that registers many.
pub const REGISTERED_AT_ONCE: usize = 500;

/// Heartbeats of one call that carries many.
pub const HEARTBEATS_AT_ONCE: usize = 1_000;

/// Members of the fleet in one app.
const PER_APP: usize = 1_000;

/// Of the fleet: it outlasts all measurements, also those that leave the servers no time for it.
const FLEET_TTL: &str = "24h";

/// Connections that read lists at once.
const READERS: usize = 4;

/// Instances of one page.
const PAGE: usize = 10_000;

#[derive(Clone)]
pub struct Roster {
    /// The nodes are this program.
    pub program: PathBuf,
    /// Members of the fleet that are registered at the most.
    pub fleet: usize,
}

impl Roster {
    /// A heartbeat of any member.
    pub fn any_heartbeat(&self) -> Job {
        let roster = self.clone();
        Arc::new(move |worker, call| roster.heartbeat(mixed(worker << 40 | call) as usize))
    }

    /// Calls of [`HEARTBEATS_AT_ONCE`] that together renew the whole fleet, each with members of as
    /// many apps as there are.
    pub fn all_heartbeats(&self) -> Vec<Request> {
        let calls = self.fleet.div_ceil(HEARTBEATS_AT_ONCE);
        (0..calls)
            .map(|call| (call..self.fleet).step_by(calls).map(Target::of).collect::<Vec<_>>())
            .map(|instances| Request {
                method: Method::POST,
                path: "/v1/heartbeats".into(),
                content_type: "application/msgpack",
                body: rmp_serde::to_vec_named(&Targets { instances }).unwrap_or_default().into(),
            })
            .collect()
    }

    async fn counts(&self, address: &str) -> Result<Vec<AppLine>, String> {
        let path = format!("/v1/apps?limit={PAGE}");
        let answer = Connection::open(address).await?.get(&path).await?;
        if !answer.status.is_success() {
            return Err(answer.to_string());
        }
        let apps = answer.json::<AppList>()?.apps.into_iter();
        Ok(apps.filter(|app| app.app.starts_with("fleet-")).collect())
    }
}

fn app(number: usize) -> String {
    format!("fleet-{:04}", number / PER_APP)
}

fn ip(number: usize) -> String {
    format!("10.{}.{}.{}", number >> 16 & 255, number >> 8 & 255, number & 255)
}

fn id(number: usize) -> String {
    format!("{}:8719", ip(number))
}

/// Appends one item of a batch.
fn registration(body: &mut String, number: usize) {
    let ip = ip(number);
    let zone = ["a", "b", "c"][number % 3];
    for part in
        [r#"{"op":"register","app":""#, &app(number), r#"","id":""#, &ip, r#":8719","ip":""#]
    {
        body.push_str(part);
    }
    for part in [&ip, r#"","port":8719,"hostname":"host-"#] {
        body.push_str(part);
    }
    decimal(body, number / 10, 0);
    for part in [r#"","version":"1.8.9","zone":""#, zone, r#"","metadata":"#] {
        body.push_str(part);
    }
    metadata(body, number);
    for part in [r#","ttl":""#, FLEET_TTL, r#""}"#] {
        body.push_str(part);
    }
}

#[derive(Serialize)]
struct Target {
    app: String,
    id: String,
}

impl Target {
    fn of(number: usize) -> Self {
        Self { app: app(number), id: id(number) }
    }
}

#[derive(Serialize)]
struct Targets {
    instances: Vec<Target>,
}

#[derive(Deserialize)]
struct AppList {
    apps: Vec<AppLine>,
}

#[derive(Deserialize)]
struct AppLine {
    app: String,
    counts: Counts,
}

#[derive(Deserialize)]
struct Counts {
    up: usize,
    #[serde(default)]
    suspect: usize,
}

#[derive(Deserialize)]
struct Registered {
    ttl: String,
}

#[derive(Deserialize)]
struct Event {
    event: String,
    #[serde(default)]
    id: String,
}

#[derive(Deserialize)]
struct Node {
    role: String,
}

impl System for Roster {
    const NAME: &str = "node";

    fn command(&self, place: &Place) -> Vec<OsString> {
        let list: Vec<_> = (1..=NODES)
            .zip(&place.peer_ports)
            .map(|(id, port)| format!("{id}=127.0.0.1:{port}"))
            .collect();
        let mut command: Vec<OsString> = vec![self.program.clone().into(), "serve".into()];
        for (flag, value) in [
            ("--node-id", (place.node + 1).to_string()),
            ("--listen", place.address()),
            ("--peer-listen", format!("127.0.0.1:{}", place.peer_ports[place.node])),
            ("--cluster", list.join(",")),
        ] {
            command.extend([flag.into(), value.into()]);
        }
        command.extend(["--data-dir".into(), place.data.clone().into()]);
        command
    }

    fn is_setting(variable: &str) -> bool {
        variable.starts_with("ROSTER_")
    }

    async fn is_ready(&self, address: &str) -> bool {
        let Ok(mut connection) = Connection::open(address).await else { return false };
        connection.get("/readyz").await.is_ok_and(|answer| answer.status.is_success())
    }

    async fn leads(&self, address: &str) -> Result<bool, String> {
        let node: Node = Connection::open(address).await?.get("/v1/node").await?.json()?;
        Ok(node.role == "leader")
    }

    fn write(&self, number: usize) -> Request {
        Request {
            method: Method::PUT,
            path: format!("/v1/apps/probe/instances/writer-{}", number % NODES),
            content_type: JSON,
            body: format!(
                r#"{{"ip":"10.0.0.1","port":8080,"metadata":{{"n":"{number}"}},"ttl":"24h"}}"#
            )
            .into(),
        }
    }

    fn heartbeat(&self, number: usize) -> Request {
        let number = number % self.fleet;
        Request {
            method: Method::PUT,
            path: format!("/v1/apps/{}/instances/{}/heartbeat", app(number), id(number)),
            content_type: "",
            body: Bytes::new(),
        }
    }

    fn registrations(&self, numbers: Range<usize>) -> Vec<Request> {
        let mut body = String::with_capacity(numbers.len() * 512);
        body.push_str(r#"{"items":["#);
        for (place, number) in numbers.enumerate() {
            if place > 0 {
                body.push(',');
            }
            registration(&mut body, number);
        }
        body.push_str("]}");
        vec![Request {
            method: Method::POST,
            path: "/v1/instances:batch".into(),
            content_type: JSON,
            body: body.into(),
        }]
    }

    async fn count(&self, address: &str) -> Result<usize, String> {
        let apps = self.counts(address).await?;
        Ok(apps.iter().map(|app| app.counts.up + app.counts.suspect).sum())
    }

    async fn read_all(&self, address: &str) -> Result<usize, String> {
        let apps: Vec<String> =
            self.counts(address).await?.into_iter().map(|app| app.app).collect();
        let readers = apps.chunks(apps.len().div_ceil(READERS).max(1)).map(async |apps| {
            let mut connection = Connection::open(address).await?;
            let mut read = 0;
            for app in apps {
                let path = format!("/v1/apps/{app}/instances?limit={PAGE}");
                let answer = connection.get(&path).await?;
                if !answer.status.is_success() {
                    return Err(answer.to_string());
                }
                read += occurrences(&answer.body, br#""incarnation":"#);
            }
            Ok::<_, String>(read)
        });
        Ok(try_join_all(readers).await?.into_iter().sum())
    }

    /// Each in an app of its own, so that none is part of a mass loss.
    async fn appear(
        &self,
        connection: &mut Connection,
        number: usize,
        ttl: Duration,
    ) -> Result<Lease, String> {
        let path = format!("/v1/apps/late-{number}/instances/{number}");
        let ttl = humantime::format_duration(ttl);
        let body = format!(r#"{{"ip":"10.0.0.1","port":8080,"ttl":"{ttl}"}}"#);
        let answer = connection.send(Method::PUT, &path, JSON, body.into()).await?;
        if !answer.status.is_success() {
            return Err(answer.to_string());
        }
        let told = answer.json::<Registered>()?.ttl;
        let ttl = humantime::parse_duration(&told).map_err(|e| format!("ttl {told:?}: {e}"))?;
        let heartbeat = Request {
            method: Method::PUT,
            path: format!("{path}/heartbeat"),
            content_type: "",
            body: Bytes::new(),
        };
        Ok(Lease { ttl, heartbeat })
    }

    fn watch(&self, numbers: Range<usize>) -> Watch {
        let apps: String = numbers.map(|number| format!("&app=late-{number}")).collect();
        let path = format!("/v1/watch?kind=instance{apps}");
        Watch { method: Method::GET, path, body: Bytes::new() }
    }

    fn is_following(&self, line: &str) -> bool {
        line.contains("snapshot-end")
    }

    fn departures(&self, line: &str) -> Vec<usize> {
        let event = serde_json::from_str(line).ok().filter(|event: &Event| event.event == "delete");
        event.and_then(|event| event.id.parse().ok()).into_iter().collect()
    }
}

/// How often the bytes occur.
fn occurrences(hay: &[u8], needle: &[u8]) -> usize {
    let quotes = hay.iter().enumerate().filter(|(_, byte)| **byte == needle[0]);
    quotes.filter(|(at, _)| hay[*at..].starts_with(needle)).count()
}
