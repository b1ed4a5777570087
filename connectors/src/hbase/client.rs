//! Typed calls to HBase, each answer checked against its question.
//!
//! Invariant: a get's rows stand at the positions of their keys; a scan's rows lie in its range, in its order, each once. An
//! answer that breaks this is an error, never a result.

use super::error::HbaseError;
use super::gateways::Gateways;
use super::reply::{Family, Page, Region, decode, families, region};
use super::request::{Call, CheckedPut, Delete, NewTable, Projection, Put, Scan, TableName};
use super::wire::{Kind, WireError};
use crate::context::Deadline;

/// A client of one HBase.
#[derive(Debug)]
pub(super) struct Client {
    gateways: Gateways,
}

impl Client {
    pub(super) fn new(gateways: Gateways) -> Self {
        Self { gateways }
    }

    /// How many calls can be under way.
    pub(super) fn capacity(&self) -> usize {
        self.gateways.capacity()
    }

    /// Bytes of the longest reply with several rows; more is [`HbaseError::ReplyTooLarge`].
    pub(super) fn rows_bytes_max(&self) -> usize {
        self.gateways.rows_bytes_max()
    }

    /// The regions of a table, in key order.
    pub(super) async fn regions(
        &self,
        table: &TableName,
        deadline: Deadline,
    ) -> Result<Vec<Region>, HbaseError> {
        let call = Call::Regions(table);
        let name = call.name();
        let found = self
            .gateways
            .call(&call, deadline, |frame, protocol, sequence| {
                decode(&frame, protocol, name, sequence, |reader, field| {
                    let mut regions = Vec::new();
                    reader.list(field, Kind::Struct, |reader| {
                        regions.push(region(&frame, reader)?);
                        Ok(())
                    })?;
                    Ok(regions)
                })
            })
            .await;
        let found = self.explained(table, deadline, found).await?;
        let mut regions = found.unwrap_or_default();
        regions.sort_by(|a, b| a.start.cmp(&b.start));
        Ok(regions)
    }

    /// A table's families.
    pub(super) async fn families(
        &self,
        table: &TableName,
        deadline: Deadline,
    ) -> Result<Vec<Family>, HbaseError> {
        let call = Call::Describe(table);
        let name = call.name();
        let found = self
            .gateways
            .call(&call, deadline, |frame, protocol, sequence| {
                decode(
                    &frame,
                    protocol,
                    name,
                    sequence,
                    |reader, field| match field.is(Kind::Struct) {
                        true => families(&frame, reader),
                        false => Err(WireError::Structure),
                    },
                )
            })
            .await?;
        Ok(found.unwrap_or_default())
    }

    /// Whether a table exists.
    pub(super) async fn exists(
        &self,
        table: &TableName,
        deadline: Deadline,
    ) -> Result<bool, HbaseError> {
        self.question(&Call::Exists(table), deadline).await
    }

    async fn question(&self, call: &Call<'_>, deadline: Deadline) -> Result<bool, HbaseError> {
        let name = call.name();
        let found = self
            .gateways
            .call(call, deadline, |frame, protocol, sequence| {
                decode(&frame, protocol, name, sequence, |reader, field| {
                    reader.bool(field)
                })
            })
            .await?;
        Ok(found.unwrap_or(false))
    }

    /// Finds out whether a failure of unclear cause is one of the table's state.
    async fn explained<T>(
        &self,
        table: &TableName,
        deadline: Deadline,
        outcome: Result<T, HbaseError>,
    ) -> Result<T, HbaseError> {
        let Err(error @ HbaseError::Remote { .. }) = outcome else {
            return outcome;
        };
        let name = || table.text().to_owned();
        if self.exists(table, deadline).await == Ok(false) {
            return Err(HbaseError::TableMissing { table: name() });
        }
        match self.question(&Call::IsDisabled(table), deadline).await {
            Ok(true) => Err(HbaseError::TableDisabled { table: name() }),
            _ => Err(error),
        }
    }

    /// Makes a table, and its namespace, unless they are there.
    pub(super) async fn create(
        &self,
        table: &NewTable,
        deadline: Deadline,
    ) -> Result<(), HbaseError> {
        if let Some((namespace, _)) = table.table.text().split_once(':') {
            self.make(&Call::CreateNamespace(namespace), deadline)
                .await?;
        }
        self.make(&Call::Create(table), deadline).await
    }

    /// A call whose purpose is fulfilled when its object is there already, perhaps by an earlier try of it.
    async fn make(&self, call: &Call<'_>, deadline: Deadline) -> Result<(), HbaseError> {
        match self.command(call, deadline).await {
            Err(HbaseError::Remote { detail, .. }) if detail.contains("Exist") => Ok(()),
            outcome => outcome,
        }
    }

