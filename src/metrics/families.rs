//! Writes families of metrics one after the other, in prometheus-client's encoding.

use std::fmt::Error;

use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Unit;
use roster_storage::histogram::Distribution;

type Labels<'a> = Vec<(&'a str, &'a str)>;

/// Nobody gives one.
const NO_EXEMPLAR: Option<&Exemplar<Labels<'static>, f64>> = None;

/// What nanoseconds are divided by to be seconds.
pub const NANOSECONDS: f64 = 1e9;

/// The name, the help and the unit of a family. A unit is the end of its name.
#[derive(Clone, Debug)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
}

/// A family of plain numbers.
pub fn family(name: &'static str, help: &'static str) -> Family {
    Family { name, help, unit: None }
}

impl Family {
    pub fn seconds(self) -> Self {
        Self { unit: Some(Unit::Seconds), ..self }
    }

    pub fn bytes(self) -> Self {
        Self { unit: Some(Unit::Bytes), ..self }
    }
}

/// Takes families.
pub struct Families<'a>(pub DescriptorEncoder<'a>);

impl Families<'_> {
    /// `None`: it is not known now. The family is told of all the same.
    pub fn gauge(&mut self, family: Family, value: Option<f64>) -> Result<(), Error> {
        self.gauges(family, value.map(|value| (Labels::new(), value)))
    }

    pub fn gauges<'l>(
        &mut self,
        family: Family,
        values: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) -> Result<(), Error> {
        let Family { name, help, unit } = &family;
        let kind = MetricType::Gauge;
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in values {
            match labels.is_empty() {
                true => encoder.encode_gauge(&value)?,
                false => encoder.encode_family(&labels)?.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    pub fn counter(&mut self, family: Family, value: Option<f64>) -> Result<(), Error> {
        self.counters(family, value.map(|value| (Labels::new(), value)))
    }

    pub fn counters<'l>(
        &mut self,
        family: Family,
        values: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) -> Result<(), Error> {
        let Family { name, help, unit } = &family;
        let kind = MetricType::Counter;
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in values {
            match labels.is_empty() {
                true => encoder.encode_counter(&value, NO_EXEMPLAR)?,
                false => encoder.encode_family(&labels)?.encode_counter(&value, NO_EXEMPLAR)?,
            }
        }
        Ok(())
    }

    pub fn histogram(
        &mut self,
        family: Family,
        per_unit: f64,
        value: Option<Distribution>,
    ) -> Result<(), Error> {
        self.histograms(family, per_unit, value.map(|value| (Labels::new(), value)))
    }

    /// `per_unit`: how many of what was counted are one of the family's unit.
    pub fn histograms<'l>(
        &mut self,
        family: Family,
        per_unit: f64,
        values: impl IntoIterator<Item = (Labels<'l>, Distribution)>,
    ) -> Result<(), Error> {
        let Family { name, help, unit } = &family;
        let kind = MetricType::Histogram;
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, Distribution { sum, counts }) in values {
            let bound = |bound: Option<u64>| bound.map_or(f64::INFINITY, |b| b as f64 / per_unit);
            let buckets: Vec<_> = counts.into_iter().map(|(b, count)| (bound(b), count)).collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            let sum = sum as f64 / per_unit;
            match labels.is_empty() {
                true => encoder.encode_histogram::<Labels<'_>>(sum, count, &buckets, None)?,
                false => {
                    let mut one = encoder.encode_family(&labels)?;
                    one.encode_histogram::<Labels<'_>>(sum, count, &buckets, None)?;
                }
            }
        }
        Ok(())
    }
}
