//! Random statements survive printing and parsing; random text never panics.
//!
//! Invariant: every failure prints its seed; `PROPTEST_RNG_SEED=<seed>` runs it again.

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngSeed};
use thalweg_sql::*;

/// As many cases as fit the time of a unit test; the seed is printed by proptest with the failing case.
fn config(cases: u32) -> Config {
    let seed = std::env::var("PROPTEST_RNG_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    Config {
        cases,
        failure_persistence: None,
        rng_seed: seed.map_or(RngSeed::Random, RngSeed::Fixed),
        ..Config::default()
    }
}

/// Names as our own nodes hold them: the quotes follow from the value.
fn name() -> impl Strategy<Value = String> {
    let words = select(vec![
        "a",
        "b",
        "clicks",
        "select",
        "table",
        "order",
        "end",
        "if",
        "watermark",
        "include",
        "emit",
        "format",
        "secret",
        "options",
        "key",
        "values",
        "größe",
        "日本",
        "A",
        "Mixed Case",
        "with space",
        "semi;colon",
        "quo\"te",
        "it's",
        "--",
        "/*",
        "$1",
        "1a",
        "view",
        "tables",
        "true",
        "interval",
        "cascade",
        "column",
        "local",
        "x$y",
        "session",
    ]);
    prop_oneof![3 => "[a-z_][a-z0-9_]{0,8}", 2 => words.prop_map(str::to_string)]
}

fn ident() -> impl Strategy<Value = ast::Ident> {
    name().prop_map(|name| match quote_ident(&name).starts_with('"') {
        true => ast::Ident::with_quote('"', name),
        false => ast::Ident::new(name),
    })
}

fn object_name() -> impl Strategy<Value = ast::ObjectName> {
    vec(ident(), 1..4).prop_map(ast::ObjectName::from)
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,12}",
        "\\PC{0,6}",
        select(vec![
            "",
            "'",
            "''",
            "\\'",
            "a''b",
            "\n",
            "\\",
            "$$",
            "--",
            "日本",
            "\u{1F600}",
            "';--"
        ])
        .prop_map(str::to_string)
    ]
}

/// Expressions as text, so that only what the grammar gives is compared.
fn expr_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "[0-9]{1,4}",
        "[0-9]{1,3}\\.[0-9]{1,3}",
        text().prop_map(|t| quote_literal(&t)),
        name().prop_map(|n| format!("t.{}", quote_ident(&n))),
        select(vec![
            "NULL",
            "true",
            "x",
            "now()",
            "INTERVAL '1' DAY",
            "DATE '2020-01-01'",
            "count(*)",
            "$1",
            "current_date"
        ])
        .prop_map(str::to_string),
    ];
    leaf.prop_recursive(3, 16, 3, |inner| {
        let operator = select(vec![
            "+",
            "-",
            "*",
            "/",
            "%",
            "||",
            "=",
            "<>",
            "<",
            ">=",
            "AND",
            "OR",
            "IS DISTINCT FROM",
            "LIKE",
            "->",
            "->>",
            "~",
            "NOT LIKE",
            "@>",
            "ILIKE",
        ]);
        prop_oneof![
            (inner.clone(), operator, inner.clone())
                .prop_map(|(l, o, r)| format!("({l}) {o} ({r})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("coalesce({a}, {b})")),
            (inner.clone(), inner.clone())
                .prop_map(|(a, b)| format!("CASE WHEN {a} THEN {b} ELSE NULL END")),
            inner.clone().prop_map(|a| format!("({a})::numeric(10, 2)")),
            inner.clone().prop_map(|a| format!("CAST({a} AS text)")),
            inner.clone().prop_map(|a| format!("({a}) IS NOT NULL")),
            inner.clone().prop_map(|a| format!("NOT ({a})")),
            inner.clone().prop_map(|a| format!("- ({a})")),
            vec(inner.clone(), 1..3).prop_map(|list| format!("x IN ({})", list.join(", "))),
            vec(inner.clone(), 1..3).prop_map(|list| format!("ARRAY[{}]", list.join(", "))),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("x BETWEEN ({a}) AND ({b})")),
            inner.prop_map(|a| format!("EXISTS (SELECT {a} FROM u WHERE u.y = t.y)")),
        ]
    })
}

