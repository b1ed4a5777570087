//! Weighted batches as bytes: Arrow IPC streams with their weights in front and a checksum behind.
//!
//! Invariant: the checksum is compared before any byte is decoded, and Arrow's decoder, which panics on some bad input, runs
//! behind a panic guard; so damaged bytes give an error that says so.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;

use crate::error::StateError;

const FORMAT: u8 = 1;

/// Largest record; the database itself stops at 3 GiB, in the middle of a transaction.
const RECORD_BYTES_MAX: usize = 2 << 30;

/// How often each row counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Multiplicity {
    /// All rows alike.
    Constant(i64),
    /// One weight per row.
    Each(Vec<i64>),
}

/// A batch with signed weights.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedBatch {
    /// The rows.
    pub batch: RecordBatch,
    /// Their weights.
    pub weights: Multiplicity,
}

/// Encodes changes as one record.
///
/// # Errors
/// When Arrow cannot write a batch, or the record is too large for the database.
pub fn encode_batches(batches: &[WeightedBatch]) -> Result<Vec<u8>, StateError> {
    let mut out = vec![FORMAT];
    out.extend_from_slice(&(batches.len() as u32).to_le_bytes());
    for item in batches {
        match &item.weights {
            Multiplicity::Constant(weight) => {
                out.push(0);
                out.extend_from_slice(&weight.to_le_bytes());
            }
            Multiplicity::Each(weights) => {
                out.push(1);
                out.extend_from_slice(&(weights.len() as u64).to_le_bytes());
                weights
                    .iter()
                    .for_each(|weight| out.extend_from_slice(&weight.to_le_bytes()));
            }
        }
        let mut ipc = Vec::new();
        let mut writer = StreamWriter::try_new(&mut ipc, item.batch.schema_ref())?;
        writer.write(&item.batch)?;
        writer.finish()?;
        out.extend_from_slice(&(ipc.len() as u64).to_le_bytes());
        out.extend_from_slice(&ipc);
        if out.len() > RECORD_BYTES_MAX {
            return Err(StateError::TooLarge(out.len()));
        }
    }
    Ok(sealed(out))
}

/// Decodes one record; `record` names it in errors.
///
/// # Errors
/// `Corrupt` when the bytes are not what `encode_batches` wrote.
pub fn decode_batches(record: &str, bytes: &[u8]) -> Result<Vec<WeightedBatch>, StateError> {
    let body = unsealed(bytes).map_err(|reason| StateError::corrupt(record, reason))?;
    catch_unwind(AssertUnwindSafe(|| decode_body(body)))
        .unwrap_or_else(|_| Err("the Arrow data cannot be decoded".into()))
        .map_err(|reason| StateError::corrupt(record, reason))
}

fn decode_body(body: &[u8]) -> Result<Vec<WeightedBatch>, String> {
    let mut cursor = Cursor::new(body);
    if cursor.u8()? != FORMAT {
        return Err("it has an unknown format".into());
    }
    let count = cursor.u32()?;
    let mut batches = Vec::new();
    for _ in 0..count {
        let weights = match cursor.u8()? {
            0 => Multiplicity::Constant(cursor.i64()?),
            1 => {
                let len = cursor.u64()? as usize;
                let raw = cursor.take(len.checked_mul(8).ok_or("its weights do not fit")?)?;
                Multiplicity::Each(
                    raw.as_chunks::<8>()
                        .0
                        .iter()
                        .map(|bytes| i64::from_le_bytes(*bytes))
                        .collect(),
                )
            }
            _ => return Err("its weights have an unknown form".into()),
        };
        let len = cursor.u64()? as usize;
        let mut reader =
            StreamReader::try_new(cursor.take(len)?, None).map_err(|error| error.to_string())?;
        let batch = reader
            .next()
            .ok_or("it has no batch")?
            .map_err(|error| error.to_string())?;
        if let Multiplicity::Each(each) = &weights
            && each.len() != batch.num_rows()
        {
            return Err("it has as many weights as rows only when it is whole".into());
        }
        batches.push(WeightedBatch { batch, weights });
    }
    cursor.end()?;
    Ok(batches)
}

/// Appends the checksum.
pub(crate) fn sealed(mut body: Vec<u8>) -> Vec<u8> {
    let sum = crc32c::crc32c(&body);
    body.extend_from_slice(&sum.to_le_bytes());
    body
}

/// Checks and removes the checksum.
pub(crate) fn unsealed(bytes: &[u8]) -> Result<&[u8], String> {
    let (body, sum) = bytes.split_last_chunk::<4>().ok_or("it is too short")?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*sum) {
        return Err("its checksum does not match".into());
    }
    Ok(body)
}

/// Reads little-endian values off a slice; running out is an error.
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or("it ends too early")?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or("it ends too early")?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, String> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, String> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(crate) fn end(&self) -> Result<(), String> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err("it has bytes too many".into())
        }
    }
}
