//! The log on disk: what it keeps, what it refuses.
//!
//! Invariant: a damaged record is named, never skipped.

use std::sync::Arc;

use redb::{Database, Durability, ReadableDatabase, TableDefinition};
use tempfile::TempDir;
use thalweg_catalog::{CATALOG_FORMAT, Catalog, CatalogError, CatalogLog, Change, apply_all};

use crate::ddl;
use crate::random::{Random, seed};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("catalog_log");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("catalog_meta");
const OTHER: TableDefinition<'_, u64, u64> = TableDefinition::new("other");

fn database(dir: &TempDir) -> Arc<Database> {
    Arc::new(Database::create(dir.path().join("thalweg.redb")).expect("a database"))
}

/// Writes ten statements and gives the catalog after them.
fn filled(dir: &TempDir) -> Arc<Catalog> {
    let (log, mut catalog) = CatalogLog::open(database(dir)).expect("a new log");
    let mut random = Random::new(seed());
    while catalog.version() < 10 {
        let changes = ddl::statement(&catalog, &mut random);
        catalog = log.append(&catalog, &changes).expect("valid changes");
    }
    catalog
}

#[test]
fn reopening_gives_the_same_snapshot() {
    let dir = TempDir::new().expect("a folder");
    let catalog = filled(&dir);
    let (log, reopened) = CatalogLog::open(database(&dir)).expect("the log opens again");
    assert_eq!(reopened, catalog);
    let changes = log.changes().expect("the log reads");
    assert_eq!(changes.len() as u64, catalog.version());
    assert_eq!(
        apply_all(&Catalog::empty(), &changes).expect("it replays"),
        *catalog
    );
}

#[test]
fn a_failed_append_leaves_no_trace() {
    let dir = TempDir::new().expect("a folder");
    let catalog = filled(&dir);
    let (log, _) = CatalogLog::open(database(&dir)).expect("the log opens");
    let good = Change::ReserveOids(catalog.next_oid() + 1);
    let bad = Change::ReserveOids(0);
    let error = log
        .append(&catalog, &[good.clone(), bad])
        .expect_err("the second change is bad");
    assert_eq!(error.sqlstate(), "XX001");
    let next = log
        .append(&catalog, std::slice::from_ref(&good))
        .expect("the first alone is good");
    assert_eq!(next.version(), catalog.version() + 1);
    // A change decided against an older version would silently undo what came between.
    let error = log
        .append(&catalog, &[good])
        .expect_err("the snapshot is stale");
    assert!(matches!(error, CatalogError::DoesNotApply(_)), "{error:?}");
}

#[test]
fn a_joint_commit_is_all_or_nothing() {
    let dir = TempDir::new().expect("a folder");
    let catalog = filled(&dir);
    let database = database(&dir);
    let (log, _) = CatalogLog::open(Arc::clone(&database)).expect("the log opens");
    let change = [Change::ReserveOids(catalog.next_oid() + 7)];
    for commit in [false, true] {
        let mut transaction = database.begin_write().expect("a transaction");
        transaction
            .set_durability(Durability::Immediate)
            .expect("durable");
        let next = log
            .append_in(&transaction, &catalog, &change)
            .expect("it applies");
        transaction
            .open_table(OTHER)
            .expect("a table")
            .insert(1, 1)
            .expect("a row");
        if commit {
            transaction.commit().expect("it commits");
        } else {
            transaction.abort().expect("it aborts");
        }
        let (_, found) = CatalogLog::open(Arc::clone(&database)).expect("the log opens");
        assert_eq!(
            found.as_ref(),
            if commit {
                next.as_ref()
            } else {
                catalog.as_ref()
            }
        );
    }
}

