//! What Roster and etcd have in common as far as they are measured: how each is started, and how one
//! says the same to each of them.

use std::ffi::OsString;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::Method;

use crate::bench::http::Connection;
use crate::bench::load::Request;

/// Nodes of each cluster.
pub const NODES: usize = 3;

/// Bytes of metadata of each instance, as the figures want it.
pub const METADATA_BYTES: usize = 200;

/// Where one node listens and writes.
pub struct Place {
    /// From 0.
    pub node: usize,
    /// Of all nodes, for clients and for each other.
    pub ports: Vec<u16>,
    pub peer_ports: Vec<u16>,
    pub data: PathBuf,
}

impl Place {
    /// HOST:PORT for clients.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[self.node])
    }
}

/// What keeps one instance alive.
pub struct Lease {
    pub ttl: Duration,
    pub heartbeat: Request,
}

/// A stream that is followed from now on.
pub struct Watch {
    pub method: Method,
    pub path: String,
    pub body: Bytes,
}

/// A registry that can be measured. Instances have numbers: those of the fleet are all registered
/// and stay, the short-lived ones come and go.
pub trait System: Clone + Send + Sync + 'static {
    const NAME: &str;

    /// Program and arguments of a node.
    fn command(&self, place: &Place) -> Vec<OsString>;

    /// A variable of the environment that changes what a node does.
    fn is_setting(variable: &str) -> bool;

    fn is_ready(&self, address: &str) -> impl Future<Output = bool> + Send;

    fn leads(&self, address: &str) -> impl Future<Output = Result<bool, String>> + Send;

    /// A write that changes something each time.
    fn write(&self, number: usize) -> Request;

    /// One heartbeat of a member of the fleet.
    fn heartbeat(&self, number: usize) -> Request;

    /// The calls that register so many members of the fleet, one after the other.
    fn registrations(&self, numbers: Range<usize>) -> Vec<Request>;

    /// Members of the fleet, linearizable.
    fn count(&self, address: &str) -> impl Future<Output = Result<usize, String>> + Send;

    /// Reads all members of the fleet, linearizable, and says how many these were.
    fn read_all(&self, address: &str) -> impl Future<Output = Result<usize, String>> + Send;

    /// Registers a short-lived instance.
    fn appear(
        &self,
        connection: &mut Connection,
        number: usize,
        ttl: Duration,
    ) -> impl Future<Output = Result<Lease, String>> + Send;

    /// Follows the short-lived instances.
    fn watch(&self, numbers: Range<usize>) -> Watch;

    /// From this line of a watch on nothing is missed.
    fn is_following(&self, line: &str) -> bool;

    /// The short-lived instances that left, as a line of a watch tells.
    fn departures(&self, line: &str) -> Vec<usize>;
}

/// Appends metadata as deployments have it: some of it is the same for many, most is not. Without the
/// formatter, whose work would be a twentieth of all that the machine does while a fleet is registered.
pub fn metadata(text: &mut String, number: usize) {
    let start = text.len();
    let (day, second) = (number % 28 + 1, number % 60);
    text.push_str(r#"{"build":""#);
    decimal(text, 4_700 + number % 10, 0);
    text.push_str(r#"","team":"payments","pod":"fleet-7c9f8d-"#);
    decimal(text, number, 7);
    text.push_str(r#"","image":"sha256:"#);
    for half in [number, number ^ 0x5555, number, number ^ 0x5555] {
        digits::<16>(text, mixed(half), 16);
    }
    text.push_str(r#"","started":"2026-01-"#);
    decimal(text, day, 2);
    text.push_str("T10:00:");
    decimal(text, second, 2);
    text.push_str(r#"Z","n":""#);
    let rest = (METADATA_BYTES + PUNCTUATION).saturating_sub(text.len() - start + r#""}"#.len());
    digits::<10>(text, mixed(number + 1), rest);
    text.push_str(r#""}"#);
}

/// Appends a number with so many digits at least.
pub fn decimal(text: &mut String, number: usize, width: usize) {
    digits::<10>(text, number as u64, width);
}

fn digits<const RADIX: u64>(text: &mut String, mut number: u64, width: usize) {
    let mut reversed = [b'0'; 64];
    let mut length = 0;
    while number > 0 || length == 0 {
        reversed[length] = b"0123456789abcdef"[(number % RADIX) as usize];
        (number, length) = (number / RADIX, length + 1);
    }
    let width = width.clamp(length, reversed.len());
    text.extend(reversed[..width].iter().rev().map(|digit| char::from(*digit)));
}

/// Braces, quotes, colons and commas of the JSON text, which are not counted.
const PUNCTUATION: usize = 2 + 6 * 5 + 5;

/// The same number for the same number, spread evenly.
pub fn mixed(number: usize) -> u64 {
    fastrand::Rng::with_seed(number as u64).u64(..)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn each_instance_has_exactly_as_much_metadata_as_the_figures_want() {
        for number in [0, 7, 999_999, 1_000_000] {
            let mut text = String::new();
            metadata(&mut text, number);
            let entries: BTreeMap<String, String> = serde_json::from_str(&text).expect("JSON");
            let bytes: usize = entries.iter().map(|(key, value)| key.len() + value.len()).sum();
            assert_eq!(bytes, METADATA_BYTES, "{entries:?}");
            assert_eq!(entries["pod"], format!("fleet-7c9f8d-{number:07}"));
            assert!(entries["image"].contains(&format!("sha256:{:016x}", mixed(number))));
        }
    }
}