fn expr() -> impl Strategy<Value = ast::Expr> {
    expr_text().prop_map(|text| parse_expr(&text).unwrap_or_else(|e| panic!("{text}: {e:?}")))
}

/// Expressions whose outer parentheses the column clauses do not keep.
fn bare_expr() -> impl Strategy<Value = ast::Expr> {
    expr().prop_filter("parentheses are not kept", |e| {
        !matches!(e, ast::Expr::Nested(_))
    })
}

fn query() -> impl Strategy<Value = Box<ast::Query>> {
    let item = (expr_text(), of(name())).prop_map(|(e, alias)| match alias {
        Some(alias) => format!("{e} AS {}", quote_ident(&alias)),
        None => e,
    });
    let tail = select(vec![
        "",
        " GROUP BY 1",
        " ORDER BY 1 DESC NULLS LAST",
        " LIMIT 3",
        " UNION ALL SELECT 1",
        " EXCEPT SELECT 2 FROM v",
    ]);
    (vec(item, 1..4), name(), of(expr_text()), tail).prop_map(|(items, from, filter, tail)| {
        let filter = filter.map(|f| format!(" WHERE {f}")).unwrap_or_default();
        let text = format!(
            "SELECT {} FROM {} AS t{filter}{tail}",
            items.join(", "),
            quote_ident(&from)
        );
        parse_query(&text).unwrap_or_else(|e| panic!("{text}: {e:?}"))
    })
}

fn options() -> impl Strategy<Value = Vec<WithOption>> {
    let value = prop_oneof![
        text().prop_map(OptionValue::String),
        "-?[0-9]{1,5}(\\.[0-9]{1,3})?".prop_map(OptionValue::Number),
        any::<bool>().prop_map(OptionValue::Bool),
        name().prop_map(OptionValue::Ident),
        name().prop_map(OptionValue::Secret),
    ];
    let name = prop_oneof![
        "[a-z_]{1,6}(\\.[a-z_]{1,6}){0,2}",
        "[a-zA-Z .'-]{1,8}",
        Just("from.select".to_string())
    ];
    vec((name, value), 0..4).prop_map(|list| {
        let mut options: Vec<WithOption> = Vec::new();
        for (name, value) in list {
            if options.iter().all(|o| o.name != name) {
                options.push(WithOption { name, value });
            }
        }
        options
    })
}

fn data_type() -> impl Strategy<Value = ast::DataType> {
    select(vec![
        "int",
        "bigint",
        "text",
        "numeric(10, 2)",
        "varchar(3)",
        "timestamptz",
        "timestamp(3)",
        "double precision",
        "int[]",
        "jsonb",
        "interval",
        "boolean",
        "bytea",
        "uuid",
        "timestamp with time zone",
        "date",
        "my_type",
        "s.t",
    ])
    .prop_map(|text| match parse_expr(&format!("x::{text}")) {
        Ok(ast::Expr::Cast { data_type, .. }) => data_type,
        other => panic!("{text}: {other:?}"),
    })
}

fn column() -> impl Strategy<Value = ColumnDef> {
    (
        ident(),
        data_type(),
        any::<bool>(),
        of(bare_expr()),
        of(bare_expr()),
        options(),
    )
        .prop_map(
            |(name, data_type, not_null, default, generated, options)| ColumnDef {
                name,
                data_type: Some(data_type),
                not_null,
                default,
                generated,
                options,
            },
        )
}

fn elements() -> impl Strategy<Value = TableElements> {
    let watermark = (ident(), expr()).prop_map(|(column, expr)| Watermark { column, expr });
    let key =
        (of(ident()), vec(ident(), 1..3)).prop_map(|(name, columns)| PrimaryKey { name, columns });
    let violation = of(select(vec!["DEAD_LETTER", "FAIL", "IGNORE"]).prop_map(str::to_string));
    let check = (of(ident()), expr(), violation).prop_map(|(name, expr, on_violation)| Check {
        name,
        expr,
        on_violation,
    });
    (
        vec(column(), 0..4),
        of(watermark),
        of(key),
        vec(check, 0..2),
    )
        .prop_map(|(columns, watermark, primary_key, checks)| TableElements {
            columns,
            watermark,
            primary_key,
            checks,
        })
}

