//! Renews what heartbeats name, once the leadership was confirmed after they came in.
//!
//! Who is named is found in the fastest way that is certain: a body as it was read before
//! ([`crate::leases::bodies`]), a name ([`crate::leases::named`]), and what neither knows in the
//! catalogue, which decides whom there is and what is refused.

use std::sync::Arc;

use roster_api::beats::{Batch, BeatsBody, BodyAnswer, InstanceBeat, Summary};
use roster_api::registry::{Beat, BeatRefused, BeatTarget, Renewed};
use roster_storage::names::{AppName, Incarnation, NodeId, Revision, SessionId};
use roster_storage::version::Version;

use crate::leases::bodies::{Digest, Found};
use crate::leases::{LeaseTable, Leases, NotRenewed, Place, RenewedByName};

/// Beats that came in together, once the leadership was confirmed after they did.
pub struct Round<'a> {
    pub leases: &'a Leases,
    pub table: Arc<LeaseTable>,
    pub version: Arc<Version>,
    /// The node at which they came in.
    pub via: NodeId,
    /// Of the lease clock, in milliseconds.
    pub now: u64,
}

impl Round<'_> {
    pub fn renew_all(&self, beats: &[Beat]) -> Vec<Result<Renewed, BeatRefused>> {
        self.leases.count_heartbeats(beats.len() as u64);
        beats.iter().map(|beat| self.renew(beat)).collect()
    }

    /// Counts no heartbeat: whoever renews many counts them at once.
    pub fn renew(&self, beat: &Beat) -> Result<Renewed, BeatRefused> {
        let (session, ttl_ms) = match &beat.target {
            BeatTarget::Session(session) => (*session, self.renew_session(*session, beat.mark)?),
            BeatTarget::Instance { key, incarnation } => {
                let name = (key.app.as_str(), key.id.as_str());
                let renewed = self.renew_named(name, *incarnation, beat.mark)?;
                (renewed.session, renewed.ttl_ms)
            }
        };
        Ok(Renewed { session, ttl_ms, settled: self.adopt(beat, session) })
    }

    /// Renews what a live instance is on; with an incarnation, only if that one lives. The TTL is as the
    /// client is told it; there is a place where one is known already.
    fn renew_named(
        &self,
        (app, id): (&str, &str),
        incarnation: Option<Incarnation>,
        mark: Option<i64>,
    ) -> Result<RenewedByName, BeatRefused> {
        let Self { table, version, via, now, .. } = self;
        // The table may know of one that is not in this version yet.
        let is_there =
            |found: &RenewedByName| found.session.0 <= version.catalog.clock().last_session;
        if self.is_told()
            && let Some(found) = table.renew_named((app, id), incarnation, mark, *via, *now)
            && is_there(&found)
        {
            return Ok(RenewedByName { ttl_ms: self.leases.told(found.ttl_ms), ..found });
        }
        let session = self.session_of(app, id, incarnation)?;
        let ttl_ms = self.renew_session(session, mark)?;
        incarnation.inspect(|life| table.lives_as((app, id), session, *life));
        Ok(RenewedByName { session, ttl_ms, place: None })
    }

    fn adopt(&self, beat: &Beat, session: SessionId) -> Vec<(AppName, Revision)> {
        if beat.adopted.is_empty() {
            return Vec::new();
        }
        self.leases.adopt(&self.version.catalog, beat, session)
    }

    /// Renews all whom a body names, and makes the answer to it.
    pub fn renew_body(&self, body: &BeatsBody) -> BodyAnswer {
        let digest = self.table.bodies.digest(body);
        let as_before = digest.filter(|_| self.is_told());
        if let Some(summary) = as_before.and_then(|digest| self.renew_remembered(digest)) {
            return BodyAnswer::Renewed(summary.write(body.encoding));
        }
        let Some(batch) = Batch::read(body) else { return BodyAnswer::NotRead };
        self.leases.count_heartbeats(batch.len() as u64);
        let mut reading = Reading::new(digest.map(|_| batch.len()));
        for session in batch.sessions() {
            match self.renew_session(session, None) {
                Ok(ttl_ms) => {
                    reading.summary.renewed(ttl_ms);
                    reading.found(self.table.place(session));
                }
                Err(why) => {
                    reading.summary.session_failed(session, why);
                    reading.found(None);
                }
            }
        }
        for beat in batch.instances() {
            self.renew_instance(beat, &mut reading);
        }
        if let (Some(digest), Some(places)) = (digest, reading.places) {
            let found = Found { revision: self.version.revision(), places: places.into() };
            self.table.bodies.remember(digest, found);
        }
        BodyAnswer::Renewed(reading.summary.write(body.encoding))
    }

    /// Renews all that a body named when it was read; `None` if it was not, or if any of them has to be
    /// looked up again. Then some are renewed twice, which is as good as once.
    fn renew_remembered(&self, digest: Digest) -> Option<Summary> {
        let bodies = &self.table.bodies;
        let found = bodies.find(digest)?;
        let renewed = self.renew_found(&found);
        if renewed.is_none() {
            bodies.forget(digest);
        }
        renewed
    }

    fn renew_found(&self, found: &Found) -> Option<Summary> {
        let mut summary = Summary::default();
        for place in &found.places {
            let ttl_ms = self.table.renew_at(*place, found.revision, self.via, self.now)?;
            summary.renewed(self.leases.told(ttl_ms));
        }
        self.leases.count_heartbeats(found.places.len() as u64);
        Some(summary)
    }

    fn renew_instance(&self, beat: &InstanceBeat<'_>, reading: &mut Reading) {
        match self.renew_named((&beat.app, &beat.id), beat.incarnation, None) {
            Ok(RenewedByName { session, ttl_ms, place }) => {
                reading.summary.renewed(ttl_ms);
                reading.summary.settled(self.adopt_own(beat, session));
                if reading.places.is_some() {
                    let place = place.or_else(|| self.place_of_private(session));
                    reading.found(place.filter(|_| beat.adopted.is_none()));
                }
            }
            Err(why) => {
                reading.summary.instance_failed(&beat.app, &beat.id, why);
                reading.found(None);
            }
        }
    }

    /// Where the lease stands of a session that ends with the one instance that is on it.
    fn place_of_private(&self, session: SessionId) -> Option<Place> {
        let known = self.version.catalog.session(session)?;
        known.is_private().then(|| self.table.place(session)).flatten()
    }

    /// Takes up what an instance of a body tells of its own app's ring.
    fn adopt_own(&self, beat: &InstanceBeat<'_>, session: SessionId) -> Vec<(AppName, Revision)> {
        let (Some(epoch), Some(key)) = (beat.adopted, beat.key()) else { return Vec::new() };
        let adopted = vec![(key.app.clone(), epoch)];
        let target = BeatTarget::Instance { key, incarnation: beat.incarnation };
        self.adopt(&Beat { adopted, ..Beat::of(target) }, session)
    }

    /// The session of a live instance; with an incarnation, only if that one lives.
    fn session_of(
        &self,
        app: &str,
        id: &str,
        incarnation: Option<Incarnation>,
    ) -> Result<SessionId, BeatRefused> {
        let known = self.version.catalog.app_named(app);
        let known = known.ok_or_else(|| BeatRefused::UnknownApp(app.to_owned()))?;
        let live = known.instances.get(id).ok_or(BeatRefused::UnknownInstance)?;
        if incarnation.is_some_and(|wanted| wanted != live.incarnation) {
            return Err(BeatRefused::StaleIncarnation { current: live.incarnation });
        }
        Ok(live.session)
    }

    /// Whether the table was told of all that the version holds, which apply publishes first. Else somebody
    /// may be gone from it whose lease is still there.
    fn is_told(&self) -> bool {
        self.table.knows(self.version.revision())
    }

    /// Returns the TTL as the client is told it.
    fn renew_session(&self, session: SessionId, mark: Option<i64>) -> Result<u64, BeatRefused> {
        let Self { table, version, via, now, .. } = self;
        if !self.is_told() && version.catalog.session(session).is_none() {
            return Err(BeatRefused::UnknownSession(session));
        }
        let mut renewed = table.renew(session, mark, *via, *now);
        if renewed == Err(NotRenewed::Unknown) {
            let Some(known) = version.catalog.session(session) else {
                return Err(BeatRefused::UnknownSession(session));
            };
            // A new leader's table is still being filled. Else apply has published the session and
            // is about to make its lease.
            if table.fill(session, known.ttl_ms(), known.touched) {
                renewed = table.renew(session, mark, *via, *now);
            }
        }
        match renewed {
            Ok(ttl_ms) => Ok(self.leases.told(ttl_ms)),
            Err(NotRenewed::Ending | NotRenewed::Unknown) => Err(BeatRefused::Ending),
        }
    }
}

