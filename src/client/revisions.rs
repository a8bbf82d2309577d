//! What a watch gives out, and from where it resumes: no sockets, no clock.
//!
//! The position is the last revision of which everything was given out. Events of the next one are
//! held until its last one came, then given out together. So whenever a connection breaks, the
//! position says exactly what is still to come: nothing is lost, nothing comes twice, and no
//! revision is seen in half.

use std::collections::VecDeque;

use roster_storage::names::Revision;

use super::event::{Event, Message};
use super::watch::Item;

/// The events of one revision may take so much, as they are on the wire. That is room for some
/// 150,000 instances, but there is no limit to what one revision changes: an app goes with all of its
/// instances.
const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What follows from a message.
#[derive(Debug)]
pub(super) enum Next {
    /// Read on.
    GoOn,
    /// Read on; all up to the position is known to have arrived.
    Settled,
    /// The node ends the stream because this client is too slow.
    Lagging(String),
    /// The node ends the stream because it stops.
    Bye(String),
    /// The node does not have what comes after the position.
    Compacted { restart_from: Revision, detail: String, line: Box<str> },
}

/// A message that cannot be taken.
#[derive(Debug)]
pub(super) enum Untaken {
    /// It cannot come here: the stream is not to be believed any more.
    OutOfOrder(String),
    /// It would come again on every node: the watch cannot get past this revision.
    TooLarge { revision: Revision, bytes_max: usize },
}

#[derive(Debug)]
pub(super) struct Revisions {
    /// `None`: a whole snapshot must come first.
    position: Option<Revision>,
    in_snapshot: bool,
    held: Vec<Event>,
    held_bytes: usize,
}

impl Revisions {
    /// All after `from`, or a snapshot first.
    pub fn new(from: Option<Revision>) -> Self {
        Self { position: from, in_snapshot: false, held: Vec::new(), held_bytes: 0 }
    }

    /// From where to resume; `None`: with a snapshot.
    pub fn position(&self) -> Option<Revision> {
        self.position
    }

    /// The stream broke: what was not given out will come again.
    pub fn broken(&mut self) {
        self.in_snapshot = false;
        self.drop_held();
    }

    /// Everything begins again with a snapshot.
    pub fn start_over(&mut self) {
        self.broken();
        self.position = None;
    }

    /// Takes a message and puts what can be given out to the end of `out`.
    pub fn take(&mut self, message: Message, out: &mut VecDeque<Item>) -> Result<Next, Untaken> {
        match message {
            Message::SnapshotBegin { revision, line } => {
                self.start_over();
                self.in_snapshot = true;
                out.push_back(Item::SnapshotBegin { revision, line });
                Ok(Next::GoOn)
            }
            Message::SnapshotEnd { revision, line } if self.in_snapshot => {
                self.in_snapshot = false;
                self.position = Some(revision);
                out.push_back(Item::SnapshotEnd { revision, line });
                Ok(Next::Settled)
            }
            Message::SnapshotEnd { revision, .. } => Err(Untaken::OutOfOrder(format!(
                "the end of a snapshot at {revision} that never began"
            ))),
            Message::Change(event) if self.in_snapshot => {
                out.push_back(Item::Listed(*event));
                Ok(Next::GoOn)
            }
            Message::Change(event) => self.change(*event, out),
            Message::Bookmark { revision, line } => self.bookmark(revision, line, out),
            Message::Lagging { revision, detail } => {
                self.stop(revision);
                Ok(Next::Lagging(detail))
            }
            Message::Bye { revision, detail } => {
                self.stop(revision);
                Ok(Next::Bye(detail))
            }
            Message::Compacted { restart_from, detail, line } => {
                self.broken();
                Ok(Next::Compacted { restart_from, detail, line })
            }
            Message::Unknown => Ok(Next::GoOn),
        }
    }