fn include() -> impl Strategy<Value = Vec<IncludeColumn>> {
    let kind = prop_oneof![
        select(vec![
            IncludeKind::Key,
            IncludeKind::Partition,
            IncludeKind::Offset,
            IncludeKind::Timestamp
        ]),
        select(vec![IncludeKind::Headers, IncludeKind::Payload]),
        text().prop_map(IncludeKind::Header),
    ];
    vec(
        (kind, of(ident())).prop_map(|(kind, alias)| IncludeColumn { kind, alias }),
        0..3,
    )
}

fn format() -> impl Strategy<Value = Option<Format>> {
    let row = select(vec!["PLAIN", "UPSERT", "DEBEZIUM"]).prop_map(str::to_string);
    let encode = select(vec!["JSON", "AVRO", "CSV", "BYTES"]).prop_map(str::to_string);
    let key = of(select(vec!["JSON", "TEXT"]).prop_map(str::to_string));
    of(
        (row, encode, options(), key).prop_map(|(row, encode, options, key_encode)| Format {
            row,
            encode,
            options,
            key_encode,
        }),
    )
}

fn kind() -> impl Strategy<Value = ObjectKind> {
    select(ObjectKind::ALL.to_vec())
}

fn pausable() -> impl Strategy<Value = ObjectKind> {
    select(vec![
        ObjectKind::MaterializedView,
        ObjectKind::Source,
        ObjectKind::Sink,
        ObjectKind::Archive,
    ])
}

fn view() -> impl Strategy<Value = CreateView> {
    (
        object_name(),
        any::<bool>(),
        vec(ident(), 0..3),
        options(),
        query(),
        any::<bool>(),
    )
        .prop_map(
            |(name, if_not_exists, columns, with, query, emit_on_window_close)| CreateView {
                name,
                or_replace: false,
                if_not_exists,
                columns,
                with,
                query,
                emit_on_window_close,
            },
        )
}

fn create() -> impl Strategy<Value = Statement> {
    let source = (
        object_name(),
        any::<bool>(),
        elements(),
        include(),
        options(),
        format(),
    )
        .prop_map(|(name, if_not_exists, elements, include, with, format)| {
            Statement::CreateSource(Box::new(CreateSource {
                name,
                if_not_exists,
                elements,
                include,
                with,
                format,
            }))
        });
    let table = (
        object_name(),
        any::<bool>(),
        elements(),
        include(),
        options(),
        format(),
    )
        .prop_map(|(name, if_not_exists, elements, include, with, format)| {
            Statement::CreateTable(Box::new(CreateTable {
                name,
                if_not_exists,
                elements,
                include,
                with,
                format,
                query: None,
            }))
        });
    let input = prop_oneof![
        object_name().prop_map(SinkInput::Relation),
        query().prop_map(SinkInput::Query)
    ];
    let sink = (
        object_name(),
        any::<bool>(),
        of(object_name()),
        input,
        options(),
        format(),
    )
        .prop_map(|(name, if_not_exists, into, input, with, format)| {
            Statement::CreateSink(Box::new(CreateSink {
                name,
                if_not_exists,
                into,
                input,
                with,
                format,
            }))
        });
    prop_oneof![
        source,
        table,
        sink,
        view().prop_map(|view| Statement::CreateMaterializedView(Box::new(view))),
        (view(), any::<bool>()).prop_map(|(view, or_replace)| {
            Statement::CreateView(Box::new(CreateView {
                or_replace,
                emit_on_window_close: false,
                ..view
            }))
        }),
        (ident(), any::<bool>()).prop_map(|(name, if_not_exists)| Statement::CreateSchema {
            name,
            if_not_exists
        }),
    ]
}

fn session() -> impl Strategy<Value = SessionStatement> {
    let setting = prop_oneof!["[a-z_]{1,8}", "[a-z]{1,4}\\.[a-z]{1,4}"];
    let lower = name().prop_filter("settings are lower case", |n| {
        !n.contains('.') && *n == n.to_lowercase()
    });
    let setting = prop_oneof![setting, lower];
    prop_oneof![
        (setting.clone(), of(vec(text(), 1..3)), any::<bool>()).prop_map(
            |(name, values, local)| SessionStatement::Set {
                name,
                values,
                local
            }
        ),
        of(setting.clone()).prop_map(SessionStatement::Reset),
        of(setting).prop_map(SessionStatement::Show),
        any::<bool>().prop_map(|read_only| SessionStatement::Begin { read_only }),
        select(vec![
            SessionStatement::Commit,
            SessionStatement::Rollback,
            SessionStatement::SetTransaction
        ]),
        name().prop_map(SessionStatement::Savepoint),
        name().prop_map(SessionStatement::Release),
        name().prop_map(SessionStatement::RollbackTo),
        of(name()).prop_map(SessionStatement::Deallocate),
        of(name()).prop_map(SessionStatement::Close),
        name().prop_map(SessionStatement::Listen),
        name().prop_map(SessionStatement::Unlisten),
        select(vec!["ALL", "PLANS", "TEMP"])
            .prop_map(|what| SessionStatement::Discard(what.into())),
    ]
}

