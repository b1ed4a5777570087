//! Arrow Flight SQL: the listener and its limits.
//!
//! Invariant: every limit that tonic leaves open (message size, streams, header size, idle connections) is set here.

mod bind;
mod encode;
mod front;
mod keys;
mod run;
mod service;
mod sessions;

use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use futures::StreamExt as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server as GrpcServer;
use tonic::transport::server::TcpIncoming;

use crate::frontend::Server;
use front::Front;
use run::FlightSql;

/// Largest message a client may send.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Streams of one connection that run at the same time.
const STREAMS_MAX: u32 = 100;

/// Serves until `shutdown`.
pub(crate) async fn serve(listener: TcpListener, server: Arc<Server>, shutdown: CancellationToken) {
    let service = FlightServiceServer::new(Front(FlightSql::new(server)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(usize::MAX);
    let incoming = TcpIncoming::from(listener)
        .with_nodelay(Some(true))
        .map(|stream| stream);
    let ended = GrpcServer::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(16 << 10)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, async move { shutdown.cancelled().await })
        .await;
    if let Err(error) = ended {
        tracing::error!(%error, "flight listener ended");
    }
}
