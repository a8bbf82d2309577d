//! One candidate leads; when it dies, the next one does in the same revision.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cluster_tests::cluster::Cluster;
use cluster_tests::latches::{Told, all_nodes_agree, resign, so_many_wait};
use cluster_tests::watch::{Event, Form, Line, Stream};

use crate::three_nodes;

const PATH: &str = "/v1/elections/scheduler";

/// How long an expiry may take on a busy machine.
const TOLD_WITHIN: Duration = Duration::from_secs(30);

/// A candidate as a process of its own. It is killed when this is dropped.
struct Candidate(Child);

impl Candidate {
    fn stands(cluster: &Cluster, first: usize, value: &str) -> Self {
        let process = Command::new(env!("CARGO_BIN_EXE_roster-under-test"))
            .args(["election", "campaign", "scheduler", "--ttl", "1s", "--value", value])
            .args(["--endpoint", &cluster.endpoints(first)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        Self(process.expect("it starts"))
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn when_a_leader_dies_the_next_candidate_leads_and_all_is_told_in_one_revision() {
    let cluster = three_nodes().start().await;
    let client = cluster.client();
    let (leader, followers) = cluster.leader_and_followers().await;
    let at = client.at(leader);
    let mut stream = Stream::open(&client.at(followers[1]), "election=scheduler", Form::Lines)
        .await
        .expect("a stream");
    let first = Candidate::stands(&cluster, 0, "10.0.0.1:1");
    let leads = told_together(&mut stream).await;
    assert_eq!(leads.len(), 1, "{leads:?}");
    let second = Candidate::stands(&cluster, 1, "10.0.0.2:2");
    let waits = told_together(&mut stream).await;
    assert_eq!((waits.len(), Told::of(&waits[0].object).token), (1, None), "{waits:?}");
    so_many_wait(&at, PATH, 1).await;

    drop(first);
    let handover = told_together(&mut stream).await;
    let [gone, next] = &handover[..] else { panic!("{handover:?}") };
    let was = Told::of(&leads[0].object);
    assert_eq!(Told::of(&gone.object).what, "expired");
    assert_eq!(Told::of(&gone.object).token, was.token);
    assert_eq!(Told::of(&next.object).token, Some(next.revision), "S2: not of this revision");
    assert_eq!(next.object["value"]["value"], "10.0.0.2:2");
    assert_eq!(gone.revision, next.revision);
    for node in cluster.ids() {
        let stale = resign(&client.at(node), "scheduler", was.token.expect("it led")).await;
        assert_eq!(stale.expect_err("it leads no more").code(), "stale-token", "node {node}");
        let election = client.at(node).get(PATH).await.expect("an election").json();
        let told = (&election["value"], &election["token"], &election["waiting"]);
        assert_eq!(*told.0, "10.0.0.2:2", "node {node}");
        assert_eq!((told.1.as_u64(), told.2.as_u64()), (Some(next.revision), Some(0)));
    }
    drop(second);
    all_nodes_agree(&cluster, &client, "election=scheduler").await;
}

/// The events of the next revision that has any.
async fn told_together(stream: &mut Stream) -> Vec<Event> {
    let mut together = Vec::new();
    loop {
        let line = stream.next_within(TOLD_WITHIN).await.expect("a line in time");
        match line.expect("the stream goes on") {
            Line::Event(event) => {
                let more = event.more;
                together.push(event);
                if !more {
                    return together;
                }
            }
            Line::SnapshotBegin(_) | Line::SnapshotEnd(_) | Line::Bookmark(_) => {}
            line @ (Line::Lagging(_) | Line::Compacted { .. } | Line::Bye(_)) => {
                panic!("{line:?}")
            }
        }
    }
}
