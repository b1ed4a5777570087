//! SQL types from what users write, and from the compact text kept in field metadata.
//!
//! Invariant: a type made here nests at most [`TYPE_DEPTH_MAX`] levels and holds only modifiers its Arrow type can carry.

use thalweg_sql::ast;

use crate::error::{CatalogError, bounded};
use crate::types::{
    CHARACTER_LENGTH_MAX, NUMERIC_BARE_SCALE, NUMERIC_PRECISION_MAX, QuotedName, REG_TYPES,
    SCALARS, SqlType, TYPE_DEPTH_MAX,
};

/// Postgres types that exist there and are not held here yet.
const UNBUILT: &[&str] = &[
    "bit",
    "varbit",
    "money",
    "inet",
    "cidr",
    "macaddr",
    "macaddr8",
    "xml",
    "point",
    "line",
    "lseg",
    "box",
    "path",
    "polygon",
    "circle",
    "tsvector",
    "tsquery",
    "timetz",
    "serial",
    "serial4",
    "bigserial",
    "serial8",
    "smallserial",
    "serial2",
    "hstore",
    "geometry",
    "int4range",
    "int8range",
    "numrange",
    "tsrange",
    "tstzrange",
    "daterange",
    "xid",
    "tid",
];

impl SqlType {
    /// The type a definition or cast names.
    ///
    /// # Errors
    /// 42704 for a name that is no type, 0A000 for a Postgres type that is not held yet, 22023 and 42601 for modifiers a type
    /// cannot have.
    pub fn from_ast(written: &ast::DataType) -> Result<SqlType, CatalogError> {
        from_ast_at(written, 0)
    }

    /// The type of this name without modifiers, for example `int4`, `double precision`, `regclass`. Names are lower case.
    pub fn from_name(name: &str) -> Option<SqlType> {
        let ty = match name {
            "boolean" => SqlType::Bool,
            "smallint" => SqlType::Int2,
            "integer" | "int" => SqlType::Int4,
            "bigint" => SqlType::Int8,
            "real" => SqlType::Float4,
            "double precision" | "float" | "double" => SqlType::Float8,
            "numeric" | "decimal" | "dec" => SqlType::NUMERIC,
            "string" => SqlType::Text,
            "varchar" | "character varying" => SqlType::Varchar(None),
            "bpchar" => SqlType::Text,
            "character" => SqlType::Char(1),
            "time without time zone" => SqlType::Time,
            "timestamp without time zone" => SqlType::Timestamp,
            "timestamp with time zone" => SqlType::Timestamptz,
            // The scalar called char is the internal one; char(n) is spelled character in SQL and never gets here.
            "char" | "\"char\"" => SqlType::InternalChar,
            _ => {
                if let Some(ty) = SCALARS.iter().find(|ty| ty.typname() == name) {
                    return Some(ty.clone());
                }
                let entry = REG_TYPES.iter().find(|entry| entry.0 == name)?;
                SqlType::Reg(entry.0.to_owned())
            }
        };
        Some(ty)
    }
}

