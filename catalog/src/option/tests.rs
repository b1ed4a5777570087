//! Options accepted and refused, by table.
//!
//! Invariant: every refusal names the option and says what to do instead.

use std::collections::BTreeSet;

use thalweg_sql::{Format, OptionValue, WithOption};

use super::*;
use crate::object::SinkSpec;

fn with(options: &[(&str, &str)]) -> Vec<WithOption> {
    let option = |(name, value): &(&str, &str)| WithOption {
        name: (*name).to_owned(),
        value: OptionValue::String((*value).to_owned()),
    };
    options.iter().map(option).collect()
}

/// A kafka source with these options more.
fn kafka_with(more: &[(&str, &str)]) -> Result<BTreeMap<String, String>, CatalogError> {
    let mut options = vec![
        ("connector", "kafka"),
        ("topic", "t"),
        ("properties.bootstrap.server", "k:9092"),
    ];
    options.extend(more);
    validate_source_options(KAFKA, &with(&options))
}

fn json(options: &[(&str, &str)]) -> Format {
    Format {
        row: "PLAIN".to_owned(),
        encode: "JSON".to_owned(),
        options: with(options),
        key_encode: None,
    }
}

#[test]
fn values_are_stored_in_canonical_form() {
    let values = kafka_with(&[
        ("on_error", "IGNORE"),
        ("errors.retention", "1 day"),
        ("errors.max_rows", " 10 "),
        ("watermark.idle.timeout", "30s"),
        ("source_rate_limit", "100"),
        ("bounded", "on"),
        ("scan.startup.offsets", "0:42, 1:7"),
        ("partition.discovery.interval", "1 min"),
        ("properties.security.protocol", "SASL_SSL"),
        ("properties.sasl.password", " keep me "),
    ])
    .expect("all known");
    for (name, expected) in [
        ("topic", "t"),
        ("on_error", "ignore"),
        ("errors.retention", "86400000 ms"),
        ("errors.max_rows", "10"),
        ("watermark.idle.timeout", "30000 ms"),
        ("bounded", "true"),
        ("scan.startup.offsets", "0:42,1:7"),
        ("properties.security.protocol", "sasl_ssl"),
        ("properties.sasl.password", " keep me "),
    ] {
        assert_eq!(
            values.get(name).map(String::as_str),
            Some(expected),
            "{name}"
        );
    }
    assert!(!values.contains_key("connector"));
    let alias = validate_source_options(
        KAFKA,
        &with(&[("topic", "t"), ("properties.bootstrap.servers", "a:1, b:2")]),
    );
    assert_eq!(
        alias.expect("the client's own name")["properties.bootstrap.server"],
        "a:1,b:2"
    );
}

