//! Which ports the nodes of `roster dev` take. They are looked at before any node is started: a node that
//! cannot listen would end, while another cluster answers in its place.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::{Range, RangeInclusive};
use std::path::Path;

use crate::cli::asking::End;
use crate::config::ConfigError;

/// Free ports are looked for here: below those that systems give to outgoing connections.
const RANGE: Range<u16> = 20_000..32_000;

const TRIES: usize = 100;

/// The first API port and the first peer port; each node takes the next one of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    pub api: u16,
    pub peer: u16,
}

impl Ports {
    /// Nodes that have data know each other by their addresses, so free ports are not theirs.
    pub fn must_be_given(self, folder: &Path) -> Result<(), End> {
        for (flag, port) in [("--api-port", self.api), ("--peer-port", self.peer)] {
            if port == 0 {
                let problem = format!(
                    "0 stands for free ports, but the nodes with data in {} know each other by theirs; \
                     give the port that they had",
                    folder.display()
                );
                return Err(wrong(flag, problem));
            }
        }
        Ok(())
    }

    /// Those that were asked for, 0 being free ones, for so many nodes. All of them are free now.
    ///
    /// # Errors
    /// [`End::Settings`] for what can never be; [`End::Failed`] if one of them is in use.
    pub fn choose(asked: Self, nodes: u16) -> Result<Self, End> {
        let api = row("--api-port", asked.api, nodes)?;
        let peer = row("--peer-port", asked.peer, nodes)?;
        let is_shared = |port: &u16| asked.api != 0 && api.contains(port);
        if let Some(port) = peer.clone().find(is_shared).filter(|_| asked.peer != 0) {
            let problem = format!("port {port} is one that --api-port takes; choose others");
            return Err(wrong("--peer-port", problem));
        }
        // Held until all are found, so that no free one is found twice.
        let mut held = Vec::new();
        for (flag, ports) in [("--api-port", api), ("--peer-port", peer)] {
            for port in ports {
                held.push(listen(port).map_err(|e| End::Failed(taken(flag, port, &e)))?);
            }
        }
        let (api, more) = or_free(asked.api, nodes)?;
        held.extend(more);
        let (peer, _more) = or_free(asked.peer, nodes)?;
        Ok(Self { api, peer })
    }
}

/// The ports that a flag asks for; none for 0.
#[expect(clippy::reversed_empty_ranges, reason = "it is empty")]
fn row(flag: &str, first: u16, nodes: u16) -> Result<RangeInclusive<u16>, End> {
    if first == 0 {
        return Ok(1..=0);
    }
    let highest = u16::MAX - (nodes - 1);
    if first > highest {
        let problem = format!(
            "{first} is too high: {nodes} nodes take a port each from there on, and the highest is {}; \
             take at most {highest}",
            u16::MAX
        );
        return Err(wrong(flag, problem));
    }
    Ok(first..=first + (nodes - 1))
}

fn wrong(flag: &str, problem: String) -> End {
    End::Settings(ConfigError { setting: flag.into(), problem })
}

fn taken(flag: &str, port: u16, e: &std::io::Error) -> String {
    match e.kind() {
        ErrorKind::AddrInUse => format!(
            "port {port} is in use (by another `roster dev`?); use {flag} to choose others, 0 for free \
             ones"
        ),
        _ => format!("cannot listen on port {port}: {e}; use {flag} to choose others"),
    }
}

fn listen(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

/// The port that was asked for, or the first of a free row, with what holds it.
fn or_free(asked: u16, nodes: u16) -> Result<(u16, Vec<TcpListener>), End> {
    match asked {
        0 => Ok(free_row(nodes)?),
        asked => Ok((asked, Vec::new())),
    }
}

/// The first of so many ports in a row on which nobody listens now.
pub(crate) fn free_ports(count: u16) -> Result<u16, String> {
    Ok(free_row(count)?.0)
}

fn free_row(count: u16) -> Result<(u16, Vec<TcpListener>), String> {
    let row = |first: u16| {
        let all: std::io::Result<Vec<_>> = (first..first + count).map(listen).collect();
        Some((first, all.ok()?))
    };
    (0..TRIES)
        .find_map(|_| row(fastrand::u16(RANGE)))
        .ok_or_else(|| format!("found no {count} free ports in a row between {RANGE:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(api: u16, peer: u16) -> String {
        match Ports::choose(Ports { api, peer }, 3) {
            Err(End::Settings(e)) => format!("setting {e}"),
            Err(End::Failed(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn zero_stands_for_free_ports_of_both_kinds() {
        let ports = Ports::choose(Ports { api: 0, peer: 0 }, 3).expect("some are free");
        let (api, peer) = (ports.api..ports.api + 3, ports.peer..ports.peer + 3);
        assert!(!api.clone().any(|port| peer.contains(&port)), "{ports:?}");
        assert!(api.chain(peer).all(|port| port > 1_024), "{ports:?}");
    }

    #[test]
    fn ports_that_cannot_be_are_wrong_settings() {
        let error = refusal(65_534, 0);
        assert!(
            error.starts_with("setting --api-port: 65534") && error.contains("65533"),
            "{error}"
        );
        assert!(refusal(0, u16::MAX).starts_with("setting --peer-port"));
        assert!(refusal(7_401, 7_403).contains("port 7403 is one that --api-port takes"));
    }

    #[test]
    fn a_port_in_use_is_named_with_the_flag_that_chooses_another() {
        let held = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = held.local_addr().expect("its address").port();
        let error = refusal(port, 0);
        assert!(error.contains(&format!("port {port} is in use")), "{error}");
        assert!(error.contains("--api-port"), "{error}");
    }
}
