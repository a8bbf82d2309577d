//! Random commands over a small universe: two apps, three ids, two documents, two shard sets, three latches, a few
//! sessions and keys. What a command must match to have an effect (a session, a `touched`, an
//! incarnation, a grant) is chosen from the state at that moment, mostly rightly.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use roster_storage::brake::{BrakeMode, Scope};
use roster_storage::catalog::{At, Catalog};
use roster_storage::command::{
    AppPolicy, Batch, BatchItem, BrakeChange, BrakeEnd, BreakLatch, ClaimLatch, ClearBrakeOverride,
    ClearOverride, CloseSession, Command, CompactRing, Condition, Covered, DeleteApp,
    DeleteDocument, DeleteRing, DeleteShardSet, Deregister, EncodedCommand, Expire, Expiry,
    MetadataPatch, OpenSession, Overridden, OverrideBrake, Patch, Profile, PutApp, PutDocument,
    PutOverride, PutRing, PutShardSet, Rebalance, Register, Release, ReleaseLatch, ReleasedBy,
    Request, SetBrake, SetPace, ShardSetConfig, Stamp, Suspect, Suspicion, WithdrawClaim,
};
use roster_storage::latch::{Claim, Claimant, Mode};
use roster_storage::limits::IDEMPOTENCY_MS;
use roster_storage::names::{
    AppName, DocumentName, Incarnation, InstanceId, InstanceKey, LatchKey, LatchKind, Revision,
    SessionId, ShardId, ShardSetName,
};
use roster_storage::shards::Shard;
use roster_storage::shards::scaling::ScalingPolicy;
use smol_str::SmolStr;

const APPS: [&str; 2] = ["pay", "pay/eu"];
const IDS: [&str; 3] = [" ", "a", "b"];
const SETS: [&str; 2] = ["S", "T"];

/// One entry that is still to be fitted to the state.
#[derive(Clone, Debug)]
pub struct Act {
    kind: Kind,
    /// Cluster time since the entry before.
    pass_ms: u64,
    /// How far the stamp goes back, where a test wants that.
    pub back_ms: u64,
    new_term: bool,
}

#[derive(Clone, Debug)]
enum Kind {
    PutApp {
        app: AppName,
        policy: AppPolicy,
        condition: Pick,
    },
    DeleteApp {
        app: AppName,
        cascade: bool,
        condition: Pick,
    },
    Item(Item),
    Patch {
        key: InstanceKey,
        incarnation: Pick,
        weight: u16,
        clear: bool,
        condition: Pick,
    },
    PutOverride {
        key: InstanceKey,
        expires_in_ms: Option<u64>,
    },
    ClearOverride {
        key: InstanceKey,
    },
    PutDocument {
        app: AppName,
        name: DocumentName,
        bytes: usize,
        create_app: bool,
        condition: Pick,
    },
    DeleteDocument {
        app: AppName,
        name: DocumentName,
        condition: Pick,
    },
    PutRing {
        app: AppName,
        seed: u64,
        replicas: u8,
        condition: Pick,
    },
    DeleteRing {
        app: AppName,
        condition: Pick,
    },
    CompactRing {
        app: AppName,
        condition: Pick,
    },
    PutShardSet {
        set: ShardSetName,
        config: ShardSetConfig,
        condition: Pick,
    },
    DeleteShardSet {
        set: ShardSetName,
        condition: Pick,
    },
    Release {
        set: ShardSetName,
        /// Whose shards they are; nobody's: an operator asks.
        worker: Pick,
        /// Rather of those that wait to be let go.
        waiting: bool,
        shards: Vec<(u8, Pick)>,
    },
    Rebalance {
        sets: Vec<ShardSetName>,
    },
    Open {
        request: Option<Request>,
    },
    Close {
        session: Pick,
    },
    Batch {
        items: Vec<Item>,
        request: Option<Request>,
    },
    Claim {
        latch: LatchKey,
        session: Pick,
        owner: SmolStr,
        mode: Mode,
        value: &'static str,
        waits: bool,
    },
    Withdraw {
        latch: LatchKey,
        claim: Pick,
        asked: Pick,
        even_won: bool,
    },
    ReleaseLatch {
        latch: LatchKey,
        token: Pick,
        by: Pick,
        request: Option<Request>,
    },
    BreakLatch {
        latch: LatchKey,
        token: Pick,
    },
    Expire {
        sessions: Vec<(Pick, bool)>,
        term_moved: bool,
    },
    Tick,
    Suspect {
        sessions: Vec<(Pick, bool)>,
        suspect: bool,
        term_moved: bool,
    },
    Brake {
        scope: Scope,
        change: BrakeChange,
        term_moved: bool,
    },
    OverrideBrake {
        scope: Scope,
        expires_in_ms: Option<u64>,
    },
    ClearBrakeOverride {
        scope: Scope,
    },
    Pace {
        percent: u32,
        term_moved: bool,
    },
}

