//! Archives: read from the files that their manifests name when a query runs, written to by INSERT or by what fills them.
//!
//! Invariant: a query reads each archive at one commit, however long it runs, and leaves out only files that hold no row it asks
//! for. The rows of an INSERT are one commit: readers see all of them or none.

mod feed;
mod read;
mod upkeep;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result as DataFusionResult, ScalarValue, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::source_as_provider;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::DataFusionError;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::expr_rewriter::unnormalize_cols;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan, TableProviderFilterPushDown, TableType};
use datafusion::physical_optimizer::pruning::{PruningPredicateBuilder, PruningStatistics};
use datafusion::physical_plan::ExecutionPlan;
use parking_lot::Mutex;
use thalweg_catalog::{Oid, Relation, Report};
use thalweg_connectors::{
    ArchiveError, ArchiveSink, ArchiveTable, ConnectorError, DataFile, FeedId, Reached, Snapshot,
    Vacuumed,
};
use thalweg_planner::{Conflict, DmlPlan, RelationScan};
use tokio::runtime::Handle;

use crate::batch::{conform, joined, with_relations};
use crate::committing::Open;
use crate::error::EngineError;
use crate::shared::Shared;
use crate::status::ArchiveFile;
pub use feed::feed_of;
use read::{Footers, Readers};
pub(crate) use upkeep::keep_up;

/// A declared archive.
#[derive(Debug)]
pub(crate) struct Archive {
    name: String,
    table: Arc<ArchiveTable>,
    /// Where connections live.
    wires: Handle,
    footers: Footers,
    /// Its upkeep is being done.
    in_upkeep: AtomicBool,
    /// Why its upkeep was put off the last time.
    put_off: Mutex<Option<String>>,
}

fn report(error: ArchiveError) -> Report {
    ConnectorError::from(error).report()
}

impl Archive {
    /// Contacts nobody.
    pub(crate) fn open(
        shared: &Shared,
        relation: &Relation,
        feed: Option<FeedId>,
    ) -> Result<Arc<Self>, EngineError> {
        // A client of HDFS keeps to the runtime that it was made in.
        let _wires = shared.wires.enter();
        let table = ArchiveTable::new(relation, feed, &shared.connector_context());
        let table = table.map_err(|error| error.report())?;
        Ok(Arc::new(Self {
            name: relation.name.clone(),
            table: Arc::new(table),
            wires: shared.wires.clone(),
            footers: Footers::default(),
            in_upkeep: AtomicBool::new(false),
            put_off: Mutex::default(),
        }))
    }

    /// Opens the writers of an archive that a source or view fills.
    pub(crate) fn opener(&self) -> Open {
        let table = Arc::clone(&self.table);
        Box::new(move || Ok(Box::new(ArchiveSink::new(Arc::clone(&table)))))
    }

    /// 0A000 for what archives do not take.
    pub(crate) fn refuses(&self, what: &str) -> Report {
        Report {
            sqlstate: "0A000",
            message: format!("{what} on archive \"{}\" are not supported", self.name),
            detail: None,
            hint: Some("INSERT adds rows, all rows of a statement in one commit.".into()),
            position: None,
        }
    }

    /// The archive at its newest commit.
    pub(crate) async fn snapshot(&self) -> Result<Arc<Snapshot>, EngineError> {
        let table = Arc::clone(&self.table);
        let snapshot = self.wires.spawn(async move { table.snapshot().await });
        Ok(joined(snapshot.await)?.map_err(report)?)
    }

    /// The archive at this commit, for a query.
    pub(crate) fn at(self: &Arc<Self>, snapshot: Arc<Snapshot>) -> Arc<dyn TableProvider> {
        Arc::new(Provider {
            snapshot,
            archive: Arc::clone(self),
        })
    }

