//! One connection to a Thrift2 gateway: one call at a time, each reply checked against its call.
//!
//! Invariant: after any failure, or a call whose future was dropped, the connection is not used again: a late reply would answer
//! the next call.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::endpoint::{Endpoint, Way};
use super::error::Failure;
use super::http::HttpLink;
use super::limits::{CONNECT_TIMEOUT, REPLY_BYTES_MAX};
use super::reply::{Answer, Refusal, decode, message_length};
use super::request::Call;
use super::tls::Trust;
use super::wire::{Protocol, WireError};

/// How messages are told apart on the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    /// Each is preceded by its length.
    Framed,
    /// They follow each other.
    Unframed,
}

/// What a gateway was started with that is spoken to without HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dialect {
    pub(super) transport: Transport,
    pub(super) protocol: Protocol,
}

/// An open connection that no call is under way on.
#[derive(Debug)]
pub(super) struct Connection {
    link: Link,
    protocol: Protocol,
    sequence: i32,
}

#[derive(Debug)]
enum Link {
    Raw(RawLink),
    Http(HttpLink),
}

/// A connection on which messages follow each other.
#[derive(Debug)]
struct RawLink {
    stream: TcpStream,
    dialect: Dialect,
}

/// `TThriftServerType.TWO`.
const THRIFT2: i32 = 2;
const READ_BYTES: usize = 64 << 10;

impl Connection {
    /// Connects, and asks whether a Thrift2 gateway is at the other end, which it answers without HBase.
    pub(super) async fn open(
        endpoint: &Endpoint,
        dialect: Dialect,
        trust: Option<&Trust>,
    ) -> Result<Self, Failure> {
        let greet = async {
            let mut connection = Self {
                link: Link::open(endpoint, dialect, trust).await?,
                protocol: match endpoint.way() {
                    Way::Raw => dialect.protocol,
                    Way::Http { .. } => Protocol::Binary,
                },
                sequence: 0,
            };
            connection.check_server().await?;
            Ok(connection)
        };
        timeout(CONNECT_TIMEOUT, greet)
            .await
            .unwrap_or(Err(Failure::Silent))
    }

    async fn check_server(&mut self) -> Result<(), Failure> {
        let call = Call::ServerType;
        let answer = self
            .call(&call, REPLY_BYTES_MAX, |frame, protocol, sequence| {
                decode(&frame, protocol, call.name(), sequence, |reader, field| {
                    reader.i32(field)
                })
            })
            .await;
        match answer {
            Ok(Ok(Some(THRIFT2))) => Ok(()),
            Ok(Ok(_)) => Err(Failure::WrongEndpoint("it is a Thrift1 gateway".into())),
            Ok(Err(Refusal::Application { message } | Refusal::Remote { message, .. })) => {
                Err(Failure::WrongEndpoint(message))
            }
            // An older gateway with another encoding hangs up, as does one whose machine stops.
            Err(Failure::BadReply(error)) => Err(Failure::WrongEndpoint(error.to_string())),
            Err(Failure::TooLarge(_)) => Err(Failure::WrongEndpoint(WireError::Length.to_string())),
            Err(Failure::Closed) if matches!(self.link, Link::Http(_)) => Err(Failure::Broken(
                "it hangs up on HTTP, as a gateway does that speaks Thrift alone".into(),
            )),
            Err(failure) => Err(failure),
        }
    }

    /// Makes a call whose reply has at most `bytes_max` bytes; `decode` is given the reply and its sequence number.
    pub(super) async fn call<T>(
        &mut self,
        call: &Call<'_>,
        bytes_max: usize,
        decode: impl FnOnce(Vec<u8>, Protocol, i32) -> Result<Answer<T>, WireError>,
    ) -> Result<Answer<T>, Failure> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let request = call
            .encode(self.protocol, sequence)
            .map_err(|error| Failure::Broken(error.to_string()))?;
        let reply = match &mut self.link {
            Link::Raw(link) => link.exchange(&request, bytes_max).await?,
            Link::Http(link) => link.post(request, bytes_max).await?,
        };
        decode(reply, self.protocol, sequence).map_err(Failure::BadReply)
    }
}