#[derive(Clone, Debug)]
enum Item {
    Register {
        key: InstanceKey,
        session: Pick,
        ttl_ms: Option<u64>,
        takeover: bool,
        create_app: bool,
        condition: Pick,
    },
    Deregister {
        key: InstanceKey,
        incarnation: Pick,
        condition: Pick,
    },
}

/// Which of the values that the state offers: none, a right one, a wrong one.
#[derive(Clone, Copy, Debug)]
enum Pick {
    None,
    Right(u8),
    Wrong,
}

/// A command with its place in the log.
#[derive(Clone, Debug)]
pub struct Step {
    pub at: At,
    pub command: Command,
}

/// A catalogue and the end of its log.
#[derive(Default)]
pub struct World {
    pub catalog: Catalog,
    at: At,
}

impl World {
    /// The next entry: the act, fitted to the state.
    pub fn step(&mut self, act: &Act) -> Step {
        self.at.revision.0 += 1;
        self.at.term += u64::from(act.new_term || self.at.term == 0);
        let cluster_ms = self.at.stamp.cluster_ms + act.pass_ms;
        self.at.stamp = Stamp { cluster_ms, wall_ms: cluster_ms + 1_000_000 };
        Step { at: self.at, command: self.command(&act.kind) }
    }

    fn command(&self, kind: &Kind) -> Command {
        match kind.clone() {
            Kind::PutApp { app, policy, condition } => {
                let condition = self.app_condition(&app, condition);
                Command::PutApp(PutApp { app, policy, condition })
            }
            Kind::DeleteApp { app, cascade, condition } => {
                let condition = self.app_condition(&app, condition);
                Command::DeleteApp(DeleteApp { app, cascade, condition })
            }
            Kind::Item(item) => match self.item(&item) {
                BatchItem::Register(c) => Command::Register(c),
                BatchItem::Deregister(c) => Command::Deregister(c),
            },
            Kind::Patch { key, incarnation, weight, clear, condition } => Command::Patch(Patch {
                incarnation: self.incarnation(&key, incarnation),
                condition: self.condition(&key, condition),
                metadata: MetadataPatch { clear, ..MetadataPatch::default() },
                weight: Some(weight),
                payload: None,
                key,
            }),
            Kind::PutOverride { key, expires_in_ms } => Command::PutOverride(PutOverride {
                key,
                state: Overridden::Draining,
                reason: "disk".into(),
                expires_in_ms,
            }),
            Kind::ClearOverride { key } => {
                Command::ClearOverride(ClearOverride { key, reason: "".into() })
            }
            Kind::PutDocument { app, name, bytes, create_app, condition } => {
                Command::PutDocument(PutDocument {
                    condition: self.document_condition(&app, &name, condition),
                    value: "1".repeat(bytes).into(),
                    create_app,
                    ..document(app.as_str(), name.as_str())
                })
            }
            Kind::DeleteDocument { app, name, condition } => {
                let condition = self.document_condition(&app, &name, condition);
                Command::DeleteDocument(DeleteDocument { app, name, by: "ops".into(), condition })
            }
            Kind::PutRing { app, seed, replicas, condition } => {
                let condition = self.ring_condition(&app, condition);
                Command::PutRing(PutRing { app, seed, replicas, condition })
            }
            Kind::DeleteRing { app, condition } => {
                let condition = self.ring_condition(&app, condition);
                Command::DeleteRing(DeleteRing { app, condition })
            }
            Kind::CompactRing { app, condition } => {
                let condition = self.ring_condition(&app, condition);
                Command::CompactRing(CompactRing { app, condition })
            }
            Kind::PutShardSet { set, config, condition } => {
                let condition = self.shard_set_condition(&set, condition);
                Command::PutShardSet(PutShardSet { set, config, condition })
            }
            Kind::DeleteShardSet { set, condition } => {
                let condition = self.shard_set_condition(&set, condition);
                Command::DeleteShardSet(DeleteShardSet { set, condition })
            }
            Kind::Release { set, worker, waiting, shards } => {
                Command::Release(self.release(set, worker, waiting, &shards))
            }
            Kind::Rebalance { sets } => Command::Rebalance(Rebalance { sets }),
            Kind::Open { request } => {
                Command::OpenSession(OpenSession { ttl_ms: None, name: "host".into(), request })
            }
            Kind::Close { session } => {
                let session = self.session(session).unwrap_or_default();
                Command::CloseSession(CloseSession { session })
            }
            Kind::Batch { items, request } => {
                let items = items.iter().map(|item| self.item(item)).collect();
                Command::Batch(Batch { items, request })
            }
            Kind::Claim { latch, session, owner, mode, value, waits } => {
                let by = Claimant { session: self.session(session).unwrap_or_default(), owner };
                Command::ClaimLatch(ClaimLatch { latch, by, mode, value: value.into(), waits })
            }
            Kind::Withdraw { latch, claim, asked, even_won } => {
                let known = self.claim(&latch, claim);
                let asked = picked(asked, known.map(|claim| claim.asked));
                let by = self.claimant(known);
                Command::WithdrawClaim(WithdrawClaim { latch, by, asked, even_won, request: None })
            }
            Kind::ReleaseLatch { latch, token, by, request } => {
                let known = self.claim(&latch, token).filter(|claim| claim.token.is_some());
                let token = known.and_then(|claim| claim.token).unwrap_or(Revision(1));
                let by = match by {
                    Pick::None => None,
                    Pick::Right(_) => Some(self.claimant(known)),
                    Pick::Wrong => Some(self.claimant(None)),
                };
                Command::ReleaseLatch(ReleaseLatch { latch, token, by, request })
            }
            Kind::BreakLatch { latch, token } => {
                let holder = self.catalog.latch(&latch).and_then(|known| known.holders().next());
                let token = picked(token, holder.and_then(|claim| claim.token));
                Command::BreakLatch(BreakLatch { latch, token })
            }
            Kind::Expire { sessions, term_moved } => Command::Expire(Expire {
                term: self.at.term - u64::from(term_moved),
                sessions: sessions.into_iter().map(|(s, late)| self.expiry(s, late)).collect(),
            }),
            Kind::Tick => Command::Tick,
            Kind::Suspect { sessions, suspect, term_moved } => Command::Suspect(Suspect {
                term: self.at.term - u64::from(term_moved),
                sessions: sessions
                    .into_iter()
                    .map(|(session, late)| self.expiry(session, late))
                    .map(|e| Suspicion { session: e.session, touched: e.touched, suspect })
                    .collect(),
            }),
            Kind::Brake { scope, change, term_moved } => {
                let term = self.at.term - u64::from(term_moved);
                Command::Brake(SetBrake { term, scope, change })
            }
            Kind::OverrideBrake { scope, expires_in_ms } => Command::OverrideBrake(OverrideBrake {
                scope,
                mode: BrakeMode::Hold,
                reason: "works on the network".into(),
                expires_in_ms,
            }),
            Kind::ClearBrakeOverride { scope } => {
                Command::ClearBrakeOverride(ClearBrakeOverride { scope })
            }
            Kind::Pace { percent, term_moved } => {
                Command::Pace(SetPace { term: self.at.term - u64::from(term_moved), percent })
            }
        }
    }