    /// How far at this commit what fills the archive is in it; `None` before the first commit.
    ///
    /// # Errors
    /// 55000 when the newest commit is of something else.
    pub(crate) fn reached<'a>(
        &self,
        snapshot: &'a Snapshot,
    ) -> Result<Option<&'a Arc<Reached>>, EngineError> {
        Ok(self.table.reached(snapshot).map_err(report)?)
    }

    /// Whether it may go on where another archive ended.
    pub(crate) fn is_attached(&self) -> bool {
        self.table.is_attached()
    }

    /// How far its source was in the archive that it was attached to.
    ///
    /// # Errors
    /// 55000 when another server, or something else, has filled that last.
    pub(crate) fn inherited<'a>(
        &self,
        snapshot: &'a Snapshot,
    ) -> Result<Option<&'a Arc<Reached>>, EngineError> {
        Ok(self.table.inherited(snapshot).map_err(report)?)
    }

    /// Bytes of memory that files being written hold.
    pub(crate) fn held_bytes(&self) -> usize {
        self.table.held_bytes()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What a statement adds, in the archive's own columns.
    pub(crate) fn added(
        &self,
        plan: &DmlPlan,
        rows: &[RecordBatch],
    ) -> Result<Vec<RecordBatch>, EngineError> {
        match plan {
            DmlPlan::Insert {
                conflict: Conflict::Error,
                returning: None,
                ..
            } => {}
            DmlPlan::Insert {
                returning: Some(_), ..
            } => return Err(self.refuses("RETURNING clauses").into()),
            DmlPlan::Insert { .. } => return Err(self.refuses("ON CONFLICT clauses").into()),
            DmlPlan::Update { .. } => return Err(self.refuses("UPDATE statements").into()),
            DmlPlan::Delete { .. } => return Err(self.refuses("DELETE statements").into()),
        }
        let schema = self.table.schema();
        let new = rows.iter().map(|batch| self.own_rows(batch, &schema));
        new.collect()
    }

    /// Adds rows of its own columns in one commit.
    pub(crate) async fn insert(
        &self,
        rows: Vec<RecordBatch>,
        epoch: u64,
    ) -> Result<(), EngineError> {
        let table = Arc::clone(&self.table);
        // Runs to its end even when the caller goes away.
        let insert = self
            .wires
            .spawn(async move { table.insert(&rows, epoch).await });
        Ok(joined(insert.await)?.map_err(report)?)
    }

    /// Makes large files of small ones.
    pub(crate) async fn vacuum(&self) -> Result<Vacuumed, EngineError> {
        let table = Arc::clone(&self.table);
        // Runs to its end even when the caller goes away.
        let vacuum = self.wires.spawn(async move { table.vacuum().await });
        Ok(joined(vacuum.await)?.map_err(report)?)
    }

    /// The batch in the archive's own fields, or 23502.
    fn own_rows(
        &self,
        batch: &RecordBatch,
        schema: &SchemaRef,
    ) -> Result<RecordBatch, EngineError> {
        for (field, column) in schema.fields().iter().zip(batch.columns()) {
            if !field.is_nullable() && column.logical_null_count() > 0 {
                return Err(EngineError::from(Report::new(
                    "23502",
                    format!(
                        "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
                        field.name(),
                        self.name
                    ),
                )));
            }
        }
        conform(batch, schema)
    }

    /// The files of an archive now, for `sys.archive_files`.
    pub(crate) async fn files(&self) -> Result<Vec<ArchiveFile>, EngineError> {
        let snapshot = self.snapshot().await?;
        let layout = self.table.layout();
        let schema = layout.schema();
        let names: Vec<&str> = layout
            .partition()
            .iter()
            .map(|at| schema.field(*at).name().as_str())
            .collect();
        let partition = |file: &DataFile| {
            let parts: Vec<String> = names
                .iter()
                .zip(&file.partition)
                .map(|(name, value)| match value {
                    Some(value) => format!("{name}={value}"),
                    None => format!("{name}=NULL"),
                })
                .collect();
            (!parts.is_empty()).then(|| parts.join("/"))
        };
        let files = snapshot.files().iter();
        Ok(files
            .map(|file| ArchiveFile {
                archive: self.name.clone(),
                path: file.path.clone(),
                partition: partition(file),
                rows: file.rows,
                bytes: file.bytes,
                first_epoch: file.first_epoch,
                last_epoch: file.last_epoch,
            })
            .collect())
    }
}

