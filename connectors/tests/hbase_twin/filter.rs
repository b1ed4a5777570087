//! The filters that the tables of the twin apply, read from the bytes that HBase would read.
//!
//! Invariant: a filter that is not known here is a panic, never a row too many or too few.

use super::Cell;

/// A filter of HBase.
#[derive(Debug)]
pub(super) enum Filter {
    All(Vec<Filter>),
    One(Vec<Filter>),
    /// One cell of each row.
    FirstKey,
    /// Cells without their values.
    Keys,
    Column {
        family: Vec<u8>,
        qualifier: Vec<u8>,
        /// `CompareType`
        op: u64,
        is_prefix: bool,
        value: Vec<u8>,
        if_missing: bool,
    },
}

/// Fields of a Protocol Buffers message: numbers, or bytes.
fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, Vec<u8>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let number = varint(&mut bytes);
        let held = match tag & 7 {
            0 => Vec::new(),
            2 => {
                let (head, rest) = bytes.split_at(number as usize);
                bytes = rest;
                head.to_vec()
            }
            other => panic!("wire type {other}"),
        };
        found.push((tag >> 3, number, held));
    }
    found
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let (mut number, mut shift) = (0, 0);
    loop {
        let (first, rest) = bytes.split_first().expect("a whole number");
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return number;
        }
        shift += 7;
    }
}

fn held(fields: &[(u64, u64, Vec<u8>)], number: u64) -> Vec<u8> {
    let field = fields.iter().find(|field| field.0 == number);
    field.map(|field| field.2.clone()).unwrap_or_default()
}

fn number(fields: &[(u64, u64, Vec<u8>)], number: u64) -> u64 {
    let field = fields.iter().find(|field| field.0 == number);
    field.map_or(0, |field| field.1)
}

fn name(bytes: Vec<u8>) -> String {
    let name = String::from_utf8(bytes).expect("a class");
    let (package, class) = name.rsplit_once('.').expect("a package");
    assert_eq!(package, "org.apache.hadoop.hbase.filter");
    class.to_owned()
}

impl Filter {
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let outer = fields(bytes);
        let inner = fields(&held(&outer, 2));
        match name(held(&outer, 1)).as_str() {
            "FirstKeyOnlyFilter" => Filter::FirstKey,
            "KeyOnlyFilter" => Filter::Keys,
            "FilterList" => {
                let parts = inner.iter().filter(|field| field.0 == 2);
                let parts = parts.map(|field| Filter::parse(&field.2)).collect();
                match number(&inner, 1) {
                    1 => Filter::All(parts),
                    _ => Filter::One(parts),
                }
            }
            "SingleColumnValueFilter" => {
                let comparator = fields(&held(&inner, 4));
                let binary = fields(&held(&comparator, 2));
                let comparable = fields(&held(&binary, 1));
                Filter::Column {
                    family: held(&inner, 1),
                    qualifier: held(&inner, 2),
                    op: number(&inner, 3),
                    is_prefix: name(held(&comparator, 1)) == "BinaryPrefixComparator",
                    value: held(&comparable, 1),
                    if_missing: number(&inner, 5) == 1,
                }
            }
            other => panic!("filter {other}"),
        }
    }

    /// Whether a row passes, by the cells that are asked for.
    pub(super) fn passes(&self, cells: &[Cell]) -> bool {
        match self {
            Filter::All(parts) => parts.iter().all(|part| part.passes(cells)),
            Filter::One(parts) => parts.iter().any(|part| part.passes(cells)),
            Filter::FirstKey | Filter::Keys => true,
            Filter::Column {
                family,
                qualifier,
                op,
                is_prefix,
                value,
                if_missing,
            } => {
                let cell = cells
                    .iter()
                    .find(|cell| cell.family == *family && cell.qualifier == *qualifier);
                let Some(cell) = cell else {
                    return !if_missing;
                };
                let length = match is_prefix {
                    true => value.len().min(cell.value.len()),
                    false => cell.value.len(),
                };
                let order = cell.value[..length].cmp(value);
                match op {
                    0 => order.is_lt(),
                    1 => order.is_le(),
                    2 => order.is_eq(),
                    3 => order.is_ne(),
                    4 => order.is_ge(),
                    _ => order.is_gt(),
                }
            }
        }
    }

    /// What is left of a row that passes.
    pub(super) fn cut(&self, cells: &mut Vec<Cell>) {
        match self {
            Filter::All(parts) => parts.iter().for_each(|part| part.cut(cells)),
            Filter::FirstKey => cells.truncate(1),
            Filter::Keys => cells.iter_mut().for_each(|cell| cell.value.clear()),
            Filter::One(_) | Filter::Column { .. } => {}
        }
    }
}
