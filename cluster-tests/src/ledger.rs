//! What workers wrote down of their work, and whether two ever worked on one shard.
//!
//! Whoever works holds a grant, and grants of a shard only rise. A worker may be late to stop only
//! if it was frozen, and then it works no more once it runs again.

use std::collections::BTreeMap;
use std::fmt;

use crate::locks::{escaped, number, unescaped};

/// A line of a worker's log; times are in microseconds by [`now_us`](crate::locks::now_us).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Begin { shard: String, grant: u64, at_us: u64 },
    End { shard: String, grant: u64, at_us: u64 },
    Work { shard: String, grant: u64, at_us: u64 },
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, (shard, grant, at_us)) = match self {
            Self::Begin { shard, grant, at_us } => ("begin", (shard, grant, at_us)),
            Self::End { shard, grant, at_us } => ("end", (shard, grant, at_us)),
            Self::Work { shard, grant, at_us } => ("work", (shard, grant, at_us)),
        };
        write!(f, "{word} {} {grant} {at_us}", escaped(shard))
    }
}

impl Entry {
    /// `None`: the line was not written in full.
    pub fn parse(line: &str) -> Option<Self> {
        let words: Vec<_> = line.strip_suffix('\n')?.split(' ').collect();
        let [word, shard, grant, at_us] = words[..] else { panic!("not an entry: {line:?}") };
        let (shard, grant, at_us) = (unescaped(shard), number(grant), number(at_us));
        Some(match word {
            "begin" => Self::Begin { shard, grant, at_us },
            "end" => Self::End { shard, grant, at_us },
            "work" => Self::Work { shard, grant, at_us },
            _ => panic!("not an entry: {line:?}"),
        })
    }
}

/// One worker process, from its start to its end.
#[derive(Clone, Debug)]
pub struct Life {
    /// For messages.
    pub who: String,
    pub entries: Vec<Entry>,
    /// When it was gone, if it was killed.
    pub killed_us: Option<u64>,
    /// From when to when it was frozen.
    pub frozen: Vec<(u64, u64)>,
}

/// Work on one shard under one grant, without a break.
#[derive(Clone, Debug)]
struct Span {
    life: usize,
    grant: u64,
    begun_us: u64,
    /// The greatest number if it goes on.
    ended_us: u64,
    worked_us: Vec<u64>,
}

/// How much was held against each other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checked {
    pub shards: usize,
    pub spans: usize,
    /// Spans that were over only when their frozen worker ran again, with a successor at work.
    pub frozen: usize,
    pub pieces: usize,
}

/// Holds all lives against each other; panics if two were at work on one shard.
pub fn check(lives: &[Life]) -> Checked {
    let mut by_shard: BTreeMap<String, Vec<Span>> = BTreeMap::new();
    for (number, life) in lives.iter().enumerate() {
        for (shard, span) in spans(number, life) {
            by_shard.entry(shard).or_default().push(span);
        }
    }
    let mut checked = Checked { shards: by_shard.len(), ..Checked::default() };
    for (shard, spans) in &mut by_shard {
        spans.sort_by_key(|span| (span.grant, span.begun_us));
        checked.spans += spans.len();
        checked.pieces += spans.iter().map(|span| span.worked_us.len()).sum::<usize>();
        for (at, span) in spans.iter().enumerate() {
            checked.frozen +=
                usize::from(is_followed_as_it_should(lives, shard, span, &spans[at + 1..]));
        }
    }
    checked
}

/// Whether it overlaps with a later one, as it may if it was frozen.
fn is_followed_as_it_should(lives: &[Life], shard: &str, span: &Span, later: &[Span]) -> bool {
    let who = &lives[span.life].who;
    for next in later.iter().filter(|next| next.grant == span.grant) {
        assert_eq!(
            next.life, span.life,
            "{who} and another had {shard} under one grant: {span:?} {next:?}"
        );
        assert!(next.begun_us >= span.ended_us, "{who} worked on {shard} twice: {span:?} {next:?}");
    }
    let newer = later.iter().filter(|next| next.grant > span.grant);
    let Some(next) = newer.min_by_key(|next| next.begun_us) else { return false };
    if next.begun_us >= span.ended_us {
        return false;
    }
    let successor = &lives[next.life].who;
    let frozen = lives[span.life]
        .frozen
        .iter()
        .find(|(from_us, _)| (span.begun_us..=next.begun_us).contains(from_us));
    let Some((_, thawed_us)) = frozen else {
        panic!("{who} and {successor} worked on {shard} at once: {span:?} {next:?}");
    };
    // The piece in the middle of which it was frozen is all that may come.
    let late = span.worked_us.iter().filter(|worked| *worked > thawed_us).count();
    assert!(
        late <= 1,
        "{who} was thawed and went on with {shard} of {successor}: {span:?} {next:?}"
    );
    true
}

fn spans(number: usize, life: &Life) -> Vec<(String, Span)> {
    let end = life.killed_us.unwrap_or(u64::MAX);
    let mut open: BTreeMap<String, Span> = BTreeMap::new();
    let mut done = Vec::new();
    for entry in &life.entries {
        match entry {
            Entry::Begin { shard, grant, at_us } => {
                let span = Span {
                    life: number,
                    grant: *grant,
                    begun_us: *at_us,
                    ended_us: end,
                    worked_us: Vec::new(),
                };
                let before = open.insert(shard.clone(), span);
                assert!(before.is_none(), "{} began {shard} twice: {before:?}", life.who);
            }
            Entry::Work { shard, grant, at_us } => {
                let span = open.get_mut(shard).filter(|span| span.grant == *grant);
                span.unwrap_or_else(|| panic!("{}: {entry}", life.who)).worked_us.push(*at_us);
            }
            Entry::End { shard, grant, at_us } => {
                let span = open.remove(shard).filter(|span| span.grant == *grant);
                let mut span = span.unwrap_or_else(|| panic!("{}: {entry}", life.who));
                span.ended_us = *at_us;
                done.push((shard.clone(), span));
            }
        }
    }
    done.extend(open);
    done
}
