//! Proves that the disk in memory loses what was not synced, keeps what was, and that both disks agree on the rest.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::*;

fn content(disk: &dyn Disk, path: &Path) -> Option<Vec<u8>> {
    read_all(disk, path, u64::MAX).ok()
}

#[test]
fn what_is_synced_is_in_every_image() {
    let (disk, folder) = (PowerDisk::new(), Path::new("/d"));
    disk.create_folder(folder).expect("creates");
    let path = folder.join("a");
    let file = disk.create(&path).expect("creates");
    file.write_at(0, b"synced").expect("writes");
    file.sync().expect("syncs");
    disk.sync_folder(folder).expect("syncs");
    file.write_at(6, b" not").expect("writes");
    for seed in 0..50 {
        let found = content(&disk.image(seed), &path).expect("is there");
        assert!(found.starts_with(b"synced"), "seed {seed}: {found:?}");
    }
}

#[test]
fn what_is_not_synced_may_be_lost_in_every_way() {
    let (disk, folder) = (PowerDisk::new(), Path::new("/d"));
    disk.create_folder(folder).expect("creates");
    let (old, new) = (folder.join("old"), folder.join("new"));
    disk.create(&old).expect("creates").sync().expect("syncs");
    disk.sync_folder(folder).expect("syncs");
    let file = disk.create(&new).expect("creates");
    file.write_at(0, &[1; 1024]).expect("writes");
    disk.rename(&new, &old).expect("renames");
    let seen: BTreeSet<_> = (0..200)
        .map(|seed| {
            let image = disk.image(seed);
            let state = |path| {
                content(&image, path)
                    .map(|bytes| bytes.iter().map(|byte| usize::from(*byte)).sum::<usize>())
            };
            (state(&old), state(&new))
        })
        .collect();
    // Nothing happened; only the new name; the rename with all, half or none of the content.
    for expected in [
        (Some(0), None),
        (Some(0), Some(1024)),
        (Some(512), None),
        (Some(1024), None),
    ] {
        assert!(seen.contains(&expected), "{expected:?} not in {seen:?}");
    }
}

#[test]
fn a_cut_ends_everything() {
    let (disk, path) = (PowerDisk::new(), Path::new("a"));
    let file = disk.create(path).expect("creates");
    disk.cut_after(1);
    file.write_at(0, b"x").expect("still writes");
    assert!(file.write_at(1, b"y").is_err() && file.sync().is_err() && disk.remove(path).is_err());
    assert!(disk.is_cut());
}

#[test]
fn a_full_disk_says_so() {
    let disk = PowerDisk::new();
    let file = disk.create(Path::new("a")).expect("creates");
    disk.limit_free(Some(3));
    file.write_at(0, b"abc").expect("fits");
    file.write_at(0, b"ABC").expect("takes no more");
    let full = file.write_at(3, b"d").expect_err("is full");
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
}

/// What callers rely on holds for both disks alike.
#[test]
fn both_disks_do_the_same() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let memory = PowerDisk::new();
    let disks: [(&dyn Disk, PathBuf); 2] = [
        (&SystemDisk, scratch.path().join("x/y")),
        (&memory, PathBuf::from("/x/y")),
    ];
    for (disk, folder) in disks {
        disk.create_folder(&folder).expect("creates");
        disk.create_folder(&folder).expect("is there");
        let (a, b) = (folder.join("a"), folder.join("b"));
        assert_eq!(
            disk.open(&a).expect_err("is missing").kind(),
            io::ErrorKind::NotFound
        );
        let file = disk.create(&a).expect("creates");
        file.write_at(2, b"cd").expect("writes");
        file.write_at(0, b"ab").expect("writes");
        assert_eq!(content(disk, &a).as_deref(), Some(b"abcd".as_slice()));
        let mut beyond = [0; 3];
        assert_eq!(
            file.read_at(2, &mut beyond).expect_err("ends").kind(),
            io::ErrorKind::UnexpectedEof
        );
        file.set_bytes(3).expect("cuts");
        disk.rename(&a, &b).expect("renames");
        disk.sync_folder(&folder).expect("syncs");
        assert_eq!(
            disk.list(&folder).expect("lists"),
            [("b".to_owned(), 3_u64)]
        );
        disk.remove(&b).expect("removes");
        let mut still = [0; 3];
        file.read_at(0, &mut still).expect("is still open");
        assert_eq!(&still, b"abc");
        assert!(disk.remove(&b).is_err());
        assert_eq!(disk.list(&folder).expect("lists"), []);
        assert!(disk.free_bytes(&folder).expect("tells") > 0);
    }
}