#[test]
fn kafka_refusals() {
    for (option, message, detail, hint) in [
        (
            ("topc", "x"),
            "unknown option \"topc\" of kafka source",
            "",
            "Perhaps you meant \"topic\".",
        ),
        (
            ("rows_per_second", "1"),
            "unknown option \"rows_per_second\" of kafka source",
            "",
            "Known options are ",
        ),
        (
            ("fetch.min.bytes", "1"),
            "unknown option \"fetch.min.bytes\"",
            "",
            "Perhaps you meant \"properties.fetch.min.bytes\".",
        ),
        (
            ("properties.sasl.pasword", "hunter2"),
            "unknown option \"properties.sasl.pasword\"",
            "",
            "Perhaps you meant \"properties.sasl.password\".",
        ),
        (
            ("on_error", "fial"),
            "invalid value \"fial\" for option \"on_error\"",
            "Allowed values are dead_letter, fail, ignore.",
            "Perhaps you meant \"fail\".",
        ),
        (
            ("errors.max_rows", "0"),
            "invalid value \"0\" for option \"errors.max_rows\"",
            "It must be a whole number of at least 1.",
            "",
        ),
        (
            ("errors.retention", "7"),
            "invalid value \"7\"",
            "It must be a length of time",
            "",
        ),
        (
            ("bounded", "maybe"),
            "invalid value \"maybe\"",
            "Allowed values are true, false.",
            "",
        ),
        (
            ("scan.startup.offsets", "0:1,0:2"),
            "invalid value \"0:1,0:2\" for option \"scan.startup.offsets\"",
            "It must be a list of partition:offset",
            "",
        ),
        (
            ("scan.startup.offsets", "x"),
            "invalid value \"x\"",
            "It must be a list of partition:offset",
            "",
        ),
        (
            ("scan.startup.mode", "timestamp"),
            "scan.startup.mode = 'timestamp' needs",
            "",
            "",
        ),
        (
            ("scan.startup.timestamp.millis", "1"),
            "option \"scan.startup.timestamp.millis\" needs",
            "",
            "",
        ),
        (
            ("properties.security.protocol", "tls"),
            "invalid value for option \"properties.security.protocol\"",
            "Allowed values are plaintext",
            "",
        ),
        (
            ("properties.plugin.library.paths", "/x.so"),
            "option \"properties.plugin.library.paths\" of kafka source is not allowed",
            "It loads code into the server.",
            "",
        ),
        (
            ("properties.ssl.ca.location", "/x"),
            "option \"properties.ssl.ca.location\" of kafka source is not allowed",
            "use properties.ssl.ca.pem",
            "",
        ),
        (
            ("properties.group.id", "g"),
            "option \"properties.group.id\"",
            "there is no consumer group",
            "",
        ),
        (
            ("properties.linger.ms", "5"),
            "option \"properties.linger.ms\"",
            "It belongs to the producer",
            "",
        ),
    ] {
        let report = kafka_with(&[option]).expect_err(option.0).report();
        assert_eq!(report.sqlstate, "22023", "{option:?}");
        assert!(report.message.starts_with(message), "{report:?}");
        assert!(
            report.detail.as_deref().unwrap_or("").contains(detail),
            "{report:?}"
        );
        assert!(
            report.hint.as_deref().unwrap_or("").starts_with(hint),
            "{report:?}"
        );
        assert!(!format!("{report:?}").contains("hunter2"));
    }
    let report = kafka_with(&[("connection", "k")])
        .expect_err("not built")
        .report();
    assert_eq!(
        (report.sqlstate, report.message.as_str()),
        (
            "0A000",
            "option \"connection\" of kafka source is not built yet"
        )
    );
    let report = kafka_with(&[("topic", "u")]).expect_err("twice").report();
    assert_eq!(
        (report.sqlstate, report.message.as_str()),
        ("42601", "option \"topic\" is given twice")
    );
    let report = validate_source_options(KAFKA, &with(&[("topic", "t")]))
        .expect_err("missing")
        .report();
    assert_eq!(
        report.message,
        "option \"properties.bootstrap.server\" of kafka source is missing"
    );
    assert_eq!(
        report.hint.as_deref(),
        Some("Add properties.bootstrap.server = 'localhost:9092'.")
    );
    let both = kafka_with(&[
        ("scan.startup.mode", "latest"),
        ("scan.startup.offsets", "0:1"),
    ])
    .expect_err("both");
    assert!(both.to_string().contains("exclude each other"));
    assert!(
        kafka_with(&[
            ("scan.startup.mode", "timestamp"),
            ("scan.startup.timestamp.millis", "1")
        ])
        .is_ok()
    );
}

#[test]
fn secrets_are_not_built_and_long_values_refused() {
    let mut options = with(&[("topic", "t"), ("properties.bootstrap.server", "k")]);
    options.push(WithOption {
        name: "properties.sasl.password".to_owned(),
        value: OptionValue::Secret("s".to_owned()),
    });
    assert_eq!(
        validate_source_options(KAFKA, &options)
            .expect_err("secrets")
            .sqlstate(),
        "0A000"
    );
    let long = "x".repeat(VALUE_BYTES_MAX + 1);
    assert_eq!(
        kafka_with(&[("properties.client.id", &long)])
            .expect_err("long")
            .sqlstate(),
        "22023"
    );
    assert_eq!(
        kafka_with(&[("properties.client.id", "a\0b")])
            .expect_err("NUL")
            .sqlstate(),
        "22023"
    );
}

