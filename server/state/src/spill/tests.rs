//! Proves that a spilled table is a map, through merges and clones, and that it leaves nothing on the disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::io::PowerDisk;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn folder() -> (Arc<dyn Disk>, Arc<SpillFolder>) {
    let disk: Arc<dyn Disk> = Arc::new(PowerDisk::default());
    let folder = SpillFolder::open(Arc::clone(&disk), PathBuf::from("/data/spill"));
    (disk, Arc::new(folder.expect("an empty disk")))
}

fn files(disk: &Arc<dyn Disk>) -> usize {
    let files = disk.list(Path::new("/data/spill"));
    files.map_or(0, |files| files.len())
}

fn key(number: u32) -> Vec<u8> {
    format!("key {number:05}").into_bytes()
}

fn put(spilled: &mut Spilled, entries: &[(Vec<u8>, Option<Vec<u8>>)]) {
    let written = spilled.put(|put| {
        let mut entries = entries.iter();
        entries.try_for_each(|(key, value)| put(key, value.as_deref()))
    });
    written.expect("writes");
}

fn content(spilled: &Spilled) -> Model {
    let mut model = Model::new();
    let mut last = Vec::new();
    let each = spilled.each(|key, value| {
        assert!(
            last.is_empty() || last.as_slice() < key,
            "in order, each once"
        );
        last = key.to_vec();
        model.insert(key.to_vec(), value.to_vec());
        Ok::<(), StateError>(())
    });
    each.expect("reads");
    model
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_spilled_table_is_a_map(
        steps in prop::collection::vec(prop::collection::btree_map(0_u32..300, prop::option::weighted(0.8, 0_usize..600), 0..120), 1..14),
        asked in prop::collection::btree_set(0_u32..320, 0..60),
    ) {
        let (disk, folder) = folder();
        let mut spilled = Spilled::new(folder);
        let mut model = Model::new();
        let mut earlier = None;
        for (number, step) in steps.iter().enumerate() {
            let entries: Vec<(Vec<u8>, Option<Vec<u8>>)> = step
                .iter()
                .map(|(at, size)| (key(*at), size.map(|size| vec![number as u8; size])))
                .collect();
            put(&mut spilled, &entries);
            for (key, value) in entries {
                match value {
                    Some(value) => drop(model.insert(key, value)),
                    None => drop(model.remove(&key)),
                }
            }
            if number == steps.len() / 2 {
                earlier = Some((spilled.clone(), model.clone()));
            }
            prop_assert!(files(&disk) <= 24);
        }
        prop_assert_eq!(&content(&spilled), &model);
        let keys: Vec<Vec<u8>> = asked.iter().map(|at| key(*at)).collect();
        let wanted: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let mut found = Model::new();
        let finds = spilled.find(&wanted, |key, value| {
            assert!(found.insert(key.to_vec(), value.to_vec()).is_none(), "once");
            Ok::<(), StateError>(())
        });
        finds.expect("reads");
        let expected: Model = model.iter().filter(|(key, _)| keys.contains(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
        prop_assert_eq!(found, expected);
        if let Some((clone, then)) = &earlier {
            prop_assert_eq!(&content(clone), then, "a clone stays as it was");
        }
        drop(earlier);
        drop(spilled);
        prop_assert_eq!(files(&disk), 0);
    }
}

#[test]
fn files_of_similar_size_are_merged_and_few_stay() {
    let (disk, folder) = folder();
    let mut spilled = Spilled::new(folder);
    for round in 0..200_u32 {
        let entries = (0..50).map(|at| (key(round * 50 + at), Some(b"value".to_vec())));
        put(&mut spilled, &entries.collect::<Vec<_>>());
    }
    assert_eq!(content(&spilled).len(), 10_000);
    assert!(files(&disk) < 20, "{} files", files(&disk));
    // Everything taken out leaves no entry once all files are merged.
    for _ in 0..8 {
        let entries = (0..10_000).map(|at| (key(at), None));
        put(&mut spilled, &entries.collect::<Vec<_>>());
    }
    assert_eq!(content(&spilled).len(), 0);
    assert!(files(&disk) < 20, "{} files", files(&disk));
    spilled.clear();
    assert_eq!(files(&disk), 0);
}

#[test]
fn damaged_bytes_are_an_error_and_leftovers_go() {
    let (disk, folder) = folder();
    let mut spilled = Spilled::new(folder);
    let long = vec![7_u8; 40_000];
    put(
        &mut spilled,
        &[(b"a".to_vec(), Some(long)), (b"b".to_vec(), None)],
    );
    let path = Path::new("/data/spill/0000000000000000.spill");
    let file = disk.open(path).expect("is there");
    file.write_at(20_000, &[8]).expect("writes");
    let found = spilled.find(&[b"a", b"b"], |_, _| Ok::<(), StateError>(()));
    assert_eq!(found.expect_err("is damaged").sqlstate(), "XX001");
    let each = spilled.each(|_, _| Ok::<(), StateError>(()));
    assert_eq!(each.expect_err("is damaged").sqlstate(), "XX001");
    // A crash leaves the file; the next process removes it.
    std::mem::forget(spilled);
    assert_eq!(files(&disk), 1);
    let again = SpillFolder::open(Arc::clone(&disk), PathBuf::from("/data/spill"));
    again.expect("opens");
    assert_eq!(files(&disk), 0);
}