    fn change(&mut self, event: Event, out: &mut VecDeque<Item>) -> Result<Next, Untaken> {
        let revision = event.revision;
        match self.position {
            None => {
                return Err(Untaken::OutOfOrder(format!(
                    "revision {revision} before any snapshot"
                )));
            }
            // It was given out already.
            Some(position) if revision <= position => return Ok(Next::GoOn),
            Some(_) => {}
        }
        match self.held.last().map(|held| held.revision) {
            Some(held) if held > revision => {
                return Err(Untaken::OutOfOrder(format!("revision {revision} after {held}")));
            }
            // Events of one revision come together, so this one tells that the held are complete.
            Some(held) if held < revision => self.release(out),
            Some(_) | None => {}
        }
        self.hold(event)?;
        match self.held.last() {
            Some(last) if last.more => Ok(Next::GoOn),
            Some(_) | None => {
                self.release(out);
                Ok(Next::Settled)
            }
        }
    }

    fn hold(&mut self, event: Event) -> Result<(), Untaken> {
        self.held_bytes += event.line.len();
        if self.held_bytes > HELD_BYTES_MAX {
            return Err(Untaken::TooLarge { revision: event.revision, bytes_max: HELD_BYTES_MAX });
        }
        self.held.push(event);
        Ok(())
    }

    fn release(&mut self, out: &mut VecDeque<Item>) {
        let Some(last) = self.held.last_mut() else { return };
        last.more = false;
        self.position = Some(last.revision);
        out.extend(self.held.drain(..).map(Item::Changed));
        self.drop_held();
    }

    /// Frees the room too: a mass departure is rare.
    fn drop_held(&mut self) {
        self.held = Vec::new();
        self.held_bytes = 0;
    }

    fn bookmark(
        &mut self,
        revision: Revision,
        line: Box<str>,
        out: &mut VecDeque<Item>,
    ) -> Result<Next, Untaken> {
        let Some(position) = self.position else {
            return Err(Untaken::OutOfOrder(format!(
                "bookmark {revision} before the end of a snapshot"
            )));
        };
        if revision < position {
            return Ok(Next::GoOn);
        }
        match self.held.last().map(|held| held.revision) {
            Some(held) if held > revision => return Ok(Next::GoOn),
            Some(_) => self.release(out),
            None => {}
        }
        self.position = Some(revision);
        out.push_back(Item::Bookmark { revision, line });
        Ok(Next::Settled)
    }

    /// The node's own end of a stream. What it says of the last complete revision is only taken
    /// where nothing is half there: going back is always safe, going ahead is not.
    fn stop(&mut self, revision: Revision) {
        if self.held.is_empty() && !self.in_snapshot {
            self.position = self.position.map(|position| position.max(revision));
        }
        self.broken();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: u64, id: &str, more: bool) -> Message {
        let line = format!(
            r#"{{"event":"put","kind":"instance","revision":{revision},"app":"a","id":"{id}","more":{more}}}"#
        );
        Message::parse(line).expect("a change")
    }

    fn message(line: &str) -> Message {
        Message::parse(line.into()).expect("a message")
    }

    /// Gives the messages and tells what came out.
    fn play(revisions: &mut Revisions, messages: Vec<Message>) -> Vec<String> {
        let mut out = VecDeque::new();
        for message in messages {
            revisions.take(message, &mut out).expect("in order");
        }
        out.iter().map(told).collect()
    }

    fn told(item: &Item) -> String {
        match item {
            Item::SnapshotBegin { revision, .. } => format!("begin {revision}"),
            Item::Listed(event) => format!("listed {} {}", event.revision, event.id),
            Item::SnapshotEnd { revision, .. } => format!("end {revision}"),
            Item::Changed(event) => format!("{} {} {}", event.revision, event.id, event.more),
            Item::Bookmark { revision, .. } => format!("bookmark {revision}"),
            Item::Compacted { .. } | Item::Interrupted { .. } | Item::Resumed { .. } => {
                unreachable!("the connection's")
            }
        }
    }

