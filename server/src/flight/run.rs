//! What the Flight SQL commands have in common: preparing, running and fetching statements, and the shapes of answers.
//!
//! Invariant: a statement without rows runs when its FlightInfo is asked for or its update is put, and its result is kept, so
//! that fetching it never runs it again.

use std::sync::Arc;

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::SqlInfo;
use arrow_flight::sql::metadata::{SqlInfoData, SqlInfoDataBuilder};
use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, IpcMessage, SchemaAsIpc, Ticket};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::ipc::writer::IpcWriteOptions;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt as _, stream};
use thalweg_catalog::{Relation, RelationKind};
use thalweg_sql::Report;
use tonic::{Request, Response, Status};

use super::encode;
use super::sessions::{ClientSession, Prepared, Sessions};
use crate::frontend::{Outcome, Server, Session};

pub(super) type DoGet = Response<<FlightSql as FlightService>::DoGetStream>;

/// The service; one per listener.
pub(super) struct FlightSql {
    pub(super) sessions: Sessions,
    pub(super) info: SqlInfoData,
}

pub(super) fn failed(report: Report) -> Status {
    encode::status(&report)
}

pub(super) fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

/// Rows affected, from a command tag such as `INSERT 0 3` or `UPDATE 2`; -1 when the tag has no count.
fn affected(tag: &str) -> i64 {
    tag.rsplit(' ')
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or(-1)
}

fn sql_info() -> SqlInfoData {
    let mut builder = SqlInfoDataBuilder::new();
    builder.append(SqlInfo::FlightSqlServerName, "Thalweg");
    builder.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    builder.append(SqlInfo::FlightSqlServerArrowVersion, "59");
    builder.append(SqlInfo::FlightSqlServerReadOnly, false);
    builder.append(SqlInfo::FlightSqlServerSql, true);
    builder.append(SqlInfo::FlightSqlServerSubstrait, false);
    builder.append(SqlInfo::FlightSqlServerTransaction, 0i32);
    builder.append(SqlInfo::FlightSqlServerCancel, false);
    builder.append(SqlInfo::FlightSqlServerBulkIngestion, true);
    builder.append(SqlInfo::FlightSqlServerIngestTransactionsSupported, false);
    builder.append(SqlInfo::SqlDdlCatalog, false);
    builder.append(SqlInfo::SqlDdlSchema, true);
    builder.append(SqlInfo::SqlDdlTable, true);
    builder.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    builder
        .build()
        .unwrap_or_else(|error| unreachable!("constant SqlInfo values build: {error}"))
}

impl FlightSql {
    pub(super) fn new(server: Arc<Server>) -> Self {
        Self {
            sessions: Sessions::new(server),
            info: sql_info(),
        }
    }

    /// Parses one statement and plans it for its columns.
    pub(super) async fn prepare(
        &self,
        client: &ClientSession,
        text: &str,
    ) -> Result<Prepared, Status> {
        let session = client.session.lock().await;
        let mut statements = session.parse(text).map_err(failed)?;
        let parsed = match (statements.pop(), statements.is_empty()) {
            (Some(parsed), true) => parsed,
            (None, _) => {
                return Err(failed(Report {
                    sqlstate: "42601",
                    message: "the statement is empty".into(),
                    detail: None,
                    hint: None,
                    position: None,
                }));
            }
            (Some(_), false) => {
                return Err(failed(Report {
                    sqlstate: "42601",
                    message: "cannot insert multiple commands into a prepared statement".into(),
                    detail: None,
                    hint: Some("Send one statement at a time over Flight SQL.".into()),
                    position: None,
                }));
            }
        };
        let description = session.describe(&parsed, &[]).map_err(failed)?;
        Ok(Prepared {
            parsed,
            columns: description.columns,
            parameters: description.parameters,
            bound: Arc::default(),
            affected: None,
        })
    }

