//! SQL types as Postgres numbers them, and the Arrow types they are held in.
//!
//! Invariant: the catalog stores (type OID, typmod); the Arrow type derives from it and never the other way round, except
//! for query results, whose fields carry the SQL type in their metadata when Arrow alone cannot tell (see [`SqlType::from_field`]).

use serde::{Deserialize, Serialize};

/// A SQL type. `Display` prints it as Postgres' `format_type` does (`integer`, `character varying(20)`, `numeric(10,2)[]`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SqlType {
    /// `boolean`
    Bool,
    /// `smallint`
    Int2,
    /// `integer`
    Int4,
    /// `bigint`
    Int8,
    /// `real`
    Float4,
    /// `double precision`
    Float8,
    /// `numeric[(precision, scale)]`; bare numeric is held as Decimal128(38, 10). `scale_override` holds the scale of derived
    /// results without a typmod, as sum(bigint), which is numeric of scale 0.
    Numeric {
        /// `(precision, scale)` as declared; `None` for bare numeric.
        declared: Option<(u8, i8)>,
        /// Scale the value is held at when bare; 10 for a column, 0 for sum(bigint).
        held_scale: i8,
    },
    /// `text`
    Text,
    /// `character varying[(n)]`
    Varchar(Option<u32>),
    /// `character(n)`, held without the padding
    Char(u32),
    /// `bytea`
    Bytea,
    /// `date`
    Date,
    /// `time without time zone`, microseconds
    Time,
    /// `timestamp without time zone`, microseconds
    Timestamp,
    /// `timestamp with time zone`, microseconds UTC
    Timestamptz,
    /// `interval`, months / days / nanoseconds
    Interval,
    /// `uuid`, 16 bytes
    Uuid,
    /// `json`, text kept as written
    Json,
    /// `jsonb`, canonical text
    Jsonb,
    /// `oid`
    Oid,
    /// `name`
    Name,
    /// `"char"`
    InternalChar,
    /// `regclass`, `regtype`, ... held as oid; the string is the type's name
    Reg(String),
    /// `element[]`
    Array(Box<SqlType>),
    /// `STRUCT<name type, ...>`; on the wire a record
    Struct(Vec<(String, SqlType)>),
    /// the type of an untyped NULL or string literal; becomes text when it reaches a client
    Unknown,
}
