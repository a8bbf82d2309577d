//! `?filter=`: CEL over the fields of one instance; and `?q=`: plain text.
//!
//! A filter comes from anybody, so its cost is bounded before it runs: its length, the depth of its
//! brackets before it is parsed, the size and depth of what was parsed, one loop (`all`, `exists`,
//! ...) within none. It is parsed on a thread of its own, whose stack takes the parser's recursion:
//! on a worker's stack a nasty expression would end the process. Names and functions that are not
//! there are errors with their position; what only fails for one instance (a metadata key that it
//! does not have) is no match.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use cel::common::ast::{EntryExpr, Expr, IdedExpr, SourceInfo};
use cel::common::types::{CelInt, CelMap, CelMapKey, CelString};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::{Context, Env, Program, Value};
use roster_storage::catalog::Instance;
use roster_storage::names::{AppName, InstanceId};

use crate::error::Invalid;

/// Longer filters are refused: nobody writes one by hand.
const FILTER_BYTES_MAX: usize = 1024;

/// Nesting of brackets before, and of expressions after parsing.
const FILTER_BRACKETS_MAX: usize = 12;
const FILTER_DEPTH_MAX: usize = 48;

/// Nodes of the parsed expression, which bound the work per instance.
const FILTER_NODES_MAX: usize = 256;

/// Longer search texts are refused: they match nothing that anybody looks for.
const SEARCH_BYTES_MAX: usize = 256;

/// Stack of the parsing thread: room for the parser's recursion over `FILTER_BYTES_MAX` bytes of the
/// worst, in debug builds too.
const PARSER_STACK_BYTES: usize = 16 * 1024 * 1024;

const FIELDS: [&str; 10] =
    ["app", "id", "ip", "port", "hostname", "version", "zone", "weight", "metadata", "state"];

/// The functions of CEL that a filter may call, beside its operators.
const FUNCTIONS: [&str; 12] = [
    "contains",
    "startsWith",
    "endsWith",
    "size",
    "int",
    "uint",
    "double",
    "string",
    "bool",
    "type",
    "dyn",
    "@not_strictly_false",
];

const OPERATORS: [&str; 19] = [
    "_?_:_", "_&&_", "_||_", "!_", "_-_", "_+_", "_*_", "_/_", "_%_", "_==_", "_!=_", "_>=_",
    "_<=_", "_>_", "_<_", "-_", "_[_]", "@in", "_in_",
];

/// Which instances of a list are wanted.
#[derive(Default)]
pub(crate) struct Wanted {
    filter: Option<Program>,
    search: Option<String>,
}

impl Wanted {
    pub fn new(filter: Option<&str>, search: Option<&str>) -> Result<Self, Invalid> {
        let search = search.filter(|text| !text.is_empty()).map(search_text).transpose()?;
        Ok(Self { filter: filter.map(compile).transpose()?, search })
    }

    /// Whether all instances are wanted.
    pub fn is_all(&self) -> bool {
        self.filter.is_none() && self.search.is_none()
    }

    pub fn matches(
        &self,
        app: &AppName,
        id: &InstanceId,
        instance: &Instance,
        state: &'static str,
    ) -> bool {
        self.search.as_ref().is_none_or(|text| found(text, app, id, instance))
            && self.filter.as_ref().is_none_or(|program| {
                holds(program, &Fields { app, id, instance, state, metadata: OnceLock::new() })
            })
    }
}

fn search_text(text: &str) -> Result<String, Invalid> {
    if text.len() > SEARCH_BYTES_MAX {
        return Err(Invalid::new("q", format!("is over the limit of {SEARCH_BYTES_MAX} bytes")));
    }
    Ok(text.to_lowercase())
}

fn found(text: &str, app: &AppName, id: &InstanceId, instance: &Instance) -> bool {
    let profile = &instance.profile;
    let own = [
        app.as_str(),
        id.as_str(),
        profile.ip(),
        profile.hostname(),
        profile.zone(),
        profile.version(),
    ];
    let metadata = profile.metadata().flat_map(|(key, value)| [key, value]);
    own.into_iter().chain(metadata).any(|hay| contains_folded(hay, text))
}

/// Whether the lower-case `needle` is in `hay`, in whatever case.
fn contains_folded(hay: &str, needle: &str) -> bool {
    if hay.is_ascii() {
        let (hay, needle) = (hay.as_bytes(), needle.as_bytes());
        return hay.len() >= needle.len()
            && hay.windows(needle.len()).any(|window| window.eq_ignore_ascii_case(needle));
    }
    hay.to_lowercase().contains(needle)
}

