//! The sink into a table of HBase that delivers exactly once.
//!
//! Invariant: every cell of a delivery has the delivery's timestamp, or the millisecond before it, so a delivery that is sent again
//! leaves the table as the first time did, and one of an earlier writer that arrives late is hidden by those after it. Its marker is
//! written last, and only by the writer that has taken over last.
//!
//! HBase has no transactions over rows: readers may see a part of a delivery while it is under way, each row whole, and never a
//! delivery twice. The control row of a sink is in table `thalweg_commits`: `c:writer`, the number of its newest writer,
//! `c:marker`, `epoch/part/more` or `epoch/part/last`, and `c:stamp`, the timestamp of its cells; before the first delivery begins, a
//! timestamp before it without a marker.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use async_trait::async_trait;

use super::client::Client;
use super::committed::{HbaseSinkPlace, before};
use super::error::HbaseError;
use super::request::{CheckedPut, NewCell, NewTable, Projection, Put, TableName};
use super::table::HbaseTable;
use super::write::{Refusals, row_key};
use crate::commit::{CommittingSink, Due, Marker, Staged};
use crate::context::{Clock, ConnectorContext, Deadline};
use crate::delta::Delta;
use crate::error::ConnectorError;
use crate::sink::Form;
use crate::store::Step;

/// The table that all sinks of all servers share.
const CONTROL_TABLE: &str = "thalweg_commits";
const FAMILY: &[u8] = b"c";
const WRITER: &[u8] = b"writer";
const MARKER: &[u8] = b"marker";
const STAMP: &[u8] = b"stamp";
/// Bits of a timestamp in the control row below those of the writer's number.
const WRITER_SHIFT: u32 = 32;
/// Times at which another writer may come in between.
const TAKE_OVER_TRIES: usize = 16;
/// A timestamp this far ahead of the clock waits: cells that others write meanwhile would be hidden by it.
const AHEAD_MAX_MS: i64 = 60_000;

/// The open end of `CREATE SINK ... INTO` a table of HBase with `delivery = 'exactly_once'`.
#[derive(Debug)]
pub struct HbaseCommitter {
    table: Arc<HbaseTable>,
    sink: u32,
    /// Readers know of the sink as long as it has a writer.
    _place: HbaseSinkPlace,
    clock: Arc<dyn Clock>,
    /// Row of the control table.
    row: Vec<u8>,
    /// Our number, once we have taken over.
    writer: Option<i64>,
    /// Cells written to the control row.
    written: i64,
    committed: Option<Marker>,
    /// The control row has a timestamp.
    is_stamped: bool,
    refused: Vec<ConnectorError>,
}

/// What the control row says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Control {
    writer: Option<i64>,
    marker: Option<Marker>,
    /// Timestamp of the delivery that the marker is of, or before the first.
    stamp_ms: Option<i64>,
}

impl Control {
    /// Timestamp up to which there are whole deliveries alone; `None` when none has ever begun.
    fn whole_ms(&self) -> Option<i64> {
        match self.marker {
            // Further parts are to come.
            Some(Marker { last: false, .. }) => self.stamp_ms.map(before),
            _ => self.stamp_ms,
        }
    }
}

impl HbaseCommitter {
    /// The sink with this object number. Contacts nobody.
    pub fn new(table: Arc<HbaseTable>, sink: u32, context: &ConnectorContext) -> Self {
        Self {
            _place: table.sink_place(sink),
            table,
            sink,
            clock: Arc::clone(&context.clock),
            row: format!("{}/{sink}", context.installation).into_bytes(),
            writer: None,
            written: 0,
            committed: None,
            is_stamped: false,
            refused: Vec::new(),
        }
    }

    fn client(&self) -> &Client {
        self.table.client()
    }

    fn deadline(&self) -> Deadline {
        Deadline::after(self.table.timeout())
    }

    /// Makes the control table when it is not there.
    async fn ensure_control(&self) -> Result<(), ConnectorError> {
        let table = control_table()?;
        let deadline = self.table.ddl_deadline();
        if self.client().exists(&table, deadline).await? {
            return Ok(());
        }
        let new = NewTable {
            table,
            families: vec![FAMILY.to_vec()],
            keeps_deleted: false,
            versions: Some(1),
            ttl_s: None,
            compression: None,
            bloom: None,
        };
        Ok(self.client().create(&new, deadline).await?)
    }

    async fn control(&self) -> Result<Control, ConnectorError> {
        let table = control_table()?;
        let (keys, all) = ([self.row.clone()], Projection::default());
        let page = self.client().get(&table, &keys, &all, self.deadline());
        let page = page.await?;
        let mut control = Control::default();
        for cell in page.row(0).iter().flat_map(|row| row.cells()) {
            let text = std::str::from_utf8(cell.value).unwrap_or_default();
            if cell.family != FAMILY {
                continue;
            }
            let known = match cell.qualifier {
                WRITER => {
                    control.writer = text.parse().ok();
                    control.writer.is_some()
                }
                MARKER => {
                    control.marker = parse(text);
                    control.marker.is_some()
                }
                STAMP => {
                    control.stamp_ms = text.parse().ok();
                    control.stamp_ms.is_some()
                }
                _ => true,
            };
            if !known {
                let row = String::from_utf8_lossy(&self.row);
                return Err(ConnectorError::Hbase(HbaseError::Remote {
                    table: CONTROL_TABLE.to_owned(),
                    detail: format!("Row {row} holds a marker that cannot be read."),
                }));
            }
        }
        Ok(control)
    }

