//! What clients ask over HTTP, counted by route, method and kind of answer, for those who watch a
//! node. Nothing that a client sends becomes a label: routes are the router's own templates.
//!
//! A request pays four relaxed additions and two looks at the clock; what it is counted in was looked
//! up by the first request that came to its place in the router.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use parking_lot::RwLock;
use roster_storage::histogram::{Distribution, Histogram};

const MS: u64 = 1_000_000;

/// Until the answer begins, nanoseconds. A long poll or the wait for a lock takes as long as its client
/// wants.
const BOUNDS: &[u64] = &[
    MS / 4,
    MS / 2,
    MS,
    5 * MS / 2,
    5 * MS,
    10 * MS,
    25 * MS,
    50 * MS,
    100 * MS,
    250 * MS,
    500 * MS,
    1_000 * MS,
    2_500 * MS,
    10_000 * MS,
    60_000 * MS,
];

/// The route of what no route takes.
const UNMATCHED: &str = "unmatched";

/// Methods that are told apart; all others are one.
const METHODS: [Method; 7] = [
    Method::GET,
    Method::PUT,
    Method::POST,
    Method::PATCH,
    Method::DELETE,
    Method::HEAD,
    Method::OPTIONS,
];
const OTHER_METHOD: &str = "other";

/// Every kind of answer, in the order of [`Answered`].
const ANSWERS: [Answered; 6] = [
    Answered::Informed,
    Answered::Served,
    Answered::Redirected,
    Answered::Refused,
    Answered::Failed,
    Answered::HungUp,
];

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    Informed,
    Served,
    Redirected,
    Refused,
    Failed,
    /// The client went before it was answered.
    HungUp,
}

impl Answered {
    /// The class of the status, or `hung-up`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Informed => "1xx",
            Self::Served => "2xx",
            Self::Redirected => "3xx",
            Self::Refused => "4xx",
            Self::Failed => "5xx",
            Self::HungUp => "hung-up",
        }
    }

    pub(crate) fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            0..200 => Self::Informed,
            200..300 => Self::Served,
            300..400 => Self::Redirected,
            400..500 => Self::Refused,
            500.. => Self::Failed,
        }
    }
}

/// All requests of one node since its start. Clones share it.
#[derive(Clone, Default)]
pub struct Traffic(Arc<Shared>);

#[derive(Default)]
struct Shared {
    begun: AtomicU64,
    /// As many as the router has. Written by the first request of each.
    routes: RwLock<BTreeMap<String, Arc<Route>>>,
}

/// One route's, and one method's.
#[derive(Clone, Debug)]
pub struct Requests {
    /// The router's own template, such as `/v1/apps/{app}`, or `unmatched`.
    pub route: String,
    /// One of the known methods, or `other`.
    pub method: &'static str,
    /// How many were answered in which way; ways that did not occur are left out.
    pub answered: Vec<(Answered, u64)>,
    /// Until the answer began, nanoseconds.
    pub times: Distribution,
}

impl Traffic {
    /// Requests that are neither answered nor given up.
    pub fn in_flight(&self) -> u64 {
        let ended: u64 =
            self.routes().iter().flat_map(|route| route.places()).map(Place::count).sum();
        self.0.begun.load(Ordering::Relaxed).saturating_sub(ended)
    }

    /// In the order of routes, then of methods.
    pub fn requests(&self) -> Vec<Requests> {
        let routes = self.routes();
        routes.iter().flat_map(|route| route.places().map(|place| place.read(route))).collect()
    }

    fn routes(&self) -> Vec<Arc<Route>> {
        self.0.routes.read().values().cloned().collect()
    }

    fn route(&self, template: &str) -> Arc<Route> {
        let mut routes = self.0.routes.write();
        let new = || Arc::new(Route::new(template));
        routes.entry(template.to_owned()).or_insert_with(new).clone()
    }

    /// For one place in the router, which is always asked for the same route.
    pub(crate) fn at_one_place(&self) -> AtOnePlace {
        AtOnePlace { traffic: self.clone(), route: OnceLock::new() }
    }
}

impl fmt::Debug for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traffic").field("routes", &self.0.routes.read().len()).finish()
    }
}

/// Counts what comes to one place in the router.
pub(crate) struct AtOnePlace {
    traffic: Traffic,
    route: OnceLock<Arc<Route>>,
}

/// A request under way. Each ends once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    method: usize,
    since: Instant,
}

impl Begun {
    pub fn method(&self) -> &'static str {
        method_word(self.method)
    }
}