fn subscribe() -> impl Strategy<Value = Statement> {
    let input = prop_oneof![
        object_name().prop_map(SubscribeInput::Relation),
        query().prop_map(SubscribeInput::Query),
    ];
    let epoch = 0..i64::MAX as u64;
    let start = prop_oneof![
        Just(SubscribeStart::Now),
        epoch.clone().prop_map(SubscribeStart::AsOf),
        epoch.clone().prop_map(SubscribeStart::After),
    ];
    (input, any::<[bool; 2]>(), of(text()), start, of(epoch)).prop_map(
        |(input, [snapshot, progress], heartbeat, start, up_to)| {
            Statement::Subscribe(Box::new(Subscribe {
                input,
                snapshot: snapshot && !matches!(start, SubscribeStart::After(_)),
                progress,
                heartbeat,
                start,
                up_to,
            }))
        },
    )
}

fn copy() -> impl Strategy<Value = Statement> {
    let list = || (object_name(), vec(ident(), 0..3));
    let subject = prop_oneof![
        list().prop_map(|(table, columns)| CopySubject::From { table, columns }),
        list().prop_map(|(name, columns)| CopySubject::Relation { name, columns }),
        query().prop_map(|query| CopySubject::Statement(Box::new(Statement::Query(query)))),
        subscribe().prop_map(|statement| CopySubject::Statement(Box::new(statement))),
    ];
    let header = select(vec![CopyHeader::No, CopyHeader::Yes, CopyHeader::Match]);
    let csv = (of(select(vec![';', '|', '\''])), of("[a-z]{0,3}"), header).prop_map(
        |(delimiter, null, header)| CopyOptions {
            format: CopyFormat::Csv,
            null,
            delimiter,
            header,
            quote: None,
            escape: Some('\\'),
        },
    );
    let options = prop_oneof![
        Just(CopyOptions::default()),
        csv,
        Just(CopyOptions {
            format: CopyFormat::Binary,
            ..CopyOptions::default()
        }),
    ];
    (subject, options)
        .prop_map(|(subject, options)| Statement::Copy(Box::new(Copy { subject, options })))
}

fn cursors() -> impl Strategy<Value = Statement> {
    let followed = prop_oneof![query().prop_map(Statement::Query), subscribe()];
    let declare = (name(), any::<bool>(), followed).prop_map(|(name, hold, statement)| {
        Statement::Declare(Box::new(Declare {
            name,
            hold,
            statement,
        }))
    });
    let fetch = (name(), of(0..u64::MAX), of(text()), any::<bool>()).prop_map(
        |(name, count, timeout, passing)| {
            Statement::Fetch(Fetch {
                name,
                count,
                timeout,
                passing,
            })
        },
    );
    let prepare = (name(), query()).prop_map(|(name, query)| {
        let statement = Statement::Query(query);
        Statement::Prepare(Box::new(Prepare {
            name,
            types: Vec::new(),
            text: statement.to_string(),
            statement,
        }))
    });
    let execute = name().prop_map(|name| {
        Statement::Execute(Box::new(Execute {
            name,
            arguments: Vec::new(),
        }))
    });
    prop_oneof![
        declare,
        fetch,
        prepare,
        execute,
        vec(object_name(), 1..3).prop_map(Statement::Truncate),
    ]
}

