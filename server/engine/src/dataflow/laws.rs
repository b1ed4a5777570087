//! Laws that hold for every dataflow, on random queries over random changes.
//!
//! Invariant: after every step the content equals the query run as a batch; however the changes are cut, ordered or shared out to
//! shards; and when everything is taken back, nothing is left in any operator. `DATAFLOW_SEED` and `DATAFLOW_PROGRAMS` choose.

mod queries;
mod saved;
mod spilled;

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, StringViewArray,
};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::datasource::MemTable;
use datafusion::execution::context::SessionContext;
use datafusion::execution::session_state::SessionState;
use datafusion::physical_plan::collect;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use thalweg_catalog::{
    Catalog, Change, Column, ColumnRole, Environment, Oid, Relation, RelationKind, SqlType, apply,
};
use thalweg_connectors::{Delta, Weights};
use thalweg_planner::stream::Keeping;
use thalweg_planner::{Functions, NoSystemRelations, PlanContext, Planner, ViewPlan};

use self::queries::Queries;
use self::saved::SavedFlow;
use self::spilled::no_room;
use super::lookup_laws::spec;
use super::{Dataflow, KeyedRows, OutsideTables, Room, StepContext};
use crate::batch::with_relations;
use crate::chunk::RowCodec;
use crate::compute_errors::ComputeErrors;
use crate::error::EngineError;
use crate::relation::Version;

const TABLES: [&str; 3] = ["r", "s", "t"];

struct World {
    /// Rows are never taken away: the tables are sources.
    grows: bool,
    planner: Planner,
    catalog: Catalog,
    session: SessionState,
    runtime: tokio::runtime::Runtime,
}

fn relation(index: usize, name: &str, kind: RelationKind) -> Relation {
    let types = [
        ("i", SqlType::Int4),
        ("j", SqlType::Int8),
        ("w", SqlType::Text),
        ("f", SqlType::Float8),
        ("d", SqlType::numeric(12, 2)),
        ("b", SqlType::Bool),
    ];
    let oid = 20_000 + 10 * index as u32;
    let columns = types.into_iter().enumerate().map(|(i, (name, ty))| Column {
        name: name.to_owned(),
        attnum: i as i16 + 1,
        ty,
        not_null: false,
        default: None,
        generated: None,
        role: ColumnRole::Data,
    });
    Relation {
        oid: Oid(oid),
        row_type_oid: Oid(oid + 1),
        array_type_oid: Oid(oid + 2),
        schema: thalweg_catalog::PUBLIC_OID,
        name: name.to_owned(),
        kind,
        columns: columns.collect(),
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

/// One row: every column from a small domain, NULL now and then.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    i: Option<i32>,
    j: Option<i64>,
    w: Option<&'static str>,
    f: Option<f64>,
    d: Option<i128>,
    b: Option<bool>,
}

fn random_row(random: &mut ChaCha8Rng) -> Row {
    let mut some = |chance: f64| random.random_bool(chance);
    let present: Vec<bool> = (0..6).map(|_| some(0.85)).collect();
    let odd = some(0.04);
    let float = if odd {
        *[f64::NAN, f64::INFINITY, f64::NEG_INFINITY]
            .choose(random)
            .unwrap_or(&0.0)
    } else {
        f64::from(random.random_range(-8..9)) / 4.0
    };
    Row {
        i: present[0].then(|| random.random_range(0..5)),
        j: present[1].then(|| random.random_range(-3..4)),
        w: present[2]
            .then(|| ["a", "b", "ab", "a longer text than fits a view"][random.random_range(0..4)]),
        f: present[3].then_some(float),
        d: present[4].then(|| random.random_range(-500..500)),
        b: present[5].then(|| random.random_bool(0.5)),
    }
}

fn batch(schema: &SchemaRef, rows: &[Row]) -> RecordBatch {
    let decimals: Decimal128Array = rows.iter().map(|row| row.d).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.i).collect::<Int32Array>()),
        Arc::new(rows.iter().map(|row| row.j).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.w).collect::<StringViewArray>()),
        Arc::new(rows.iter().map(|row| row.f).collect::<Float64Array>()),
        Arc::new(decimals.with_data_type(schema.field(4).data_type().clone())),
        Arc::new(rows.iter().map(|row| row.b).collect::<BooleanArray>()),
    ];
    RecordBatch::try_new(Arc::clone(schema), columns).expect("rows of the schema")
}

/// Changes of one table: rows with weights.
type Changes = Vec<(Row, i64)>;