    /// Writes cells of the control row if the newest writer is still `expected`.
    async fn put_control(
        &self,
        expected: Option<i64>,
        cells: &[(&[u8], String)],
        timestamp: i64,
    ) -> Result<bool, ConnectorError> {
        let cell = |(qualifier, value): &(&[u8], String)| NewCell {
            family: FAMILY.to_vec(),
            qualifier: qualifier.to_vec(),
            value: value.clone().into_bytes(),
        };
        let checked = CheckedPut {
            family: FAMILY.to_vec(),
            qualifier: WRITER.to_vec(),
            expected: expected.map(|writer| writer.to_string().into_bytes()),
            put: Put {
                row: self.row.clone(),
                cells: cells.iter().map(cell).collect(),
                timestamp,
            },
        };
        let table = control_table()?;
        let done = self.client().put_if(&table, &checked, self.deadline());
        Ok(done.await?)
    }

    /// Writes the next cells of the control row, as the writer that has taken over.
    async fn put_next(
        &mut self,
        writer: i64,
        cells: &[(&[u8], String)],
    ) -> Result<(), ConnectorError> {
        self.written += 1;
        let at = self.time_of(writer, self.written)?;
        match self.put_control(Some(writer), cells, at).await? {
            true => Ok(()),
            false => Err(self.shut_out()),
        }
    }

    /// The next writer of this server may do better.
    fn fenced(&self) -> ConnectorError {
        ConnectorError::Fenced {
            writer: String::from_utf8_lossy(&self.row).into_owned(),
        }
    }

    fn shut_out(&self) -> ConnectorError {
        ConnectorError::Hbase(HbaseError::ShutOut {
            row: String::from_utf8_lossy(&self.row).into_owned(),
        })
    }

    /// Timestamp of a writer's n-th cell.
    fn time_of(&self, writer: i64, cell: i64) -> Result<i64, ConnectorError> {
        // Whoever has used its numbers up is replaced by the next writer.
        time_of(writer, cell).ok_or_else(|| self.fenced())
    }

    fn check_clock(&self, stamp_ms: i64) -> Result<(), ConnectorError> {
        let ahead_ms = stamp_ms.saturating_sub(self.clock.now_us().div_euclid(1000));
        if ahead_ms <= AHEAD_MAX_MS {
            return Ok(());
        }
        Err(ConnectorError::Hbase(HbaseError::ClockBehind {
            table: self.table.layout().table.text().to_owned(),
            ahead_s: ahead_ms / 1000,
        }))
    }

    /// The rows that a delivery inserts, and those that it deletes and does not insert again.
    fn split(&self, changes: &[Delta]) -> Result<(RecordBatch, RecordBatch), ConnectorError> {
        let internal =
            |error: arrow::error::ArrowError| ConnectorError::Internal(error.to_string());
        let (mut there, mut gone) = (Vec::new(), Vec::new());
        for delta in changes {
            let of_sign = |sign: i64| -> BooleanArray {
                let rows = 0..delta.num_rows();
                rows.map(|row| Some(delta.weights.at(row).signum() == sign))
                    .collect()
            };
            there.push(filter_record_batch(&delta.batch, &of_sign(1)).map_err(internal)?);
            gone.push(filter_record_batch(&delta.batch, &of_sign(-1)).map_err(internal)?);
        }
        let schema = match changes.first() {
            Some(delta) => delta.batch.schema(),
            None => self.table.schema(),
        };
        let there = concat_batches(&schema, &there).map_err(internal)?;
        let gone = concat_batches(&schema, &gone).map_err(internal)?;
        let layout = self.table.layout();
        // A row without a row key was never there, and is refused when it comes.
        let key = |batch: &RecordBatch, row| row_key(layout, batch, row).ok();
        let kept: HashSet<Vec<u8>> = (0..there.num_rows())
            .filter_map(|row| key(&there, row))
            .collect();
        let only_gone: BooleanArray = (0..gone.num_rows())
            .map(|row| Some(key(&gone, row).is_some_and(|key| !kept.contains(&key))))
            .collect();
        let gone = filter_record_batch(&gone, &only_gone).map_err(internal)?;
        Ok((there, gone))
    }
}

#[async_trait]
impl CommittingSink for HbaseCommitter {
    fn form(&self) -> Form {
        Form::Upsert
    }

    async fn check(&self) -> Result<(), ConnectorError> {
        self.table.check().await?;
        self.ensure_control().await?;
        self.control().await.map(drop)
    }

