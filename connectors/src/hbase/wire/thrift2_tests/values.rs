//! Random calls and answers.
//!
//! Invariant: whatever our types can hold may come, also what no user asks for.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::super::Protocol;
use super::super::interface::*;
use super::mirror::{Asked, bare_family};
use crate::hbase::request::{
    CheckedPut, ColumnName, Delete, NewCell, NewTable, Projection, Put, Scan, TableName,
};

pub(super) fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..6), vec(any::<u8>(), 100..300)]
}

pub(super) fn protocols() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Compact), Just(Protocol::Binary)]
}

pub(super) fn table() -> impl Strategy<Value = TableName> {
    "([a-z_0-9]{1,5}:)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,9}"
        .prop_map(|text| TableName::parse(&text).expect("a name"))
}

pub(super) fn projection() -> impl Strategy<Value = Projection> {
    let column = (bytes(), option::of(bytes()))
        .prop_map(|(family, qualifier)| ColumnName { family, qualifier });
    (
        vec(column, 0..20),
        option::of(bytes()),
        option::of(any::<i64>()),
    )
        .prop_map(|(columns, filter, until_ms)| Projection {
            columns,
            filter,
            until_ms,
        })
}

pub(super) fn page() -> impl Strategy<Value = Scan> {
    (bytes(), bytes(), 0..100_000_usize, any::<bool>()).prop_map(|(start, stop, rows, reversed)| {
        Scan {
            start,
            stop,
            rows,
            reversed,
        }
    })
}

pub(super) fn new_put() -> impl Strategy<Value = Put> {
    let cell = (bytes(), bytes(), bytes()).prop_map(|(family, qualifier, value)| NewCell {
        family,
        qualifier,
        value,
    });
    (bytes(), vec(cell, 0..18), any::<i64>()).prop_map(|(row, cells, timestamp)| Put {
        row,
        cells,
        timestamp,
    })
}

pub(super) fn new_delete() -> impl Strategy<Value = Delete> {
    (bytes(), vec((bytes(), bytes()), 1..18), any::<i64>()).prop_map(|(row, columns, timestamp)| {
        Delete {
            row,
            columns,
            timestamp,
        }
    })
}

pub(super) fn checked_put() -> impl Strategy<Value = CheckedPut> {
    (bytes(), bytes(), option::of(bytes()), new_put()).prop_map(
        |(family, qualifier, expected, put)| CheckedPut {
            family,
            qualifier,
            expected,
            put,
        },
    )
}

pub(super) fn new_table() -> impl Strategy<Value = NewTable> {
    let numbers = (
        option::of(any::<i32>()),
        option::of(any::<i32>()),
        option::of(0..7),
        option::of(0..3),
    );
    (table(), vec(bytes(), 0..17), any::<bool>(), numbers).prop_map(
        |(table, families, keeps_deleted, (versions, ttl_s, compression, bloom))| NewTable {
            table,
            families,
            keeps_deleted,
            versions,
            ttl_s,
            compression,
            bloom,
        },
    )
}

pub(super) fn asked() -> impl Strategy<Value = Asked> {
    prop_oneof![
        1 => Just(Asked::ServerType),
        1 => table().prop_map(Asked::Regions),
        1 => table().prop_map(Asked::Describe),
        1 => table().prop_map(Asked::Exists),
        1 => table().prop_map(Asked::IsDisabled),
        1 => "[a-z_0-9]{1,9}".prop_map(Asked::CreateNamespace),
        3 => new_table().prop_map(Asked::Create),
        4 => (table(), vec(bytes(), 0..20), projection())
            .prop_map(|(table, rows, projection)| Asked::Get(table, rows, projection)),
        4 => (table(), page(), projection())
            .prop_map(|(table, page, projection)| Asked::Scan(table, page, projection)),
        4 => (table(), vec(new_put(), 0..20)).prop_map(|(table, puts)| Asked::Put(table, puts)),
        4 => (table(), checked_put()).prop_map(|(table, checked)| Asked::PutIf(table, checked)),
        4 => (table(), vec(new_delete(), 0..20))
            .prop_map(|(table, deletes)| Asked::Delete(table, deletes)),
    ]
}

pub(super) fn cell() -> impl Strategy<Value = TColumnValue> {
    let rest = (any::<i64>(), option::of(bytes()), option::of(any::<i8>()));
    (bytes(), bytes(), bytes(), rest).prop_map(|(family, qualifier, value, (at, tags, kind))| {
        TColumnValue::new(family, qualifier, value, at, tags, kind)
    })
}

pub(super) fn result() -> impl Strategy<Value = TResult> {
    let partial = prop_oneof![Just(None), Just(Some(false))];
    (
        option::of(bytes()),
        vec(cell(), 0..18),
        option::of(any::<bool>()),
        partial,
    )
        .prop_map(|(row, cells, stale, partial)| TResult::new(row, cells, stale, partial))
}

pub(super) fn location() -> impl Strategy<Value = THRegionLocation> {
    let server = (
        ".{0,12}",
        option::of(any::<i32>()),
        option::of(any::<i64>()),
    )
        .prop_map(|(host, port, code)| TServerName::new(host, port, code));
    let flags = (
        option::of(any::<bool>()),
        option::of(any::<bool>()),
        option::of(any::<i32>()),
    );
    let keys = (option::of(bytes()), option::of(bytes()));
    let info = (any::<i64>(), bytes(), keys, flags).prop_map(
        |(id, table, (start, end), (offline, split, replica))| {
            THRegionInfo::new(id, table, start, end, offline, split, replica)
        },
    );
    (server, info).prop_map(|(server, info)| THRegionLocation::new(server, info))
}

pub(super) fn family() -> impl Strategy<Value = TColumnFamilyDescriptor> {
    let maps = (
        option::of(btree_map(bytes(), bytes(), 0..4)),
        option::of(btree_map(".{0,5}", ".{0,5}", 0..4)),
    );
    let numbers = (option::of(any::<i16>()), option::of(any::<i32>()));
    let flags = (option::of(any::<bool>()), option::of(any::<bool>()));
    (
        bytes(),
        maps,
        numbers,
        option::of(0..3),
        option::of(any::<i32>()),
        flags,
    )
        .prop_map(
            |(name, (attributes, configuration), (short, long), keeps, versions, (first, last))| {
                TColumnFamilyDescriptor {
                    name,
                    attributes,
                    configuration,
                    block_size: long,
                    dfs_replication: short,
                    keep_deleted_cells: keeps.map(TKeepDeletedCells),
                    max_versions: versions,
                    min_versions: long,
                    block_cache_enabled: first,
                    in_memory: last,
                    ..bare_family()
                }
            },
        )
}
