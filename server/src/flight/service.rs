//! The Flight SQL commands over a session.
//!
//! Invariant: a statement without rows runs exactly once, when its FlightInfo is asked for or its update is put; fetching its
//! result afterwards only returns what happened. ADBC sends everything, DDL included, as a prepared query.

use std::pin::Pin;
use std::sync::Arc;

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::metadata::{SqlInfoData, SqlInfoDataBuilder};
use arrow_flight::sql::server::{FlightSqlService, PeekableFlightDataStream};
use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest,
    ActionCreatePreparedStatementResult, CommandGetCatalogs, CommandGetCrossReference,
    CommandGetDbSchemas, CommandGetExportedKeys, CommandGetImportedKeys, CommandGetPrimaryKeys,
    CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables, CommandGetXdbcTypeInfo,
    CommandPreparedStatementQuery, CommandPreparedStatementUpdate, CommandStatementIngest,
    CommandStatementQuery, CommandStatementUpdate, DoPutPreparedStatementResult, ProstMessageExt,
    SqlInfo, TicketStatementQuery,
};
use arrow_flight::{
    Action, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest, HandshakeResponse,
    IpcMessage, SchemaAsIpc, Ticket,
};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::ipc::writer::IpcWriteOptions;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{Stream, StreamExt as _, stream};
use prost::Message as _;
use thalweg_catalog::{Relation, RelationKind};
use thalweg_sql::{Report, Statement};
use tonic::{Request, Response, Status, Streaming};

use super::sessions::{ClientSession, Prepared, Sessions};
use super::{bind, encode, keys};
use crate::frontend::{Outcome, Server};

type DoGet = Response<<FlightSql as FlightService>::DoGetStream>;

/// The service; one per listener.
pub(super) struct FlightSql {
    sessions: Sessions,
    info: SqlInfoData,
}

fn failed(report: Report) -> Status {
    encode::status(&report)
}

fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