    async fn take_over(&mut self) -> Result<Option<Marker>, ConnectorError> {
        self.writer = None;
        // It may have been there at CREATE and have gone since.
        self.ensure_control().await?;
        for _ in 0..TAKE_OVER_TRIES {
            let control = self.control().await?;
            let next = control.writer.unwrap_or(0).saturating_add(1);
            let cell = [(WRITER, next.to_string())];
            if self
                .put_control(control.writer, &cell, self.time_of(next, 0)?)
                .await?
            {
                let whole_ms = control.whole_ms();
                self.table.committed().taken_over(self.sink, whole_ms);
                (self.writer, self.written) = (Some(next), 0);
                self.committed = control.marker;
                self.is_stamped = control.stamp_ms.is_some();
                return Ok(control.marker);
            }
        }
        Err(self.fenced())
    }

    async fn deliver(&mut self, staged: &Staged) -> Result<Option<Marker>, ConnectorError> {
        // Taken out, so that whoever goes on after an error has not taken over.
        let Some(writer) = self.writer.take() else {
            return Err(ConnectorError::Internal(
                "a delivery without having taken over".into(),
            ));
        };
        self.check_clock(staged.stamp_ms)?;
        if self.control().await?.writer != Some(writer) {
            return Err(self.shut_out());
        }
        let (there, gone) = self.split(&staged.changes)?;
        if !self.is_stamped {
            // Without a marker nothing else would tell the next process that there may be a part of it.
            let cell = [(STAMP, before(staged.stamp_ms).to_string())];
            self.put_next(writer, &cell).await?;
        }
        self.table.pass(Step::HbaseRows)?;
        self.table.committed().begin(self.sink, staged.stamp_ms);
        let written = self.table.deliver(&there, &gone, staged.stamp_ms).await?;
        let mut refusals = Refusals::default();
        for row in written.refused {
            refusals.add(row.error);
        }
        let table = self.table.layout().table.text();
        self.refused.extend(refusals.take(table));
        let cells = [
            (MARKER, text(staged.marker)),
            (STAMP, staged.stamp_ms.to_string()),
        ];
        self.table.pass(Step::HbaseMarker)?;
        self.put_next(writer, &cells).await?;
        self.table.pass(Step::HbaseMarked)?;
        // Of a delivery of several parts readers see all or nothing.
        if staged.marker.last {
            self.table.committed().end(self.sink, staged.stamp_ms);
        }
        self.writer = Some(writer);
        self.committed = Some(staged.marker);
        Ok(self.committed)
    }

    async fn commit(&mut self, _due: Due) -> Result<Option<Marker>, ConnectorError> {
        Ok(self.committed)
    }

    fn take_refused(&mut self) -> Vec<ConnectorError> {
        std::mem::take(&mut self.refused)
    }
}

/// The timestamp of a writer's n-th cell in the control row: after those of earlier writers and its own, whatever the clocks of
/// servers and regions do. `None` when there are no more.
fn time_of(writer: i64, cell: i64) -> Option<i64> {
    let fits = (0..1 << WRITER_SHIFT).contains(&cell);
    let before = writer.checked_mul(1 << WRITER_SHIFT)?;
    fits.then_some(before + cell)
}

fn control_table() -> Result<TableName, ConnectorError> {
    TableName::parse(CONTROL_TABLE).map_err(|reason| ConnectorError::Internal(reason.into()))
}

fn text(marker: Marker) -> String {
    let end = if marker.last { "last" } else { "more" };
    format!("{}/{}/{end}", marker.epoch, marker.part)
}

fn parse(text: &str) -> Option<Marker> {
    let mut parts = text.split('/');
    let marker = Marker {
        epoch: parts.next()?.parse().ok()?,
        part: parts.next()?.parse().ok()?,
        last: match parts.next()? {
            "last" => true,
            "more" => false,
            _ => return None,
        },
    };
    parts.next().is_none().then_some(marker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_the_control_row_never_go_back() {
        let last = (1 << WRITER_SHIFT) - 1;
        let cells = [(1, 0), (1, 1), (1, last), (2, 0), (i32::MAX as i64, last)];
        let times: Vec<_> = cells.iter().map(|(w, c)| time_of(*w, *c)).collect();
        assert!(times.is_sorted_by(|a, b| a.is_some() && a < b), "{times:?}");
        assert_eq!(time_of(1, last + 1), None);
        assert_eq!(time_of(i64::MAX, 0), None);
    }

    #[test]
    fn markers_are_read_back_and_nothing_else() {
        for (epoch, part, last) in [(0, 0, false), (7, 3, true), (u64::MAX, u32::MAX, true)] {
            let marker = Marker { epoch, part, last };
            assert_eq!(parse(&text(marker)), Some(marker));
        }
        for other in [
            "",
            "1",
            "1/2",
            "1/2/end",
            "1/2/last/3",
            "-1/0/last",
            "1/x/more",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
