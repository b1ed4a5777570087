//! Reads an archive for a view that begins over the source behind it, and finds where an archive begins that goes on with another.
//!
//! Invariant: what is handed over are all rows of the archive at one commit, in the source's columns, and the source is read from
//! exactly where that commit ends. So whenever a view begins, it has taken in every row that was produced, each once.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, new_null_array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::physical_plan::SendableRecordBatchStream;
use futures::StreamExt;
use thalweg_catalog::{Oid, Report};
use thalweg_connectors::{ColumnsRead, Offsets};

use crate::archive::Archive;
use crate::batch::{RunLimits, stream};
use crate::error::EngineError;
use crate::hybrid::{behind, place_of};
use crate::job::Job;
use crate::scan::ScanProgress;
use crate::shared::Shared;
use crate::source::{PACE_CHECK, Source};

/// The rows of an archive at one commit.
pub(crate) struct History {
    shared: Arc<Shared>,
    rows: SendableRecordBatchStream,
    /// The source's columns.
    schema: SchemaRef,
    pub(crate) progress: Arc<ScanProgress>,
    /// Where the source goes on.
    pub(crate) ends: Offsets,
}

impl History {
    /// Takes hold of the newest commit. Must be called from a thread that may wait.
    ///
    /// # Errors
    /// 55000 when it is not known where the source goes on after the commit, or the source has not come that far, and what the
    /// archive's store reports.
    pub(crate) fn open(
        shared: &Arc<Shared>,
        source: &Source,
        archive: Oid,
        columns: &ColumnsRead,
    ) -> Result<Self, EngineError> {
        let known = shared.archives.read().get(&archive).cloned();
        let archive = known.ok_or(EngineError::Unknown(archive))?;
        let runtime = shared.batch.handle();
        let snapshot = runtime.block_on(archive.snapshot())?;
        let place = match archive.reached(&snapshot)? {
            Some(reached) => place_of(&archive, reached)?,
            None => Offsets::new(),
        };
        let here = source.newest_place().map(|(_, offsets)| offsets);
        not_ahead(&archive, source, here.as_ref(), &place)?;
        let total = snapshot.files().iter().map(|file| file.rows).sum();
        let provider = archive.at(snapshot);
        let (kept, schema) = (provider.schema(), source.history.schema());
        // What the view does not read need not be there, unless its column promises to be.
        let wanted = schema
            .fields()
            .iter()
            .filter(|field| columns.has(field.name()) || !field.is_nullable())
            .map(|field| kept.index_of(field.name()))
            .collect::<Result<Vec<_>, _>>()?;
        let plan = LogicalPlanBuilder::scan("archive", provider_as_source(provider), Some(wanted))?
            .build()?;
        let limits = RunLimits {
            now_us: shared.clock.now_us(),
            memory: shared
                .memory
                .recomputing
                .query(shared.config.job_memory_max),
        };
        let planner = Arc::clone(&shared.planner);
        let rows = runtime.block_on(stream(&shared.batch, planner, plan, limits))?;
        Ok(Self {
            shared: Arc::clone(shared),
            rows,
            schema,
            progress: ScanProgress::of_rows(archive.name(), total),
            ends: behind(source, &place),
        })
    }

    /// The next rows; `None` at the end, or when `over` says that nobody wants them.
    ///
    /// # Errors
    /// What the archive's store reports.
    pub(crate) fn next(
        &mut self,
        over: &dyn Fn() -> bool,
    ) -> Result<Option<RecordBatch>, EngineError> {
        while self.shared.held_back().is_some() && !over() {
            std::thread::park_timeout(PACE_CHECK);
        }
        if over() {
            return Ok(None);
        }
        match self.shared.batch.handle().block_on(self.rows.next()) {
            Some(rows) => {
                let rows = in_columns(&rows?, &self.schema)?;
                self.progress.count(rows.num_rows());
                Ok(Some(rows))
            }
            None => Ok(None),
        }
    }
}

/// The rows with all columns of a source; those that were not read are NULL.
fn in_columns(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, EngineError> {
    let columns = schema
        .fields()
        .iter()
        .map(|field| match rows.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
            Some(column) => cast(column, field.data_type()),
            None => Ok(new_null_array(field.data_type(), rows.num_rows())),
        });
    let columns = columns.collect::<Result<Vec<ArrayRef>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(schema),
        columns,
        &options,
    )?)
}

/// Where an archive begins that was attached to rows of its source.
pub(crate) struct Attached {
    archive: Arc<Archive>,
    place: Offsets,
}

impl Attached {
    /// What a job has to know before it begins; `None` for one that fills no such archive. Must be called from a thread that may
    /// wait.
    ///
    /// # Errors
    /// 55000 when it is not known where the source goes on, and what the archive's store reports.
    pub(crate) fn of(shared: &Shared, job: &Job) -> Result<Option<Self>, EngineError> {
        let known = shared.archives.read().get(&job.oid).cloned();
        // Nobody else waits for the store.
        let Some(archive) = known.filter(|archive| archive.is_attached()) else {
            return Ok(None);
        };
        let snapshot = shared.batch.handle().block_on(archive.snapshot())?;
        let Some(reached) = archive.inherited(&snapshot)? else {
            return Ok(None);
        };
        if !job.linear {
            return Err(stateful(&archive).into());
        }
        let place = place_of(&archive, reached)?;
        Ok(Some(Self { archive, place }))
    }

    /// Where the source goes on.
    pub(crate) fn start(&self, source: &Source) -> Offsets {
        behind(source, &self.place)
    }

    /// What comes after this place of the source must not be in the archive.
    ///
    /// # Errors
    /// 55000 when it is.
    pub(crate) fn check(&self, source: &Source, here: Option<&Offsets>) -> Result<(), EngineError> {
        not_ahead(&self.archive, source, here, &self.place)
    }
}

/// What the state of a query would have to hold is in the rows that are not read again.
fn stateful(archive: &Archive) -> Report {
    Report {
        hint: Some("Name a new folder, which gets all rows.".into()),
        ..Report::new(
            "0A000",
            format!(
                "attach = 'true' of archive \"{}\", whose query keeps state, is not supported",
                archive.name()
            ),
        )
    }
}

/// An archive that holds more than this data dir knows of would have rows come twice: from it, and from the source.
fn not_ahead(
    archive: &Archive,
    source: &Source,
    here: Option<&Offsets>,
    place: &Offsets,
) -> Result<(), EngineError> {
    let at = |split: &String| here.and_then(|here| here.get(split));
    let ahead = |(split, next): &(&String, &u64)| at(split).is_none_or(|at| at < *next);
    let Some((split, next)) = place.iter().find(ahead) else {
        return Ok(());
    };
    let at = at(split).map_or("not read".to_owned(), |at| format!("at {at}"));
    Err(EngineError::from(Report {
        detail: Some(format!(
            "It holds split {split} of {} up to {next}, which is {at} here.",
            source.history.label()
        )),
        ..Report::new(
            "55000",
            format!(
                "archive \"{}\" is ahead of the source that fills it",
                archive.name()
            ),
        )
    }))
}
