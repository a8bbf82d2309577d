//! Changes as lines for people.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::Value;

use crate::client::{Action, Event};

/// Over the lines of [`row`].
pub(super) const HEADER: &str = "TIME                      REVISION  CHANGE    KIND      NAME                            DETAILS";

/// What happened, in the table's words.
#[derive(Clone, Copy)]
pub(super) enum Change {
    /// It was there when the snapshot was made.
    Listed,
    Put,
    Delete,
}

impl From<Action> for Change {
    fn from(action: Action) -> Self {
        match action {
            Action::Put => Self::Put,
            Action::Delete => Self::Delete,
        }
    }
}

impl Change {
    fn word(self) -> &'static str {
        match self {
            Self::Listed => "snapshot",
            Self::Put => "put",
            Self::Delete => "delete",
        }
    }

    /// As terminals number them: green and red.
    fn colour(self) -> Option<u8> {
        match self {
            Self::Listed => None,
            Self::Put => Some(32),
            Self::Delete => Some(31),
        }
    }
}

pub(super) fn row(change: Change, event: &Event, coloured: bool) -> String {
    let word = format!("{:<8}", change.word());
    let row = format!(
        "{:<24}  {:>8}  {}  {:<8}  {:<30}  {}",
        escaped(event.time.as_deref().unwrap_or("-")),
        event.revision,
        match change.colour().filter(|_| coloured) {
            Some(colour) => format!("\x1b[{colour}m{word}\x1b[0m"),
            None => word,
        },
        escaped(&event.kind),
        escaped(&name(event)),
        details(event),
    );
    row.trim_end().to_owned()
}

/// An app's and a ring's id is the app's name and a shard's begins with it; locks and elections belong
/// to no app, but one of each may have the same name; everything else is named by app and id.
pub(super) fn name(event: &Event) -> Cow<'_, str> {
    match event.kind.as_str() {
        "app" | "ring" => Cow::Borrowed(&event.app),
        "shard" => Cow::Borrowed(&event.id),
        "latch" => Cow::Owned(format!("{} {}", event.latch.as_deref().unwrap_or("-"), event.id)),
        _ if event.id.is_empty() => Cow::Borrowed(&event.app),
        _ => Cow::Owned(format!("{}/{}", event.app, event.id)),
    }
}

fn details(event: &Event) -> String {
    // Whose claim ended is told at its end too.
    let value = match (event.action, event.kind.as_str()) {
        (Action::Put, _) | (Action::Delete, "latch") => event.value_as::<Value>(),
        (Action::Delete, _) => None,
    };
    let of_kind = match (event.kind.as_str(), &value) {
        ("latch", Some(claim)) => of_claim(claim, event.action),
        ("worker", _) => of_worker(event, value.as_ref()),
        ("ring", Some(ring)) => of_ring(ring),
        ("shard", None) => of_lost_shard(event),
        (_, Some(value)) => of_value(value),
        (_, None) => String::new(),
    };
    let parts = [of_kind, cause(event)];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("  ")
}

/// What a worker holds or held, and whether it is to let go.
fn of_worker(event: &Event, value: Option<&Value>) -> String {
    let mut details = escaped(event.shard.as_deref().unwrap_or("-"));
    if let Some(grant) = event.grant {
        details += &format!("  grant={grant}");
    }
    if let Some(set) = &event.set {
        details += &format!("  set={}", escaped(set));
    }
    if value.is_some_and(|value| value["release"] == true) {
        details += "  to let go";
    }
    details
}

/// Under which token a claim holds, or held, and whose it is.
fn of_claim(claim: &Value, action: Action) -> String {
    let mut details = match (claim["token"].as_u64(), action) {
        (Some(token), Action::Put) => format!("holds  token={token}"),
        (Some(token), Action::Delete) => format!("held  token={token}"),
        (None, Action::Put) => "waits".to_owned(),
        (None, Action::Delete) => "waited".to_owned(),
    };
    if claim["mode"] == "shared" {
        details += "  shared";
    }
    for name in ["session", "owner", "value"] {
        if let Some(text) = claim[name].as_str().filter(|text| !text.is_empty()) {
            details += &format!("  {name}={}", escaped(text));
        }
    }
    details
}

