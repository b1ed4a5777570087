//! Rows as messages of a topic: the JSON of a row, and how its key is made.
//!
//! Invariant: the same row always gives the same bytes; under [`Form::Upsert`] every message has a key.

use arrow::record_batch::RecordBatch;
use thalweg_catalog::{Relation, SinkFormat, SinkSpec, SqlType};

use crate::error::ConnectorError;
use crate::format::{JsonEncoder, plain_text};
use crate::sink::{Form, Message};

/// How a sink's rows are written.
#[derive(Debug)]
pub(super) struct Encoding {
    form: Form,
    value: JsonEncoder,
    key: Key,
}

/// How a row's message key is made.
#[derive(Debug)]
enum Key {
    None,
    Json(JsonEncoder),
    Text { position: usize, ty: SqlType },
    Bytes { position: usize },
}

impl Encoding {
    /// Checks format and key columns.
    pub(super) fn new(relation: &Relation, spec: &SinkSpec) -> Result<Self, ConnectorError> {
        let format = spec.format.as_ref().ok_or_else(|| {
            ConnectorError::option_hint(
                "a kafka sink needs FORMAT and ENCODE",
                "Add FORMAT PLAIN ENCODE JSON or FORMAT UPSERT ENCODE JSON.",
            )
        })?;
        if format.encode != "JSON" {
            return Err(ConnectorError::Unsupported {
                what: format!("ENCODE {}", format.encode),
                hint: "Use ENCODE JSON.".into(),
            });
        }
        let form = match format.row.as_str() {
            "PLAIN" => Form::Append,
            "UPSERT" => Form::Upsert,
            other => {
                return Err(ConnectorError::Unsupported {
                    what: format!("FORMAT {other}"),
                    hint: "Use FORMAT PLAIN or FORMAT UPSERT.".into(),
                });
            }
        };
        let columns = || {
            let named = relation.columns.iter().enumerate();
            named.map(|(index, column)| (index, column.name.as_str(), &column.ty))
        };
        Ok(Self {
            form,
            value: JsonEncoder::new(columns()),
            key: Key::new(relation, format)?,
        })
    }

    /// What the messages stand for.
    pub(super) fn form(&self) -> Form {
        self.form
    }

    /// The message of each row as an insertion.
    pub(super) fn messages(&self, batch: &RecordBatch) -> Result<Vec<Message>, ConnectorError> {
        (0..batch.num_rows())
            .map(|row| self.message(batch, row))
            .collect()
    }

    /// The message of one row as an insertion.
    pub(super) fn message(
        &self,
        batch: &RecordBatch,
        row: usize,
    ) -> Result<Message, ConnectorError> {
        let key = self.key(batch, row)?;
        let value = Some(self.value.row(batch.columns(), row)?);
        Ok(Message { key, value })
    }

    /// The key of one row.
    pub(super) fn key(
        &self,
        batch: &RecordBatch,
        row: usize,
    ) -> Result<Option<Vec<u8>>, ConnectorError> {
        let key = self.key.of(batch, row)?;
        if self.form == Form::Upsert && key.is_none() {
            return Err(ConnectorError::NullKey);
        }
        Ok(key)
    }
}

impl Key {
    fn new(relation: &Relation, format: &SinkFormat) -> Result<Self, ConnectorError> {
        let mut columns = Vec::new();
        for position in &format.key {
            let column = relation.columns.get(*position).ok_or_else(|| {
                ConnectorError::Internal(format!("the sink has no column {position}"))
            })?;
            columns.push((*position, column));
        }
        let Some((position, first)) = columns.first().copied() else {
            return Ok(Key::None);
        };
        match format.key_encode.as_str() {
            "TEXT" => Ok(Key::Text {
                position,
                ty: first.ty.clone(),
            }),
            "BYTES" if first.ty == SqlType::Bytea => Ok(Key::Bytes { position }),
            "BYTES" => Err(ConnectorError::ColumnType {
                message: format!(
                    "KEY ENCODE BYTES needs a key column of type bytea, \"{}\" is {}",
                    first.name, first.ty
                ),
            }),
            _ => Ok(Key::Json(JsonEncoder::new(columns.iter().map(
                |(position, column)| (*position, column.name.as_str(), &column.ty),
            )))),
        }
    }

    fn of(&self, batch: &RecordBatch, row: usize) -> Result<Option<Vec<u8>>, ConnectorError> {
        let column = |position: usize| {
            batch
                .columns()
                .get(position)
                .ok_or_else(|| ConnectorError::Internal("the key has no values".into()))
        };
        match self {
            Key::None => Ok(None),
            Key::Json(encoder) => encoder.row(batch.columns(), row).map(Some),
            Key::Text { position, ty } => plain_text(ty, column(*position)?.as_ref(), row),
            Key::Bytes { position } => {
                use arrow::array::{Array, AsArray};
                let bytes = column(*position)?
                    .as_binary_opt::<i32>()
                    .ok_or_else(|| ConnectorError::Internal("the key is not bytes".into()))?;
                Ok(bytes.is_valid(row).then(|| bytes.value(row).to_vec()))
            }
        }
    }
}
