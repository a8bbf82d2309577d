//! Lists: their pages, the revisions that cursors pin, and the encoded lists that apps share.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::{Mutex, RwLock};
use roster_storage::catalog::{App, Catalog, Instance};
use roster_storage::names::{
    AppName, InstanceId, InstanceKey, NodeId, Revision, ShardId, ShardSetName,
};
use roster_storage::version::Version;

use crate::Api;
use crate::conventions::unix_ms;
use crate::error::{ApiError, Invalid};
use crate::extract::{Params, Reading};
use crate::filter::Wanted;
use crate::pace::Pace;
use crate::registry::Consistency;
use crate::wire::instance::InstanceView;

/// Lines of a page that names no limit.
pub(crate) const LIMIT_DEFAULT: usize = 500;

/// Lines of the longest page; more is `invalid-limit`.
pub(crate) const LIMIT_MAX: usize = 10_000;

/// Versions that cursors hold. Each may keep old state in memory; the oldest goes first, and its
/// cursor then gets 410 `compacted`.
const PINS_MAX: usize = 256;

/// How long a cursor is good for after it was given or last used.
const PIN_IDLE: Duration = Duration::from_secs(60);

/// Encoded lists kept. At the limit all are forgotten: those in use are back after one request.
const CACHE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Instances, and time, that a search takes before it lets others run.
const SEARCH_STEP: usize = 500;
const SEARCH_STEP_TIME: Duration = Duration::from_millis(5);

/// Time that one page of a search may take: a search for what is rare is given on in pages, however
/// short. Clients give up after some seconds, and others wait for their turn.
const SEARCH_TIME: Duration = Duration::from_secs(1);

/// What a page is of. Two lists that differ here do not take each other's cursors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub kind: &'static str,
    pub app: Option<AppName>,
    pub filter: Option<String>,
    pub search: Option<String>,
    pub set: Option<ShardSetName>,
    pub worker: Option<InstanceId>,
    /// This shard alone.
    pub shard: Option<ShardId>,
    /// Deleted shards too.
    pub gone: bool,
}

impl Listed {
    pub fn new(kind: &'static str, app: Option<AppName>) -> Self {
        let (filter, search, shard) = (None, None, None);
        Self { kind, app, filter, search, set: None, worker: None, shard, gone: false }
    }
}

/// `?limit=`, `?cursor=` and `?after=`.
pub(crate) struct Paging {
    pub limit: usize,
    cursor: Option<String>,
    after: Option<String>,
}

impl Paging {
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// Begins behind this line, of the newest version. `line`: as a cursor of this list has it.
    pub fn begin_after(&mut self, line: Option<String>) -> Result<(), Invalid> {
        if line.is_some() && self.cursor.is_some() {
            return Err(Invalid::new("after", "and cursor exclude each other"));
        }
        self.after = line;
        Ok(())
    }

    /// For long polls: a further page is of the revision that its cursor pins.
    pub fn is_first(&self) -> Result<(), Invalid> {
        match self.cursor.as_ref().or(self.after.as_ref()) {
            None => Ok(()),
            Some(_) => Err(Invalid::new("index", "is for the first page of a list")),
        }
    }
}

impl Params {
    pub fn paging(&mut self) -> Result<Paging, Invalid> {
        self.paging_by(LIMIT_DEFAULT)
    }

    /// For lists that are mostly wanted whole.
    pub fn paging_by_most(&mut self) -> Result<Paging, Invalid> {
        self.paging_by(LIMIT_MAX)
    }

    fn paging_by(&mut self, default: usize) -> Result<Paging, Invalid> {
        let limit = match self.number("limit")? {
            None => default,
            Some(limit) => usize::try_from(limit)
                .ok()
                .filter(|limit| (1..=LIMIT_MAX).contains(limit))
                .ok_or_else(|| Invalid::new("limit", format!("must be 1 to {LIMIT_MAX}")))?,
        };
        Ok(Paging { limit, cursor: self.text("cursor"), after: None })
    }
}

/// A page about to be filled: of which version, and after which line.
pub(crate) struct Page {
    pub version: Arc<Version>,
    pub consistency: Consistency,
    pub limit: usize,
    /// The last line of the page before.
    pub after: Option<String>,
    pin: Option<u64>,
}

