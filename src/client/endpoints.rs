//! The list of nodes, and which of them is asked next.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::uri::Authority;

use super::error::Error;

/// More are a mistake in the list.
const ENDPOINTS_MAX: usize = 64;

/// The API address of one node, HOST:PORT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint(Authority);

impl Endpoint {
    /// `text` is HOST:PORT or http://HOST:PORT.
    fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |why: &str| Error::Invalid(format!("endpoint {text:?} {why}"));
        if text.starts_with("https://") {
            return Err(wrong("asks for TLS, which Roster does not speak yet"));
        }
        let address = text.strip_prefix("http://").unwrap_or(text);
        let address = address.strip_suffix('/').unwrap_or(address);
        let authority: Authority =
            address.parse().map_err(|_| wrong("is not HOST:PORT or http://HOST:PORT"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("must not name a user"));
        }
        if authority.host().is_empty() || authority.port_u16().is_none() {
            return Err(wrong("must have a host and a port, such as 127.0.0.1:7401"));
        }
        Ok(Self(authority))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.0)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// All nodes, at least one, and the one that answered last.
#[derive(Debug)]
pub(super) struct Endpoints {
    all: Vec<Endpoint>,
    current: AtomicUsize,
}

impl Endpoints {
    /// Reads a list that is separated by commas.
    pub fn parse(list: &str) -> Result<Self, Error> {
        let texts = list.split(',').map(str::trim).filter(|text| !text.is_empty());
        let all = texts.map(Endpoint::parse).collect::<Result<Vec<_>, _>>()?;
        match all.len() {
            0 => Err(Error::Invalid("the list of endpoints is empty".into())),
            1..=ENDPOINTS_MAX => Ok(Self { all, current: AtomicUsize::new(0) }),
            count => Err(Error::Invalid(format!(
                "{count} endpoints are over the limit of {ENDPOINTS_MAX}"
            ))),
        }
    }

    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The index of the endpoint that calls are sent to.
    pub fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    pub fn get(&self, index: usize) -> &Endpoint {
        &self.all[index % self.all.len()]
    }

    pub fn after(&self, index: usize) -> usize {
        (index + 1) % self.all.len()
    }

    /// Goes on to the next endpoint, unless another call has already left the failed one.
    pub fn leave(&self, failed: usize) {
        let next = self.after(failed);
        // Whoever came first has moved it.
        let _ = self.current.compare_exchange(failed, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, endpoint) in self.all.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{endpoint}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_takes_addresses_with_and_without_a_scheme() {
        let list = Endpoints::parse("127.0.0.1:7401, http://b:7402/,[::1]:80").expect("a list");
        assert_eq!(list.to_string(), "127.0.0.1:7401, b:7402, [::1]:80");
        assert_eq!(list.get(1).url("/livez"), "http://b:7402/livez");
    }

    #[test]
    fn what_is_no_address_is_refused_and_named() {
        for wrong in [
            "",
            " , ",
            "localhost",
            "https://a:1",
            "http://u@a:1",
            "a:b",
            ":7401",
            "a:1/v1",
            "a:99999",
        ] {
            let error = Endpoints::parse(wrong).expect_err(wrong).to_string();
            assert!(error.contains(wrong.trim()) || error.contains("empty"), "{wrong}: {error}");
        }
    }

    #[test]
    fn two_calls_that_fail_at_one_node_leave_it_once() {
        let list = Endpoints::parse("a:1,b:1,c:1").expect("a list");
        list.leave(0);
        list.leave(0);
        assert_eq!(list.current(), 1);
    }
}