fn from_ast_at(written: &ast::DataType, depth: usize) -> Result<SqlType, CatalogError> {
    use ast::DataType as Ast;
    if depth >= TYPE_DEPTH_MAX {
        return Err(CatalogError::Limit(format!(
            "type nests deeper than {TYPE_DEPTH_MAX} levels"
        )));
    }
    let ty = match written {
        Ast::Bool | Ast::Boolean => SqlType::Bool,
        Ast::SmallInt(width) | Ast::Int2(width) => plain(SqlType::Int2, *width)?,
        Ast::Int16 => SqlType::Int2,
        Ast::Int(width) | Ast::Integer(width) | Ast::Int4(width) => plain(SqlType::Int4, *width)?,
        Ast::Int32 => SqlType::Int4,
        Ast::BigInt(width) | Ast::Int8(width) => plain(SqlType::Int8, *width)?,
        Ast::Int64 => SqlType::Int8,
        Ast::Real | Ast::Float4 | Ast::Float32 => SqlType::Float4,
        Ast::DoublePrecision
        | Ast::Float8
        | Ast::Float64
        | Ast::Double(ast::ExactNumberInfo::None) => SqlType::Float8,
        Ast::Float(info) => float(info)?,
        Ast::Numeric(info) | Ast::Decimal(info) | Ast::Dec(info) => numeric(info)?,
        Ast::Text | Ast::String(None) => SqlType::Text,
        Ast::Varchar(length)
        | Ast::CharacterVarying(length)
        | Ast::CharVarying(length)
        | Ast::Nvarchar(length) => SqlType::Varchar(character_length("varchar", length.as_ref())?),
        Ast::Char(length) | Ast::Character(length) => {
            SqlType::Char(character_length("char", length.as_ref())?.unwrap_or(1))
        }
        Ast::Bytea | Ast::Bytes(None) => SqlType::Bytea,
        Ast::Date => SqlType::Date,
        Ast::Time(precision, zone) => match zone {
            ast::TimezoneInfo::WithTimeZone | ast::TimezoneInfo::Tz => {
                return Err(unbuilt_type("time with time zone"));
            }
            _ => temporal(SqlType::Time, *precision)?,
        },
        Ast::Timestamp(precision, zone) => match zone {
            ast::TimezoneInfo::WithTimeZone | ast::TimezoneInfo::Tz => {
                temporal(SqlType::Timestamptz, *precision)?
            }
            _ => temporal(SqlType::Timestamp, *precision)?,
        },
        Ast::TimestampNtz(precision) => temporal(SqlType::Timestamp, *precision)?,
        Ast::Interval {
            fields: None,
            precision,
        } => temporal(SqlType::Interval, *precision)?,
        Ast::Interval { .. } => return Err(unbuilt_type(&written.to_string())),
        Ast::Uuid => SqlType::Uuid,
        Ast::JSON => SqlType::Json,
        Ast::JSONB => SqlType::Jsonb,
        Ast::Regclass => SqlType::Reg("regclass".to_owned()),
        Ast::Custom(name, modifiers) => custom(name, modifiers)?,
        Ast::Array(
            ast::ArrayElemTypeDef::AngleBracket(element)
            | ast::ArrayElemTypeDef::SquareBracket(element, _)
            | ast::ArrayElemTypeDef::Parenthesis(element),
        ) => SqlType::Array(Box::new(from_ast_at(element, depth + 1)?)),
        Ast::Struct(fields, _) => structure(fields, depth)?,
        Ast::Bit(_)
        | Ast::BitVarying(_)
        | Ast::VarBit(_)
        | Ast::TsVector
        | Ast::TsQuery
        | Ast::GeometricType(_)
        | Ast::Map(_, _) => return Err(unbuilt_type(&written.to_string())),
        other => return Err(undefined_type(&other.to_string())),
    };
    Ok(ty)
}

/// A type that takes no modifier.
fn plain(ty: SqlType, modifier: Option<u64>) -> Result<SqlType, CatalogError> {
    match modifier {
        None => Ok(ty),
        Some(_) => Err(CatalogError::Syntax(format!(
            "type modifier is not allowed for type \"{}\"",
            ty.typname()
        ))),
    }
}

/// A type held in microseconds. A coarser precision would have to round every value, which nothing does yet.
fn temporal(ty: SqlType, precision: Option<u64>) -> Result<SqlType, CatalogError> {
    match precision {
        None | Some(6) => Ok(ty),
        Some(digits) if digits < 6 => Err(CatalogError::not_built(
            format!("{}({digits}) is", ty.typname()),
            Some(&format!("Use {}; values keep microseconds.", ty.typname())),
        )),
        Some(digits) => Err(CatalogError::invalid(format!(
            "{}({digits}) precision must be between 0 and 6",
            ty.typname()
        ))),
    }
}

fn float(info: &ast::ExactNumberInfo) -> Result<SqlType, CatalogError> {
    match info {
        ast::ExactNumberInfo::None | ast::ExactNumberInfo::Precision(25..=53) => {
            Ok(SqlType::Float8)
        }
        ast::ExactNumberInfo::Precision(1..=24) => Ok(SqlType::Float4),
        ast::ExactNumberInfo::Precision(0) => Err(CatalogError::invalid(
            "precision for type float must be at least 1 bit",
        )),
        ast::ExactNumberInfo::Precision(_) => Err(CatalogError::invalid(
            "precision for type float must be less than 54 bits",
        )),
        ast::ExactNumberInfo::PrecisionAndScale(_, _) => Err(CatalogError::Syntax(
            "type float takes one modifier".to_owned(),
        )),
    }
}

fn numeric(info: &ast::ExactNumberInfo) -> Result<SqlType, CatalogError> {
    let (precision, scale) = match info {
        ast::ExactNumberInfo::None => return Ok(SqlType::NUMERIC),
        ast::ExactNumberInfo::Precision(precision) => (*precision, 0),
        ast::ExactNumberInfo::PrecisionAndScale(precision, scale) => (*precision, *scale),
    };
    let precision = u8::try_from(precision)
        .ok()
        .filter(|precision| (1..=NUMERIC_PRECISION_MAX).contains(precision))
        .ok_or_else(|| CatalogError::InvalidValue {
            message: format!(
                "NUMERIC precision {precision} must be between 1 and {NUMERIC_PRECISION_MAX}"
            ),
            detail: None,
            hint: Some("Use double precision for values beyond 38 digits.".to_owned()),
        })?;
    let scale = i8::try_from(scale)
        .ok()
        .filter(|scale| *scale >= 0 && scale.unsigned_abs() <= precision)
        .ok_or_else(|| {
            CatalogError::invalid(format!(
                "NUMERIC scale {scale} must be between 0 and precision {precision}"
            ))
        })?;
    Ok(SqlType::numeric(precision, scale))
}

