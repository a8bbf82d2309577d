//! Prometheus' older text form. It differs from OpenMetrics in what it calls counters, and has neither
//! units nor an end.

/// `told` is a whole exposition in OpenMetrics, as prometheus-client writes it: a line of help, then the
/// type, then the unit.
pub fn from_open_metrics(told: &str) -> String {
    let mut text = String::with_capacity(told.len());
    let mut help = None;
    for line in told.lines() {
        if line.starts_with("# HELP ") {
            help = Some(line);
        } else if let Some(named) = line.strip_prefix("# TYPE ") {
            let end = if named.ends_with(" counter") { "_total" } else { "" };
            if let Some(help) = help.take() {
                push_with_end(&mut text, "# HELP ", help, end);
            }
            push_with_end(&mut text, "# TYPE ", line, end);
        } else if !line.starts_with("# ") {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// The line with `end` behind the name of its family.
fn push_with_end(text: &mut String, begin: &str, line: &str, end: &str) {
    let (name, rest) = line[begin.len()..].split_once(' ').unwrap_or_default();
    text.extend([begin, name, end, " ", rest, "\n"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_described_under_the_name_of_their_samples() {
        let told = "# HELP a Sums up.\n# TYPE a counter\na_total 1\n# HELP b_seconds Lasts.\n\
                    # TYPE b_seconds gauge\n# UNIT b_seconds seconds\nb_seconds{c=\"d\"} 2.5\n# EOF\n";
        let text = "# HELP a_total Sums up.\n# TYPE a_total counter\na_total 1\n# HELP b_seconds Lasts.\n\
                    # TYPE b_seconds gauge\nb_seconds{c=\"d\"} 2.5\n";
        assert_eq!(from_open_metrics(told), text);
    }
}
