//! Our calls, and what they are called in HBase's interface.
//!
//! Invariant: fields go by the names of the interface, never by the numbers that our own code has for them.

use super::super::interface::*;
use crate::hbase::request::{
    Call, CheckedPut, ColumnName, Delete, NewCell, NewTable, Projection, Put, Scan, TableName,
};

/// A call with all that it is about.
#[derive(Debug, Clone)]
pub(super) enum Asked {
    ServerType,
    Regions(TableName),
    Describe(TableName),
    Exists(TableName),
    IsDisabled(TableName),
    Create(NewTable),
    CreateNamespace(String),
    Get(TableName, Vec<Vec<u8>>, Projection),
    Scan(TableName, Scan, Projection),
    Put(TableName, Vec<Put>),
    PutIf(TableName, CheckedPut),
    Delete(TableName, Vec<Delete>),
}

impl Asked {
    pub(super) fn call(&self) -> Call<'_> {
        match self {
            Asked::ServerType => Call::ServerType,
            Asked::Regions(table) => Call::Regions(table),
            Asked::Describe(table) => Call::Describe(table),
            Asked::Exists(table) => Call::Exists(table),
            Asked::IsDisabled(table) => Call::IsDisabled(table),
            Asked::Create(new) => Call::Create(new),
            Asked::CreateNamespace(name) => Call::CreateNamespace(name),
            Asked::Get(table, rows, projection) => Call::Get(table, rows, projection),
            Asked::Scan(table, scan, projection) => Call::Scan(table, scan, projection),
            Asked::Put(table, puts) => Call::Put(table, puts),
            Asked::PutIf(table, checked) => Call::PutIf(table, checked),
            Asked::Delete(table, deletes) => Call::Delete(table, deletes),
        }
    }
}

/// What a gateway has read.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Heard {
    ServerType,
    Regions(Vec<u8>),
    Describe(TTableName),
    Exists(TTableName),
    IsDisabled(TTableName),
    Create(TTableDescriptor),
    CreateNamespace(TNamespaceDescriptor),
    Get(Vec<u8>, Vec<TGet>),
    Scan(Vec<u8>, TScan, i32),
    Put(Vec<u8>, Vec<TPut>),
    PutIf(CheckAndPutArguments),
    Delete(Vec<u8>, Vec<TDelete>),
}

pub(super) fn text(table: &TableName) -> Vec<u8> {
    table.text().as_bytes().to_vec()
}

pub(super) fn name(table: &TableName) -> TTableName {
    match table.text().split_once(':') {
        Some((ns, name)) => TTableName::new(ns.as_bytes().to_vec(), name.as_bytes().to_vec()),
        None => TTableName::new(None, text(table)),
    }
}

pub(super) fn columns(projection: &Projection) -> Option<Vec<TColumn>> {
    let one =
        |column: &ColumnName| TColumn::new(column.family.clone(), column.qualifier.clone(), None);
    let columns: Vec<TColumn> = projection.columns.iter().map(one).collect();
    Some(columns).filter(|columns| !columns.is_empty())
}

pub(super) fn times(projection: &Projection) -> Option<TTimeRange> {
    projection.until_ms.map(|until| TTimeRange::new(0, until))
}

pub(super) fn get(row: &[u8], projection: &Projection) -> TGet {
    TGet {
        row: row.to_vec(),
        columns: columns(projection),
        timestamp: None,
        time_range: times(projection),
        max_versions: None,
        filter_string: None,
        attributes: None,
        authorizations: None,
        consistency: None,
        target_replica_id: None,
        cache_blocks: None,
        store_limit: None,
        store_offset: None,
        existence_only: None,
        filter_bytes: projection.filter.clone(),
    }
}

pub(super) fn scan(scan: &Scan, projection: &Projection) -> TScan {
    let rows = Some(scan.rows as i32);
    TScan {
        start_row: Some(scan.start.clone()),
        stop_row: Some(scan.stop.clone()),
        columns: columns(projection),
        caching: rows,
        max_versions: None,
        time_range: times(projection),
        filter_string: None,
        batch_size: None,
        attributes: None,
        authorizations: None,
        reversed: scan.reversed.then_some(true),
        cache_blocks: Some(false),
        col_fam_time_range_map: None,
        read_type: Some(TReadType::STREAM),
        limit: rows,
        consistency: None,
        target_replica_id: None,
        filter_bytes: projection.filter.clone(),
    }
}

