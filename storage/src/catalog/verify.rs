//! Holds all that is derived (indexes, counts, the state hash) against the records.

use std::collections::BTreeSet;

use imbl::OrdSet;

use super::rings::held;
use super::store::{empty_app_due, pace_due, scaling_due};
use super::{App, Catalog, Due, Inconsistent, Session, ShardSet, recomputed_hash};
use crate::limits::RING_SLOTS_MAX;
use crate::names::{AppName, InstanceKey, SessionId, ShardId, ShardSetName};
use crate::ring::Ring;

impl Catalog {
    /// Whether all that is derived belongs to the records, and the records to each other. Walks
    /// the whole state: for tests.
    pub fn verify(&self) -> Result<(), Inconsistent> {
        self.verify_records()?;
        self.verify_instances()?;
        check(self.state_hash() == recomputed_hash(self.records()), || {
            "the state hash is not that of the records".into()
        })
    }

    /// Whether the records belong to each other, for a catalogue that was just built of them: the
    /// builder counted each in the state hash, and noted each instance under its session.
    pub(crate) fn verify_records(&self) -> Result<(), Inconsistent> {
        self.verify_sessions()?;
        self.verify_apps()?;
        self.shard_sets.iter().try_for_each(|(name, set)| self.verify_shard_set(name, set))?;
        self.verify_latches()?;
        self.verify_brakes()?;
        let kept_bytes: u64 = self.kept.values().map(|kept| kept.bytes).sum();
        check(self.kept_bytes == kept_bytes, || format!("kept answers have {kept_bytes} bytes"))?;
        check(self.due == self.recomputed_due(), || "what ends by itself is misplaced".into())
    }

    /// One walk over the sessions and what hangs off them, all in the order of sessions.
    fn verify_sessions(&self) -> Result<(), Inconsistent> {
        let mut held = self.held.keys().map(|(session, _)| *session).peekable();
        let mut claims = self.claims.keys().map(|(by, _)| by.session).peekable();
        for (id, session) in self.sessions() {
            let held = std::iter::from_fn(|| held.next_if_eq(&id)).count()
                + usize::from(session.instance().is_some());
            let claims = std::iter::from_fn(|| claims.next_if_eq(&id)).count();
            self.verify_session(id, session, (held + claims) as u64)?;
        }
        let stray = held.next().or(claims.next());
        check(stray.is_none(), || format!("something hangs off {stray:?}, which is no session"))
    }

    fn verify_session(
        &self,
        id: SessionId,
        session: &Session,
        held: u64,
    ) -> Result<(), Inconsistent> {
        let whole = u64::from(session.things) == held && (!session.is_private() || held == 1);
        check(whole, || format!("session {id} holds {held} things: {session:?}"))?;
        check(id.0 <= self.clock.last_session, || format!("session {id} was never counted"))
    }

    fn verify_apps(&self) -> Result<(), Inconsistent> {
        let mut live = 0;
        for (name, app) in &self.apps {
            let known_empty = app.record.empty_since_ms.is_some();
            check(app.instances.is_empty() == known_empty, || {
                format!("app {name} is wrong about being empty")
            })?;
            verify_documents(name, app)?;
            app.ring.as_ref().map_or(Ok(()), |ring| self.verify_ring(name, app, ring))?;
            let sets = self.shard_sets.values();
            let works_for = sets.filter(|set| set.record.config.workers == *name).count();
            check(app.works_for as usize == works_for, || {
                format!("app {name} works for {works_for} sets, not {}", app.works_for)
            })?;
            live += app.instances.len();
        }
        // Sessions hold as many things as they count, so equal sums leave no stray entry.
        let things: u64 = self.sessions.values().map(|session| u64::from(session.things)).sum();
        let held = things.saturating_sub(self.claims.len() as u64);
        let counts = [self.instances, held];
        check(counts == [live as u64; 2], || format!("{live} instances counted as {counts:?}"))?;
        let stray = self.overrides.keys().find(|key| !self.apps.contains_key(&key.app));
        check(stray.is_none(), || format!("an override without its app: {stray:?}"))
    }

    fn verify_instances(&self) -> Result<(), Inconsistent> {
        for (name, app) in &self.apps {
            for (id, instance) in &app.instances {
                let key = InstanceKey::new(name.clone(), id.clone());
                let private = self.instance_of(instance.session).is_some_and(|only| only == key);
                check(private || self.held.contains_key(&(instance.session, key)), || {
                    format!("{name}/{id} does not hang off its session {}", instance.session)
                })?;
            }
        }
        Ok(())
    }

    /// Who is up is on the ring with its weight, unless there is no room for it.
    fn verify_ring(&self, name: &AppName, app: &App, ring: &Ring) -> Result<(), Inconsistent> {
        check(ring.fingerprint() == ring.recomputed_fingerprint(), || {
            format!("the ring of {name} has the wrong fingerprint")
        })?;
        let up = app.instances.iter().filter(|(id, _)| {
            self.state_of(&InstanceKey::new(name.clone(), (*id).clone())).takes_part()
        });
        let mut on_ring = 0;
        for (id, instance) in up {
            let weight = ring.weight_of(id);
            on_ring += usize::from(weight.is_some());
            let wanted = instance.profile.weight();
            let more = wanted.saturating_sub(weight.unwrap_or(0));
            let full = held(ring) + usize::from(more) > RING_SLOTS_MAX;
            check(weight == Some(wanted) || full, || {
                format!("{name}/{id} has weight {weight:?} on the ring")
            })?;
        }
        check(ring.len() == on_ring, || {
            format!("the ring of {name} has {} workers, {on_ring} of them are up", ring.len())
        })
    }

