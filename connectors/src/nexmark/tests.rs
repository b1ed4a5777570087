//! The stream's shape, and that a row depends on its offset alone.

use crate::{Budget, SourceBatch};
use std::collections::BTreeMap;
use std::collections::HashSet;
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};

use super::*;
use crate::context::ManualClock;
use crate::testing::{column, source_relation};

fn source(columns: Vec<Column>, options: &[(&str, &str)]) -> Result<NexmarkSource, ConnectorError> {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(5_000_000));
    let options = options.iter();
    let options: BTreeMap<String, String> = options
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let (relation, spec) = source_relation("nexmark", columns, options, 0);
    NexmarkSource::new(&relation, &spec, &ConnectorContext::new(clock))
}

fn bids() -> Vec<Column> {
    vec![
        column("auction", SqlType::Int8),
        column("bidder", SqlType::Int8),
        column("price", SqlType::Int8),
        column("url", SqlType::Text),
        column("date_time", SqlType::Timestamp),
        column("extra", SqlType::Varchar(None)),
    ]
}

fn read(source: &NexmarkSource, at: u64, rows: usize) -> SourceBatch {
    let budget = Budget {
        rows,
        bytes: 1 << 20,
        time: Duration::ZERO,
    };
    let at = Offsets::from([("0".to_owned(), at)]);
    let mut reader = source.open(&at).expect("opens");
    reader.poll(budget).expect("generates")
}

#[test]
fn a_row_depends_on_its_offset_alone() {
    let source = source(bids(), &[("table", "bid"), ("events", "100000")]).expect("valid");
    let whole = read(&source, 0, 2_000).rows;
    for (from, rows) in [(0, 1), (45, 3), (999, 1_000)] {
        let part = read(&source, from as u64, rows).rows;
        assert_eq!(part, whole.slice(from, rows), "{from}");
    }
}

#[test]
fn rounds_hold_one_person_three_auctions_and_46_bids() {
    let fields = |names: &[&str]| {
        let field = |name: &&str| ((*name).to_owned(), SqlType::Int8);
        SqlType::Struct(names.iter().map(field).collect())
    };
    let columns = vec![
        column("event_type", SqlType::Int4),
        column("person", fields(&["id"])),
        column("auction", fields(&["id", "seller", "category"])),
        column("bid", fields(&["auction", "bidder", "price"])),
    ];
    let source = source(columns, &[("events", "10000")]).expect("valid");
    let (mut seen, mut persons, mut auctions) = ([0; 3], HashSet::new(), HashSet::new());
    let rows = [read(&source, 0, 5_000), read(&source, 5_000, 9_999)];
    assert_eq!(
        rows.iter()
            .map(|batch| batch.rows.num_rows())
            .sum::<usize>(),
        10_000
    );
    for batch in &rows {
        let types = batch.rows.column(0).as_primitive::<Int32Type>();
        let part = |index: usize| batch.rows.column(index).as_struct();
        let number = |entity: usize, field: usize, row: usize| {
            part(entity)
                .column(field)
                .as_primitive::<Int64Type>()
                .value(row)
        };
        for row in 0..batch.rows.num_rows() {
            let kind = types.value(row) as usize;
            seen[kind] += 1;
            for entity in 0..3 {
                assert_eq!(part(entity + 1).is_valid(row), entity == kind);
            }
            match kind {
                0 => assert!(persons.insert(number(1, 0, row))),
                1 => {
                    assert!(auctions.insert(number(2, 0, row)));
                    assert!(persons.contains(&number(2, 1, row)));
                    assert!((10..15).contains(&number(2, 2, row)));
                }
                _ => {
                    assert!(auctions.contains(&number(3, 0, row)));
                    assert!(persons.contains(&number(3, 1, row)));
                    assert!((100..=100_000_000).contains(&number(3, 2, row)));
                }
            }
        }
    }
    assert_eq!(seen, [200, 600, 9_200]);
}

#[test]
fn a_rate_paces_events_and_their_times() {
    let source = source(bids(), &[("table", "bid"), ("rate", "100")]).expect("valid");
    // The clock stands five seconds after the source was made: 500 events, ten rounds.
    let batch = read(&source, 0, 100_000);
    assert_eq!(batch.rows.num_rows(), 460);
    let times = batch
        .rows
        .column(4)
        .as_primitive::<TimestampMicrosecondType>();
    assert_eq!((times.value(0), times.value(459)), (40_000, 4_990_000));
}

#[test]
fn what_does_not_exist_is_refused() {
    for (columns, options, sqlstate) in [
        (
            vec![column("prise", SqlType::Int8)],
            [("table", "bid")],
            "22023",
        ),
        (
            vec![column("price", SqlType::Uuid)],
            [("table", "bid")],
            "42804",
        ),
        (
            vec![column("bid", SqlType::Int8)],
            [("table", "all")],
            "22023",
        ),
    ] {
        let error = source(columns, &options).expect_err("refused");
        assert_eq!(error.sqlstate(), sqlstate, "{error}");
    }
}

#[test]
fn events_written_as_json_are_the_events_of_the_source() {
    let struct_of = |entity: Entity| {
        let fields = entity.fields().iter().map(|name| {
            let ty = match entity.field_type(name) {
                Some(arrow::datatypes::DataType::Int64) => SqlType::Int8,
                Some(arrow::datatypes::DataType::Timestamp(..)) => SqlType::Timestamp,
                _ => SqlType::Text,
            };
            ((*name).to_owned(), ty)
        });
        column(entity.name(), SqlType::Struct(fields.collect()))
    };
    let mut columns = vec![column("event_type", SqlType::Int4)];
    columns.extend([Entity::Person, Entity::Auction, Entity::Bid].map(struct_of));
    let made = source(columns.clone(), &[("seed", "7")]).expect("valid");
    let made = read(&made, 0, 1_000).rows;

    let mut rows = crate::JsonRows::new(&columns).expect("columns JSON can fill");
    let written = NexmarkText::new(7);
    let mut record = Vec::new();
    for event in 0..1_000 {
        record.clear();
        written.append_event(event, &mut record);
        rows.append(&record).expect("a good record");
    }
    for (made, read) in made.columns().iter().zip(rows.finish()) {
        let (made, read) = (made.to_data(), read.to_data());
        assert_eq!(
            format!("{:?}", arrow::array::make_array(made)),
            format!("{:?}", arrow::array::make_array(read))
        );
    }

    record.clear();
    written.append_bid(46, &mut record);
    let bid = String::from_utf8(record).expect("text");
    assert!(
        bid.starts_with("{\"auction\":1") && bid.ends_with("\"}"),
        "{bid}"
    );
}