impl Api {
    /// A version to read from.
    pub async fn read(&self, reading: Reading) -> Result<Arc<Version>, ApiError> {
        self.registry
            .read(reading.consistency, reading.min_revision)
            .await
            .map_err(ApiError::of_read)
    }

    /// Opens a page: of a new version, or of the one that the cursor pins.
    pub async fn page(
        &self,
        listed: &Listed,
        reading: Reading,
        paging: Paging,
    ) -> Result<Page, ApiError> {
        let limit = paging.limit;
        let Some(cursor) = paging.cursor else {
            let version = self.read(reading).await?;
            let consistency = reading.consistency;
            return Ok(Page { version, consistency, limit, after: paging.after, pin: None });
        };
        let restart_from = self.registry.glance().applied;
        let (pin, after) = self.pins.find(&cursor, restart_from)?;
        if pin.listed != *listed {
            return Err(Invalid::new("cursor", "belongs to another list").into());
        }
        let (version, consistency) = (pin.version, pin.consistency);
        Ok(Page { version, consistency, limit, after: Some(after), pin: Some(pin.number) })
    }

    /// The cursor that goes on after `last`.
    pub fn cursor(&self, page: &Page, listed: &Listed, last: &str) -> String {
        let number = page.pin.unwrap_or_else(|| self.pins.pin(page, listed.clone()));
        self.pins.text(number, last)
    }
}

/// The versions that cursors pin, on this node and until it restarts.
pub(crate) struct Pins {
    /// Tells this run of this node from all others.
    run: String,
    pins: Mutex<PinTable>,
}

#[derive(Default)]
struct PinTable {
    last: u64,
    pins: HashMap<u64, Pinned>,
}

#[derive(Clone)]
struct Pinned {
    number: u64,
    listed: Listed,
    version: Arc<Version>,
    consistency: Consistency,
    used: Instant,
}

impl Pins {
    pub fn new(node: NodeId) -> Self {
        Self { run: format!("{node:x}-{:x}", unix_ms()), pins: Mutex::default() }
    }

    fn pin(&self, page: &Page, listed: Listed) -> u64 {
        let mut table = self.pins.lock();
        let used = Instant::now();
        table.pins.retain(|_, pin| used.duration_since(pin.used) < PIN_IDLE);
        if table.pins.len() >= PINS_MAX
            && let Some(oldest) = table.pins.values().min_by_key(|pin| pin.used).map(|p| p.number)
        {
            table.pins.remove(&oldest);
        }
        table.last += 1;
        let number = table.last;
        let (version, consistency) = (page.version.clone(), page.consistency);
        table.pins.insert(number, Pinned { number, listed, version, consistency, used });
        number
    }

    fn text(&self, number: u64, last: &str) -> String {
        URL_SAFE_NO_PAD.encode(format!("{}/{number:x}/{last}", self.run))
    }

    fn find(&self, cursor: &str, restart_from: Revision) -> Result<(Pinned, String), ApiError> {
        let (run, number, after) = read_cursor(cursor)
            .ok_or_else(|| Invalid::new("cursor", "is not one that Roster gave"))?;
        let gone = || ApiError::compacted(restart_from);
        if run != self.run {
            return Err(gone());
        }
        let mut table = self.pins.lock();
        let pin = table.pins.get_mut(&number).ok_or_else(gone)?;
        let now = Instant::now();
        if now.duration_since(pin.used) >= PIN_IDLE {
            table.pins.remove(&number);
            return Err(gone());
        }
        pin.used = now;
        Ok((pin.clone(), after))
    }
}

fn read_cursor(cursor: &str) -> Option<(String, u64, String)> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    let mut parts = text.splitn(3, '/');
    let (run, number, after) = (parts.next()?, parts.next()?, parts.next()?);
    Some((run.to_owned(), u64::from_str_radix(number, 16).ok()?, after.to_owned()))
}

/// A line of a list of instances or shards.
pub(crate) type Line<'a> = (&'a AppName, &'a InstanceId, &'a Arc<Instance>);

/// Keys of the matching instances of one page, and after which instance to go on: there may be more
/// behind it.
pub(crate) struct Matches {
    pub keys: Vec<InstanceKey>,
    pub go_on_after: Option<InstanceKey>,
}

impl Page {
    pub fn catalog(&self) -> &Catalog {
        &self.version.catalog
    }