fn statement() -> impl Strategy<Value = Statement> {
    let list = (kind(), of(ident()), of(text()))
        .prop_map(|(kind, schema, like)| ShowObjects::List { kind, schema, like });
    let show = prop_oneof![
        list,
        object_name().prop_map(ShowObjects::Columns),
        (kind(), object_name()).prop_map(|(kind, name)| ShowObjects::Create { kind, name }),
        Just(ShowObjects::Jobs),
        Just(ShowObjects::Databases),
    ];
    let explain = (any::<[bool; 3]>(), query()).prop_map(|([stream, analyze, verbose], query)| {
        Statement::Explain(Box::new(Explain {
            stream,
            analyze,
            verbose,
            statement: Box::new(Statement::Query(query)),
        }))
    });
    prop_oneof![
        4 => create(),
        1 => query().prop_map(Statement::Query),
        2 => session().prop_map(Statement::Session),
        1 => (kind(), any::<bool>(), vec(object_name(), 1..3), any::<bool>())
            .prop_map(|(kind, if_exists, names, cascade)| Statement::Drop(thalweg_sql::Drop { kind, if_exists, names, cascade })),
        1 => show.prop_map(Statement::ShowObjects),
        1 => explain,
        1 => object_name().prop_map(Statement::Describe),
        1 => object_name().prop_map(Statement::WaitFor),
        1 => (pausable(), object_name(), any::<bool>())
            .prop_map(|(kind, name, paused)| Statement::Pause(thalweg_sql::Pause { kind, name, paused })),
        1 => object_name().prop_map(Statement::VacuumArchive),
        1 => Just(Statement::Flush),
        1 => subscribe(),
        1 => copy(),
        2 => cursors(),
    ]
}

proptest! {
    #![proptest_config(config(600))]

    #[test]
    fn every_statement_survives_printing(statement in statement()) {
        let printed = statement.to_string();
        let parsed = parse(&printed);
        let parsed = parsed.map_err(|e| TestCaseError::fail(format!("{printed}\n{e:?}")))?;
        prop_assert_eq!(parsed.len(), 1, "{}", printed);
        prop_assert_eq!(&parsed[0].statement, &statement, "{}", printed);
        prop_assert_eq!(&parsed[0].text, &printed);
        prop_assert_eq!(parsed[0].statement.to_string(), printed);
    }

    #[test]
    fn random_text_never_panics(text in "\\PC{0,200}") {
        let _ = parse(&text).map_err(|e| e.report());
        let _ = parse_expr(&text).map_err(|e| e.report());
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = parse(&text).map_err(|e| e.report());
    }

    #[test]
    fn random_tokens_never_panic(tokens in vec(select(tokens()), 0..40), first in select(tokens())) {
        let text = format!("{first} {}", tokens.join(" "));
        if let Ok(parsed) = parse(&text) {
            for one in parsed {
                let start: String = text.chars().skip(one.start).collect();
                prop_assert!(start.starts_with(&one.text));
                let _ = one.statement.to_string();
            }
        }
        let _ = parse_query(&text).map_err(|e| e.report());
        let _ = parse_expr(&text).map_err(|e| e.report());
    }
}

/// Separated by space; `tokens` adds the one that holds a line end.
const TOKENS: &str = r#"
SELECT FROM WHERE CREATE TABLE SOURCE SINK VIEW MATERIALIZED AS WITH ( ) [ ] , ; . = a b t "Q" 's' E'\n' $$x$$
1 1.5 $1 * + - NOT NULL IS IN BETWEEN AND OR CASE WHEN THEN ELSE END INSERT INTO VALUES UPDATE SET DELETE
RETURNING ON CONFLICT DO NOTHING JOIN LEFT LATERAL UNION ALL GROUP BY ORDER LIMIT INTERVAL DAY DATE CAST ::
int text STRUCT < > >> ARRAY EXISTS EXPLAIN SHOW DROP BEGIN PRIMARY KEY CHECK WATERMARK FOR DEFAULT INCLUDE
HEADER FORMAT PLAIN ENCODE JSON EMIT WINDOW CLOSE OPTIONS SECRET OVER PARTITION FILTER DISTINCT FETCH OFFSET
TIME ZONE AT LIKE SUBSCRIBE COPY TO STDOUT STDIN DECLARE CURSOR HOLD UP AFTER PREPARE EXECUTE TRUNCATE CSV ESCAPE SYSTEM_TIME OF /* */ { } : ? @ # ~ ! ^ & | \ EXTRACT SUBSTRING TRIM
"#;

fn tokens() -> Vec<&'static str> {
    TOKENS.split_whitespace().chain(["--\n"]).collect()
}
