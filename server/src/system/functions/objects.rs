//! Functions about catalog objects: definitions, visibility, comments, privileges, sizes, and the reg* conversions.
//!
//! Invariant: definitions are the catalog's canonical text; they read back as the same object.

use datafusion::common::Result;
use thalweg_catalog::SqlType;

use super::super::names::{fixed_name, quote_ident};
use super::super::pg_catalog::{constraint_definition, description, index_definition, view_query};
use super::super::shape;
use super::super::value::Cell;
use super::super::{OWNER_OID, SystemFacts};
use super::{Arguments, Definition, Returns, define, failed};

pub(super) const FUNCTIONS: &[Definition] = &[
    define("format_type", Returns::Text, |arguments| {
        let typmod = arguments
            .int(1)
            .and_then(|typmod| i32::try_from(typmod).ok());
        Ok(arguments
            .oid(0)
            .map(|oid| arguments.facts.type_text(oid, typmod))
            .into())
    }),
    define("pg_get_expr", Returns::Text, |arguments| {
        Ok(arguments.text(0).into())
    }),
    define("pg_get_viewdef", Returns::Text, view_definition),
    define("pg_get_indexdef", Returns::Text, |arguments| {
        let column = arguments
            .int(1)
            .filter(|column| *column > 0)
            .and_then(|column| usize::try_from(column - 1).ok());
        let owner = arguments
            .oid(0)
            .and_then(|oid| arguments.facts.index_owner(oid));
        Ok(owner
            .and_then(|relation| index_definition(arguments.facts, relation, column))
            .into())
    }),
    define("pg_get_constraintdef", Returns::Text, |arguments| {
        Ok(arguments
            .oid(0)
            .and_then(|oid| constraint_definition(arguments.facts, oid))
            .into())
    }),
    define("pg_get_userbyid", Returns::Name, |arguments| {
        Ok(arguments
            .oid(0)
            .map(|oid| {
                arguments
                    .facts
                    .role_name(oid)
                    .map_or_else(|| format!("unknown (OID={oid})"), str::to_owned)
            })
            .into())
    }),
    define("pg_get_function_result", Returns::Text, |arguments| {
        let result = arguments
            .oid(0)
            .and_then(|oid| procedure_cell(oid, "prorettype"));
        Ok(match result {
            Some(Cell::Int(oid)) => u32::try_from(oid)
                .ok()
                .map(|oid| arguments.facts.type_text(oid, None))
                .into(),
            _ => Cell::Null,
        })
    }),
    define(
        "pg_get_function_arguments",
        Returns::Text,
        function_arguments,
    ),
    define(
        "pg_get_function_identity_arguments",
        Returns::Text,
        function_arguments,
    ),
    define("pg_get_functiondef", Returns::Text, nothing),
    define("pg_get_function_sqlbody", Returns::Text, nothing),
    define("pg_get_function_arg_default", Returns::Text, nothing),
    define("pg_get_ruledef", Returns::Text, nothing),
    define("pg_get_triggerdef", Returns::Text, nothing),
    define("pg_get_serial_sequence", Returns::Text, nothing),
    define("pg_get_statisticsobjdef", Returns::Text, nothing),
    define("pg_get_statisticsobjdef_columns", Returns::Text, nothing),
    define("pg_get_partkeydef", Returns::Text, nothing),
    define("pg_get_partition_constraintdef", Returns::Text, nothing),
    define("pg_partition_root", Returns::Oid, nothing),
    define("pg_table_is_visible", Returns::Bool, |arguments| {
        let class = arguments.oid(0).and_then(|oid| arguments.facts.class(oid));
        Ok(class.map(|class| arguments.facts.is_visible(class)).into())
    }),
    define("pg_type_is_visible", Returns::Bool, type_is_visible),
    define("pg_function_is_visible", Returns::Bool, always),
    define("pg_operator_is_visible", Returns::Bool, always),
    define("pg_collation_is_visible", Returns::Bool, always),
    define("pg_opclass_is_visible", Returns::Bool, always),
    define("pg_opfamily_is_visible", Returns::Bool, always),
    define("pg_conversion_is_visible", Returns::Bool, always),
    define("pg_statistics_obj_is_visible", Returns::Bool, always),
    define("pg_ts_config_is_visible", Returns::Bool, always),
    define("pg_ts_dict_is_visible", Returns::Bool, always),
    define("pg_ts_parser_is_visible", Returns::Bool, always),
    define("pg_ts_template_is_visible", Returns::Bool, always),
    define("obj_description", Returns::Text, |arguments| {
        let class = arguments.text(1).unwrap_or_else(|| "pg_class".to_owned());
        if class != "pg_class" {
            return Ok(Cell::Null);
        }
        let relation = arguments
            .oid(0)
            .and_then(|oid| arguments.facts.relation(oid));
        Ok(relation
            .and_then(|relation| description(arguments.facts, relation))
            .into())
    }),
    define("col_description", Returns::Text, nothing),
    define("shobj_description", Returns::Text, nothing),
    // Every role that can log in owns everything until privileges exist.
    define("has_table_privilege", Returns::Bool, always),
    define("has_any_column_privilege", Returns::Bool, always),
    define("has_column_privilege", Returns::Bool, always),
    define("has_schema_privilege", Returns::Bool, always),
    define("has_database_privilege", Returns::Bool, always),
    define("has_function_privilege", Returns::Bool, always),
    define("has_sequence_privilege", Returns::Bool, always),
    define("has_type_privilege", Returns::Bool, always),
    define("has_language_privilege", Returns::Bool, always),
    define("has_tablespace_privilege", Returns::Bool, always),
    define("has_foreign_data_wrapper_privilege", Returns::Bool, always),
    define("has_server_privilege", Returns::Bool, always),
    define("pg_has_role", Returns::Bool, always),
    // What an object takes on disk is not known per object.
    define("pg_table_size", Returns::Int8, nothing),
    define("pg_relation_size", Returns::Int8, nothing),
    define("pg_total_relation_size", Returns::Int8, nothing),
    define("pg_indexes_size", Returns::Int8, nothing),
    define("pg_database_size", Returns::Int8, nothing),
    define("pg_tablespace_size", Returns::Int8, nothing),
    define("pg_relation_filenode", Returns::Oid, |arguments| {
        Ok(arguments.oid(0).into())
    }),
    define("pg_relation_is_publishable", Returns::Bool, |_| {
        Ok(false.into())
    }),
    define("pg_relation_is_updatable", Returns::Int4, |_| Ok(0.into())),
    define(
        "pg_column_is_updatable",
        Returns::Bool,
        |_| Ok(false.into()),
    ),
    define("pg_index_column_has_property", Returns::Bool, |_| {
        Ok(true.into())
    }),
    define("pg_tablespace_location", Returns::Text, |_| Ok("".into())),
    define("pg_stat_get_numscans", Returns::Int8, |_| Ok(0.into())),
    define("pg_stat_get_live_tuples", Returns::Int8, nothing),
    define("to_regclass", Returns::Oid, |arguments| {
        Ok(arguments
            .text(0)
            .and_then(|name| arguments.facts.class_oid(&name))
            .into())
    }),
    define("to_regtype", Returns::Oid, |arguments| {
        Ok(arguments
            .text(0)
            .and_then(|name| arguments.facts.type_oid(&name))
            .into())
    }),
    define("to_regproc", Returns::Oid, |arguments| {
        Ok(arguments
            .text(0)
            .and_then(|name| SystemFacts::procedure_oid(&name))
            .into())
    }),
    define("to_regnamespace", Returns::Oid, |arguments| {
        Ok(arguments
            .text(0)
            .and_then(|name| arguments.facts.namespace_oid(&name))
            .into())
    }),
    define("to_regrole", Returns::Oid, |arguments| {
        Ok(arguments
            .text(0)
            .and_then(|name| arguments.facts.role_oid(&name))
            .into())
    }),
    define("thalweg_regclass", Returns::Oid, |arguments| {
        read(arguments, "42P01", "relation", SystemFacts::class_oid)
    }),
    define("thalweg_regtype", Returns::Oid, |arguments| {
        read(arguments, "42704", "type", SystemFacts::type_oid)
    }),
    define("thalweg_regproc", Returns::Oid, |arguments| {
        read(arguments, "42883", "function", |_, text| {
            SystemFacts::procedure_oid(text)
        })
    }),
    define("thalweg_regnamespace", Returns::Oid, |arguments| {
        read(arguments, "3F000", "schema", SystemFacts::namespace_oid)
    }),
    define("thalweg_regrole", Returns::Oid, |arguments| {
        read(arguments, "42704", "role", |facts, text| {
            text.trim().parse().ok().or_else(|| facts.role_oid(text))
        })
    }),
    define("thalweg_regclass_text", Returns::Text, |arguments| {
        print(arguments, SystemFacts::class_text)
    }),
    define("thalweg_regtype_text", Returns::Text, |arguments| {
        print(arguments, |facts, oid| {
            if oid == 0 {
                "-".to_owned()
            } else {
                facts.type_text(oid, None)
            }
        })
    }),
    define("thalweg_regproc_text", Returns::Text, |arguments| {
        print(arguments, |_, oid| SystemFacts::procedure_text(oid))
    }),
    define("thalweg_regnamespace_text", Returns::Text, |arguments| {
        print(arguments, SystemFacts::namespace_text)
    }),
    define("thalweg_regrole_text", Returns::Text, |arguments| {
        print(arguments, |facts, oid| {
            facts
                .role_name(oid)
                .map_or_else(|| oid.to_string(), quote_ident)
        })
    }),
];

