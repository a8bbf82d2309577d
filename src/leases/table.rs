//! The leader's soft state: when each session was last heard, and which deadlines passed. Pure:
//! every call takes `now`, in milliseconds of the lease clock (see [`super::clock`]).
//!
//! A lease ([`super::lease`]) stands in one of many parts, by its session's id. A heartbeat takes the
//! lock of its part for reading and changes one atomic word; who opens or forgets a session takes it
//! for writing. A part holds its leases in chunks, and an index of four bytes each to find them
//! by, so that a million sessions cost 60 to 80 bytes each with their place in the wheel, and 18 to 24 more
//! where an instance's name leads to it ([`super::named`]).
//!
//! Deadlines are kept in a lazy wheel. A lease is looked at only when the slot comes due in which its
//! deadline was last seen, at most [`FILED_AHEAD_MS`] ahead, and is filed again if it lives still.
//! What is past its deadline leaves the wheel as [`Overdue`]: it can still be renewed, and whoever
//! took it decides when to [`LeaseTable::end`] it, which judges it once more.
//!
//! A new leader's table is filled bit by bit while apply and heartbeats use it already. Until it is,
//! a part remembers which sessions ended, so that none of them is filed afterwards; session ids are
//! never used again.

use std::collections::{BTreeMap, HashSet};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hashbrown::HashTable;
use parking_lot::{Mutex, RwLock};
use roster_storage::catalog::Session;
use roster_storage::names::{Incarnation, InstanceKey, NodeId, Revision, SessionId};

use super::bodies::Bodies;
use super::chunked::Chunked;
pub use super::lease::Due;
use super::lease::{Judgement, Lease, Marked, NOWHERE, Stretch, Via};
use super::named::Named;

/// Width of a wheel slot, and so how late a deadline may be noticed, in milliseconds.
pub const SLOT_MS: u64 = 20;

/// Parts of the table, so that registrations and heartbeats of different sessions do not wait for
/// each other, and so that a part that grows holds nobody up for long.
pub const PARTS: u64 = 256;

/// How far ahead a lease is filed at most. A later deadline is looked at on the way, so that what is
/// gone leaves the wheel by then.
const FILED_AHEAD_MS: u64 = 60_000;

/// Leases that one call of [`LeaseTable::take_due`] files anew after TTLs became shorter: a million in
/// two and a half seconds, with a call per slot.
const REFILED_AT_ONCE: usize = 8_192;

/// 2 KiB: what a part that has few of them takes too much.
const LEASES_PER_CHUNK: usize = 64;

/// A session whose deadline passed. It can still be renewed, and is in no slot of the wheel until
/// [`LeaseTable::end`], [`LeaseTable::look`] or [`LeaseTable::keep`] give it back, or a touch does: it
/// may then come a second time while whoever took it still has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overdue {
    pub session: SessionId,
    /// The last registration or update that this leader saw on it.
    pub touched: Revision,
    /// When it was last heard, milliseconds of the lease clock.
    pub heard: u64,
    /// The node that took the last heartbeat; `None` before the first one under this leader.
    pub via: Option<NodeId>,
}

/// What became of an attempt to end a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is marked as ending now: no heartbeat renews it. Propose its removal.
    Due(Due),
    /// It was renewed or touched, and is in the wheel again.
    Lives,
    /// There is no such session, or it is marked already.
    Gone,
}

/// What a look at an overdue session shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// It still is.
    Overdue(Overdue),
    /// It was renewed or touched, and is in the wheel again.
    Lives,
    /// There is no such session, or it is marked as ending.
    Gone,
}

/// Why a session was not renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotRenewed {
    Unknown,
    Ending,
}

/// What is known of a session's last sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastHeard {
    pub ago_ms: u64,
    pub mark: Option<i64>,
}

/// What [`LeaseTable::renew_named`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenewedByName {
    pub session: SessionId,
    /// As it was registered.
    pub ttl_ms: u64,
    /// As [`LeaseTable::place`] tells it.
    pub place: Option<Place>,
}

/// Sessions that have missed a beat, by the node that took their last one.
#[derive(Debug, Default)]
pub struct LateCount {
    /// Parts of the table that are counted.
    parts: usize,
    by_node: BTreeMap<NodeId, u64>,
    /// Found when the table opened, and not heard since.
    by_nobody: u64,
}

impl LateCount {
    /// Those that a node may have kept from being heard.
    pub fn by(&self, node: NodeId) -> u64 {
        self.by_node.get(&node).copied().unwrap_or(0) + self.by_nobody
    }

    /// Nothing is less than what another count has found so far.
    pub fn raise_to(&mut self, other: &Self) {
        for (node, late) in &other.by_node {
            let known = self.by_node.entry(*node).or_default();
            *known = (*known).max(*late);
        }
        self.by_nobody = self.by_nobody.max(other.by_nobody);
    }
}

/// All leases of one leadership.
#[derive(Debug)]
pub struct LeaseTable {
    term: u64,
    /// Nobody's deadline is counted from before this: see [`LeaseTable::opening`].
    heard_at_least: u64,
    /// Of the version that the table holds: what it is filled from, and then what apply told of last.
    revision: AtomicU64,
    parts: Vec<RwLock<Part>>,
    vias: Vias,
    wheel: Mutex<Wheel>,
    /// How TTLs are lengthened, in percent.
    stretch: AtomicU32,
    /// Where the leases begin that are to be filed anew, counted over all parts; see
    /// [`LeaseTable::set_stretch`].
    to_refile: Mutex<Option<Place>>,
    /// The bodies of heartbeats that were read.
    pub bodies: Bodies,
    /// Instances on private sessions.
    named: Named,
}

/// Where a lease stands: the part in the lowest bits, then its number in that. When its session is gone
/// another one's may stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

impl Place {
    pub(super) fn new(part: u64, number: u32) -> Self {
        Self((number * PARTS as u32) | part as u32)
    }

    fn part(self) -> usize {
        (self.0 % PARTS as u32) as usize
    }

    fn number(self) -> u32 {
        self.0 / PARTS as u32
    }
}

/// The leases of one part of all sessions.
#[derive(Debug, Default)]
struct Part {
    /// Numbers of leases by session.
    index: HashTable<u32>,
    /// With those of sessions that are gone, whose places are free: the wheel may still have them.
    leases: Chunked<Lease, LEASES_PER_CHUNK>,
    free: Vec<u32>,
    /// While the table opens: the sessions that ended meanwhile.
    ended: Option<HashSet<SessionId>>,
}

