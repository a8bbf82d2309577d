//! What every node does with a request: gathers it with others and takes it to the leader, be that
//! itself or another node. Nothing is sent twice unless it certainly was not carried out, or is
//! harmless to repeat (reads, heartbeats).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use roster_api::beats::BodyAnswer;
use roster_api::registry::{
    Beat, BeatAnswers, BeatRefused, BeatTarget, Heard, Renewed, Unavailable,
};
use roster_storage::command::{EncodedCommand, Outcome};
use roster_storage::names::{NodeId, Revision, SessionId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};

use crate::gather::{Gatherer, NotGathered, Rounds};
use crate::leading::{Leading, known_leader};
use crate::leases::pacer::{CallCounts, CallForm, Calls, CallsSoFar};
use crate::peers::{Peers, Purpose};
use crate::raft::link::{CallError, Link};
use crate::raft::rpc::{
    self, BeatsAnswer, BeatsAsked, BeatsTold, HeartbeatsAnswer, LastHeardAnswer, NotAppended,
    Proposed, ReadIndex, path,
};
use crate::raft::{Raft, leader_becomes};

/// Writes: one round at a time, and a busy one waits a little for the next: larger rounds share an
/// fsync on each node. With 64 writers over three nodes a write costs a sixth less CPU this way than
/// with two rounds at once and no pause, and no fewer go through.
const WRITES: Rounds =
    Rounds { at_once: 1, bytes: 8 << 20, pause: Duration::from_millis(1), waiting_max: usize::MAX };

/// Heartbeats: one round at a time, since what a round costs hardly depends on how many it carries.
/// More calls than these cannot be answered before their clients give up and ask again, which makes
/// them more: so they are refused at once, which costs little.
pub const HEARTBEATS: Rounds =
    Rounds { at_once: 1, bytes: 1 << 20, pause: Duration::ZERO, waiting_max: 8_192 };

/// Read indexes: all that wait share one.
const READS: Rounds =
    Rounds { at_once: 2, bytes: 8 << 20, pause: Duration::ZERO, waiting_max: usize::MAX };

/// What a heartbeat weighs without the names in it.
const BEAT_BYTES: usize = 96;

/// What an adopted epoch adds, without its app's name.
const ADOPTED_BYTES: usize = 16;

/// Between two tries to find a leader that takes a request.
const RETRY: Duration = Duration::from_millis(10);

/// How long a write that was sent to a leader is waited for once another one leads: its answer may
/// be on the way, but a leader that hangs must not hold up those who come after.
const OLD_LEADER_GRACE: Duration = Duration::from_millis(200);

/// A Sentinel transport gives up after 3 s; it should see the answer before.
pub const HEARTBEAT_TIMEOUT_MAX: Duration = Duration::from_millis(2_500);

/// What the leader answered to heartbeats, and of which revision.
pub type Beaten = Result<(Revision, BeatsTold), Unavailable>;

/// The question for beats that were read.
pub fn asking(mut beats: Vec<Beat>) -> BeatsAsked {
    let alone = if beats.len() == 1 { beats.pop() } else { None };
    alone.map_or_else(|| BeatsAsked::Many(beats), BeatsAsked::One)
}

/// The answer to [`asking`].
pub fn each_told((revision, told): (Revision, BeatsTold)) -> Result<BeatAnswers, Unavailable> {
    match told {
        BeatsTold::One(answer) => Ok(BeatAnswers { revision, each: vec![answer] }),
        BeatsTold::Many(each) => Ok(BeatAnswers { revision, each }),
        BeatsTold::Body(_) => Err(another_answer()),
    }
}

/// The answer to a body that was not read.
pub fn body_told(
    (revision, told): (Revision, BeatsTold),
) -> Result<(Revision, BodyAnswer), Unavailable> {
    match told {
        BeatsTold::Body(answer) => Ok((revision, answer)),
        BeatsTold::One(_) | BeatsTold::Many(_) => Err(another_answer()),
    }
}

/// The way to the leader.
pub struct Forward {
    way: Arc<Way>,
    writes: Gatherer<EncodedCommand, Result<Outcome, Unavailable>>,
    heartbeats: Gatherer<BeatsAsked, Beaten>,
    read_indexes: Gatherer<(), Result<u64, Unavailable>>,
    heartbeat_calls: Calls,
}

struct Way {
    id: NodeId,
    raft: Raft,
    leading: Arc<Leading>,
    peers: Arc<Peers>,
    timeout: Duration,
    forwarded: Forwarded,
}