    fn item(&self, item: &Item) -> BatchItem {
        match item.clone() {
            Item::Register { key, session, ttl_ms, takeover, create_app, condition } => {
                BatchItem::Register(Register {
                    session: self.session(session),
                    condition: self.condition(&key, condition),
                    ttl_ms,
                    takeover,
                    create_app: create_app.then_some(1),
                    ..register(key.app.as_str(), key.id.as_str())
                })
            }
            Item::Deregister { key, incarnation, condition } => BatchItem::Deregister(Deregister {
                incarnation: self.incarnation(&key, incarnation),
                by_operator: false,
                reason: SmolStr::default(),
                condition: self.condition(&key, condition),
                key,
            }),
        }
    }

    fn session(&self, pick: Pick) -> Option<SessionId> {
        match pick {
            Pick::None => None,
            Pick::Right(n) => {
                let count = self.catalog.session_count().max(1);
                self.catalog.sessions().nth(usize::from(n) % count).map(|(id, _)| id)
            }
            Pick::Wrong => Some(SessionId(self.catalog.clock().last_session + 1)),
        }
    }

    /// One of a latch's claims.
    fn claim(&self, latch: &LatchKey, pick: Pick) -> Option<&Claim> {
        let known = self.catalog.latch(latch)?;
        match pick {
            Pick::None => known.claims().next().map(|claim| &**claim),
            Pick::Right(n) => {
                known.claims().nth(usize::from(n) % known.len()).map(|claim| &**claim)
            }
            Pick::Wrong => None,
        }
    }