    /// Runs a statement with the parameters that are bound, of which there is one row.
    pub(super) async fn execute(
        &self,
        client: &ClientSession,
        prepared: &Prepared,
    ) -> Result<Outcome, Status> {
        let mut session = client.session.lock().await;
        execute(&mut session, prepared).await
    }

    /// Runs a statement once for each row of parameters, all of them or none; counts rows.
    pub(super) async fn run_all(
        &self,
        client: &ClientSession,
        prepared: &Prepared,
    ) -> Result<i64, Status> {
        // Held to the end: what another call of this session does must not fall into the block.
        let mut session = client.session.lock().await;
        if prepared.bound.len() < 2 {
            return run(&mut session, prepared).await;
        }
        session.begin_implicit();
        let mut total = 0;
        let mut result = Ok(());
        for row in prepared.bound.iter() {
            let one = Prepared {
                bound: Arc::new(vec![row.clone()]),
                ..prepared.clone()
            };
            match run(&mut session, &one).await {
                Ok(rows) => total += rows.max(0),
                Err(status) => {
                    session.fail_transaction();
                    result = Err(status);
                    break;
                }
            }
        }
        let ended = session.end_implicit().await.map_err(failed);
        result.and(ended).map(|()| total)
    }

    /// Schema of a query's result; nothing runs.
    pub(super) async fn schema_of<T>(
        &self,
        request: &Request<T>,
        text: &str,
    ) -> Result<prost::bytes::Bytes, Status> {
        let client = self.sessions.of(request).map_err(failed)?;
        let prepared = self.prepare(&client, text).await?;
        schema_bytes(&result_schema(&prepared))
    }

    /// Schema of a prepared statement's result.
    pub(super) fn schema_of_prepared<T>(
        &self,
        request: &Request<T>,
        handle: &[u8],
    ) -> Result<prost::bytes::Bytes, Status> {
        let client = self.sessions.of(request).map_err(failed)?;
        schema_bytes(&result_schema(&client.find(handle).map_err(failed)?))
    }

    /// FlightInfo of a prepared statement; runs it when it is not a query.
    pub(super) async fn info(
        &self,
        client: &ClientSession,
        handle: &[u8],
        descriptor: FlightDescriptor,
        ticket: Vec<u8>,
    ) -> Result<Response<FlightInfo>, Status> {
        let prepared = client.find(handle).map_err(failed)?;
        if !prepared.parsed.statement.only_returns_rows()
            && prepared.columns.is_none()
            && prepared.affected.is_none()
        {
            let rows = self.run_all(client, &prepared).await?;
            client.set_affected(handle, rows);
        }
        let schema = prepared
            .columns
            .as_deref()
            .map_or_else(|| Arc::new(Schema::empty()), encode::schema);
        flight_info(&schema, descriptor, ticket)
    }

    pub(super) async fn fetch(
        &self,
        client: &ClientSession,
        handle: &[u8],
    ) -> Result<DoGet, Status> {
        let prepared = client.find(handle).map_err(failed)?;
        if prepared.affected.is_some() {
            return reply(RecordBatch::new_empty(Arc::new(Schema::empty())));
        }
        match self.execute(client, &prepared).await? {
            Outcome::Rows {
                columns, stream, ..
            } => Ok(Response::new(Box::pin(encode::stream(
                encode::schema(&columns),
                stream,
            )))),
            Outcome::Command { tag } => {
                client.set_affected(handle, affected(&tag));
                reply(RecordBatch::new_empty(Arc::new(Schema::empty())))
            }
            Outcome::CopyOut { .. } | Outcome::CopyIn(_) => Err(no_copy()),
            Outcome::Empty => reply(RecordBatch::new_empty(Arc::new(Schema::empty()))),
        }
    }
}

fn unbound(prepared: &Prepared) -> Report {
    Report {
        sqlstate: "08P01",
        message: format!(
            "the statement has {} parameters, and none are bound",
            prepared.parameters.len()
        ),
        detail: None,
        hint: None,
        position: None,
    }
}