    /// A call without a result.
    async fn command(&self, call: &Call<'_>, deadline: Deadline) -> Result<(), HbaseError> {
        let name = call.name();
        self.gateways
            .call(call, deadline, |frame, protocol, sequence| {
                decode(&frame, protocol, name, sequence, |reader, field| {
                    reader.skip(field.kind)
                })
            })
            .await
            .map(|_| ())
    }

    /// Rows by their keys; row `n` of the page is that of key `n`, without a key when there is none.
    pub(super) async fn get(
        &self,
        table: &TableName,
        keys: &[Vec<u8>],
        projection: &Projection,
        deadline: Deadline,
    ) -> Result<Page, HbaseError> {
        let call = Call::Get(table, keys, projection);
        let name = call.name();
        let check = |page: &Page| {
            let fits = |(row, key): (_, &Vec<u8>)| match super::reply::Row::key(&row) {
                None => true,
                Some(found) => found == &key[..],
            };
            page.len() == keys.len() && page.rows().zip(keys).all(fits)
        };
        let outcome = self.page(&call, name, deadline, check).await;
        self.explained(table, deadline, outcome).await
    }

    /// One page of a scan.
    pub(super) async fn scan(
        &self,
        table: &TableName,
        scan: &Scan,
        projection: &Projection,
        deadline: Deadline,
    ) -> Result<Page, HbaseError> {
        let call = Call::Scan(table, scan, projection);
        let name = call.name();
        let outcome = self.page(&call, name, deadline, |page| scan.accepts(page));
        self.explained(table, deadline, outcome.await).await
    }

    async fn page(
        &self,
        call: &Call<'_>,
        name: &str,
        deadline: Deadline,
        check: impl Fn(&Page) -> bool,
    ) -> Result<Page, HbaseError> {
        let rows_max = call.rows().unwrap_or(0);
        self.gateways
            .call(call, deadline, |frame, protocol, sequence| {
                let answer = Page::decode(frame, protocol, name, sequence, rows_max)?;
                match &answer {
                    Ok(page) if !check(page) => Err(WireError::Structure),
                    _ => Ok(answer),
                }
            })
            .await
    }

    /// Writes cells. After an error any of them may be written; writing them again changes nothing.
    pub(super) async fn put(
        &self,
        table: &TableName,
        puts: &[Put],
        deadline: Deadline,
    ) -> Result<(), HbaseError> {
        let outcome = self.command(&Call::Put(table, puts), deadline).await;
        self.explained(table, deadline, outcome).await
    }

    /// Writes cells of a row if a column of it holds what is expected; false when it does not. After an error, and after false, it
    /// may have been written, by a try that was not answered.
    pub(super) async fn put_if(
        &self,
        table: &TableName,
        checked: &CheckedPut,
        deadline: Deadline,
    ) -> Result<bool, HbaseError> {
        let outcome = self.question(&Call::PutIf(table, checked), deadline).await;
        self.explained(table, deadline, outcome).await
    }

    /// Deletes cells; as [`Client::put`].
    pub(super) async fn delete(
        &self,
        table: &TableName,
        deletes: &[Delete],
        deadline: Deadline,
    ) -> Result<(), HbaseError> {
        let call = Call::Delete(table, deletes);
        let name = call.name();
        let left = self
            .gateways
            .call(&call, deadline, |frame, protocol, sequence| {
                decode(&frame, protocol, name, sequence, |reader, field| {
                    let mut left = 0;
                    reader.list(field, Kind::Struct, |reader| {
                        left += 1;
                        reader.skip(Kind::Struct)
                    })?;
                    Ok(left)
                })
            })
            .await;
        match self.explained(table, deadline, left).await?.unwrap_or(0) {
            0 => Ok(()),
            count => Err(HbaseError::Remote {
                table: table.text().to_owned(),
                detail: format!("{count} of {} rows were not deleted", deletes.len()),
            }),
        }
    }
}

impl Scan {
    /// Whether a page can be an answer to this scan.
    fn accepts(&self, page: &Page) -> bool {
        let mut last: Option<&[u8]> = None;
        for row in page.rows() {
            let Some(key) = row.key() else { return false };
            let (inside, follows) = match self.reversed {
                false => (
                    key >= &self.start[..] && (self.stop.is_empty() || key < &self.stop[..]),
                    last.is_none_or(|last| key > last),
                ),
                true => (
                    key > &self.stop[..] && (self.start.is_empty() || key <= &self.start[..]),
                    last.is_none_or(|last| key < last),
                ),
            };
            if !inside || !follows {
                return false;
            }
            last = Some(key);
        }
        page.len() <= self.rows
    }
}