/// True for statements that only read, whose run can wait until the rows are fetched.
fn is_lazy(statement: &Statement) -> bool {
    matches!(
        statement,
        Statement::Query(_)
            | Statement::Subscribe(_)
            | Statement::Fetch(_)
            | Statement::Explain(_)
            | Statement::ShowObjects(_)
            | Statement::Describe(_)
    )
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
    async fn prepare(&self, client: &ClientSession, text: &str) -> Result<Prepared, Status> {
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
    async fn execute(
        &self,
        client: &ClientSession,
        prepared: &Prepared,
    ) -> Result<Outcome, Status> {
        let parameters = match prepared.bound.as_slice() {
            [] if prepared.parameters.is_empty() => Vec::new(),
            [] => return Err(failed(unbound(prepared))),
            [row] => row.clone(),
            _ => {
                let mut report = unbound(prepared);
                report.message = "a query takes one row of parameters".into();
                return Err(failed(report));
            }
        };
        client
            .session
            .lock()
            .await
            .execute(&prepared.parsed, parameters)
            .await
            .map_err(failed)
    }

    /// Runs a statement once for each row of parameters, all of them or none.
    async fn run_all(&self, client: &ClientSession, prepared: &Prepared) -> Result<i64, Status> {
        if prepared.bound.len() < 2 {
            return self.run(client, prepared).await;
        }
        client.session.lock().await.begin_implicit();
        let mut total = 0;
        let mut result = Ok(());
        for row in prepared.bound.iter() {
            let one = Prepared {
                bound: Arc::new(vec![row.clone()]),
                ..prepared.clone()
            };
            match self.run(client, &one).await {
                Ok(rows) => total += rows.max(0),
                Err(status) => {
                    result = Err(status);
                    break;
                }
            }
        }
        let mut session = client.session.lock().await;
        if result.is_err() {
            session.fail_transaction();
        }
        let ended = session.end_implicit().await.map_err(failed);
        result.and(ended).map(|()| total)
    }

    /// Runs a statement to its end and counts rows.
    async fn run(&self, client: &ClientSession, prepared: &Prepared) -> Result<i64, Status> {
        match self.execute(client, prepared).await? {
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
    async fn info(
        &self,
        client: &ClientSession,
        handle: &[u8],
        descriptor: FlightDescriptor,
        ticket: Vec<u8>,
    ) -> Result<Response<FlightInfo>, Status> {
        let prepared = client.find(handle).map_err(failed)?;
        if !is_lazy(&prepared.parsed.statement)
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

    async fn fetch(&self, client: &ClientSession, handle: &[u8]) -> Result<DoGet, Status> {
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

fn flight_info(
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

fn reply(batch: RecordBatch) -> Result<DoGet, Status> {
    let schema = batch.schema();
    let rows = RecordBatchStreamAdapter::new(Arc::clone(&schema), stream::iter([Ok(batch)]));
    Ok(Response::new(Box::pin(encode::stream(
        schema,
        Box::pin(rows),
    ))))
}

fn schema_bytes(schema: &SchemaRef) -> Result<prost::bytes::Bytes, Status> {
    let message: IpcMessage = SchemaAsIpc::new(schema, &IpcWriteOptions::default())
        .try_into()
        .map_err(internal)?;
    Ok(message.0)
}

fn result_schema(prepared: &Prepared) -> SchemaRef {
    prepared
        .columns
        .as_deref()
        .map_or_else(|| Arc::new(Schema::empty()), encode::schema)
}

fn table_type(relation: &Relation) -> Option<&'static str> {
    match relation.kind {
        RelationKind::Table | RelationKind::Errors { .. } => Some("TABLE"),
        RelationKind::Source(_) => Some("SOURCE"),
        RelationKind::View { .. } => Some("VIEW"),
        RelationKind::MaterializedView { .. } => Some("MATERIALIZED VIEW"),
        RelationKind::Sink(_) => None,
    }
}

fn relation_schema(relation: &Relation) -> SchemaRef {
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

#[tonic::async_trait]
impl FlightSqlService for FlightSql {
    type FlightService = FlightSql;

    /// Loopback is trusted: any credentials are accepted and answered with a token that names the session.
    async fn do_handshake(
        &self,
        _request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<
        Response<Pin<Box<dyn Stream<Item = Result<HandshakeResponse, Status>> + Send>>>,
        Status,
    > {
        let mut random = [0u8; 16];
        getrandom::fill(&mut random).map_err(internal)?;
        let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let answer = HandshakeResponse {
            protocol_version: 0,
            payload: token.clone().into_bytes().into(),
        };
        let answers: Pin<Box<dyn Stream<Item = _> + Send>> = Box::pin(stream::iter([Ok(answer)]));
        let mut response = Response::new(answers);
        let bearer = format!("Bearer {token}").parse().map_err(internal)?;
        response.metadata_mut().insert("authorization", bearer);
        Ok(response)
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let client = self.sessions.of(&request).map_err(failed)?;
        let prepared = self.prepare(&client, &query.query).await?;
        let handle = client.keep(prepared).map_err(failed)?;
        let ticket = TicketStatementQuery {
            statement_handle: handle.clone().into(),
        };
        self.info(
            &client,
            &handle,
            request.into_inner(),
            ticket.as_any().encode_to_vec(),
        )
        .await
    }

    async fn do_get_statement(
        &self,
        ticket: TicketStatementQuery,
        request: Request<Ticket>,
    ) -> Result<DoGet, Status> {
        let client = self.sessions.of(&request).map_err(failed)?;
        let answer = self.fetch(&client, &ticket.statement_handle).await;
        // The ticket of a plain statement is good for one fetch; nothing else would ever free it.
        client.forget(&ticket.statement_handle);
        answer
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        let client = self.sessions.of(&request).map_err(failed)?;
        let prepared = self.prepare(&client, &query.query).await?;
        let schema = prepared
            .columns
            .as_deref()
            .map_or_else(|| Arc::new(Schema::empty()), encode::schema);
        let dataset_schema = schema_bytes(&schema)?;
        let parameter_schema = schema_bytes(&bind::parameter_schema(&prepared.parameters))?;
        let handle = client.keep(prepared).map_err(failed)?;
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: handle.into(),
            dataset_schema,
            parameter_schema,
        })
    }

    async fn do_action_close_prepared_statement(
        &self,
        query: ActionClosePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<(), Status> {
        let client = self.sessions.of(&request).map_err(failed)?;
        client.forget(&query.prepared_statement_handle);
        Ok(())
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let client = self.sessions.of(&request).map_err(failed)?;
        let ticket = query.as_any().encode_to_vec();
        self.info(
            &client,
            &query.prepared_statement_handle,
            request.into_inner(),
            ticket,
        )
        .await
    }

    async fn do_get_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<Ticket>,
    ) -> Result<DoGet, Status> {
        let client = self.sessions.of(&request).map_err(failed)?;
        self.fetch(&client, &query.prepared_statement_handle).await
    }

    async fn do_put_statement_update(
        &self,
        update: CommandStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let client = self.sessions.of(&request).map_err(failed)?;
        let prepared = self.prepare(&client, &update.query).await?;
        self.run(&client, &prepared).await
    }

    async fn do_put_statement_ingest(
        &self,
        command: CommandStatementIngest,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let client = self.sessions.of(&request).map_err(failed)?;
        let mut session = client.session.lock().await;
        bind::ingest(&mut session, &command, request.into_inner())
            .await
            .map_err(failed)
    }

    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        let client = self.sessions.of(&request).map_err(failed)?;
        let handle = query.prepared_statement_handle;
        let prepared = client.find(&handle).map_err(failed)?;
        let (_, batches) = bind::batches(request.into_inner()).await.map_err(failed)?;
        let rows = bind::parameters(&batches, &prepared.parameters).map_err(failed)?;
        client.bind(&handle, rows);
        Ok(DoPutPreparedStatementResult {
            prepared_statement_handle: Some(handle),
        })
    }

    async fn do_put_prepared_statement_update(
        &self,
        update: CommandPreparedStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let client = self.sessions.of(&request).map_err(failed)?;
        let handle = update.prepared_statement_handle;
        let mut prepared = client.find(&handle).map_err(failed)?;
        let (_, batches) = bind::batches(request.into_inner()).await.map_err(failed)?;
        if !prepared.parameters.is_empty() && !batches.is_empty() {
            let rows = bind::parameters(&batches, &prepared.parameters).map_err(failed)?;
            if rows.is_empty() {
                return Ok(0);
            }
            prepared.bound = Arc::new(rows);
        }
        self.run_all(&client, &prepared).await
    }

    async fn get_flight_info_primary_keys(
        &self,
        query: CommandGetPrimaryKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let ticket = query.as_any().encode_to_vec();
        flight_info(&keys::primary_key_schema(), request.into_inner(), ticket)
    }

    async fn do_get_primary_keys(
        &self,
        query: CommandGetPrimaryKeys,
        _request: Request<Ticket>,
    ) -> Result<DoGet, Status> {
        let catalog = self.sessions.server().catalog();
        reply(keys::primary_keys(&catalog, &query).map_err(internal)?)
    }

    async fn get_flight_info_exported_keys(
        &self,
        query: CommandGetExportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let ticket = query.as_any().encode_to_vec();
        flight_info(&keys::foreign_key_schema(), request.into_inner(), ticket)
    }

    async fn do_get_exported_keys(
        &self,
        _query: CommandGetExportedKeys,
        _request: Request<Ticket>,
    ) -> Result<DoGet, Status> {
        reply(RecordBatch::new_empty(keys::foreign_key_schema()))
    }

    async fn get_flight_info_imported_keys(
        &self,
        query: CommandGetImportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let ticket = query.as_any().encode_to_vec();
        flight_info(&keys::foreign_key_schema(), request.into_inner(), ticket)
    }

    async fn do_get_imported_keys(
        &self,
        _query: CommandGetImportedKeys,
        _request: Request<Ticket>,
    ) -> Result<DoGet, Status> {
        reply(RecordBatch::new_empty(keys::foreign_key_schema()))
    }

    async fn get_flight_info_cross_reference(
        &self,
        query: CommandGetCrossReference,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let ticket = query.as_any().encode_to_vec();
        flight_info(&keys::foreign_key_schema(), request.into_inner(), ticket)
    }

    async fn do_get_cross_reference(
        &self,
        _query: CommandGetCrossReference,
        _request: Request<Ticket>,
    ) -> Result<DoGet, Status> {
        reply(RecordBatch::new_empty(keys::foreign_key_schema()))
    }

    async fn get_flight_info_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let ticket = query.as_any().encode_to_vec();
        let types = keys::types().map_err(internal)?;
        flight_info(&types.schema(), request.into_inner(), ticket)
    }

    async fn do_get_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        _request: Request<Ticket>,
    ) -> Result<DoGet, Status> {
        let types = keys::types().map_err(internal)?;
        reply(types.record_batch(query.data_type).map_err(internal)?)
    }

    async fn get_flight_info_sql_info(
        &self,
        query: CommandGetSqlInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let ticket = query.as_any().encode_to_vec();
        flight_info(
            &query.into_builder(&self.info).schema(),
            request.into_inner(),
            ticket,
        )
    }

    async fn do_get_sql_info(
        &self,
        query: CommandGetSqlInfo,
        _request: Request<Ticket>,
    ) -> Result<DoGet, Status> {
        reply(query.into_builder(&self.info).build().map_err(internal)?)
    }

    async fn get_flight_info_catalogs(
        &self,
        query: CommandGetCatalogs,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let ticket = query.as_any().encode_to_vec();
        flight_info(&query.into_builder().schema(), request.into_inner(), ticket)
    }

    async fn do_get_catalogs(
        &self,
        query: CommandGetCatalogs,
        _request: Request<Ticket>,
    ) -> Result<DoGet, Status> {
        let mut builder = query.into_builder();
        builder.append(self.sessions.server().catalog().database());
        reply(builder.build().map_err(internal)?)
    }

    async fn get_flight_info_schemas(
        &self,
        query: CommandGetDbSchemas,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let ticket = query.as_any().encode_to_vec();
        flight_info(&query.into_builder().schema(), request.into_inner(), ticket)
    }

    async fn do_get_schemas(
        &self,
        query: CommandGetDbSchemas,
        _request: Request<Ticket>,
    ) -> Result<DoGet, Status> {
        let catalog = self.sessions.server().catalog();
        let mut builder = query.into_builder();
        for schema in catalog.schemas() {
            builder.append(catalog.database(), &schema.name);
        }
        reply(builder.build().map_err(internal)?)
    }

    async fn get_flight_info_tables(
        &self,
        query: CommandGetTables,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let ticket = query.as_any().encode_to_vec();
        flight_info(&query.into_builder().schema(), request.into_inner(), ticket)
    }

    async fn do_get_tables(
        &self,
        query: CommandGetTables,
        _request: Request<Ticket>,
    ) -> Result<DoGet, Status> {
        let catalog = self.sessions.server().catalog();
        let mut builder = query.into_builder();
        for relation in catalog.relations() {
            let (Some(kind), Some(schema)) =
                (table_type(relation), catalog.schema_by_oid(relation.schema))
            else {
                continue;
            };
            builder
                .append(
                    catalog.database(),
                    &schema.name,
                    &relation.name,
                    kind,
                    &relation_schema(relation),
                )
                .map_err(internal)?;
        }
        reply(builder.build().map_err(internal)?)
    }

    async fn get_flight_info_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let ticket = query.as_any().encode_to_vec();
        flight_info(&query.into_builder().schema(), request.into_inner(), ticket)
    }

    async fn do_get_table_types(
        &self,
        query: CommandGetTableTypes,
        _request: Request<Ticket>,
    ) -> Result<DoGet, Status> {
        let mut builder = query.into_builder();
        for kind in ["TABLE", "SOURCE", "VIEW", "MATERIALIZED VIEW"] {
            builder.append(kind);
        }
        reply(builder.build().map_err(internal)?)
    }

    async fn register_sql_info(&self, _id: i32, _result: &SqlInfo) {}
}