#[test]
fn datagen_columns() {
    let values = validate_source_options(
        DATAGEN,
        &with(&[
            ("rows_per_second", "100"),
            ("rows", "0"),
            ("seed", "-1"),
            ("fields.id.kind", "sequence"),
            ("fields.id.start", "1"),
            ("fields.a.b.values", "x, y"),
            ("fields.id.null_rate", "0.5"),
            ("fields.ts.max_lateness", "5 s"),
        ]),
    )
    .expect("all known");
    assert_eq!(values["fields.a.b.values"], "x,y");
    assert_eq!(values["fields.ts.max_lateness"], "5000 ms");
    assert_eq!(check_field_options(&values, &["id", "a.b", "ts"]), Ok(()));
    let report = check_field_options(&values, &["id", "a.c", "ts"])
        .expect_err("no a.b")
        .report();
    assert_eq!(
        report.message,
        "option \"fields.a.b.values\" of datagen source names no column"
    );
    assert_eq!(
        report.hint.as_deref(),
        Some("Perhaps you meant column \"a.c\".")
    );
    for (option, hint) in [
        (
            ("fields.id.knd", "random"),
            "Perhaps you meant \"fields.id.kind\".",
        ),
        (
            ("fields.kind", "random"),
            "Column options are fields.<column>.{kind, start",
        ),
        (("fields..kind", "random"), "Column options are"),
    ] {
        let report = validate_source_options(DATAGEN, &with(&[option]))
            .expect_err(option.0)
            .report();
        assert!(
            report
                .hint
                .as_deref()
                .is_some_and(|text| text.starts_with(hint)),
            "{report:?}"
        );
    }
    for option in [
        ("fields.id.kind", "uuid"),
        ("fields.id.null_rate", "1.5"),
        ("fields.id.null_rate", "NaN"),
        ("rows", "-1"),
    ] {
        assert_eq!(
            validate_source_options(DATAGEN, &with(&[option]))
                .expect_err(option.1)
                .sqlstate(),
            "22023"
        );
    }
}

#[test]
fn connectors_by_name() {
    for (connector, sqlstate, message, hint) in [
        (
            "kafak",
            "22023",
            "unknown connector \"kafak\" of source",
            "Perhaps you meant \"kafka\".",
        ),
        (
            "blackhole",
            "22023",
            "unknown connector \"blackhole\" of source",
            "It is a sink connector; use CREATE SINK.",
        ),
        (
            "mqtt",
            "0A000",
            "connector mqtt sources are not built yet",
            "Built",
        ),
        (
            "http_poll",
            "0A000",
            "connector http_poll sources are not built yet",
            "Built",
        ),
    ] {
        let report = validate_source_options(connector, &[])
            .expect_err(connector)
            .report();
        assert_eq!(
            (report.sqlstate, report.message.as_str()),
            (sqlstate, message)
        );
        assert!(
            report
                .hint
                .as_deref()
                .is_some_and(|text| text.starts_with(hint)),
            "{report:?}"
        );
    }
    for (connector, sqlstate, message) in [
        ("hbase", "0A000", "connector hbase sinks are not built yet"),
        ("datagen", "22023", "unknown connector \"datagen\" of sink"),
    ] {
        let report = validate_sink_options(connector, &[])
            .expect_err(connector)
            .report();
        assert_eq!(
            (report.sqlstate, report.message.as_str()),
            (sqlstate, message)
        );
    }
    assert_eq!(
        validate_table_options("kafka", &[])
            .expect_err("kafka")
            .to_string(),
        "connector kafka tables are not built yet"
    );
    assert_eq!(
        validate_table_options("x", &[]).expect_err("x").sqlstate(),
        "22023"
    );
    let hbase = validate_table_options("hbase", &with(&[("table", "t")])).expect_err("servers");
    assert_eq!(
        hbase.to_string(),
        "option \"thrift.servers\" of hbase table is missing"
    );
    let given = [
        ("table", "t"),
        ("thrift.servers", "a:1"),
        ("create.ttl", "1 day"),
    ];
    let options = validate_table_options("hbase", &with(&given)).expect("good");
    assert_eq!(
        options.get("create.ttl").map(String::as_str),
        Some("86400000 ms")
    );
    assert_eq!(
        connector_of(&[]).expect_err("missing").to_string(),
        "option \"connector\" is missing"
    );
}