/// A body that is being read.
struct Reading {
    summary: Summary,
    /// Where those are found again that were renewed so far; `None` once somebody cannot be, and where
    /// nobody asks.
    places: Option<Vec<Place>>,
}

impl Reading {
    /// `remember`: how many are to be found again, if the body is worth it.
    fn new(remember: Option<usize>) -> Self {
        Self { summary: Summary::default(), places: remember.map(Vec::with_capacity) }
    }

    fn found(&mut self, place: Option<Place>) {
        match (&mut self.places, place) {
            (Some(places), Some(place)) => places.push(place),
            (places, _) => *places = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use roster_api::beats::Encoding;
    use roster_storage::catalog::{At, Catalog};
    use roster_storage::command::{
        CloseSession, Command, Condition, Deregister, OpenSession, Profile, Refusal, Register,
        Stamp,
    };
    use roster_storage::events::Change;
    use roster_storage::names::InstanceKey;
    use roster_storage::raft_types::LogId;
    use roster_storage::version::{Observer, Published};
    use serde_json::{Value, json};

    use super::*;
    use crate::leases::{PARTS, fill};

    /// In a body that is worth remembering.
    const BEATS: usize = 32;

    #[test]
    fn a_session_that_is_published_and_has_no_lease_yet_is_not_told_to_be_unknown() {
        let mut catalog = Catalog::default();
        let at = At { revision: Revision(1), term: 1, stamp: Stamp { cluster_ms: 0, wall_ms: 0 } };
        catalog.apply(at, &open_named());
        let table = Arc::new(LeaseTable::new(1));
        let beat = |session| Beat::of(BeatTarget::Session(session));
        let (published, none) = (SessionId(1), SessionId(2));
        let version = Arc::new(Version { catalog, ..Version::default() });
        let leases = Leases::new();
        let round = Round { leases: &leases, table: table.clone(), version, via: 1, now: 0 };
        let renewed = |session| round.renew(&beat(session));
        assert_eq!(renewed(published), Err(BeatRefused::Ending));
        assert_eq!(renewed(none), Err(BeatRefused::UnknownSession(none)));
        table.touch(published, 1_000, Revision(1), 0);
        assert_eq!(
            renewed(published),
            Ok(Renewed { session: published, ttl_ms: 1_000, settled: Vec::new() })
        );
    }

    /// A leader's catalogue with its leases, as apply feeds both.
    struct Leader {
        catalog: Catalog,
        revision: u64,
        leases: Leases,
        table: Arc<LeaseTable>,
    }

    impl Leader {
        fn new() -> Self {
            let leases = Leases::new();
            let (table, _) = leases.begin_table(1, &Published::default(), 0);
            table.opened();
            Self { catalog: Catalog::default(), revision: 0, leases, table }
        }

        fn apply(&mut self, command: &Command) {
            let change = self.publish(command).expect("not refused");
            self.tell(change);
        }

        /// What apply does first; then it tells the leases of the change.
        fn publish(&mut self, command: &Command) -> Result<Change, Refusal> {
            self.revision += 1;
            let stamp = Stamp { cluster_ms: 0, wall_ms: 0 };
            let at = At { revision: Revision(self.revision), term: 1, stamp };
            let (outcome, events) = self.catalog.apply(at, command);
            outcome.result.map(|_| Change::new(at, events))
        }

        fn tell(&self, change: Change) {
            Observer::applied(&self.leases, &self.version(), &[Arc::new(change)]);
        }

        fn round(&self, now: u64) -> Round<'_> {
            let (table, version) = (self.table.clone(), self.version());
            Round { leases: &self.leases, table, version, via: 1, now }
        }

        fn version(&self) -> Arc<Version> {
            let applied = Some(LogId::new_term_index(1, self.revision));
            Arc::new(Version { catalog: self.catalog.clone(), applied, ..Version::default() })
        }

        fn register(&mut self, id: &str, session: Option<SessionId>) {
            self.apply(&register(id, session, false));
        }

        fn deregister(&mut self, id: &str) {
            self.apply(&deregister(id));
        }

        /// What is answered, and whether the body was read for it.
        fn beat(&self, body: &BeatsBody, now: u64) -> (Value, bool) {
            let bodies = &self.table.bodies;
            let digest = bodies.digest(body).expect("it is long enough");
            let before = bodies.find(digest);
            let answer = self.round(now).renew_body(body);
            let BodyAnswer::Renewed(answer) = answer else { panic!("not read") };
            let after = bodies.find(digest);
            let same =
                before.zip(after).is_some_and(|(before, after)| Arc::ptr_eq(&before, &after));
            (serde_json::from_slice(&answer).expect("JSON"), !same)
        }

        fn heard(&self, id: &str) -> u64 {
            let session = self.catalog.instance(&key(id)).expect("it lives").session;
            1_000 - self.table.last_heard(session, 1_000).expect("it has a lease").ago_ms
        }
    }

    fn register(id: &str, session: Option<SessionId>, takeover: bool) -> Command {
        Command::Register(Register {
            key: key(id),
            profile: Profile::default().into(),
            session,
            ttl_ms: None,
            takeover,
            create_app: Some(0),
            condition: Condition::Any,
        })
    }

    fn open_named() -> Command {
        Command::OpenSession(OpenSession { ttl_ms: None, name: "s".into(), request: None })
    }

    fn deregister(id: &str) -> Command {
        Command::Deregister(Deregister {
            key: key(id),
            incarnation: None,
            by_operator: false,
            condition: Condition::Any,
            reason: Default::default(),
        })
    }

    fn key(id: &str) -> InstanceKey {
        InstanceKey::new("pay".parse().expect("a name"), id.parse().expect("an id"))
    }

    fn body_of(ids: impl Iterator<Item = String>) -> BeatsBody {
        let instances: Vec<_> = ids.map(|id| json!({"app": "pay", "id": id})).collect();
        let bytes = json!({ "instances": instances }).to_string().into();
        BeatsBody { encoding: Encoding::Json, bytes }
    }

    fn ids() -> impl Iterator<Item = String> {
        (0..BEATS).map(|number| format!("i{number}"))
    }

    /// Everybody is registered, on sessions of their own, and is in the body.
    fn with_all() -> (Leader, BeatsBody) {
        let mut leader = Leader::new();
        ids().for_each(|id| leader.register(&id, None));
        (leader, body_of(ids()))
    }

    #[test]
    fn a_body_that_comes_again_renews_the_same_without_being_read() {
        let (leader, body) = with_all();
        let (first, read) = leader.beat(&body, 100);
        assert!(read);
        assert_eq!(first["renewed"], BEATS);
        let (again, read) = leader.beat(&body, 200);
        assert_eq!((again, read), (first, false));
        ids().for_each(|id| assert_eq!(leader.heard(&id), 200, "{id}"));
    }

    #[test]
    fn a_remembered_body_renews_nobody_who_is_gone_and_nobody_who_came_in_its_place() {
        let (mut leader, body) = with_all();
        leader.beat(&body, 100);
        leader.deregister("i3");
        let (answer, _) = leader.beat(&body, 200);
        assert_eq!(answer["failed"][0]["id"], "i3", "{answer}");
        assert_eq!(answer["renewed"], BEATS - 1);

        leader.register("i3", None);
        leader.beat(&body, 300);
        leader.deregister("i3");
        // One of their leases comes to where its stood: there is one for every part of the table.
        let others = PARTS as usize;
        (0..others).for_each(|number| leader.register(&format!("other{number}"), None));
        let (answer, _) = leader.beat(&body, 400);
        assert_eq!(answer["renewed"], BEATS - 1, "{answer}");
        (0..others).for_each(|number| assert!(leader.heard(&format!("other{number}")) < 400));
    }

    /// Old sessions come to places that others had just left, until all are filled in.
    #[test]
    fn no_body_is_remembered_while_the_table_is_filled() {
        let mut leader = Leader::new();
        leader.leases = Leases::new();
        leader.table = leader.leases.begin_table(1, &Published::default(), 0).0;
        ids().for_each(|id| leader.register(&id, None));
        let body = body_of(ids());
        assert_eq!((leader.beat(&body, 100).1, leader.beat(&body, 200).1), (true, true));
        leader.table.opened();
        assert_eq!((leader.beat(&body, 300).1, leader.beat(&body, 400).1), (true, false));
    }

    #[test]
    fn an_instance_that_moves_to_another_session_takes_its_heartbeats_there() {
        let (mut leader, body) = with_all();
        leader.beat(&body, 100);
        leader.apply(&open_named());
        let session = SessionId(BEATS as u64 + 1);
        leader.register("i3", Some(session));
        let (answer, read) = leader.beat(&body, 200);
        assert_eq!((answer["renewed"].as_u64(), read), (Some(BEATS as u64), true));
        assert_eq!(leader.heard("i3"), 200);
        // It can leave the session behind, which no lease would tell of.
        leader.deregister("i3");
        let (answer, _) = leader.beat(&body, 300);
        assert_eq!(answer["failed"][0]["id"], "i3", "{answer}");
        assert_eq!(answer["renewed"], BEATS - 1);
    }

    #[test]
    fn whoever_is_gone_is_not_renewed_though_the_leases_are_not_told_of_it_yet() {
        let (mut leader, body) = with_all();
        leader.beat(&body, 100);
        assert!(!leader.beat(&body, 200).1, "it is remembered");
        let gone = leader.publish(&deregister("i3")).expect("it lives");
        let (answer, _) = leader.beat(&body, 300);
        assert_eq!(answer["failed"][0]["id"], "i3", "{answer}");
        leader.tell(gone);

        leader.apply(&open_named());
        let session = SessionId(BEATS as u64 + 1);
        let beat = Beat::of(BeatTarget::Session(session));
        assert!(leader.round(400).renew(&beat).is_ok());
        let gone = leader.publish(&Command::CloseSession(CloseSession { session }));
        let renewed = leader.round(500).renew(&beat);
        assert_eq!(renewed, Err(BeatRefused::UnknownSession(session)));
        leader.tell(gone.expect("it is there"));
        assert_eq!(leader.round(600).renew(&beat), renewed);
    }

    /// Else the way through the catalogue would hide that nobody takes the other one.
    #[test]
    fn an_instance_on_a_private_session_is_found_by_its_name() {
        let mut leader = Leader::new();
        leader.register("a", None);
        leader.apply(&open_named());
        leader.register("b", Some(SessionId(2)));
        let live = leader.catalog.instance(&key("a")).expect("it lives").clone();
        let found = |leader: &Leader, id, life| {
            let found = leader.table.renew_named(("pay", id), life, None, 1, 0);
            found.map(|found| found.session)
        };
        assert_eq!(found(&leader, "a", None), Some(live.session));
        assert_eq!(found(&leader, "a", Some(live.incarnation)), Some(live.session));
        assert_eq!(found(&leader, "b", None), None, "its session may outlive it");
        // A new leader learns of its life by its first beat.
        leader.leases = Leases::new();
        leader.table = leader.leases.begin_table(1, &Published::default(), 0).0;
        fill(&leader.table, leader.catalog.sessions());
        leader.table.opened();
        leader.table.told_up_to(leader.version().revision());
        assert_eq!(found(&leader, "a", None), Some(live.session));
        assert_eq!(found(&leader, "a", Some(live.incarnation)), None);
        let (key, incarnation) = (key("a"), Some(live.incarnation));
        let beat = Beat::of(BeatTarget::Instance { key, incarnation });
        assert!(leader.round(10).renew(&beat).is_ok());
        assert_eq!(found(&leader, "a", incarnation), Some(live.session));
        // After an update the lease cannot vouch for it.
        leader.register("a", None);
        assert!(leader.round(20).renew(&beat).is_ok());
        assert_eq!(found(&leader, "a", None), Some(live.session));
        assert_eq!(found(&leader, "a", incarnation), None);
    }

    const NAMES: [&str; 3] = ["a", "b", "c"];

    /// As which life of an instance a beat names it.
    #[derive(Clone, Copy, Debug)]
    enum Life {
        Any,
        Live,
        /// A mistaken one: the revision of its last update.
        LastUpdate,
        At(u64),
    }

    #[derive(Clone, Debug)]
    enum Act {
        /// Of the instance with this number, on a session of its own or the named one that was opened last.
        Register {
            name: usize,
            on_named: bool,
            takeover: bool,
        },
        Deregister(usize),
        OpenNamed,
        CloseNamed,
        Beat {
            name: usize,
            life: Life,
        },
        /// The next leadership, whose table has none of the sessions yet.
        Lead,
        /// So many sessions come into the table; it is open when that is all of them.
        Fill(usize),
    }

    fn act() -> impl Strategy<Value = Act> {
        let name = || 0..NAMES.len();
        let write = (name(), any::<bool>(), any::<bool>());
        let life = prop_oneof![
            Just(Life::Any),
            Just(Life::Live),
            Just(Life::LastUpdate),
            (0..40_u64).prop_map(Life::At),
        ];
        prop_oneof![
            4 => write.prop_map(|(name, on_named, takeover)| Act::Register { name, on_named, takeover }),
            2 => name().prop_map(Act::Deregister),
            1 => Just(Act::OpenNamed),
            1 => Just(Act::CloseNamed),
            8 => (name(), life).prop_map(|(name, life)| Act::Beat { name, life }),
            1 => Just(Act::Lead),
            1 => (1..4_usize).prop_map(Act::Fill),
        ]
    }

    impl Leader {
        /// Whom a beat renews, and what it is refused for, as the catalogue has it.
        fn expected(
            &self,
            name: usize,
            life: Option<Incarnation>,
        ) -> Result<SessionId, BeatRefused> {
            let known = self.catalog.app_named("pay");
            let known = known.ok_or_else(|| BeatRefused::UnknownApp("pay".into()))?;
            let live = known.instances.get(NAMES[name]).ok_or(BeatRefused::UnknownInstance)?;
            match life {
                Some(life) if life != live.incarnation => {
                    Err(BeatRefused::StaleIncarnation { current: live.incarnation })
                }
                Some(_) | None => Ok(live.session),
            }
        }

        /// When every session of the catalogue was heard last; `None` without a lease.
        fn heard_all(&self, now: u64) -> Vec<(SessionId, Option<u64>)> {
            let heard = |id| Some(now - self.table.last_heard(id, now)?.ago_ms);
            self.catalog.sessions().map(|(id, _)| (id, heard(id))).collect()
        }

        /// Beats, singly and in a body, and looks whom that renewed. `told`: the leases know of all that is
        /// published. Else one that is may have no lease yet.
        fn beats_as_expected(
            &self,
            name: usize,
            life: Life,
            told: bool,
            now: u64,
        ) -> Result<(), TestCaseError> {
            let live = self.catalog.instance(&key(NAMES[name]));
            let life = match life {
                Life::Any => None,
                Life::Live => live.map(|live| live.incarnation),
                Life::LastUpdate => live.map(|live| Incarnation::from(live.revision)),
                Life::At(revision) => Some(Incarnation(revision)),
            };
            let mut expected = self.expected(name, life);
            let mut heard = self.heard_all(now);
            let target = BeatTarget::Instance { key: key(NAMES[name]), incarnation: life };
            let round = self.round(now);
            let renewed = round.renew(&Beat::of(target)).map(|renewed| renewed.session);
            if !told && expected.is_ok() && renewed == Err(BeatRefused::Ending) {
                expected = Err(BeatRefused::Ending);
            }
            prop_assert_eq!(&renewed, &expected);
            let named =
                json!({"app": "pay", "id": NAMES[name], "incarnation": life.map(|life| life.0)});
            let bytes = json!({ "instances": [named] }).to_string().into();
            let body = round.renew_body(&BeatsBody { encoding: Encoding::Json, bytes });
            let BodyAnswer::Renewed(answer) = body else { panic!("not read") };
            let answer: Value = serde_json::from_slice(&answer).expect("JSON");
            prop_assert_eq!(&answer["renewed"], u64::from(expected.is_ok()), "{}", answer);
            let renewed = heard.iter_mut().filter(|(id, _)| Ok(*id) == expected);
            renewed.for_each(|(_, heard)| *heard = Some(now));
            prop_assert_eq!(self.heard_all(now), heard);
            Ok(())
        }
    }

    proptest! {
        /// However whoever is named is found, it is whom the catalogue has under that name: also where
        /// apply has published a change of which the leases are not told yet, and while the table of a new
        /// leadership is filled.
        #[test]
        fn a_beat_renews_the_session_of_the_live_instance_and_no_other(
            acts in prop::collection::vec(act(), 1..60),
        ) {
            let mut leader = Leader::new();
            let (mut named, mut to_fill) = (None, Vec::new());
            // Far beyond what the leases' own clock comes to meanwhile.
            for (now, act) in (1..).map(|turn| turn * 1_000_000).zip(acts) {
                let command = match act {
                    Act::Register { name, on_named, takeover } => {
                        register(NAMES[name], named.filter(|_| on_named), takeover)
                    }
                    Act::Deregister(name) => deregister(NAMES[name]),
                    Act::OpenNamed => open_named(),
                    Act::CloseNamed => match named.take() {
                        Some(session) => Command::CloseSession(CloseSession { session }),
                        None => continue,
                    },
                    Act::Beat { name, life } => {
                        leader.beats_as_expected(name, life, true, now)?;
                        continue;
                    }
                    Act::Lead => {
                        leader.leases = Leases::new();
                        leader.table = leader.leases.begin_table(1, &Published::default(), 0).0;
                        leader.table.told_up_to(leader.version().revision());
                        let sessions = leader.catalog.sessions();
                        to_fill = sessions.map(|(id, known)| (id, known.clone())).collect();
                        continue;
                    }
                    Act::Fill(count) => {
                        let some = to_fill.drain(..count.min(to_fill.len()));
                        let some: Vec<_> = some.collect();
                        fill(&leader.table, some.iter().map(|(id, known)| (*id, known)));
                        if to_fill.is_empty() {
                            leader.table.opened();
                        }
                        continue;
                    }
                };
                let Ok(change) = leader.publish(&command) else { continue };
                if let Command::OpenSession(_) = command {
                    named = leader.catalog.sessions().map(|(id, _)| id).last();
                }
                for name in 0..NAMES.len() {
                    leader.beats_as_expected(name, Life::Any, false, now + name as u64)?;
                }
                leader.tell(change);
                if to_fill.is_empty() {
                    let own = leader.catalog.sessions().filter(|(_, known)| known.is_private());
                    prop_assert_eq!(leader.table.named_len(), own.count());
                }
            }
        }
    }
}
