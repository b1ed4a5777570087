//! What Hadoop's configuration says to the client of HDFS: where the NameNodes of a name service are, and in which order they are asked.
//!
//! Invariant: a property is what Hadoop's own programs find: without space around it, with `${other}` replaced, and options before
//! files. Of several NameNodes each gets its turn to be asked first, so that one that hangs costs time and nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use hdfs_native::{Client, ClientBuilder, HdfsError};

use crate::error::ConnectorError;
use crate::options::Options;

/// Files of a configuration; the later one counts.
const FILES: [&str; 2] = ["core-site.xml", "hdfs-site.xml"];
const NAME_NODES: &str = "dfs.ha.namenodes.";
const ADDRESS: &str = "dfs.namenode.rpc-address";
const DEFAULT_FS: &str = "fs.defaultFS";
const ATTEMPTS: &str = "dfs.client.failover.max.attempts";
/// The client's default, fifteen, is three minutes of waiting for a NameNode that is not there.
const ATTEMPTS_DEFAULT: &str = "6";
/// Properties within properties, at most.
const DEPTH_MAX: usize = 20;

/// Values by name.
type Properties = BTreeMap<String, String>;

/// What clients are made of.
#[derive(Debug)]
pub(super) struct Settings {
    url: Option<String>,
    config_dir: Option<String>,
    user: Option<String>,
    properties: Properties,
    /// How many NameNodes were given up.
    turn: AtomicUsize,
}

impl Settings {
    /// From the options of a relation, and the environment of the server.
    ///
    /// # Errors
    /// 22023 for a folder without a configuration, and for a name service that none knows.
    pub(super) fn new(options: Options<'_>, url: Option<String>) -> Result<Self, ConnectorError> {
        Self::within(options, url, &|name| std::env::var(name).ok())
    }

