//! Types: OIDs, modifiers, names, Arrow fields, and every spelling.
//!
//! Invariant: each form that is meant to be read back gives the same type, for random types too.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow_schema::{DataType, Field, TimeUnit};
use thalweg_catalog::{SqlType, TYPE_DEPTH_MAX};
use thalweg_sql::ast;

use crate::random::{Random, seed};

/// A random type that nests at most `depth` levels.
pub(crate) fn random_type(random: &mut Random, depth: usize) -> SqlType {
    let names = ["a", "B c", "q\"uote", "", "naïve", "x,y", "1st"];
    match random.below(if depth == 0 { 24 } else { 28 }) {
        0 => SqlType::Bool,
        1 => SqlType::Int2,
        2 => SqlType::Int4,
        3 => SqlType::Int8,
        4 => SqlType::Float4,
        5 => SqlType::Float8,
        6 => SqlType::NUMERIC,
        7 => SqlType::Numeric {
            declared: None,
            held_scale: random.below(39) as i8,
        },
        8 => {
            let precision = 1 + random.below(38) as u8;
            SqlType::numeric(precision, random.below(usize::from(precision) + 1) as i8)
        }
        9 => SqlType::Text,
        10 => SqlType::Varchar(None),
        11 => SqlType::Varchar(Some(1 + random.below(10_485_760) as u32)),
        12 => SqlType::Char(1 + random.below(10_485_760) as u32),
        13 => SqlType::Bytea,
        14 => SqlType::Date,
        15 => SqlType::Time,
        16 => SqlType::Timestamp,
        17 => SqlType::Timestamptz,
        18 => SqlType::Interval,
        19 => SqlType::Uuid,
        20 => SqlType::Json,
        21 => SqlType::Jsonb,
        22 => [
            SqlType::Oid,
            SqlType::Name,
            SqlType::InternalChar,
            SqlType::Unknown,
        ][random.below(4)]
        .clone(),
        23 => SqlType::Reg(["regclass", "regtype", "regproc"][random.below(3)].to_owned()),
        24 | 25 => SqlType::Array(Box::new(random_type(random, depth - 1))),
        _ => {
            let count = random.below(4);
            let fields = names
                .iter()
                .cycle()
                .skip(random.below(names.len()))
                .take(count);
            SqlType::Struct(
                fields
                    .map(|name| ((*name).to_owned(), random_type(random, depth - 1)))
                    .collect(),
            )
        }
    }
}