fn no_copy() -> Status {
    failed(Report {
        sqlstate: "0A000",
        message: "COPY is a command of the Postgres wire".into(),
        detail: None,
        hint: Some("Run the query itself, or ingest a stream of batches.".into()),
        position: None,
    })
}

/// Runs a statement with the one row of parameters that it takes.
async fn execute(session: &mut Session, prepared: &Prepared) -> Result<Outcome, Status> {
    let parameters = match prepared.bound.as_slice() {
        [] if prepared.parameters.is_empty() => Vec::new(),
        [row] => row.clone(),
        [] => return Err(failed(unbound(prepared))),
        _ => {
            let mut report = unbound(prepared);
            report.message = "a query takes one row of parameters".into();
            return Err(failed(report));
        }
    };
    session
        .execute_described(&prepared.parsed, &prepared.parameters, parameters)
        .await
        .map_err(failed)
}

/// Runs a statement to its end and counts rows.
async fn run(session: &mut Session, prepared: &Prepared) -> Result<i64, Status> {
    match execute(session, prepared).await? {
        Outcome::CopyOut { .. } | Outcome::CopyIn(_) => Err(no_copy()),
        Outcome::Command { tag } => Ok(affected(&tag)),
        Outcome::Empty => Ok(-1),
        Outcome::Rows {
            mut stream, tag, ..
        } => {
            let mut rows = 0;
            while let Some(batch) = stream.next().await {
                rows += batch
                    .map_err(|error| failed(thalweg_planner::Planner::classify(&error)))?
                    .num_rows() as u64;
            }
            Ok(affected(&tag.finish(rows)))
        }
    }
}

pub(super) fn flight_info(
    schema: &Schema,
    descriptor: FlightDescriptor,
    ticket: Vec<u8>,
) -> Result<Response<FlightInfo>, Status> {
    let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket));
    let info = FlightInfo::new()
        .try_with_schema(schema)
        .map_err(internal)?
        .with_endpoint(endpoint)
        .with_descriptor(descriptor)
        .with_total_records(-1)
        .with_total_bytes(-1);
    Ok(Response::new(info))
}

pub(super) fn reply(batch: RecordBatch) -> Result<DoGet, Status> {
    let schema = batch.schema();
    let rows = RecordBatchStreamAdapter::new(Arc::clone(&schema), stream::iter([Ok(batch)]));
    Ok(Response::new(Box::pin(encode::stream(
        schema,
        Box::pin(rows),
    ))))
}

pub(super) fn schema_bytes(schema: &SchemaRef) -> Result<prost::bytes::Bytes, Status> {
    let message: IpcMessage = SchemaAsIpc::new(schema, &IpcWriteOptions::default())
        .try_into()
        .map_err(internal)?;
    Ok(message.0)
}

pub(super) fn result_schema(prepared: &Prepared) -> SchemaRef {
    prepared
        .columns
        .as_deref()
        .map_or_else(|| Arc::new(Schema::empty()), encode::schema)
}

pub(super) fn table_type(relation: &Relation) -> Option<&'static str> {
    match relation.kind {
        RelationKind::Table
        | RelationKind::External(_)
        | RelationKind::Archive(_)
        | RelationKind::Errors { .. } => Some("TABLE"),
        RelationKind::Source(_) => Some("SOURCE"),
        RelationKind::View { .. } => Some("VIEW"),
        RelationKind::MaterializedView { .. } => Some("MATERIALIZED VIEW"),
        RelationKind::Sink(_) => None,
    }
}

pub(super) fn relation_schema(relation: &Relation) -> SchemaRef {
    let columns: Vec<_> = relation
        .columns
        .iter()
        .map(|column| thalweg_planner::OutputColumn {
            name: column.name.clone(),
            ty: column.ty.clone(),
            origin: Some((relation.oid, column.attnum)),
        })
        .collect();
    encode::schema(&columns)
}
