//! Laws of lookup joins, over random changes of the input and of the table that is looked up in.
//!
//! Invariant: the content is what each row found when it came, until it goes; how changes are cut alters it only where the table
//! changed in between, a dataflow that is built of what another one saved goes on as that one would, and when all rows have gone nothing
//! is left. `LOOKUP_SEED` and `LOOKUP_PROGRAMS` choose.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int32Array, StringViewArray};
use datafusion::arrow::datatypes::{DataType, Field, Int32Type, Schema};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::arrow::util::display::array_value_to_string;
use parking_lot::Mutex;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use thalweg_catalog::{
    Catalog, Change, Column, ColumnRole, ConnectorSpec, Environment, Key, Oid, Relation,
    RelationKind, SqlType, apply,
};
use thalweg_connectors::{Delta, FoundRow, Weights};
use thalweg_planner::stream::Keeping;
use thalweg_planner::{Functions, NoSystemRelations, PlanContext, Planner, ViewPlan};

use super::{Dataflow, KeyedRows, OutsideTables, StepContext};
use crate::chunk::RowCodec;
use crate::compute_errors::ComputeErrors;
use crate::error::EngineError;
use crate::relation::Version;

const INPUT: Oid = Oid(20_000);
const TABLE: Oid = Oid(20_010);

