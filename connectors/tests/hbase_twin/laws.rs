//! The twin against the real HBase, and what our side makes of its faults.

use arrow::util::display::array_value_to_string;
use thalweg_connectors::{CommittingSink, HbaseCommitter, KeyOrder};

use super::super::committing::{changed, conforms, staged, whole};
use super::super::*;
use super::{Fault, Twin};

/// Steps of the random program; `THALWEG_TWIN_STEPS` and `THALWEG_TWIN_SEED` make it another against the real one.
const STEPS: u64 = 60;
const STEPS_OF_BOTH: u64 = 25;

fn from_environment(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Numbers that follow from a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn columns() -> Vec<Column> {
    vec![
        column("user", SqlType::Int8, true),
        column("tag", SqlType::Text, true),
        column("age", SqlType::Int4, false),
        column("name", SqlType::Text, false),
        column("rank", SqlType::Int8, false),
    ]
}

const OPTIONS: [(&str, &str); 3] = [
    ("family", "d"),
    ("columns", "rank=e:r#ordered"),
    ("scan.page.bytes", "1kB"),
];

fn at(servers: &str, name: &str, options: &[(&str, &str)]) -> HbaseTable {
    let mut map: BTreeMap<String, String> = options
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    map.insert("thrift.servers".into(), servers.into());
    map.insert("table".into(), name.into());
    map.insert("lookup.timeout".into(), "30 s".into());
    HbaseTable::new(&columns(), &[0, 1], &map, &context().1).expect("a table")
}

fn some_rows(chance: &mut Chance, table: &HbaseTable) -> RecordBatch {
    let count = 1 + chance.below(30);
    let rows: Vec<[u64; 5]> = (0..count)
        .map(|_| [8, 4, 9, 5, 9].map(|end| chance.below(end)))
        .collect();
    let unless_zero = |value: u64| (value > 0).then_some(value as i64 - 4);
    RecordBatch::try_new(
        table.schema(),
        vec![
            Arc::new(
                rows.iter()
                    .map(|row| Some(row[0] as i64 - 3))
                    .collect::<Int64Array>(),
            ),
            Arc::new(
                rows.iter()
                    .map(|row| Some("x".repeat(row[1] as usize)))
                    .collect::<StringViewArray>(),
            ),
            Arc::new(
                rows.iter()
                    .map(|row| unless_zero(row[2]).map(|value| value as i32))
                    .collect::<Int32Array>(),
            ),
            Arc::new(
                rows.iter()
                    .map(|row| unless_zero(row[3]).map(|value| format!("n{value}")))
                    .collect::<StringViewArray>(),
            ),
            Arc::new(
                rows.iter()
                    .map(|row| unless_zero(row[4]))
                    .collect::<Int64Array>(),
            ),
        ],
    )
    .expect("a batch")
}

fn some_conditions(chance: &mut Chance) -> Vec<Condition> {
    use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
    let comparisons = [Equal, NotEqual, Less, LessOrEqual, Greater, GreaterOrEqual];
    let count = chance.below(3);
    (0..count)
        .map(|_| {
            let comparison = comparisons[chance.below(6) as usize];
            let value = chance.below(9) as i64 - 4;
            match chance.below(6) {
                0 => Condition::Compare {
                    column: 0,
                    comparison,
                    value: Arc::new(Int64Array::from(vec![value])),
                },
                1 => Condition::Compare {
                    column: 2,
                    comparison,
                    value: Arc::new(Int32Array::from(vec![value as i32])),
                },
                2 => Condition::Compare {
                    column: 4,
                    comparison,
                    value: Arc::new(Int64Array::from(vec![value])),
                },
                3 => Condition::In {
                    column: 0,
                    values: Arc::new(Int64Array::from(vec![value, 2, 77])),
                },
                4 => Condition::Null {
                    column: 3,
                    is_null: value > 0,
                },
                _ => Condition::Prefix {
                    column: 3,
                    text: "n-".into(),
                },
            }
        })
        .collect()
}

async fn lines(table: &HbaseTable, scan: &thalweg_connectors::HbaseScan) -> Vec<String> {
    let mut found = Vec::new();
    let mut rows = table.read(scan);
    while let Some(batch) = rows.next().await {
        let batch = batch.expect("read");
        for row in 0..batch.num_rows() {
            let columns = batch.columns().iter();
            let values = columns.map(|column| array_value_to_string(column, row).expect("prints"));
            found.push(values.collect::<Vec<_>>().join("|"));
        }
    }
    found
}

/// What a program of reads and writes sees.
async fn program(table: &HbaseTable, seed: u64, steps: u64) -> Vec<String> {
    let mut chance = Chance(seed.max(1));
    let mut log = Vec::new();
    for step in 0..steps {
        match chance.below(8) {
            0..=2 => {
                let rows = some_rows(&mut chance, table);
                let written = table.insert(&rows).await.expect("written");
                log.push(format!("{step}: {} written", written.rows));
            }
            3 => {
                let rows = some_rows(&mut chance, table);
                table.update(&rows).await.expect("written");
            }
            4 => {
                let rows = some_rows(&mut chance, table);
                table.delete(&rows).await.expect("deleted");
            }
            _ => {
                let conditions = some_conditions(&mut chance);
                let mut scan = table.plan(&[0, 1, 2, 3, 4], &conditions, None);
                let limit = chance.below(40) as usize + 1;
                match chance.below(3) {
                    0 => scan = scan.in_key_order(KeyOrder::Descending, None).at_most(limit),
                    1 => scan = scan.in_key_order(KeyOrder::Ascending, None).at_most(limit),
                    _ => {}
                }
                let mut rows = lines(table, &scan).await;
                if !scan.describe().contains("key") || !scan.describe().contains("most") {
                    rows.sort();
                }
                log.push(format!("{step}: {} {rows:?}", scan.describe()));
            }
        }
    }
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn the_twin_answers_as_the_real_one_does() {
    let Some(service) = service() else { return };
    let (seed, steps) = (
        from_environment("THALWEG_TWIN_SEED", 20_241),
        from_environment("THALWEG_TWIN_STEPS", STEPS_OF_BOTH),
    );
    println!("replay: THALWEG_TWIN_SEED={seed} THALWEG_TWIN_STEPS={steps}");
    service.java("create twin d,e 1 7fffffffffffffff 8000000000000002");
    let twin = Twin::start();
    let borders: [&[u8]; 2] = [
        &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x80, 0, 0, 0, 0, 0, 0, 2],
    ];
    twin.create("twin", &["d", "e"], &borders);
    let (real, ours) = (
        at(&service.servers, "twin", &OPTIONS),
        at(&twin.address, "twin", &OPTIONS),
    );
    let (real_log, twin_log) = (
        program(&real, seed, steps).await,
        program(&ours, seed, steps).await,
    );
    for (real, twin) in real_log.iter().zip(&twin_log) {
        assert_eq!(real, twin, "seed {seed}");
    }
    assert_eq!(real_log.len(), twin_log.len());
    service.java("drop twin");
    // What is wrong is said alike.
    let errors = async |servers: &str| {
        let missing = at(servers, "nowhere", &OPTIONS);
        let read = missing.read(&missing.plan(&[0], &[], None)).next().await;
        let family = at(servers, "family_gone", &[("family", "zz")]);
        let mut chance = Chance(1);
        let rows = some_rows(&mut chance, &family);
        let state = |error: ConnectorError| error.report().sqlstate;
        [
            state(missing.check().await.expect_err("missing")),
            state(read.expect("an answer").expect_err("missing")),
            state(family.check().await.expect_err("no family")),
            state(family.insert(&rows).await.expect_err("no family")),
        ]
    };
    service.java("create family_gone d 1");
    twin.create("family_gone", &["d"], &[]);
    assert_eq!(errors(&service.servers).await, errors(&twin.address).await);
}

/// Whatever fails on the way: what a program sees is what it sees when nothing does.
#[tokio::test(flavor = "multi_thread")]
async fn faults_on_the_way_change_nothing() {
    let calm = Twin::start();
    calm.create("t", &["d", "e"], &[]);
    let expected = program(&at(&calm.address, "t", &OPTIONS), 7, STEPS).await;
    let twin = Twin::start();
    twin.create("t", &["d", "e"], &[]);
    let faults = [
        Fault::Before,
        Fault::After,
        Fault::Slow(Duration::from_millis(20)),
    ];
    twin.script(
        &[
            &faults[..],
            &[Fault::Moving],
            &faults,
            &faults,
            &[Fault::Moving],
            &faults,
        ]
        .concat(),
    );
    assert_eq!(
        program(&at(&twin.address, "t", &OPTIONS), 7, STEPS).await,
        expected
    );
    assert!(
        twin.calls().len() > calm.calls().len(),
        "calls were repeated"
    );
    twin.set_disabled("t", true);
    let table = at(&twin.address, "t", &OPTIONS);
    let error = table.read(&table.plan(&[0], &[], None)).next().await;
    let error = error.expect("an answer").expect_err("disabled");
    assert_eq!(error.report().sqlstate, "55000");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sink_keeps_its_contract_through_faults() {
    let twin = Twin::start();
    let columns = [column("n", SqlType::Int8, true)];
    let options = [
        ("thrift.servers", twin.address.as_str()),
        ("table", "t"),
        ("family", "f"),
        ("create", "if-missing"),
        ("lookup.timeout", "30 s"),
    ];
    let options = BTreeMap::from(options.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let table = HbaseTable::new(&columns, &[0], &options, &context().1).expect("a table");
    let table = Arc::new(table);
    let open = || -> Box<dyn CommittingSink> {
        twin.script(&[Fault::After, Fault::Before, Fault::Moving]);
        let context = context().1.with_installation([9; 16]);
        Box::new(HbaseCommitter::new(Arc::clone(&table), 7, &context))
    };
    let seen = || async {
        let rows = lines(&table, &table.plan(&[0], &[], None)).await;
        let mut rows: Vec<i64> = rows
            .iter()
            .map(|row| row.parse().expect("a number"))
            .collect();
        rows.sort_unstable();
        rows
    };
    conforms(open, seen).await;
    // Every call of a delivery fails once, before it is done and after.
    let mut writer = open();
    writer.take_over().await.expect("takes over");
    let before = seen().await;
    for (epoch, fault) in [(100, Fault::Before), (110, Fault::After)] {
        let number = epoch as i64;
        twin.script(&[
            fault,
            Fault::Moving,
            fault,
            Fault::Moving,
            fault,
            Fault::Moving,
        ]);
        writer
            .deliver(&staged(whole(epoch), &[number]))
            .await
            .expect("delivers");
        writer
            .deliver(&changed(whole(epoch + 1), &[number], &[]))
            .await
            .expect("delivers");
    }
    assert_eq!(seen().await, before);
}