impl AtOnePlace {
    /// A request came. `template`: of the route that took it.
    pub fn begin(&self, method: &Method, template: Option<&str>) -> Begun {
        self.route.get_or_init(|| self.traffic.route(template.unwrap_or(UNMATCHED)));
        self.traffic.0.begun.fetch_add(1, Ordering::Relaxed);
        let known = METHODS.iter().position(|known| known == method);
        Begun { method: known.unwrap_or(METHODS.len()), since: Instant::now() }
    }

    /// Returns how long it took.
    pub fn end(&self, begun: Begun, answered: Answered) -> Duration {
        let took = begun.since.elapsed();
        if let Some(route) = self.route.get() {
            route.count(begun.method, answered, took);
        }
        took
    }

    /// The template of the route, once a request came.
    pub fn route(&self) -> &str {
        self.route.get().map_or(UNMATCHED, |route| &route.template)
    }

    /// Whether they are signs of life: there are far more of these than of all others.
    pub fn is_of_heartbeats(&self) -> bool {
        self.route.get().is_some_and(|route| route.is_heartbeat)
    }
}

fn method_word(method: usize) -> &'static str {
    const WORDS: [&str; METHODS.len()] =
        ["GET", "PUT", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS"];
    WORDS.get(method).copied().unwrap_or(OTHER_METHOD)
}

struct Route {
    template: String,
    is_heartbeat: bool,
    places: [OnceLock<Box<Place>>; METHODS.len() + 1],
}

impl Route {
    fn new(template: &str) -> Self {
        let is_heartbeat = template.ends_with("/heartbeat")
            || ["/v1/heartbeats", "/registry/machine"].contains(&template);
        Self { template: template.to_owned(), is_heartbeat, places: Default::default() }
    }

    fn count(&self, method: usize, answered: Answered, took: Duration) {
        let place = self.places[method].get_or_init(|| Box::new(Place::new(method)));
        place.answers[answered as usize].fetch_add(1, Ordering::Relaxed);
        place.times.add_time(took);
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().filter_map(OnceLock::get).map(Box::as_ref)
    }
}

/// One method of one route.
struct Place {
    method: usize,
    answers: [AtomicU64; ANSWERS.len()],
    times: Histogram,
}

impl Place {
    fn new(method: usize) -> Self {
        Self { method, answers: Default::default(), times: Histogram::new(BOUNDS) }
    }

    fn count(&self) -> u64 {
        self.answers.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn read(&self, route: &Route) -> Requests {
        let counts = self.answers.iter().map(|count| count.load(Ordering::Relaxed));
        Requests {
            route: route.template.clone(),
            method: method_word(self.method),
            answered: ANSWERS.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect(),
            times: self.times.read(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_the_routers_templates_and_known_methods_only() {
        let traffic = Traffic::default();
        let place = traffic.at_one_place();
        for method in ["GET", "GET", "BREW", "PROPFIND"] {
            let method = method.parse().expect("a method");
            let begun = place.begin(&method, Some("/v1/apps/{app}"));
            place.end(begun, Answered::of(StatusCode::OK));
        }
        let nowhere = traffic.at_one_place();
        nowhere.end(nowhere.begin(&Method::GET, None), Answered::of(StatusCode::NOT_FOUND));
        let seen: Vec<_> =
            traffic.requests().into_iter().map(|r| (r.route, r.method, r.answered)).collect();
        let apps = "/v1/apps/{app}".to_owned();
        assert_eq!(
            seen,
            [
                (apps.clone(), "GET", vec![(Answered::Served, 2)]),
                (apps, OTHER_METHOD, vec![(Answered::Served, 2)]),
                (UNMATCHED.into(), "GET", vec![(Answered::Refused, 1)]),
            ]
        );
    }

    #[test]
    fn methods_are_told_by_their_own_words() {
        for (place, method) in METHODS.iter().enumerate() {
            assert_eq!(method_word(place), method.as_str());
        }
    }

    #[test]
    fn a_request_is_in_flight_until_it_has_ended() {
        let traffic = Traffic::default();
        let place = traffic.at_one_place();
        let begun = [place.begin(&Method::GET, Some("/")), place.begin(&Method::GET, Some("/"))];
        assert_eq!(traffic.in_flight(), 2);
        place.end(begun[0], Answered::Served);
        assert_eq!(traffic.in_flight(), 1);
        place.end(begun[1], Answered::HungUp);
        assert_eq!(traffic.in_flight(), 0);
        let counts = vec![(Answered::Served, 1), (Answered::HungUp, 1)];
        assert_eq!(traffic.requests()[0].answered, counts);
    }
}