/// A row of the table: `v` and `x`.
type Value = (Option<&'static str>, Option<i32>);
/// A row of the input: `i` and `w`.
type Input = (Option<i32>, &'static str);

/// The table, in memory.
#[derive(Debug, Default)]
struct Shelf {
    rows: Mutex<BTreeMap<i32, Value>>,
    asked: AtomicUsize,
}

/// Some of its columns.
#[derive(Debug)]
struct Shown {
    shelf: Arc<Shelf>,
    wanted: Vec<usize>,
    codec: RowConverter,
}

fn types() -> [DataType; 3] {
    [DataType::Int32, DataType::Utf8View, DataType::Int32]
}

impl OutsideTables for Arc<Shelf> {
    fn open(&self, oid: Oid, wanted: &[usize]) -> Result<Arc<dyn KeyedRows>, EngineError> {
        assert_eq!(oid, TABLE);
        let fields = wanted.iter().map(|at| SortField::new(types()[*at].clone()));
        Ok(Arc::new(Shown {
            shelf: Arc::clone(self),
            wanted: wanted.to_vec(),
            codec: RowConverter::new(fields.collect()).expect("a row form"),
        }))
    }
}

impl KeyedRows for Shown {
    fn find(&self, keys: &[ArrayRef]) -> Result<Vec<FoundRow>, EngineError> {
        let keys = keys[0].as_primitive::<Int32Type>();
        self.shelf.asked.fetch_add(keys.len(), Ordering::SeqCst);
        let rows = self.shelf.rows.lock();
        let find = |key: Option<i32>| {
            let key = key?;
            let (v, x) = rows.get(&key)?;
            let all: [ArrayRef; 3] = [
                Arc::new(Int32Array::from(vec![key])),
                Arc::new(StringViewArray::from(vec![*v])),
                Arc::new(Int32Array::from(vec![*x])),
            ];
            let columns: Vec<ArrayRef> = self.wanted.iter().map(|at| all[*at].clone()).collect();
            let encoded = self.codec.convert_columns(&columns).expect("encodes");
            Some(Arc::from(encoded.row(0).data()))
        };
        Ok(keys.iter().map(find).collect())
    }

    fn encode(&self, columns: &[ArrayRef]) -> Result<Vec<Arc<[u8]>>, EngineError> {
        let rows = self.codec.convert_columns(columns)?;
        Ok(rows.iter().map(|row| Arc::from(row.data())).collect())
    }

    fn decode(&self, rows: &[&[u8]]) -> Result<RecordBatch, EngineError> {
        let parser = self.codec.parser();
        let parsed: Vec<_> = rows.iter().map(|bytes| parser.parse(bytes)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(parsed.len()));
        let columns = self.codec.convert_rows(parsed)?;
        let fields = self
            .wanted
            .iter()
            .zip(&columns)
            .map(|(at, column)| Field::new(format!("c{at}"), column.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Ok(RecordBatch::try_new_with_options(
            schema, columns, &options,
        )?)
    }
}

fn relation(oid: Oid, name: &str, kind: RelationKind, columns: &[(&str, SqlType)]) -> Relation {
    let columns = columns.iter().enumerate().map(|(at, (name, ty))| Column {
        name: (*name).to_owned(),
        attnum: at as i16 + 1,
        ty: ty.clone(),
        not_null: false,
        default: None,
        generated: None,
        role: ColumnRole::Data,
    });
    Relation {
        oid,
        row_type_oid: Oid(oid.0 + 1),
        array_type_oid: Oid(oid.0 + 2),
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

pub(super) fn spec(connector: &str) -> ConnectorSpec {
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

/// The plan of a view over `r(i, w)`, which is a source when `grows`, and the outside table `h(k, v, x)`.
fn view(planner: &Planner, sql: &str, grows: bool) -> ViewPlan {
    let kind = match grows {
        true => RelationKind::Source(spec("datagen")),
        false => RelationKind::Table,
    };
    let input = [("i", SqlType::Int4), ("w", SqlType::Text)];
    let table = [
        ("k", SqlType::Int4),
        ("v", SqlType::Text),
        ("x", SqlType::Int4),
    ];
    let mut outside = relation(TABLE, "h", RelationKind::External(spec("hbase")), &table);
    outside.primary_key = Some(Key {
        name: "h_pkey".to_owned(),
        index_oid: Oid(TABLE.0 + 3),
        constraint_oid: Oid(TABLE.0 + 4),
        columns: vec![1],
    });
    let mut catalog = Catalog::empty();
    for relation in [relation(INPUT, "r", kind, &input), outside] {
        let change = Change::CreateRelation(Box::new(relation));
        catalog = apply(&catalog, &change).expect("a new relation");
    }
    let query = thalweg_sql::parse_query(sql).expect("parses");
    let path = ["public".to_owned()];
    let context = PlanContext {
        catalog: &catalog,
        search_path: &path,
        time_zone: "UTC",
        now_us: None,
        system: &NoSystemRelations,
        user: "law",
        parameter_types: &[],
        text: sql,
    };
    let view = planner.view(&context, &query, &[]).expect("plans");
    assert_eq!(view.stream.keeping, Keeping::Incremental, "{sql}");
    assert_eq!(view.lookups, [TABLE]);
    view
}

struct Flow {
    dataflow: Dataflow,
    codec: Arc<RowCodec>,
    content: Version,
    shelf: Arc<Shelf>,
    /// The state tables as they were saved last.
    saved: Vec<Version>,
}

impl Flow {
    fn new(planner: &Planner, view: &ViewPlan) -> Flow {
        let fields = view.output.iter();
        let fields: Vec<_> = fields
            .map(|column| column.ty.field(&column.name, true))
            .collect();
        let schema = Arc::new(Schema::new(fields));
        let codec = Arc::new(RowCodec::new(Arc::clone(&schema)).expect("a row form"));
        let shelf = Arc::new(Shelf::default());
        let mut dataflow = Flow::dataflow(planner, view, &codec, &shelf);
        let tables = dataflow.state_tables().expect("can be saved").into_iter();
        let empty = |schema| Version::empty(Arc::new(RowCodec::new(schema).expect("a row form")));
        Flow {
            dataflow,
            content: Version::empty(Arc::clone(&codec)),
            codec,
            shelf,
            saved: tables.map(empty).collect(),
        }
    }

    fn dataflow(
        planner: &Planner,
        view: &ViewPlan,
        codec: &RowCodec,
        shelf: &Arc<Shelf>,
    ) -> Dataflow {
        let tables: Arc<dyn OutsideTables> = Arc::new(Arc::clone(shelf));
        Dataflow::new(planner, &view.stream.root, codec.schema(), 2, tables, None)
            .expect("compiles")
    }

    /// Saves the state, whole or what has changed.
    fn save(&mut self) -> Result<(), EngineError> {
        let taken = self.dataflow.take_changes()?;
        for (table, changes) in self.saved.iter_mut().zip(taken.tables) {
            if taken.whole {
                *table = table.with(&table.diff_to_content(Vec::new())?)?;
            }
            *table = table.with(&changes)?;
        }
        Ok(())
    }

    /// Goes on as a dataflow that knows nothing but what was saved.
    fn restart(&mut self, planner: &Planner, view: &ViewPlan) -> Result<(), EngineError> {
        let mut dataflow = Flow::dataflow(planner, view, &self.codec, &self.shelf);
        for (at, table) in self.saved.iter().enumerate() {
            for rows in table.content()? {
                dataflow.restore(at, &rows)?;
            }
        }
        dataflow.restored()?;
        self.dataflow = dataflow;
        Ok(())
    }

    fn step(&mut self, changes: &[(Input, i64)]) -> Result<(), EngineError> {
        let columns: [ArrayRef; 2] = [
            Arc::new(
                changes
                    .iter()
                    .map(|change| change.0.0)
                    .collect::<Int32Array>(),
            ),
            Arc::new(StringViewArray::from_iter_values(
                changes.iter().map(|change| change.0.1),
            )),
        ];
        let names = ["i", "w"].into_iter().zip(columns);
        let delta = Delta {
            batch: RecordBatch::try_from_iter_with_nullable(
                names.map(|(name, column)| (name, column, true)),
            )?,
            weights: Weights::Each(changes.iter().map(|change| change.1).collect()),
        };
        let errors = ComputeErrors::default();
        let context = StepContext {
            changes: &BTreeMap::from([(INPUT, vec![delta])]),
            errors: &errors,
            strict: false,
        };
        let deltas = self.dataflow.step(&context, &self.codec)?;
        self.content = self.content.with(&deltas)?;
        Ok(())
    }

    fn rows(&self) -> Vec<String> {
        let batches = self
            .content
            .rows()
            .expect("adds up")
            .expect("no row is owed");
        let mut rows = Vec::new();
        for batch in batches.iter() {
            for row in 0..batch.num_rows() {
                let cell = |column: &ArrayRef| match column.is_null(row) {
                    true => "NULL".to_owned(),
                    false => array_value_to_string(column, row).expect("prints"),
                };
                rows.push(
                    batch
                        .columns()
                        .iter()
                        .map(cell)
                        .collect::<Vec<_>>()
                        .join("|"),
                );
            }
        }
        rows.sort_unstable();
        rows
    }
}

fn shown<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "NULL".to_owned(), |value| value.to_string())
}

/// What a query makes of the rows with what they found.
type Expected = fn(&[(Input, Option<Value>)]) -> Vec<String>;

const LEFT: &str = "FROM r LEFT JOIN h FOR SYSTEM_TIME AS OF PROCTIME() AS p ON p.k = r.i";

fn queries() -> Vec<(String, bool, Expected)> {
    fn pairs(rows: &[(Input, Option<Value>)], inner: bool) -> Vec<String> {
        rows.iter()
            .filter(|(_, found)| !inner || found.is_some())
            .map(|((i, w), found)| {
                let (v, x) = found.unwrap_or_default();
                format!("{}|{w}|{}|{}", shown(*i), shown(v), shown(x))
            })
            .collect()
    }
    fn grouped(rows: &[(Input, Option<Value>)]) -> Vec<String> {
        let mut groups: BTreeMap<Option<&str>, usize> = BTreeMap::new();
        for (_, found) in rows {
            *groups.entry(found.and_then(|found| found.0)).or_default() += 1;
        }
        let groups = groups.into_iter();
        groups.map(|(v, n)| format!("{}|{n}", shown(v))).collect()
    }
    fn keys(rows: &[(Input, Option<Value>)]) -> Vec<String> {
        let found = rows.iter().filter(|(_, found)| found.is_some());
        found.map(|((_, w), _)| (*w).to_owned()).collect()
    }
    let inner = LEFT.replace("LEFT JOIN", "JOIN");
    vec![
        (format!("SELECT r.i, r.w, p.v, p.x {LEFT}"), false, |rows| {
            pairs(rows, false)
        }),
        (
            format!("SELECT r.i, r.w, p.v, p.x {inner}"),
            false,
            |rows| pairs(rows, true),
        ),
        (
            format!("SELECT r.i, r.w, p.v, p.x {LEFT} AND p.x > 1"),
            true,
            |rows| pairs(rows, false),
        ),
        (
            format!("SELECT r.i, r.w, p.v, p.x {inner} AND p.x > 1"),
            true,
            |rows| pairs(rows, true),
        ),
        (
            format!("SELECT p.v, count(*) {LEFT} GROUP BY p.v"),
            false,
            grouped,
        ),
        (format!("SELECT r.w {inner}"), false, keys),
    ]
}

fn run(planner: &Planner, seed: u64) -> Result<(), String> {
    let random = &mut ChaCha8Rng::seed_from_u64(seed);
    let queries = queries();
    let (sql, over_one, expected) = &queries[random.random_range(0..queries.len())];
    let view = view(planner, sql, false);
    let mut flow = Flow::new(planner, &view);
    // Rows that are there, oldest first, with what they found.
    let mut there: Vec<(Input, Option<Value>)> = Vec::new();
    let mut all: BTreeMap<Input, i64> = BTreeMap::new();
    for step in 0..8 {
        for _ in 0..random.random_range(0..4) {
            let key = random.random_range(0..4);
            let value = (
                [None, Some("a"), Some("b")][random.random_range(0..3)],
                [None, Some(1), Some(2)][random.random_range(0..3)],
            );
            match random.random_bool(0.3) {
                true => flow.shelf.rows.lock().remove(&key),
                false => flow.shelf.rows.lock().insert(key, value),
            };
        }
        let mut changes: Vec<(Input, i64)> = Vec::new();
        let mut net: BTreeMap<Input, i64> = BTreeMap::new();
        for _ in 0..random.random_range(0..8) {
            let key = [None, Some(0), Some(1), Some(2), Some(3)][random.random_range(0..5)];
            let row = (key, ["x", "y"][random.random_range(0..2)]);
            let held = all.entry(row).or_default();
            let weight = match random.random_bool(0.5) {
                true => -random.random_range(0..=*held),
                false => random.random_range(1..3),
            };
            *held += weight;
            *net.entry(row).or_default() += weight;
            changes.push((row, weight));
        }
        for (row, weight) in net {
            for _ in weight..0 {
                let at = there.iter().rposition(|(other, _)| *other == row);
                there.remove(at.ok_or("the model lost a row")?);
            }
            for _ in 0..weight {
                let found = row
                    .0
                    .and_then(|key| flow.shelf.rows.lock().get(&key).copied());
                let found = found.filter(|found| !over_one || found.1 > Some(1));
                there.push((row, found));
            }
        }
        flow.step(&changes)
            .map_err(|error| format!("step {step}: {error}"))?;
        let mut expected = expected(&there);
        expected.sort_unstable();
        let rows = flow.rows();
        if rows != expected {
            return Err(format!(
                "step {step}: {sql}\n  dataflow {rows:?}\n  model    {expected:?}"
            ));
        }
        if random.random_bool(0.5) {
            flow.save()
                .map_err(|error| format!("step {step}: saves: {error}"))?;
            if random.random_bool(0.6) {
                flow.restart(planner, &view)
                    .map_err(|error| format!("step {step}: restarts: {error}"))?;
            }
        }
    }
    let back: Vec<(Input, i64)> = all.into_iter().map(|(row, count)| (row, -count)).collect();
    let asked = flow.shelf.asked.load(Ordering::SeqCst);
    flow.step(&back).map_err(|error| error.to_string())?;
    flow.save().map_err(|error| error.to_string())?;
    let saved: i64 = flow.saved.iter().map(Version::net_rows).sum();
    let left = (flow.rows(), flow.dataflow.state().entries, saved);
    if left != (Vec::new(), 0, 0) {
        return Err(format!("{sql}: left are {left:?}"));
    }
    match flow.shelf.asked.load(Ordering::SeqCst) == asked {
        true => Ok(()),
        false => Err(format!("{sql}: rows that went were looked up")),
    }
}

#[test]
fn what_was_found_stays_until_its_row_goes() {
    let variable = |name: &str, default: u64| {
        let given = std::env::var(name).ok();
        given.and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let first = variable("LOOKUP_SEED", 1);
    let count = variable("LOOKUP_PROGRAMS", 200);
    let planner = Planner::new(Functions::default());
    for seed in first..first + count {
        if let Err(what) = run(&planner, seed) {
            panic!(
                "{what}\nreplay: LOOKUP_SEED={seed} LOOKUP_PROGRAMS=1 cargo test -p thalweg-engine --lib lookup_laws"
            );
        }
    }
}

#[test]
fn nothing_is_remembered_of_rows_that_never_go() {
    let planner = Planner::new(Functions::default());
    let sql = format!("SELECT r.w, p.v {LEFT}");
    let mut flow = Flow::new(&planner, &view(&planner, &sql, true));
    flow.shelf.rows.lock().insert(1, (Some("a"), None));
    flow.step(&[((Some(1), "x"), 2), ((Some(2), "y"), 1)])
        .expect("steps");
    flow.shelf.rows.lock().insert(1, (Some("b"), None));
    flow.step(&[((Some(1), "x"), 1)]).expect("steps");
    assert_eq!(flow.rows(), ["x|a", "x|a", "x|b", "y|NULL"]);
    assert_eq!(flow.dataflow.state().entries, 0);
    assert!(flow.step(&[((Some(1), "x"), -1)]).is_err());
}