fn from_sql(text: &str) -> Result<SqlType, thalweg_catalog::CatalogError> {
    match thalweg_sql::parse_expr(&format!("CAST(NULL AS {text})")) {
        Ok(ast::Expr::Cast { data_type, .. }) => SqlType::from_ast(&data_type),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn fields_and_compact_text_round_trip() {
    let seed = seed();
    let mut random = Random::new(seed);
    for _ in 0..5_000 {
        let ty = random_type(&mut random, 3);
        let nullable = random.below(2) == 0;
        let field = ty.field("name", nullable);
        assert_eq!(SqlType::from_field(&field), ty, "seed {seed}, {field:?}");
        assert_eq!(
            (field.name().as_str(), field.is_nullable()),
            ("name", nullable)
        );
        assert_eq!(field.data_type(), &ty.arrow());
        assert_eq!(
            SqlType::parse_compact(&ty.compact()).as_ref(),
            Some(&ty),
            "seed {seed}"
        );
        // Equal Arrow types must compare equal whatever SQL types they hold.
        assert!(
            !format!("{:?}", field.data_type()).contains("thalweg.type"),
            "{field:?}"
        );
        if let SqlType::Array(element) = &ty {
            assert_eq!(ty.oid(), element.array_oid());
        } else if let Some(back) = SqlType::from_oid(ty.oid(), ty.typmod()) {
            let plain = !matches!(
                ty,
                SqlType::Struct(_) | SqlType::Numeric { declared: None, .. }
            );
            assert!(!plain || back == ty, "seed {seed}: {ty:?} {back:?}");
        } else {
            panic!("{ty:?} has no OID");
        }
    }
}

#[test]
fn compact_text_that_is_not_one_is_refused() {
    for text in [
        "",
        "int",
        "[]",
        "struct<",
        "struct<a int4",
        "numeric(",
        "numeric(10",
        "numeric(10,2",
        "varchar(x)",
        "numeric:",
        "int4]",
        "int4[]x",
        "struct<\"a int4>",
        "numeric(999,2)",
        "INT4",
    ] {
        let known = ["int"];
        assert_eq!(
            SqlType::parse_compact(text).is_some(),
            known.contains(&text),
            "{text:?}"
        );
    }
    let deep = "struct<a ".repeat(100_000);
    assert_eq!(SqlType::parse_compact(&deep), None);
    assert_eq!(
        SqlType::parse_compact(&format!("int4{}", "[]".repeat(100_000))),
        None
    );
}

#[test]
fn a_tag_that_does_not_fit_is_ignored() {
    let tagged = SqlType::Varchar(Some(5)).field("c", true);
    let cast = Field::new("c", DataType::Int32, true).with_metadata(tagged.metadata().clone());
    assert_eq!(SqlType::from_field(&cast), SqlType::Int4);
    let encoded = Field::new("c", DataType::Utf8, true).with_metadata(tagged.metadata().clone());
    assert_eq!(SqlType::from_field(&encoded), SqlType::Varchar(Some(5)));
    let wider = Field::new("c", DataType::Decimal128(20, 2), true)
        .with_metadata(SqlType::numeric(10, 2).metadata());
    assert_eq!(
        SqlType::from_field(&wider),
        SqlType::Numeric {
            declared: None,
            held_scale: 2
        }
    );
}

#[test]
fn arrow_types_without_a_tag() {
    let list = |ty| DataType::List(Arc::new(Field::new("item", ty, true)));
    for (arrow, expected) in [
        (DataType::Null, "unknown"),
        (DataType::Int8, "smallint"),
        (DataType::UInt8, "integer"),
        (DataType::UInt16, "integer"),
        (DataType::UInt32, "bigint"),
        (DataType::UInt64, "numeric"),
        (DataType::Float16, "real"),
        (DataType::LargeUtf8, "text"),
        (DataType::BinaryView, "bytea"),
        (DataType::FixedSizeBinary(4), "bytea"),
        (DataType::FixedSizeBinary(16), "uuid"),
        (
            DataType::Timestamp(TimeUnit::Nanosecond, None),
            "timestamp without time zone",
        ),
        (
            DataType::Timestamp(TimeUnit::Second, Some("+01:00".into())),
            "timestamp with time zone",
        ),
        (
            DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
            "text",
        ),
        (list(DataType::Utf8), "text[]"),
        (
            DataType::Struct(vec![Field::new("A", DataType::Int64, true)].into()),
            "STRUCT<\"A\" bigint>",
        ),
    ] {
        assert_eq!(
            SqlType::from_field(&Field::new("x", arrow.clone(), true)).to_string(),
            expected,
            "{arrow}"
        );
    }
}

#[test]
fn oids_are_those_of_postgres() {
    for (text, oid, array, typmod, length) in [
        ("boolean", 16, 1000, -1, 1),
        ("bytea", 17, 1001, -1, -1),
        ("\"char\"", 18, 1002, -1, 1),
        ("name", 19, 1003, -1, 64),
        ("bigint", 20, 1016, -1, 8),
        ("smallint", 21, 1005, -1, 2),
        ("integer", 23, 1007, -1, 4),
        ("text", 25, 1009, -1, -1),
        ("oid", 26, 1028, -1, 4),
        ("json", 114, 199, -1, -1),
        ("real", 700, 1021, -1, 4),
        ("double precision", 701, 1022, -1, 8),
        ("character(3)", 1042, 1014, 7, -1),
        ("character varying(20)", 1043, 1015, 24, -1),
        ("character varying", 1043, 1015, -1, -1),
        ("date", 1082, 1182, -1, 4),
        ("time without time zone", 1083, 1183, -1, 8),
        ("timestamp without time zone", 1114, 1115, -1, 8),
        ("timestamp with time zone", 1184, 1185, -1, 8),
        ("interval", 1186, 1187, -1, 16),
        ("numeric", 1700, 1231, -1, -1),
        ("numeric(10,2)", 1700, 1231, 655_366, -1),
        ("uuid", 2950, 2951, -1, 16),
        ("jsonb", 3802, 3807, -1, -1),
        ("regclass", 2205, 2210, -1, 4),
        ("regtype", 2206, 2211, -1, 4),
    ] {
        let ty = from_sql(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(ty.to_string(), text, "prints as it is spelt");
        assert_eq!(
            (ty.oid(), ty.array_oid(), ty.typmod(), ty.typlen()),
            (oid, array, typmod, length),
            "{text}"
        );
        assert_eq!(SqlType::from_oid(oid, typmod), Some(ty.clone()), "{text}");
        let over = SqlType::Array(Box::new(ty.clone()));
        assert_eq!((over.oid(), over.typmod()), (array, typmod), "{text}[]");
        assert_eq!(
            SqlType::from_oid(array, typmod),
            Some(over.clone()),
            "{text}[]"
        );
        assert_eq!(over.typname(), format!("_{}", ty.typname()));
        assert_eq!(from_sql(&format!("{text}[]")).expect("an array"), over);
    }
    assert_eq!(SqlType::parse_oid(1), None);
    assert_eq!(SqlType::parse_oid(1043), Some(SqlType::Varchar(None)));
    assert_eq!(SqlType::parse_oid(1042), Some(SqlType::Text));
    for typmod in [i32::MIN, -5, 0, 3, 4, i32::MAX] {
        for oid in [1042, 1043, 1700, 1231] {
            assert!(SqlType::from_oid(oid, typmod).is_some(), "{oid} {typmod}");
        }
    }
}

#[test]
fn every_spelling() {
    for (text, expected) in [
        ("int", "integer"),
        ("INT4", "integer"),
        ("int2", "smallint"),
        ("int8", "bigint"),
        ("bool", "boolean"),
        ("float", "double precision"),
        ("float8", "double precision"),
        ("float4", "real"),
        ("float(10)", "real"),
        ("float(30)", "double precision"),
        ("double", "double precision"),
        ("decimal", "numeric"),
        ("dec(5)", "numeric(5,0)"),
        ("decimal(38,38)", "numeric(38,38)"),
        ("string", "text"),
        ("varchar", "character varying"),
        ("char varying(4)", "character varying(4)"),
        ("char", "character(1)"),
        ("char(9)", "character(9)"),
        ("timestamptz", "timestamp with time zone"),
        ("timestamp(6)", "timestamp without time zone"),
        ("timestamp with time zone", "timestamp with time zone"),
        ("time", "time without time zone"),
        ("bpchar", "text"),
        ("pg_catalog.int4", "integer"),
        ("pg_catalog.regclass", "regclass"),
        ("regproc", "regproc"),
        ("int[]", "integer[]"),
        ("int[3][]", "integer[][]"),
        ("numeric(3,1)[]", "numeric(3,1)[]"),
    ] {
        let ty = from_sql(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(ty.to_string(), expected, "{text}");
    }
    for (text, sqlstate, message) in [
        ("txet", "42704", "type \"txet\" does not exist"),
        ("other.int4", "42704", "type \"other.int4\" does not exist"),
        ("money", "0A000", "type money is not built yet"),
        ("serial", "0A000", "type serial is not built yet"),
        (
            "time with time zone",
            "0A000",
            "type time with time zone is not built yet",
        ),
        ("timestamp(3)", "0A000", "timestamp(3) is not built yet"),
        (
            "varchar(0)",
            "22023",
            "length for type varchar must be at least 1",
        ),
        (
            "varchar(99999999)",
            "22023",
            "length for type varchar cannot exceed 10485760",
        ),
        (
            "numeric(0)",
            "22023",
            "NUMERIC precision 0 must be between 1 and 38",
        ),
        (
            "numeric(39,2)",
            "22023",
            "NUMERIC precision 39 must be between 1 and 38",
        ),
        (
            "numeric(3,4)",
            "22023",
            "NUMERIC scale 4 must be between 0 and precision 3",
        ),
        (
            "int4(3)",
            "42601",
            "type modifier is not allowed for type \"int4\"",
        ),
        (
            "float(0)",
            "22023",
            "precision for type float must be at least 1 bit",
        ),
        (
            "float(54)",
            "22023",
            "precision for type float must be less than 54 bits",
        ),
    ] {
        let report = from_sql(text).expect_err(text).report();
        assert_eq!(
            (report.sqlstate, report.message.as_str()),
            (sqlstate, message),
            "{text}"
        );
    }
    assert_eq!(
        from_sql("txet")
            .expect_err("unknown")
            .report()
            .hint
            .as_deref(),
        Some("Perhaps you meant \"text\".")
    );
}

#[test]
fn structs_have_named_fields() {
    let field = |name: Option<ast::Ident>, field_type| ast::StructField {
        field_name: name,
        field_type,
        options: None,
    };
    let structure = |fields| {
        SqlType::from_ast(&ast::DataType::Struct(
            fields,
            ast::StructBracketKind::AngleBrackets,
        ))
    };
    let a = || Some(ast::Ident::new("A"));
    let b = Some(ast::Ident::with_quote('"', "B"));
    let ty = structure(vec![
        field(a(), ast::DataType::Int(None)),
        field(b, ast::DataType::Text),
    ]);
    assert_eq!(
        ty.expect("a struct").to_string(),
        "STRUCT<a integer, \"B\" text>"
    );
    let twice = vec![
        field(a(), ast::DataType::Text),
        field(a(), ast::DataType::Text),
    ];
    assert_eq!(structure(twice).expect_err("twice").sqlstate(), "42701");
    let unnamed = vec![field(None, ast::DataType::Text)];
    assert_eq!(structure(unnamed).expect_err("no name").sqlstate(), "42601");
}

#[test]
fn nesting_has_a_limit() {
    let mut ty = ast::DataType::Bool;
    for _ in 0..TYPE_DEPTH_MAX - 1 {
        ty = ast::DataType::Array(ast::ArrayElemTypeDef::SquareBracket(Box::new(ty), None));
    }
    assert!(SqlType::from_ast(&ty).is_ok());
    ty = ast::DataType::Array(ast::ArrayElemTypeDef::AngleBracket(Box::new(ty)));
    assert_eq!(
        SqlType::from_ast(&ty).expect_err("too deep").sqlstate(),
        "54000"
    );
}

#[test]
fn types_over_json_keep_their_depth() {
    let mut ty = SqlType::Int4;
    for _ in 0..TYPE_DEPTH_MAX {
        ty = SqlType::Struct(vec![("a".to_owned(), ty)]);
    }
    let text = serde_json::to_string(&ty).expect("types serialise");
    assert_eq!(
        serde_json::from_str::<SqlType>(&text).expect("within the reader's depth"),
        ty
    );
}

#[test]
fn no_two_types_share_an_oid() {
    let mut random = Random::new(1);
    let mut seen = BTreeSet::new();
    for _ in 0..2_000 {
        let ty = random_type(&mut random, 0);
        seen.insert((ty.oid(), ty.array_oid(), ty.typname()));
    }
    let oids: BTreeSet<u32> = seen.iter().map(|(oid, _, _)| *oid).collect();
    assert_eq!(oids.len(), seen.len(), "{seen:?}");
}
