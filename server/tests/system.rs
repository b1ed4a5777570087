//! Proves that clients' own catalog queries run and give the right rows: every query of `src/system/fixtures` goes through
//! rewrite, planner and execution over a sample catalog, and the ones people look at are compared row by row.
//!
//! `{schema.relation}` in a fixture stands for an OID; `$1 = '...'` in its comment gives its parameters.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::ScalarValue;
use datafusion::dataframe::DataFrame;
use thalweg::system::{EngineFacts, SessionFacts, SystemCatalog, rewrite};
use thalweg_catalog::{
    Catalog, Change, Column, ColumnRole, ConnectorSpec, Environment, OidAllocator, RelationBuilder,
    RelationKind, Schema, SqlType, apply,
};
use thalweg_planner::{Functions, PlanContext, Planner};

fn column(name: &str, ty: SqlType) -> Column {
    Column {
        name: name.into(),
        attnum: 0,
        ty,
        not_null: false,
        default: None,
        generated: None,
        role: ColumnRole::Data,
    }
}

fn add(
    catalog: &Catalog,
    schema: &str,
    name: &str,
    kind: RelationKind,
    columns: Vec<Column>,
    key: &[&str],
    reads: &[&str],
) -> Catalog {
    let mut oids = OidAllocator::new(catalog);
    let schema = catalog.schema(schema).expect("schema").oid;
    let depends: Vec<_> = reads
        .iter()
        .map(|name| catalog.find("public", name).expect("relation").oid)
        .collect();
    let mut builder =
        RelationBuilder::new(catalog, &mut oids, schema, name, kind).expect("relation");
    builder.columns(columns).expect("columns");
    if !key.is_empty() {
        builder.primary_key(None, key).expect("key");
    }
    if name == "orders" {
        builder.check(None, "amount >= 0", "FAIL").expect("check");
    }
    builder.depends_on(depends).definition(
        "",
        Environment {
            time_zone: "UTC".into(),
            search_path: vec!["public".into()],
        },
    );
    let relation = builder.build();
    apply(catalog, &Change::CreateRelation(Box::new(relation))).expect("apply")
}

/// The catalog that the fixtures were captured over, in PostgreSQL's words; `clicks` is a source here.
fn catalog() -> Arc<Catalog> {
    let numeric = SqlType::Numeric {
        declared: Some((10, 2)),
        held_scale: 2,
    };
    let text_array = SqlType::Array(Box::new(SqlType::Text));
    let catalog = Catalog::empty();
    let mut oids = OidAllocator::new(&catalog);
    let shop = Schema {
        oid: oids.allocate().expect("oid"),
        name: "shop".into(),
    };
    let catalog = apply(&catalog, &Change::CreateSchema(shop)).expect("schema");
    let mut customer = column("customer", SqlType::Text);
    customer.not_null = true;
    customer.default = Some("'nobody'".into());
    let columns = vec![
        column("id", SqlType::Int8),
        customer.clone(),
        column("amount", numeric.clone()),
        column("note", SqlType::Varchar(Some(20))),
        column("at", SqlType::Timestamptz),
        column("tags", text_array),
        column("doc", SqlType::Jsonb),
        column("key", SqlType::Uuid),
    ];
    let catalog = add(
        &catalog,
        "public",
        "orders",
        RelationKind::Table,
        columns,
        &["id"],
        &[],
    );
    let source = RelationKind::Source(ConnectorSpec {
        connector: "kafka".into(),
        options: BTreeMap::new(),
        format: "PLAIN".into(),
        encode: "JSON".into(),
        encode_options: BTreeMap::new(),
        start: BTreeMap::new(),
        watermark: None,
    });
    let columns = vec![
        column("user_id", SqlType::Int8),
        column("action", SqlType::Text),
        column("ts", SqlType::Timestamptz),
    ];
    let catalog = add(&catalog, "public", "clicks", source, columns, &[], &[]);
    let query = "SELECT id, customer, amount FROM orders WHERE amount > 100".to_owned();
    let columns = vec![
        column("id", SqlType::Int8),
        column("customer", SqlType::Text),
        column("amount", numeric),
    ];
    let catalog = add(
        &catalog,
        "public",
        "big_orders",
        RelationKind::View { query },
        columns,
        &[],
        &["orders"],
    );
    let query =
        "SELECT customer, sum(amount) AS total, count(*) AS n FROM orders GROUP BY customer"
            .to_owned();
    let columns = vec![
        column("customer", SqlType::Text),
        column(
            "total",
            SqlType::Numeric {
                declared: None,
                held_scale: 10,
            },
        ),
        column("n", SqlType::Int8),
    ];
    let kind = RelationKind::MaterializedView {
        query,
        options: BTreeMap::new(),
    };
    let catalog = add(
        &catalog,
        "public",
        "totals",
        kind,
        columns,
        &[],
        &["orders"],
    );
    let columns = vec![column("sku", SqlType::Text), column("shelf", SqlType::Int4)];
    Arc::new(add(
        &catalog,
        "shop",
        "items",
        RelationKind::Table,
        columns,
        &["sku", "shelf"],
        &[],
    ))
}