impl Forward {
    /// Heartbeats are gathered and taken along on the threads of the `clients`, all else on those on
    /// which this is called.
    pub fn new(
        id: NodeId,
        raft: Raft,
        leading: Arc<Leading>,
        peers: Arc<Peers>,
        timeout: Duration,
        clients: &Handle,
    ) -> Self {
        let way =
            Arc::new(Way { id, raft, leading, peers, timeout, forwarded: Forwarded::default() });
        let (for_writes, for_beats, for_reads) = (way.clone(), way.clone(), way.clone());
        // They neither cross to other threads nor make those wait.
        let heartbeats = {
            let _there = clients.enter();
            Gatherer::start(HEARTBEATS, move |asked: Vec<_>, deadline| {
                let way = for_beats.clone();
                async move { each_of(asked.len(), way.renew(&asked, deadline).await) }
            })
        };
        Self {
            way,
            writes: Gatherer::start(WRITES, move |commands, deadline| {
                let way = for_writes.clone();
                async move { way.write(commands, deadline).await }
            }),
            heartbeats,
            read_indexes: Gatherer::start(READS, move |asked: Vec<()>, deadline| {
                let way = for_reads.clone();
                async move { vec![way.read_index(deadline).await; asked.len()] }
            }),
            heartbeat_calls: Calls::default(),
        }
    }

    pub async fn propose(&self, command: EncodedCommand) -> Result<Outcome, Unavailable> {
        let (bytes, deadline) = (command.len(), self.way.deadline());
        self.writes.ask(command, bytes, deadline).await.map_err(not_gathered)?
    }

    /// The index that this node must have applied before a linearizable read.
    pub async fn read_index(&self) -> Result<u64, Unavailable> {
        self.read_indexes.ask((), 0, self.way.deadline()).await.map_err(not_gathered)?
    }

    /// Takes heartbeats to the leader, together with others.
    pub async fn beats(&self, asked: BeatsAsked) -> Beaten {
        let taken = self.heartbeat_calls.take(form(&asked));
        if let BeatsAsked::One(beat) = &asked
            && let Some(told) = self.way.leading.beat_at_once(beat, self.way.id)
        {
            return Ok(told);
        }
        let bytes = weight(&asked);
        let deadline = taken.since() + self.way.timeout.min(HEARTBEAT_TIMEOUT_MAX);
        let told =
            self.heartbeats.ask(asked, bytes, deadline).await.map_err(not_gathered).flatten();
        if told.is_err() {
            taken.refused();
        }
        told
    }

    /// The heartbeat calls that clients made to this node.
    pub fn heartbeat_calls(&self) -> CallsSoFar {
        self.heartbeat_calls.so_far()
    }

    /// The same with all that is counted of them.
    pub fn heartbeat_call_counts(&self) -> CallCounts {
        self.heartbeat_calls.counts()
    }

    /// The calls that this node made to leaders of the cluster.
    pub fn forwarded(&self) -> &Forwarded {
        &self.way.forwarded
    }

    pub async fn last_heard(
        &self,
        sessions: Vec<SessionId>,
    ) -> Result<Vec<Option<Heard>>, Unavailable> {
        self.way.last_heard(sessions, self.way.deadline()).await
    }
}

fn form(asked: &BeatsAsked) -> CallForm {
    match asked {
        BeatsAsked::One(_) => CallForm::Single,
        BeatsAsked::Many(_) | BeatsAsked::Body(_) => CallForm::Batched,
    }
}

/// Calls to other nodes that lead, since the start. One carries what was gathered.
#[derive(Debug, Default)]
pub struct Forwarded {
    writes: ForwardedCalls,
    reads: ForwardedCalls,
    heartbeats: ForwardedCalls,
    status: ForwardedCalls,
}

/// Those of one purpose.
#[derive(Debug, Default)]
pub struct ForwardedCalls {
    made: AtomicU64,
    failed: AtomicU64,
}

impl Forwarded {
    pub fn of(&self, purpose: Purpose) -> &ForwardedCalls {
        match purpose {
            Purpose::Writes => &self.writes,
            Purpose::Reads => &self.reads,
            Purpose::Heartbeats => &self.heartbeats,
            Purpose::Status => &self.status,
        }
    }
}

impl ForwardedCalls {
    /// All, and those of them that got no answer.
    pub fn counts(&self) -> (u64, u64) {
        let failed = self.failed.load(Ordering::Relaxed);
        (self.made.load(Ordering::Relaxed), failed)
    }
}