/// Ids count up, and those of one part do so in steps: a product spreads them well.
fn hash(session: SessionId) -> u64 {
    (session.0 / PARTS).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// With how many sessions the index of a part doubles its room. Sessions come to all parts in turn: if each
/// did so when it is full, all would at one moment (see [`super::chunked`]).
fn fills_at(part: u64, room: usize) -> usize {
    room / 2 + room / 2 * (part as usize + 1) / PARTS as usize
}

impl Part {
    fn number(&self, session: SessionId) -> Option<u32> {
        let is_its = |number: &u32| self.leases[*number as usize].session == session;
        self.index.find(hash(session), is_its).copied()
    }

    fn find(&self, session: SessionId) -> Option<(u32, &Lease)> {
        let number = self.number(session)?;
        Some((number, &self.leases[number as usize]))
    }

    /// The session must not be there.
    fn insert(&mut self, lease: Lease) -> (u32, &Lease) {
        let session = lease.session;
        let number = match self.free.pop() {
            Some(number) => {
                self.leases[number as usize] = lease;
                number
            }
            None => {
                self.leases.push(lease);
                self.leases.len() as u32 - 1
            }
        };
        let leases = &self.leases;
        let hash_of = |number: &u32| hash(leases[*number as usize].session);
        // What hashbrown fills of its buckets. Its own capacity is without the places of those who left.
        let (taken, room) = (self.index.len(), self.index.num_buckets() * 7 / 8);
        if taken >= fills_at(session.0 % PARTS, room) {
            self.index.reserve(room + 1 - taken, hash_of);
        }
        self.index.insert_unique(hash(session), number, hash_of);
        (number, &self.leases[number as usize])
    }

    fn remove(&mut self, session: SessionId) {
        let leases = &self.leases;
        let is_its = |number: &u32| leases[*number as usize].session == session;
        if let Ok(entry) = self.index.find_entry(hash(session), is_its) {
            let (number, _) = entry.remove();
            self.leases[number as usize].withdraw();
            self.free.push(number);
        }
        if let Some(ended) = &mut self.ended {
            ended.insert(session);
        }
    }
}

/// The nodes that took heartbeats, by a small number: a lease has no room for more.
#[derive(Debug)]
struct Vias([OnceLock<NodeId>; Via::COUNT as usize]);

impl Default for Vias {
    fn default() -> Self {
        Self([const { OnceLock::new() }; Via::COUNT as usize])
    }
}

impl Vias {
    /// Takes no lock once the node is known. Nodes beyond [`Via::COUNT`] are not told apart from
    /// none: so many are no members within one leadership.
    fn number(&self, node: NodeId) -> Via {
        let is_its = |known: &OnceLock<NodeId>| *known.get_or_init(|| node) == node;
        self.0.iter().position(is_its).map_or(Via::NONE, Via::numbered)
    }

    fn node(&self, via: Via) -> Option<NodeId> {
        self.0.get(via.number()?)?.get().copied()
    }
}

/// Leases by the slot in which they are looked at, which is never after their deadline's; one that
/// was renewed meanwhile is filed again. Each counts in one slot only, which its lease names: a copy
/// that an earlier deadline left behind in a later slot, or a session that is gone, is dropped when
/// that slot comes due.
#[derive(Debug, Default)]
struct Wheel {
    slots: BTreeMap<u64, Vec<Place>>,
}

/// The slot in which a lease with this deadline is looked at: the next one at the earliest.
fn slot_of(deadline: u64, now: u64) -> u64 {
    deadline.clamp(now, now + FILED_AHEAD_MS) / SLOT_MS + 1
}

impl Wheel {
    fn put(&mut self, slot: u64, place: Place) {
        self.slots.entry(slot).or_default().push(place);
    }

    /// Up to `limit` places of the first slot, if that is due. `None`: it is not.
    fn take(&mut self, now: u64, limit: usize) -> Option<(u64, Vec<Place>)> {
        let mut first = self.slots.first_entry().filter(|first| *first.key() <= now / SLOT_MS)?;
        let slot = *first.key();
        let places = first.get_mut();
        if places.len() <= limit {
            return Some((slot, first.remove()));
        }
        let taken = places.split_off(places.len() - limit);
        // What one slot held of many is given back while it is worked off.
        if places.len() * 2 < places.capacity() {
            places.shrink_to_fit();
        }
        Some((slot, taken))
    }
}

impl LeaseTable {
    /// An empty table for the leadership of `term`, all of it.
    pub fn new(term: u64) -> Self {
        Self {
            term,
            heard_at_least: 0,
            revision: AtomicU64::new(0),
            parts: (0..PARTS).map(|_| RwLock::default()).collect(),
            vias: Vias::default(),
            wheel: Mutex::default(),
            stretch: AtomicU32::new(100),
            to_refile: Mutex::new(None),
            bodies: Bodies::default(),
            named: Named::default(),
        }
    }

    /// A table that is still to be filled with the sessions that are there already, in the version of
    /// this revision, each taken as heard at `heard`; until [`LeaseTable::opened`].
    pub fn opening(term: u64, heard: u64, revision: Revision) -> Self {
        let parts = (0..PARTS)
            .map(|_| RwLock::new(Part { ended: Some(HashSet::new()), ..Part::default() }));
        let (parts, revision) = (parts.collect(), AtomicU64::new(revision.0));
        Self { heard_at_least: heard, parts, revision, ..Self::new(term) }
    }

    pub fn term(&self) -> u64 {
        self.term
    }

    fn part(&self, session: SessionId) -> &RwLock<Part> {
        &self.parts[(session.0 % PARTS) as usize]
    }

    fn stretch(&self) -> Stretch {
        Stretch(self.stretch.load(Ordering::Acquire))
    }

    /// Deadlines are counted with TTLs of so many percent from now on. Where that makes them
    /// earlier, [`LeaseTable::take_due`] files all leases anew, a piece with each call.
    pub fn set_stretch(&self, percent: u32) {
        if percent < self.stretch.swap(percent, Ordering::AcqRel) {
            *self.to_refile.lock() = Some(Place(0));
        }
    }

    /// A TTL in milliseconds as deadlines are counted with it now.
    pub fn counted(&self, ttl_ms: u64) -> u64 {
        self.stretch().of(ttl_ms)
    }

    /// A session that was there when the leadership began, unless it is known already or has ended.
    /// Returns whether it is there now; once the table was [`LeaseTable::opened`] nothing is filled
    /// in any more.
    pub fn fill(&self, session: SessionId, ttl_ms: u64, touched: Revision) -> bool {
        let mut part = self.part(session).write();
        if part.number(session).is_some() {
            return true;
        }
        if part.ended.as_ref().is_none_or(|ended| ended.contains(&session)) {
            return false;
        }
        self.insert(&mut part, session, ttl_ms, touched, self.heard_at_least);
        true
    }

    /// Every session that was there is filled in, or has ended since.
    pub fn opened(&self) {
        self.parts.iter().for_each(|part| part.write().ended = None);
    }

    fn insert(
        &self,
        part: &mut Part,
        session: SessionId,
        ttl_ms: u64,
        touched: Revision,
        heard: u64,
    ) {
        let (number, lease) = part.insert(Lease::new(session, ttl_ms, touched, heard));
        self.file(number, lease, lease.deadline(self.stretch()), heard);
    }

    fn file(&self, number: u32, lease: &Lease, deadline: u64, now: u64) {
        let slot = slot_of(deadline, now);
        if lease.file(slot) {
            self.wheel.lock().put(slot, Place::new(lease.session.0 % PARTS, number));
        }
    }

    /// Apply saw a session opened or touched: it lives for a full TTL from `heard`.
    pub fn touch(&self, session: SessionId, ttl_ms: u64, touched: Revision, heard: u64) {
        let touch_known = |part: &Part| {
            let Some((number, lease)) = part.find(session) else { return false };
            let deadline = lease.touch(ttl_ms, touched, heard, self.stretch());
            self.file(number, lease, deadline, heard);
            true
        };
        if touch_known(&self.part(session).read()) {
            return;
        }
        let mut part = self.part(session).write();
        // It may have been filled in meanwhile.
        if !touch_known(&part) {
            let heard = heard.max(self.heard_at_least);
            self.insert(&mut part, session, ttl_ms, touched, heard);
        }
    }

    /// A session that was filled in or touched before: if it is a private one, heartbeats find it by the
    /// name of its instance, whose life is `began` where that is known.
    pub fn name(&self, id: SessionId, session: &Session, began: Option<Incarnation>) {
        let Some((app, instance)) = session.instance() else { return };
        let number = {
            let part = self.part(id).read();
            let Some((number, lease)) = part.find(id) else { return };
            began.inspect(|life| lease.began(Revision(life.0)));
            number
        };
        let name = self.named.name(app.as_str(), instance.as_str());
        self.named.insert(name, id, Place::new(id.0 % PARTS, number));
    }

    /// If the instance of this name is on this private session, [`LeaseTable::renew_named`] knows from now
    /// on that its life is this one.
    pub fn lives_as(&self, (app, id): (&str, &str), session: SessionId, life: Incarnation) {
        let Some(known) = self.named.find(self.named.name(app, id)) else { return };
        let part = self.parts[known.place.part()].read();
        if let Some(lease) = part.leases.get(known.place.number() as usize)
            && lease.session == session
        {
            lease.began(Revision(life.0));
        }
    }

    /// Apply saw an instance go that was on this session.
    pub fn unname(&self, key: &InstanceKey, session: SessionId) {
        self.named.remove(self.named.name(key.app.as_str(), key.id.as_str()), session);
    }

    /// Apply told of everything up to this revision.
    pub fn told_up_to(&self, revision: Revision) {
        self.revision.store(revision.0, Ordering::Release);
    }

    /// Whether apply told of all that a version of this revision holds. Else somebody may be gone from
    /// that whose lease is still here.
    pub fn knows(&self, revision: Revision) -> bool {
        self.revision.load(Ordering::Acquire) >= revision.0
    }

    /// Apply saw a session end.
    pub fn forget(&self, session: SessionId) {
        self.part(session).write().remove(session);
    }

    /// A heartbeat arrived by way of the node `via`, and the leadership was confirmed after that.
    /// Returns the TTL as it was registered.
    pub fn renew(
        &self,
        session: SessionId,
        mark: Option<i64>,
        via: NodeId,
        now: u64,
    ) -> Result<u64, NotRenewed> {
        let via = self.vias.number(via);
        let part = self.part(session).read();
        let (_, lease) = part.find(session).ok_or(NotRenewed::Unknown)?;
        lease.renew(mark, via, now).ok_or(NotRenewed::Ending)
    }

    /// As [`LeaseTable::renew`], for the instance of this name, if it is on a private session. `None`: it
    /// is to be looked up. So it is if an incarnation is wanted and the session was touched since that
    /// began, or nobody told of it ([`LeaseTable::lives_as`]).
    pub fn renew_named(
        &self,
        (app, id): (&str, &str),
        incarnation: Option<Incarnation>,
        mark: Option<i64>,
        via: NodeId,
        now: u64,
    ) -> Option<RenewedByName> {
        let known = self.named.find(self.named.name(app, id))?;
        let via = self.vias.number(via);
        let part = self.parts[known.place.part()].read();
        let lease = part.leases.get(known.place.number() as usize)?;
        let is_its = known.is_of(lease.session)
            && incarnation.is_none_or(|life| lease.is_known_to_have_begun(Revision(life.0)));
        let ttl_ms = is_its.then(|| lease.renew(mark, via, now)).flatten()?;
        let place = part.ended.is_none().then_some(known.place);
        Some(RenewedByName { session: lease.session, ttl_ms, place })
    }

    /// Where the session's lease stands, to be remembered: so not while the table is filled, when an old
    /// session may come to where another one stood.
    pub fn place(&self, session: SessionId) -> Option<Place> {
        let part = self.part(session).read();
        let number = part.number(session).filter(|_| part.ended.is_none())?;
        Some(Place::new(session.0 % PARTS, number))
    }

    /// As [`LeaseTable::renew`], for whoever found the session's lease in this place and saw the
    /// catalogue's version `seen` then. `None`: the session is gone, ends, or was touched since, so it
    /// is to be looked up again. A session that stands there in its stead was opened later than `seen`,
    /// which is a touch.
    pub fn renew_at(&self, place: Place, seen: Revision, via: NodeId, now: u64) -> Option<u64> {
        let via = self.vias.number(via);
        let part = self.parts[place.part()].read();
        part.leases.get(place.number() as usize)?.renew_as_seen(seen, via, now)
    }

    pub fn last_heard(&self, session: SessionId, now: u64) -> Option<LastHeard> {
        let part = self.part(session).read();
        let (_, lease) = part.find(session)?;
        let (heard, mark) = lease.last_heard();
        Some(LastHeard { ago_ms: now.saturating_sub(heard), mark })
    }

    /// Takes up to `limit` leases out of the slots that are due at `now` and files the renewed ones
    /// again. Those whose deadline passed are returned: see [`Overdue`]. `None` when no slot is due:
    /// call again until then, with a fresh `now`, so that a long tick cannot judge by an old one.
    pub fn take_due(&self, now: u64, limit: usize) -> Option<Vec<Overdue>> {
        self.refile(now);
        let (slot, places) = self.wheel.lock().take(now, limit)?;
        let stretch = self.stretch();
        let (mut overdue, mut renewed) = (Vec::new(), Vec::new());
        for place in places {
            let part = self.parts[place.part()].read();
            let lease = &part.leases[place.number() as usize];
            if !lease.take_out(slot) {
                continue;
            }
            match lease.look(now, stretch) {
                Judgement::Lives { deadline } => {
                    let slot = slot_of(deadline, now);
                    if lease.file(slot) {
                        renewed.push((slot, place));
                    }
                }
                Judgement::Late { touched, heard, via } => {
                    overdue.push(self.overdue(lease, touched, heard, via));
                }
                Judgement::Ending => {}
            }
        }
        let mut wheel = self.wheel.lock();
        renewed.into_iter().for_each(|(slot, place)| wheel.put(slot, place));
        Some(overdue)
    }

    fn overdue(&self, lease: &Lease, touched: Revision, heard: u64, via: Via) -> Overdue {
        Overdue { session: lease.session, touched, heard, via: self.vias.node(via) }
    }

    /// Files the next piece of all leases anew, where TTLs became shorter.
    fn refile(&self, now: u64) {
        let mut to_refile = self.to_refile.lock();
        let Some(Place(begin)) = *to_refile else { return };
        let longest = self.parts.iter().map(|part| part.read().leases.len()).max().unwrap_or(0);
        let end = (longest as u64 * PARTS).min(u64::from(begin) + REFILED_AT_ONCE as u64) as u32;
        let stretch = self.stretch();
        for place in (begin..end).map(Place) {
            let part = self.parts[place.part()].read();
            if let Some(lease) = part.leases.get(place.number() as usize)
                && lease.filed() != NOWHERE
            {
                self.file(place.number(), lease, lease.deadline(stretch), now);
            }
        }
        *to_refile = (end > begin).then_some(Place(end));
    }

    /// A look at a session that was taken as overdue; one that lives is filed again.
    pub fn look(&self, session: SessionId, now: u64) -> Looked {
        let part = self.part(session).read();
        let Some((number, lease)) = part.find(session) else { return Looked::Gone };
        match lease.look(now, self.stretch()) {
            Judgement::Lives { deadline } => {
                self.file(number, lease, deadline, now);
                Looked::Lives
            }
            Judgement::Late { touched, heard, via } => {
                Looked::Overdue(self.overdue(lease, touched, heard, via))
            }
            Judgement::Ending => Looked::Gone,
        }
    }

    /// Ends a session that was taken as overdue, if it still is.
    pub fn end(&self, session: SessionId, now: u64) -> Ended {
        let part = self.part(session).read();
        let Some((number, lease)) = part.find(session) else { return Ended::Gone };
        match lease.end(now, self.stretch()) {
            Marked::Due(due) => Ended::Due(due),
            Marked::Lives { deadline } => {
                self.file(number, lease, deadline, now);
                Ended::Lives
            }
            Marked::Before => Ended::Gone,
        }
    }

    /// Whether a session that was found when the table opened was heard since. `None`: it is gone.
    pub fn was_heard(&self, session: SessionId) -> Option<bool> {
        let part = self.part(session).read();
        let (_, lease) = part.find(session)?;
        let (heard, _) = lease.last_heard();
        Some(lease.via() != Via::NONE || !self.is_as_found(heard))
    }

    /// Whether this is when a session counts as heard that was found when the table opened.
    pub fn is_as_found(&self, heard: u64) -> bool {
        heard == self.heard_at_least && heard > 0
    }

    /// Counts sessions that have missed a beat, at least `limit` more of all that there are. Returns
    /// whether all were counted; else the next call goes on.
    pub fn count_late(&self, count: &mut LateCount, now: u64, limit: usize) -> bool {
        let mut looked_at = 0;
        let stretch = self.stretch();
        while let Some(part) = self.parts.get(count.parts) {
            let part = part.read();
            for number in &part.index {
                let lease = &part.leases[*number as usize];
                if let Some(via) = lease.late(now, stretch) {
                    let (heard, _) = lease.last_heard();
                    match self.vias.node(via) {
                        Some(node) => *count.by_node.entry(node).or_default() += 1,
                        None if self.is_as_found(heard) => count.by_nobody += 1,
                        None => {}
                    }
                }
            }
            count.parts += 1;
            looked_at += part.index.len();
            if looked_at >= limit {
                break;
            }
        }
        count.parts == self.parts.len()
    }

    /// Gives a session back that was taken as overdue: it is looked at again in the next slot.
    pub fn keep(&self, session: SessionId, now: u64) {
        let part = self.part(session).read();
        if let Some((number, lease)) = part.find(session) {
            self.file(number, lease, now, now);
        }
    }

    /// The proposal of these was certainly not appended: heartbeats may be acknowledged again. They
    /// are looked at in the next slot, not in one that is due already.
    pub fn spare(&self, due: impl IntoIterator<Item = Due>, now: u64) {
        for due in due {
            let part = self.part(due.session).read();
            let Some((number, lease)) = part.find(due.session) else { continue };
            if let Some(deadline) = lease.spare(&due, self.stretch()) {
                self.file(number, lease, deadline, now);
            }
        }
    }

    /// Instances that are found by their names.
    #[cfg(test)]
    pub fn named_len(&self) -> usize {
        self.named.len()
    }

    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.read().index.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64};
    use std::sync::mpsc;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const S: SessionId = SessionId(1);

    /// The node that takes the heartbeats.
    const VIA: NodeId = 3;

    fn all_due(table: &LeaseTable, now: u64) -> Vec<Due> {
        let overdue = std::iter::from_fn(|| table.take_due(now, 3)).flatten();
        let end = |overdue: Overdue| match table.end(overdue.session, now) {
            Ended::Due(due) => Some(due),
            Ended::Lives | Ended::Gone => None,
        };
        overdue.filter_map(end).collect()
    }

    /// As where a session ended while the table was filled with it.
    #[test]
    fn a_name_that_was_left_behind_renews_nobody_who_came_in_its_place() {
        let table = LeaseTable::new(1);
        let (name, other) = (("pay", "a"), SessionId(S.0 + PARTS));
        table.touch(S, 1_000, Revision(1), 0);
        let place = table.place(S).expect("it has a lease");
        table.named.insert(table.named.name(name.0, name.1), S, place);
        let renewed = |now| table.renew_named(name, None, None, VIA, now);
        let its = RenewedByName { session: S, ttl_ms: 1_000, place: Some(place) };
        assert_eq!(renewed(10), Some(its));
        table.forget(S);
        assert_eq!(renewed(20), None);
        table.touch(other, 1_000, Revision(2), 20);
        assert_eq!(table.place(other), Some(place));
        assert_eq!(renewed(30), None);
        assert_eq!(table.last_heard(other, 30).map(|heard| heard.ago_ms), Some(10));
    }

    #[test]
    fn what_there_is_a_million_of_stays_small() {
        assert!(size_of::<Lease>() <= 48, "{} bytes", size_of::<Lease>());
    }

    #[test]
    fn a_session_lives_for_its_ttl_after_the_last_heartbeat_and_not_less() {
        let table = LeaseTable::new(1);
        table.touch(S, 1_000, Revision(1), 0);
        assert_eq!(all_due(&table, 999), []);
        assert_eq!(table.renew(S, None, VIA, 990), Ok(1_000));
        assert_eq!(all_due(&table, 1_989), []);
        let due = all_due(&table, 1_990 + 2 * SLOT_MS);
        assert_eq!(due.len(), 1);
        assert_eq!(due[0].session, S);
    }

    #[test]
    fn a_heartbeat_is_not_acknowledged_once_the_removal_may_have_been_proposed() {
        let table = LeaseTable::new(1);
        table.touch(S, 1_000, Revision(1), 0);
        let due = all_due(&table, 2_000);
        assert_eq!(table.renew(S, None, VIA, 2_000), Err(NotRenewed::Ending));
        table.spare(due, 2_000);
        assert_eq!(table.renew(S, None, VIA, 2_001), Ok(1_000));
        assert_eq!(all_due(&table, 3_000), []);
    }

    #[test]
    fn a_registration_saves_a_session_whose_expiry_names_an_older_touch() {
        let table = LeaseTable::new(1);
        table.touch(S, 1_000, Revision(1), 0);
        let due = all_due(&table, 2_000);
        assert_eq!(due[0].touched, Revision(1));
        table.touch(S, 1_000, Revision(7), 2_000);
        assert_eq!(table.renew(S, None, VIA, 2_001), Ok(1_000));
        assert_eq!(all_due(&table, 2_990), []);
        let again = all_due(&table, 4_000);
        assert_eq!(again[0].touched, Revision(7));
    }

    #[test]
    fn a_spared_session_is_looked_at_again_in_the_next_slot_and_not_before() {
        let table = LeaseTable::new(1);
        table.touch(S, 1_000, Revision(1), 0);
        let due = all_due(&table, 2_000);
        assert_eq!(due.len(), 1);
        table.spare(due, 2_000);
        assert_eq!(table.take_due(2_000, 1), None);
        assert_eq!(all_due(&table, 2_000 + SLOT_MS).len(), 1);
    }

    #[test]
    fn sparing_a_dropped_expiry_does_not_take_a_later_mark_away() {
        let table = LeaseTable::new(1);
        table.touch(S, 1_000, Revision(1), 0);
        let dropped = all_due(&table, 2_000);
        // At the same moment as before, so that only the touch tells the two marks apart.
        table.touch(S, 1_000, Revision(2), 0);
        assert_eq!(all_due(&table, 2_000 + SLOT_MS)[0].touched, Revision(2));
        table.spare(dropped, 2_100);
        assert_eq!(table.renew(S, None, VIA, 2_100), Err(NotRenewed::Ending));
    }

    #[test]
    fn a_touch_does_not_take_a_later_beat_back() {
        let table = LeaseTable::new(1);
        table.touch(S, 1_000, Revision(1), 0);
        assert_eq!(table.renew(S, None, VIA, 900), Ok(1_000));
        table.touch(S, 1_000, Revision(2), 500);
        assert_eq!(all_due(&table, 1_899), []);
    }

    #[test]
    fn the_parts_grow_one_after_the_other() {
        const BLOCK: u64 = 8 * PARTS;
        let table = LeaseTable::new(1);
        let rooms = || -> Vec<usize> {
            table.parts.iter().map(|part| part.read().index.num_buckets()).collect()
        };
        let mut grown = 0;
        for block in 0..100 {
            let before = rooms();
            for session in block * BLOCK..(block + 1) * BLOCK {
                table.touch(SessionId(session), 1_000, Revision(1), 0);
            }
            let at_once = before.iter().zip(rooms()).filter(|(before, now)| *before != now).count();
            // The first ones are small.
            if block >= 50 {
                assert!(at_once <= PARTS as usize / 16, "{at_once} parts grew at once");
                grown += at_once;
            }
        }
        assert!(grown >= PARTS as usize / 2, "only {grown} parts grew");
    }

    #[test]
    fn what_is_gone_leaves_the_wheel_long_before_its_deadline() {
        let table = LeaseTable::new(1);
        let day = 24 * 3_600_000;
        for id in 0..1_000 {
            table.touch(SessionId(id), day, Revision(1), 0);
            table.forget(SessionId(id));
        }
        table.touch(S, day, Revision(2), 0);
        assert_eq!(all_due(&table, FILED_AHEAD_MS + SLOT_MS), []);
        assert_eq!(filed(&table), 1);
        assert_eq!(all_due(&table, day - 1), []);
        assert_eq!(all_due(&table, day + SLOT_MS).len(), 1);
    }

    #[test]
    fn a_ttl_that_goes_up_and_down_leaves_one_copy_in_the_wheel() {
        let table = LeaseTable::new(1);
        let mut now = 0;
        for revision in 0..1_000 {
            let ttl = if revision % 2 == 0 { 50_000 } else { 1_000 };
            table.touch(S, ttl, Revision(revision), now);
            now += 900;
            assert_eq!(all_due(&table, now), []);
            assert!(filed(&table) <= 60, "{} copies", filed(&table));
        }
        table.touch(S, 50_000, Revision(1_000), now);
        assert_eq!(all_due(&table, now + 50_000 - 1), []);
        assert_eq!(filed(&table), 1);
    }

    fn taken(table: &LeaseTable, now: u64) -> Vec<Overdue> {
        std::iter::from_fn(|| table.take_due(now, 3)).flatten().collect()
    }

    #[test]
    fn an_overdue_session_can_be_renewed_until_it_is_ended() {
        let table = LeaseTable::new(1);
        table.touch(S, 1_000, Revision(7), 0);
        let overdue = Overdue { session: S, touched: Revision(7), heard: 0, via: None };
        assert_eq!(taken(&table, 2_000), [overdue]);
        assert_eq!(table.look(S, 2_000), Looked::Overdue(overdue));
        assert_eq!(table.renew(S, None, VIA, 2_000), Ok(1_000));
        assert_eq!(table.end(S, 2_010), Ended::Lives);
        let again = taken(&table, 3_000 + 2 * SLOT_MS);
        assert_eq!(again, [Overdue { heard: 2_000, via: Some(VIA), ..overdue }]);
        assert!(matches!(table.end(S, 3_100), Ended::Due(due) if due.silent_ms == 1_100));
        assert_eq!(table.renew(S, None, VIA, 3_100), Err(NotRenewed::Ending));
        assert_eq!((table.look(S, 3_100), table.end(S, 3_100)), (Looked::Gone, Ended::Gone));
    }

    #[test]
    fn an_overdue_session_is_out_of_the_wheel_until_it_is_given_back() {
        let table = LeaseTable::new(1);
        let gives_back: [fn(&LeaseTable); 3] = [
            |table| table.keep(S, 2_100),
            |table| table.touch(S, 1_000, Revision(2), 2_100),
            |table| {
                assert!(table.renew(S, None, VIA, 2_100).is_ok());
                assert_eq!(table.look(S, 2_100), Looked::Lives);
            },
        ];
        for give_back in gives_back {
            table.forget(S);
            table.touch(S, 1_000, Revision(1), 0);
            assert_eq!(taken(&table, 2_000).len(), 1);
            assert_eq!(taken(&table, 90_000), [], "it is judged while it is held back");
            give_back(&table);
            assert_eq!(taken(&table, 90_000).len(), 1);
        }
    }

    #[test]
    fn the_node_that_took_the_last_beat_is_told_and_not_who_touched() {
        let table = LeaseTable::new(1);
        for via in [9, 4, 9, 5] {
            table.touch(S, 1_000, Revision(via), 0);
            assert_eq!(table.renew(S, None, via, 0), Ok(1_000));
            table.touch(S, 1_000, Revision(via), 10);
            assert_eq!(taken(&table, 5_000)[0].via, Some(via));
        }
    }

    #[test]
    fn ttls_are_lengthened_and_shortened_together() {
        let table = LeaseTable::new(1);
        table.touch(S, 1_000, Revision(1), 0);
        table.set_stretch(300);
        assert_eq!(taken(&table, 2_999), []);
        assert_eq!(table.renew(S, None, VIA, 2_999), Ok(1_000), "the TTL that was registered");
        assert_eq!(taken(&table, 5_000), []);
        table.set_stretch(100);
        assert_eq!(taken(&table, 5_000), [], "what is late is looked at in the next slot");
        assert_eq!(taken(&table, 5_000 + SLOT_MS).len(), 1);
    }

    #[test]
    fn who_beats_as_seldom_as_it_was_told_has_missed_no_beat() {
        let table = LeaseTable::new(1);
        table.touch(S, 15_000, Revision(1), 0);
        table.set_stretch(800);
        assert_eq!(table.renew(S, None, VIA, 0), Ok(15_000));
        let late = |now| {
            let mut count = LateCount::default();
            assert!(table.count_late(&mut count, now, 1_000));
            count.by(VIA)
        };
        let told = Stretch(800).of(15_000);
        assert_eq!(late(told / 3), 0, "its next beat is due only now");
        assert_eq!(late(told / 2), 0);
        assert_eq!(late(told / 2 + 1), 1);
    }

    #[test]
    fn a_table_that_opens_takes_beats_and_changes_before_a_session_is_filled_in() {
        let (begun, lease) = (10_000, 500);
        let table = LeaseTable::opening(1, begun + lease, Revision(0));
        let [quiet, touched, ended, fresh] = [1, 2, 3, 4].map(SessionId);
        assert_eq!(table.renew(quiet, None, VIA, begun), Err(NotRenewed::Unknown));
        table.touch(touched, 2_000, Revision(9), begun);
        table.touch(fresh, 2_000, Revision(8), begun);
        table.forget(ended);
        for session in [quiet, touched, ended] {
            assert_eq!(table.fill(session, 1_000, Revision(1)), session != ended);
        }
        table.opened();
        assert_eq!(table.renew(quiet, None, VIA, begun), Ok(1_000));
        assert_eq!(table.renew(touched, None, VIA, begun), Ok(2_000), "what apply told is newer");
        assert_eq!(table.renew(ended, None, VIA, begun), Err(NotRenewed::Unknown));
        assert!(!table.fill(ended, 1_000, Revision(1)), "it may have ended before it was opened");
        assert_eq!(table.len(), 3);
        // The old leader may have acknowledged beats for up to a lease.
        assert_eq!(taken(&table, begun + lease + 999), []);
        assert_eq!(taken(&table, begun + lease + 1_000 + SLOT_MS).len(), 1);
        assert_eq!(taken(&table, begun + lease + 1_999), []);
        assert_eq!(taken(&table, begun + lease + 2_000 + SLOT_MS).len(), 2);
    }

    #[test]
    fn the_places_of_sessions_that_are_gone_are_used_again() {
        let table = LeaseTable::new(1);
        for round in 0..20u64 {
            let sessions = || (round * 1_000..(round + 1) * 1_000).map(SessionId);
            sessions().for_each(|s| table.touch(s, 1_000, Revision(1), round * 100));
            assert_eq!(table.len(), 1_000);
            sessions().for_each(|s| table.forget(s));
        }
        let places: usize = table.parts.iter().map(|part| part.read().leases.len()).sum();
        assert!(places <= 1_100, "{places} places");
        assert_eq!(all_due(&table, 90_000), []);
    }

    fn filed(table: &LeaseTable) -> usize {
        table.wheel.lock().slots.values().map(Vec::len).sum()
    }

    #[test]
    fn a_forgotten_session_is_neither_renewed_nor_due() {
        let table = LeaseTable::new(1);
        table.touch(S, 1_000, Revision(1), 0);
        table.forget(S);
        assert_eq!(table.renew(S, None, VIA, 1), Err(NotRenewed::Unknown));
        assert_eq!(all_due(&table, 10_000), []);
    }

    #[test]
    fn a_shortened_ttl_is_noticed_at_its_own_deadline() {
        let table = LeaseTable::new(1);
        table.touch(S, 60_000, Revision(1), 0);
        table.touch(S, 1_000, Revision(2), 100);
        assert_eq!(all_due(&table, 1_100 + 2 * SLOT_MS).len(), 1);
    }

    /// What apply and clients do to one session while the keeper judges it, each in a thread.
    struct Race {
        table: LeaseTable,
        now: AtomicU64,
        /// The latest beat that was acknowledged.
        acknowledged: AtomicU64,
        over: AtomicBool,
    }

    impl Race {
        const TTL: u64 = 20;

        fn judge(&self, proposals: &mpsc::Sender<Due>) {
            while !self.over.load(Ordering::Acquire) {
                for due in all_due(&self.table, self.now.load(Ordering::Acquire)) {
                    proposals.send(due).expect("apply takes them");
                }
            }
        }

        fn beat(&self) {
            while !self.over.load(Ordering::Acquire) {
                let now = self.now.load(Ordering::Acquire);
                // Not at all times, or nobody would ever be late.
                if now.is_multiple_of(8) && self.table.renew(S, None, VIA, now).is_ok() {
                    self.acknowledged.fetch_max(now, Ordering::AcqRel);
                }
            }
        }

        /// What apply makes of an expiry: true if it removed the session.
        fn expire(&self, due: Due, touched: Revision, registered: u64) -> bool {
            if due.touched != touched {
                return false;
            }
            assert!(due.heard() >= registered, "removed, and its registration was not judged");
            let acknowledged = self.acknowledged.load(Ordering::Acquire);
            assert!(
                due.heard() >= acknowledged,
                "removed, and a beat at {acknowledged} was not judged"
            );
            self.table.forget(S);
            true
        }

        /// Returns the last touch and its time.
        fn apply(&self, rounds: u64, proposals: &mpsc::Receiver<Due>) -> (Revision, u64) {
            let (mut touched, mut registered) = (Revision(0), 0);
            for round in 1..=rounds {
                let stale = self.now.load(Ordering::Acquire);
                let due_now = Self::TTL + SLOT_MS + round % SLOT_MS;
                let now = self.now.fetch_add(due_now, Ordering::AcqRel) + due_now;
                (0..round % 256).for_each(|_| std::hint::spin_loop());
                for due in proposals.try_iter() {
                    self.expire(due, touched, registered);
                }
                (touched, registered) =
                    (Revision(round), if round.is_multiple_of(3) { stale } else { now });
                self.table.touch(S, Self::TTL, touched, registered);
            }
            (touched, registered)
        }
    }

    /// Ends the others if apply panics.
    struct Ends<'a>(&'a AtomicBool);

    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }

    #[test]
    fn touches_beats_and_judgements_may_come_at_the_same_moment() {
        // Many short races, since only the end of one shows whether the lease was lost.
        for rounds in (1..=40).cycle().take(2_000) {
            let race = Race {
                table: LeaseTable::new(1),
                now: AtomicU64::new(0),
                acknowledged: AtomicU64::new(0),
                over: AtomicBool::new(false),
            };
            let (proposals, proposed) = mpsc::channel();
            let (touched, registered) = std::thread::scope(|scope| {
                scope.spawn(|| race.judge(&proposals));
                scope.spawn(|| race.beat());
                let _ends = Ends(&race.over);
                race.apply(rounds, &proposed)
            });
            // All is still: the session goes when its time is over, whatever happened before.
            let end = race.now.load(Ordering::Acquire) + Race::TTL + 2 * SLOT_MS;
            let mut expire = |due| race.expire(due, touched, registered);
            let gone = proposed.try_iter().any(&mut expire)
                || all_due(&race.table, end).into_iter().any(expire);
            assert!(gone, "the session is in no slot, or still marked for a dropped expiry");
        }
    }

    #[derive(Clone, Debug)]
    enum Act {
        Touch(u64, u64),
        Renew(u64),
        Forget(u64),
        End(u64),
        Keep(u64),
        Look(u64),
        Spare(u64),
        Stretch(u32),
        Pass(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        // Some in one part, so that one takes the place of another that is gone.
        let session = || (0..3u64, 0..2u64).prop_map(|(part, round)| part + round * PARTS);
        // Some are looked at on the way to their deadline.
        let ttl = || prop_oneof![9 => 20..400u64, 1 => FILED_AHEAD_MS..FILED_AHEAD_MS * 3];
        prop_oneof![
            2 => (session(), ttl()).prop_map(|(s, ttl)| Act::Touch(s, ttl)),
            3 => session().prop_map(Act::Renew),
            1 => session().prop_map(Act::Forget),
            2 => session().prop_map(Act::End),
            1 => session().prop_map(Act::Keep),
            1 => session().prop_map(Act::Look),
            1 => session().prop_map(Act::Spare),
            1 => prop_oneof![Just(100), 100..400u32].prop_map(Act::Stretch),
            4 => prop_oneof![9 => 1..200u64, 1 => 1..FILED_AHEAD_MS * 2].prop_map(Act::Pass),
        ]
    }

    /// A session as a plain map of deadlines knows it.
    #[derive(Clone, Copy, Debug)]
    struct Modelled {
        heard: u64,
        ttl: u64,
        touched: Revision,
        stands: Stands,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Stands {
        /// It is noticed once its deadline passed, from this time on.
        Filed {
            from: u64,
        },
        /// It was noticed, and not given back.
        Held,
        Ending(Due),
    }

    #[derive(Debug, Default)]
    struct Model {
        sessions: BTreeMap<u64, Modelled>,
        percent: u32,
        now: u64,
    }

    impl Model {
        fn deadline(&self, known: &Modelled) -> u64 {
            known.heard + Stretch(self.percent).of(known.ttl)
        }

        fn file(&mut self, s: u64, from: u64) {
            let file = |known: &mut Modelled| known.stands = Stands::Filed { from };
            self.sessions.entry(s).and_modify(file);
        }

        /// Whether there is such a session, not ending, and then whether its deadline passed.
        fn is_late(&self, s: u64) -> Option<bool> {
            let known = self.sessions.get(&s)?;
            (!matches!(known.stands, Stands::Ending(_))).then(|| self.deadline(known) <= self.now)
        }

        fn act(&mut self, table: &LeaseTable, act: &Act, touched: Revision) {
            let now = self.now;
            match *act {
                Act::Touch(s, ttl) => {
                    table.touch(SessionId(s), ttl, touched, now);
                    let stands = Stands::Filed { from: 0 };
                    self.sessions.insert(s, Modelled { heard: now, ttl, touched, stands });
                }
                Act::Renew(s) => {
                    let late = self.is_late(s);
                    let expected = match self.sessions.get_mut(&s) {
                        None => Err(NotRenewed::Unknown),
                        Some(_) if late.is_none() => Err(NotRenewed::Ending),
                        Some(known) => {
                            known.heard = now;
                            Ok(known.ttl)
                        }
                    };
                    assert_eq!(table.renew(SessionId(s), None, VIA, now), expected);
                }
                Act::Forget(s) => {
                    table.forget(SessionId(s));
                    self.sessions.remove(&s);
                }
                Act::End(s) => match (table.end(SessionId(s), now), self.is_late(s)) {
                    (Ended::Due(due), Some(true)) => {
                        let known = self.sessions.get_mut(&s).expect("it is late");
                        assert_eq!((due.touched, due.heard()), (known.touched, known.heard));
                        known.stands = Stands::Ending(due);
                    }
                    (Ended::Lives, Some(false)) => self.file(s, 0),
                    (Ended::Gone, None) => {}
                    other => panic!("{other:?}"),
                },
                Act::Keep(s) => {
                    table.keep(SessionId(s), now);
                    if self.is_late(s).is_some() {
                        self.file(s, now);
                    }
                }
                Act::Look(s) => match (table.look(SessionId(s), now), self.is_late(s)) {
                    (Looked::Lives, Some(false)) => self.file(s, 0),
                    (Looked::Overdue(_), Some(true)) | (Looked::Gone, None) => {}
                    other => panic!("{other:?}"),
                },
                Act::Spare(s) => {
                    if let Some(Modelled { stands: Stands::Ending(due), .. }) =
                        self.sessions.get(&s)
                    {
                        table.spare([*due], now);
                        self.file(s, now);
                    }
                }
                Act::Stretch(percent) => {
                    table.set_stretch(percent);
                    if percent < self.percent {
                        self.sessions.values_mut().for_each(|known| {
                            if let Stands::Filed { from } = &mut known.stands {
                                *from = now;
                            }
                        });
                    }
                    self.percent = percent;
                }
                Act::Pass(ms) => self.now += ms,
            }
        }

        fn notice(&mut self, overdue: &Overdue) {
            let known = self.sessions[&overdue.session.0];
            assert!(self.deadline(&known) <= self.now, "noticed before its deadline");
            assert!(matches!(known.stands, Stands::Filed { .. }), "noticed and not given back");
            assert_eq!((overdue.touched, overdue.heard), (known.touched, known.heard));
            let held = Modelled { stands: Stands::Held, ..known };
            self.sessions.insert(overdue.session.0, held);
        }

        fn overlooked(&self) -> Option<u64> {
            let overlooked = |known: &Modelled| match known.stands {
                Stands::Filed { from } => self.deadline(known).max(from) + 2 * SLOT_MS <= self.now,
                Stands::Held | Stands::Ending(_) => false,
            };
            self.sessions.iter().find(|(_, known)| overlooked(known)).map(|(s, _)| *s)
        }
    }

    proptest! {
        /// Against a plain model: a map of deadlines, walked whole at each step.
        #[test]
        fn the_wheel_finds_what_a_walk_over_all_deadlines_finds(
            acts in proptest::collection::vec(act(), 1..120),
        ) {
            let table = LeaseTable::new(1);
            let mut model = Model { percent: 100, ..Model::default() };
            for (act, revision) in acts.iter().zip(1..) {
                model.act(&table, act, Revision(revision));
                for overdue in taken(&table, model.now) {
                    model.notice(&overdue);
                }
                prop_assert_eq!(model.overlooked(), None);
            }
        }
    }

    /// Of this thread, so that it does not matter who else is at work.
    fn cpu() -> Duration {
        let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(spent.tv_sec as u64, spent.tv_nsec as u32)
    }

    #[test]
    #[ignore = "measures; run with --release --nocapture"]
    fn a_million_sessions_are_filled_in_and_renewed() {
        const SESSIONS: u64 = 1_000_000;
        let mut last = cpu();
        let mut tell = |what: &str| {
            let spent = cpu() - std::mem::replace(&mut last, cpu());
            println!("{what}: {} ns of CPU each", spent.as_nanos() / u128::from(SESSIONS));
        };
        let table = LeaseTable::opening(1, 500, Revision(0));
        (0..SESSIONS).for_each(|s| assert!(table.fill(SessionId(s), 15_000, Revision(s))));
        table.opened();
        tell("filled in");
        (0..SESSIONS).for_each(|s| assert!(table.renew(SessionId(s), None, VIA, s / 100).is_ok()));
        tell("renewed in order");
        for s in (0..SESSIONS).map(|n| SessionId(n * 611_953 % SESSIONS)) {
            assert!(table.renew(s, None, VIA, 10_000).is_ok());
        }
        tell("renewed in any order");
        println!("memory: {} bytes each", table.bytes() as u64 / SESSIONS);
        let mut longest = Duration::ZERO;
        for now in (0..20_000).step_by(20) {
            let mut begun = cpu();
            while table.take_due(now, 1_024).is_some() {
                longest = longest.max(cpu() - begun);
                begun = cpu();
            }
        }
        tell("judged");
        println!("longest piece of judging: {longest:?} of CPU");
    }

    impl LeaseTable {
        fn bytes(&self) -> usize {
            let part = |part: &Part| part.leases.bytes() + part.index.allocation_size();
            let parts: usize = self.parts.iter().map(|locked| part(&locked.read())).sum();
            let wheel = self.wheel.lock();
            parts + wheel.slots.values().map(|slot| slot.capacity() * 4).sum::<usize>()
        }
    }
}
