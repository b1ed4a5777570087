//! SQL types as Postgres numbers them, and the Arrow types they are held in.
//!
//! Invariant: the catalog stores (type OID, typmod); the Arrow type derives from it and never the other way round, except
//! for query results, whose fields carry the SQL type in their metadata when Arrow alone cannot tell (see [`SqlType::from_field`]).

use std::fmt;

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

/// Name, OID and array OID of the `reg*` types.
pub(crate) const REG_TYPES: &[(&str, u32, u32)] = &[
    ("regproc", 24, 1008),
    ("regprocedure", 2202, 2207),
    ("regoper", 2203, 2208),
    ("regoperator", 2204, 2209),
    ("regclass", 2205, 2210),
    ("regtype", 2206, 2211),
    ("regrole", 4096, 4097),
    ("regnamespace", 4089, 4090),
    ("regconfig", 3734, 3735),
    ("regdictionary", 3769, 3770),
    ("regcollation", 4191, 4192),
];

/// Precision bare numeric is held at.
pub const NUMERIC_PRECISION_MAX: u8 = 38;
/// Scale bare numeric columns are held at.
pub const NUMERIC_BARE_SCALE: i8 = 10;
/// Longest declared length of `varchar(n)` and `char(n)`, as in Postgres.
pub const CHARACTER_LENGTH_MAX: u64 = 10_485_760;
/// Deepest nesting of arrays and structs. Keeps stored records far below the JSON reader's own depth limit.
pub const TYPE_DEPTH_MAX: usize = 16;

/// Offset Postgres adds to length typmods: the size of its varlena header.
const TYPMOD_HEADER: i32 = 4;

impl SqlType {
    /// Bare `numeric`, as a column declares it.
    pub const NUMERIC: SqlType = SqlType::Numeric {
        declared: None,
        held_scale: NUMERIC_BARE_SCALE,
    };

    /// `numeric(precision, scale)`.
    pub fn numeric(precision: u8, scale: i8) -> SqlType {
        SqlType::Numeric {
            declared: Some((precision, scale)),
            held_scale: scale,
        }
    }

    /// The type's OID in `pg_type`. Arrays of arrays have the OID of the array over the innermost element, as in Postgres.
    pub fn oid(&self) -> u32 {
        match self {
            SqlType::Bool => 16,
            SqlType::Bytea => 17,
            SqlType::InternalChar => 18,
            SqlType::Name => 19,
            SqlType::Int8 => 20,
            SqlType::Int2 => 21,
            SqlType::Int4 => 23,
            SqlType::Text => 25,
            SqlType::Oid => 26,
            SqlType::Json => 114,
            SqlType::Float4 => 700,
            SqlType::Float8 => 701,
            SqlType::Unknown => 705,
            SqlType::Char(_) => 1042,
            SqlType::Varchar(_) => 1043,
            SqlType::Date => 1082,
            SqlType::Time => 1083,
            SqlType::Timestamp => 1114,
            SqlType::Timestamptz => 1184,
            SqlType::Interval => 1186,
            SqlType::Numeric { .. } => 1700,
            SqlType::Struct(_) => 2249,
            SqlType::Uuid => 2950,
            SqlType::Jsonb => 3802,
            SqlType::Reg(name) => reg(name).1,
            SqlType::Array(element) => element.array_oid(),
        }
    }

    /// OID of the array type over this type.
    pub fn array_oid(&self) -> u32 {
        match self {
            SqlType::Json => 199,
            SqlType::Bool => 1000,
            SqlType::Bytea => 1001,
            SqlType::InternalChar => 1002,
            SqlType::Name => 1003,
            SqlType::Int2 => 1005,
            SqlType::Int4 => 1007,
            // An untyped literal becomes text when it reaches a client, so its array is text[].
            SqlType::Text | SqlType::Unknown => 1009,
            SqlType::Char(_) => 1014,
            SqlType::Varchar(_) => 1015,
            SqlType::Int8 => 1016,
            SqlType::Float4 => 1021,
            SqlType::Float8 => 1022,
            SqlType::Oid => 1028,
            SqlType::Timestamp => 1115,
            SqlType::Date => 1182,
            SqlType::Time => 1183,
            SqlType::Timestamptz => 1185,
            SqlType::Interval => 1187,
            SqlType::Numeric { .. } => 1231,
            SqlType::Struct(_) => 2287,
            SqlType::Uuid => 2951,
            SqlType::Jsonb => 3807,
            SqlType::Reg(name) => reg(name).2,
            SqlType::Array(element) => element.array_oid(),
        }
    }