fn compile(source: &str) -> Result<Program, Invalid> {
    let invalid = |why: String| Invalid::new("filter", why);
    if source.len() > FILTER_BYTES_MAX {
        return Err(invalid(format!("is over the limit of {FILTER_BYTES_MAX} bytes")));
    }
    brackets_within(source).map_err(invalid)?;
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("filter-parser".into())
            .stack_size(PARSER_STACK_BYTES)
            .spawn_scoped(scope, || parse(source))
            .map_err(|e| invalid(format!("cannot be read now: {e}")))?
            .join()
            .unwrap_or_else(|_| Err("cannot be parsed".into()))
            .map_err(invalid)
    })
}

/// Counts brackets in front of the parser, whose time grows fast with their depth.
fn brackets_within(source: &str) -> Result<(), String> {
    let mut depth = 0usize;
    for (at, c) in source.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > FILTER_BRACKETS_MAX {
            return Err(format!(
                "is nested too deep at position {}; the limit is {FILTER_BRACKETS_MAX}",
                at + 1
            ));
        }
    }
    Ok(())
}

fn parse(source: &str) -> Result<Program, String> {
    let parsed = catch_unwind(AssertUnwindSafe(|| standard().compile(source)));
    let program = match parsed {
        Ok(Ok(program)) => program,
        Ok(Err(errors)) => {
            let Some(first) = errors.errors.first() else { return Err("cannot be parsed".into()) };
            let (line, column) = first.pos;
            return Err(format!("is wrong at line {line}, position {column}: {}", first.msg));
        }
        Err(_) => return Err("cannot be parsed".into()),
    };
    let mut check = Check { source: program.source_info(), nodes: 0, loop_variables: Vec::new() };
    check.expression(program.expression(), 1)?;
    Ok(program)
}

fn standard() -> Arc<Env> {
    static STANDARD: OnceLock<Arc<Env>> = OnceLock::new();
    STANDARD.get_or_init(|| Arc::new(Env::stdlib().with_optional_support(false))).clone()
}

/// Walks what was parsed: names, functions, size, depth and loops.
struct Check<'a> {
    source: &'a SourceInfo,
    nodes: usize,
    /// Of the one loop that we are in.
    loop_variables: Vec<&'a str>,
}

impl<'a> Check<'a> {
    fn expression(&mut self, expression: &'a IdedExpr, depth: usize) -> Result<(), String> {
        self.nodes += 1;
        if self.nodes > FILTER_NODES_MAX {
            return Err(format!("has over {FILTER_NODES_MAX} parts, the limit"));
        }
        if depth > FILTER_DEPTH_MAX {
            return self.wrong(expression, "it is nested too deep");
        }
        match &expression.expr {
            Expr::Unspecified => self.wrong(expression, "something is missing"),
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.name(expression, name),
            Expr::Select(select) => self.expression(&select.operand, depth + 1),
            Expr::List(list) => self.all(list.elements.iter(), depth),
            Expr::Call(call) => {
                let name = call.func_name.as_str();
                if !FUNCTIONS.contains(&name) && !OPERATORS.contains(&name) {
                    return self.wrong(expression, &format!("there is no function {name:?}"));
                }
                self.all(call.target.as_deref().into_iter().chain(&call.args), depth)
            }
            Expr::Map(map) => {
                for entry in &map.entries {
                    match &entry.expr {
                        EntryExpr::MapEntry(entry) => {
                            self.all([&entry.key, &entry.value].into_iter(), depth)?;
                        }
                        EntryExpr::StructField(_) => {
                            return self.wrong(expression, "there are no structs here");
                        }
                    }
                }
                Ok(())
            }
            Expr::Struct(_) => self.wrong(expression, "there are no structs here"),
            Expr::Comprehension(_) if !self.loop_variables.is_empty() => {
                self.wrong(expression, "a loop cannot be in a loop")
            }
            Expr::Comprehension(c) => {
                self.expression(&c.iter_range, depth + 1)?;
                self.loop_variables = vec![&c.iter_var, &c.accu_var];
                self.loop_variables.extend(c.iter_var2.as_deref());
                let parts = [&c.accu_init, &c.loop_cond, &c.loop_step, &c.result];
                let result = self.all(parts.into_iter(), depth);
                self.loop_variables.clear();
                result
            }
        }
    }

