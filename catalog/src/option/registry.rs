//! Every `WITH` option, described once. Validation, defaults and documentation read these tables.
//!
//! Invariant: a name appears at most once per place, and a default is a value its own kind accepts.

use super::value::{parse_bool, parse_bytes, parse_duration, parse_list};

/// What an option holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OptionKind {
    /// Any text that is not empty.
    Text,
    /// One of these words.
    Enum(&'static [&'static str]),
    /// A whole number in this range.
    Integer(i64, i64),
    /// A number from 0 to 1.
    Fraction,
    /// True or false.
    Boolean,
    /// A length of time.
    Duration,
    /// A number of bytes.
    Bytes,
    /// Names or values separated by commas.
    List,
}

impl OptionKind {
    /// The value in canonical form; `None` when it is not of this kind.
    pub fn canonical(self, text: &str) -> Option<String> {
        let trimmed = text.trim();
        match self {
            OptionKind::Text => (!trimmed.is_empty()).then(|| text.to_owned()),
            OptionKind::Enum(words) => {
                let word = trimmed.to_ascii_lowercase();
                words.contains(&word.as_str()).then_some(word)
            }
            OptionKind::Integer(low, high) => {
                let number = trimmed.parse::<i64>().ok()?;
                (low..=high).contains(&number).then(|| number.to_string())
            }
            OptionKind::Fraction => {
                let number = trimmed.parse::<f64>().ok()?;
                (0.0..=1.0).contains(&number).then(|| trimmed.to_owned())
            }
            OptionKind::Boolean => parse_bool(trimmed).map(|value| value.to_string()),
            OptionKind::Duration => parse_duration(trimmed).map(|ms| format!("{ms} ms")),
            OptionKind::Bytes => parse_bytes(trimmed).map(|bytes| bytes.to_string()),
            OptionKind::List => parse_list(trimmed).map(|elements| elements.join(",")),
        }
    }

    /// What is allowed, as a sentence.
    pub fn allowed(self) -> String {
        match self {
            OptionKind::Text => "It must not be empty.".to_owned(),
            OptionKind::Enum(words) => format!("Allowed values are {}.", words.join(", ")),
            OptionKind::Integer(low, i64::MAX) => {
                format!("It must be a whole number of at least {low}.")
            }
            OptionKind::Integer(i64::MIN, high) => {
                format!("It must be a whole number of at most {high}.")
            }
            OptionKind::Integer(low, high) => {
                format!("It must be a whole number from {low} to {high}.")
            }
            OptionKind::Fraction => "It must be a number from 0 to 1.".to_owned(),
            OptionKind::Boolean => "Allowed values are true, false.".to_owned(),
            OptionKind::Duration => {
                "It must be a length of time, as '250 ms', '30 s', '10 min', '1 h', '7 days'."
                    .to_owned()
            }
            OptionKind::Bytes => "It must be a size, as '64kB', '4MB', '10GB'.".to_owned(),
            OptionKind::List => "It must be a list separated by commas.".to_owned(),
        }
    }
}

/// Where an option belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `CREATE SOURCE ... WITH (connector = 'kafka')`.
    KafkaSource,
    /// `CREATE SOURCE ... WITH (connector = 'datagen')`.
    DatagenSource,
    /// `CREATE SOURCE ... WITH (connector = 'file')`.
    FileSource,
    /// `CREATE SOURCE ... WITH (connector = 'nexmark')`.
    NexmarkSource,
    /// `CREATE SINK ... WITH (connector = 'kafka')`.
    KafkaSink,
    /// `CREATE SINK ... INTO table`.
    TableSink,
    /// `CREATE SINK ... INTO` a table that HBase keeps.
    HbaseTableSink,
    /// `CREATE SINK ... WITH (connector = 'blackhole')`.
    BlackholeSink,
    /// `CREATE SINK ... WITH (connector = 'print')`.
    PrintSink,
    /// `CREATE TABLE ... WITH (connector = 'hbase')`.
    HbaseTable,
    /// `CREATE ARCHIVE ... WITH (connector = 'file')`.
    FileArchive,
    /// `CREATE ARCHIVE ... WITH (connector = 'hdfs')`.
    HdfsArchive,
    /// `CREATE ARCHIVE ... WITH (connector = 's3')`.
    S3Archive,
    /// `CREATE ARCHIVE ... WITH (connector = 'azure')`.
    AzureArchive,
    /// `ENCODE PARQUET (...)` of an archive.
    EncodeParquet,
    /// `CREATE MATERIALIZED VIEW ... WITH (...)`.
    MaterializedView,
    /// `ENCODE JSON (...)` of a source.
    EncodeJson,
}

