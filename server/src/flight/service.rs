//! The Flight SQL commands over a session.
//!
//! Invariant: a statement without rows runs exactly once, when its FlightInfo is asked for or its update is put; fetching its
//! result afterwards only returns what happened. ADBC sends everything, DDL included, as a prepared query.

use std::pin::Pin;
use std::sync::Arc;

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
    Action, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse, Ticket,
};
use datafusion::arrow::record_batch::RecordBatch;
use futures::{Stream, stream};
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming};

use super::run::{
    DoGet, FlightSql, failed, flight_info, internal, relation_schema, reply, result_schema,
    schema_bytes, table_type,
};
use super::{bind, keys};

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
        let dataset_schema = schema_bytes(&result_schema(&prepared))?;
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
        self.run_all(&client, &prepared).await
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
        let rows = self.run_all(&client, &prepared).await?;
        // JDBC asks for the FlightInfo of the same handle afterwards, which must not run it again.
        client.set_affected(&handle, rows);
        Ok(rows)
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
