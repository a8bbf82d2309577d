//! What came of the tries of one walk from node to node, and which of them is told. Pure.
//!
//! The last try is often not the telling one: a node that lives and says why it cannot serve says more
//! than two that are gone, whichever of them was asked last.

use super::endpoints::Endpoints;
use super::error::{Error, Outcome};

/// The newest failure at each node, by its place on the list.
#[derive(Debug)]
pub(super) struct Tries(Vec<Option<Error>>);

/// How much a failure says; what is higher is told first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Telling {
    /// Nobody was there.
    NotReached,
    /// Somebody was there, and said nothing.
    Silent,
    /// Somebody else was there.
    Stranger,
    /// A node said why not.
    Refused,
}

impl Tries {
    pub fn new(nodes: usize) -> Self {
        Self(vec![None; nodes])
    }

    pub fn note(&mut self, at: usize, error: &Error) {
        if let Some(newest) = self.0.get_mut(at) {
            *newest = Some(error.clone());
        }
    }

    /// Whether no other node could be reached when it was tried last.
    pub fn is_alone(&self, at: usize) -> bool {
        let is_gone = |error: &Option<Error>| {
            error.as_ref().is_some_and(|error| telling(error) == Telling::NotReached)
        };
        self.0.iter().enumerate().all(|(other, error)| other == at || is_gone(error))
    }

    /// After all were tried in vain: the most telling failure, beside it what came of the others.
    /// `last` is given back where nothing was noted.
    pub fn most_telling(&self, endpoints: &Endpoints, last: Error) -> Error {
        let mut groups = self.groups(endpoints);
        if groups.is_empty() {
            return last;
        }
        // The first on the list of those that say as much.
        groups.sort_by_key(|group| std::cmp::Reverse(group.telling));
        let (first, others) = (groups.remove(0), groups);
        let others: String = others.iter().map(|group| format!("; {}", group.text())).collect();
        told(first, &others, endpoints.count() > 1)
    }

    /// Nodes that said the same are named together, in the order of the list.
    fn groups(&self, endpoints: &Endpoints) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for (at, error) in self.0.iter().enumerate() {
            let Some(error) = error else { continue };
            let (telling, detail) = (telling(error), detail(error));
            let node = endpoints.get(at).to_string();
            let same = |group: &&mut Group| group.telling == telling && group.detail == detail;
            match groups.iter_mut().find(same) {
                Some(group) => group.nodes.push(node),
                None => {
                    groups.push(Group { telling, detail, nodes: vec![node], error: error.clone() });
                }
            }
        }
        groups
    }
}

/// Nodes at which the same went wrong.
struct Group {
    telling: Telling,
    detail: String,
    nodes: Vec<String>,
    error: Error,
}

impl Group {
    fn names(&self) -> String {
        self.nodes.join(", ")
    }

    /// As it stands behind what was more telling.
    fn text(&self) -> String {
        let (nodes, detail) = (self.names(), &self.detail);
        match self.telling {
            Telling::NotReached => format!("not reached: {nodes} ({detail})"),
            Telling::Silent | Telling::Refused => format!("{nodes}: {detail}"),
            Telling::Stranger => format!("{nodes}: no answer of a Roster node: {detail}"),
        }
    }
}

fn told(group: Group, others: &str, names_nodes: bool) -> Error {
    let nodes = group.names();
    match group.error {
        Error::Refused(mut problem) => {
            if names_nodes {
                problem.detail = format!("{nodes}: {}{others}", problem.detail);
            }
            Error::Refused(problem)
        }
        Error::NoAnswer { detail, outcome, .. } => {
            Error::NoAnswer { endpoint: nodes, detail: detail + others, outcome }
        }
        Error::NotRoster { detail, outcome, .. } => {
            Error::NotRoster { endpoint: nodes, detail: detail + others, outcome }
        }
        error @ (Error::Invalid(_)
        | Error::Unheard { .. }
        | Error::Compacted { .. }
        | Error::TooLarge { .. }) => error,
    }
}

fn telling(error: &Error) -> Telling {
    match error {
        Error::NoAnswer { outcome: Outcome::Nothing, .. } => Telling::NotReached,
        Error::NoAnswer { outcome: Outcome::Unknown, .. } => Telling::Silent,
        Error::NotRoster { .. } => Telling::Stranger,
        Error::Refused(_)
        | Error::Invalid(_)
        | Error::Unheard { .. }
        | Error::Compacted { .. }
        | Error::TooLarge { .. } => Telling::Refused,
    }
}

fn detail(error: &Error) -> String {
    match error {
        Error::NoAnswer { detail, .. } | Error::NotRoster { detail, .. } => detail.clone(),
        Error::Refused(problem) => format!("{}: {}", problem.code, problem.detail),
        Error::Invalid(_)
        | Error::Unheard { .. }
        | Error::Compacted { .. }
        | Error::TooLarge { .. } => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::Problem;
    use super::*;

    fn nobody() -> Error {
        let detail = "Connection refused".into();
        Error::NoAnswer { endpoint: String::new(), detail, outcome: Outcome::Nothing }
    }

    fn silence() -> Error {
        let detail = "no answer within 2s".into();
        Error::NoAnswer { endpoint: String::new(), detail, outcome: Outcome::Unknown }
    }

    fn no_leader() -> Error {
        let body = br#"{"code": "no-leader", "detail": "nobody leads", "outcome": "none"}"#;
        let status = http::StatusCode::SERVICE_UNAVAILABLE;
        Error::Refused(Box::new(Problem::parse(status, None, body)))
    }

    fn told(list: &str, errors: &[Error]) -> String {
        let endpoints = Endpoints::parse(list).expect("a list");
        let mut tries = Tries::new(endpoints.count());
        for (at, error) in errors.iter().enumerate() {
            tries.note(at, error);
        }
        tries.most_telling(&endpoints, nobody()).to_string()
    }

    #[test]
    fn a_node_that_lives_is_told_before_those_that_are_gone() {
        assert_eq!(
            told("a:1,b:1,c:1", &[nobody(), no_leader(), nobody()]),
            "no-leader: b:1: nobody leads; not reached: a:1, c:1 (Connection refused)"
        );
        assert_eq!(
            told("a:1,b:1,c:1", &[nobody(), silence(), no_leader()]),
            "no-leader: c:1: nobody leads; b:1: no answer within 2s; not reached: a:1 \
             (Connection refused)"
        );
    }

    #[test]
    fn a_node_is_alone_once_no_other_could_be_reached() {
        let mut tries = Tries::new(3);
        assert!(!tries.is_alone(2), "the others were not tried");
        tries.note(0, &nobody());
        tries.note(1, &silence());
        assert!(!tries.is_alone(2), "one is there and may answer");
        tries.note(1, &nobody());
        assert!(tries.is_alone(2) && !tries.is_alone(0));
    }

    #[test]
    fn nodes_that_say_the_same_are_named_together() {
        assert_eq!(told("a:1,b:1", &[nobody(), nobody()]), "a:1, b:1: Connection refused");
        let all = told("a:1,b:1", &[no_leader(), no_leader()]);
        assert_eq!(all, "no-leader: a:1, b:1: nobody leads");
    }

    #[test]
    fn the_only_node_needs_no_name_beside_what_it_says() {
        assert_eq!(told("a:1", &[no_leader()]), "no-leader: nobody leads");
        assert_eq!(told("a:1", &[silence()]), "a:1: no answer within 2s");
    }
}