#[test]
fn damage_names_the_record() {
    let flips: [(&str, fn(&mut Vec<u8>)); 6] = [
        ("a flipped bit", |record| {
            *record.last_mut().expect("bytes") ^= 1
        }),
        ("a flipped checksum", |record| record[2] ^= 0x80),
        ("an unknown format", |record| record[0] = 9),
        ("a torn tail", |record| record.truncate(record.len() / 2)),
        ("a torn header", |record| record.truncate(3)),
        ("nothing", Vec::clear),
    ];
    for (what, flip) in flips {
        let dir = TempDir::new().expect("a folder");
        filled(&dir);
        rewrite(&dir, 4, |record| flip(record));
        let error = CatalogLog::open(database(&dir)).expect_err(what);
        let report = error.report();
        assert_eq!(
            (report.sqlstate, report.message.as_str()),
            ("XX001", "catalog log record 4 is corrupt"),
            "{what}"
        );
        assert!(report.detail.is_some(), "{what}");
    }
}

#[test]
fn a_record_in_another_place_or_missing_is_found() {
    let dir = TempDir::new().expect("a folder");
    filled(&dir);
    let database = database(&dir);
    let copy = read(&database, 3);
    write(&database, 5, Some(&copy));
    let error = CatalogLog::open(Arc::clone(&database)).expect_err("a copied record");
    assert_eq!(error.to_string(), "catalog log record 5 is corrupt");
    write(&database, 2, None);
    let error = CatalogLog::open(database).expect_err("a missing record");
    assert_eq!(error.to_string(), "catalog log record 2 is corrupt");
}

fn set_format(database: &Database, format: u64) {
    let transaction = database.begin_write().expect("a transaction");
    transaction
        .open_table(META)
        .expect("the table")
        .insert("format", format)
        .expect("a row");
    transaction.commit().expect("it commits");
}

fn format(database: &Database) -> u64 {
    let transaction = database.begin_read().expect("a transaction");
    let table = transaction.open_table(META).expect("the table");
    let format = table.get("format").expect("readable");
    format.expect("there").value()
}

#[test]
fn a_newer_format_is_refused() {
    let dir = TempDir::new().expect("a folder");
    filled(&dir);
    let database = database(&dir);
    set_format(&database, CATALOG_FORMAT + 1);
    let report = CatalogLog::open(database).expect_err("newer").report();
    assert_eq!(report.sqlstate, "55000");
    let (newer, known) = (CATALOG_FORMAT + 1, CATALOG_FORMAT);
    assert_eq!(
        report.message,
        format!("catalog format {newer} is newer than the newest this version reads, {known}")
    );
    assert!(report.hint.is_some());
}

/// The first format knew no pauses and nothing else that was different: it is read, and the older program refuses it from then on.
#[test]
fn an_older_format_is_upgraded() {
    let dir = TempDir::new().expect("a folder");
    let catalog = filled(&dir);
    let database = database(&dir);
    set_format(&database, 1);
    let (log, read) = CatalogLog::open(Arc::clone(&database)).expect("an older log opens");
    assert_eq!(read, catalog);
    assert_eq!(format(&database), CATALOG_FORMAT);
    let change = Change::ReserveOids(catalog.next_oid() + 1);
    log.append(&read, &[change]).expect("it goes on");
}

fn read(database: &Database, sequence: u64) -> Vec<u8> {
    let transaction = database.begin_read().expect("a transaction");
    let table = transaction.open_table(LOG).expect("the log");
    table
        .get(sequence)
        .expect("readable")
        .expect("there")
        .value()
        .to_vec()
}

fn write(database: &Database, sequence: u64, record: Option<&[u8]>) {
    let transaction = database.begin_write().expect("a transaction");
    {
        let mut table = transaction.open_table(LOG).expect("the log");
        match record {
            Some(record) => drop(table.insert(sequence, record).expect("a row")),
            None => drop(table.remove(sequence).expect("a row")),
        }
    }
    transaction.commit().expect("it commits");
}

fn rewrite(dir: &TempDir, sequence: u64, change: impl Fn(&mut Vec<u8>)) {
    let database = database(dir);
    let mut record = read(&database, sequence);
    change(&mut record);
    write(&database, sequence, Some(&record));
}