impl World {
    fn new(grows: bool) -> World {
        let mut catalog = Catalog::empty();
        for (index, name) in TABLES.iter().enumerate() {
            let kind = match grows {
                true => RelationKind::Source(spec("datagen")),
                false => RelationKind::Table,
            };
            let change = Change::CreateRelation(Box::new(relation(index, name, kind)));
            catalog = apply(&catalog, &change).expect("a new table");
        }
        let planner = Planner::new(Functions::default());
        World {
            grows,
            session: planner.session_state(),
            planner,
            catalog,
            runtime: tokio::runtime::Builder::new_current_thread()
                .build()
                .expect("a runtime"),
        }
    }

    fn table(&self, index: usize) -> (Oid, SchemaRef) {
        let relation = self
            .catalog
            .find("public", TABLES[index])
            .expect("the table");
        (relation.oid, relation.schema())
    }

    fn view(&self, sql: &str) -> Result<ViewPlan, String> {
        let query = thalweg_sql::parse_query(sql).map_err(|error| error.to_string())?;
        let path = ["public".to_owned()];
        let context = PlanContext {
            catalog: &self.catalog,
            search_path: &path,
            time_zone: "UTC",
            now_us: None,
            system: &NoSystemRelations,
            user: "law",
            parameter_types: &[],
            text: sql,
        };
        let plan = self.planner.view(&context, &query, &[]);
        plan.map_err(|error| error.report().message)
    }

    fn deltas(&self, changes: &[Changes]) -> BTreeMap<Oid, Vec<Delta>> {
        let mut out = BTreeMap::new();
        for (index, changes) in changes.iter().enumerate() {
            let (oid, schema) = self.table(index);
            let rows: Vec<Row> = changes.iter().map(|change| change.0.clone()).collect();
            let weights = Weights::Each(changes.iter().map(|change| change.1).collect());
            let delta = Delta {
                batch: batch(&schema, &rows),
                weights,
            };
            out.insert(oid, vec![delta]);
        }
        out
    }

    /// The query over the rows, with the rewrites that DataFusion cannot do without and no others.
    fn batch_rows(&self, plan: &ViewPlan, content: &[Vec<Row>]) -> Result<Vec<String>, String> {
        let run = || {
            let plan = self.planner.oracle_plan(&plan.plan)?;
            let plan = with_relations(plan, &mut |oid| {
                let index = (0..TABLES.len()).find(|index| self.table(*index).0 == oid);
                let index = index.unwrap_or_default();
                let schema = self.table(index).1;
                let rows = batch(&schema, &content[index]);
                Ok(Arc::new(MemTable::try_new(schema, vec![vec![rows]])?) as _)
            })?;
            self.runtime.block_on(async {
                let planner = self.session.query_planner();
                let physical = planner.create_physical_plan(&plan, &self.session).await?;
                let task = SessionContext::new_with_state(self.session.clone()).task_ctx();
                collect(physical, task).await
            })
        };
        let batches =
            run().map_err(|error: datafusion::error::DataFusionError| error.to_string())?;
        Ok(printed(&batches))
    }
}

/// Rows as sorted text; floating-point numbers with nine digits.
fn printed(batches: &[RecordBatch]) -> Vec<String> {
    let mut rows = Vec::new();
    for batch in batches {
        let options = FormatOptions::default().with_null("NULL");
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).expect("prints"))
            .collect();
        for row in 0..batch.num_rows() {
            let cells = columns.iter().zip(batch.columns()).map(|(cells, column)| {
                let text = cells.value(row).to_string();
                match text.parse::<f64>() {
                    Ok(number) if column.data_type().is_floating() && number.is_finite() => {
                        format!("{number:.9e}")
                    }
                    _ => text,
                }
            });
            rows.push(cells.collect::<Vec<_>>().join("|"));
        }
    }
    rows.sort_unstable();
    rows
}

/// These queries look nothing up.
struct NoTables;

impl OutsideTables for NoTables {
    fn open(&self, oid: Oid, _wanted: &[usize]) -> Result<Arc<dyn KeyedRows>, EngineError> {
        Err(EngineError::Unknown(oid))
    }
}

/// A dataflow with the content that its changes add up to.
struct Flow {
    name: String,
    dataflow: Dataflow,
    codec: Arc<RowCodec>,
    content: Version,
    errors: ComputeErrors,
}

impl Flow {
    fn new(world: &World, view: &ViewPlan, shards: usize, name: &str) -> Flow {
        Self::within(world, view, shards, name, None)
    }

