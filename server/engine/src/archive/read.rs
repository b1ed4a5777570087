//! Reads the files of an archive for scans, and keeps their footers.
//!
//! Invariant: a file of an archive never changes, so a footer that is kept is the file's. What is kept is bounded in bytes.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::parquet::arrow::arrow_reader::ArrowReaderOptions;
use datafusion::parquet::arrow::async_reader::AsyncFileReader;
use datafusion::parquet::errors::{ParquetError, Result as ParquetResult};
use datafusion::parquet::file::metadata::{
    PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader,
};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use thalweg_catalog::Report;
use thalweg_connectors::DataFile;

use super::{Archive, report};
use crate::batch::joined;

/// Bytes read from the end of a file at once: most footers are shorter.
const FOOTER_BYTES: usize = 32 << 10;
/// Bytes of footers that are kept of one archive.
const FOOTERS_BYTES_MAX: usize = 32 << 20;

/// Footers of files that were read before.
#[derive(Debug, Default)]
pub(super) struct Footers(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// By path, with when it was asked for last.
    footers: HashMap<String, (u64, Arc<ParquetMetaData>)>,
    bytes: usize,
    turn: u64,
}

impl Footers {
    fn get(&self, path: &str) -> Option<Arc<ParquetMetaData>> {
        let mut kept = self.0.lock();
        kept.turn += 1;
        let turn = kept.turn;
        let (asked, footer) = kept.footers.get_mut(path)?;
        *asked = turn;
        Some(Arc::clone(footer))
    }

    fn keep(&self, path: &str, footer: &Arc<ParquetMetaData>) {
        let mut kept = self.0.lock();
        kept.turn += 1;
        let entry = (kept.turn, Arc::clone(footer));
        if kept.footers.insert(path.to_owned(), entry).is_none() {
            kept.bytes += footer.memory_size();
        }
        if kept.bytes > FOOTERS_BYTES_MAX {
            kept.make_room();
        }
    }
}

impl Kept {
    /// Forgets what was not asked for the longest, down to half: so the next ones need not look again.
    fn make_room(&mut self) {
        let asked = self.footers.iter().map(|(path, (turn, footer))| {
            let bytes = footer.memory_size();
            (*turn, path.clone(), bytes)
        });
        let mut oldest: Vec<(u64, String, usize)> = asked.collect();
        oldest.sort_unstable();
        for (_, path, bytes) in oldest {
            if self.bytes <= FOOTERS_BYTES_MAX / 2 {
                return;
            }
            self.footers.remove(&path);
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }
}

/// Opens the files of an archive for a scan.
#[derive(Debug)]
pub(super) struct Readers {
    archive: Arc<Archive>,
}

impl Readers {
    pub(super) fn of(archive: &Arc<Archive>) -> Self {
        Self {
            archive: Arc::clone(archive),
        }
    }
}

impl ParquetFileReaderFactory for Readers {
    fn create_reader(
        &self,
        _partition: usize,
        file: PartitionedFile,
        _metadata_size_hint: Option<usize>,
        _metrics: &ExecutionPlanMetricsSet,
    ) -> DataFusionResult<Box<dyn AsyncFileReader + Send>> {
        let data = file.extension::<Arc<DataFile>>().ok_or_else(|| {
            DataFusionError::Internal("a scan of an archive has a file of its own".into())
        })?;
        Ok(Box::new(Reader {
            archive: Arc::clone(&self.archive),
            file: Arc::clone(data),
        }))
    }
}

/// One file of an archive, read where connections live.
struct Reader {
    archive: Arc<Archive>,
    file: Arc<DataFile>,
}

impl Reader {
    async fn read(&self, range: Range<u64>) -> ParquetResult<Bytes> {
        let (table, file) = (Arc::clone(&self.archive.table), Arc::clone(&self.file));
        let read = async move { table.read(&file, range).await };
        let read = self.archive.wires.spawn(read);
        let failed = |report: Report| ParquetError::External(Box::new(report));
        match joined(read.await) {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => Err(failed(report(error.into()))),
            Err(error) => Err(failed(error.report())),
        }
    }
}

impl AsyncFileReader for Reader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        self.read(range).boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        let this = &*self;
        async move {
            futures::future::try_join_all(ranges.into_iter().map(|range| this.read(range))).await
        }
        .boxed()
    }

    /// Whatever is asked for: all that there is of a footer, so that it serves everybody.
    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        async move {
            let (archive, file) = (Arc::clone(&self.archive), Arc::clone(&self.file));
            if let Some(footer) = archive.footers.get(&file.path) {
                return Ok(footer);
            }
            let reader = ParquetMetaDataReader::new()
                .with_prefetch_hint(Some(FOOTER_BYTES))
                .with_page_index_policy(PageIndexPolicy::Optional);
            let footer = Arc::new(reader.load_and_finish(self, file.bytes).await?);
            archive.footers.keep(&file.path, &footer);
            Ok(footer)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::Int64Array;
    use datafusion::arrow::record_batch::RecordBatch;
    use datafusion::parquet::arrow::ArrowWriter;

    use super::*;
    use crate::error::EngineError;

    fn footer() -> Arc<ParquetMetaData> {
        let column = Arc::new(Int64Array::from(vec![1, 2, 3])) as _;
        let rows = RecordBatch::try_from_iter([("n", column)]).expect("rows");
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, rows.schema(), None).expect("a writer");
        writer.write(&rows).expect("written");
        writer.close().expect("closed");
        let parsed = ParquetMetaDataReader::new().parse_and_finish(&Bytes::from(bytes));
        Arc::new(parsed.expect("a footer"))
    }

    #[test]
    fn footers_are_kept_within_bounds_and_those_in_use_the_longest() {
        let (footers, footer) = (Footers::default(), footer());
        footers.keep("used", &footer);
        let fit = FOOTERS_BYTES_MAX / footer.memory_size();
        for number in 0..fit + 10 {
            footers.keep(&format!("{number}"), &footer);
            let found = footers.get("used").expect("what is asked for stays");
            assert!(Arc::ptr_eq(&found, &footer));
        }
        let kept = footers.0.lock();
        assert!(kept.bytes <= FOOTERS_BYTES_MAX);
        assert_eq!(kept.bytes, kept.footers.len() * footer.memory_size());
        assert!(kept.footers.contains_key(&format!("{}", fit + 9)));
        assert!(!kept.footers.contains_key("0"));
    }

    #[test]
    fn what_a_store_says_of_a_file_reaches_who_asked() {
        let said = Report {
            detail: Some("No DataNode answers.".into()),
            ..Report::new("08006", "could not read \"a\"")
        };
        let error = ParquetError::External(Box::new(said.clone()));
        let told = EngineError::from(DataFusionError::from(error)).report();
        assert_eq!((told.sqlstate, told.message), (said.sqlstate, said.message));
        assert_eq!(told.detail, said.detail);
    }
}