pub(super) fn put(put: &Put) -> TPut {
    let cell = |cell: &NewCell| {
        let (family, qualifier) = (cell.family.clone(), cell.qualifier.clone());
        TColumnValue::new(
            family,
            qualifier,
            cell.value.clone(),
            put.timestamp,
            None,
            None,
        )
    };
    let cells: Vec<TColumnValue> = put.cells.iter().map(cell).collect();
    TPut::new(put.row.clone(), cells, put.timestamp, None, None, None)
}

pub(super) fn delete(delete: &Delete) -> TDelete {
    let column = |(family, qualifier): &(Vec<u8>, Vec<u8>)| {
        TColumn::new(family.clone(), qualifier.clone(), delete.timestamp)
    };
    let columns: Vec<TColumn> = delete.columns.iter().map(column).collect();
    let all = TDeleteType::DELETE_COLUMNS;
    TDelete::new(
        delete.row.clone(),
        columns,
        delete.timestamp,
        all,
        None,
        None,
    )
}

pub(super) fn descriptor(new: &NewTable) -> TTableDescriptor {
    let family = |family: &Vec<u8>| TColumnFamilyDescriptor {
        name: family.clone(),
        bloomn_filter_type: new.bloom.map(TBloomFilterType),
        compression_type: new.compression.map(TCompressionAlgorithm),
        keep_deleted_cells: new.keeps_deleted.then_some(TKeepDeletedCells::TRUE),
        max_versions: new.versions,
        time_to_live: new.ttl_s,
        ..bare_family()
    };
    let families: Vec<TColumnFamilyDescriptor> = new.families.iter().map(family).collect();
    TTableDescriptor::new(name(&new.table), families, None, None)
}

pub(super) fn bare_family() -> TColumnFamilyDescriptor {
    TColumnFamilyDescriptor {
        name: Vec::new(),
        attributes: None,
        configuration: None,
        block_size: None,
        bloomn_filter_type: None,
        compression_type: None,
        dfs_replication: None,
        data_block_encoding: None,
        keep_deleted_cells: None,
        max_versions: None,
        min_versions: None,
        scope: None,
        time_to_live: None,
        block_cache_enabled: None,
        cache_blooms_on_write: None,
        cache_data_on_write: None,
        cache_indexes_on_write: None,
        compress_tags: None,
        evict_blocks_on_close: None,
        in_memory: None,
    }
}

/// What a call should be on the other side.
pub(super) fn expected(asked: &Asked) -> Heard {
    match asked {
        Asked::ServerType => Heard::ServerType,
        Asked::Regions(table) => Heard::Regions(text(table)),
        Asked::Describe(table) => Heard::Describe(name(table)),
        Asked::Exists(table) => Heard::Exists(name(table)),
        Asked::IsDisabled(table) => Heard::IsDisabled(name(table)),
        Asked::Create(new) => Heard::Create(descriptor(new)),
        Asked::CreateNamespace(name) => {
            Heard::CreateNamespace(TNamespaceDescriptor::new(name.clone(), None))
        }
        Asked::Get(table, rows, projection) => {
            let gets = rows.iter().map(|row| get(row, projection));
            Heard::Get(text(table), gets.collect())
        }
        Asked::Scan(table, page, projection) => {
            Heard::Scan(text(table), scan(page, projection), page.rows as i32)
        }
        Asked::Put(table, puts) => Heard::Put(text(table), puts.iter().map(put).collect()),
        Asked::PutIf(table, checked) => Heard::PutIf(CheckAndPutArguments::new(
            text(table),
            checked.put.row.clone(),
            checked.family.clone(),
            checked.qualifier.clone(),
            checked.expected.clone(),
            put(&checked.put),
        )),
        Asked::Delete(table, deletes) => {
            Heard::Delete(text(table), deletes.iter().map(delete).collect())
        }
    }
}