    /// A flow that remembers only so much in memory.
    fn within(
        world: &World,
        view: &ViewPlan,
        shards: usize,
        name: &str,
        room: Option<Room>,
    ) -> Flow {
        let fields: Vec<_> = view
            .output
            .iter()
            .map(|column| column.ty.field(&column.name, true))
            .collect();
        let schema = Arc::new(datafusion::arrow::datatypes::Schema::new(fields));
        let codec = Arc::new(RowCodec::new(Arc::clone(&schema)).expect("a row form"));
        let dataflow = Dataflow::new(
            &world.planner,
            &view.stream.root,
            schema,
            shards,
            Arc::new(NoTables),
            room,
        );
        Flow {
            name: format!("{name}, {shards} shards"),
            dataflow: dataflow.expect("compiles"),
            content: Version::empty(Arc::clone(&codec)),
            codec,
            errors: ComputeErrors::default(),
        }
    }

    fn step(&mut self, changes: &BTreeMap<Oid, Vec<Delta>>) -> Result<(), String> {
        let context = StepContext {
            changes,
            errors: &self.errors,
            strict: false,
        };
        let deltas = self
            .dataflow
            .step(&context, &self.codec)
            .map_err(|error| format!("{}: {error}", self.name))?;
        self.content = self.content.with(&deltas).expect("adds up");
        Ok(())
    }

