//! pg_type: Postgres' own types, and a row type and its array for every relation.
//!
//! Invariant: the row type's typarray and the array type's typelem name each other.

use std::collections::HashMap;

use super::super::shape;
use super::{Cell, OWNER_OID, Rows, SystemFacts};

// record_in, record_out, record_recv, record_send; array_in, array_out, array_recv, array_send, array_typanalyze,
// array_subscript_handler: their rows are in pg_proc.
const RECORD_FUNCTIONS: [u32; 4] = [2290, 2291, 2402, 2403];
const ARRAY_FUNCTIONS: [u32; 4] = [750, 751, 2400, 2401];
const ARRAY_ANALYZE: u32 = 3816;
const ARRAY_SUBSCRIPT: u32 = 6179;

pub(super) fn pg_type(facts: &SystemFacts, rows: &mut Rows) {
    for (relation, _) in facts.shown() {
        let array_name = format!("_{}", relation.name);
        let row_type = relation.row_type_oid.into();
        let array_type = relation.array_type_oid.into();
        push(
            rows,
            relation.schema.into(),
            row_type,
            &relation.name,
            &Kind::Row(relation.oid.into(), array_type),
        );
        let row_type = relation.row_type_oid.into();
        push(
            rows,
            relation.schema.into(),
            relation.array_type_oid.into(),
            &array_name,
            &Kind::Array(row_type),
        );
    }
}

enum Kind {
    /// OID of the relation, of the array type.
    Row(Cell, Cell),
    /// OID of the element.
    Array(Cell),
}

fn push(rows: &mut Rows, namespace: Cell, oid: Cell, name: &str, kind: &Kind) {
    let (letter, category, functions, subscript, analyze) = match kind {
        Kind::Row(..) => ("c", "C", RECORD_FUNCTIONS, 0, 0),
        Kind::Array(_) => ("b", "A", ARRAY_FUNCTIONS, ARRAY_SUBSCRIPT, ARRAY_ANALYZE),
    };
    let (relation, array, element) = match kind {
        Kind::Row(relation, array) => (relation.clone(), array.clone(), Cell::Int(0)),
        Kind::Array(element) => (Cell::Int(0), Cell::Int(0), element.clone()),
    };
    let [input, output, receive, send] = functions;
    rows.push([
        ("oid", oid),
        ("typname", name.into()),
        ("typnamespace", namespace),
        ("typowner", OWNER_OID.into()),
        ("typlen", (-1).into()),
        ("typbyval", false.into()),
        ("typtype", letter.into()),
        ("typcategory", category.into()),
        ("typispreferred", false.into()),
        ("typisdefined", true.into()),
        ("typdelim", ",".into()),
        ("typrelid", relation),
        ("typsubscript", subscript.into()),
        ("typelem", element),
        ("typarray", array),
        ("typinput", input.into()),
        ("typoutput", output.into()),
        ("typreceive", receive.into()),
        ("typsend", send.into()),
        ("typanalyze", analyze.into()),
        ("typalign", "d".into()),
        ("typstorage", "x".into()),
        ("typnotnull", false.into()),
        ("typtypmod", (-1).into()),
    ]);
}

/// One type as asyncpg asks for it.
struct Node {
    schema: Cell,
    name: Cell,
    kind: Cell,
    element: Option<i64>,
    delimiter: Cell,
    range_subtype: Option<i64>,
    attributes: Vec<(i64, String)>,
}

impl Node {
    /// The types this one is made of.
    fn parts(&self) -> impl Iterator<Item = i64> {
        let attributes = self.attributes.iter().map(|(oid, _)| *oid);
        self.element
            .into_iter()
            .chain(self.range_subtype)
            .chain(attributes)
    }
}

