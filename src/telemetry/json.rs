//! One JSON object per line: when, how grave, what the line itself says, and then what it is about, as
//! the request that was being served.

use std::fmt::{self, Debug};

use serde::Serializer as _;
use serde::ser::SerializeMap;
use serde_json::{Map, Serializer, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

pub struct JsonLines;

impl<S> FormatEvent<S, JsonFields> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let mut fields = Fields(vec![
            ("timestamp".into(), timestamp.into()),
            ("level".into(), event.metadata().level().as_str().into()),
        ]);
        event.record(&mut fields);
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            let Some(of_span) = extensions.get::<FormattedFields<JsonFields>>() else { continue };
            let of_span: Map<String, Value> = serde_json::from_str(of_span).unwrap_or_default();
            of_span.into_iter().for_each(|(name, value)| fields.add_unless_known(name, value));
        }
        writeln!(to, "{}", fields.line().map_err(|_| fmt::Error)?)
    }
}

/// In their order.
struct Fields(Vec<(String, Value)>);

impl Fields {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.push((field.name().into(), value.into()));
    }

    fn add_unless_known(&mut self, name: String, value: Value) {
        if self.0.iter().all(|(known, _)| *known != name) {
            self.0.push((name, value));
        }
    }

    fn line(self) -> serde_json::Result<String> {
        let mut line = Vec::new();
        let mut writer = Serializer::new(&mut line);
        let mut map = writer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()?;
        Ok(String::from_utf8_lossy(&line).into_owned())
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_line_carries_its_own_fields_and_then_those_of_the_request_it_was_written_for() {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(lines.clone())
            .fmt_fields(JsonFields::new())
            .event_format(JsonLines)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let request = tracing::info_span!("request", request_id = "r\"1");
            let _entered = request.enter();
            tracing::warn!(term = 3_u64, why = ?"x", "it {}", "failed");
            tracing::info!(request_id = "its own", "no second one");
        });
        let text = String::from_utf8(lines.0.lock().clone()).expect("text");
        let (first, second) = text.split_once('\n').expect("two lines");
        assert!(first.starts_with(r#"{"timestamp":""#), "{first}");
        let rest =
            r#","level":"WARN","message":"it failed","term":3,"why":"\"x\"","request_id":"r\"1"}"#;
        assert!(first.ends_with(rest), "{first}");
        assert_eq!(second.matches("request_id").count(), 1, "{second}");
        assert!(second.contains(r#""request_id":"its own""#), "{second}");
    }
}
