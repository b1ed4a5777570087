//! What HBase is asked to leave out, by the number of rows that it sends: orders, limits, conditions on cells; and rows whose
//! columns are families.
//!
//! Invariant: each read gives what the rows that were written say, whatever was pushed down.

use arrow::array::{BooleanArray, StructArray, TimestampMicrosecondArray};
use arrow::datatypes::TimestampMicrosecondType;
use thalweg_connectors::KeyOrder;

use super::*;

async fn drain(mut rows: thalweg_connectors::HbaseRows) -> (Vec<RecordBatch>, u64) {
    let mut batches = Vec::new();
    while let Some(batch) = rows.next().await {
        batches.push(batch.expect("read"));
    }
    (batches, rows.rows_received())
}

/// `user day` of each row, in the order in which they came.
fn pairs(batches: &[RecordBatch]) -> Vec<(i64, i32)> {
    let of = |batch: &RecordBatch| -> Vec<(i64, i32)> {
        let users = batch.column(0).as_primitive::<Int64Type>().values();
        let days = batch.column(1).as_primitive::<Date32Type>().values();
        users.iter().copied().zip(days.iter().copied()).collect()
    };
    batches.iter().flat_map(of).collect()
}

fn number(column: usize, comparison: Comparison, value: i64) -> Condition {
    Condition::Compare {
        column,
        comparison,
        value: Arc::new(Int64Array::from(vec![value])),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_keys_come_first_and_no_more_than_are_wanted() {
    let Some(service) = service() else { return };
    let columns = [
        column("user_id", SqlType::Int8, true),
        column("day", SqlType::Date, true),
        column("n", SqlType::Int8, true),
    ];
    // Borders inside of users, between them, and beyond all.
    service.java(
        "create last_first d 1 7fffffffffffffff 800000000000000a80000005 800000000000001e 9000000000000000",
    );
    let options = [("family", "d"), ("scan.page.bytes", "4kB")];
    let table = declare(service, "last_first", &columns, &[0, 1], &options);
    table.check().await.expect("there");
    assert_eq!(table.sorted_columns(), [KeyOrder::Ascending; 2]);
    let all: Vec<(i64, i32)> = (-40..60)
        .flat_map(|user| (0..30).map(move |day| (user, day)))
        .collect();
    let batch = RecordBatch::try_new(
        table.schema(),
        vec![
            Arc::new(Int64Array::from_iter_values(all.iter().map(|one| one.0))),
            Arc::new(Date32Array::from_iter_values(all.iter().map(|one| one.1))),
            Arc::new(Int64Array::from_iter_values(all.iter().map(|one| one.0))),
        ],
    )
    .expect("a batch");
    assert_eq!(table.insert(&batch).await.expect("written").rows, 3_000);
    use Comparison::{Equal, GreaterOrEqual, Less};
    let some = Condition::In {
        column: 0,
        values: Arc::new(Int64Array::from(vec![11, -3, 59])),
    };
    for conditions in [
        vec![],
        vec![number(0, Equal, 10)],
        vec![number(0, GreaterOrEqual, -3), number(0, Less, 31)],
        vec![some],
    ] {
        let wanted = |one: &(i64, i32)| {
            conditions.iter().all(|condition| match condition {
                Condition::Compare {
                    comparison, value, ..
                } => {
                    let value = value.as_primitive::<Int64Type>().value(0);
                    match comparison {
                        Equal => one.0 == value,
                        Less => one.0 < value,
                        _ => one.0 >= value,
                    }
                }
                _ => [11, -3, 59].contains(&one.0),
            })
        };
        let mut expected: Vec<(i64, i32)> = all.iter().copied().filter(wanted).collect();
        for order in [KeyOrder::Ascending, KeyOrder::Descending] {
            for limit in [None, Some(1), Some(7), Some(31), Some(5_000)] {
                let scan = table.plan(&[0, 1], &conditions, limit);
                let scan = scan.in_key_order(order, None);
                let (batches, received) = drain(table.read(&scan)).await;
                let most = limit.unwrap_or(usize::MAX).min(expected.len());
                assert_eq!(
                    pairs(&batches),
                    expected[..most],
                    "{conditions:?} {order:?} {limit:?}"
                );
                // The row at the end of a range, or of a region, comes along.
                let spare = 12 + most / 8;
                assert!(
                    received <= (most + spare) as u64,
                    "{received} rows for {most}"
                );
            }
            expected.reverse();
        }
    }
    // What is wanted first is known to be little, though more may be needed.
    let scan = table.plan(&[0, 1], &[], None);
    let scan = scan.in_key_order(KeyOrder::Descending, Some(5));
    let mut rows = table.read(&scan);
    let first = rows.next().await.expect("a batch").expect("read");
    assert_eq!(first.num_rows(), 6, "and one for the end of the range");
    service.java("drop last_first");
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_on_cells_leave_rows_in_hbase() {
    let Some(service) = service() else { return };
    let columns = [
        column("id", SqlType::Int8, true),
        column("age", SqlType::Int4, false),
        column("name", SqlType::Text, false),
        column("rank", SqlType::Int8, false),
        column("good", SqlType::Bool, false),
    ];
    for null_mode in ["delete", "empty"] {
        let name = format!("cells_{null_mode}");
        let options = [
            ("family", "d"),
            ("columns", "rank=e:r#ordered, good=e:g"),
            ("create", "if-missing"),
            ("null.mode", null_mode),
        ];
        let table = declare(service, &name, &columns, &[0], &options);
        table.check().await.expect("made");
        // A third of each is NULL, of rows as of columns.
        let ids: Vec<i64> = (0..600).collect();
        let there = |id: i64, column: i64| (id / 3 + column) % 3 != 0 && id % 7 != 0;
        let age = |id: i64| there(id, 0).then_some((id % 20) as i32 - 10);
        let text = |id: i64| there(id, 1).then(|| format!("n{}", id % 40));
        let rank = |id: i64| there(id, 2).then_some(id % 30 - 15);
        let good = |id: i64| there(id, 0).then_some(id % 2 == 0);
        let batch = RecordBatch::try_new(
            table.schema(),
            vec![
                Arc::new(Int64Array::from(ids.clone())),
                Arc::new(ids.iter().map(|id| age(*id)).collect::<Int32Array>()),
                Arc::new(ids.iter().map(|id| text(*id)).collect::<StringViewArray>()),
                Arc::new(ids.iter().map(|id| rank(*id)).collect::<Int64Array>()),
                Arc::new(ids.iter().map(|id| good(*id)).collect::<BooleanArray>()),
            ],
        )
        .expect("a batch");
        assert_eq!(table.insert(&batch).await.expect("written").rows, 600);
        let ages = |values: Vec<i32>| Arc::new(Int32Array::from(values)) as ArrayRef;
        let age_is = |comparison, value| Condition::Compare {
            column: 1,
            comparison,
            value: ages(vec![value]),
        };
        let null = |column, is_null| Condition::Null { column, is_null };
        let prefix = Condition::Prefix {
            column: 2,
            text: "n1".into(),
        };
        let of_ages = Condition::In {
            column: 1,
            values: ages(vec![-3, 4, 99]),
        };
        let truth = |is| Condition::Compare {
            column: 4,
            comparison: Comparison::Equal,
            value: Arc::new(BooleanArray::from(vec![is])),
        };
        use Comparison::{Equal, Greater, LessOrEqual, NotEqual};
        type Case<'a> = (Vec<Condition>, &'a dyn Fn(i64) -> bool);
        let cases: [Case<'_>; 11] = [
            (vec![age_is(Equal, -3)], &|id| age(id) == Some(-3)),
            (vec![age_is(NotEqual, -3)], &|id| {
                age(id).is_some_and(|age| age != -3)
            }),
            (vec![of_ages.clone()], &|id| {
                age(id).is_some_and(|age| [-3, 4].contains(&age))
            }),
            (vec![text_is(2, "n7")], &|id| {
                text(id).as_deref() == Some("n7")
            }),
            (vec![prefix.clone()], &|id| {
                text(id).is_some_and(|text| text.starts_with("n1"))
            }),
            (vec![number(3, Greater, -2)], &|id| {
                rank(id).is_some_and(|rank| rank > -2)
            }),
            (vec![number(3, LessOrEqual, -2)], &|id| {
                rank(id).is_some_and(|rank| rank <= -2)
            }),
            (vec![null(1, true)], &|id| age(id).is_none()),
            (vec![null(3, false)], &|id| rank(id).is_some()),
            (vec![truth(false)], &|id| good(id) == Some(false)),
            (
                vec![of_ages, prefix, number(3, Greater, -9), null(4, false)],
                &|id| {
                    age(id).is_some_and(|age| [-3, 4].contains(&age))
                        && text(id).is_some_and(|text| text.starts_with("n1"))
                        && rank(id).is_some_and(|rank| rank > -9)
                        && good(id).is_some()
                },
            ),
        ];
        for (conditions, selects) in cases {
            let (found, received) = rows(&table, &[0, 2], &conditions, None)
                .await
                .expect("read");
            let found = sorted(&found);
            let expected: Vec<i64> = ids.iter().copied().filter(|id| selects(*id)).collect();
            // What is less than a value may be nothing, which is NULL here.
            let spare = match (null_mode, &conditions[..]) {
                ("empty", [Condition::Compare { comparison, .. }])
                    if !matches!(comparison, Equal | Greater) =>
                {
                    600
                }
                _ => 0,
            };
            if spare == 0 {
                assert_eq!(found, expected, "{null_mode} {conditions:?}");
            }
            let lost = expected.iter().find(|id| !found.contains(id));
            assert_eq!(lost, None, "{null_mode} {conditions:?}");
            assert!(
                received <= (expected.len() + spare) as u64,
                "{received} rows for {} of {conditions:?}",
                expected.len()
            );
        }
        // Conditions that bytes do not tell are left to the reader.
        let (all, received) = rows(&table, &[0, 1], &[age_is(Greater, 5)], None)
            .await
            .expect("read");
        assert_eq!((all.num_rows(), received), (600, 600));
        let scan = table.plan(&[0], &[age_is(Equal, 5), number(3, Greater, 1)], None);
        assert_eq!(scan.describe(), "all rows, filtered by age, rank");
        service.java(&format!("drop {name}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_family_is_a_struct_and_the_newest_cell_has_a_time() {
    let Some(service) = service() else { return };
    service.java("create families info,m 1");
    let info = vec![
        ("name".to_owned(), SqlType::Text),
        ("age".to_owned(), SqlType::Int4),
    ];
    let columns = [
        column("k", SqlType::Text, true),
        column("info", SqlType::Struct(info), false),
        column("n", SqlType::Int8, false),
        column("at", SqlType::Timestamptz, false),
    ];
    let options = [("columns", "n=m:n, at=:timestamp")];
    let table = declare(service, "families", &columns, &[0], &options);
    table.check().await.expect("there");
    // Another program's row, a row of ours, one whose struct is NULL, and one that is nothing but its key.
    service.java("put families 61 info 6e616d65 416e6e 1000");
    service.java("put families 61 m 6e 0000000000000005 3000");
    let fields = match table.schema().field(1).data_type() {
        arrow::datatypes::DataType::Struct(fields) => fields.clone(),
        other => panic!("{other} is no struct"),
    };
    let names: ArrayRef = Arc::new(StringViewArray::from(vec![Some("Bo"), None, None]));
    let ages: ArrayRef = Arc::new(Int32Array::from(vec![Some(7), Some(9), None]));
    let there = arrow::buffer::NullBuffer::from(vec![true, false, false]);
    let info = StructArray::try_new(fields, vec![names, ages], Some(there)).expect("a struct");
    let batch = RecordBatch::try_new(
        table.schema(),
        vec![
            Arc::new(StringViewArray::from(vec!["b", "c", "d"])),
            Arc::new(info),
            Arc::new(Int64Array::from(vec![Some(1), Some(2), None])),
            Arc::new(TimestampMicrosecondArray::from(vec![None; 3]).with_timezone("UTC")),
        ],
    )
    .expect("a batch");
    assert_eq!(table.insert(&batch).await.expect("written").rows, 3);
    assert_eq!(
        service.java("get families 62"),
        [
            "62 info 5f - 1000000 Put",
            "62 info 616765 00000007 1000000 Put",
            "62 info 6e616d65 426f 1000000 Put",
            "62 m 6e 0000000000000001 1000000 Put",
        ]
    );
    let (found, _) = rows(&table, &[0, 1, 2, 3], &[], None).await.expect("read");
    let keys: Vec<_> = found.column(0).as_string_view().iter().flatten().collect();
    assert_eq!(keys, ["a", "b", "c", "d"]);
    let info = found.column(1).as_struct();
    let valid: Vec<bool> = (0..4).map(|row| info.is_valid(row)).collect();
    assert_eq!(valid, [true, true, false, false]);
    let names: Vec<_> = info.column(0).as_string_view().iter().collect();
    assert_eq!(names, [Some("Ann"), Some("Bo"), None, None]);
    let ages: Vec<_> = info.column(1).as_primitive::<Int32Type>().iter().collect();
    assert_eq!(ages, [None, Some(7), None, None], "none below a NULL");
    let times = found.column(3).as_primitive::<TimestampMicrosecondType>();
    let times: Vec<_> = times.iter().flatten().collect();
    assert_eq!(
        times,
        [3_000_000, 1_000_000_000, 1_000_000_000, 1_000_000_000]
    );
    // Alone, or with nothing but the key, they are the same.
    for wanted in [&[3][..], &[0, 3], &[2, 3]] {
        let (found, _) = rows(&table, wanted, &[], None).await.expect("read");
        let times = found.columns().last().expect("the time");
        let times = times.as_primitive::<TimestampMicrosecondType>();
        assert_eq!(times.value(0), 3_000_000, "{wanted:?}");
    }
    service.java("drop families");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_goes_while_it_is_read_is_named() {
    let Some(service) = service() else { return };
    for (verb, state) in [("disable", "55000"), ("drop", "42P01")] {
        service.java("create going d 1");
        service.java("fill going d 20000 2");
        let columns = [
            column("k", SqlType::Text, true),
            column("v", SqlType::Text, true),
        ];
        let options = [("columns", "v=d:0"), ("scan.page.bytes", "16kB")];
        let table = declare(service, "going", &columns, &[0], &options);
        let mut read = table.read(&table.plan(&[0, 1], &[], None));
        let first = read.next().await.expect("a batch");
        assert!(first.expect("read").num_rows() > 0);
        service.java(&format!("{verb} going"));
        let error = loop {
            match read.next().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => break error,
                None => panic!("a part of the table was taken for all of it"),
            }
        };
        assert_eq!(error.report().sqlstate, state, "{error:?}");
        if verb == "disable" {
            service.java("drop going");
        }
    }
}