    /// Collects one page of a search, in steps, letting others run in between. It is not full if its
    /// time was over before.
    pub async fn matches(&self, listed: &Listed, wanted: &Wanted) -> Result<Matches, ApiError> {
        self.matches_within(SEARCH_TIME, listed, wanted).await
    }

    async fn matches_within(
        &self,
        time: Duration,
        listed: &Listed,
        wanted: &Wanted,
    ) -> Result<Matches, ApiError> {
        let mut pace = Pace::within(time);
        let mut after = self.after.as_deref().map(key_of_cursor).transpose()?;
        let mut keys = Vec::new();
        loop {
            let step = self.step(listed, wanted, after.as_ref(), &mut keys);
            if keys.len() > self.limit {
                keys.truncate(self.limit);
                return Ok(Matches { go_on_after: keys.last().cloned(), keys });
            }
            if step.is_none() || pace.keep().await.is_err() {
                return Ok(Matches { keys, go_on_after: step });
            }
            after = step;
        }
    }

    /// Looks at the next instances; returns the last one, or `None` at the end of the list.
    fn step(
        &self,
        listed: &Listed,
        wanted: &Wanted,
        after: Option<&InstanceKey>,
        keys: &mut Vec<InstanceKey>,
    ) -> Option<InstanceKey> {
        let mut last = None;
        let mut seen = 0;
        let started = Instant::now();
        for (app, id, instance) in lines(self.catalog(), listed.app.as_ref(), after) {
            let key = InstanceKey::new(app.clone(), id.clone());
            seen += 1;
            let state = self.catalog().state_of(&key).word();
            if wanted.is_all() || wanted.matches(app, id, instance, state) {
                keys.push(key.clone());
            }
            last = Some(key);
            let tired =
                seen == SEARCH_STEP || (!wanted.is_all() && started.elapsed() > SEARCH_STEP_TIME);
            if tired || keys.len() > self.limit {
                return last;
            }
        }
        drop(last);
        None
    }
}

/// The instances of one app or of all, in order, from `after` (exclusive) on.
pub(crate) fn lines<'a>(
    catalog: &'a Catalog,
    app: Option<&'a AppName>,
    after: Option<&'a InstanceKey>,
) -> impl Iterator<Item = Line<'a>> {
    let first_app = app.or(after.map(|key| &key.app));
    let first = first_app.and_then(|name| catalog.app(name).map(|app| (name, app)));
    let rest = match (app, after) {
        (Some(_), _) => None,
        (None, after) => Some(catalog.apps_after(after.map(|key| &key.app))),
    };
    let after_id = after.map(|key| &key.id);
    first
        .into_iter()
        .flat_map(move |(name, app)| of_app(name, app, after_id))
        .chain(rest.into_iter().flatten().flat_map(|(name, app)| of_app(name, app, None)))
}

fn of_app<'a>(
    name: &'a AppName,
    app: &'a App,
    after: Option<&InstanceId>,
) -> impl Iterator<Item = Line<'a>> + use<'a> {
    use std::ops::Bound::{Excluded, Unbounded};
    let instances = app.instances.starting(after.map_or(Unbounded, Excluded));
    instances.map(move |(id, instance)| (name, id, instance))
}

/// What stands in a cursor of instances: both lengths are free, so the app's comes first.
pub(crate) fn cursor_of_key(key: &InstanceKey) -> String {
    format!("{}/{}{}", key.app.as_str().len(), key.app, key.id)
}

fn key_of_cursor(text: &str) -> Result<InstanceKey, Invalid> {
    let parsed = || {
        let (length, rest) = text.split_once('/')?;
        let (app, id) = rest.split_at_checked(length.parse().ok()?)?;
        Some(InstanceKey::new(app.parse().ok()?, id.parse().ok()?))
    };
    parsed().ok_or_else(|| Invalid::new("cursor", "is not one that Roster gave"))
}

/// Whole lists of apps as bytes, kept as long as nothing in them changed.
#[derive(Default)]
pub(crate) struct ListCache(RwLock<CachedLists>);

#[derive(Default)]
struct CachedLists {
    bytes: usize,
    lists: HashMap<AppName, CachedList>,
}

struct CachedList {
    /// The list is of the app's members after this change; a revision changes them once.
    members_changed: Revision,
    encoded: Bytes,
}

impl ListCache {
    /// The lines of an app's list as they are kept, if they are.
    pub fn known(&self, name: &AppName, app: &App) -> Option<Bytes> {
        let cached = self.0.read();
        let cached = cached.lists.get(name)?;
        (cached.members_changed == app.record.members_changed).then(|| cached.encoded.clone())
    }