/// Which files of the archives in a plan it would read.
pub(crate) async fn explain(
    shared: &Shared,
    plan: &LogicalPlan,
    reads: &[Oid],
) -> Result<Vec<String>, EngineError> {
    let known: Vec<(Oid, Arc<Archive>)> = {
        let archives = shared.archives.read();
        let found = reads
            .iter()
            .filter_map(|oid| Some((*oid, Arc::clone(archives.get(oid)?))));
        found.collect()
    };
    if known.is_empty() {
        return Ok(Vec::new());
    }
    let mut providers: BTreeMap<Oid, Arc<dyn TableProvider>> = BTreeMap::new();
    for (oid, archive) in known {
        let snapshot = archive.snapshot().await?;
        providers.insert(oid, archive.at(snapshot));
    }
    let bound = plan.clone().transform_up_with_subqueries(|node| {
        let leaf = match &node {
            LogicalPlan::TableScan(scan) => scan
                .source
                .downcast_ref::<RelationScan>()
                .and_then(|leaf| providers.get(&leaf.oid)),
            _ => None,
        };
        match leaf {
            Some(provider) => {
                with_relations(node, &mut |_| Ok(Arc::clone(provider))).map(Transformed::yes)
            }
            None => Ok(Transformed::no(node)),
        }
    })?;
    let state = shared.planner.session_state();
    let optimized = state.optimize(&bound.data)?;
    let mut lines = Vec::new();
    optimized.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = source_as_provider(&scan.source)
            && let Some(provider) = provider.downcast_ref::<Provider>()
        {
            let chosen = provider.choose(&state, &scan.filters)?;
            let all = provider.snapshot.files();
            let rows: u64 = chosen.iter().map(|file| file.rows).sum();
            lines.push(format!(
                "Archive {}: {} of {} files, {rows} rows",
                provider.archive.name,
                chosen.len(),
                all.len()
            ));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(lines)
}

/// An archive at one commit.
#[derive(Debug)]
struct Provider {
    archive: Arc<Archive>,
    snapshot: Arc<Snapshot>,
}

impl Provider {
    /// The files that may hold rows for which all filters are true.
    fn choose(
        &self,
        session: &dyn Session,
        filters: &[Expr],
    ) -> DataFusionResult<Vec<Arc<DataFile>>> {
        let files = self.snapshot.files();
        // The columns of a scan need no name in front.
        let Some(filter) = conjunction(unnormalize_cols(filters.iter().cloned())) else {
            return Ok(files.to_vec());
        };
        let layout = self.archive.table.layout();
        let schema = layout.schema();
        let df_schema = DFSchema::try_from(Arc::clone(&schema))?;
        // What cannot be judged by bounds leaves every file in.
        let Ok(predicate) = session
            .create_physical_expr(filter, &df_schema)
            .and_then(|filter| {
                PruningPredicateBuilder::new()
                    .with_file_schema(Arc::clone(&schema))
                    .try_build(filter)
            })
        else {
            return Ok(files.to_vec());
        };
        let known = Known {
            archive: &self.archive,
            schema,
            files,
        };
        let Ok(kept) = predicate.prune(&known) else {
            return Ok(files.to_vec());
        };
        let chosen = files.iter().zip(kept).filter(|(_, kept)| *kept);
        Ok(chosen.map(|(file, _)| Arc::clone(file)).collect())
    }

    /// The files with the values of their partitions.
    fn partitioned(&self, files: &[Arc<DataFile>]) -> DataFusionResult<Vec<PartitionedFile>> {
        let layout = self.archive.table.layout();
        let mut values: Vec<ArrayRef> = Vec::new();
        for (at, column) in layout.partition().iter().enumerate() {
            values.push(partition_values(&self.archive, *column, at, files)?);
        }
        files
            .iter()
            .enumerate()
            .map(|(row, file)| {
                let own: DataFusionResult<Vec<ScalarValue>> = values
                    .iter()
                    .map(|column| ScalarValue::try_from_array(column, row))
                    .collect();
                // The name is for messages; a store's path need not be one of an object store.
                let part = PartitionedFile::new(file.path.clone(), file.bytes);
                let part = part.with_partition_values(own?);
                Ok(part.with_extension(Arc::clone(file)))
            })
            .collect()
    }
}

fn external(error: impl Into<Report>) -> DataFusionError {
    DataFusionError::External(Box::new(error.into()))
}

/// The value of a partition column, `at` among them, in each file.
fn partition_values(
    archive: &Archive,
    column: usize,
    at: usize,
    files: &[Arc<DataFile>],
) -> DataFusionResult<ArrayRef> {
    let text = |file: &'_ Arc<DataFile>| file.partition.get(at).cloned().flatten();
    let texts: Vec<Option<String>> = files.iter().map(text).collect();
    let texts: Vec<Option<&str>> = texts.iter().map(Option::as_deref).collect();
    let values = archive.table.layout().partition_values(column, &texts);
    values.map_err(|error| external(report(error)))
}

#[async_trait]
impl TableProvider for Provider {
    fn schema(&self) -> SchemaRef {
        self.archive.table.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Filters choose files and parts of files; which rows they keep is for the query to say.
    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let layout = self.archive.table.layout();
        let schema = layout.schema();
        let chosen = self.choose(session, filters)?;
        // A scan's columns are those of the files, then those of the folders.
        let places: Vec<usize> = layout
            .in_file()
            .iter()
            .chain(layout.partition())
            .copied()
            .collect();
        let wanted = match projection {
            Some(wanted) => wanted.clone(),
            None => (0..schema.fields().len()).collect(),
        };
        let wanted: Vec<usize> = wanted
            .iter()
            .filter_map(|column| places.iter().position(|place| place == column))
            .collect();
        let field = |at: &usize| Arc::new(Field::clone(schema.field(*at)));
        let in_file: Vec<Arc<Field>> = layout.in_file().iter().map(field).collect();
        let folders: Vec<Arc<Field>> = layout.partition().iter().map(field).collect();
        let columns = TableSchema::builder(Arc::new(Schema::new(in_file)))
            .with_table_partition_cols(folders)
            .build();
        let mut statistics = Statistics::new_unknown(columns.table_schema());
        let rows: u64 = chosen.iter().map(|file| file.rows).sum();
        statistics.num_rows = Precision::Exact(usize::try_from(rows).unwrap_or(usize::MAX));
        let readers = Readers::of(&self.archive);
        let source =
            ParquetSource::new(columns).with_parquet_file_reader_factory(Arc::new(readers));
        let mut groups = FileGroup::new(self.partitioned(&chosen)?)
            .split_files(session.config().target_partitions().max(1));
        if groups.is_empty() {
            // Operators above take no rows from one partition, and cannot from none.
            groups.push(FileGroup::new(Vec::new()));
        }
        // The readers open files; that the scan names a store is only a matter of form.
        let store = ObjectStoreUrl::local_filesystem();
        let scan = FileScanConfigBuilder::new(store, Arc::new(source))
            .with_file_groups(groups)
            .with_statistics(statistics)
            .with_limit(limit)
            .with_projection_indices(Some(wanted))?
            .build();
        Ok(DataSourceExec::from_data_source(scan))
    }
}

/// What manifests tell of files, as the pruning of DataFusion asks for it.
struct Known<'a> {
    archive: &'a Archive,
    schema: SchemaRef,
    files: &'a [Arc<DataFile>],
}