struct World {
    catalog: Arc<Catalog>,
    planner: Planner,
    search_path: Vec<String>,
}

#[derive(Debug)]
struct Answer {
    names: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl World {
    fn new() -> Self {
        Self {
            catalog: catalog(),
            planner: Planner::new(Functions::default()),
            search_path: vec!["ann".into(), "public".into()],
        }
    }

    fn session(&self) -> SessionFacts {
        let settings = [
            ("DateStyle", "ISO, MDY"),
            ("default_table_access_method", "heap"),
            ("jit", "off"),
            ("max_index_keys", "32"),
            ("search_path", "\"$user\", public"),
            ("server_version", "15.18 (Thalweg 0.1.0)"),
            ("TimeZone", "UTC"),
        ];
        SessionFacts {
            user: "ann".into(),
            database: "thalweg".into(),
            search_path: self.search_path.clone(),
            backend_pid: 7,
            settings: settings
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
        }
    }

    fn oid(&self, name: &str) -> u32 {
        if let Some(name) = name.strip_prefix("type ") {
            let (name, array) = name
                .strip_prefix('_')
                .map_or((name, false), |name| (name, true));
            let relation = self
                .catalog
                .relations()
                .find(|relation| relation.name == name)
                .expect("relation");
            return if array {
                relation.array_type_oid.0
            } else {
                relation.row_type_oid.0
            };
        }
        let (schema, name) = name.split_once('.').expect("schema.name");
        match self.catalog.find(schema, name) {
            Some(relation) => relation.oid.0,
            None => {
                let keys = self
                    .catalog
                    .relations()
                    .filter_map(|relation| relation.primary_key.as_ref());
                keys.filter(|key| key.name == name)
                    .map(|key| key.index_oid.0)
                    .next()
                    .expect("index")
            }
        }
    }

    /// Puts OIDs where the fixture names objects.
    fn filled(&self, text: &str) -> String {
        let mut filled = String::new();
        let mut rest = text;
        while let Some(start) = rest.find('{') {
            let (before, after) = rest.split_at(start);
            filled.push_str(before);
            let end = after.find('}').unwrap_or(after.len() - 1);
            let name = &after[1..end];
            if name.contains('.') || name.starts_with("type ") {
                filled.push_str(&self.oid(name).to_string());
            } else {
                filled.push_str(&after[..=end]);
            }
            rest = &after[end + 1..];
        }
        filled.push_str(rest);
        filled
    }

    async fn run(&self, text: &str, parameters: &[String]) -> Result<Answer, String> {
        let text = self.filled(text);
        let mut parsed = thalweg_sql::parse(&text).map_err(|error| format!("parse: {error}"))?;
        let parsed = &mut parsed.first_mut().ok_or("empty statement")?.statement;
        rewrite(parsed, &self.catalog, &self.search_path);
        let thalweg_sql::Statement::Query(query) = parsed else {
            return Err("not a query".into());
        };
        let system = SystemCatalog::new(
            Arc::clone(&self.catalog),
            self.session(),
            Some(EngineFacts::default()),
        );
        let context = PlanContext {
            catalog: &self.catalog,
            search_path: &self.search_path,
            time_zone: "UTC",
            now_us: Some(0),
            system: &system,
            user: "ann",
            parameter_types: &[],
            text: &text,
        };
        let detail =
            |stage: &str, error: &dyn std::fmt::Display| format!("{stage}: {error}\n    {query}");
        let planned = self
            .planner
            .query(&context, query)
            .map_err(|error| detail("plan", &error.report()))?;
        let values = planned
            .parameters
            .iter()
            .zip(parameters)
            .map(|(ty, text)| ScalarValue::try_from_string(text.clone(), &ty.arrow()))
            .collect::<Result<Vec<_>, _>>();
        // A list cannot be cast from text: such a parameter is given as a literal array.
        let values = match values {
            Ok(values) => values,
            Err(_) => planned
                .parameters
                .iter()
                .zip(parameters)
                .map(|(ty, text)| parameter(ty, text))
                .collect(),
        };
        let plan = self
            .planner
            .bind_parameters(planned.plan, &values)
            .map_err(|error| detail("bind", &error.report()))?;
        let batches = DataFrame::new(self.planner.session_state(), plan)
            .collect()
            .await
            .map_err(|error| detail("run", &error))?;
        let rows = batches.iter().flat_map(rows).collect();
        Ok(Answer {
            names: planned
                .output
                .into_iter()
                .map(|column| column.name)
                .collect(),
            rows,
        })
    }

    async fn rows(&self, text: &str) -> Vec<Vec<String>> {
        self.run(text, &[]).await.expect("query").rows
    }
}

fn parameter(ty: &SqlType, text: &str) -> ScalarValue {
    match ty {
        SqlType::Array(element) => {
            let items: Vec<_> = text
                .trim_matches(['{', '}'])
                .split(',')
                .map(|item| {
                    ScalarValue::try_from_string(item.to_owned(), &element.arrow()).expect("item")
                })
                .collect();
            ScalarValue::List(ScalarValue::new_list_nullable(&items, &element.arrow()))
        }
        SqlType::Bool => ScalarValue::Boolean(Some(text == "t")),
        ty => ScalarValue::try_from_string(text.to_owned(), &ty.arrow()).expect("parameter"),
    }
}

fn rows(batch: &RecordBatch) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options).expect("printable"))
        .collect();
    (0..batch.num_rows())
        .map(|row| {
            columns
                .iter()
                .map(|column| column.value(row).to_string())
                .collect()
        })
        .collect()
}

