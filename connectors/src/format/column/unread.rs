//! Columns that nobody reads: their values are checked as those of others, and not kept.
//!
//! Invariant: which records are faulty, and how many rows there are, does not depend on what is read.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, NullBufferBuilder, new_null_array};

use super::{ColumnBuilder, Values};

/// Rows of a column that nobody reads.
#[derive(Debug, Default)]
pub(super) struct Unread {
    pub(super) rows: usize,
    /// What [`ColumnBuilder::finish`] returned last, which the next one is likely a part of.
    nulls: Option<ArrayRef>,
}

/// Which part of a column's values is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted<'r> {
    /// All of it.
    Whole,
    /// These fields of a struct.
    Fields(&'r BTreeSet<String>),
    /// Nothing.
    Nothing,
}

impl Wanted<'_> {
    fn field(&self, name: &str) -> Wanted<'static> {
        match self {
            Wanted::Fields(fields) if !fields.contains(name) => Wanted::Nothing,
            Wanted::Nothing => Wanted::Nothing,
            _ => Wanted::Whole,
        }
    }
}

impl ColumnBuilder {
    /// Says which values will be read; those of other columns and fields are NULL in what comes out. To be called when the builder
    /// is empty.
    pub(crate) fn read_only(&mut self, read: Wanted<'_>) {
        self.unread = (read == Wanted::Nothing).then(Unread::default);
        if let Values::Struct {
            fields, members, ..
        } = &mut self.values
        {
            for (field, name) in fields.iter_mut().zip(members.names()) {
                field.read_only(read.field(name));
            }
        }
    }

    /// NULLs, as many as there were rows; the builder starts over.
    pub(super) fn finish_unread(&mut self) -> ArrayRef {
        self.drop_values();
        let rows = self
            .unread
            .as_mut()
            .map_or(0, |unread| std::mem::take(&mut unread.rows));
        let kept = self
            .unread
            .as_ref()
            .and_then(|unread| unread.nulls.as_ref());
        match kept.filter(|nulls| nulls.len() >= rows) {
            Some(nulls) => nulls.slice(0, rows),
            None => {
                let nulls = new_null_array(&self.ty.arrow(), rows);
                if let Some(unread) = &mut self.unread {
                    unread.nulls = Some(Arc::clone(&nulls));
                }
                nulls
            }
        }
    }

    /// Forgets what was built only to be checked.
    fn drop_values(&mut self) {
        match &mut self.values {
            Values::Struct {
                fields,
                validity,
                behind,
                ..
            } => {
                fields.iter_mut().for_each(|field| {
                    field.drop_values();
                    field.unread.iter_mut().for_each(|unread| unread.rows = 0);
                });
                *validity = NullBufferBuilder::new(0);
                *behind = 0;
            }
            values => drop(values.finish()),
        }
    }
}
