//! The durable change log: every change in order, each with its checksum, in one table of the shared redb file.
//!
//! Invariant: what `append` returned for is on disk; the snapshot `open` gives is `apply` of exactly the records in the log,
//! and a record that is not what was written is an error, never a guess.

use std::fmt;
use std::sync::Arc;

use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};

use crate::change::Change;
use crate::error::CatalogError;
use crate::snapshot::Catalog;

/// Version of the catalog's tables. Raise it when an older program could misread a newer log.
pub const CATALOG_FORMAT: u64 = 2;

/// Layout of one record: format byte, CRC-32C little endian, JSON of the change.
const RECORD_FORMAT: u8 = 1;
const RECORD_HEADER_BYTES: usize = 5;

/// The table of changes, for whoever copies the data file.
pub const LOG_TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("catalog_log");
/// The table that says how the changes are written, for whoever copies the data file.
pub const META_TABLE: TableDefinition<'_, &str, u64> = TableDefinition::new("catalog_meta");
const FORMAT_KEY: &str = "format";

/// The log. The database handle is lent by the server, so that DDL commits together with other tables.
pub struct CatalogLog {
    database: Arc<Database>,
}

impl fmt::Debug for CatalogLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatalogLog").finish_non_exhaustive()
    }
}

impl CatalogLog {
    /// Opens the log, making it when it is not there, and replays it.
    ///
    /// # Errors
    /// XX001 naming the record that is damaged or does not apply; 55000 when a newer version wrote it; 58030 from the storage.
    pub fn open(database: Arc<Database>) -> Result<(CatalogLog, Arc<Catalog>), CatalogError> {
        let catalog = match check_format(&database)? {
            Presence::Found => replay(&database)?,
            Presence::Older => {
                // Everything an older version wrote is read as it is; what is written from now on it could not read.
                let catalog = replay(&database)?;
                note_format(&database)?;
                catalog
            }
            Presence::Missing => {
                note_format(&database)?;
                Catalog::empty()
            }
        };
        Ok((CatalogLog { database }, Arc::new(catalog)))
    }

    /// Appends changes that were decided against `catalog` and gives the catalog after them. All of them are durable when
    /// this returns, or none is in the log.
    ///
    /// # Errors
    /// XX001 when a change does not apply or `catalog` is not the log's latest version; 58030 from the storage.
    pub fn append(
        &self,
        catalog: &Catalog,
        changes: &[Change],
    ) -> Result<Arc<Catalog>, CatalogError> {
        let mut transaction = self.database.begin_write().map_err(storage("write"))?;
        transaction
            .set_durability(Durability::Immediate)
            .map_err(storage("write"))?;
        let next = self.append_in(&transaction, catalog, changes)?;
        transaction.commit().map_err(storage("commit"))?;
        Ok(next)
    }

    /// Like [`CatalogLog::append`], inside a transaction of the same database that the caller commits, with
    /// [`Durability::Immediate`], together with its other tables.
    ///
    /// # Errors
    /// As [`CatalogLog::append`]; the caller must then abort the transaction.
    pub fn append_in(
        &self,
        transaction: &WriteTransaction,
        catalog: &Catalog,
        changes: &[Change],
    ) -> Result<Arc<Catalog>, CatalogError> {
        let mut table = transaction
            .open_table(LOG_TABLE)
            .map_err(storage("write"))?;
        let head = match table.last().map_err(storage("read"))? {
            Some((sequence, _)) => sequence.value(),
            None => 0,
        };
        if head != catalog.version() {
            return Err(CatalogError::DoesNotApply(format!(
                "the change was decided against version {}, the log is at {head}",
                catalog.version()
            )));
        }
        let mut next = catalog.clone();
        for change in changes {
            next.apply_owned(change)?;
            let record = encode(next.version(), change)?;
            table
                .insert(next.version(), record.as_slice())
                .map_err(storage("write"))?;
        }
        Ok(Arc::new(next))
    }

    /// Every change in the log, in order.
    ///
    /// # Errors
    /// XX001 for a damaged record; 58030 from the storage.
    pub fn changes(&self) -> Result<Vec<Change>, CatalogError> {
        let mut changes = Vec::new();
        for_each(&self.database, |_, change| {
            changes.push(change);
            Ok(())
        })?;
        Ok(changes)
    }
}

enum Presence {
    Found,
    Older,
    Missing,
}