/// For every type (`root`) itself and all types it is made of, with their distance.
pub(super) fn type_tree(facts: &SystemFacts, rows: &mut Rows) {
    let nodes = nodes(facts);
    for root in nodes.keys() {
        let mut level = vec![*root];
        let mut seen = vec![*root];
        let mut depth = 0;
        while !level.is_empty() {
            let mut next = Vec::new();
            for oid in level {
                let Some(node) = nodes.get(&oid) else {
                    continue;
                };
                push_node(rows, *root, oid, depth, node);
                for part in node.parts().filter(|part| nodes.contains_key(part)) {
                    if !seen.contains(&part) {
                        seen.push(part);
                        next.push(part);
                    }
                }
            }
            level = next;
            depth += 1;
        }
    }
}

fn push_node(rows: &mut Rows, root: i64, oid: i64, depth: i32, node: &Node) {
    let is_row = !node.attributes.is_empty();
    let (types, names): (Vec<i64>, Vec<String>) = node.attributes.iter().cloned().unzip();
    rows.push([
        ("root", root.into()),
        ("oid", oid.into()),
        ("ns", node.schema.clone()),
        ("name", node.name.clone()),
        ("kind", node.kind.clone()),
        ("elemtype", node.element.unwrap_or(0).into()),
        ("elemdelim", node.delimiter.clone()),
        ("range_subtype", node.range_subtype.into()),
        (
            "attrtypoids",
            if is_row { types.into() } else { Cell::Null },
        ),
        ("attrnames", if is_row { names.into() } else { Cell::Null }),
        ("depth", depth.into()),
    ]);
}

fn nodes(facts: &SystemFacts) -> HashMap<i64, Node> {
    let Some(table) = shape::table("pg_catalog", "pg_type") else {
        return HashMap::new();
    };
    let mut nodes: HashMap<i64, Node> = shape::fixed_rows("pg_type")
        .iter()
        .filter_map(|row| {
            let at = |name: &str| {
                table
                    .position(name)
                    .and_then(|position| row.get(position))
                    .cloned()
                    .unwrap_or(Cell::Null)
            };
            let Cell::Int(oid) = at("oid") else {
                return None;
            };
            // Fixed-length types with an element (point, name) are not arrays.
            let element = match (at("typlen"), at("typelem")) {
                (Cell::Int(-1), Cell::Int(element)) if element != 0 => Some(element),
                _ => None,
            };
            let node = Node {
                schema: "pg_catalog".into(),
                name: at("typname"),
                kind: at("typtype"),
                delimiter: if element.is_some() {
                    at("typdelim")
                } else {
                    Cell::Null
                },
                element,
                range_subtype: range_subtype(oid),
                attributes: Vec::new(),
            };
            Some((oid, node))
        })
        .collect();
    for (relation, _) in facts.shown() {
        let schema = Cell::from(facts.schema_name(relation.schema));
        let attributes = relation
            .columns
            .iter()
            .map(|column| (i64::from(column.ty.oid()), column.name.clone()))
            .collect();
        let row = i64::from(relation.row_type_oid.0);
        let of = |name: String, kind: &str, element: Option<i64>, attributes| Node {
            schema: schema.clone(),
            name: name.into(),
            kind: kind.into(),
            element,
            delimiter: element.map(|_| ",").into(),
            range_subtype: None,
            attributes,
        };
        nodes.insert(row, of(relation.name.clone(), "c", None, attributes));
        nodes.insert(
            relation.array_type_oid.0.into(),
            of(format!("_{}", relation.name), "b", Some(row), Vec::new()),
        );
    }
    nodes
}

/// Element type of a range or multirange type.
fn range_subtype(oid: i64) -> Option<i64> {
    let table = shape::table("pg_catalog", "pg_range")?;
    let position = |name: &str| table.position(name);
    let (range, multirange, subtype) = (
        position("rngtypid")?,
        position("rngmultitypid")?,
        position("rngsubtype")?,
    );
    let wanted = Some(&Cell::Int(oid));
    let row = shape::fixed_rows("pg_range")
        .iter()
        .find(|row| row.get(range) == wanted || row.get(multirange) == wanted)?;
    match row.get(subtype) {
        Some(Cell::Int(subtype)) => Some(*subtype),
        _ => None,
    }
}