    /// Whose it is; without a claim, somebody who is there and claims nothing.
    fn claimant(&self, claim: Option<&Claim>) -> Claimant {
        let nobody = || Claimant {
            session: self.session(Pick::Right(0)).unwrap_or_default(),
            owner: "nobody".into(),
        };
        claim.map_or_else(nobody, |claim| claim.by.clone())
    }

    fn incarnation(&self, key: &InstanceKey, pick: Pick) -> Option<Incarnation> {
        match pick {
            Pick::None => None,
            Pick::Right(_) => self.catalog.instance(key).map(|i| i.incarnation),
            Pick::Wrong => Some(Incarnation(0)),
        }
    }

    fn condition(&self, key: &InstanceKey, pick: Pick) -> Condition {
        condition(pick, self.catalog.instance(key).map(|i| i.revision))
    }

    fn app_condition(&self, app: &AppName, pick: Pick) -> Condition {
        condition(pick, self.catalog.app(app).map(|a| a.record.revision))
    }

    fn document_condition(&self, app: &AppName, name: &DocumentName, pick: Pick) -> Condition {
        condition(pick, self.catalog.document(app, name).map(|d| d.revision))
    }

    fn ring_condition(&self, app: &AppName, pick: Pick) -> Condition {
        condition(pick, self.catalog.ring(app).map(|ring| ring.epoch()))
    }

    fn shard_set_condition(&self, set: &ShardSetName, pick: Pick) -> Condition {
        condition(pick, self.catalog.shard_set(set).map(|known| known.record.revision))
    }

    fn release(
        &self,
        set: ShardSetName,
        worker: Pick,
        waiting: bool,
        shards: &[(u8, Pick)],
    ) -> Release {
        let known = self.catalog.shard_set(&set).map(|known| &known.group);
        let workers: Vec<_> = known.into_iter().flat_map(|group| group.workers()).collect();
        let by = match worker {
            Pick::Right(n) if !workers.is_empty() => {
                ReleasedBy::Worker(workers[usize::from(n) % workers.len()].0.clone())
            }
            Pick::Right(_) | Pick::Wrong => ReleasedBy::Worker(id("nobody")),
            Pick::None => ReleasedBy::Operator,
        };
        let candidates: Vec<_> = known
            .into_iter()
            .flat_map(|group| group.shards())
            .filter(|(_, shard)| may_release(&by, shard))
            .filter(|(_, shard)| !waiting || shard.next.is_some() || shard.gone)
            .collect();
        let named = |(n, grant): &(u8, Pick)| match candidates
            .get(usize::from(*n) % candidates.len().max(1))
        {
            None => (ShardId::from(&InstanceKey::new(app_name("pay"), id("a"))), Revision(1)),
            Some((shard, known)) => match grant {
                Pick::None | Pick::Right(_) => ((*shard).clone(), known.grant),
                Pick::Wrong => ((*shard).clone(), Revision(known.grant.0.saturating_sub(1))),
            },
        };
        Release { shards: shards.iter().map(named).collect(), set, by }
    }

    fn expiry(&self, pick: Pick, late: bool) -> Expiry {
        let session = self.session(pick).unwrap_or_default();
        let touched = self.catalog.session(session).map_or(0, |s| s.touched.0);
        let touched = Revision(touched.saturating_sub(u64::from(late)));
        Expiry { session, touched, silent_ms: 15_200 }
    }
}

