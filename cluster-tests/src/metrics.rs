//! Reads what a node tells at `/metrics`, and holds it to the conventions.

use std::collections::{BTreeMap, BTreeSet};

use crate::client::{At, Failed};

/// One whole answer, in OpenMetrics.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub families: BTreeMap<String, Family>,
    pub samples: Vec<Sample>,
}

#[derive(Clone, Debug, Default)]
pub struct Family {
    pub help: String,
    pub kind: String,
    pub unit: String,
}

#[derive(Clone, Debug)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Metrics {
    pub async fn of(at: &At<'_>) -> Result<Self, Failed> {
        Ok(Self::read(&at.get("/metrics").await?.text))
    }

    pub fn read(text: &str) -> Self {
        let mut metrics = Self::default();
        assert!(text.ends_with("# EOF\n"), "it is not whole: {text}");
        for line in text.lines().filter(|line| *line != "# EOF") {
            match line.strip_prefix("# ") {
                Some(told) => metrics.describe(told),
                None => metrics.samples.push(sample(line)),
            }
        }
        metrics
    }

    fn describe(&mut self, told: &str) {
        let mut words = told.splitn(3, ' ');
        let (what, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let family = self.families.entry(name.to_owned()).or_default();
        let rest = words.next().unwrap_or_default().to_owned();
        match what {
            "HELP" => family.help = rest,
            "TYPE" => family.kind = rest,
            "UNIT" => family.unit = rest,
            other => panic!("what is {other}? {told}"),
        }
    }

    /// The sum of all samples with this name and these labels; `None` without any.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |sample: &&Sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(label, value)| sample.labels.get(*label).is_some_and(|v| v == value))
        };
        let mut found = self.samples.iter().filter(has).map(|sample| sample.value).peekable();
        found.peek()?;
        Some(found.sum())
    }

    /// Panics where there is none.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.sum(name, labels).unwrap_or_else(|| panic!("there is no {name} with {labels:?}"))
    }

    /// The names that samples of the families have.
    pub fn sample_names(&self) -> BTreeSet<String> {
        let names = self.families.iter().flat_map(|(name, family)| {
            let ends: &[&str] = match family.kind.as_str() {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            ends.iter().map(move |end| format!("{name}{end}"))
        });
        names.collect()
    }
}

fn sample(line: &str) -> Sample {
    let (head, value) = line.rsplit_once(' ').expect("a value");
    let (name, labels) = head.split_once('{').unwrap_or((head, "}"));
    let labels = labels.strip_suffix('}').expect("the end of the labels");
    // No label of Roster has a comma or a quote in it.
    let label = |label: &str| {
        let (name, value) = label.split_once('=').expect("a label");
        (name.to_owned(), value.trim_matches('"').to_owned())
    };
    Sample {
        name: name.to_owned(),
        labels: labels.split(',').filter(|l| !l.is_empty()).map(label).collect(),
        value: value.parse().expect("a number"),
    }
}
