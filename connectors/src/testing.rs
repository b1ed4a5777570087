//! Catalog objects for the tests of this crate.

use std::collections::BTreeMap;

use thalweg_catalog::{
    Column, ColumnRole, ConnectorSpec, Environment, Oid, Relation, RelationKind, SqlType,
};

/// A nullable payload column.
pub(crate) fn column(name: &str, ty: SqlType) -> Column {
    Column {
        name: name.to_owned(),
        attnum: 1,
        ty,
        not_null: false,
        default: None,
        generated: None,
        role: ColumnRole::Data,
    }
}

/// A source relation and the spec inside it.
pub(crate) fn source_relation(
    connector: &str,
    columns: Vec<Column>,
    options: BTreeMap<String, String>,
    created_at_ms: i64,
) -> (Relation, ConnectorSpec) {
    let spec = ConnectorSpec {
        connector: connector.to_owned(),
        options,
        format: "PLAIN".to_owned(),
        encode: if connector == "datagen" {
            "NATIVE"
        } else {
            "JSON"
        }
        .to_owned(),
        encode_options: BTreeMap::new(),
        start: BTreeMap::new(),
        watermark: None,
    };
    let relation = Relation {
        oid: Oid(16384),
        row_type_oid: Oid(16385),
        array_type_oid: Oid(16386),
        schema: Oid(2200),
        name: "s".to_owned(),
        kind: RelationKind::Source(spec.clone()),
        columns,
        primary_key: None,
        checks: Vec::new(),
        definition: String::new(),
        environment: Environment::default(),
        depends_on: Vec::new(),
        created_at_ms,
    };
    (relation, spec)
}
