//! What somebody may have meant.

/// One wrong character in so many is taken for a slip.
const PARTS: usize = 3;

/// The name that is spelled most like this one; none if nothing is near.
pub(super) fn nearest<'a>(given: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let slips =
        |name: &str| strsim::damerau_levenshtein(&given.to_lowercase(), &name.to_lowercase());
    let near = names.map(|name| (slips(name), name)).min()?;
    (near.0 <= given.chars().count() / PARTS).then_some(near.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let names = ["listen", "log", "log_keep"];
        let near = |given| nearest(given, names.into_iter());
        assert_eq!(near("lissten"), Some("listen"));
        assert_eq!(near("LISTNE"), Some("listen"));
        assert_eq!(near("log_kep"), Some("log_keep"));
        assert_eq!(near("port"), None);
        assert_eq!(near(""), None);
    }
}
