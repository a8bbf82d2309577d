//! What holds of the catalogue for every sequence of commands. The sequences live in a small
//! universe, so that names, sessions and keys meet again and again; see `properties/acts.rs`.

#[path = "properties/acts.rs"]
mod acts;
#[path = "properties/at_the_limit.rs"]
mod at_the_limit;
#[path = "properties/latches.rs"]
mod latches;
#[path = "properties/told.rs"]
mod told;

use proptest::prelude::*;
use roster_storage::catalog::{
    At, Catalog, CatalogBuilder, Record, ShardSetRecord, recomputed_hash,
};
use roster_storage::command::{Command, EncodedCommand, Outcome, Refusal, Reply, Withdrawn};
use roster_storage::events::Event;
use roster_storage::names::Revision;
use roster_storage::raft_types::Entry;

use acts::{Step, World, acts, garbage, may_release};
use latches::Model;
use told::{Documents, Latches, Lives, Rings, Work, documents_of, follow_documents};

/// All that one entry gave.
type Effect = (Outcome, Vec<Event>);

fn apply(catalog: &mut Catalog, step: &Step) -> Effect {
    let effect = catalog.apply(step.at, &step.command);
    catalog.passed(step.at.revision.0);
    effect
}

/// What a checkpoint keeps: the records, through their bytes.
fn reopened(catalog: &Catalog) -> Catalog {
    let mut builder = CatalogBuilder::default();
    for record in catalog.records() {
        let bytes = rmp_serde::to_vec_named(&record).expect("a record encodes");
        let read: Record = rmp_serde::from_slice(&bytes).expect("a record decodes");
        assert_eq!(read, record);
        builder.add(read).expect("the records fit each other");
    }
    builder.finish()
}

/// The hash of all but the clock, which a refused command moves too, and of kept answers, of which
/// its own may be one.
fn hash_without_clock(catalog: &Catalog) -> u64 {
    let aside = |record: &Record| matches!(record, Record::Clock(_) | Record::Kept { .. });
    recomputed_hash(catalog.records().filter(|record| !aside(record)))
}