impl Known<'_> {
    /// Values of a partition column; `None` for other columns.
    fn folders(&self, name: &str) -> Option<ArrayRef> {
        let column = self.schema.index_of(name).ok()?;
        let partition = self.archive.table.layout().partition();
        let at = partition.iter().position(|place| *place == column)?;
        partition_values(self.archive, column, at, self.files).ok()
    }

    fn bounds(&self, name: &str) -> Option<thalweg_connectors::Bounds> {
        let field = self.schema.field_with_name(name).ok()?;
        Some(Snapshot::bounds(self.files, name, field.data_type()))
    }
}

impl PruningStatistics for Known<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        let folders = self.folders(&column.name);
        folders.or_else(|| Some(self.bounds(&column.name)?.min))
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        let folders = self.folders(&column.name);
        folders.or_else(|| Some(self.bounds(&column.name)?.max))
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let Some(values) = self.folders(&column.name) else {
            return Some(Arc::new(self.bounds(&column.name)?.nulls));
        };
        let files = self.files.iter().enumerate();
        let nulls = files.map(|(at, file)| if values.is_null(at) { file.rows } else { 0 });
        Some(Arc::new(UInt64Array::from_iter_values(nulls)))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let rows = self.files.iter().map(|file| file.rows);
        Some(Arc::new(UInt64Array::from_iter_values(rows)))
    }

    fn contained(
        &self,
        _column: &Column,
        _values: &std::collections::HashSet<ScalarValue>,
    ) -> Option<BooleanArray> {
        None
    }
}