    #[test]
    fn a_revision_is_held_until_its_last_event_came() {
        let mut revisions = Revisions::new(Some(Revision(4)));
        let half = vec![change(5, "x", true), change(5, "y", true)];
        assert!(play(&mut revisions, half).is_empty());
        assert_eq!(revisions.position(), Some(Revision(4)));
        let all = play(&mut revisions, vec![change(5, "z", false)]);
        assert_eq!(all, ["5 x true", "5 y true", "5 z false"]);
        assert_eq!(revisions.position(), Some(Revision(5)));
    }

    #[test]
    fn a_revision_that_broke_in_the_middle_comes_once() {
        let mut revisions = Revisions::new(Some(Revision(4)));
        assert!(play(&mut revisions, vec![change(5, "x", true)]).is_empty());
        revisions.broken();
        let again = play(&mut revisions, vec![change(5, "x", true), change(5, "y", false)]);
        assert_eq!(again, ["5 x true", "5 y false"]);
    }

    #[test]
    fn what_was_given_out_is_not_given_again() {
        let mut revisions = Revisions::new(Some(Revision(4)));
        let twice = vec![change(5, "x", false), change(5, "x", false), change(6, "y", false)];
        assert_eq!(play(&mut revisions, twice), ["5 x false", "6 y false"]);
    }

    #[test]
    fn a_later_revision_or_a_bookmark_completes_the_held_one() {
        let mut revisions = Revisions::new(Some(Revision(4)));
        let first = play(&mut revisions, vec![change(5, "x", true), change(6, "y", true)]);
        assert_eq!(first, ["5 x false"]);
        let bookmark = message(r#"{"event":"bookmark","revision":9}"#);
        assert_eq!(play(&mut revisions, vec![bookmark]), ["6 y false", "bookmark 9"]);
        assert_eq!(revisions.position(), Some(Revision(9)));
    }

    #[test]
    fn a_snapshot_moves_the_position_only_with_its_end() {
        let mut revisions = Revisions::new(None);
        let begin = r#"{"event":"snapshot-begin","revision":9}"#;
        let out = play(&mut revisions, vec![message(begin), change(7, "x", false)]);
        assert_eq!(out, ["begin 9", "listed 7 x"]);
        revisions.take(message(r#"{"event":"bye","revision":9}"#), &mut VecDeque::new()).expect("");
        assert_eq!(revisions.position(), None);
        let end = message(r#"{"event":"snapshot-end","revision":9}"#);
        play(&mut revisions, vec![message(begin), end]);
        assert_eq!(revisions.position(), Some(Revision(9)));
    }

    #[test]
    fn an_end_moves_the_position_unless_a_revision_is_half_there() {
        let lagging = || message(r#"{"event":"lagging","revision":8}"#);
        let mut revisions = Revisions::new(Some(Revision(4)));
        play(&mut revisions, vec![lagging()]);
        assert_eq!(revisions.position(), Some(Revision(8)));
        let mut revisions = Revisions::new(Some(Revision(4)));
        play(&mut revisions, vec![change(8, "x", true), lagging()]);
        assert_eq!(revisions.position(), Some(Revision(4)));
    }

    #[test]
    fn a_stream_that_goes_back_is_not_believed() {
        let mut revisions = Revisions::new(Some(Revision(4)));
        play(&mut revisions, vec![change(8, "x", true)]);
        let said = |revisions: &mut Revisions| {
            let back = revisions.take(change(7, "y", false), &mut VecDeque::new());
            match back.expect_err("out of order") {
                Untaken::OutOfOrder(why) => why,
                Untaken::TooLarge { .. } => unreachable!("it is small"),
            }
        };
        assert!(said(&mut revisions).contains("revision 7 after 8"));
        assert!(said(&mut Revisions::new(None)).contains("before any snapshot"));
    }
}
