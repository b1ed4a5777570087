//! What exists in a Thalweg database: schemas, relations, their types, options and the durable log of changes to them.
//!
//! Invariant: a [`Catalog`] never changes; each DDL statement is a list of [`Change`]s, and the log of changes alone
//! determines every snapshot.
//!
//! A statement is decided against a snapshot, becomes changes, and the log makes them durable and gives the next snapshot:
//!
//! ```
//! use std::sync::Arc;
//! use thalweg_catalog::{CatalogLog, Change, Column, OidAllocator, PUBLIC_OID, RelationBuilder, RelationKind, SqlType};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let memory = redb::backends::InMemoryBackend::new();
//! let database = Arc::new(redb::Database::builder().create_with_backend(memory)?);
//! let (log, catalog) = CatalogLog::open(database)?;
//!
//! let mut oids = OidAllocator::new(&catalog);
//! let mut table = RelationBuilder::new(&catalog, &mut oids, PUBLIC_OID, "orders", RelationKind::Table)?;
//! table.column(Column::data("id", 0, SqlType::Int8))?;
//! table.column(Column::data("amount", 0, SqlType::numeric(10, 2)))?;
//! table.primary_key(None, &["id"])?;
//! let change = Change::CreateRelation(Box::new(table.build()));
//!
//! let next = log.append(&catalog, &[change])?;
//! let orders = next.find("public", "orders").ok_or("just created")?;
//! assert_eq!(orders.column("amount").map(|column| column.ty.to_string()).as_deref(), Some("numeric(10,2)"));
//! assert!(catalog.find("public", "orders").is_none(), "the old snapshot stays as it was");
//! # Ok(())
//! # }
//! ```
//!
//! Where things are: `types` SQL types, their OIDs, names and Arrow fields; `object` relations and schemas as data; `snapshot`
//! names and lookups; `dependency` drop orders; `change` DDL as values; `log` durability; `builder` OIDs of new relations;
//! [`option`] every `WITH` option.

mod builder;
mod change;
mod dependency;
mod error;
mod log;
mod object;
mod snapshot;
mod types;
mod types_arrow;
mod types_parse;

pub mod option;

pub use builder::{
    COLUMNS_MAX, OidAllocator, RelationBuilder, check_view_replacement, errors_relation,
};
pub use change::{Change, apply, apply_all};
pub use error::{CatalogError, Report};
pub use log::{CATALOG_FORMAT, CatalogLog, LOG_TABLE, META_TABLE};
pub use object::*;
pub use snapshot::{
    Catalog, DATABASE, INFORMATION_SCHEMA_OID, PG_CATALOG_OID, PUBLIC_OID, SYS_OID, SYSTEM_SCHEMAS,
    folded,
};
pub use types::{
    CHARACTER_LENGTH_MAX, NUMERIC_BARE_SCALE, NUMERIC_PRECISION_MAX, SqlType, TYPE_DEPTH_MAX,
};
pub use types_arrow::TYPE_METADATA_KEY;