    /// Type modifier as Postgres encodes it in `pg_attribute.atttypmod` and RowDescription; -1 is none.
    pub fn typmod(&self) -> i32 {
        match self {
            SqlType::Varchar(Some(length)) | SqlType::Char(length) => {
                i32::try_from(*length).map_or(-1, |length| length.saturating_add(TYPMOD_HEADER))
            }
            SqlType::Numeric {
                declared: Some((precision, scale)),
                ..
            } => ((i32::from(*precision) << 16) | (i32::from(*scale) & 0x7ff)) + TYPMOD_HEADER,
            SqlType::Array(element) => element.typmod(),
            _ => -1,
        }
    }

    /// `pg_type.typlen`: bytes of a fixed-size value, -1 for variable length, -2 for a C string.
    pub fn typlen(&self) -> i16 {
        match self {
            SqlType::Bool | SqlType::InternalChar => 1,
            SqlType::Int2 => 2,
            SqlType::Int4 | SqlType::Float4 | SqlType::Date | SqlType::Oid | SqlType::Reg(_) => 4,
            SqlType::Int8
            | SqlType::Float8
            | SqlType::Time
            | SqlType::Timestamp
            | SqlType::Timestamptz => 8,
            SqlType::Interval | SqlType::Uuid => 16,
            SqlType::Name => 64,
            SqlType::Unknown => -2,
            _ => -1,
        }
    }

    /// The type with this OID and type modifier; `None` when there is no such type here.
    ///
    /// `record` has no fields in its OID and gives an empty struct. `bpchar` without a length gives text.
    pub fn from_oid(oid: u32, typmod: i32) -> Option<SqlType> {
        let length = || u32::try_from(typmod.checked_sub(TYPMOD_HEADER)?).ok();
        let scalar = match oid {
            1042 => length().map_or(SqlType::Text, SqlType::Char),
            1043 => SqlType::Varchar(length()),
            1700 => numeric_of_typmod(typmod),
            2249 => SqlType::Struct(Vec::new()),
            _ => match SCALARS.iter().find(|ty| ty.oid() == oid) {
                Some(ty) => ty.clone(),
                None => match REG_TYPES.iter().find(|entry| entry.1 == oid) {
                    Some(entry) => SqlType::Reg(entry.0.to_owned()),
                    None => return array_of_oid(oid, typmod),
                },
            },
        };
        Some(scalar)
    }

    /// The type with this OID and no modifier, as a client names parameter types.
    pub fn parse_oid(oid: u32) -> Option<SqlType> {
        SqlType::from_oid(oid, -1)
    }

    /// Name in `pg_type` (`int4`, `_int4`, `bpchar`, `record`).
    pub fn typname(&self) -> String {
        match self {
            SqlType::Bool => "bool",
            SqlType::Int2 => "int2",
            SqlType::Int4 => "int4",
            SqlType::Int8 => "int8",
            SqlType::Float4 => "float4",
            SqlType::Float8 => "float8",
            SqlType::Numeric { .. } => "numeric",
            SqlType::Text => "text",
            SqlType::Varchar(_) => "varchar",
            SqlType::Char(_) => "bpchar",
            SqlType::Bytea => "bytea",
            SqlType::Date => "date",
            SqlType::Time => "time",
            SqlType::Timestamp => "timestamp",
            SqlType::Timestamptz => "timestamptz",
            SqlType::Interval => "interval",
            SqlType::Uuid => "uuid",
            SqlType::Json => "json",
            SqlType::Jsonb => "jsonb",
            SqlType::Oid => "oid",
            SqlType::Name => "name",
            SqlType::InternalChar => "char",
            SqlType::Struct(_) => "record",
            SqlType::Unknown => "unknown",
            SqlType::Reg(name) => name,
            SqlType::Array(element) => {
                let mut innermost = element;
                while let SqlType::Array(inner) = innermost.as_ref() {
                    innermost = inner;
                }
                return format!("_{}", innermost.typname());
            }
        }
        .to_owned()
    }

    /// True for the integer, float and numeric types.
    pub fn is_numeric(&self) -> bool {
        matches!(
            self,
            SqlType::Int2
                | SqlType::Int4
                | SqlType::Int8
                | SqlType::Float4
                | SqlType::Float8
                | SqlType::Numeric { .. }
        )
    }