fn check_format(database: &Database) -> Result<Presence, CatalogError> {
    let transaction = database.begin_read().map_err(storage("open"))?;
    let found = match transaction.open_table(META_TABLE) {
        Ok(table) => table
            .get(FORMAT_KEY)
            .map_err(storage("open"))?
            .map(|value| value.value()),
        Err(redb::TableError::TableDoesNotExist(_)) => None,
        Err(error) => return Err(storage("open")(error)),
    };
    match found {
        Some(found) if found > CATALOG_FORMAT => Err(CatalogError::NewerFormat {
            found,
            known: CATALOG_FORMAT,
        }),
        Some(found) if found < CATALOG_FORMAT => Ok(Presence::Older),
        Some(_) => Ok(Presence::Found),
        None => match transaction.open_table(LOG_TABLE) {
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(Presence::Missing),
            Err(error) => Err(storage("open")(error)),
            // Both tables are made in one transaction, so a log without its format is damage and not an old version.
            Ok(_) => Err(CatalogError::Corrupt {
                sequence: 0,
                reason: "the log has no format version".to_owned(),
            }),
        },
    }
}

/// Makes the tables where they are not, and says how they are written.
fn note_format(database: &Database) -> Result<(), CatalogError> {
    let mut transaction = database.begin_write().map_err(storage("open"))?;
    transaction
        .set_durability(Durability::Immediate)
        .map_err(storage("open"))?;
    transaction.open_table(LOG_TABLE).map_err(storage("open"))?;
    transaction
        .open_table(META_TABLE)
        .map_err(storage("open"))?
        .insert(FORMAT_KEY, CATALOG_FORMAT)
        .map_err(storage("open"))?;
    transaction.commit().map_err(storage("commit"))
}

fn replay(database: &Database) -> Result<Catalog, CatalogError> {
    let mut catalog = Catalog::empty();
    for_each(database, |sequence, change| {
        catalog
            .apply_owned(&change)
            .map_err(|error| CatalogError::Corrupt {
                sequence,
                reason: match error {
                    CatalogError::DoesNotApply(reason) => reason,
                    other => other.to_string(),
                },
            })
    })?;
    Ok(catalog)
}

/// Reads the log in order, checking that no record is missing.
fn for_each(
    database: &Database,
    mut visit: impl FnMut(u64, Change) -> Result<(), CatalogError>,
) -> Result<(), CatalogError> {
    let transaction = database.begin_read().map_err(storage("read"))?;
    let table = transaction.open_table(LOG_TABLE).map_err(storage("read"))?;
    let mut expected = 1;
    for entry in table.iter().map_err(storage("read"))? {
        let (key, value) = entry.map_err(storage("read"))?;
        let sequence = key.value();
        if sequence != expected {
            return Err(CatalogError::Corrupt {
                sequence: expected,
                reason: format!("the record is missing; the next one is {sequence}"),
            });
        }
        visit(sequence, decode(sequence, value.value())?)?;
        expected += 1;
    }
    Ok(())
}

fn encode(sequence: u64, change: &Change) -> Result<Vec<u8>, CatalogError> {
    let json = serde_json::to_vec(change)
        .map_err(|error| CatalogError::DoesNotApply(format!("it cannot be written: {error}")))?;
    let mut record = Vec::with_capacity(RECORD_HEADER_BYTES + json.len());
    record.push(RECORD_FORMAT);
    record.extend_from_slice(&checksum(sequence, &json).to_le_bytes());
    record.extend_from_slice(&json);
    Ok(record)
}

fn decode(sequence: u64, record: &[u8]) -> Result<Change, CatalogError> {
    let corrupt = |reason: String| CatalogError::Corrupt { sequence, reason };
    let Some(([format, checksum_bytes @ ..], json)) =
        record.split_first_chunk::<RECORD_HEADER_BYTES>()
    else {
        return Err(corrupt(format!("it has {} bytes", record.len())));
    };
    if *format != RECORD_FORMAT {
        return Err(corrupt(format!("its format byte is {format}")));
    }
    let stored = u32::from_le_bytes(*checksum_bytes);
    let computed = checksum(sequence, json);
    if stored != computed {
        return Err(corrupt(format!(
            "its checksum is {stored:08x}, its content has {computed:08x}"
        )));
    }
    serde_json::from_slice(json)
        .map_err(|error| corrupt(format!("its content does not parse: {error}")))
}

/// Covers the position too, so that a record in another record's place is found.
fn checksum(sequence: u64, json: &[u8]) -> u32 {
    let seed = crc32c::crc32c(&sequence.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &[RECORD_FORMAT]), json)
}

fn storage<E: fmt::Display>(action: &'static str) -> impl Fn(E) -> CatalogError {
    move |error| CatalogError::Storage {
        action,
        reason: error.to_string(),
    }
}
