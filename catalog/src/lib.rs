//! What exists in a Thalweg database: schemas, relations, their types, options and the durable log of changes to them.
//!
//! Invariant: a [`Catalog`] never changes; each DDL statement is a list of [`Change`]s, and the log of changes alone
//! determines every snapshot.

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
pub use log::{CATALOG_FORMAT, CatalogLog};
pub use object::*;
pub use snapshot::{
    Catalog, DATABASE, INFORMATION_SCHEMA_OID, PG_CATALOG_OID, PUBLIC_OID, SYS_OID, SYSTEM_SCHEMAS,
    folded,
};
pub use types::{
    CHARACTER_LENGTH_MAX, NUMERIC_BARE_SCALE, NUMERIC_PRECISION_MAX, SqlType, TYPE_DEPTH_MAX,
};
pub use types_arrow::TYPE_METADATA_KEY;