fn of_ring(ring: &Value) -> String {
    let workers = ring["workers"].as_array().map_or(0, Vec::len);
    let counted = if workers == 1 { "worker" } else { "workers" };
    format!("epoch={}  {workers} {counted}", ring["epoch"])
}

/// Who held it, in each shard set that had it.
fn of_lost_shard(event: &Event) -> String {
    let first = event.set.iter().map(|set| (set, event.holder.as_ref()));
    let others = event.also_held.iter().map(|held| (&held.set, held.holder.as_ref()));
    let held = first.chain(others).map(|(set, holder)| match holder {
        Some(holder) => format!("set={}  holder={}", escaped(set), escaped(holder)),
        None => format!("set={}  held by nobody", escaped(set)),
    });
    held.collect::<Vec<_>>().join("  ")
}

/// The reason and what is behind it.
fn cause(event: &Event) -> String {
    let parts = [event.reason.as_deref(), event.detail.as_deref()];
    parts.into_iter().flatten().map(escaped).collect::<Vec<_>>().join(": ")
}

/// What people look for first, of whatever kind the object is.
fn of_value(value: &Value) -> String {
    let text = |name: &str| value[name].as_str().filter(|text| !text.is_empty());
    let mut details = String::new();
    let mut add = |part: std::fmt::Arguments<'_>| {
        let separator = if details.is_empty() { "" } else { "  " };
        // Writing to a String cannot fail.
        let _ = write!(details, "{separator}{part}");
    };
    if let Some(state) = text("state") {
        add(format_args!("{}", escaped(state)));
    }
    match (text("ip"), value["port"].as_u64()) {
        (Some(ip), Some(port)) => add(format_args!("{}:{port}", escaped(ip))),
        (Some(ip), None) => add(format_args!("{}", escaped(ip))),
        (None, _) => {}
    }
    for name in ["zone", "version", "ttl"] {
        if let Some(text) = text(name) {
            add(format_args!("{name}={}", escaped(text)));
        }
    }
    match value["weight"].as_u64() {
        Some(weight) if weight != 1 => add(format_args!("weight={weight}")),
        Some(_) | None => {}
    }
    details
}

/// The text without anything that a terminal would obey or that would mislead a reader: control
/// characters, line ends, changes of the direction of writing, invisible characters. They are
/// written as Rust writes them, `\u{1b}`, and so is the backslash.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\'' | '"' => safe.push(c),
            _ => safe.extend(c.escape_debug()),
        }
    }
    safe
}

/// The same JSON without anything that a terminal would obey or that would mislead a reader.
pub(super) fn escaped_json(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        let shown = matches!(c, '\n' | '\'' | '"' | '\\') || c.escape_debug().len() == 1;
        match shown {
            true => safe.push(c),
            false => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                // Writing to a String cannot fail.
                let _ = write!(safe, "\\u{unit:04x}");
            }),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_on_a_terminal_is_the_same_json_and_nothing_in_it_is_obeyed() {
        let json = "{\"a\\n\":\"\u{9b}31m\u{202e}\u{e0001}应 'é\\\\\"}";
        let safe = escaped_json(json);
        assert_eq!(safe, r#"{"a\n":"\u009b31m\u202e\udb40\udc01应 'é\\"}"#);
        let same = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        assert_eq!(same(&safe), same(json));
    }

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        assert_eq!(escaped("a\u{1b}[31mb\r\nc\u{9b}d"), r"a\u{1b}[31mb\r\nc\u{9b}d");
        assert_eq!(escaped("a\u{202e}b\u{2028}c\u{200b}"), r"a\u{202e}b\u{2028}c\u{200b}");
        assert_eq!(escaped("pay \"eu\" 应用 é"), "pay \"eu\" 应用 é");
        assert_eq!(escaped(r"a\nb"), r"a\\nb", "not to be taken for a line's end");
    }
}