    /// True for the types whose values are character strings.
    pub fn is_string(&self) -> bool {
        matches!(
            self,
            SqlType::Text
                | SqlType::Varchar(_)
                | SqlType::Char(_)
                | SqlType::Name
                | SqlType::InternalChar
                | SqlType::Unknown
        )
    }
}

/// Every type that its OID alone determines, except `reg*`.
pub(crate) const SCALARS: &[SqlType] = &[
    SqlType::Bool,
    SqlType::Int2,
    SqlType::Int4,
    SqlType::Int8,
    SqlType::Float4,
    SqlType::Float8,
    SqlType::Text,
    SqlType::Bytea,
    SqlType::Date,
    SqlType::Time,
    SqlType::Timestamp,
    SqlType::Timestamptz,
    SqlType::Interval,
    SqlType::Uuid,
    SqlType::Json,
    SqlType::Jsonb,
    SqlType::Oid,
    SqlType::Name,
    SqlType::InternalChar,
    SqlType::Unknown,
];

/// Entry of a `reg*` type; an unknown name can only come from a hand-made value and behaves as oid.
fn reg(name: &str) -> (&'static str, u32, u32) {
    REG_TYPES
        .iter()
        .find(|entry| entry.0 == name)
        .copied()
        .unwrap_or(("oid", 26, 1028))
}

fn numeric_of_typmod(typmod: i32) -> SqlType {
    let Some(packed) = typmod
        .checked_sub(TYPMOD_HEADER)
        .filter(|packed| *packed >= 0)
    else {
        return SqlType::NUMERIC;
    };
    // The scale is an 11-bit signed field.
    let scale = ((packed & 0x7ff) ^ 0x400) - 0x400;
    match (u8::try_from(packed >> 16), i8::try_from(scale)) {
        (Ok(precision), Ok(scale)) if (1..=NUMERIC_PRECISION_MAX).contains(&precision) => {
            SqlType::numeric(precision, scale)
        }
        _ => SqlType::NUMERIC,
    }
}

fn array_of_oid(oid: u32, typmod: i32) -> Option<SqlType> {
    let element = match oid {
        1014 => SqlType::from_oid(1042, typmod)?,
        1015 => SqlType::from_oid(1043, typmod)?,
        1231 => SqlType::from_oid(1700, typmod)?,
        2287 => SqlType::Struct(Vec::new()),
        _ => match SCALARS.iter().find(|ty| ty.array_oid() == oid) {
            Some(ty) => ty.clone(),
            None => {
                let entry = REG_TYPES.iter().find(|entry| entry.2 == oid)?;
                SqlType::Reg(entry.0.to_owned())
            }
        },
    };
    Some(SqlType::Array(Box::new(element)))
}

impl fmt::Display for SqlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SqlType::Bool => f.write_str("boolean"),
            SqlType::Int2 => f.write_str("smallint"),
            SqlType::Int4 => f.write_str("integer"),
            SqlType::Int8 => f.write_str("bigint"),
            SqlType::Float4 => f.write_str("real"),
            SqlType::Float8 => f.write_str("double precision"),
            SqlType::Numeric {
                declared: Some((precision, scale)),
                ..
            } => write!(f, "numeric({precision},{scale})"),
            SqlType::Varchar(Some(length)) => write!(f, "character varying({length})"),
            SqlType::Varchar(None) => f.write_str("character varying"),
            SqlType::Char(length) => write!(f, "character({length})"),
            SqlType::Time => f.write_str("time without time zone"),
            SqlType::Timestamp => f.write_str("timestamp without time zone"),
            SqlType::Timestamptz => f.write_str("timestamp with time zone"),
            SqlType::InternalChar => f.write_str("\"char\""),
            SqlType::Array(element) => write!(f, "{element}[]"),
            SqlType::Struct(fields) => {
                f.write_str("STRUCT<")?;
                for (index, (name, ty)) in fields.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    write!(f, "{separator}{} {ty}", QuotedName(name))?;
                }
                f.write_str(">")
            }
            other => f.write_str(&other.typname()),
        }
    }
}

/// Prints an identifier, quoted when it would not read back as itself.
pub(crate) struct QuotedName<'a>(pub(crate) &'a str);

impl fmt::Display for QuotedName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = self
            .0
            .starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && self
                .0
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if plain {
            f.write_str(self.0)
        } else {
            write!(f, "\"{}\"", self.0.replace('"', "\"\""))
        }
    }
}