    /// Its workers are the live instances of their app; its shards those of the apps that it covers,
    /// and gone ones that are held still.
    fn verify_shard_set(&self, name: &ShardSetName, set: &ShardSet) -> Result<(), Inconsistent> {
        let (record, group) = (&set.record, &set.group);
        group.verify().map_err(|why| Inconsistent(format!("shard set {name}: {why}")))?;
        check(group.epoch() == record.epoch, || {
            format!("shard set {name} has epoch {}, not {}", group.epoch(), record.epoch)
        })?;
        check(self.apps.contains_key(&record.config.workers), || {
            format!("shard set {name} has no workers' app {}", record.config.workers)
        })?;
        let workers = self.group_of(record);
        check(workers.workers().eq(group.workers()), || {
            format!("shard set {name} has other workers than its app has instances")
        })?;
        let live: BTreeSet<_> = self
            .apps
            .iter()
            .filter(|(app, _)| record.config.covers(app))
            .flat_map(|(app, known)| {
                known.instances.keys().map(|id| InstanceKey::new(app.clone(), id.clone()))
            })
            .map(|key| ShardId::from(&key))
            .collect();
        let shards: BTreeSet<_> =
            group.shards().filter(|(_, shard)| !shard.gone).map(|(id, _)| id.clone()).collect();
        check(shards == live, || format!("shard set {name} has {} shards", shards.len()))
    }

    /// Each claim hangs off a session, and nobody claims a latch twice.
    fn verify_latches(&self) -> Result<(), Inconsistent> {
        let mut claims = 0;
        for (key, latch) in &self.latches {
            check(!latch.is_empty(), || format!("{key} is there without anybody"))?;
            latch.verify().map_err(|why| Inconsistent(format!("{key}: {why}")))?;
            claims += latch.len();
            for claim in latch.claims() {
                check(self.claim_of(&claim.by, key) == Some(claim), || {
                    format!("{key} has {claim:?}, known as {:?}", self.claim_of(&claim.by, key))
                })?;
                check(self.sessions.contains_key(&claim.by.session), || {
                    format!("{key} has a claim of no session: {claim:?}")
                })?;
                check(claim.since.max(claim.token.unwrap_or_default()) <= latch.revision, || {
                    format!("{key} missed a change: {claim:?}")
                })?;
            }
        }
        check(self.claims.len() == claims, || format!("{claims} claims are counted wrongly"))
    }

    fn verify_brakes(&self) -> Result<(), Inconsistent> {
        let suspects: OrdSet<_> =
            self.sessions().filter(|(_, session)| session.suspect).map(|(id, _)| id).collect();
        check(self.suspects == suspects, || format!("{} sessions are suspect", suspects.len()))?;
        for (name, app) in &self.apps {
            let count = app.instances.values().filter(|live| suspects.contains(&live.session));
            let count = count.count() as u64;
            check(app.suspects == count, || {
                format!("app {name} has {count} suspects, not {}", app.suspects)
            })?;
        }
        let scopes = self.brakes.keys().chain(self.brake_overrides.keys());
        let stray = scopes.into_iter().find(|scope| !self.has_scope(scope));
        check(stray.is_none(), || format!("a brake without its app: {stray:?}"))
    }

    fn recomputed_due(&self) -> OrdSet<(u64, Due)> {
        let kept = self
            .kept
            .iter()
            .map(|((key, part), kept)| (kept.until_ms, Due::Kept(key.clone(), *part)));
        let overrides = self
            .overrides
            .iter()
            .filter_map(|(key, word)| Some((word.expires_at_ms?, Due::Override(key.clone()))));
        let apps = self
            .apps
            .iter()
            .filter_map(|(name, app)| Some((empty_app_due(app)?, name.clone())))
            .map(|(when, name)| (when, Due::EmptyApp(name)));
        let scaling = self.shard_sets.iter().filter_map(|(name, set)| {
            Some((scaling_due(&set.record)?, Due::Scaling(name.clone())))
        });
        let words = self.brake_overrides.iter().filter_map(|(scope, word)| {
            Some((word.expires_at_ms?, Due::BrakeOverride(scope.clone())))
        });
        let pace = pace_due(&self.clock).map(|when| (when, Due::Pace));
        kept.chain(overrides).chain(apps).chain(scaling).chain(words).chain(pace).collect()
    }
}

fn verify_documents(name: &AppName, app: &App) -> Result<(), Inconsistent> {
    let bytes: u64 = app.documents.values().map(|document| document.counted()).sum();
    check(app.document_bytes == bytes, || format!("documents of {name} count {bytes} bytes"))?;
    let newest = app.documents.values().map(|document| document.revision).max();
    check(newest.unwrap_or_default() <= app.record.documents_changed, || {
        format!("app {name} missed a change of its documents")
    })
}

fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Inconsistent> {
    if holds { Ok(()) } else { Err(Inconsistent(otherwise())) }
}