impl Link {
    async fn open(
        endpoint: &Endpoint,
        dialect: Dialect,
        trust: Option<&Trust>,
    ) -> Result<Self, Failure> {
        let address = endpoint.address();
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| broken(&error))?;
        stream.set_nodelay(true).map_err(|error| broken(&error))?;
        match (endpoint.way(), trust) {
            (Way::Raw, _) => Ok(Link::Raw(RawLink { stream, dialect })),
            (Way::Http { path, tls: None }, _) => {
                HttpLink::over(stream, address, path).await.map(Link::Http)
            }
            (
                Way::Http {
                    path,
                    tls: Some(name),
                },
                Some(trust),
            ) => {
                let stream = trust.secure(stream, name.clone()).await?;
                HttpLink::over(stream, address, path).await.map(Link::Http)
            }
            (Way::Http { tls: Some(_), .. }, None) => {
                Err(Failure::Untrusted("nobody is trusted".to_owned()))
            }
        }
    }
}

impl RawLink {
    async fn exchange(&mut self, request: &[u8], bytes_max: usize) -> Result<Vec<u8>, Failure> {
        self.send(request).await?;
        match self.dialect.transport {
            Transport::Framed => self.read_frame(bytes_max).await,
            Transport::Unframed => self.read_message(bytes_max).await,
        }
    }

    async fn send(&mut self, request: &[u8]) -> Result<(), Failure> {
        if self.dialect.transport == Transport::Framed {
            let length = i32::try_from(request.len())
                .map_err(|_| Failure::Broken("the request is too long".into()))?;
            // One write: two small packets would wait for each other.
            let mut framed = Vec::with_capacity(request.len() + 4);
            framed.extend_from_slice(&length.to_be_bytes());
            framed.extend_from_slice(request);
            return self
                .stream
                .write_all(&framed)
                .await
                .map_err(|error| broken(&error));
        }
        self.stream
            .write_all(request)
            .await
            .map_err(|error| broken(&error))
    }

    async fn read_frame(&mut self, bytes_max: usize) -> Result<Vec<u8>, Failure> {
        let mut head = [0; 4];
        self.stream
            .read_exact(&mut head)
            .await
            .map_err(|error| broken(&error))?;
        not_the_web(&head)?;
        let length = usize::try_from(i32::from_be_bytes(head))
            .map_err(|_| Failure::BadReply(WireError::Length))?;
        if length > bytes_max {
            return Err(Failure::TooLarge(bytes_max));
        }
        // Grows with what arrives: a length alone must not cost memory.
        let mut frame = Vec::with_capacity(length.min(READ_BYTES));
        let mut limited = (&mut self.stream).take(length as u64);
        while frame.len() < length {
            if limited
                .read_buf(&mut frame)
                .await
                .map_err(|error| broken(&error))?
                == 0
            {
                return Err(Failure::Broken("the connection broke off".into()));
            }
        }
        Ok(frame)
    }

    async fn read_message(&mut self, bytes_max: usize) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::with_capacity(READ_BYTES);
        loop {
            bytes.reserve(READ_BYTES);
            if self
                .stream
                .read_buf(&mut bytes)
                .await
                .map_err(|error| broken(&error))?
                == 0
            {
                return Err(match bytes.is_empty() {
                    true => Failure::Closed,
                    false => Failure::Broken("the connection broke off".into()),
                });
            }
            not_the_web(&bytes)?;
            match message_length(&bytes, self.dialect.protocol).map_err(Failure::BadReply)? {
                Some(length) if length == bytes.len() => return Ok(bytes),
                // There is one call at a time, so nothing can follow.
                Some(_) => return Err(Failure::BadReply(WireError::Length)),
                None if bytes.len() > bytes_max => return Err(Failure::TooLarge(bytes_max)),
                None => {}
            }
        }
    }
}

/// Refuses an answer that begins as those of HTTP and of TLS do: of a gateway that was given without its `http` or `https`.
fn not_the_web(head: &[u8]) -> Result<(), Failure> {
    /// A record of TLS that is an alert, and the first half of every version.
    const ALERT: &[u8] = &[0x15, 0x03];
    let speaks = match head {
        head if head.starts_with(b"HTTP") => "HTTP",
        head if head.starts_with(ALERT) => "TLS",
        _ => return Ok(()),
    };
    Err(Failure::WrongEndpoint(format!("it speaks {speaks}")))
}

pub(super) fn broken(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => Failure::Closed,
        _ => Failure::Broken(error.to_string()),
    }
}