impl Place {
    /// The place in messages.
    pub fn words(self) -> &'static str {
        match self {
            Place::KafkaSource => "kafka source",
            Place::DatagenSource => "datagen source",
            Place::FileSource => "file source",
            Place::NexmarkSource => "nexmark source",
            Place::KafkaSink => "kafka sink",
            Place::TableSink => "sink into a table",
            Place::HbaseTableSink => "sink into an HBase table",
            Place::BlackholeSink => "blackhole sink",
            Place::PrintSink => "print sink",
            Place::HbaseTable => "hbase table",
            Place::FileArchive => "file archive",
            Place::HdfsArchive => "hdfs archive",
            Place::S3Archive => "s3 archive",
            Place::AzureArchive => "azure archive",
            Place::EncodeParquet => "ENCODE PARQUET",
            Place::MaterializedView => "materialized view",
            Place::EncodeJson => "ENCODE JSON",
        }
    }

    /// True when `properties.*` options go to the Kafka client.
    pub fn is_kafka(self) -> bool {
        matches!(self, Place::KafkaSource | Place::KafkaSink)
    }

    /// True when the option list also names the connector.
    pub fn has_connector(self) -> bool {
        !matches!(
            self,
            Place::TableSink
                | Place::HbaseTableSink
                | Place::MaterializedView
                | Place::EncodeJson
                | Place::EncodeParquet
        )
    }
}

/// How much of an option is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Built {
    /// All of it.
    Yes,
    /// These values; others are 0A000.
    Only(&'static [&'static str]),
    /// Nothing: the option is 0A000.
    No,
}

/// One option.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptionSpec {
    /// Name as written.
    pub name: &'static str,
    /// What it is, as a noun phrase without article.
    pub doc: &'static str,
    /// What it holds.
    pub kind: OptionKind,
    /// Value when it is not written; `None` is off.
    pub default: Option<&'static str>,
    /// It must be written.
    pub required: bool,
    /// Its value is never shown.
    pub secret: bool,
    /// How much of it is built.
    pub built: Built,
    /// What to use in place of what is not built.
    pub instead: Option<&'static str>,
    /// Where it belongs.
    pub places: &'static [Place],
}

impl OptionSpec {
    const fn new(
        name: &'static str,
        places: &'static [Place],
        kind: OptionKind,
        doc: &'static str,
    ) -> OptionSpec {
        OptionSpec {
            name,
            doc,
            kind,
            default: None,
            required: false,
            secret: false,
            built: Built::Yes,
            instead: None,
            places,
        }
    }

    const fn default(mut self, value: &'static str) -> OptionSpec {
        self.default = Some(value);
        self
    }

    const fn required(mut self) -> OptionSpec {
        self.required = true;
        self
    }

    const fn secret(mut self) -> OptionSpec {
        self.secret = true;
        self
    }

    const fn built(mut self, built: Built, instead: Option<&'static str>) -> OptionSpec {
        self.built = built;
        self.instead = instead;
        self
    }

    /// A value to show in a hint.
    pub(super) fn example(&self) -> &'static str {
        match self.name {
            "properties.bootstrap.server" => "'localhost:9092'",
            "thrift.servers" => "'localhost:9090'",
            _ => "'...'",
        }
    }
}

/// The options that belong to a place.
pub fn options_of(place: Place) -> impl Iterator<Item = &'static OptionSpec> {
    OPTIONS
        .iter()
        .filter(move |spec| spec.places.contains(&place))
}

