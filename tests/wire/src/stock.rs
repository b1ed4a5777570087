//! Stock pgwire 0.42.1 over the same scripted statements: its own connection loop and default handlers.
//!
//! Invariant: nothing here works around pgwire; what it does wrong is what its users get.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{Stream, StreamExt, stream};
use pgwire::api::auth::cleartext::CleartextPasswordAuthStartupHandler;
use pgwire::api::auth::noop::NoopStartupHandler;
use pgwire::api::auth::{
    AuthSource, DefaultServerParameterProvider, LoginInfo, Password, StartupHandler,
};
use pgwire::api::cancel::{CancelHandler, DefaultCancelHandler};
use pgwire::api::portal::Portal;
use pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler};
use pgwire::api::results::{
    DataRowEncoder, DescribePortalResponse, DescribeResponse, DescribeStatementResponse,
    FieldFormat, FieldInfo, QueryResponse, Response,
};
use pgwire::api::stmt::{NoopQueryParser, StoredStatement};
use pgwire::api::{ClientInfo, ConnectionManager, PgWireServerHandlers, Type};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::data::DataRow;
use tokio::net::TcpListener;

use crate::script::{Gate, numbers};

struct Handler {
    gate: Arc<Gate>,
    manager: Arc<ConnectionManager>,
}

fn schema() -> Arc<Vec<FieldInfo>> {
    Arc::new(vec![FieldInfo::new(
        "n".into(),
        None,
        None,
        Type::INT8,
        FieldFormat::Text,
    )])
}

fn rows(
    text: &str,
    gate: &Arc<Gate>,
) -> impl Stream<Item = PgWireResult<DataRow>> + Send + 'static {
    numbers(text, gate).flat_map(stream::iter).map(|number| {
        let mut encoder = DataRowEncoder::new(schema());
        encoder.encode_field(&number)?;
        Ok(encoder.take_row())
    })
}

#[async_trait]
impl SimpleQueryHandler for Handler {
    async fn do_query<C>(&self, _client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        Ok(vec![Response::Query(QueryResponse::new(
            schema(),
            rows(query, &self.gate),
        ))])
    }
}

#[async_trait]
impl ExtendedQueryHandler for Handler {
    type Statement = String;
    type QueryParser = NoopQueryParser;

    fn query_parser(&self) -> Arc<Self::QueryParser> {
        Arc::new(NoopQueryParser)
    }

    async fn do_query<C>(
        &self,
        _client: &mut C,
        portal: &Portal<String>,
        _max_rows: usize,
    ) -> PgWireResult<Response>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        // The documented way to read the client's formats.
        let _format = portal.result_column_format.format_for(2);
        Ok(Response::Query(QueryResponse::new(
            schema(),
            rows(&portal.statement.statement, &self.gate),
        )))
    }

    async fn do_describe_statement<C>(
        &self,
        _client: &mut C,
        _statement: &StoredStatement<String>,
    ) -> PgWireResult<DescribeStatementResponse>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        Ok(DescribeStatementResponse::no_data())
    }

    async fn do_describe_portal<C>(
        &self,
        _client: &mut C,
        _portal: &Portal<String>,
    ) -> PgWireResult<DescribePortalResponse>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        Ok(DescribePortalResponse::no_data())
    }
}

/// Lets everybody in.
struct Open(Arc<ConnectionManager>);

impl NoopStartupHandler for Open {
    fn connection_manager(&self) -> Option<Arc<ConnectionManager>> {
        Some(Arc::clone(&self.0))
    }
}

struct OpenServer(Arc<Handler>);

impl PgWireServerHandlers for OpenServer {
    fn simple_query_handler(&self) -> Arc<impl SimpleQueryHandler> {
        Arc::clone(&self.0)
    }

    fn extended_query_handler(&self) -> Arc<impl ExtendedQueryHandler> {
        Arc::clone(&self.0)
    }

    fn startup_handler(&self) -> Arc<impl StartupHandler> {
        Arc::new(Open(Arc::clone(&self.0.manager)))
    }

    fn cancel_handler(&self) -> Arc<impl CancelHandler> {
        Arc::new(DefaultCancelHandler::new(Arc::clone(&self.0.manager)))
    }
}

/// A password store that is down.
#[derive(Debug)]
struct Unreachable;

#[async_trait]
impl AuthSource for Unreachable {
    async fn get_password(&self, _login: &LoginInfo) -> PgWireResult<Password> {
        Err(PgWireError::ApiError("user lookup failed".into()))
    }
}

struct GuardedServer(Arc<Handler>);

impl PgWireServerHandlers for GuardedServer {
    fn simple_query_handler(&self) -> Arc<impl SimpleQueryHandler> {
        Arc::clone(&self.0)
    }

    fn startup_handler(&self) -> Arc<impl StartupHandler> {
        Arc::new(CleartextPasswordAuthStartupHandler::new(
            Unreachable,
            DefaultServerParameterProvider::default(),
        ))
    }
}

/// A running stock server.
pub(crate) struct Stock {
    pub(crate) address: SocketAddr,
    pub(crate) gate: Arc<Gate>,
    task: tokio::task::JoinHandle<()>,
}

impl Stock {
    /// Without passwords.
    pub(crate) async fn open() -> Self {
        Self::start(|handler| Arc::new(OpenServer(handler))).await
    }

    /// With a password store that is down.
    pub(crate) async fn guarded() -> Self {
        Self::start(|handler| Arc::new(GuardedServer(handler))).await
    }

    async fn start<S: PgWireServerHandlers + Send + Sync>(
        make: impl FnOnce(Arc<Handler>) -> Arc<S>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let gate = Arc::new(Gate::default());
        let server = make(Arc::new(Handler {
            gate: Arc::clone(&gate),
            manager: Arc::new(ConnectionManager::new()),
        }));
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(pgwire::tokio::process_socket(
                    socket,
                    None,
                    Arc::clone(&server),
                ));
            }
        });
        Self {
            address,
            gate,
            task,
        }
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        self.task.abort();
    }
}
