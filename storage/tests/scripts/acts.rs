//! The acts of a script, one per line. Times are `500ms`, `10s`, `10m`, `24h`.
//!
//! ```text
//! app NAME [kind=1] [ttl= ttl_min= ttl_max= empty_after=] [CONDITION]
//! delete-app NAME [cascade] [CONDITION]
//! register APP/ID [session=1 | ttl=10s] [takeover] [no_app] [kind=1] [PROFILE] [CONDITION]
//! patch APP/ID [incarnation=1] [PROFILE] [clear] [meta.KEY] [CONDITION]    meta.KEY alone removes
//! deregister APP/ID [incarnation=1] [operator] [CONDITION]
//! override APP/ID draining|maintenance [expires=5s] [reason=]
//! clear-override APP/ID [reason=]
//! document APP/NAME [value=JSON | bytes=131072] [by=] [no_app] [CONDITION]
//! delete-document APP/NAME [by=] [CONDITION]
//! ring APP [seed=] [replicas=] [CONDITION]
//! delete-ring APP [CONDITION]
//! compact-ring APP [CONDITION]
//! shard-set SET workers=APP apps=A,B|* [copies=] [SCALING] [CONDITION]
//! delete-shard-set SET [CONDITION]
//! release SET worker=W|operator SHARD=GRANT …
//! rebalance SET …
//! open [ttl=] [name=] [REQUEST]
//! close SESSION
//! claim LATCH session=1 [owner=] [shared] [value=] [waits]
//! withdraw LATCH session=1 [owner=] [asked=r3] [even_won] [REQUEST]
//! let-go LATCH token=r3 [session=1 [owner=]] [REQUEST]    what holds a latch lets it go
//! break LATCH [token=r3]
//! batch [REQUEST]                  its items follow, indented: register and deregister
//! expire session=1 touched=1 [silent=15s] [session=2 touched=2 …] term=1
//! suspect session=1 touched=1 [heard] [session=2 touched=2 …] term=1
//! brake SCOPE missing=3 of=4 | because=recovered|removed|released  term=1
//! override-brake SCOPE release|hold [expires=5s] [reason=]
//! clear-brake-override SCOPE
//! pace 300 term=1
//! tick [+10s]                      cluster time passes (or tries to go back: -10s)
//! term 2                           later entries are of term 2
//! show [shard-sets | latches]      the state, or only what it has of shard sets or of latches
//!
//! SCOPE:     all, app=NAME or node=1
//! LATCH:     lock NAME or election NAME
//! PROFILE:   version= zone= weight= meta.KEY=VALUE
//! CONDITION: absent (If-None-Match: *) or if=r3 (If-Match)
//! REQUEST:   key=K [body=1] [part=0]
//! SCALING:   per_worker=2 [min=1] [max=10] [cooldown=60s]
//! ```

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use roster_storage::brake::{BrakeMode, Scope};
use roster_storage::command::{
    AppPolicy, Batch, BatchItem, BrakeChange, BrakeEnd, BreakLatch, ClaimLatch, ClearBrakeOverride,
    ClearOverride, CloseSession, Command, CompactRing, Condition, Covered, DeleteApp,
    DeleteDocument, DeleteRing, DeleteShardSet, Deregister, Expire, Expiry, MetadataPatch,
    OpenSession, Overridden, OverrideBrake, Patch, Profile, PutApp, PutDocument, PutOverride,
    PutRing, PutShardSet, Rebalance, Register, Release, ReleaseLatch, ReleasedBy, Request,
    SetBrake, SetPace, ShardSetConfig, Suspect, Suspicion, WithdrawClaim,
};
use roster_storage::latch::{Claimant, Mode};
use roster_storage::names::{AppName, DocumentName, InstanceKey, LatchKey, LatchKind, Revision};
use roster_storage::shards::scaling::ScalingPolicy;
use smol_str::SmolStr;

pub enum Act {
    Command(Box<Command>),
    /// Milliseconds of cluster time.
    Tick(i64),
    Term(u64),
    Show,
    ShowShardSets,
    ShowLatches,
}