fn nothing(_: &Arguments<'_>) -> Result<Cell> {
    Ok(Cell::Null)
}

fn always(arguments: &Arguments<'_>) -> Result<Cell> {
    Ok(if arguments.any_null() {
        Cell::Null
    } else {
        true.into()
    })
}

/// Reads a reg* input: an OID stays as it is, a name is looked up and must exist.
fn read(
    arguments: &Arguments<'_>,
    sqlstate: &'static str,
    kind: &str,
    find: fn(&SystemFacts, &str) -> Option<u32>,
) -> Result<Cell> {
    match arguments.values.first() {
        Some(Cell::Int(oid)) => Ok(Cell::Int(*oid)),
        Some(Cell::Text(text)) if text == "-" => Ok(0.into()),
        Some(Cell::Text(text)) => match find(arguments.facts, text) {
            Some(oid) => Ok(oid.into()),
            None => Err(failed(
                sqlstate,
                format!("{kind} \"{text}\" does not exist"),
            )),
        },
        _ => Ok(Cell::Null),
    }
}

/// Prints a reg* value; text is taken as already printed.
fn print(arguments: &Arguments<'_>, name: fn(&SystemFacts, u32) -> String) -> Result<Cell> {
    Ok(match arguments.values.first() {
        Some(Cell::Int(oid)) => u32::try_from(*oid)
            .ok()
            .map(|oid| name(arguments.facts, oid))
            .into(),
        Some(Cell::Text(text)) => text.into(),
        _ => Cell::Null,
    })
}

