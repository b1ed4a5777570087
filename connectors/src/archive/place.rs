//! Where an archive's folder is, so that the folders of two archives can be compared however their paths are written.
//!
//! Invariant: contacts nobody. What the options do not say, such as the file system of a path without one, counts as the same as
//! anything: two archives that may be in one folder are said to be.

use std::path::Path;

use thalweg_catalog::ArchiveSpec;

use crate::context::ConnectorContext;

/// Port of a NameNode unless a path says otherwise.
const NAMENODE_PORT: &str = ":8020";

/// A folder of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    connector: String,
    /// What tells stores of one connector apart; `None` for what the options do not say.
    store: Vec<Option<String>>,
    /// Names of the folders on the way, the outermost first.
    folders: Vec<String>,
}

/// How two folders that share files lie to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// They are one.
    Same,
    /// The first holds the second.
    Above,
    /// The second holds the first.
    Below,
}

impl Place {
    /// The folder that the options of an archive name; `None` without a path.
    pub fn of(spec: &ArchiveSpec, context: &ConnectorContext) -> Option<Self> {
        let option = |name: &str| spec.options.get(name).map(String::as_str);
        let path = option("path")?;
        let (store, path) = match spec.connector.as_str() {
            "file" => (Vec::new(), below(&context.file_root, path)),
            "hdfs" => {
                let (system, path) = split(path);
                let system = system.or_else(|| split(option("hadoop.fs.defaultFS")?).0);
                // Tables of mounts lead into other file systems.
                let (scheme, host) = system.unwrap_or_default();
                let host = Some(host).filter(|host| scheme == "hdfs" && !host.is_empty());
                let host = host.map(|host| name(host.trim_end_matches(NAMENODE_PORT)));
                let config = option("hadoop.conf.dir").filter(|_| host.is_none());
                (vec![host, config.map(name)], path)
            }
            "azure" => {
                let (_, authority, path) = parts(path);
                let (container, account) = match authority.split_once('@') {
                    Some((container, host)) => (container, host.split('.').next()),
                    None => (authority, option("azure.account")),
                };
                let endpoint = option("azure.endpoint").map(name);
                (
                    vec![Some(name(container)), account.map(name), endpoint],
                    path,
                )
            }
            _ => {
                let (_, bucket, path) = parts(path);
                (
                    vec![Some(name(bucket)), option("s3.endpoint").map(name)],
                    path,
                )
            }
        };
        let folders = path.split('/').filter(|part| !matches!(*part, "" | "."));
        Some(Self {
            connector: spec.connector.clone(),
            store,
            folders: folders.map(str::to_owned).collect(),
        })
    }

    /// How this folder lies to another one; `None` when no file can be in both.
    pub fn overlap(&self, other: &Self) -> Option<Overlap> {
        let same = |(own, other): (&Option<String>, &Option<String>)| {
            own.is_none() || other.is_none() || own == other
        };
        if self.connector != other.connector || !self.store.iter().zip(&other.store).all(same) {
            return None;
        }
        match (&self.folders, &other.folders) {
            (own, other) if own == other => Some(Overlap::Same),
            (own, other) if other.starts_with(own) => Some(Overlap::Above),
            (own, other) if own.starts_with(other) => Some(Overlap::Below),
            _ => None,
        }
    }
}

/// Names of hosts, buckets and accounts have no case, and a URL may end with a slash.
fn name(text: &str) -> String {
    text.trim_end_matches('/').to_ascii_lowercase()
}

/// Scheme, authority and path of a URL; a text without a scheme is all path.
fn parts(text: &str) -> (&str, &str, &str) {
    match text.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            (scheme, authority, path)
        }
        None => ("", "", text),
    }
}

/// The file system of a path, when it names one, and the folder on it.
fn split(text: &str) -> (Option<(&str, &str)>, &str) {
    let (scheme, authority, path) = parts(text);
    let system = Some((scheme, authority)).filter(|(scheme, _)| !scheme.is_empty());
    (system, path)
}

/// A local path below the folder that all of them are in.
fn below<'a>(file_root: &Path, text: &'a str) -> &'a str {
    let inside = Path::new(text).strip_prefix(file_root).ok();
    inside.and_then(Path::to_str).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::*;
    use crate::context::ManualClock;

    fn place(connector: &str, path: &str, options: &[(&str, &str)]) -> Place {
        let mut context = ConnectorContext::new(Arc::new(ManualClock::new(0)));
        context.file_root = PathBuf::from("/data/lake");
        let options = options.iter().copied().chain([("path", path)]);
        let spec = ArchiveSpec {
            connector: connector.to_owned(),
            options: options
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            encode_options: Default::default(),
            partition_by: Vec::new(),
            feed: None,
        };
        Place::of(&spec, &context).expect("a path")
    }

    #[test]
    fn one_folder_has_many_spellings() {
        use Overlap::{Above, Below, Same};
        for (connector, own, other, expected) in [
            ("file", "./a", "a/", Some(Same)),
            ("file", "a//b/./c", "/data/lake/a/b/c", Some(Same)),
            ("file", "a", "a/b", Some(Above)),
            ("file", "/data/lake//a/b/c", "./a", Some(Below)),
            ("file", "a", "ab", None),
            ("file", "a/b", "a/c", None),
            ("s3", "s3://box/a", "s3a://box//a/", Some(Same)),
            ("s3", "s3a://box/a", "s3://box/a/b", Some(Above)),
            ("s3", "s3://box/a", "s3://crate/a", None),
            ("hdfs", "hdfs://nn/a", "hdfs://NN:8020//a", Some(Same)),
            ("hdfs", "hdfs://nn/a", "hdfs://nn:9000/a", None),
            ("hdfs", "hdfs://nn/a/b", "/a", Some(Below)),
            ("hdfs", "/a", "/b", None),
            (
                "azure",
                "abfss://box@me.dfs.core.windows.net/a",
                "az://box/a",
                Some(Same),
            ),
            ("azure", "azure://box/a", "az://crate/a", None),
        ] {
            let [own, other] = [own, other].map(|path| place(connector, path, &[]));
            assert_eq!(own.overlap(&other), expected, "{own:?} {other:?}");
        }
        assert_eq!(
            place("s3", "s3://box/a", &[]).overlap(&place("azure", "az://box/a", &[])),
            None
        );
    }

    #[test]
    fn options_tell_stores_apart() {
        let default = [("hadoop.fs.defaultFS", "hdfs://nn:8020/")];
        let bare = place("hdfs", "/a", &default);
        let named = |path| place("hdfs", path, &[]);
        assert_eq!(bare.overlap(&named("hdfs://nn/a")), Some(Overlap::Same));
        assert_eq!(bare.overlap(&named("hdfs://other/a")), None);
        let configured = |folder| place("hdfs", "/a", &[("hadoop.conf.dir", folder)]);
        assert_eq!(
            configured("/etc/one").overlap(&configured("/etc/two")),
            None
        );
        let at = |endpoint| place("s3", "s3://box/a", &[("s3.endpoint", endpoint)]);
        assert_eq!(
            at("https://one:9").overlap(&at("https://One:9/")),
            Some(Overlap::Same)
        );
        assert_eq!(at("https://one:9").overlap(&at("https://two:9")), None);
        let account = |name| place("azure", "az://box/a", &[("azure.account", name)]);
        assert_eq!(account("me").overlap(&account("you")), None);
    }
}
