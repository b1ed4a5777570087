//! What fills an archive, under a name that says the same on every server and after it was declared again.
//!
//! Invariant: a place in one feed is taken for a place in another only when both read the same records and take the same rows of
//! them. What the options do not tell apart, such as two clusters behind one address, counts as the same; nobody is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thalweg_catalog::ConnectorSpec;

/// Bytes of a digest that are kept: enough that no two are the same by chance.
const DIGEST_BYTES: usize = 16;

/// The identity of a feed. It tells nobody what the options were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedId {
    /// Digests of where the records come from: one for each address of a cluster, so that some of the addresses may change.
    origin: BTreeSet<String>,
    /// Digest of what chooses rows; absent when every row is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    query: Option<String>,
}

impl FeedId {
    /// All rows of a source.
    pub fn of_source(source: &ConnectorSpec) -> Self {
        let option = |name: &str| source.options.get(name).map_or("", String::as_str);
        let kind = source.connector.as_str();
        let origin = match kind {
            "kafka" => {
                let brokers = option("properties.bootstrap.server").split(',');
                let names = brokers.map(|name| name.trim().to_ascii_lowercase());
                names
                    .map(|broker| digest(&[kind, &broker, option("topic")]))
                    .collect()
            }
            "file" => BTreeSet::from([digest(&[kind, &plain_path(option("path"))])]),
            // Generators give the same records for the same seed, however many are asked for.
            "datagen" => BTreeSet::from([digest(&[kind, option("seed")])]),
            "nexmark" => BTreeSet::from([digest(&[kind, option("seed"), option("table")])]),
            _ => BTreeSet::from([digest_of_options(kind, &source.options)]),
        };
        Self {
            origin,
            query: None,
        }
    }

    /// What queries give that choose among rows of inputs. The texts say everything that decides which rows these are, but for
    /// what `inputs` are.
    pub fn of_queries(inputs: &[FeedId], texts: &[String]) -> Self {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        match inputs {
            [input] => {
                let inner = input.query.as_deref();
                let all: Vec<&str> = inner.into_iter().chain(texts).collect();
                Self {
                    origin: input.origin.clone(),
                    query: Some(digest(&all)),
                }
            }
            // Of several inputs none may be another one.
            _ => {
                let all = inputs.iter().flat_map(|input| {
                    let origin = input.origin.iter().map(String::as_str);
                    origin.chain(input.query.as_deref()).chain([""])
                });
                let all: Vec<&str> = all.collect();
                Self {
                    origin: BTreeSet::from([digest(&all)]),
                    query: Some(digest(&texts)),
                }
            }
        }
    }

    /// The content of something of ours that has this name.
    pub fn of_relation(kind: &str, name: &str) -> Self {
        Self {
            origin: BTreeSet::from([digest(&["relation", kind, name])]),
            query: None,
        }
    }

    /// True when a place in the other one is a place in this one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.query == other.query && !self.origin.is_disjoint(&other.origin)
    }
}

/// A path without what changes nothing.
fn plain_path(path: &str) -> String {
    let (scheme, rest) = match path.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None if path.starts_with('/') => ("/".to_owned(), path),
        None => (String::new(), path),
    };
    let parts = rest.split('/').filter(|part| !matches!(*part, "" | "."));
    format!("{scheme}{}", parts.collect::<Vec<_>>().join("/"))
}

fn digest_of_options(kind: &str, options: &BTreeMap<String, String>) -> String {
    let parts = options
        .iter()
        .flat_map(|(name, value)| [name.as_str(), value.as_str()]);
    digest(&[kind].into_iter().chain(parts).collect::<Vec<_>>())
}

/// A digest of these texts; where one ends and the next begins is part of it.
fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let mut text = String::with_capacity(2 * DIGEST_BYTES);
    for byte in hash.finalize().iter().take(DIGEST_BYTES) {
        let _written = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(connector: &str, options: &[(&str, &str)]) -> FeedId {
        let options = options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        FeedId::of_source(&ConnectorSpec {
            connector: connector.into(),
            options: options.collect(),
            format: "PLAIN".into(),
            encode: "JSON".into(),
            encode_options: BTreeMap::new(),
            start: BTreeMap::new(),
            watermark: None,
        })
    }

    fn topic(brokers: &str, topic: &str) -> FeedId {
        source(
            "kafka",
            &[("properties.bootstrap.server", brokers), ("topic", topic)],
        )
    }

    #[test]
    fn the_same_records_are_known_again_and_others_are_not() {
        let clicks = topic("a:9092,b:9092", "clicks");
        for (other, expected) in [
            (topic("b:9092, A:9092", "clicks"), true),
            (topic("c:9092,b:9092", "clicks"), true),
            (topic("c:9092", "clicks"), false),
            (topic("a:9092,b:9092", "orders"), false),
        ] {
            assert_eq!(clicks.is(&other), expected, "{other:?}");
        }
        let login = source(
            "kafka",
            &[
                ("properties.bootstrap.server", "a:9092"),
                ("topic", "clicks"),
                ("properties.sasl.password", "x"),
            ],
        );
        assert!(clicks.is(&login));
        let files = |path| source("file", &[("path", path)]);
        assert!(files("in//a/*.json").is(&files("./in/a/*.json")));
        assert!(!files("/in/a/*.json").is(&files("in/a/*.json")));
        assert!(!files("hdfs://one/a/*").is(&files("hdfs://two/a/*")));
        assert!(!files("clicks").is(&topic("a:9092", "clicks")));
        let numbers = |seed, rows| source("datagen", &[("seed", seed), ("rows", rows)]);
        assert!(numbers("7", "10").is(&numbers("7", "20")));
        assert!(!numbers("7", "10").is(&numbers("8", "10")));
    }

    #[test]
    fn who_takes_other_rows_is_another_feed() {
        let (clicks, orders) = (topic("a:9092", "clicks"), topic("a:9092", "orders"));
        let few = |input: &FeedId, text: &str| {
            FeedId::of_queries(std::slice::from_ref(input), &[text.to_owned()])
        };
        let old = few(&clicks, "WHERE id > 5");
        assert!(old.is(&few(&clicks, "WHERE id > 5")));
        for other in [
            clicks.clone(),
            few(&clicks, "WHERE id > 6"),
            few(&orders, "WHERE id > 5"),
        ] {
            assert!(!old.is(&other) && !other.is(&old), "{other:?}");
        }
        let both = FeedId::of_queries(&[clicks.clone(), orders.clone()], &["JOIN".into()]);
        assert!(both.is(&both));
        let text = ["JOIN".to_owned()];
        let twice = FeedId::of_queries(&[clicks.clone(), clicks.clone()], &text);
        assert!(!both.is(&twice) && !both.is(&clicks));
        // It is read back as it was written.
        let text = serde_json::to_string(&old).expect("text");
        assert_eq!(serde_json::from_str::<FeedId>(&text).expect("a feed"), old);
        assert!(!text.contains("clicks"), "{text}");
    }
}
