//! A small catalog with rows, and the means to run planned queries over it.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::Transformed;
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::collect;
use thalweg_catalog::{
    Catalog, Change, Column, ColumnRole, ConnectorSpec, Environment, Key, Oid, PUBLIC_OID,
    Relation, RelationKind, SqlType, apply,
};
use thalweg_planner::{Functions, NoSystemRelations, PlanContext, Planner, RelationScan};
use thalweg_sql::{Report, Statement};

/// 2024-03-10 12:34:56.789 UTC.
pub(crate) const NOW_US: i64 = 1_710_074_096_789_000;

/// The catalog, its rows and a planner.
pub(crate) struct World {
    pub(crate) catalog: Catalog,
    pub(crate) planner: Planner,
    pub(crate) rows: BTreeMap<u32, RecordBatch>,
    pub(crate) time_zone: String,
    path: Vec<String>,
}

fn relation(oid: u32, name: &str, kind: RelationKind, columns: &[(&str, SqlType)]) -> Relation {
    Relation {
        oid: Oid(oid),
        row_type_oid: Oid(oid + 1),
        array_type_oid: Oid(oid + 2),
        schema: PUBLIC_OID,
        name: name.to_owned(),
        kind,
        columns: columns
            .iter()
            .enumerate()
            .map(|(i, (name, ty))| Column {
                name: (*name).to_owned(),
                attnum: i16::try_from(i + 1).unwrap(),
                ty: ty.clone(),
                not_null: false,
                default: None,
                generated: None,
                role: ColumnRole::Data,
            })
            .collect(),
        primary_key: None,
        checks: vec![],
        definition: String::new(),
        environment: Environment {
            time_zone: "UTC".to_owned(),
            search_path: vec!["public".to_owned()],
        },
        depends_on: vec![],
        created_at_ms: 0,
    }
}

fn source() -> RelationKind {
    RelationKind::Source(spec("datagen"))
}

/// A table that an outside system keeps, with one option given.
fn outside() -> RelationKind {
    let mut spec = spec("hbase");
    let ttl = ("lookup.cache.ttl".to_owned(), "5 min".to_owned());
    spec.options.extend([ttl]);
    RelationKind::External(spec)
}

fn spec(connector: &str) -> ConnectorSpec {
    ConnectorSpec {
        connector: connector.to_owned(),
        options: BTreeMap::new(),
        format: "PLAIN".to_owned(),
        encode: "NATIVE".to_owned(),
        encode_options: BTreeMap::new(),
        start: BTreeMap::new(),
        watermark: None,
    }
}