/// Whether it is theirs to let go, whatever the grant.
pub fn may_release(by: &ReleasedBy, shard: &Shard) -> bool {
    match by {
        ReleasedBy::Worker(worker) => shard.holder.as_ref() == Some(worker),
        ReleasedBy::Operator => shard.holder.is_some(),
    }
}

fn picked(pick: Pick, current: Option<Revision>) -> Option<Revision> {
    match pick {
        Pick::None => None,
        Pick::Right(_) => current,
        Pick::Wrong => Some(Revision(1)),
    }
}

fn condition(pick: Pick, current: Option<Revision>) -> Condition {
    match (pick, current) {
        (Pick::None, _) => Condition::Any,
        (Pick::Right(_), Some(revision)) => Condition::Unchanged(revision),
        (Pick::Right(_), None) => Condition::Absent,
        (Pick::Wrong, Some(_)) => Condition::Absent,
        (Pick::Wrong, None) => Condition::Unchanged(Revision(1)),
    }
}

/// A plain registration that makes its app.
pub fn register(app: &str, id: &str) -> Register {
    let key = InstanceKey::new(app.parse().expect("a name"), id.parse().expect("an id"));
    let metadata = [("version".into(), "2".into())].into_iter().collect();
    let profile = Profile { weight: 1, metadata: Arc::new(metadata), ..Profile::default() };
    Register {
        key,
        profile: profile.into(),
        session: None,
        ttl_ms: None,
        takeover: false,
        create_app: Some(0),
        condition: Condition::Any,
    }
}

/// A plain document that makes its app.
pub fn document(app: &str, name: &str) -> PutDocument {
    PutDocument {
        app: app.parse().expect("a name"),
        name: name.parse().expect("a name"),
        value: "1".into(),
        by: "ops".into(),
        create_app: true,
        condition: Condition::Any,
    }
}

/// An app that goes when it was empty for 10 s.
pub fn short_lived(app: AppName) -> PutApp {
    let policy = AppPolicy { remove_when_empty_after_ms: Some(10_000), ..AppPolicy::default() };
    PutApp { app, policy, condition: Condition::Any }
}

/// Up to `most` entries from an empty catalogue; a third of the sequences begin with rings and shard
/// sets over everybody, and then go on about these more than about other things; a third with
/// sessions, and go on about latches.
pub fn acts(most: usize) -> impl Strategy<Value = Vec<Act>> {
    let any = vec(act(kind()), 0..most);
    let settled = most.saturating_sub(beginning().len()).max(1);
    let at_work = vec(act(prop_oneof![1 => kind(), 3 => kind_at_work()]), 0..settled);
    let at_work = at_work.prop_map(|acts| beginning().into_iter().chain(acts).collect());
    let sessions = || (0..4).map(|_| alone(Kind::Open { request: None }));
    let latched = vec(
        act(prop_oneof![1 => kind(), 4 => kind_of_latches()]),
        0..most.saturating_sub(4).max(1),
    );
    let latched = latched.prop_map(move |acts| sessions().chain(acts).collect());
    prop_oneof![any, at_work, latched]
}

fn act(kind: impl Strategy<Value = Kind>) -> impl Strategy<Value = Act> {
    let pass_ms = prop_oneof![4 => 0..100_u64, 2 => 1_000..20_000_u64, 1 => Just(IDEMPOTENCY_MS)];
    let act = (kind, pass_ms, 0..30_000_u64, prop::bool::weighted(0.05));
    act.prop_map(|(kind, pass_ms, back_ms, new_term)| Act { kind, pass_ms, back_ms, new_term })
}

/// Everybody is there, each app has a ring, and each app works on the other one's shards.
fn beginning() -> Vec<Act> {
    let everybody = APPS.iter().flat_map(|app| IDS.iter().map(move |name| (app, name)));
    let items = everybody.map(|(app, name)| Item::Register {
        key: InstanceKey::new(app_name(app), id(name)),
        session: Pick::None,
        ttl_ms: None,
        takeover: false,
        create_app: true,
        condition: Pick::None,
    });
    let mut kinds = vec![Kind::Batch { items: items.collect(), request: None }];
    for (n, set) in SETS.iter().enumerate() {
        let set: ShardSetName = set.parse().expect("a name");
        let (app, apps) = (app_name(APPS[n]), Covered::All);
        let config = ShardSetConfig { workers: app.clone(), apps, copies: 2, scaling: None };
        kinds.push(Kind::PutRing { app, seed: 0, replicas: 1, condition: Pick::None });
        kinds.push(Kind::PutShardSet { set: set.clone(), config, condition: Pick::None });
        kinds.push(Kind::Rebalance { sets: vec![set] });
    }
    kinds.into_iter().map(alone).collect()
}