/// Reads the acts of one block.
pub fn parse(text: &str) -> Result<Vec<Act>, String> {
    let mut acts: Vec<Act> = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let words = Words::new(line);
        let act = if line.starts_with(' ') {
            words.item().and_then(|item| add_to_batch(&mut acts, item)).map(|()| None)
        } else {
            words.act().map(Some)
        };
        acts.extend(act.map_err(|e| format!("{e} in: {line}"))?);
    }
    Ok(acts)
}

fn add_to_batch(acts: &mut [Act], item: BatchItem) -> Result<(), String> {
    if let Some(Act::Command(command)) = acts.last_mut()
        && let Command::Batch(batch) = command.as_mut()
    {
        batch.items.push(item);
        return Ok(());
    }
    Err("an item without its batch".into())
}

/// A line: its verb, its plain words, and its `name=value` pairs in order.
struct Words<'a> {
    verb: &'a str,
    plain: Vec<&'a str>,
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Words<'a> {
    fn new(line: &'a str) -> Self {
        let mut words = line.split_whitespace();
        let verb = words.next().unwrap_or_default();
        let (mut plain, mut pairs) = (Vec::new(), Vec::new());
        for word in words {
            match word.split_once('=') {
                Some(pair) => pairs.push(pair),
                None => plain.push(word),
            }
        }
        Self { verb, plain, pairs }
    }

    fn act(&self) -> Result<Act, String> {
        Ok(match self.verb {
            "tick" => Act::Tick(self.plain.first().map_or(Ok(0), |by| signed_ms(by))?),
            "term" => Act::Term(parsed(self.first()?)?),
            "show" if self.has("shard-sets") => Act::ShowShardSets,
            "show" if self.has("latches") => Act::ShowLatches,
            "show" => Act::Show,
            _ => Act::Command(Box::new(self.command()?)),
        })
    }

    fn command(&self) -> Result<Command, String> {
        Ok(match self.verb {
            "app" => Command::PutApp(PutApp {
                app: parsed(self.first()?)?,
                policy: self.policy()?,
                condition: self.condition()?,
            }),
            "delete-app" => Command::DeleteApp(DeleteApp {
                app: parsed(self.first()?)?,
                cascade: self.has("cascade"),
                condition: self.condition()?,
            }),
            "register" => Command::Register(self.register()?),
            "patch" => Command::Patch(self.patch()?),
            "deregister" => Command::Deregister(self.deregister()?),
            "override" => Command::PutOverride(self.put_override()?),
            "clear-override" => Command::ClearOverride(ClearOverride {
                key: self.key()?,
                reason: self.value("reason").unwrap_or_default().into(),
            }),
            "document" => Command::PutDocument(self.put_document()?),
            "delete-document" => Command::DeleteDocument(self.delete_document()?),
            "ring" => Command::PutRing(PutRing {
                app: parsed(self.first()?)?,
                seed: self.number("seed")?.unwrap_or(0),
                replicas: self.number("replicas")?.unwrap_or(1),
                condition: self.condition()?,
            }),
            "delete-ring" => Command::DeleteRing(DeleteRing {
                app: parsed(self.first()?)?,
                condition: self.condition()?,
            }),
            "compact-ring" => Command::CompactRing(CompactRing {
                app: parsed(self.first()?)?,
                condition: self.condition()?,
            }),
            "shard-set" => Command::PutShardSet(self.put_shard_set()?),
            "delete-shard-set" => Command::DeleteShardSet(DeleteShardSet {
                set: parsed(self.first()?)?,
                condition: self.condition()?,
            }),
            "release" => Command::Release(self.release()?),
            "rebalance" => Command::Rebalance(Rebalance {
                sets: self.plain.iter().map(|set| parsed(set)).collect::<Result<_, _>>()?,
            }),
            "open" => Command::OpenSession(OpenSession {
                ttl_ms: self.ms("ttl")?,
                name: self.value("name").unwrap_or_default().into(),
                request: self.request()?,
            }),
            "close" => Command::CloseSession(CloseSession { session: parsed(self.first()?)? }),
            "claim" => Command::ClaimLatch(self.claim()?),
            "withdraw" => Command::WithdrawClaim(WithdrawClaim {
                latch: self.latch()?,
                by: self.claimant()?.ok_or("session= is missing")?,
                asked: self.revision("asked")?,
                even_won: self.has("even_won"),
                request: self.request()?,
            }),
            "let-go" => Command::ReleaseLatch(ReleaseLatch {
                latch: self.latch()?,
                token: self.revision("token")?.ok_or("token= is missing")?,
                by: self.claimant()?,
                request: self.request()?,
            }),
            "break" => Command::BreakLatch(BreakLatch {
                latch: self.latch()?,
                token: self.revision("token")?,
            }),
            "batch" => Command::Batch(Batch { items: Vec::new(), request: self.request()? }),
            "expire" => Command::Expire(self.expire()?),
            "suspect" => Command::Suspect(self.suspect()?),
            "brake" => Command::Brake(SetBrake {
                term: self.term()?,
                scope: self.scope()?,
                change: self.brake_change()?,
            }),
            "override-brake" => Command::OverrideBrake(OverrideBrake {
                scope: self.scope()?,
                mode: match (self.has("release"), self.has("hold")) {
                    (true, false) => BrakeMode::Release,
                    (false, true) => BrakeMode::Hold,
                    _ => return Err("release or hold?".into()),
                },
                reason: self.value("reason").unwrap_or_default().into(),
                expires_in_ms: self.ms("expires")?,
            }),
            "clear-brake-override" => {
                Command::ClearBrakeOverride(ClearBrakeOverride { scope: self.scope()? })
            }
            "pace" => {
                Command::Pace(SetPace { term: self.term()?, percent: parsed(self.first()?)? })
            }
            verb => return Err(format!("no such act: {verb}")),
        })
    }

    fn item(&self) -> Result<BatchItem, String> {
        match self.verb {
            "register" => Ok(BatchItem::Register(self.register()?)),
            "deregister" => Ok(BatchItem::Deregister(self.deregister()?)),
            verb => Err(format!("no item of a batch: {verb}")),
        }
    }

    fn policy(&self) -> Result<AppPolicy, String> {
        Ok(AppPolicy {
            kind: self.number("kind")?.unwrap_or(0),
            ttl_ms: self.ms("ttl")?,
            ttl_min_ms: self.ms("ttl_min")?,
            ttl_max_ms: self.ms("ttl_max")?,
            remove_when_empty_after_ms: self.ms("empty_after")?,
        })
    }

    fn register(&self) -> Result<Register, String> {
        let metadata = self.metadata().filter_map(|(key, value)| Some((key, value?)));
        Ok(Register {
            key: self.key()?,
            profile: Profile {
                version: self.value("version").unwrap_or_default().into(),
                zone: self.value("zone").unwrap_or_default().into(),
                weight: self.number("weight")?.unwrap_or(1),
                metadata: Arc::new(metadata.collect()),
                ..Profile::default()
            }
            .into(),
            session: self.number("session")?,
            ttl_ms: self.ms("ttl")?,
            takeover: self.has("takeover"),
            create_app: if self.has("no_app") {
                None
            } else {
                Some(self.number("kind")?.unwrap_or(0))
            },
            condition: self.condition()?,
        })
    }

    fn patch(&self) -> Result<Patch, String> {
        let entries: BTreeMap<_, _> = self.metadata().collect();
        Ok(Patch {
            key: self.key()?,
            incarnation: self.number("incarnation")?,
            metadata: MetadataPatch { clear: self.has("clear"), entries },
            weight: self.number("weight")?,
            payload: None,
            condition: self.condition()?,
        })
    }

    fn deregister(&self) -> Result<Deregister, String> {
        Ok(Deregister {
            key: self.key()?,
            incarnation: self.number("incarnation")?,
            by_operator: self.has("operator"),
            reason: SmolStr::default(),
            condition: self.condition()?,
        })
    }

    fn put_override(&self) -> Result<PutOverride, String> {
        let state = match self.plain.get(1) {
            Some(&"draining") => Overridden::Draining,
            Some(&"maintenance") => Overridden::Maintenance,
            other => return Err(format!("no such state: {other:?}")),
        };
        Ok(PutOverride {
            key: self.key()?,
            state,
            reason: self.value("reason").unwrap_or_default().into(),
            expires_in_ms: self.ms("expires")?,
        })
    }

    fn put_document(&self) -> Result<PutDocument, String> {
        let (app, name) = self.document()?;
        let value = match self.number("bytes")? {
            Some(bytes) => "1".repeat(bytes),
            None => self.value("value").unwrap_or("{}").to_owned(),
        };
        Ok(PutDocument {
            app,
            name,
            value: value.into(),
            by: self.value("by").unwrap_or_default().into(),
            create_app: !self.has("no_app"),
            condition: self.condition()?,
        })
    }

    fn delete_document(&self) -> Result<DeleteDocument, String> {
        let (app, name) = self.document()?;
        let by = self.value("by").unwrap_or_default().into();
        Ok(DeleteDocument { app, name, by, condition: self.condition()? })
    }

    fn put_shard_set(&self) -> Result<PutShardSet, String> {
        let apps = match self.needed("apps")? {
            "*" => Covered::All,
            names => Covered::Apps(names.split(',').map(parsed).collect::<Result<_, _>>()?),
        };
        let config = ShardSetConfig {
            workers: parsed(self.needed("workers")?)?,
            apps,
            copies: self.number("copies")?.unwrap_or(1),
            scaling: self.scaling()?,
        };
        Ok(PutShardSet { set: parsed(self.first()?)?, config, condition: self.condition()? })
    }

    fn scaling(&self) -> Result<Option<ScalingPolicy>, String> {
        let Some(shards_per_worker) = self.number("per_worker")? else { return Ok(None) };
        Ok(Some(ScalingPolicy {
            shards_per_worker,
            min: self.number("min")?.unwrap_or(0),
            max: self.number("max")?.unwrap_or(100),
            cooldown_ms: self.ms("cooldown")?.unwrap_or(60_000),
        }))
    }

    fn release(&self) -> Result<Release, String> {
        let by = match self.value("worker") {
            Some(worker) => ReleasedBy::Worker(parsed(worker)?),
            None if self.has("operator") => ReleasedBy::Operator,
            None => return Err("a release needs worker= or operator".into()),
        };
        let shards = self.pairs.iter().filter(|(name, _)| *name != "worker");
        let shards = shards.map(|(shard, grant)| Ok((parsed(shard)?, parsed(grant)?)));
        Ok(Release {
            set: parsed(self.first()?)?,
            by,
            shards: shards.collect::<Result<_, String>>()?,
        })
    }

    fn claim(&self) -> Result<ClaimLatch, String> {
        Ok(ClaimLatch {
            latch: self.latch()?,
            by: self.claimant()?.ok_or("session= is missing")?,
            mode: if self.has("shared") { Mode::Shared } else { Mode::Exclusive },
            value: self.value("value").unwrap_or_default().into(),
            waits: self.has("waits"),
        })
    }

    fn claimant(&self) -> Result<Option<Claimant>, String> {
        let Some(session) = self.number("session")? else { return Ok(None) };
        Ok(Some(Claimant { session, owner: self.value("owner").unwrap_or_default().into() }))
    }

    fn expire(&self) -> Result<Expire, String> {
        let mut sessions: Vec<Expiry> = Vec::new();
        for (name, value) in &self.pairs {
            match (*name, sessions.last_mut()) {
                ("session", _) => sessions.push(Expiry {
                    session: parsed(value)?,
                    touched: Revision(0),
                    silent_ms: 0,
                }),
                ("touched", Some(last)) => last.touched = parsed(value)?,
                ("silent", Some(last)) => last.silent_ms = ms(value)?,
                ("term", _) => {}
                _ => return Err(format!("out of place: {name}")),
            }
        }
        let term = self.number("term")?.ok_or("an expiry needs its term")?;
        Ok(Expire { term, sessions })
    }

    /// With `heard`, none of them is suspect any more.
    fn suspect(&self) -> Result<Suspect, String> {
        let Expire { term, sessions } = self.expire()?;
        let suspect = !self.has("heard");
        let suspicion = |e: Expiry| Suspicion { session: e.session, touched: e.touched, suspect };
        Ok(Suspect { term, sessions: sessions.into_iter().map(suspicion).collect() })
    }

    fn term(&self) -> Result<u64, String> {
        self.number("term")?.ok_or("term= is missing".into())
    }

    fn scope(&self) -> Result<Scope, String> {
        match (self.value("app"), self.number("node")?) {
            (Some(app), None) => Ok(Scope::App(parsed(app)?)),
            (None, Some(node)) => Ok(Scope::Node(node)),
            (None, None) if self.has("all") => Ok(Scope::All),
            _ => Err("all, app=NAME or node=NUMBER?".into()),
        }
    }

    fn brake_change(&self) -> Result<BrakeChange, String> {
        let because = match self.value("because") {
            Some("recovered") => BrakeEnd::Recovered,
            Some("removed") => BrakeEnd::Removed,
            Some("released") => BrakeEnd::Released,
            Some(other) => return Err(format!("no reason to end a brake: {other}")),
            None => {
                let missing = self.number("missing")?.ok_or("missing= is missing")?;
                let of = self.number("of")?.ok_or("of= is missing")?;
                return Ok(BrakeChange::On { missing, of });
            }
        };
        Ok(BrakeChange::Off { because })
    }

    fn request(&self) -> Result<Option<Request>, String> {
        let Some(key) = self.value("key") else { return Ok(None) };
        let body = self.number("body")?.unwrap_or(0);
        let part = self.number("part")?.unwrap_or(0);
        Ok(Some(Request { key: parsed(key)?, digest: (body, !body), part }))
    }

    fn condition(&self) -> Result<Condition, String> {
        match self.revision("if")? {
            Some(revision) => Ok(Condition::Unchanged(revision)),
            None if self.has("absent") => Ok(Condition::Absent),
            None => Ok(Condition::Any),
        }
    }

    /// `meta.KEY=VALUE`, and `meta.KEY` without a value.
    fn metadata(&self) -> impl Iterator<Item = (SmolStr, Option<SmolStr>)> + '_ {
        let set = self.pairs.iter().map(|(name, value)| (*name, Some(SmolStr::from(*value))));
        let unset = self.plain.iter().map(|name| (*name, None));
        set.chain(unset)
            .filter_map(|(name, value)| Some((name.strip_prefix("meta.")?.into(), value)))
    }

    fn key(&self) -> Result<InstanceKey, String> {
        let (app, id) = self.first()?.split_once('/').ok_or("an instance is APP/ID")?;
        Ok(InstanceKey::new(parsed(app)?, parsed(id)?))
    }

    fn document(&self) -> Result<(AppName, DocumentName), String> {
        let (app, name) = self.first()?.split_once('/').ok_or("a document is APP/NAME")?;
        Ok((parsed(app)?, parsed(name)?))
    }

    fn latch(&self) -> Result<LatchKey, String> {
        let kind = match self.first()? {
            "lock" => LatchKind::Lock,
            "election" => LatchKind::Election,
            other => return Err(format!("a latch is a lock or an election, not {other:?}")),
        };
        let name = self.plain.get(1).ok_or("the name of the latch is missing")?;
        Ok(LatchKey::new(kind, parsed(name)?))
    }

    fn first(&self) -> Result<&'a str, String> {
        self.plain.first().copied().ok_or_else(|| "a word is missing".into())
    }

    fn has(&self, word: &str) -> bool {
        self.plain.contains(&word)
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        self.pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)
    }

    fn needed(&self, name: &str) -> Result<&'a str, String> {
        self.value(name).ok_or_else(|| format!("{name}= is missing"))
    }

    fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        self.value(name).map(parsed).transpose()
    }

    /// `3` or `r3`.
    fn revision(&self, name: &str) -> Result<Option<Revision>, String> {
        self.value(name).map(|text| parsed(text.trim_start_matches('r'))).transpose()
    }

    fn ms(&self, name: &str) -> Result<Option<u64>, String> {
        self.value(name).map(ms).transpose()
    }
}

fn parsed<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("cannot read {text:?}"))
}

fn signed_ms(text: &str) -> Result<i64, String> {
    let size =
        i64::try_from(ms(text.trim_start_matches(['+', '-']))?).map_err(|e| e.to_string())?;
    Ok(if text.starts_with('-') { -size } else { size })
}

fn ms(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("{text:?} needs a unit: ms, s, m or h")),
    };
    Ok(parsed::<u64>(number)? * factor)
}
