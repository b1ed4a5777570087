//! Finds the known name that a misspelt one was probably meant to be.
//!
//! Invariant: a suggestion is always one of the candidates, never the name itself.

/// The candidate nearest to `name`, when it is near enough to be worth a hint: at most a third of the letters differ,
/// and one letter always may.
pub fn suggest<I>(name: &str, candidates: I) -> Option<String>
where
    I: IntoIterator,
    I::Item: AsRef<str>,
{
    let folded = name.to_lowercase();
    let allowed = (folded.chars().count() / 3).max(1);
    let mut best: Option<(usize, String)> = None;
    for candidate in candidates {
        let candidate = candidate.as_ref();
        if candidate == name {
            continue;
        }
        // Transpositions count as one edit: they are the commonest typing error.
        let distance = strsim::osa_distance(&folded, &candidate.to_lowercase());
        let nearer = best.as_ref().is_none_or(|(d, _)| distance < *d);
        if distance <= allowed && nearer && distance < folded.chars().count().max(1) {
            best = Some((distance, candidate.to_string()));
        }
    }
    best.map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::suggest;

    #[test]
    fn nearest_name_within_a_third_of_the_letters() {
        let words = ["select", "create", "materialized", "topic", "t1"];
        assert_eq!(suggest("SELEC", words), Some("select".into()));
        assert_eq!(suggest("craete", words), Some("create".into()));
        assert_eq!(suggest("materialised", words), Some("materialized".into()));
        assert_eq!(suggest("tpoic", words), Some("topic".into()));
        assert_eq!(suggest("nothing_like_it", words), None);
        assert_eq!(suggest("topic", words), None);
        assert_eq!(suggest("t2", words), Some("t1".into()));
        assert_eq!(suggest("x", ["y"]), None);
        assert_eq!(suggest("", words), None);
    }
}