fn alone(kind: Kind) -> Act {
    Act { kind, pass_ms: 1, back_ms: 0, new_term: false }
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        2 => (app(), policy(), condition_pick())
            .prop_map(|(app, policy, condition)| Kind::PutApp { app, policy, condition }),
        1 => (app(), any::<bool>(), condition_pick())
            .prop_map(|(app, cascade, condition)| Kind::DeleteApp { app, cascade, condition }),
        8 => item().prop_map(Kind::Item),
        2 => (key(), pick(), 1..9_u16, any::<bool>(), condition_pick()).prop_map(
            |(key, incarnation, weight, clear, condition)| {
                Kind::Patch { key, incarnation, weight, clear, condition }
            }
        ),
        2 => (key(), prop::option::of(0..10_000_u64))
            .prop_map(|(key, expires_in_ms)| Kind::PutOverride { key, expires_in_ms }),
        1 => key().prop_map(|key| Kind::ClearOverride { key }),
        3 => (app(), document_name(), 1..300_usize, prop::bool::weighted(0.8), condition_pick()).prop_map(
            |(app, name, bytes, create_app, condition)| {
                Kind::PutDocument { app, name, bytes, create_app, condition }
            }
        ),
        3 => (app(), document_name(), condition_pick())
            .prop_map(|(app, name, condition)| Kind::DeleteDocument { app, name, condition }),
        2 => (app(), select(vec![0, 0, 0, 7]), 1..4_u8, condition_pick()).prop_map(
            |(app, seed, replicas, condition)| Kind::PutRing { app, seed, replicas, condition }
        ),
        1 => ring_less(),
        3 => (set(), config(), condition_pick())
            .prop_map(|(set, config, condition)| Kind::PutShardSet { set, config, condition }),
        1 => (set(), condition_pick())
            .prop_map(|(set, condition)| Kind::DeleteShardSet { set, condition }),
        4 => (set(), pick(), any::<bool>(), vec((any::<u8>(), pick()), 0..5)).prop_map(
            |(set, worker, waiting, shards)| Kind::Release { set, worker, waiting, shards }
        ),
        6 => vec(set(), 1..3).prop_map(|sets| Kind::Rebalance { sets }),
        3 => request().prop_map(|request| Kind::Open { request }),
        1 => pick().prop_map(|session| Kind::Close { session }),
        4 => (vec(item(), 0..6), request())
            .prop_map(|(items, request)| Kind::Batch { items, request }),
        2 => (vec((pick(), prop::bool::weighted(0.3)), 0..4), prop::bool::weighted(0.2))
            .prop_map(|(sessions, term_moved)| Kind::Expire { sessions, term_moved }),
        6 => kind_of_latches(),
        6 => kind_of_brakes(),
        1 => Just(Kind::Tick),
    ]
}

/// What rings and shard sets follow, and what is done to them.
fn kind_at_work() -> impl Strategy<Value = Kind> {
    let come = (key(), any::<bool>()).prop_map(|(key, takeover)| Item::Register {
        key,
        session: Pick::None,
        ttl_ms: None,
        takeover,
        create_app: true,
        condition: Pick::None,
    });
    let go = key().prop_map(|key| Item::Deregister {
        key,
        incarnation: Pick::None,
        condition: Pick::None,
    });
    let weight = (key(), 1..5_u16).prop_map(|(key, weight)| Kind::Patch {
        key,
        incarnation: Pick::None,
        weight,
        clear: false,
        condition: Pick::None,
    });
    prop_oneof![
        6 => come.prop_map(Kind::Item),
        3 => go.prop_map(Kind::Item),
        2 => weight,
        2 => (key(), prop::option::of(0..10_000_u64))
            .prop_map(|(key, expires_in_ms)| Kind::PutOverride { key, expires_in_ms }),
        1 => key().prop_map(|key| Kind::ClearOverride { key }),
        1 => (set(), config())
            .prop_map(|(set, config)| Kind::PutShardSet { set, config, condition: Pick::None }),
        6 => (set(), pick(), any::<bool>(), vec((any::<u8>(), pick()), 1..5)).prop_map(
            |(set, worker, waiting, shards)| Kind::Release { set, worker, waiting, shards }
        ),
        8 => vec(set(), 1..3).prop_map(|sets| Kind::Rebalance { sets }),
    ]
}