fn view_definition(arguments: &Arguments<'_>) -> Result<Cell> {
    let oid = match arguments.values.first() {
        Some(Cell::Int(oid)) => u32::try_from(*oid).ok(),
        Some(Cell::Text(name)) => match arguments.facts.class_oid(name) {
            Some(oid) => Some(oid),
            None => {
                return Err(failed(
                    "42P01",
                    format!("relation \"{name}\" does not exist"),
                ));
            }
        },
        _ => None,
    };
    let query = oid
        .and_then(|oid| arguments.facts.relation(oid))
        .and_then(view_query);
    // The leading space and the semicolon are Postgres'; psql's \sv cuts the latter off.
    Ok(query.map(|query| format!(" {query};")).into())
}

fn type_is_visible(arguments: &Arguments<'_>) -> Result<Cell> {
    let Some(oid) = arguments.oid(0) else {
        return Ok(Cell::Null);
    };
    let of_relation = arguments
        .facts
        .shown()
        .find(|(relation, _)| relation.row_type_oid.0 == oid || relation.array_type_oid.0 == oid);
    Ok(
        match of_relation.and_then(|(relation, _)| arguments.facts.class(relation.oid.0)) {
            Some(class) => arguments.facts.is_visible(class).into(),
            None => fixed_name("pg_type", "typname", oid).map(|_| true).into(),
        },
    )
}

fn procedure_cell(oid: u32, column: &str) -> Option<Cell> {
    let position = shape::table("pg_catalog", "pg_proc")?.position(column)?;
    let row = shape::fixed_rows("pg_proc")
        .iter()
        .find(|row| row.first() == Some(&Cell::from(oid)))?;
    row.get(position).cloned()
}

fn function_arguments(arguments: &Arguments<'_>) -> Result<Cell> {
    let Some(Cell::List(types)) = arguments
        .oid(0)
        .and_then(|oid| procedure_cell(oid, "proargtypes"))
    else {
        return Ok(Cell::Null);
    };
    let names: Vec<String> = types
        .iter()
        .filter_map(|cell| match cell {
            Cell::Int(oid) => u32::try_from(*oid)
                .ok()
                .map(|oid| arguments.facts.type_text(oid, None)),
            _ => None,
        })
        .collect();
    Ok(names.join(", ").into())
}

/// `format_type` for types that are not rows of our relations.
pub(crate) fn format_type(oid: u32, typmod: Option<i32>) -> String {
    match (oid, typmod) {
        (0, _) => return "-".to_owned(),
        (1042, None) => return "character".to_owned(),
        (1042, Some(..0)) => return "bpchar".to_owned(),
        (2249, _) => return "record".to_owned(),
        _ => {}
    }
    // Only the rows of pg_type know the types that values here never have.
    match SqlType::from_oid(oid, typmod.unwrap_or(-1)) {
        Some(ty) => ty.to_string(),
        None => match fixed_name("pg_type", "typname", oid) {
            Some(name) => match name.strip_prefix('_') {
                Some(element) => format!("{element}[]"),
                None => name,
            },
            None => "???".to_owned(),
        },
    }
}

const _: () = assert!(
    OWNER_OID == 10,
    "pg_catalog's fixed rows are owned by role 10"
);