impl World {
    /// Tables `orders(id pk, amount, qty, note)`, `items(id, price)`, `types(...)`, source `clicks`, views.
    pub(crate) fn new() -> World {
        use SqlType as T;
        let mut world = World {
            catalog: Catalog::empty(),
            planner: Planner::new(Functions::default()),
            rows: BTreeMap::new(),
            time_zone: "UTC".to_owned(),
            path: vec!["public".to_owned()],
        };
        let mut orders = relation(
            20000,
            "orders",
            RelationKind::Table,
            &[
                ("id", T::Int4),
                ("amount", T::numeric(10, 2)),
                ("qty", T::Int4),
                ("note", T::Varchar(Some(10))),
            ],
        );
        orders.primary_key = Some(Key {
            name: "orders_pkey".to_owned(),
            index_oid: Oid(20003),
            constraint_oid: Oid(20004),
            columns: vec![1],
        });
        orders.columns[0].not_null = true;
        orders.columns[2].default = Some("1 + 1".to_owned());
        world.add(
            orders,
            &[
                &["1", "10.50", "2", "first"],
                &["2", "20.25", "0", "NULL"],
                &["3", "NULL", "5", "third"],
            ],
        );
        world.add(
            relation(
                20100,
                "items",
                RelationKind::Table,
                &[("id", T::Int8), ("price", T::Float8), ("order_id", T::Int4)],
            ),
            &[
                &["10", "1.5", "1"],
                &["20", "2.5", "1"],
                &["30", "0", "2"],
                &["40", "NULL", "NULL"],
            ],
        );
        world.add(
            relation(
                20200,
                "types",
                RelationKind::Table,
                &[
                    ("b", T::Bool),
                    ("i2", T::Int2),
                    ("i8", T::Int8),
                    ("f4", T::Float4),
                    ("day", T::Date),
                    ("ts", T::Timestamp),
                    ("tz", T::Timestamptz),
                    ("doc", T::Jsonb),
                    ("name", T::Text),
                ],
            ),
            &[&[
                "true",
                "7",
                "9000000000",
                "1.5",
                "2024-01-31",
                "2024-01-31T10:20:30",
                "2024-01-31T10:20:30Z",
                "{\"a\": [1, {\"b\": \"x\"}], \"n\": null}",
                "Ann",
            ]],
        );
        world.add(
            relation(
                20300,
                "clicks",
                source(),
                &[
                    ("user_id", T::Int8),
                    ("action", T::Text),
                    ("at", T::Timestamptz),
                ],
            ),
            &[
                &["1", "start", "2024-01-01T00:00:10Z"],
                &["1", "stop", "2024-01-01T00:01:10Z"],
                &["2", "start", "2024-01-01T00:01:20Z"],
            ],
        );
        let mut summed = relation(
            20350,
            "totals",
            RelationKind::Table,
            &[("a", T::Int4), ("b", T::Int4), ("total", T::Int8)],
        );
        summed.columns[2].generated = Some("a + b".to_owned());
        world.add(summed, &[&["1", "2", "3"]]);
        let view = RelationKind::View {
            query: "SELECT id, amount FROM orders WHERE amount IS NOT NULL".to_owned(),
        };
        world.add(
            relation(
                20400,
                "priced",
                view,
                &[("id", T::Int4), ("amount", T::numeric(10, 2))],
            ),
            &[],
        );
        let materialized = RelationKind::MaterializedView {
            query: "SELECT count(*) AS n FROM orders".to_owned(),
            options: BTreeMap::new(),
        };
        world.add(
            relation(20500, "counted", materialized, &[("n", T::Int8)]),
            &[&["3"]],
        );
        let mut profiles = relation(
            20600,
            "profiles",
            outside(),
            &[
                ("name", T::Text),
                ("id", T::Int8),
                ("age", T::Int4),
                ("day", T::Date),
            ],
        );
        profiles.primary_key = Some(Key {
            name: "profiles_pkey".to_owned(),
            index_oid: Oid(20603),
            constraint_oid: Oid(20604),
            columns: vec![2, 4],
        });
        world.add(
            profiles,
            &[
                &["Ann", "1", "30", "2024-01-01"],
                &["Bo", "2", "NULL", "2024-01-01"],
                &["Cy", "3", "7", "2024-01-02"],
            ],
        );
        world
    }

    fn add(&mut self, relation: Relation, rows: &[&[&str]]) {
        let schema: SchemaRef = RelationScan::of(&relation).schema;
        let columns: Vec<ArrayRef> = schema
            .fields()
            .iter()
            .enumerate()
            .map(|(i, field)| {
                let cells: StringArray = rows
                    .iter()
                    .map(|r| Some(r[i]).filter(|c| *c != "NULL"))
                    .collect();
                cast(&cells, field.data_type()).expect("a test row does not fit its column")
            })
            .collect();
        if !rows.is_empty() {
            self.rows.insert(
                relation.oid.0,
                RecordBatch::try_new(schema, columns).expect("test rows do not fit their schema"),
            );
        }
        self.catalog = apply(&self.catalog, &Change::CreateRelation(Box::new(relation)))
            .expect("the test catalog is inconsistent");
    }

    pub(crate) fn cx<'a>(&'a self, text: &'a str, now_us: Option<i64>) -> PlanContext<'a> {
        PlanContext {
            catalog: &self.catalog,
            search_path: &self.path,
            time_zone: &self.time_zone,
            now_us,
            system: &NoSystemRelations,
            user: "ann",
            parameter_types: &[],
            text,
        }
    }

