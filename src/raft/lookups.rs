//! The addresses of peers whose names a name server knows. One that hangs takes longer than a call
//! waits for its connection: a look-up goes on without who asked, and whoever asks next finds it
//! under way, or its answer. Begun anew by each call it would never end in time, and the threads
//! that wait for the name server would become more and more.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long an answer is good for: long enough for all who wait for one, and short, since a node that
/// starts again may have another address.
const ANSWER_KEPT: Duration = Duration::from_secs(2);

type Found = Result<Vec<SocketAddr>, String>;
/// With when it ended.
type Lookup = Shared<BoxFuture<'static, (Found, Instant)>>;

/// The last look-up of each name.
#[derive(Debug, Default)]
pub struct Lookups {
    last: Mutex<HashMap<String, Lookup>>,
}

impl Lookups {
    /// Where `peer`, as HOST:PORT, is; or what the name server says.
    pub async fn addresses(&self, peer: &str) -> Found {
        self.addresses_by(peer, Instant::now(), look_up).await
    }

    async fn addresses_by<F>(
        &self,
        peer: &str,
        now: Instant,
        begin: impl FnOnce(String) -> F,
    ) -> Found
    where
        F: Future<Output = Found> + Send + 'static,
    {
        let lookup = {
            let mut last = self.last.lock();
            let usable = last.get(peer).filter(|lookup| is_usable(lookup, now)).cloned();
            usable.unwrap_or_else(|| {
                let begun = go_on(begin(peer.to_owned()));
                last.insert(peer.to_owned(), begun.clone());
                begun
            })
        };
        lookup.await.0
    }
}

/// Whether it is under way, or its answer is there and still good.
fn is_usable(lookup: &Lookup, now: Instant) -> bool {
    let good = |(found, at): (Found, Instant)| {
        found.is_ok() && now.saturating_duration_since(at) < ANSWER_KEPT
    };
    lookup.clone().now_or_never().is_none_or(good)
}

/// On a task of its own, so that it does not end with who asks.
fn go_on(lookup: impl Future<Output = Found> + Send + 'static) -> Lookup {
    let task = tokio::spawn(async { (lookup.await, Instant::now()) });
    let ended = async {
        task.await.unwrap_or_else(|e| (Err(format!("the look-up failed: {e}")), Instant::now()))
    };
    ended.boxed().shared()
}

async fn look_up(peer: String) -> Found {
    let addresses = tokio::net::lookup_host(peer).await.map_err(|e| e.to_string())?;
    Ok(addresses.collect())
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;

    const PEER: &str = "node-1:7500";

    fn address(last: u8) -> Found {
        Ok(vec![([10, 0, 0, last], 7500).into()])
    }

    async fn ask(lookups: &Lookups, now: Instant, answer: Found) -> Found {
        lookups.addresses_by(PEER, now, async move |_| answer).await
    }

    #[tokio::test]
    async fn a_lookup_that_outlasts_who_asks_is_not_begun_again() {
        let lookups = Lookups::default();
        let (now, (name_server, answer)) = (Instant::now(), oneshot::channel());
        let slow = lookups.addresses_by(PEER, now, async |_| answer.await.expect("it answers"));
        timeout(Duration::ZERO, slow).await.expect_err("the name server has not answered");
        name_server.send(address(1)).expect("the look-up goes on");
        assert_eq!(ask(&lookups, now, address(2)).await, address(1));
    }

    #[tokio::test]
    async fn an_answer_is_for_all_who_ask_within_two_seconds() {
        let lookups = Lookups::default();
        let now = Instant::now();
        assert_eq!(ask(&lookups, now, address(1)).await, address(1));
        assert_eq!(ask(&lookups, now, address(2)).await, address(1));
        let later = Instant::now() + ANSWER_KEPT;
        assert_eq!(ask(&lookups, later, address(2)).await, address(2));
    }

    #[tokio::test]
    async fn a_failed_lookup_says_why_and_the_next_one_asks_anew() {
        let lookups = Lookups::default();
        let unknown = Err("Name or service not known".to_owned());
        let now = Instant::now();
        assert_eq!(ask(&lookups, now, unknown.clone()).await, unknown);
        assert_eq!(ask(&lookups, now, address(1)).await, address(1));
    }
}
