//! The socket with its two buffers, and waiting that a client can interrupt.
//!
//! Invariant: while anything is awaited on behalf of a client, the socket is read as well, so that a client that goes away
//! is noticed at once, whether rows stream, nothing streams, or the client does not take what is sent.

use std::future::Future;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures::future::poll_immediate;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::{Severity, put_error, report, stopping};
use super::frames::{Frame, Splitter};
use super::limits::PgLimits;
use crate::frontend::Report;

const READ_BYTES: usize = 8 << 10;
/// An empty buffer larger than this is given back.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// The client is gone; there is nobody to tell anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

/// Why a connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The client left.
    Gone,
    /// The client is told why.
    Fatal(Report),
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        End::Gone
    }
}

/// Why waiting for a statement was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// A cancel request.
    Canceled,
    /// `statement_timeout`.
    TimedOut,
    /// The server stops.
    Stopping,
    /// The client left.
    Gone,
}

impl Interrupt {
    /// What the client is told; `Err` when the connection ends with it.
    pub(super) fn into_report(self) -> Result<Report, End> {
        match self {
            Interrupt::Canceled => Ok(report("57014", "canceling statement due to user request")),
            Interrupt::TimedOut => Ok(report(
                "57014",
                "canceling statement due to statement timeout",
            )),
            Interrupt::Stopping => Err(End::Fatal(stopping())),
            Interrupt::Gone => Err(End::Gone),
        }
    }
}

/// What can interrupt one statement.
#[derive(Debug, Clone)]
pub(super) struct Interrupts {
    pub(super) cancel: CancellationToken,
    pub(super) stop: CancellationToken,
    pub(super) deadline: Option<Instant>,
    /// False for statements that change something: those finish although the client left, as in Postgres.
    pub(super) heed_departure: bool,
}

impl Interrupts {
    async fn raised(&self, input: &mut Input) -> Interrupt {
        let timeout = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let departure = async {
            if self.heed_departure {
                input.ended().await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Interrupt::Canceled,
            () = self.stop.cancelled() => Interrupt::Stopping,
            () = departure => Interrupt::Gone,
            () = timeout => Interrupt::TimedOut,
        }
    }

    /// Waits for `future` unless something interrupts it. What is already raised wins over a future that is ready, so a
    /// stream that never pauses can be cancelled.
    pub(super) async fn guard<F: Future>(
        &self,
        input: &mut Input,
        future: F,
    ) -> Result<F::Output, Interrupt> {
        tokio::select! {
            biased;
            interrupt = self.raised(input) => Err(interrupt),
            output = future => Ok(output),
        }
    }

    /// What is raised right now.
    pub(super) async fn pending(&self, input: &mut Input) -> Option<Interrupt> {
        poll_immediate(self.raised(input)).await
    }
}

/// The receiving half.
pub(super) struct Input {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    buffer: BytesMut,
    splitter: Splitter,
    ended: bool,
    read_ahead_bytes: usize,
}

impl Input {
    pub(super) fn new(
        reader: impl AsyncRead + Send + Unpin + 'static,
        read_ahead_bytes: usize,
    ) -> Self {
        Self {
            reader: Box::new(reader),
            buffer: BytesMut::new(),
            splitter: Splitter::default(),
            ended: false,
            read_ahead_bytes,
        }
    }

    async fn read(&mut self) -> Result<(), Gone> {
        if self.ended {
            return Err(Gone);
        }
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT_BYTES_MAX {
            self.buffer = BytesMut::new();
        }
        self.buffer.reserve(READ_BYTES);
        match self.reader.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) => {
                self.ended = true;
                Err(Gone)
            }
            Ok(_) => Ok(()),
        }
    }

    /// The next message.
    pub(super) async fn frame(&mut self, limits: &PgLimits) -> Result<Frame, End> {
        loop {
            if let Some(frame) = self
                .splitter
                .next(&mut self.buffer, limits)
                .map_err(End::Fatal)?
            {
                return Ok(frame);
            }
            self.read().await?;
        }
    }

    /// True when the next message is here and is a Sync.
    pub(super) fn sync_is_next(&self) -> bool {
        self.buffer.first() == Some(&b'S')
    }

    /// Exactly `count` bytes, left in the buffer; used before the first regular message.
    pub(super) async fn at_least(&mut self, count: usize) -> Result<&mut BytesMut, Gone> {
        while self.buffer.len() < count {
            self.read().await?;
        }
        Ok(&mut self.buffer)
    }

    /// Waits until the client closes its side. Messages that come meanwhile are kept, up to a bound.
    async fn ended(&mut self) {
        while self.buffer.len() < self.read_ahead_bytes {
            if self.read().await.is_err() {
                return;
            }
        }
        std::future::pending().await
    }

    /// Reads and drops until the client closes: closing with unread bytes would reset the connection and could take the
    /// last message from the client.
    async fn drain(&mut self) {
        loop {
            self.buffer.clear();
            if self.read().await.is_err() {
                return;
            }
        }
    }
}

/// The sending half.
pub(super) struct Output {
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    pub(super) buffer: BytesMut,
}

impl Output {
    pub(super) fn new(writer: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        Self {
            writer: Box::new(writer),
            buffer: BytesMut::new(),
        }
    }

    /// Sends what is buffered. Dropping the future keeps the rest for the next call.
    pub(super) async fn flush(&mut self) -> Result<(), Gone> {
        while self.buffer.has_remaining() {
            match self.writer.write_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return Err(Gone),
                Ok(_) => {}
            }
        }
        if self.buffer.capacity() > KEPT_BYTES_MAX {
            self.buffer = BytesMut::new();
        }
        self.writer.flush().await.map_err(|_| Gone)
    }
}

/// Sends what is buffered, unless the server stops or the client leaves meanwhile.
pub(super) async fn flush(
    input: &mut Input,
    output: &mut Output,
    stop: &CancellationToken,
) -> Result<(), End> {
    tokio::select! {
        biased;
        sent = output.flush() => Ok(sent?),
        () = stop.cancelled() => Err(End::Fatal(stopping())),
        () = input.ended() => Err(End::Gone),
    }
}

/// Ends a connection: says why, then lets the client take it.
pub(super) async fn close(mut input: Input, mut output: Output, end: End, linger: Duration) {
    let End::Fatal(report) = end else { return };
    put_error(&mut output.buffer, Severity::Fatal, &report);
    let goodbye = async {
        if output.flush().await.is_ok() && output.writer.shutdown().await.is_ok() {
            input.drain().await;
        }
    };
    // A client that does not take the message in time has lost it; the connection closes either way.
    let _taken = tokio::time::timeout(linger, goodbye).await;
}