/// Whether the answer says that nothing was changed.
fn refused(outcome: &Outcome) -> bool {
    match &outcome.result {
        Err(_) | Ok(Reply::Done) => true,
        Ok(Reply::Expired { ended, .. }) => *ended == 0,
        Ok(Reply::Suspected { changed, .. }) => *changed == 0,
        Ok(Reply::Released(each)) => each.iter().all(Result::is_err),
        Ok(Reply::Withdrawn(Withdrawn::Won { .. } | Withdrawn::NotThere)) => true,
        Ok(Reply::Rebalanced { changed }) => *changed == 0,
        Ok(Reply::RingPut { epoch, .. } | Reply::RingCompacted { epoch }) => {
            *epoch != outcome.revision
        }
        Ok(_) => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Invariant S9, and that the incremental hash, the counts and the indexes belong to the records.
    #[test]
    fn the_same_commands_give_the_same_state_on_every_node(acts in acts(80)) {
        let (mut world, mut follower) = (World::default(), Catalog::default());
        // One of the nodes publishes every entry, the other one none.
        let mut published = Vec::new();
        for act in acts {
            let step = world.step(&act);
            let effect = apply(&mut world.catalog, &step);
            let encoded = EncodedCommand::new(&step.command).expect("small");
            let read = Step { command: encoded.decode().expect("just encoded"), ..step };
            prop_assert_eq!(&effect, &apply(&mut follower, &read));
            prop_assert_eq!(world.catalog.state_hash(), follower.state_hash());
            prop_assert_eq!(world.catalog.verify(), Ok(()), "after {}", read.command);
            published.push(follower.clone());
        }
        prop_assert!(world.catalog == follower);
    }

    /// Invariant S8: where a node read a checkpoint makes no difference to anything later.
    #[test]
    fn a_checkpoint_anywhere_makes_no_difference(acts in acts(80), split in 0..80_usize) {
        let (mut world, mut other) = (World::default(), Catalog::default());
        for (n, act) in acts.iter().enumerate() {
            if n == split {
                other = reopened(&other);
                prop_assert_eq!(other.verify(), Ok(()));
            }
            let step = world.step(act);
            let effect = apply(&mut world.catalog, &step);
            prop_assert_eq!(&effect, &apply(&mut other, &step));
            prop_assert_eq!(world.catalog.state_hash(), other.state_hash());
            prop_assert_eq!(world.catalog.next_due_ms(), other.next_due_ms());
        }
        prop_assert!(world.catalog == other);
        prop_assert_eq!(other.verify(), Ok(()));
    }

    /// A version that a reader holds is not touched by what comes later.
    #[test]
    fn a_held_version_stays_as_it_is(acts in acts(60), split in 0..60_usize) {
        let mut world = World::default();
        let mut held = None;
        for (n, act) in acts.iter().enumerate() {
            if n == split {
                held = Some((world.catalog.clone(), world.catalog.records().collect::<Vec<_>>()));
            }
            let step = world.step(act);
            apply(&mut world.catalog, &step);
        }
        if let Some((version, records)) = held {
            prop_assert!(version.records().eq(records));
            prop_assert_eq!(version.verify(), Ok(()));
        }
    }

    /// Invariant S6: each life begins once, and ends once, with its shard.
    #[test]
    fn each_incarnation_begins_once_and_ends_once_with_its_shard(acts in acts(120)) {
        let mut world = World::default();
        let mut lives = Lives::default();
        for act in acts {
            let step = world.step(&act);
            let (_, events) = apply(&mut world.catalog, &step);
            lives.follow(&events);
            lives.hold_against(&world.catalog);
        }
    }

    /// Events alone tell every document.
    #[test]
    fn events_tell_all_documents(acts in acts(120)) {
        let mut world = World::default();
        let mut told = Documents::new();
        for act in acts {
            let step = world.step(&act);
            let (_, events) = apply(&mut world.catalog, &step);
            follow_documents(&mut told, &events);
            prop_assert_eq!(&documents_of(&world.catalog), &told);
        }
    }

    /// Who waits for another list of documents is told of every one, its app's new begin too; and,
    /// once the app had a document, of nothing else.
    #[test]
    fn a_list_of_documents_is_new_when_a_document_is(acts in acts(120)) {
        let mut world = World::default();
        for act in acts {
            let step = world.step(&act);
            let before = world.catalog.clone();
            apply(&mut world.catalog, &step);
            for (name, app) in world.catalog.apps_after(None) {
                let old = before.app(name);
                let (was, is) = (old.map(|old| old.documents_changed()), app.documents_changed());
                if old.is_none_or(|old| old.documents != app.documents) {
                    prop_assert_eq!(is, step.at.revision, "{} after {}", name, step.command);
                } else if app.record.documents_changed > Revision(0) {
                    prop_assert_eq!(was, Some(is), "{} after {}", name, step.command);
                } else {
                    prop_assert!(was <= Some(is), "{} after {}", name, step.command);
                }
            }
        }
    }

    /// Events alone tell every ring: once per entry, under an epoch that only rises (invariant S11).
    #[test]
    fn events_tell_all_rings(acts in acts(120)) {
        let mut world = World::default();
        let mut told = Rings::default();
        for act in acts {
            let step = world.step(&act);
            let (_, events) = apply(&mut world.catalog, &step);
            told.follow(step.at, &events);
            told.hold_against(&world.catalog);
        }
    }

    /// Events alone tell who works on what: one holder at a time, under grants that only rise, in
    /// epochs that have one assignment each and never go back (invariant S11).
    #[test]
    fn events_tell_who_works_on_what(acts in acts(120)) {
        let mut world = World::default();
        let mut told = Work::default();
        for act in acts {
            let step = world.step(&act);
            let (_, events) = apply(&mut world.catalog, &step);
            told.follow(step.at, &events);
            told.hold_against(step.at, &world.catalog);
        }
    }

    /// Events alone tell every latch: one holds it alone or all share it, whoever came first, under
    /// tokens that grow, so that one who keeps the largest that it saw refuses all who held before.
    #[test]
    fn events_tell_who_holds_and_who_waits(acts in acts(120)) {
        let mut world = World::default();
        let mut told = Latches::default();
        for act in acts {
            let step = world.step(&act);
            let (_, events) = apply(&mut world.catalog, &step);
            told.follow(step.at, &events);
            told.hold_against(&world.catalog);
        }
    }

    /// Every answer about latches, and every queue, is that of the contract.
    #[test]
    fn latches_are_what_their_contract_says(acts in acts(120)) {
        let mut world = World::default();
        let mut model = Model::default();
        for act in acts {
            let step = world.step(&act);
            let before = world.catalog.clone();
            let (outcome, _) = apply(&mut world.catalog, &step);
            model.follow(step.at, &step.command, &outcome, (&before, &world.catalog));
        }
    }

    /// A shard that goes with its instance names every set that had it, and who held it there.
    #[test]
    fn a_deleted_shard_names_its_sets_and_its_holders(acts in acts(120)) {
        let mut world = World::default();
        for act in acts {
            let step = world.step(&act);
            let before = world.catalog.clone();
            let (_, events) = apply(&mut world.catalog, &step);
            // Of several that go together, one may have held another's shard.
            let alone = matches!(step.command, Command::Register(_) | Command::Deregister(_));
            for event in &events {
                let Event::ShardDeleted { key, held, .. } = event else { continue };
                let had = before.shard_sets().filter(|(_, set)| set.record.config.covers(&key.app));
                let had: Vec<_> = had
                    .map(|(name, set)| {
                        let shard = set.group.shard(&key.into()).cloned().unwrap_or_default();
                        (name, shard.holder)
                    })
                    .collect();
                if alone {
                    let told: Vec<_> = held.iter().map(|h| (&h.set, h.holder.clone())).collect();
                    prop_assert_eq!(told, had, "{} by {}", key, step.command);
                } else {
                    let told = held.iter().map(|h| &h.set);
                    prop_assert!(told.eq(had.iter().map(|(name, _)| *name)), "{}", key);
                }
            }
        }
    }

    /// A release is carried out for those shards that the worker held under the grant it named, or
    /// that an operator named the grant of, and for no others.
    #[test]
    fn a_release_frees_what_it_names_rightly_and_nothing_else(acts in acts(120)) {
        let mut world = World::default();
        for act in acts {
            let step = world.step(&act);
            let mut before = world.catalog.clone();
            before.apply(step.at, &Command::Tick);
            let (outcome, _) = apply(&mut world.catalog, &step);
            let (Command::Release(release), Ok(Reply::Released(each))) = (&step.command, &outcome.result)
            else {
                continue;
            };
            let group = |catalog: &Catalog| catalog.shard_set(&release.set).expect("it is there").group.clone();
            let (before, now) = (group(&before), group(&world.catalog));
            let mut freed = Vec::new();
            for ((shard, grant), answer) in release.shards.iter().zip(each) {
                let known = before.shard(shard);
                let right = known.is_some_and(|known| {
                    known.grant == *grant && may_release(&release.by, known)
                });
                prop_assert_eq!(answer.is_ok(), right && !freed.contains(shard), "{}", shard);
                if answer.is_ok() {
                    freed.push(shard.clone());
                }
                let stale = matches!(answer, Ok(()) | Err(Refusal::StaleToken { .. }));
                prop_assert!(stale, "{:?}", answer);
            }
            for (shard, known) in before.shards() {
                if freed.contains(shard) {
                    let next = known.next.clone();
                    prop_assert_eq!(now.shard(shard).and_then(|s| s.holder.clone()), next);
                } else {
                    prop_assert_eq!(now.shard(shard), Some(known));
                }
            }
        }
    }

    /// How many workers are wanted follows the shards up at once, stays within the policy's bounds,
    /// and goes down only after a cool-down or by another policy.
    #[test]
    fn the_wanted_workers_rise_at_once_and_fall_after_the_cool_down(acts in acts(120)) {
        let mut world = World::default();
        for act in acts {
            let step = world.step(&act);
            let before = world.catalog.clone();
            apply(&mut world.catalog, &step);
            let now = world.catalog.clock().cluster_ms;
            for (name, set) in world.catalog.shard_sets() {
                let ShardSetRecord { config, scaling, .. } = &set.record;
                let (Some(policy), Some(state)) = (&config.scaling, scaling) else {
                    prop_assert!(config.scaling.is_none() && scaling.is_none(), "{}", name);
                    continue;
                };
                let highest = policy.max.max(policy.min);
                prop_assert!((policy.min..=highest).contains(&state.desired), "{}", name);
                prop_assert!(policy.need(set.group.counts().shards as u64) <= state.desired);
                let Some(old) = before.shard_set(name) else { continue };
                let Some(was) = old.record.scaling.filter(|_| old.record.config == *config) else {
                    continue;
                };
                let waited = was.lower_since_ms.map_or(0, |since| now - since);
                let may_fall = policy.cooldown_ms == 0
                    || was.lower_since_ms.is_some() && waited >= policy.cooldown_ms;
                prop_assert!(was.desired <= state.desired || may_fall, "{}", name);
            }
        }
    }

    /// An app goes by itself only without instances, documents and a ring, and while no shard set
    /// takes its workers from it; and then no later than its policy says.
    #[test]
    fn an_app_goes_by_itself_when_it_is_empty_and_only_then(acts in acts(120)) {
        let mut world = World::default();
        for act in acts {
            let step = world.step(&act);
            let mut ticked = world.catalog.clone();
            ticked.apply(step.at, &Command::Tick);
            let now = step.at.stamp.cluster_ms;
            for (name, app) in world.catalog.apps_after(None) {
                let works =
                    world.catalog.shard_sets().any(|(_, set)| set.record.config.workers == *name);
                let needed = works || app.ring.is_some() || !app.documents.is_empty();
                let after = app.record.policy.remove_when_empty_after_ms;
                let over = match (app.record.empty_since_ms, after) {
                    (Some(since), Some(after)) => !needed && since + after <= now,
                    (None, _) | (_, None) => false,
                };
                prop_assert_eq!(ticked.app(name).is_none(), over, "{}", name);
            }
            apply(&mut world.catalog, &step);
        }
    }

    /// Who is refused changed nothing; only the clock moved, and what fell due by it went.
    #[test]
    fn a_refused_command_changes_nothing(acts in acts(80)) {
        let mut world = World::default();
        for act in acts {
            let step = world.step(&act);
            let mut ticked = world.catalog.clone();
            let (_, due) = ticked.apply(step.at, &Command::Tick);
            let (outcome, events) = apply(&mut world.catalog, &step);
            let replayed = outcome.revision != step.at.revision;
            if refused(&outcome) || replayed {
                prop_assert_eq!(events, due, "{}: {}", step.command, outcome);
                let hashes = (hash_without_clock(&ticked), hash_without_clock(&world.catalog));
                prop_assert_eq!(hashes.0, hashes.1, "{}: {}", step.command, outcome);
                let kept = !replayed && step.command.request().is_some();
                prop_assert!(kept || ticked.state_hash() == world.catalog.state_hash());
            }
        }
    }

    /// A batch is its items, one after the other, in one revision: a refused one leaves nothing.
    #[test]
    fn refused_items_of_a_batch_change_nothing(acts in acts(80)) {
        let mut world = World::default();
        for act in acts {
            let step = world.step(&act);
            let mut without = world.catalog.clone();
            let (outcome, _) = apply(&mut world.catalog, &step);
            let (Command::Batch(batch), Ok(Reply::Batch(replies))) = (&step.command, &outcome.result)
            else {
                continue;
            };
            if batch.request.is_some() {
                continue;
            }
            let mut agreed = batch.clone();
            let mut replies = replies.iter();
            agreed.items.retain(|_| replies.next().is_some_and(Result::is_ok));
            let agreed = Step { at: step.at, command: Command::Batch(agreed) };
            apply(&mut without, &agreed);
            prop_assert!(without == world.catalog);
        }
    }

    /// Invariant S2: revisions and both clocks only grow, whatever the stamps say.
    #[test]
    fn clocks_never_go_back(acts in acts(60)) {
        let mut world = World::default();
        let mut before = world.catalog.clock();
        for act in acts {
            let mut step = world.step(&act);
            step.at.stamp.cluster_ms = step.at.stamp.cluster_ms.saturating_sub(act.back_ms);
            step.at.stamp.wall_ms = step.at.stamp.wall_ms.saturating_sub(act.back_ms);
            apply(&mut world.catalog, &step);
            let now = world.catalog.clock();
            prop_assert!(now.cluster_ms >= before.cluster_ms && now.wall_ms >= before.wall_ms);
            prop_assert!(now.last_session >= before.last_session);
            before = now;
        }
    }

    /// Damage is an error, never a panic.
    #[test]
    fn bytes_that_are_no_command_are_refused(bytes in garbage()) {
        let wrapped = rmp_serde::to_vec(&serde_bytes::Bytes::new(&bytes)).expect("bytes encode");
        let command: EncodedCommand = rmp_serde::from_slice(&wrapped).expect("any bytes");
        let _ = command.decode();
        let _ = format!("{command:?}");
        let _ = rmp_serde::from_slice::<EncodedCommand>(&bytes);
        let _ = rmp_serde::from_slice::<Record>(&bytes);
        let _ = rmp_serde::from_slice::<Entry>(&bytes);
    }
}