const ANY_SOURCE: &[Place] = &[
    Place::KafkaSource,
    Place::DatagenSource,
    Place::FileSource,
    Place::NexmarkSource,
];
const FILE: &[Place] = &[Place::FileSource];
const NEXMARK: &[Place] = &[Place::NexmarkSource];
const SEEDED: &[Place] = &[Place::DatagenSource, Place::NexmarkSource];
const KAFKA: &[Place] = &[Place::KafkaSource];
const DATAGEN: &[Place] = &[Place::DatagenSource];
const KAFKA_SINK: &[Place] = &[Place::KafkaSink];
const STAGING_SINK: &[Place] = &[Place::KafkaSink, Place::HbaseTableSink];
const ANY_KAFKA: &[Place] = &[Place::KafkaSource, Place::KafkaSink];
const SHOWING_SINK: &[Place] = &[Place::BlackholeSink, Place::PrintSink];
const APPENDING_SINK: &[Place] = &[Place::KafkaSink, Place::TableSink, Place::HbaseTableSink];
const HBASE: &[Place] = &[Place::HbaseTable];
const ARCHIVE: &[Place] = &[
    Place::FileArchive,
    Place::HdfsArchive,
    Place::S3Archive,
    Place::AzureArchive,
];
const HDFS: &[Place] = &[Place::HdfsArchive, Place::FileSource];
const S3: &[Place] = &[Place::S3Archive];
const AZURE: &[Place] = &[Place::AzureArchive];
const PARQUET: &[Place] = &[Place::EncodeParquet];
const VIEW: &[Place] = &[Place::MaterializedView];
const JSON: &[Place] = &[Place::EncodeJson];

const POSITIVE: OptionKind = OptionKind::Integer(1, i64::MAX);
const NOT_NEGATIVE: OptionKind = OptionKind::Integer(0, i64::MAX);

