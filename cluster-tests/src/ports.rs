//! Addresses for nodes. Ports come from the system; the host is a loopback address of this cluster's
//! own where there are many (Linux), so that no outgoing connection of another test takes a node's
//! port while the node is dead.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// A loopback address that no other cluster of this machine is likely to have.
pub fn own_host() -> IpAddr {
    static CLUSTERS: AtomicU32 = AtomicU32::new(1);
    let count = CLUSTERS.fetch_add(1, Ordering::Relaxed);
    let mixed = (std::process::id() << 7).wrapping_add(count).wrapping_mul(0x9e37_79b1) >> 8;
    let [_, a, b, c] = mixed.to_be_bytes();
    let own = IpAddr::V4(Ipv4Addr::new(127, a, b, c.clamp(2, 250)));
    match TcpListener::bind((own, 0)) {
        Ok(_) => own,
        Err(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

/// Free ports on `host`: noted and released. Whoever loses one in between says so when it starts.
pub fn free(host: IpAddr, count: usize) -> Vec<SocketAddr> {
    let taken: Vec<_> =
        (0..count).map(|_| TcpListener::bind((host, 0)).expect("a free port")).collect();
    taken.iter().map(|listener| listener.local_addr().expect("an address")).collect()
}
