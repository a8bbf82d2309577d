//! What requests leave behind: a span for the lines of the log that are written for them, and counts.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use roster_api::ApiOptions;
use roster_api::traffic::{Answered, Traffic};
use support::Server;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Counts the spans that are made, and the lines, where the log is of this level.
#[derive(Clone)]
struct Counting {
    level: LevelFilter,
    spans: Arc<AtomicU64>,
    lines: Arc<AtomicU64>,
}

impl Counting {
    fn at(level: LevelFilter) -> Self {
        Self { level, spans: Arc::default(), lines: Arc::default() }
    }

    fn seen(&self) -> (u64, u64) {
        (self.spans.load(Ordering::Relaxed), self.lines.load(Ordering::Relaxed))
    }
}

impl Subscriber for Counting {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn event(&self, _: &Event<'_>) {
        self.lines.fetch_add(1, Ordering::Relaxed);
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

const HEARTBEATS: [(&str, &str); 4] = [
    ("PUT /v1/apps/pay/instances/a/heartbeat", ""),
    ("PUT /v1/sessions/1/heartbeat", ""),
    ("POST /v1/heartbeats", r#"{"sessions": ["1"]}"#),
    ("POST /registry/machine?app=pay&ip=192.0.2.1&port=1", ""),
];

#[tokio::test]
async fn heartbeats_make_no_span_unless_requests_have_lines_of_their_own() {
    let server = Server::new();
    // The document that answers are held to is asked for once, before anything is counted.
    server.get("/livez").await;
    for (level, of_heartbeats, of_others) in
        [(LevelFilter::INFO, (0, 0), (1, 0)), (LevelFilter::DEBUG, (4, 4), (1, 1))]
    {
        let counting = Counting::at(level);
        let _here = tracing::subscriber::set_default(counting.clone());
        for (line, body) in HEARTBEATS {
            server.call(line, body).await;
        }
        assert_eq!(counting.seen(), of_heartbeats, "{level}");
        let others = Counting::at(level);
        let _here = tracing::subscriber::set_default(others.clone());
        server.get("/v1/apps").await;
        assert_eq!(others.seen(), of_others, "{level}");
    }
}

#[tokio::test]
async fn requests_are_counted_by_route_and_who_hangs_up_is_too() {
    let traffic = Traffic::default();
    let server = Server::with(ApiOptions { traffic: traffic.clone(), ..ApiOptions::default() });
    server.get("/v1/apps/one").await;
    server.get("/v1/apps/two").await;
    server.get("/v1/nothing").await;
    server.call("POST /v1/apps/one", "{}").await;
    {
        // Begun, and left alone before its answer.
        let waits = server.get("/v1/changes?index=0&wait=1m");
        tokio::pin!(waits);
        assert!(futures::poll!(&mut waits).is_pending(), "there is nothing to tell");
        assert_eq!(traffic.in_flight(), 1);
    }
    assert_eq!(traffic.in_flight(), 0);
    let requests = traffic.requests();
    // Answers are held to the document here, which is asked for that.
    let asked_here = requests.iter().filter(|r| r.route != "/openapi.json");
    let seen: Vec<_> = asked_here.map(|r| (&*r.route, r.method, &*r.answered)).collect();
    let refused = |count| vec![(Answered::Refused, count)];
    assert_eq!(
        seen,
        [
            ("/v1/apps/{app}", "GET", &*refused(2)),
            ("/v1/apps/{app}", "POST", &*refused(1)),
            ("/v1/changes", "GET", &*vec![(Answered::HungUp, 1)]),
            ("unmatched", "GET", &*refused(1)),
        ]
    );
}
