//! Whether a value is what a schema of the OpenAPI document says. Only what that document uses is known here:
//! anything else fails, so that nothing passes since nobody looked.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use regex::Regex;
use serde_json::{Map, Value};

/// What says nothing of which values fit.
const ANNOTATIONS: [&str; 8] = [
    "contentEncoding",
    "default",
    "description",
    "examples",
    "format",
    "title",
    "propertyNames",
    "discriminator",
];

/// Schemas of one document, which `$ref` leads to.
#[derive(Clone, Copy)]
pub struct Schemas<'a>(pub &'a Value);

type Fits = Result<(), String>;

impl Schemas<'_> {
    /// The error says what does not fit, and where.
    pub fn fits(self, schema: &Value, value: &Value) -> Fits {
        let Value::Object(rules) = schema else {
            return check(schema == &Value::Bool(true), || "nothing fits here".into());
        };
        rules.iter().try_for_each(|(rule, wanted)| {
            self.keeps(rules, rule, wanted, value)
                .map_err(|why| format!("{why} ({rule} {})", short(wanted)))
        })
    }

    fn keeps(self, rules: &Map<String, Value>, rule: &str, wanted: &Value, value: &Value) -> Fits {
        let each = || wanted.as_array().expect("schemas").iter();
        let fitting = || each().filter(|schema| self.fits(schema, value).is_ok()).count();
        let shown = || short(value);
        match rule {
            "$ref" => {
                let to = wanted.as_str().expect("a reference").trim_start_matches('#');
                self.fits(self.0.pointer(to).expect("it is there"), value)
            }
            "allOf" => each().try_for_each(|schema| self.fits(schema, value)),
            "anyOf" => check(fitting() > 0, shown),
            "oneOf" => check(fitting() == 1, shown),
            "const" => check(wanted == value, shown),
            "enum" => check(each().any(|word| word == value), shown),
            "type" => check(is_of_type(wanted, value), shown),
            "minimum" => check(at_most(wanted, value), shown),
            "maximum" => check(at_most(value, wanted), shown),
            "minLength" => check(length(value).is_none_or(|count| count >= number(wanted)), shown),
            "maxLength" => check(length(value).is_none_or(|count| count <= number(wanted)), shown),
            "minItems" => check(items(value).is_none_or(|all| all.len() >= number(wanted)), shown),
            "maxItems" => check(items(value).is_none_or(|all| all.len() <= number(wanted)), shown),
            "uniqueItems" => check(items(value).is_none_or(|all| are_distinct(all)), shown),
            "pattern" => check(matches(wanted, value), shown),
            "items" | "prefixItems" => self.items(rules, value),
            "required" => {
                let Value::Object(members) = value else { return Ok(()) };
                let missing = each().find(|name| !members.contains_key(text(name)));
                missing.map_or(Ok(()), |name| Err(format!("{name} is missing")))
            }
            "properties" | "additionalProperties" => self.members(rules, value),
            annotation if ANNOTATIONS.contains(&annotation) => Ok(()),
            unknown => panic!("{unknown} is not known here"),
        }
    }

    fn items(self, rules: &Map<String, Value>, value: &Value) -> Fits {
        let first = rules.get("prefixItems").and_then(Value::as_array);
        let rest = rules.get("items").unwrap_or(&Value::Bool(true));
        for (place, item) in items(value).into_iter().flatten().enumerate() {
            let schema = first.and_then(|first| first.get(place)).unwrap_or(rest);
            self.fits(schema, item).map_err(|why| format!("{place}: {why}"))?;
        }
        Ok(())
    }

    fn members(self, rules: &Map<String, Value>, value: &Value) -> Fits {
        let Value::Object(members) = value else { return Ok(()) };
        let known = rules.get("properties").unwrap_or(&Value::Null);
        let other = rules.get("additionalProperties").unwrap_or(&Value::Bool(true));
        for (name, member) in members {
            let schema = known.get(name).unwrap_or(other);
            self.fits(schema, member).map_err(|why| format!("{name}: {why}"))?;
        }
        Ok(())
    }
}

fn check(fits: bool, why: impl FnOnce() -> String) -> Fits {
    if fits { Ok(()) } else { Err(why()) }
}

fn short(value: &Value) -> String {
    value.to_string().chars().take(200).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

fn number(value: &Value) -> usize {
    value.as_u64().expect("a number") as usize
}

fn items(value: &Value) -> Option<&Vec<Value>> {
    value.as_array()
}

fn are_distinct(items: &[Value]) -> bool {
    let distinct: BTreeSet<_> = items.iter().map(Value::to_string).collect();
    distinct.len() == items.len()
}

fn length(value: &Value) -> Option<usize> {
    value.as_str().map(|text| text.chars().count())
}

fn is_of_type(wanted: &Value, value: &Value) -> bool {
    let of = |name: &Value| match text(name) {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        unknown => panic!("{unknown} is no type"),
    };
    wanted.as_array().map_or_else(|| of(wanted), |types| types.iter().any(of))
}

/// True of what is no number.
fn at_most(one: &Value, other: &Value) -> bool {
    let whole =
        |value: &Value| value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    match (whole(one), whole(other)) {
        (Some(one), Some(other)) => one <= other,
        (_, _) => one.as_f64().zip(other.as_f64()).is_none_or(|(one, other)| one <= other),
    }
}

/// True of what is no text.
fn matches(pattern: &Value, value: &Value) -> bool {
    thread_local! {
        static KNOWN: RefCell<HashMap<String, Regex>> = RefCell::default();
    }
    let Value::String(value) = value else { return true };
    KNOWN.with_borrow_mut(|known| {
        let pattern = text(pattern);
        let new = || Regex::new(pattern).expect("a pattern");
        known.entry(pattern.to_owned()).or_insert_with(new).is_match(value)
    })
}
