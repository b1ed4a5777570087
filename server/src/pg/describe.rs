//! Result columns as RowDescription.
//!
//! Invariant: a type is described by the OID, length and modifier that `pg_type` and `pg_attribute` show for it, so that
//! drivers which look the column up find the same.

use pgwire::messages::data::{FieldDescription, RowDescription};
use thalweg_catalog::SqlType;
use thalweg_planner::OutputColumn;

use super::encode::Format;

/// The type a client sees: an untyped literal reaches it as text.
pub(super) fn visible(ty: &SqlType) -> &SqlType {
    match ty {
        SqlType::Unknown => &SqlType::Text,
        ty => ty,
    }
}

/// Columns with the format each is sent in.
pub(super) fn row_description(columns: &[OutputColumn], formats: &[Format]) -> RowDescription {
    let fields = columns.iter().zip(formats).map(|(column, format)| {
        let ty = visible(&column.ty);
        let (table, attribute) = column
            .origin
            .map_or((0, 0), |(table, attribute)| (table.0, attribute));
        FieldDescription::new(
            column.name.replace('\0', ""),
            // The wire field is unsigned; pgwire holds the same bits as i32.
            table.cast_signed(),
            attribute,
            ty.oid(),
            ty.typlen(),
            ty.typmod(),
            format.code(),
        )
    });
    RowDescription::new(fields.collect())
}