/// Every option but `connector`, the Kafka client's `properties.*` and datagen's `fields.*`.
#[rustfmt::skip] // a table: one option is one line
pub const OPTIONS: &[OptionSpec] = &[
    // --- hbase tables
    OptionSpec::new("thrift.servers", HBASE, OptionKind::List, "list of Thrift2 gateways, host:port or http://host:port/ or https://host:port/").required(),
    OptionSpec::new("thrift.ssl.ca.pem", HBASE, OptionKind::Text, "certificates, as PEM text, of whom gateways over https must be signed by"),
    OptionSpec::new("thrift.transport", HBASE, OptionKind::Enum(&["framed", "unframed"]), "how the gateways tell messages apart").default("framed"),
    OptionSpec::new("thrift.protocol", HBASE, OptionKind::Enum(&["compact", "binary"]), "encoding that the gateways speak").default("compact"),
    OptionSpec::new("table", HBASE, OptionKind::Text, "name of the table in HBase").required(),
    OptionSpec::new("family", HBASE, OptionKind::Text, "column family of columns that name none"),
    OptionSpec::new("columns", HBASE, OptionKind::Text, "list of column=family:qualifier#encoding"),
    OptionSpec::new("key.encoding", HBASE, OptionKind::Enum(&["single", "ordered", "separated", "fixed"]), "how key columns share the row key"),
    OptionSpec::new("key.separator", HBASE, OptionKind::Text, "character between the parts of a separated key").default("|"),
    OptionSpec::new("key.desc", HBASE, OptionKind::List, "list of key columns whose largest value comes first"),
    OptionSpec::new("key.salt_buckets", HBASE, OptionKind::Integer(0, 256), "number of salts that lead row keys").default("0"),
    OptionSpec::new("value.encoding", HBASE, OptionKind::Enum(&["bytes", "string", "ordered", "json"]), "encoding of values in cells").default("bytes"),
    OptionSpec::new("null.mode", HBASE, OptionKind::Enum(&["delete", "skip", "empty"]), "fate of the cell of a column that is NULL").default("delete"),
    OptionSpec::new("create", HBASE, OptionKind::Enum(&["never", "if-missing"]), "whether a missing table is created").default("never"),
    OptionSpec::new("create.versions", HBASE, POSITIVE, "number of versions a created table keeps"),
    OptionSpec::new("create.ttl", HBASE, OptionKind::Duration, "time a created table keeps a cell"),
    OptionSpec::new("create.compression", HBASE, OptionKind::Enum(&["none", "gz", "snappy", "lz4", "zstd", "lzo"]), "compression of a created table"),
    OptionSpec::new("create.bloom", HBASE, OptionKind::Enum(&["none", "row", "rowcol"]), "bloom filter of a created table"),
    OptionSpec::new("create.splits", HBASE, OptionKind::Text, "list of keys at which a created table is split").built(Built::No, Some("Create the table with SPLITS in the HBase shell.")),
    OptionSpec::new("scan.consistency", HBASE, OptionKind::Enum(&["latest", "committed"]), "whether queries see a sink's delivery while it is written").default("latest"),
    OptionSpec::new("scan.page.bytes", HBASE, OptionKind::Bytes, "size of a page of a scan").default("4MB"),
    OptionSpec::new("lookup.cache.rows", HBASE, POSITIVE, "number of rows a lookup join remembers").default("100000"),
    OptionSpec::new("lookup.cache.bytes", HBASE, OptionKind::Bytes, "size of what a lookup join remembers").default("64MB"),
    OptionSpec::new("lookup.cache.ttl", HBASE, OptionKind::Duration, "time a lookup join remembers a row").default("10 s"),
    OptionSpec::new("lookup.timeout", HBASE, OptionKind::Duration, "time to wait for an answer").default("10 s"),
    OptionSpec::new("write.batch.bytes", HBASE, OptionKind::Bytes, "size of a request that writes").default("1MB"),
    // --- archives
    OptionSpec::new("path", ARCHIVE, OptionKind::Text, "folder of the archive").required(),
    OptionSpec::new("rollover.size", ARCHIVE, OptionKind::Bytes, "size at which a file is finished").default("128MB"),
    OptionSpec::new("rollover.interval", ARCHIVE, OptionKind::Duration, "time after which rows are committed").default("5 min"),
    OptionSpec::new("partition.close.grace", ARCHIVE, OptionKind::Duration, "time without rows after which a partition is closed").default("15 min"),
    OptionSpec::new("compaction.target.size", ARCHIVE, OptionKind::Bytes, "size of files that compaction makes").default("512MB"),
    OptionSpec::new("retention", ARCHIVE, OptionKind::Duration, "time after which rows go"),
    OptionSpec::new("reader.grace", ARCHIVE, OptionKind::Duration, "time that replaced files stay readable").default("1 hour"),
    OptionSpec::new("sort_by", ARCHIVE, OptionKind::List, "list of columns that order the rows of a file"),
    OptionSpec::new("attach", ARCHIVE, OptionKind::Boolean, "wish to go on with the archive that is in the folder").default("false"),
    OptionSpec::new("hadoop.conf.dir", HDFS, OptionKind::Text, "folder of core-site.xml and hdfs-site.xml"),
    OptionSpec::new("user", HDFS, OptionKind::Text, "name that HDFS knows the server by"),
    OptionSpec::new("s3.region", S3, OptionKind::Text, "region of the bucket"),
    OptionSpec::new("s3.endpoint", S3, OptionKind::Text, "URL of a store that speaks the protocol of S3"),
    OptionSpec::new("s3.access.key.id", S3, OptionKind::Text, "id of the access key").secret(),
    OptionSpec::new("s3.secret.access.key", S3, OptionKind::Text, "access key").secret(),
    OptionSpec::new("s3.session.token", S3, OptionKind::Text, "token of temporary credentials").secret(),
    OptionSpec::new("s3.allow.http", S3, OptionKind::Boolean, "permission to speak without encryption"),
    OptionSpec::new("s3.path.style.access", S3, OptionKind::Boolean, "wish to name the bucket in paths and not in the host").default("true"),
    OptionSpec::new("azure.account", AZURE, OptionKind::Text, "storage account, when the path names none"),
    OptionSpec::new("azure.access.key", AZURE, OptionKind::Text, "access key of the account").secret(),
    OptionSpec::new("azure.sas.token", AZURE, OptionKind::Text, "shared access signature").secret(),
    OptionSpec::new("azure.client.id", AZURE, OptionKind::Text, "id of a service principal"),
    OptionSpec::new("azure.client.secret", AZURE, OptionKind::Text, "secret of a service principal").secret(),
    OptionSpec::new("azure.tenant.id", AZURE, OptionKind::Text, "tenant of a service principal"),
    OptionSpec::new("azure.endpoint", AZURE, OptionKind::Text, "URL of the account, when it is no host of Azure's"),
    OptionSpec::new("azure.allow.http", AZURE, OptionKind::Boolean, "permission to speak without encryption").default("false"),
    OptionSpec::new("compression", PARQUET, OptionKind::Enum(&["zstd", "snappy", "lz4", "none"]), "compression of the files").default("zstd"),
    OptionSpec::new("row.group.rows", PARQUET, OptionKind::Integer(1, 100_000_000), "rows of a row group at most").default("262144"),
    OptionSpec::new("bloom.columns", PARQUET, OptionKind::List, "list of columns with a bloom filter"),
    // --- sources, sinks and views
    OptionSpec::new("on_error", ANY_SOURCE, OptionKind::Enum(&["dead_letter", "fail", "ignore"]), "fate of a record that does not become a row").default("dead_letter"),
    OptionSpec::new("errors.retention", ANY_SOURCE, OptionKind::Duration, "time the errors relation keeps a row").default("7 days"),
    OptionSpec::new("errors.max_rows", ANY_SOURCE, POSITIVE, "number of rows the errors relation keeps at most").default("1000000"),
    OptionSpec::new("watermark.idle.timeout", ANY_SOURCE, OptionKind::Duration, "time after which a split without records no longer holds the watermark back"),
    OptionSpec::new("source_rate_limit", ANY_SOURCE, POSITIVE, "number of rows read per second at most"),
    OptionSpec::new("topic", KAFKA, OptionKind::Text, "topic to read").required(),
    OptionSpec::new("topic", KAFKA_SINK, OptionKind::Text, "topic to write to").required(),
    OptionSpec::new("properties.bootstrap.server", ANY_KAFKA, OptionKind::List, "list of brokers to start from, host:port").required(),
    OptionSpec::new("connection", ANY_KAFKA, OptionKind::Text, "connection with the brokers").built(Built::No, Some("Use properties.bootstrap.server.")),
    OptionSpec::new("scan.startup.mode", KAFKA, OptionKind::Enum(&["earliest", "latest", "timestamp"]), "place where reading starts").default("earliest"),
    OptionSpec::new("scan.startup.timestamp.millis", KAFKA, NOT_NEGATIVE, "broker time, in milliseconds since the Unix epoch, where reading starts"),
    OptionSpec::new("scan.startup.offsets", KAFKA, OptionKind::List, "list of partition:offset where reading starts"),
    OptionSpec::new("on_offset_gap", KAFKA, OptionKind::Enum(&["fail", "resume"]), "fate of a reader whose next record the broker has deleted").default("fail"),
    OptionSpec::new("partition.discovery.interval", KAFKA, OptionKind::Duration, "time between looks for new partitions").default("30 s"),
    OptionSpec::new("bounded", KAFKA, OptionKind::Boolean, "wish to stop at the end offsets found at the start").default("false"),
    OptionSpec::new("rows_per_second", DATAGEN, POSITIVE, "number of rows generated per second at most"),
    OptionSpec::new("rows", DATAGEN, NOT_NEGATIVE, "number of rows generated in all"),
    OptionSpec::new("path", FILE, OptionKind::Text, "path of the files, below file_root or on hdfs://, with *, ? and **").required(),
    OptionSpec::new("format", FILE, OptionKind::Enum(&["json", "csv", "parquet"]), "form of the records").default("json"),
    OptionSpec::new("follow", FILE, OptionKind::Boolean, "wish to read on as files grow and come").default("false"),
    OptionSpec::new("csv.header", FILE, OptionKind::Boolean, "wish to take the names of fields from the first line"),
    OptionSpec::new("csv.delimiter", FILE, OptionKind::Text, "character between fields"),
    OptionSpec::new("table", NEXMARK, OptionKind::Enum(&["bid", "auction", "person", "all"]), "kind of events that become rows").default("all"),
    OptionSpec::new("events", NEXMARK, NOT_NEGATIVE, "number of events in all, of every kind"),
    OptionSpec::new("rate", NEXMARK, POSITIVE, "number of events per second, of every kind"),
    OptionSpec::new("seed", SEEDED, OptionKind::Integer(i64::MIN, i64::MAX), "number that determines every generated value"),
    OptionSpec::new("delivery", STAGING_SINK, OptionKind::Enum(&["at_least_once", "exactly_once"]), "promise to readers of the sink").default("exactly_once"),
    OptionSpec::new("delivery", SHOWING_SINK, OptionKind::Enum(&["at_least_once", "exactly_once"]), "promise to readers of the sink").default("at_least_once").built(Built::Only(&["at_least_once"]), Some("Use delivery = 'at_least_once'.")),
    OptionSpec::new("primary_key", KAFKA_SINK, OptionKind::List, "list of columns that make the message key"),
    OptionSpec::new("force_append_only", APPENDING_SINK, OptionKind::Boolean, "wish to leave out deletions and the old rows of updates").default("false"),
    OptionSpec::new("snapshot", KAFKA_SINK, OptionKind::Boolean, "wish to deliver what is there when the sink is created").default("true").built(Built::Only(&["true"]), Some("Leave it out: the sink delivers what is there, then what changes.")),
    OptionSpec::new("sink_log.max_bytes", STAGING_SINK, OptionKind::Bytes, "size of what waits for delivery at most, under delivery = 'exactly_once'").default("10GB"),
    OptionSpec::new("on_compute_error", VIEW, OptionKind::Enum(&["null", "fail"]), "fate of a value whose computation fails").default("null"),
    OptionSpec::new("isolated", VIEW, OptionKind::Boolean, "wish to share no state with other views").default("false").built(Built::Only(&["false"]), None),
    OptionSpec::new("state_ttl", VIEW, OptionKind::Duration, "time after which unused state goes").built(Built::No, Some("Filter on a time column with now().")),
    OptionSpec::new("backfill_rate_limit", VIEW, POSITIVE, "number of rows read per second during backfill").built(Built::No, None),
    OptionSpec::new("timestamptz.handling.mode", JSON, OptionKind::Enum(&["guess", "milli", "micro", "utc_string"]), "form of timestamps in the payload").default("guess"),
    OptionSpec::new("case_insensitive", JSON, OptionKind::Boolean, "wish to match field names regardless of case when none matches exactly").default("true"),
];

/// The properties of `fields.<column>.<property>`.
pub const DATAGEN_FIELD: [OptionSpec; 8] = [
    OptionSpec::new(
        "kind",
        DATAGEN,
        OptionKind::Enum(&["sequence", "random", "enum", "zipf", "timestamp"]),
        "way the column's values are made",
    ),
    OptionSpec::new("start", DATAGEN, OptionKind::Text, "first or least value"),
    OptionSpec::new("end", DATAGEN, OptionKind::Text, "last or greatest value"),
    OptionSpec::new(
        "values",
        DATAGEN,
        OptionKind::List,
        "list of values to choose from",
    ),
    OptionSpec::new(
        "weights",
        DATAGEN,
        OptionKind::List,
        "list of how often each value comes",
    ),
    OptionSpec::new(
        "exponent",
        DATAGEN,
        OptionKind::Text,
        "steepness of a zipf distribution",
    ),
    OptionSpec::new("null_rate", DATAGEN, OptionKind::Fraction, "share of NULLs"),
    OptionSpec::new(
        "max_lateness",
        DATAGEN,
        OptionKind::Duration,
        "time a timestamp lies behind the newest at most",
    ),
];
