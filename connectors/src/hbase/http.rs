//! Requests and replies as the bodies of HTTP: one POST for each call, on a connection that is kept.
//!
//! Invariant: a body is taken for a reply only under status 200, and never longer than the caller allows.

use std::error::Error;
use std::io;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use super::connection::broken;
use super::error::Failure;

const THRIFT: &str = "application/x-thrift";

/// A connection that speaks HTTP.
#[derive(Debug)]
pub(super) struct HttpLink {
    requests: SendRequest<Full<Bytes>>,
    host: String,
    path: String,
    /// What moves bytes; it ends with the connection.
    _driver: JoinSet<()>,
}

impl HttpLink {
    /// Over a stream to `host`. Sends nothing yet.
    pub(super) async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        host: &str,
        path: &str,
    ) -> Result<Self, Failure> {
        let (requests, connection) = handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let mut driver = JoinSet::new();
        // Its errors come out of the request that they end.
        driver.spawn(async move { drop(connection.await) });
        Ok(Self {
            requests,
            host: host.to_owned(),
            path: path.to_owned(),
            _driver: driver,
        })
    }

    /// Posts a request and reads the reply to it, of at most `bytes_max` bytes.
    pub(super) async fn post(
        &mut self,
        request: Vec<u8>,
        bytes_max: usize,
    ) -> Result<Vec<u8>, Failure> {
        let request = Request::post(&self.path)
            .header(HOST, &self.host)
            .header(CONTENT_TYPE, THRIFT)
            .header(ACCEPT, THRIFT)
            .body(Full::new(Bytes::from(request)))
            .map_err(|error| Failure::Broken(error.to_string()))?;
        self.requests.ready().await.map_err(failed)?;
        let reply = self.requests.send_request(request).await.map_err(failed)?;
        match reply.status() {
            StatusCode::OK => body(reply, bytes_max).await,
            status => Err(refused(status)),
        }
    }
}

async fn body(reply: Response<Incoming>, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let mut body = reply.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(failed)?;
        let data = frame.data_ref().map(|data| &data[..]).unwrap_or_default();
        if bytes.len() + data.len() > bytes_max {
            return Err(Failure::TooLarge(bytes_max));
        }
        bytes.extend_from_slice(data);
    }
    Ok(bytes)
}

/// What a status means. A gateway says all that HBase says under 200.
fn refused(status: StatusCode) -> Failure {
    let said = format!("HTTP status {status}");
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::Denied(said),
        // A proxy whose gateway is away, or a gateway that is just stopping.
        status if status.is_server_error() => Failure::Broken(said),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Failure::Broken(said),
        _ => Failure::WrongEndpoint(said),
    }
}

fn failed(error: hyper::Error) -> Failure {
    if error.is_parse() {
        return Failure::WrongEndpoint("what it answers is no HTTP".to_owned());
    }
    if error.is_closed() || error.is_canceled() || error.is_incomplete_message() {
        return Failure::Closed;
    }
    let of_stream = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>());
    match of_stream {
        Some(error) => broken(error),
        None => Failure::Broken(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_say_whether_trying_again_may_help() {
        for (code, again) in [
            (500, true),
            (502, true),
            (503, true),
            (429, true),
            (404, false),
            (302, false),
        ] {
            let failure = refused(StatusCode::from_u16(code).expect("a status"));
            assert_eq!(matches!(failure, Failure::Broken(_)), again, "{failure:?}");
            assert_eq!(
                matches!(failure, Failure::WrongEndpoint(_)),
                !again,
                "{failure:?}"
            );
            assert!(failure.text("gw").contains(&code.to_string()));
        }
        for code in [401, 403] {
            let failure = refused(StatusCode::from_u16(code).expect("a status"));
            assert!(matches!(failure, Failure::Denied(_)), "{failure:?}");
        }
    }
}
