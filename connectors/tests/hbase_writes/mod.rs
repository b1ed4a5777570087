//! Large writes into a real HBase: rows of several regions, and rows that HBase does not take.
//!
//! Invariant: HBase's own client finds each row as it was written last, wherever borders were thought to be.

use thalweg_connectors::RefusedRow;

use super::*;

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

const ROWS: usize = 20_000;

/// The rows from `first` on, of this version.
fn version(table: &HbaseTable, first: usize, version: &str) -> RecordBatch {
    let keys = (first..ROWS).map(|row| format!("{row:07}"));
    let values = (first..ROWS).map(|row| format!("{version} of {row} {}", "x".repeat(60)));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringViewArray::from_iter_values(keys)),
        Arc::new(StringViewArray::from_iter_values(values)),
    ];
    RecordBatch::try_new(table.schema(), columns).expect("a batch")
}

/// What HBase's own client finds is what the batches have.
fn holds(service: &Service, batches: &[RecordBatch]) {
    let found = service.java("scan wide");
    let found: BTreeMap<&str, &str> = found
        .iter()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        // A row has a marker beside its cells.
        .filter(|words| words[2] == hex("0"))
        .map(|words| (words[0], words[3]))
        .collect();
    let rows = batches.iter().flat_map(|batch| {
        let [keys, values] = [0, 1].map(|column| batch.column(column).as_string_view());
        let pairs = keys.iter().flatten().zip(values.iter().flatten());
        pairs.map(|(key, value)| (hex(key), hex(value)))
    });
    let wanted: BTreeMap<String, String> = rows.collect();
    assert_eq!(found.len(), wanted.len());
    for (key, value) in &wanted {
        assert_eq!(found.get(&key[..]), Some(&&value[..]), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_writes_reach_every_region_while_borders_move() {
    let Some(service) = service() else { return };
    let _alone = service.alone();
    let borders = ["0002000", "0009000", "0015000"].map(hex).join(" ");
    service.java(&format!("create wide d 1 {borders}"));
    let columns = [
        column("k", SqlType::Text, true),
        column("v", SqlType::Text, true),
    ];
    let options = [("columns", "v=d:0"), ("write.batch.bytes", "100kB")];
    let table = declare(service, "wide", &columns, &[0], &options);
    table.check().await.expect("there");
    let first = version(&table, 0, "first");
    assert_eq!(table.insert(&first).await.expect("written").rows, ROWS);
    holds(service, &[first]);
    // What is known of borders is old by now.
    service.java(&format!("split wide {}", hex("0005000")));
    let second = version(&table, 0, "second");
    assert_eq!(table.insert(&second).await.expect("written").rows, ROWS);
    holds(service, &[second]);
    // And here they move in the middle of writes.
    let moving = tokio::task::spawn_blocking(|| {
        service.java(&format!("split wide {}", hex("0012000")));
        service.java(&format!("move wide {}", hex("0007000")));
    });
    let mut newest = Vec::new();
    let mut turn = 0;
    while newest.is_empty() || !moving.is_finished() {
        turn += 1;
        let batch = version(&table, 0, &format!("third in turn {turn}"));
        assert_eq!(table.insert(&batch).await.expect("written").rows, ROWS);
        newest = vec![batch];
    }
    moving.await.expect("borders moved");
    assert!(service.java("regions wide").len() >= 6);
    holds(service, &newest);
    let gone = version(&table, 6_000, "whatever");
    table.delete(&gone).await.expect("deleted");
    holds(service, &[newest[0].slice(0, 6_000)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_at_fault_do_not_keep_their_neighbours_out() {
    let Some(service) = service() else { return };
    service.java("create fault d 1");
    let options = [("family", "d"), ("write.batch.bytes", "64MB")];
    let table = declare(service, "fault", &profiles(), &[0], &options);
    table.check().await.expect("there");
    // A cell over hbase.client.keyvalue.maxsize (10 MB), and one over every request.
    let (large, huge) = ("x".repeat(11 << 20), "x".repeat(65 << 20));
    let names: Vec<String> = (0..40).map(|row| format!("row{row:02}")).collect();
    let rows_of: Vec<(&str, Option<&str>, Option<i32>)> = names
        .iter()
        .enumerate()
        .map(|(row, name)| match row {
            7 => (name.as_str(), Some(large.as_str()), None),
            23 => (name.as_str(), Some(huge.as_str()), None),
            _ => (name.as_str(), Some("fine"), Some(1)),
        })
        .collect();
    let written = table
        .insert(&profile_rows(&rows_of))
        .await
        .expect("written");
    let refused: Vec<usize> = written.refused.iter().map(|one| one.row).collect();
    assert_eq!((written.rows, refused), (38, vec![23, 7]));
    assert!(matches!(
        written.first_refused().map(|one| &one.error),
        Some(HbaseError::CellTooLarge { .. })
    ));
    let (found, _) = rows(&table, &[0], &[], None).await.expect("read");
    assert_eq!(found.num_rows(), 38);
    // Alone they are told from a gateway that is sick.
    let alone = ["l1", "l2", "l3"].map(|key| (key, Some(large.as_str()), None));
    let written = table.insert(&profile_rows(&alone)).await.expect("written");
    assert_eq!((written.rows, written.refused.len()), (0, 3));
    let too_large = |one: &RefusedRow| matches!(one.error, HbaseError::CellTooLarge { .. });
    assert!(written.refused.iter().all(too_large), "{written:?}");
}