    pub(crate) fn statement(&self, text: &str) -> Result<Statement, Report> {
        let mut parsed = thalweg_sql::parse(text).map_err(|e| e.report())?;
        Ok(parsed.remove(0).statement)
    }

    /// Replaces relation scans by the rows.
    pub(crate) fn grounded(&self, plan: LogicalPlan) -> LogicalPlan {
        plan.transform_up_with_subqueries(|node| {
            let LogicalPlan::TableScan(mut scan) = node else {
                return Ok(Transformed::no(node));
            };
            let Some(relation) = scan.source.downcast_ref::<RelationScan>() else {
                return Ok(Transformed::no(LogicalPlan::TableScan(scan)));
            };
            let batch = self
                .rows
                .get(&relation.oid.0)
                .cloned()
                .unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(&relation.schema)));
            let table: Arc<dyn TableProvider> = Arc::new(MemTable::try_new(
                Arc::clone(&relation.schema),
                vec![vec![batch]],
            )?);
            scan.source = provider_as_source(table);
            Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
        })
        .expect("grounding a plan failed")
        .data
    }

    /// Runs a plan and prints its rows: cells by `|`, rows by newline, sorted.
    pub(crate) fn run(&self, plan: LogicalPlan) -> Result<String, Report> {
        let plan = self.grounded(plan);
        let state = self.planner.session_state();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("no runtime");
        let batches = runtime.block_on(async {
            let physical = state.create_physical_plan(&plan).await?;
            collect(physical, state.task_ctx()).await
        });
        let batches = batches.map_err(|e| {
            if std::env::var_os("PLANNER_DEBUG").is_some() {
                eprintln!("{e:#?}");
            }
            Planner::classify(&e)
        })?;
        Ok(printed(&batches))
    }

    /// Plans and runs one query.
    pub(crate) fn query(&self, text: &str) -> Result<String, Report> {
        let Statement::Query(query) = self.statement(text)? else {
            panic!("not a query: {text}")
        };
        let planned = self
            .planner
            .query(&self.cx(text, Some(NOW_US)), &query)
            .map_err(|e| e.report())?;
        self.run(planned.plan)
    }

    /// `name type, name type` of a query's columns.
    pub(crate) fn columns(&self, text: &str) -> Result<String, Report> {
        let Statement::Query(query) = self.statement(text)? else {
            panic!("not a query: {text}")
        };
        let planned = self
            .planner
            .query(&self.cx(text, Some(NOW_US)), &query)
            .map_err(|e| e.report())?;
        Ok(planned
            .output
            .iter()
            .map(|c| format!("{} {}", c.name, c.ty))
            .collect::<Vec<_>>()
            .join(", "))
    }
}

/// Rows as text, sorted.
pub(crate) fn printed(batches: &[RecordBatch]) -> String {
    let mut lines = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let cells: Vec<String> = batch
                .columns()
                .iter()
                .map(|c| {
                    datafusion::arrow::util::display::array_value_to_string(c, row)
                        .expect("unprintable")
                })
                .map(|c| if c.is_empty() { "-".to_owned() } else { c })
                .collect();
            lines.push(cells.join("|"));
        }
    }
    lines.sort();
    lines.join("\n")
}

/// One row of a table test: expression, expected text.
pub(crate) fn check_all(world: &World, cases: &[(&str, &str)]) {
    let mut wrong = Vec::new();
    for (text, expected) in cases {
        let query = if text.to_lowercase().starts_with("select")
            || text.to_lowercase().starts_with("with")
            || text.to_lowercase().starts_with("values")
        {
            (*text).to_owned()
        } else {
            format!("SELECT {text}")
        };
        let got = match world.query(&query) {
            Ok(rows) => rows,
            Err(report) => format!("{}: {}", report.sqlstate, report.message),
        };
        if got != *expected {
            wrong.push(format!("{text}\n   expected {expected}\n   got      {got}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} wrong:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}