fn character_length(
    name: &str,
    length: Option<&ast::CharacterLength>,
) -> Result<Option<u32>, CatalogError> {
    let length = match length {
        None | Some(ast::CharacterLength::Max) => return Ok(None),
        Some(ast::CharacterLength::IntegerLength { length, .. }) => *length,
    };
    if length == 0 {
        return Err(CatalogError::invalid(format!(
            "length for type {name} must be at least 1"
        )));
    }
    match u32::try_from(length) {
        Ok(short) if length <= CHARACTER_LENGTH_MAX => Ok(Some(short)),
        _ => Err(CatalogError::invalid(format!(
            "length for type {name} cannot exceed {CHARACTER_LENGTH_MAX}"
        ))),
    }
}

fn custom(name: &ast::ObjectName, modifiers: &[String]) -> Result<SqlType, CatalogError> {
    let parts: Vec<&ast::Ident> = name.0.iter().filter_map(|part| part.as_ident()).collect();
    let ident = match parts.as_slice() {
        [only] => *only,
        [schema, only] if schema.value.eq_ignore_ascii_case("pg_catalog") => *only,
        _ => return Err(undefined_type(&name.to_string())),
    };
    let written = if ident.quote_style.is_some() {
        ident.value.clone()
    } else {
        ident.value.to_lowercase()
    };
    if UNBUILT.contains(&written.as_str()) {
        return Err(unbuilt_type(&written));
    }
    match (SqlType::from_name(&written), modifiers) {
        (Some(ty), []) => Ok(ty),
        (Some(SqlType::Varchar(_)), [length]) => {
            Ok(SqlType::Varchar(custom_length("varchar", length)?))
        }
        (Some(SqlType::Text), [length]) if written == "bpchar" => {
            Ok(custom_length("char", length)?.map_or(SqlType::Text, SqlType::Char))
        }
        (Some(ty), _) => Err(CatalogError::Syntax(format!(
            "type modifier is not allowed for type \"{}\"",
            ty.typname()
        ))),
        (None, _) => Err(undefined_type(&written)),
    }
}

fn custom_length(name: &str, written: &str) -> Result<Option<u32>, CatalogError> {
    let length = written
        .parse::<u64>()
        .map_err(|_| CatalogError::Syntax(format!("type modifier of {name} must be a number")))?;
    let length = ast::CharacterLength::IntegerLength { length, unit: None };
    character_length(name, Some(&length))
}

fn structure(fields: &[ast::StructField], depth: usize) -> Result<SqlType, CatalogError> {
    let mut named: Vec<(String, SqlType)> = Vec::with_capacity(fields.len());
    for field in fields {
        let Some(ident) = &field.field_name else {
            return Err(CatalogError::Syntax(
                "a STRUCT field needs a name".to_owned(),
            ));
        };
        let name = if ident.quote_style.is_some() {
            ident.value.clone()
        } else {
            ident.value.to_lowercase()
        };
        if named.iter().any(|(existing, _)| *existing == name) {
            return Err(CatalogError::DuplicateColumn(name));
        }
        named.push((name, from_ast_at(&field.field_type, depth + 1)?));
    }
    Ok(SqlType::Struct(named))
}

fn unbuilt_type(name: &str) -> CatalogError {
    let name = name.to_lowercase();
    let hint = match name.as_str() {
        "money" => Some("Use numeric."),
        "inet" | "cidr" | "macaddr" | "xml" => Some("Use text."),
        "map" => Some("Use jsonb."),
        _ if name.contains("serial") => {
            Some("Use bigint; a table without a primary key gets a hidden row id.")
        }
        _ => None,
    };
    CatalogError::not_built(format!("type {} is", bounded(&name)), hint)
}

fn undefined_type(name: &str) -> CatalogError {
    let name = name.to_lowercase();
    let known = [
        "boolean",
        "smallint",
        "integer",
        "bigint",
        "real",
        "double precision",
        "numeric",
        "text",
        "varchar",
        "char",
        "bytea",
        "date",
        "time",
        "timestamp",
        "timestamptz",
        "interval",
        "uuid",
        "json",
        "jsonb",
        "oid",
        "name",
        "regclass",
        "regtype",
    ];
    CatalogError::UndefinedType {
        nearest: thalweg_sql::suggest(&name, known),
        name: bounded(&name),
    }
}