#[test]
fn sinks_and_views() {
    let sink = SinkSpec {
        connector: "print".to_owned(),
        options: validate_sink_options("print", &[]).expect("no option is required"),
        query: "SELECT 1".to_owned(),
        delivery: "at_least_once".to_owned(),
        format: None,
        into: None,
    };
    assert_eq!(sink.option("delivery"), Some("at_least_once"));
    assert_eq!(sink.option("topic"), None);
    let report = validate_sink_options("print", &with(&[("delivery", "exactly_once")]))
        .expect_err("not yet")
        .report();
    assert_eq!(
        (report.sqlstate, report.message.as_str()),
        ("0A000", "delivery = 'exactly_once' is not built yet")
    );
    let report = validate_sink_options("print", &with(&[("topic", "x")]))
        .expect_err("unknown")
        .report();
    assert_eq!(report.message, "unknown option \"topic\" of print sink");

    assert!(
        validate_view_options(&with(&[
            ("on_compute_error", "fail"),
            ("isolated", "false")
        ]))
        .is_ok()
    );
    for option in [
        ("state_ttl", "1 h"),
        ("backfill_rate_limit", "5"),
        ("isolated", "true"),
    ] {
        let report = validate_view_options(&with(&[option]))
            .expect_err(option.0)
            .report();
        assert_eq!(report.sqlstate, "0A000", "{option:?}");
        assert!(report.message.contains(option.0), "{report:?}");
    }
    // `connector` is an option like any other where there is none.
    assert_eq!(
        validate_view_options(&with(&[("connector", "kafka")]))
            .expect_err("unknown")
            .sqlstate(),
        "22023"
    );
}

/// A kafka sink's clauses by table: format, key encoding, number of key columns.
#[test]
fn kafka_sinks_say_how_rows_become_messages() {
    let spec = |row: &str, key_encode: Option<&str>, key: usize| {
        let format = Format {
            row: row.to_owned(),
            key_encode: key_encode.map(str::to_owned),
            ..json(&[])
        };
        sink_format(KAFKA, Some(&format), (0..key).collect())
    };
    let plain = spec("PLAIN", None, 0).expect("no key").expect("a format");
    assert_eq!(
        (plain.row.as_str(), plain.key_encode.as_str()),
        ("PLAIN", "JSON")
    );
    assert!(spec("UPSERT", None, 2).is_ok() && spec("UPSERT", Some("TEXT"), 1).is_ok());
    for (row, key_encode, key, sqlstate) in [
        ("UPSERT", None, 0, "22023"),
        ("UPSERT", Some("TEXT"), 2, "22023"),
        ("PLAIN", Some("BYTES"), 0, "22023"),
        ("PLAIN", Some("XML"), 1, "22023"),
        ("DEBEZIUM", None, 1, "0A000"),
        ("UPSET", None, 1, "22023"),
    ] {
        let error = spec(row, key_encode, key).expect_err(row);
        assert_eq!(error.sqlstate(), sqlstate, "{row} {key_encode:?} {key}");
    }
    assert_eq!(
        sink_format(KAFKA, None, vec![])
            .expect_err("none")
            .sqlstate(),
        "22023"
    );
    assert_eq!(sink_format("print", None, vec![]), Ok(None));

    let topic = [("topic", "t"), ("properties.bootstrap.server", "k:9092")];
    let options = |more: &[(&str, &str)]| {
        let all: Vec<_> = topic.iter().chain(more).copied().collect();
        validate_sink_options(KAFKA, &with(&all))
    };
    assert!(options(&[("properties.linger.ms", "1"), ("primary_key", "a, b")]).is_ok());
    assert!(options(&[("delivery", "exactly_once"), ("sink_log.max_bytes", "1GB")]).is_ok());
    assert_eq!(
        (default_delivery(KAFKA), default_delivery("print")),
        ("exactly_once", "at_least_once")
    );
    for (name, value, sqlstate) in [
        ("delivery", "at_most_once", "22023"),
        ("snapshot", "false", "0A000"),
        ("sink_log.max_bytes", "much", "22023"),
        ("properties.acks", "0", "22023"),
        ("properties.isolation.level", "read_committed", "22023"),
        ("scan.startup.mode", "earliest", "22023"),
    ] {
        let error = options(&[(name, value)]).expect_err(name);
        assert_eq!(error.sqlstate(), sqlstate, "{name}");
    }
}