/// What the leader and operators say of who is silent.
fn kind_of_brakes() -> impl Strategy<Value = Kind> {
    let scope = || {
        prop_oneof![Just(Scope::All), app().prop_map(Scope::App), (1..3_u64).prop_map(Scope::Node)]
    };
    let change = prop_oneof![
        2 => (0..4_u64, 1..4_u64).prop_map(|(missing, of)| BrakeChange::On { missing, of }),
        1 => select(vec![BrakeEnd::Recovered, BrakeEnd::Removed, BrakeEnd::Released])
            .prop_map(|because| BrakeChange::Off { because }),
    ];
    let sessions = vec((pick(), prop::bool::weighted(0.2)), 0..4);
    let moved = || prop::bool::weighted(0.1);
    prop_oneof![
        4 => (sessions, prop::bool::weighted(0.7), moved()).prop_map(
            |(sessions, suspect, term_moved)| Kind::Suspect { sessions, suspect, term_moved }
        ),
        2 => (scope(), change, moved())
            .prop_map(|(scope, change, term_moved)| Kind::Brake { scope, change, term_moved }),
        1 => (scope(), prop::option::of(0..10_000_u64))
            .prop_map(|(scope, expires_in_ms)| Kind::OverrideBrake { scope, expires_in_ms }),
        1 => scope().prop_map(|scope| Kind::ClearBrakeOverride { scope }),
        2 => (select(vec![100, 200, 400, 900]), moved())
            .prop_map(|(percent, term_moved)| Kind::Pace { percent, term_moved }),
    ]
}

/// Who claims latches and lets them go, and whose sessions end.
fn kind_of_latches() -> impl Strategy<Value = Kind> {
    let mode = prop_oneof![Just(Mode::Exclusive), Just(Mode::Shared)];
    let claim = (latch(), pick_one(), select(vec!["", "x"]), mode, select(vec!["", "a", "b"]));
    let claim = (claim, prop::bool::weighted(0.8)).prop_map(
        |((latch, session, owner, mode, value), waits)| Kind::Claim {
            latch,
            session,
            owner: owner.into(),
            mode,
            value,
            waits,
        },
    );
    prop_oneof![
        12 => claim,
        3 => (latch(), pick_one(), pick(), any::<bool>()).prop_map(
            |(latch, claim, asked, even_won)| Kind::Withdraw { latch, claim, asked, even_won }
        ),
        4 => (latch(), pick(), pick(), prop_oneof![3 => Just(None), 1 => request()]).prop_map(
            |(latch, token, by, request)| Kind::ReleaseLatch { latch, token, by, request }
        ),
        1 => (latch(), pick()).prop_map(|(latch, token)| Kind::BreakLatch { latch, token }),
        1 => Just(Kind::Open { request: None }),
        1 => vec((pick_one(), prop::bool::weighted(0.2)), 1..3)
            .prop_map(|sessions| Kind::Expire { sessions, term_moved: false }),
    ]
}

/// Two locks, and an election that is named like one of them.
fn latch() -> impl Strategy<Value = LatchKey> {
    use LatchKind::{Election, Lock};
    select(vec![(Lock, "pay"), (Lock, " "), (Election, "pay")])
        .prop_map(|(kind, name)| LatchKey::new(kind, name.parse().expect("a name")))
}

fn pick_one() -> impl Strategy<Value = Pick> {
    prop_oneof![12 => any::<u8>().prop_map(Pick::Right), 1 => Just(Pick::Wrong)]
}

fn ring_less() -> impl Strategy<Value = Kind> {
    (app(), condition_pick(), any::<bool>()).prop_map(|(app, condition, delete)| match delete {
        true => Kind::DeleteRing { app, condition },
        false => Kind::CompactRing { app, condition },
    })
}

