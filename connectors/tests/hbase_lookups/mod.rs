//! Rows looked up in a real HBase are remembered for a while, absent ones too.
//!
//! Invariant: what is remembered is no older than asked for.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn looked_up_rows_are_remembered_for_a_while() {
    let Some(service) = service() else { return };
    service.java("create shelf d 1");
    let options = BTreeMap::from(
        [
            ("thrift.servers", service.servers.as_str()),
            ("table", "shelf"),
            ("family", "d"),
            ("lookup.timeout", "30 s"),
            ("lookup.cache.ttl", "5 s"),
            ("lookup.cache.rows", "2000"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let (clock, context) = context();
    let table = HbaseTable::new(&profiles(), &[0], &options, &context).expect("a table");
    let names: Vec<String> = (0..3_000).map(|row| format!("row{row:04}")).collect();
    let rows_of: Vec<_> = (0..)
        .zip(&names)
        .map(|(age, name)| (name.as_str(), Some(name.as_str()), Some(age)))
        .collect();
    table
        .insert(&profile_rows(&rows_of))
        .await
        .expect("written");
    let lookup = table.lookup(&[2, 0]).expect("a lookup");
    let found = async |keys: &[Option<&str>]| -> Vec<Option<i32>> {
        let column: ArrayRef = Arc::new(keys.iter().copied().collect::<StringViewArray>());
        let rows = lookup.rows(&[column]).await.expect("found");
        let there: Vec<&[u8]> = rows.iter().flatten().map(AsRef::as_ref).collect();
        let decoded = lookup.decode(there).expect("its own bytes");
        let mut ages = decoded.column(0).as_primitive::<Int32Type>().iter();
        let age = |row: &Option<Arc<[u8]>>| row.as_ref().and_then(|_| ages.next().flatten());
        rows.iter().map(age).collect()
    };
    // Many at once, some twice, some NULL, some missing; each key is asked for once.
    let mut keys: Vec<Option<&str>> = names
        .iter()
        .take(1_500)
        .map(|name| Some(name.as_str()))
        .collect();
    keys.extend([Some("row0007"), None, Some("none"), Some("none"), Some("")]);
    let mut expected: Vec<Option<i32>> = (0..1_500).map(Some).collect();
    expected.extend([Some(7), None, None, None, None]);
    assert_eq!(found(&keys).await, expected);
    assert_eq!(lookup.keys_asked(), 1_501);
    // Within the time to live nothing is asked again, also not what is missing.
    service.java("put shelf 6e6f6e65 d 616765 0000002a");
    table
        .delete(&profile_rows(&rows_of[7..8]))
        .await
        .expect("deleted");
    clock.advance(Duration::from_secs(5));
    assert_eq!(found(&keys).await, expected);
    assert_eq!(lookup.keys_asked(), 1_501);
    clock.advance(Duration::from_millis(1));
    let two = [Some("row0007"), Some("none"), Some("row0008")];
    assert_eq!(found(&two).await, [None, Some(42), Some(8)]);
    assert_eq!(lookup.keys_asked(), 1_504);
    // The cache is bounded: of more rows than it holds some are asked for again.
    let all: Vec<Option<&str>> = names
        .iter()
        .skip(10)
        .map(|name| Some(name.as_str()))
        .collect();
    for _ in 0..2 {
        let ages = found(&all).await;
        assert_eq!(ages, (10..3_000).map(Some).collect::<Vec<_>>());
    }
    let asked = lookup.keys_asked() - 1_504;
    assert!((2_990 + 990..=2 * 2_990).contains(&asked), "{asked}");
    service.java("disable shelf");
    let column: ArrayRef = Arc::new(StringViewArray::from(vec!["another"]));
    let error = lookup.rows(&[column]).await.expect_err("disabled");
    assert_eq!(error.report().sqlstate, "55000");
}