    fn all(
        &mut self,
        parts: impl Iterator<Item = &'a IdedExpr>,
        depth: usize,
    ) -> Result<(), String> {
        for part in parts {
            self.expression(part, depth + 1)?;
        }
        Ok(())
    }

    fn name(&self, expression: &IdedExpr, name: &str) -> Result<(), String> {
        if FIELDS.contains(&name) || self.loop_variables.contains(&name) {
            return Ok(());
        }
        let known = FIELDS.join(", ");
        self.wrong(expression, &format!("there is no field {name:?}; there are {known}"))
    }

    fn wrong(&self, expression: &IdedExpr, why: &str) -> Result<(), String> {
        let start = self.source.offset_for(expression.id).map_or(0, |(start, _)| start);
        Err(format!("is wrong at position {}: {why}", start + 1))
    }
}

/// The fields of one instance, made into values only when the filter looks at them.
struct Fields<'a> {
    app: &'a AppName,
    id: &'a InstanceId,
    instance: &'a Instance,
    state: &'static str,
    /// Made once: a loop over metadata asks for it in every round.
    metadata: OnceLock<CelMap<'a>>,
}

impl<'a> Fields<'a> {
    fn metadata(&self) -> &CelMap<'a> {
        self.metadata.get_or_init(|| {
            let entries = self.instance.profile.metadata().map(|(key, value)| {
                let value: Box<dyn Val + 'a> = Box::new(CelString::from(value));
                (CelMapKey::from(key), value)
            });
            CelMap::from(entries.collect::<HashMap<_, _>>())
        })
    }
}

impl VariableResolver for Fields<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let profile = &self.instance.profile;
        let text = match variable {
            "app" => self.app.as_str(),
            "id" => self.id.as_str(),
            "ip" => profile.ip(),
            "hostname" => profile.hostname(),
            "version" => profile.version(),
            "zone" => profile.zone(),
            "state" => self.state,
            "port" => return Some(CowVal::owned(CelInt::from(i64::from(profile.port())))),
            "weight" => return Some(CowVal::owned(CelInt::from(i64::from(profile.weight())))),
            "metadata" => return Some(CowVal::Borrowed(self.metadata())),
            _ => return None,
        };
        Some(CowVal::owned(CelString::from(text)))
    }
}