struct Fixture {
    label: String,
    text: String,
    parameters: Vec<String>,
}

fn fixtures(name: &str) -> Vec<Fixture> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/system/fixtures")
        .join(name);
    let text = std::fs::read_to_string(path).expect("fixture");
    text.split("\n;\n")
        .filter_map(|item| {
            let (label, text) = item.trim().strip_prefix("-- ")?.split_once('\n')?;
            let parameters = match label.split_once(": $1 = ") {
                Some((_, list)) => {
                    let list = format!("$1 = {list}");
                    list.split("', ")
                        .map(|one| {
                            one.split_once(" = '")
                                .map_or("", |(_, v)| v)
                                .trim_end_matches('\'')
                                .to_owned()
                        })
                        .collect()
                }
                None => Vec::new(),
            };
            Some(Fixture {
                label: label.to_owned(),
                text: text.to_owned(),
                parameters,
            })
        })
        .collect()
}

async fn all_run(name: &str) {
    let world = World::new();
    let mut failures = Vec::new();
    let fixtures = fixtures(name);
    assert!(!fixtures.is_empty(), "{name} has no queries");
    for fixture in &fixtures {
        if let Err(error) = world.run(&fixture.text, &fixture.parameters).await {
            failures.push(format!("-- {}\n  {error}", fixture.label));
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {} queries of {name} fail:\n{}",
        failures.len(),
        fixtures.len(),
        failures.join("\n")
    );
}

macro_rules! every_query_of {
    ($($test:ident: $file:literal,)*) => {
        $(
            #[tokio::test]
            async fn $test() {
                all_run($file).await;
            }
        )*
    };
}

every_query_of! {
    psql_commands_run: "psql.sql",
    psql_completion_runs: "psql_completion.sql",
    sqlalchemy_runs: "sqlalchemy.sql",
    psycopg_runs: "psycopg.sql",
    asyncpg_runs: "asyncpg.sql",
    pgjdbc_runs: "pgjdbc.sql",
    psqlodbc_runs: "psqlodbc.sql",
    adbc_runs: "adbc.sql",
    ibis_runs: "ibis.sql",
    pgcli_runs: "pgcli.sql",
    other_clients_run: "others.sql",
}

fn strings(rows: &[&[&str]]) -> Vec<Vec<String>> {
    rows.iter()
        .map(|row| row.iter().map(|cell| (*cell).to_owned()).collect())
        .collect()
}

/// The `n`-th query that psql sends for a command.
fn psql(command: &str, n: usize) -> String {
    let found = fixtures("psql.sql")
        .into_iter()
        .filter(|fixture| fixture.label == command)
        .nth(n);
    found
        .unwrap_or_else(|| panic!("no query {n} of {command}"))
        .text
}

#[tokio::test]
async fn psql_lists_relations_with_their_kinds() {
    let world = World::new();
    let listed = world.rows(&psql("\\d", 0)).await;
    let expected: &[&[&str]] = &[
        &["public", "big_orders", "view", "thalweg"],
        &["public", "clicks", "table", "thalweg"],
        &["public", "orders", "table", "thalweg"],
        &["public", "totals", "materialized view", "thalweg"],
    ];
    assert_eq!(listed, strings(expected));
}

#[tokio::test]
async fn psql_describes_columns() {
    let world = World::new();
    let described = world.rows(&psql("\\d orders", 2)).await;
    let expected: &[&[&str]] = &[
        &["id", "bigint", "NULL", "true", "NULL", "", ""],
        &["customer", "text", "'nobody'", "true", "NULL", "", ""],
        &["amount", "numeric(10,2)", "NULL", "false", "NULL", "", ""],
        &[
            "note",
            "character varying(20)",
            "NULL",
            "false",
            "NULL",
            "",
            "",
        ],
        &[
            "at",
            "timestamp with time zone",
            "NULL",
            "false",
            "NULL",
            "",
            "",
        ],
        &["tags", "text[]", "NULL", "false", "NULL", "", ""],
        &["doc", "jsonb", "NULL", "false", "NULL", "", ""],
        &["key", "uuid", "NULL", "false", "NULL", "", ""],
    ];
    assert_eq!(described, strings(expected));
}

#[tokio::test]
async fn psql_lists_indexes_schemas_and_roles() {
    let world = World::new();
    let cases: &[(&str, &[&[&str]])] = &[
        (
            "\\di",
            &[&["public", "orders_pkey", "index", "thalweg", "orders"]],
        ),
        (
            "\\dm",
            &[&["public", "totals", "materialized view", "thalweg"]],
        ),
        ("\\dv", &[&["public", "big_orders", "view", "thalweg"]]),
        (
            "\\dn",
            &[
                &["public", "thalweg"],
                &["shop", "thalweg"],
                &["sys", "thalweg"],
            ],
        ),
        ("\\dT", &[]),
        ("\\ds", &[]),
    ];
    for (command, expected) in cases {
        assert_eq!(
            world.rows(&psql(command, 0)).await,
            strings(expected),
            "{command}"
        );
    }
    let roles: Vec<String> = world
        .rows(&psql("\\du", 0))
        .await
        .into_iter()
        .map(|row| row[0].clone())
        .collect();
    assert_eq!(roles, ["ann", "thalweg"]);
}

#[path = "system/rows.rs"]
mod rows;