    fn within(
        options: Options<'_>,
        url: Option<String>,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConnectorError> {
        let config_dir = options.text("hadoop.conf.dir").map(str::to_owned);
        let folder = folder(config_dir.as_deref(), environment);
        let mut properties = match &folder {
            Some(folder) => read(folder),
            None => Properties::new(),
        };
        if let (Some(folder), true) = (&config_dir, properties.is_empty())
            && !FILES
                .iter()
                .any(|file| Path::new(folder).join(file).is_file())
        {
            return Err(ConnectorError::option_hint(
                format!(
                    "option \"hadoop.conf.dir\" names {folder:?}, where neither core-site.xml nor hdfs-site.xml can be read"
                ),
                "Name the folder that HADOOP_CONF_DIR names for Hadoop's own programs.",
            ));
        }
        let own = options.0.iter().filter_map(|(name, value)| {
            let name = name.strip_prefix("hadoop.")?;
            (name != "conf.dir").then(|| (name.to_owned(), value.clone()))
        });
        properties.extend(own);
        let mut properties = resolved(&properties);
        properties
            .entry(ATTEMPTS.to_owned())
            .or_insert_with(|| ATTEMPTS_DEFAULT.to_owned());
        require_name_nodes(&properties, url.as_deref(), folder.as_deref())?;
        Ok(Self {
            url,
            config_dir,
            user: options.text("user").map(str::to_owned),
            properties,
            turn: AtomicUsize::new(0),
        })
    }

    /// A client, which asks the NameNode first whose turn it is.
    pub(super) fn client(&self) -> Result<Client, HdfsError> {
        let mut builder = ClientBuilder::new();
        if let Some(url) = &self.url {
            builder = builder.with_url(url.as_str());
        }
        if let Some(folder) = &self.config_dir {
            builder = builder.with_config_dir(folder.as_str());
        }
        if let Some(user) = &self.user {
            builder = builder.with_user(user.as_str());
        }
        let turn = self.turn.load(Ordering::SeqCst);
        let properties = self.properties.iter().map(|(name, value)| {
            let value = match name.starts_with(NAME_NODES) {
                true => turned(value, turn),
                false => value.clone(),
            };
            (name.clone(), value)
        });
        builder.with_config(properties).build()
    }

    /// Has the next client ask another NameNode first.
    pub(super) fn give_up(&self) {
        self.turn.fetch_add(1, Ordering::SeqCst);
    }

    /// NameNodes of the name service that has most of them.
    pub(super) fn name_nodes(&self) -> usize {
        let lists = self.properties.iter();
        let lists = lists.filter(|(name, _)| name.starts_with(NAME_NODES));
        lists.map(|(_, list)| names(list).len()).max().unwrap_or(1)
    }
}

/// Where the configuration is, as Hadoop's programs look for it.
fn folder(option: Option<&str>, environment: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let named = option.map(PathBuf::from);
    named
        .or_else(|| environment("HADOOP_CONF_DIR").map(PathBuf::from))
        .or_else(|| Some(Path::new(&environment("HADOOP_HOME")?).join("etc/hadoop")))
}

/// The properties of a folder. A file that cannot be read here is left to the library, which says what is wrong with it.
fn read(folder: &Path) -> Properties {
    let mut properties = Properties::new();
    for file in FILES {
        if let Ok(text) = std::fs::read_to_string(folder.join(file)) {
            properties.extend(parsed(&text));
        }
    }
    properties
}

fn parsed(text: &str) -> Properties {
    let options = roxmltree::ParsingOptions {
        allow_dtd: true,
        ..Default::default()
    };
    let Ok(document) = roxmltree::Document::parse_with_options(text, options) else {
        return Properties::new();
    };
    let property = |node: roxmltree::Node<'_, '_>| {
        let part = |tag: &str| {
            let found = node.children().find(|child| child.has_tag_name(tag))?;
            Some(found.text().unwrap_or_default().trim().to_owned())
        };
        Some((part("name")?, part("value")?))
    };
    let root = document.root_element();
    let nodes = root.children().filter(|node| node.has_tag_name("property"));
    nodes.filter_map(property).collect()
}

/// The same with `${name}` replaced, and lists of NameNodes without space.
fn resolved(properties: &Properties) -> Properties {
    let values = properties.iter().map(|(name, value)| {
        let value = expanded(properties, value, 0);
        let value = match name.starts_with(NAME_NODES) {
            true => names(&value).join(","),
            false => value.trim().to_owned(),
        };
        (name.clone(), value)
    });
    values.collect()
}

fn expanded(properties: &Properties, text: &str, depth: usize) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, behind)) = rest.split_once("${") {
        let Some((name, after)) = behind.split_once('}') else {
            break;
        };
        out.push_str(before);
        match properties.get(name).filter(|_| depth < DEPTH_MAX) {
            Some(value) => out.push_str(&expanded(properties, value, depth + 1)),
            // Whoever reads it sees what is missing.
            None => out.push_str(&format!("${{{name}}}")),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

fn names(list: &str) -> Vec<&str> {
    let names = list.split(',').map(str::trim);
    names.filter(|name| !name.is_empty()).collect()
}

/// The list, beginning with another of its names.
fn turned(list: &str, turn: usize) -> String {
    let mut names = names(list);
    let first = turn.checked_rem(names.len()).unwrap_or(0);
    names.rotate_left(first);
    names.join(",")
}

/// Refuses a host without a port that is no name service.
fn require_name_nodes(
    properties: &Properties,
    url: Option<&str>,
    folder: Option<&Path>,
) -> Result<(), ConnectorError> {
    let url = url.or_else(|| properties.get(DEFAULT_FS).map(String::as_str));
    let host = url.and_then(|url| url.strip_prefix("hdfs://"));
    let host = host.and_then(|rest| rest.split('/').next());
    let Some(service) = host.filter(|host| !host.is_empty() && !host.contains(':')) else {
        return Ok(());
    };
    let listed = properties.get(&format!("{NAME_NODES}{service}"));
    let ids = listed.map(|list| names(list)).unwrap_or_default();
    let address = |id: &&str| properties.contains_key(&format!("{ADDRESS}.{service}.{id}"));
    if ids.iter().any(address) {
        return Ok(());
    }
    let missing = match ids.first() {
        Some(id) => format!("{ADDRESS}.{service}.{id}"),
        None => format!("{NAME_NODES}{service}"),
    };
    let message = match folder {
        Some(folder) => format!(
            "name service \"{service}\" is not known: the configuration in \"{}\" has no {missing}",
            folder.display()
        ),
        None => format!(
            "name service \"{service}\" is not known: no configuration of Hadoop says {missing}"
        ),
    };
    Err(ConnectorError::option_hint(
        message,
        "Write the port of a NameNode, as in 'hdfs://namenode:8020/folder', or name the folder of hdfs-site.xml: hadoop.conf.dir, or HADOOP_CONF_DIR of the server.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: &str = r#"<?xml version="1.0"?>
        <?xml-stylesheet type="text/xsl" href="configuration.xsl"?>
        <configuration>
          <property><name>dfs.nameservices</name><value>
            ns1 </value></property>
          <property><name> dfs.ha.namenodes.ns1 </name><value>nn1, nn2
          </value><final>true</final></property>
          <property><name>dfs.namenode.rpc-address.ns1.nn1</name><value>${master}:8020</value></property>
          <property><name>dfs.namenode.rpc-address.ns1.nn2</name><value>b:8020</value></property>
          <property><name>master</name><value>a${suffix}</value></property>
          <property><name>loop</name><value>${loop}</value></property>
          <!-- <property><name>no</name><value>no</value></property> -->
          <property><name>empty</name><value/></property>
        </configuration>"#;

    fn settings(
        options: &[(&str, &str)],
        url: Option<&str>,
        environment: &[(&str, &str)],
    ) -> Result<Settings, ConnectorError> {
        let options = options.iter();
        let options = options.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let find = |name: &str| {
            let found = environment.iter().find(|(known, _)| *known == name)?;
            Some(found.1.to_owned())
        };
        Settings::within(Options(&options.collect()), url.map(str::to_owned), &find)
    }

    fn message(refused: Result<Settings, ConnectorError>) -> String {
        let report = refused.expect_err("cannot work").report();
        assert_eq!(report.sqlstate, "22023");
        assert!(report.hint.is_some());
        report.message
    }

    #[test]
    fn a_file_says_what_hadoop_finds_in_it() {
        let found = resolved(&parsed(SITE));
        for (name, value) in [
            ("dfs.nameservices", "ns1"),
            ("dfs.ha.namenodes.ns1", "nn1,nn2"),
            ("dfs.namenode.rpc-address.ns1.nn1", "a${suffix}:8020"),
            ("empty", ""),
        ] {
            assert_eq!(found.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!found.contains_key("no") && found.contains_key("loop"));
        assert!(parsed("<configuration>").is_empty());
    }

    #[test]
    fn a_configuration_is_looked_for_where_hadoop_does() {
        let place = std::env::temp_dir().join(format!("thalweg-hadoop-{}", std::process::id()));
        let etc = place.join("etc/hadoop");
        std::fs::create_dir_all(&etc).expect("a folder");
        std::fs::write(etc.join("hdfs-site.xml"), SITE).expect("a file");
        std::fs::write(
            etc.join("core-site.xml"),
            "<configuration><property><name>fs.defaultFS</name><value>hdfs://ns1</value></property></configuration>",
        )
        .expect("a file");
        let (home, etc) = (place.display().to_string(), etc.display().to_string());
        let url = Some("hdfs://ns1");
        for (options, url, environment) in [
            (vec![("hadoop.conf.dir", etc.as_str())], url, vec![]),
            (vec![("hadoop.conf.dir", etc.as_str())], None, vec![]),
            (vec![], url, vec![("HADOOP_CONF_DIR", etc.as_str())]),
            (vec![], None, vec![("HADOOP_HOME", home.as_str())]),
            (
                vec![("hadoop.conf.dir", etc.as_str())],
                url,
                vec![("HADOOP_CONF_DIR", "/nowhere")],
            ),
        ] {
            let made = settings(&options, url, &environment).expect("two NameNodes");
            assert_eq!(made.name_nodes(), 2, "{options:?} {environment:?}");
            assert!(made.client().is_ok());
        }
        // An option counts before a file.
        let other = [
            ("hadoop.conf.dir", etc.as_str()),
            ("hadoop.dfs.ha.namenodes.ns1", "nn2"),
            ("hadoop.dfs.client.failover.max.attempts", "2"),
        ];
        let made = settings(&other, url, &[]).expect("a NameNode");
        assert_eq!(made.name_nodes(), 1);
        assert_eq!(made.properties[ATTEMPTS], "2");
        let unknown = settings(&other, Some("hdfs://ns2"), &[]);
        let unknown = message(unknown);
        assert!(
            unknown.contains("\"ns2\"") && unknown.contains("dfs.ha.namenodes.ns2"),
            "{unknown}"
        );
        assert!(unknown.contains(&etc), "{unknown}");
        let _gone = std::fs::remove_dir_all(&place);
    }

    #[test]
    fn what_cannot_work_is_told_at_once() {
        let wrong = settings(
            &[("hadoop.conf.dir", "/nowhere")],
            Some("hdfs://a:8020"),
            &[],
        );
        let wrong = message(wrong);
        assert!(
            wrong.contains("\"/nowhere\"") && wrong.contains("hdfs-site.xml"),
            "{wrong}"
        );
        let unknown = message(settings(&[], Some("hdfs://ns1"), &[]));
        assert!(unknown.contains("\"ns1\" is not known"), "{unknown}");
        // The environment may be that of other programs: it counts when something is missing.
        let stale = [("HADOOP_CONF_DIR", "/nowhere")];
        assert!(settings(&[], Some("hdfs://a:8020"), &stale).is_ok());
        let unknown = message(settings(&[], Some("hdfs://ns1"), &stale));
        assert!(unknown.contains("/nowhere"), "{unknown}");
        let options = [("hadoop.dfs.ha.namenodes.ns1", "nn1")];
        let unknown = message(settings(&options, Some("hdfs://ns1"), &[]));
        assert!(unknown.contains("\"ns1\" is not known"), "{unknown}");
    }

    #[test]
    fn each_name_node_gets_its_turn() {
        for (turn, expected) in [(0, "a,b,c"), (1, "b,c,a"), (2, "c,a,b"), (3, "a,b,c")] {
            assert_eq!(turned("a, b,c", turn), expected);
        }
        assert_eq!(turned("", 1), "");
    }
}