    /// The lines of an app's list, with the bracket that opens them and without that which closes.
    pub fn encoded(&self, catalog: &Catalog, name: &AppName, app: &App) -> Bytes {
        if let Some(known) = self.known(name, app) {
            return known;
        }
        let changed = app.record.members_changed;
        let encoded = encode(catalog, name, app);
        self.keep(name, changed, encoded.clone());
        encoded
    }

    fn keep(&self, name: &AppName, members_changed: Revision, encoded: Bytes) {
        let mut cached = self.0.write();
        // A stale read must not push out what newer ones use.
        if cached.lists.get(name).is_some_and(|kept| kept.members_changed >= members_changed) {
            return;
        }
        if cached.bytes + encoded.len() > CACHE_BYTES_MAX {
            *cached = CachedLists::default();
        }
        cached.bytes += encoded.len();
        let list = CachedList { members_changed, encoded };
        if let Some(old) = cached.lists.insert(name.clone(), list) {
            cached.bytes -= old.encoded.len();
        }
    }
}

fn encode(catalog: &Catalog, name: &AppName, app: &App) -> Bytes {
    let mut bytes = b"{\"instances\":[".to_vec();
    for (at, (id, instance)) in app.instances.iter().enumerate() {
        if at > 0 {
            bytes.push(b',');
        }
        // Writing to memory does not fail, and the view has only text for keys.
        let _ = serde_json::to_writer(&mut bytes, &InstanceView::new(catalog, name, id, instance));
    }
    bytes.into()
}

/// A cached list with its end: two frames of known length, the first shared.
pub(crate) fn list_body(encoded: Bytes, revision: Revision) -> Body {
    let tail = format!("],\"next_cursor\":null,\"revision\":{revision}}}");
    Body::new(TwoFrames([encoded, tail.into()]))
}

struct TwoFrames([Bytes; 2]);

impl http_body::Body for TwoFrames {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let next = self.0.iter_mut().find(|frame| !frame.is_empty());
        Poll::Ready(next.map(|frame| Ok(Frame::data(std::mem::take(frame)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.iter().all(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|frame| frame.len() as u64).sum())
    }
}

#[cfg(test)]
mod tests {
    use roster_storage::catalog::At;
    use roster_storage::command::{Command, Condition, Profile, Register, Stamp};

    use super::*;

    /// A page of a state with so many instances of one app.
    fn page(instances: usize, limit: usize) -> Page {
        let mut version = Version::default();
        for n in 0..instances {
            let register = Register {
                key: InstanceKey::new(app(), format!("i{n:04}").parse().expect("an id")),
                profile: Profile { weight: 1, ..Profile::default() }.into(),
                session: None,
                ttl_ms: None,
                takeover: false,
                create_app: Some(0),
                condition: Condition::Any,
            };
            let revision = Revision(n as u64 + 1);
            let at = At { revision, term: 1, stamp: Stamp::default() };
            version.catalog.apply(at, &Command::Register(register));
        }
        let (version, consistency) = (Arc::new(version), Consistency::Stale);
        Page { version, consistency, limit, after: None, pin: None }
    }

    fn app() -> AppName {
        "pay".parse().expect("a name")
    }

    #[tokio::test]
    async fn a_search_whose_time_is_over_gives_a_short_page_and_goes_on_where_it_stopped() {
        const INSTANCES: usize = 3 * SEARCH_STEP + 7;
        let listed = Listed::new("instances", None);
        let wanted = Wanted::new(Some("id.endsWith('7')"), None).expect("it is understood");
        let mut page = page(INSTANCES, INSTANCES);
        let whole = page.matches(&listed, &wanted).await.unwrap_or_else(|_| panic!("it is found"));
        assert_eq!(whole.go_on_after, None);
        let (mut found, mut pages) = (Vec::new(), 0);
        loop {
            let searched = page.matches_within(Duration::ZERO, &listed, &wanted).await;
            let matches = searched.unwrap_or_else(|_| panic!("it is found"));
            found.extend(matches.keys);
            pages += 1;
            let Some(last) = matches.go_on_after else { break };
            page.after = Some(cursor_of_key(&last));
        }
        assert_eq!(found, whole.keys);
        assert!(pages > 2, "{pages} pages were enough");
    }
}