fn holds(program: &Program, fields: &Fields<'_>) -> bool {
    let evaluated = catch_unwind(AssertUnwindSafe(|| {
        let mut context = Context::with_env(standard());
        context.set_variable_resolver(fields);
        program.execute(&context)
    }));
    matches!(evaluated, Ok(Ok(Value::Bool(true))))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use roster_storage::command::Profile;
    use roster_storage::names::{Incarnation, Revision, SessionId};

    use super::*;

    fn instance() -> Instance {
        let metadata = [("version", "2.4"), ("team", "Checkout"), ("9", "x")];
        let metadata = metadata.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Instance {
            profile: Profile {
                ip: "10.0.0.1".into(),
                port: 8719,
                hostname: "Häuschen-1".into(),
                zone: "a".into(),
                weight: 5,
                metadata: Arc::new(metadata),
                ..Profile::default()
            }
            .into(),
            session: SessionId(1),
            incarnation: Incarnation(1),
            revision: Revision(1),
            registered_at_ms: 0,
        }
    }

    fn matched(filter: Option<&str>, search: Option<&str>) -> Result<bool, String> {
        let wanted = Wanted::new(filter, search).map_err(|e| e.why)?;
        let (app, id) = ("pay".parse().expect("app"), "10.0.0.1:8719".parse().expect("id"));
        Ok(wanted.matches(&app, &id, &instance(), "up"))
    }

    #[test]
    fn a_filter_is_cel_over_the_fields_of_an_instance() {
        for (filter, expected) in [
            ("zone == \"a\" && metadata.version.startsWith(\"2.\")", true),
            ("metadata['version'] == '2.5'", false),
            ("port == 8719 && weight >= 5 && weight < 10", true),
            ("app == 'pay' && id.endsWith(':8719') && ip.contains('.0.') && state == 'up'", true),
            ("zone in ['a', 'b']", true),
            ("has(metadata.team) && !has(metadata.nothing)", true),
            ("'team' in metadata", true),
            ("metadata.exists(key, key == 'team')", true),
            ("metadata.all(key, metadata[key] != 'y')", true),
            ("hostname.startsWith('Häus') ? port > 1 : false", true),
            ("size(metadata) == 3", true),
        ] {
            assert_eq!(matched(Some(filter), None), Ok(expected), "{filter}");
        }
    }

    #[test]
    fn what_fails_for_an_instance_is_no_match() {
        for filter in
            ["metadata.nothing == 'x'", "zone > 1", "1 / 0 == 1", "zone", "port + 'a' == 'b'"]
        {
            assert_eq!(matched(Some(filter), None), Ok(false), "{filter}");
        }
    }

    #[test]
    fn an_error_names_its_position() {
        insta::assert_snapshot!(matched(Some("zone = 'a'"), None).unwrap_err(), @"is wrong at line 1, position 6: Syntax error: token recognition error at: '= '");
        insta::assert_snapshot!(matched(Some("zone == 'a' && rack == 'b'"), None).unwrap_err(), @r#"is wrong at position 16: there is no field "rack"; there are app, id, ip, port, hostname, version, zone, weight, metadata, state"#);
        insta::assert_snapshot!(matched(Some("zone.matches('a')"), None).unwrap_err(), @r#"is wrong at position 13: there is no function "matches""#);
        insta::assert_snapshot!(
            matched(Some("metadata.all(a, metadata.all(b, a == b))"), None).unwrap_err(), @"is wrong at position 29: a loop cannot be in a loop");
        insta::assert_snapshot!(matched(Some(""), None).unwrap_err(), @"is wrong at line 1, position 1: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}");
    }

    #[test]
    fn costly_filters_are_refused_quickly() {
        let started = std::time::Instant::now();
        for filter in [
            "(".repeat(1024),
            "[".repeat(12),
            "!".repeat(1023) + "a",
            "zone".to_owned() + &".a".repeat(510),
            "zone".to_owned() + &"[0]".repeat(340),
            "true?".repeat(170) + "true" + &":true".repeat(34),
            "1".to_owned() + &"+1".repeat(500),
            "true".to_owned() + &"&&true".repeat(150),
            "((((((((((((1".to_owned(),
            "x".repeat(1025),
        ] {
            assert!(matched(Some(&filter), None).is_err(), "{filter}");
        }
        let deep = "(".repeat(12) + "port" + &")".repeat(12) + " == 8719";
        assert_eq!(matched(Some(&deep), None), Ok(true));
        assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    }

    #[test]
    fn a_loop_over_the_largest_metadata_stays_cheap() {
        let mut instance = instance();
        let metadata = (0..3_000).map(|n| (format!("{n:x}").into(), "v".into())).collect();
        let profile = instance.profile.unpacked();
        instance.profile = Profile { metadata: Arc::new(metadata), ..profile }.into();
        let wanted = Wanted::new(Some("metadata.all(k, metadata[k] == 'v')"), None).expect("CEL");
        let (app, id) = ("pay".parse().expect("app"), "a".parse().expect("id"));
        let started = std::time::Instant::now();
        assert!(wanted.matches(&app, &id, &instance, "up"));
        assert!(started.elapsed().as_secs() < 2, "{:?}", started.elapsed());
    }

    #[test]
    fn a_search_finds_text_in_any_case_in_names_addresses_and_metadata() {
        for found in ["PAY", "8719", "häuschen", "HÄUS", "checkout", "TEAM", "2.4", ""] {
            assert_eq!(matched(None, Some(found)), Ok(true), "{found}");
        }
        assert_eq!(matched(None, Some("nowhere")), Ok(false));
        assert_eq!(matched(Some("zone == 'b'"), Some("pay")), Ok(false));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_text_makes_a_filter_panic(text in "\\PC{0,60}") {
            let _ = matched(Some(&text), Some(&text));
        }

        #[test]
        fn no_mix_of_cel_makes_a_filter_panic(
            words in prop::collection::vec(prop::sample::select(vec![
                "zone", "metadata", ".", "(", ")", "[", "]", "'a'", "1", "9223372036854775807", "==",
                "+", "-", "*", "/", "%", "&&", "!", "?", ":", ",", "{", "}", "in", "has", "size",
                "exists", "map", "x", "1u", "1e9", "b'a'", "null", "true", "r'", "\\", "`a`", ".?",
            ]), 0..24)
        ) {
            let text = words.join(" ");
            let _ = matched(Some(&text), None);
            let _ = matched(Some(&words.concat()), None);
        }
    }
}