impl SqlType {
    /// One-line text that [`SqlType::parse_compact`] reads back to an equal type, unlike `Display`, which is Postgres'.
    pub fn compact(&self) -> String {
        match self {
            SqlType::Numeric {
                declared: Some((precision, scale)),
                ..
            } => format!("numeric({precision},{scale})"),
            SqlType::Numeric {
                declared: None,
                held_scale,
            } => format!("numeric:{held_scale}"),
            SqlType::Varchar(Some(length)) => format!("varchar({length})"),
            SqlType::Char(length) => format!("bpchar({length})"),
            SqlType::Array(element) => format!("{}[]", element.compact()),
            SqlType::Struct(fields) => {
                let fields: Vec<String> = fields
                    .iter()
                    .map(|(name, ty)| format!("{} {}", QuotedName(name), ty.compact()))
                    .collect();
                format!("struct<{}>", fields.join(","))
            }
            other => other.typname(),
        }
    }

    /// Reads [`SqlType::compact`]; `None` for any other text.
    pub fn parse_compact(text: &str) -> Option<SqlType> {
        let mut rest = text;
        let ty = compact_type(&mut rest, 0)?;
        rest.is_empty().then_some(ty)
    }
}

fn compact_type(rest: &mut &str, depth: usize) -> Option<SqlType> {
    // Twice the limit of declared types: query results nest a little deeper than columns.
    if depth > 2 * TYPE_DEPTH_MAX {
        return None;
    }
    let word_end = rest
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(rest.len());
    let (word, tail) = rest.split_at_checked(word_end)?;
    *rest = tail;
    let mut ty = match word {
        "struct" => compact_struct(rest, depth)?,
        "numeric" if eat(rest, "(") => {
            let precision = integer(rest)?;
            let scale = if eat(rest, ",") {
                integer(rest)?
            } else {
                return None;
            };
            if !eat(rest, ")") {
                return None;
            }
            SqlType::numeric(u8::try_from(precision).ok()?, i8::try_from(scale).ok()?)
        }
        "numeric" if eat(rest, ":") => SqlType::Numeric {
            declared: None,
            held_scale: i8::try_from(integer(rest)?).ok()?,
        },
        "numeric" => SqlType::Numeric {
            declared: None,
            held_scale: NUMERIC_BARE_SCALE,
        },
        "varchar" | "bpchar" if eat(rest, "(") => {
            let length = u32::try_from(integer(rest)?).ok()?;
            if !eat(rest, ")") {
                return None;
            }
            if word == "varchar" {
                SqlType::Varchar(Some(length))
            } else {
                SqlType::Char(length)
            }
        }
        name => SqlType::from_name(name)?,
    };
    let mut levels = depth;
    while eat(rest, "[]") {
        levels += 1;
        if levels > 2 * TYPE_DEPTH_MAX {
            return None;
        }
        ty = SqlType::Array(Box::new(ty));
    }
    Some(ty)
}

fn compact_struct(rest: &mut &str, depth: usize) -> Option<SqlType> {
    if !eat(rest, "<") {
        return None;
    }
    let mut fields = Vec::new();
    if eat(rest, ">") {
        return Some(SqlType::Struct(fields));
    }
    loop {
        let name = compact_name(rest)?;
        if !eat(rest, " ") {
            return None;
        }
        fields.push((name, compact_type(rest, depth + 1)?));
        if eat(rest, ">") {
            return Some(SqlType::Struct(fields));
        }
        if !eat(rest, ",") {
            return None;
        }
    }
}

fn compact_name(rest: &mut &str) -> Option<String> {
    if !eat(rest, "\"") {
        let (name, tail) = rest.split_at_checked(rest.find(' ')?)?;
        *rest = tail;
        return Some(name.to_owned());
    }
    let mut name = String::new();
    loop {
        let (part, tail) = rest.split_at_checked(rest.find('"')?)?;
        name.push_str(part);
        *rest = tail;
        if eat(rest, "\"\"") {
            name.push('"');
        } else {
            return eat(rest, "\"").then_some(name);
        }
    }
}

fn eat(rest: &mut &str, token: &str) -> bool {
    match rest.strip_prefix(token) {
        Some(tail) => {
            *rest = tail;
            true
        }
        None => false,
    }
}

fn integer(rest: &mut &str) -> Option<i64> {
    let end = rest
        .find(|c: char| !c.is_ascii_digit() && c != '-')
        .unwrap_or(rest.len());
    let (digits, tail) = rest.split_at_checked(end)?;
    *rest = tail;
    digits.parse().ok()
}