/// What heartbeats weigh on the way to the leader, about, in bytes.
pub fn weight(asked: &BeatsAsked) -> usize {
    match asked {
        BeatsAsked::Body(body) => body.bytes.len(),
        BeatsAsked::One(_) | BeatsAsked::Many(_) => {
            read_already(asked).iter().map(weight_of_one).sum()
        }
    }
}

fn weight_of_one(beat: &Beat) -> usize {
    let names = match &beat.target {
        BeatTarget::Session(_) => 0,
        BeatTarget::Instance { key, .. } => key.app.as_str().len() + key.id.as_str().len(),
    };
    let adopted = beat.adopted.iter().map(|(app, _)| app.as_str().len() + ADOPTED_BYTES);
    BEAT_BYTES + names + adopted.sum::<usize>()
}

/// Answers all that were asked together.
pub fn each_of(
    asked: usize,
    answered: Result<(Revision, Vec<BeatsTold>), Unavailable>,
) -> Vec<Beaten> {
    match answered {
        Ok((revision, told)) => told.into_iter().map(|told| Ok((revision, told))).collect(),
        Err(e) => vec![Err(e); asked],
    }
}

pub fn not_gathered(why: NotGathered) -> Unavailable {
    match why {
        NotGathered::Full => Unavailable::Overloaded("requests wait for the leader".into()),
        NotGathered::Late => Unavailable::NoLeader("no leader took it in time".into()),
        NotGathered::Stopped => {
            Unavailable::Unknown("this node is stopping, or failed at it".into())
        }
    }
}

/// How to go on after a try.
enum Try<T> {
    Done(T),
    /// Nothing was done; try the leader of the next moment.
    Again(String),
}

/// Tries until a deadline, each with the leader of the moment.
struct Tries {
    raft: Raft,
    deadline: Instant,
    begun: bool,
    /// Why the last one did not do.
    why: String,
}

impl Tries {
    /// The leader to try next and the time that is left; `None` when there is no time for a try.
    async fn next(&mut self) -> Option<(NodeId, Duration)> {
        loop {
            if std::mem::replace(&mut self.begun, true) {
                if Instant::now() + RETRY >= self.deadline {
                    return None;
                }
                sleep(RETRY).await;
            }
            if let Some(leader) = known_leader(&self.raft) {
                return Some((leader, self.deadline.saturating_duration_since(Instant::now())));
            }
        }
    }

    fn failed(&mut self, why: impl ToString) {
        self.why = why.to_string();
    }

    fn given_up(self) -> Unavailable {
        Unavailable::NoLeader(self.why)
    }
}

