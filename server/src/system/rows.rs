//! Filling a system relation by column name.
//!
//! Invariant: a column that was not named holds NULL, or its type's zero value when it is NOT NULL.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::catalog::{MemTable, Session, TableProvider};
use datafusion::common::Result;
use datafusion::datasource::TableType;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;

use super::shape::SystemTable;
use super::value::{Cell, array};

/// Rows being collected for one relation.
#[derive(Debug)]
pub(crate) struct Rows {
    table: &'static SystemTable,
    rows: Vec<Vec<Cell>>,
}

impl Rows {
    /// No rows yet.
    pub(crate) fn new(table: &'static SystemTable) -> Self {
        Self {
            table,
            rows: Vec::new(),
        }
    }

    /// The relation being filled.
    pub(crate) fn table(&self) -> &'static SystemTable {
        self.table
    }

    /// Adds a row. A name the relation does not have is a mistake of ours and is left out.
    pub(crate) fn push<const N: usize>(&mut self, cells: [(&str, Cell); N]) {
        let mut row = vec![Cell::Null; self.table.columns.len()];
        for (name, cell) in cells {
            let position = self.table.position(name);
            debug_assert!(
                position.is_some(),
                "{} has no column {name}",
                self.table.name
            );
            if let Some(slot) = position.and_then(|position| row.get_mut(position)) {
                *slot = cell;
            }
        }
        self.rows.push(row);
    }

    /// Adds complete rows.
    pub(crate) fn extend(&mut self, rows: impl IntoIterator<Item = Vec<Cell>>) {
        self.rows.extend(rows);
    }

    /// The rows as one batch.
    pub(crate) fn batch(mut self) -> Result<RecordBatch> {
        for (position, column) in self
            .table
            .columns
            .iter()
            .enumerate()
            .filter(|(_, column)| column.not_null)
        {
            let zero = Cell::zero(&column.ty.arrow());
            for cell in self.rows.iter_mut().filter_map(|row| row.get_mut(position)) {
                if *cell == Cell::Null {
                    cell.clone_from(&zero);
                }
            }
        }
        let columns = self
            .table
            .arrow
            .fields()
            .iter()
            .enumerate()
            .map(|(position, field)| {
                let cells: Vec<&Cell> = self
                    .rows
                    .iter()
                    .map(|row| row.get(position).unwrap_or(&Cell::Null))
                    .collect();
                array(field.data_type(), cells.into_iter())
            })
            .collect();
        Ok(RecordBatch::try_new(
            Arc::clone(&self.table.arrow),
            columns,
        )?)
    }
}

/// Fills a relation; called once per scan.
pub(crate) type Fill = Arc<dyn Fn(&mut Rows) + Send + Sync>;

/// A system relation that is filled when it is scanned, and not before.
pub(crate) struct LazyTable {
    table: &'static SystemTable,
    fill: Fill,
}

impl LazyTable {
    pub(crate) fn new(table: &'static SystemTable, fill: Fill) -> Self {
        Self { table, fill }
    }
}

impl fmt::Debug for LazyTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LazyTable")
            .field("name", &self.table.name)
            .finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl TableProvider for LazyTable {
    fn schema(&self) -> datafusion::arrow::datatypes::SchemaRef {
        Arc::clone(&self.table.arrow)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut rows = Rows::new(self.table);
        (self.fill)(&mut rows);
        let memory = MemTable::try_new(self.schema(), vec![vec![rows.batch()?]])?;
        memory.scan(state, projection, filters, limit).await
    }
}