    fn rows(&self) -> Result<Vec<String>, String> {
        match self.content.rows() {
            Ok(Some(rows)) => Ok(printed(&rows)),
            Ok(None) => Err(format!("{}: a row with a negative count", self.name)),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Some insertions and some deletions of rows that are there, unless it `grows`.
fn random_changes(random: &mut ChaCha8Rng, content: &mut [Vec<Row>], grows: bool) -> Vec<Changes> {
    content
        .iter_mut()
        .map(|rows| {
            let mut changes = Vec::new();
            for _ in 0..random.random_range(0..6) {
                if random.random_bool(0.4) && !rows.is_empty() && !grows {
                    let row = rows.swap_remove(random.random_range(0..rows.len()));
                    changes.push((row, -1));
                } else {
                    let row = random_row(random);
                    let times = if random.random_bool(0.15) { 2 } else { 1 };
                    rows.extend(std::iter::repeat_n(row.clone(), times));
                    changes.push((row, times as i64));
                }
            }
            changes
        })
        .collect()
}

fn differ(sql: &str, step: usize, flow: &Flow, rows: &[String], expected: &[String]) -> String {
    format!(
        "step {step}, {}: {sql}\n  dataflow {rows:?}\n  batch    {expected:?}",
        flow.name
    )
}

/// Runs one program; `Ok(false)` when the query is not one that a dataflow keeps.
fn run(world: &World, seed: u64) -> Result<bool, String> {
    let random = &mut ChaCha8Rng::seed_from_u64(seed);
    let sql = Queries { random }.query();
    let view = match world.view(&sql) {
        Ok(view) if view.stream.keeping == Keeping::Incremental => view,
        Ok(_) | Err(_) => return Ok(false),
    };
    let mut flows: Vec<Flow> = [1, 2, 4]
        .into_iter()
        .map(|shards| Flow::new(world, &view, shards, "whole"))
        .collect();
    let mut split = Flow::new(world, &view, 1, "split");
    let mut permuted = Flow::new(world, &view, 1, "permuted");
    let mut late: Option<Flow> = None;
    let mut saved = SavedFlow::new(world, &view, None);
    // As the others, with everything on disk between two steps that can be.
    let mut spilled = SavedFlow::new(world, &view, Some(no_room()));
    let mut cramped = Flow::within(world, &view, 1, "without room", Some(no_room()));
    let mut content = vec![Vec::new(); TABLES.len()];
    for step in 0..5 {
        let mut changes = random_changes(random, &mut content, world.grows);
        let whole = world.deltas(&changes);
        for flow in &mut flows {
            flow.step(&whole)?;
        }
        saved.step(world, &view, random, &whole)?;
        spilled.step(world, &view, random, &whole)?;
        cramped.step(&whole)?;
        if let Some(flow) = &mut late {
            flow.step(&whole)?;
        }
        if step == 0 {
            split.step(&world.deltas(&vec![Vec::new(); TABLES.len()]))?;
        }
        for table in 0..TABLES.len() {
            for change in &changes[table] {
                let mut one = vec![Vec::new(); TABLES.len()];
                one[table].push(change.clone());
                split.step(&world.deltas(&one))?;
            }
        }
        changes.iter_mut().for_each(|rows| rows.shuffle(random));
        permuted.step(&world.deltas(&changes))?;
        if step == 2 {
            let snapshot: Vec<Changes> = content
                .iter()
                .map(|rows| rows.iter().map(|row| (row.clone(), 1)).collect())
                .collect();
            let mut flow = Flow::new(world, &view, 1, "late");
            flow.step(&world.deltas(&snapshot))?;
            late = Some(flow);
        }
        let expected = match world.batch_rows(&view, &content) {
            // DataFusion refuses some orders of arguments side by side, which a dataflow does not mind.
            Err(error) if error.contains("This feature is not implemented: ") => return Ok(false),
            other => other?,
        };
        let others = [&split, &permuted, &cramped, saved.flow(), spilled.flow()];
        for flow in flows.iter().chain(others).chain(&late) {
            let rows = flow.rows()?;
            if rows != expected {
                return Err(differ(&sql, step, flow, &rows, &expected));
            }
        }
    }
    if world.grows {
        return Ok(true);
    }
    let back: Vec<Changes> = content
        .iter()
        .map(|rows| rows.iter().map(|row| (row.clone(), -1)).collect())
        .collect();
    let empty = world.batch_rows(&view, &vec![Vec::new(); TABLES.len()])?;
    for saved in [&mut saved, &mut spilled] {
        saved.step(world, &view, random, &world.deltas(&back))?;
        let (left, constants) = (saved.left()?, constant_rows(&[], &view) as i64);
        let rows = saved.flow().rows()?;
        if rows != empty || left > constants {
            let what = differ(&sql, 5, saved.flow(), &rows, &empty);
            return Err(format!("{left} rows are left in state tables: {what}"));
        }
    }
    for mut flow in flows
        .into_iter()
        .chain([split, permuted, cramped])
        .chain(late)
    {
        flow.step(&world.deltas(&back))?;
        let rows = flow.rows()?;
        if rows != empty {
            return Err(differ(&sql, 5, &flow, &rows, &empty));
        }
        let left = flow.dataflow.state().entries;
        let constants = constant_rows(&rows, &view);
        if left > constants {
            return Err(format!("{}: {left} entries are left: {sql}", flow.name));
        }
    }
    Ok(true)
}

/// State that stays without any rows: what an aggregate without groups hands on to operators above it.
fn constant_rows(_rows: &[String], view: &ViewPlan) -> usize {
    fn totals(node: &thalweg_planner::StreamNode) -> usize {
        use thalweg_planner::StreamNode;
        let own = match node {
            StreamNode::Aggregate { group, .. } if group.is_empty() => 3,
            _ => 0,
        };
        own + node.inputs().into_iter().map(totals).sum::<usize>()
    }
    totals(&view.stream.root)
}

fn variable(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs programs; at least half of the queries are kept by changes.
fn run_all(world: &World) {
    let first = variable("DATAFLOW_SEED", 1);
    let count = variable("DATAFLOW_PROGRAMS", 150);
    let mut kept = 0;
    let mut failures = Vec::new();
    for seed in first..first + count {
        match run(world, seed) {
            Ok(true) => kept += 1,
            Ok(false) => {}
            Err(what) => failures.push(format!(
                "replay: DATAFLOW_SEED={seed} DATAFLOW_PROGRAMS=1 cargo test -p thalweg-engine --lib laws\n{what}"
            )),
        }
        if failures.len() >= 5 {
            break;
        }
    }
    println!("dataflow: {kept} of {count} queries kept by changes");
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    assert!(
        kept * 2 > count || count < 20,
        "too few queries are kept by changes"
    );
}

#[test]
fn random_queries_keep_the_laws() {
    run_all(&World::new(false));
}

#[test]
fn random_queries_over_rows_that_stay_keep_the_laws() {
    run_all(&World::new(true));
}

/// Of rows that stay the extremes are remembered and nothing else, whatever the type, and of rows that may go all values.
#[test]
fn the_extremes_of_rows_that_stay_are_all_that_is_remembered() {
    let sql = "SELECT i, max(j) AS j, min(w) AS w, max(f) AS f, min(f) AS g, max(d) AS d, min(DISTINCT j) AS k FROM r GROUP BY i";
    let random = &mut ChaCha8Rng::seed_from_u64(7);
    let rows: Vec<Row> = (0..2_000).map(|_| random_row(random)).collect();
    let mut entries = Vec::new();
    for grows in [true, false] {
        let world = World::new(grows);
        let view = world.view(sql).expect("plans");
        let mut flow = Flow::new(&world, &view, 1, "whole");
        for part in rows.chunks(100) {
            let come = part.iter().map(|row| (row.clone(), 1)).collect();
            let changes = [come, Vec::new(), Vec::new()];
            flow.step(&world.deltas(&changes)).expect("steps");
        }
        let expected = world.batch_rows(&view, &[rows.clone(), Vec::new(), Vec::new()]);
        assert_eq!(flow.rows(), expected);
        entries.push(flow.dataflow.state().entries);
    }
    // Six groups, one of them that of NULL: themselves, and the values of six calls.
    assert_eq!(entries.first(), Some(&(6 + 6 * 6)), "{entries:?}");
    assert!(entries.get(1) > Some(&150), "{entries:?}");
}