impl Way {
    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    fn tries(&self, deadline: Instant) -> Tries {
        Tries {
            raft: self.raft.clone(),
            deadline,
            begun: false,
            why: "no node has won an election".into(),
        }
    }

    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        leader: NodeId,
        purpose: Purpose,
        path: &str,
        question: &Q,
        left: Duration,
    ) -> Result<A, CallError> {
        self.ask(leader, purpose, |link| async move { link.call(path, question, left).await }).await
    }

    /// Makes one call to a node for as long as that leads.
    async fn ask<A, C>(
        &self,
        leader: NodeId,
        purpose: Purpose,
        call: impl FnOnce(Arc<Link>) -> C,
    ) -> Result<A, CallError>
    where
        C: Future<Output = Result<A, CallError>>,
    {
        let link = self
            .peers
            .link(&self.raft, leader, purpose)
            .ok_or_else(|| CallError::NotSent(format!("node {leader}, which is no member")))?;
        let counts = self.forwarded.of(purpose);
        counts.made.fetch_add(1, Ordering::Relaxed);
        let grace = match purpose {
            Purpose::Writes => OLD_LEADER_GRACE,
            Purpose::Reads | Purpose::Heartbeats | Purpose::Status => Duration::ZERO,
        };
        let no_longer_leads = async {
            // An error means that Raft stopped; the call tells more about that.
            if leader_becomes(&self.raft, |known| known != Some(leader)).await.is_err() {
                std::future::pending::<()>().await;
            }
            sleep(grace).await;
        };
        let answer = tokio::select! {
            answer = call(link.clone()) => answer,
            () = no_longer_leads => {
                Err(CallError::Unanswered(format!("{link}, which no longer leads")))
            }
        };
        if answer.is_err() {
            counts.failed.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }

    async fn write(
        &self,
        commands: Vec<EncodedCommand>,
        deadline: Instant,
    ) -> Vec<Result<Outcome, Unavailable>> {
        let mut answers: Vec<Option<Result<Outcome, Unavailable>>> = vec![None; commands.len()];
        // The places of the commands that certainly were not appended yet.
        let mut open: Vec<usize> = (0..commands.len()).collect();
        let mut tries = self.tries(deadline);
        while !open.is_empty()
            && let Some((leader, left)) = tries.next().await
        {
            let batch = open.iter().map(|&at| commands[at].clone()).collect();
            match self.propose_at(leader, batch, left).await {
                Ok(proposed) => {
                    for (at, proposed) in std::mem::take(&mut open).into_iter().zip(proposed) {
                        match settle(leader, proposed) {
                            Try::Done(answer) => answers[at] = Some(answer),
                            Try::Again(why) => {
                                open.push(at);
                                tries.failed(why);
                            }
                        }
                    }
                }
                Err(why) => tries.failed(why),
            }
        }
        let no_leader = tries.given_up();
        answers.into_iter().map(|a| a.unwrap_or_else(|| Err(no_leader.clone()))).collect()
    }

    /// `Err`: certainly nothing was appended.
    async fn propose_at(
        &self,
        leader: NodeId,
        commands: Vec<EncodedCommand>,
        left: Duration,
    ) -> Result<Vec<Proposed>, String> {
        let count = commands.len();
        if leader == self.id {
            let proposing = self.leading.propose(commands);
            return Ok(timeout(left, proposing).await.unwrap_or_else(|_| {
                vec![
                    Proposed::Unknown(format!(
                        "no majority answered within {} ms",
                        left.as_millis()
                    ));
                    count
                ]
            }));
        }
        let question = rpc::Propose { commands };
        match self.call(leader, Purpose::Writes, path::PROPOSE, &question, left).await {
            Ok(proposed) => Ok(proposed),
            Err(e @ (CallError::NotSent(_) | CallError::Refused(_) | CallError::Unknown(_))) => {
                Err(e.to_string())
            }
            Err(e @ CallError::Unanswered(_)) => Ok(vec![Proposed::Unknown(e.to_string()); count]),
        }
    }

    async fn read_index(&self, deadline: Instant) -> Result<u64, Unavailable> {
        let mut tries = self.tries(deadline);
        while let Some((leader, left)) = tries.next().await {
            let answer = if leader == self.id {
                Ok(self.leading.read_index().await)
            } else {
                self.call(leader, Purpose::Reads, path::READ_INDEX, &(), left / 2).await
            };
            match answer {
                Ok(ReadIndex::At(log_id)) => return Ok(log_id.index),
                Ok(ReadIndex::NotLeader(why)) => tries.failed(why),
                Err(e) => tries.failed(e),
            }
        }
        Err(tries.given_up())
    }

    /// Renewing twice is harmless, so a broken call is simply made again.
    async fn renew(
        &self,
        asked: &[BeatsAsked],
        deadline: Instant,
    ) -> Result<(Revision, Vec<BeatsTold>), Unavailable> {
        let mut encoded = None;
        let mut tries = self.tries(deadline);
        while let Some((leader, left)) = tries.next().await {
            let answer = if leader == self.id {
                Ok(self.leading.beats(asked, self.id).await)
            } else {
                let question = encoded.get_or_insert_with(|| encode(asked)).clone();
                self.beats_at(leader, question, asked, left / 2).await
            };
            match answer {
                Ok(BeatsAnswer::Confirmed(revision, told)) => return Ok((revision, told)),
                Ok(BeatsAnswer::NotLeader(why)) => tries.failed(why),
                Err(e) => tries.failed(e),
            }
        }
        Err(tries.given_up())
    }

    /// `question` is what was `asked`, encoded.
    async fn beats_at(
        &self,
        leader: NodeId,
        question: Bytes,
        asked: &[BeatsAsked],
        left: Duration,
    ) -> Result<BeatsAnswer, CallError> {
        let begun = Instant::now();
        let call =
            |link: Arc<Link>| async move { link.call_encoded(path::BEATS, question, left).await };
        match self.ask(leader, Purpose::Heartbeats, call).await {
            Err(CallError::Unknown(_)) => {
                let left = left.saturating_sub(begun.elapsed());
                self.beats_at_earlier_version(leader, asked, left).await
            }
            answer => answer,
        }
    }

    /// A leader of an earlier version takes beats that were read already. Bodies are given back
    /// unread: whoever got them reads them and comes again.
    async fn beats_at_earlier_version(
        &self,
        leader: NodeId,
        asked: &[BeatsAsked],
        left: Duration,
    ) -> Result<BeatsAnswer, CallError> {
        let beats = asked.iter().flat_map(read_already).cloned().collect();
        let question = rpc::Heartbeats { beats };
        let answer =
            self.call(leader, Purpose::Heartbeats, path::HEARTBEATS, &question, left).await?;
        Ok(match answer {
            HeartbeatsAnswer::Confirmed(BeatAnswers { revision, each }) => {
                let mut each = each.into_iter();
                let told = asked.iter().map(|asked| told(asked, &mut each)).collect();
                BeatsAnswer::Confirmed(revision, told)
            }
            HeartbeatsAnswer::NotLeader(why) => BeatsAnswer::NotLeader(why),
        })
    }

    async fn last_heard(
        &self,
        sessions: Vec<SessionId>,
        deadline: Instant,
    ) -> Result<Vec<Option<Heard>>, Unavailable> {
        let question = rpc::LastHeard { sessions };
        let mut tries = self.tries(deadline);
        while let Some((leader, left)) = tries.next().await {
            let answer = if leader == self.id {
                Ok(self.leading.last_heard(&question.sessions).await)
            } else {
                self.call(leader, Purpose::Reads, path::LAST_HEARD, &question, left / 2).await
            };
            match answer {
                Ok(LastHeardAnswer::Known(heard)) => return Ok(heard),
                Ok(LastHeardAnswer::NotLeader(why)) => tries.failed(why),
                Err(e) => tries.failed(e),
            }
        }
        Err(tries.given_up())
    }
}