fn item() -> impl Strategy<Value = Item> {
    let ttl_ms = prop::option::weighted(0.3, select(vec![500, 5_000, 10_000]));
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.8));
    prop_oneof![
        3 => (key(), pick(), ttl_ms, flags, condition_pick()).prop_map(
            |(key, session, ttl_ms, (takeover, create_app), condition)| {
                Item::Register { key, session, ttl_ms, takeover, create_app, condition }
            }
        ),
        1 => (key(), pick(), condition_pick()).prop_map(|(key, incarnation, condition)| {
            Item::Deregister { key, incarnation, condition }
        }),
    ]
}

fn policy() -> impl Strategy<Value = AppPolicy> {
    let ms = || prop::option::of(select(vec![1_000, 8_000, 20_000]));
    (ms(), ms(), ms(), ms()).prop_map(|(ttl_ms, ttl_min_ms, ttl_max_ms, empty)| AppPolicy {
        kind: 0,
        ttl_ms,
        ttl_min_ms,
        ttl_max_ms,
        remove_when_empty_after_ms: empty,
    })
}

fn request() -> impl Strategy<Value = Option<Request>> {
    let request = (select(vec!["K", "L"]), 0..2_u64, 0..2_u32).prop_map(|(key, body, part)| {
        Request { key: key.parse().expect("a key"), digest: (body, body), part }
    });
    prop::option::of(request)
}

fn set() -> impl Strategy<Value = ShardSetName> {
    select(SETS.to_vec()).prop_map(|name| name.parse().expect("a name"))
}

fn config() -> impl Strategy<Value = ShardSetConfig> {
    let covered = vec![vec!["pay"], vec!["pay/eu"], vec!["pay", "pay/eu"]];
    let covered =
        select(covered).prop_map(|names| Covered::Apps(names.into_iter().map(app_name).collect()));
    let apps = prop_oneof![1 => Just(Covered::All), 1 => covered];
    let scaling = prop::option::of((1..3_u32, 0..3_u32, 1..4_u32, select(vec![0, 5_000, 30_000])));
    let scaling = scaling.prop_map(|policy| {
        let (shards_per_worker, min, max, cooldown_ms) = policy?;
        Some(ScalingPolicy { shards_per_worker, min, max, cooldown_ms })
    });
    (app(), apps, 1..3_u8, scaling).prop_map(|(workers, apps, copies, scaling)| ShardSetConfig {
        workers,
        apps,
        copies,
        scaling,
    })
}

fn app() -> impl Strategy<Value = AppName> {
    select(APPS.to_vec()).prop_map(app_name)
}

fn app_name(name: &str) -> AppName {
    name.parse().expect("a name")
}

fn id(id: &str) -> InstanceId {
    id.parse().expect("an id")
}

fn key() -> impl Strategy<Value = InstanceKey> {
    let id = select(IDS.to_vec()).prop_map(id);
    (app(), id).prop_map(|(app, id)| InstanceKey::new(app, id))
}

fn document_name() -> impl Strategy<Value = DocumentName> {
    select(vec![" ", "flow"]).prop_map(|name| name.parse().expect("a name"))
}

fn pick() -> impl Strategy<Value = Pick> {
    prop_oneof![4 => Just(Pick::None), 4 => any::<u8>().prop_map(Pick::Right), 1 => Just(Pick::Wrong)]
}

fn condition_pick() -> impl Strategy<Value = Pick> {
    prop_oneof![8 => Just(Pick::None), 1 => Just(Pick::Right(0)), 1 => Just(Pick::Wrong)]
}

/// Bytes of no meaning, and those of a command with a byte changed or an end cut off.
pub fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let damaged =
        (acts(2), any::<u16>(), any::<u8>(), any::<bool>()).prop_map(|(acts, at, byte, cut)| {
            let mut world = World::default();
            let command = acts.first().map_or(Command::Tick, |act| world.step(act).command);
            let encoded = EncodedCommand::new(&command).expect("small");
            let wrapped = rmp_serde::to_vec(&encoded).expect("encodes");
            let bytes: serde_bytes::ByteBuf = rmp_serde::from_slice(&wrapped).expect("bytes");
            let mut bytes = bytes.into_vec();
            let at = usize::from(at) % bytes.len();
            bytes[at] = byte;
            if cut {
                bytes.truncate(at);
            }
            bytes
        });
    prop_oneof![vec(any::<u8>(), 0..200), damaged]
}
