//! HBase filters as the bytes that a gateway passes on: its `Filter` messages, in Protocol Buffers.
//!
//! Invariant: only filters whose bytes need no value of a user are built here, so nothing is quoted.

const PACKAGE: &str = "org.apache.hadoop.hbase.filter.";

/// One cell per row, without its value: enough to know that the row is there.
pub(super) fn first_key_only() -> Vec<u8> {
    let first = filter("FirstKeyOnlyFilter", &[]);
    // `KeyOnlyFilter.len_as_val = false`
    let keys = filter("KeyOnlyFilter", &[0x08, 0x00]);
    // `FilterList`: operator MUST_PASS_ALL, then the filters.
    let mut list = vec![0x08, 0x01];
    field(2, &first, &mut list);
    field(2, &keys, &mut list);
    filter("FilterList", &list)
}

/// `Filter { name = 1; serialized_filter = 2 }`
fn filter(name: &str, serialized: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    field(1, format!("{PACKAGE}{name}").as_bytes(), &mut out);
    field(2, serialized, &mut out);
    out
}

/// A field of bytes: number and wire type, length, bytes.
fn field(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}