/// A leader's mistake: renewing again is harmless.
fn another_answer() -> Unavailable {
    Unavailable::NoLeader("the leader answered what was not asked".into())
}

/// Without field names; see [`BeatsAsked`].
pub fn encode(asked: &[BeatsAsked]) -> Bytes {
    // Numbers, text and bytes in memory always encode.
    rmp_serde::to_vec(asked).unwrap_or_default().into()
}

fn read_already(asked: &BeatsAsked) -> &[Beat] {
    match asked {
        BeatsAsked::One(beat) => std::slice::from_ref(beat),
        BeatsAsked::Many(beats) => beats,
        BeatsAsked::Body(_) => &[],
    }
}

/// This one's share of what was answered to all that [`read_already`] found, in order.
fn told(
    asked: &BeatsAsked,
    each: &mut impl Iterator<Item = Result<Renewed, BeatRefused>>,
) -> BeatsTold {
    match asked {
        // A leader that answers fewer than were asked has not taken this one up.
        BeatsAsked::One(_) => BeatsTold::One(each.next().unwrap_or(Err(BeatRefused::Ending))),
        BeatsAsked::Many(beats) => BeatsTold::Many(each.take(beats.len()).collect()),
        BeatsAsked::Body(_) => BeatsTold::Body(BodyAnswer::NotRead),
    }
}

/// `asked`: the node that was taken for the leader.
fn settle(asked: NodeId, proposed: Proposed) -> Try<Result<Outcome, Unavailable>> {
    match proposed {
        Proposed::Decided(outcome) => Try::Done(Ok(outcome)),
        Proposed::Unknown(why) => Try::Done(Err(Unavailable::Unknown(why))),
        Proposed::NotAppended(NotAppended::ReadOnly(why)) => {
            Try::Done(Err(Unavailable::ReadOnly(why)))
        }
        Proposed::NotAppended(NotAppended::NotLeader(leader)) => Try::Again(match leader {
            Some(leader) if leader == asked => {
                format!("node {leader} leads but no majority of the nodes hears it")
            }
            Some(leader) => format!("node {leader} may lead now"),
            None => "the asked node does not lead any more".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use roster_storage::names::InstanceKey;

    use super::*;

    #[test]
    fn a_heartbeat_weighs_at_least_what_it_takes_on_the_way() {
        let named = |length: usize| {
            let name = "n".repeat(length);
            let key = InstanceKey::new(name.parse().expect("a name"), name.parse().expect("an id"));
            let adopted = vec![(key.app.clone(), Revision(u64::MAX)); 3];
            let target = BeatTarget::Instance { key, incarnation: None };
            Beat { adopted, mark: Some(i64::MAX), ..Beat::of(target) }
        };
        let session = Beat::of(BeatTarget::Session("7".parse().expect("an id")));
        for beat in [session, named(1), named(40), named(1_024)] {
            for asked in [asking(vec![beat.clone()]), asking(vec![beat.clone(); 9])] {
                let bytes = encode(std::slice::from_ref(&asked)).len();
                assert!(weight(&asked) >= bytes, "{} for {bytes} bytes", weight(&asked));
            }
        }
    }
}