#[test]
fn formats() {
    let kafka = with(&[
        ("connector", "KAFKA"),
        ("topic", "t"),
        ("properties.bootstrap.server", "k"),
    ]);
    let spec = connector_spec(
        &kafka,
        Some(&json(&[
            ("case_insensitive", "off"),
            ("timestamptz.handling.mode", "milli"),
        ])),
    )
    .expect("a source");
    assert_eq!(
        (
            spec.connector.as_str(),
            spec.format.as_str(),
            spec.encode.as_str()
        ),
        ("kafka", "PLAIN", "JSON")
    );
    assert_eq!(spec.encode_option("case_insensitive"), Some("false"));
    assert_eq!(spec.option("on_error"), Some("dead_letter"));
    assert_eq!(spec.duration_ms("errors.retention"), Some(604_800_000));
    assert_eq!(spec.integer("errors.max_rows"), Some(1_000_000));
    assert!(!spec.is_on("bounded"));
    assert!(spec.is_secret("properties.sasl.password") && !spec.is_secret("topic"));
    assert_eq!(spec.option("watermark.idle.timeout"), None);

    let report = connector_spec(&kafka, None)
        .expect_err("no format")
        .report();
    assert_eq!(
        (report.sqlstate, report.hint.as_deref()),
        ("22023", Some("Add FORMAT PLAIN ENCODE JSON."))
    );
    for (row, encode, sqlstate, message) in [
        ("UPSERT", "JSON", "0A000", "FORMAT UPSERT is not built yet"),
        ("PLAIN", "AVRO", "0A000", "ENCODE AVRO is not built yet"),
        ("PLAIN", "JSN", "22023", "unknown ENCODE JSN"),
        ("PLIAN", "JSON", "22023", "unknown FORMAT PLIAN"),
    ] {
        let format = Format {
            row: row.to_owned(),
            encode: encode.to_owned(),
            options: vec![],
            key_encode: None,
        };
        let report = connector_spec(&kafka, Some(&format))
            .expect_err(message)
            .report();
        assert_eq!(
            (report.sqlstate, report.message.as_str()),
            (sqlstate, message)
        );
    }
    let report = connector_spec(&kafka, Some(&json(&[("case_insensitve", "on")])))
        .expect_err("misspelt")
        .report();
    assert_eq!(
        report.message,
        "unknown option \"case_insensitve\" of ENCODE JSON"
    );
    assert_eq!(
        report.hint.as_deref(),
        Some("Perhaps you meant \"case_insensitive\".")
    );
    let datagen = with(&[("connector", "datagen")]);
    assert_eq!(
        connector_spec(&datagen, None).expect("a generator").encode,
        "NATIVE"
    );
    assert_eq!(
        connector_spec(&datagen, Some(&json(&[])))
            .expect("as RisingWave writes it")
            .encode,
        "NATIVE"
    );
}

#[test]
fn files_have_encodings_of_their_own() {
    let encode = |connector: &str, encode: &str, options: &[(&str, &str)]| {
        let format = Format {
            encode: encode.to_owned(),
            ..json(options)
        };
        validate_format(connector, Some(&format)).map(|(_, encode, _)| encode)
    };
    assert_eq!(encode("file", "PARQUET", &[]).as_deref(), Ok("PARQUET"));
    assert_eq!(encode("file", "CSV", &[]).as_deref(), Ok("CSV"));
    for (connector, name, options, sqlstate) in [
        ("kafka", "PARQUET", &[][..], "0A000"),
        ("file", "AVRO", &[], "0A000"),
        ("file", "PARQUET", &[("compression", "zstd")], "22023"),
    ] {
        let error = encode(connector, name, options).expect_err("refused");
        assert_eq!(error.report().sqlstate, sqlstate, "{connector} {name}");
    }
}

#[test]
fn the_registry_is_consistent() {
    let places = [
        Place::KafkaSource,
        Place::DatagenSource,
        Place::BlackholeSink,
        Place::PrintSink,
        Place::HbaseTable,
        Place::MaterializedView,
        Place::EncodeJson,
    ];
    for place in places {
        let names: Vec<&str> = options_of(place).map(|spec| spec.name).collect();
        assert_eq!(
            names.len(),
            names.iter().collect::<BTreeSet<_>>().len(),
            "{place:?}"
        );
    }
    for spec in OPTIONS.iter().chain(&DATAGEN_FIELD) {
        assert!(
            !spec.places.is_empty() && !spec.doc.is_empty() && !spec.doc.ends_with('.'),
            "{}",
            spec.name
        );
        if let Some(default) = spec.default {
            let canonical = spec
                .kind
                .canonical(default)
                .unwrap_or_else(|| panic!("{}", spec.name));
            assert_eq!(
                spec.kind.canonical(&canonical),
                Some(canonical.clone()),
                "{}",
                spec.name
            );
        }
    }
}
