//! Takes Kafka messages from the client library in batches: the one module with `unsafe`.
//!
//! Invariant: a message is given back to the client library exactly once, after its last use and before its client goes; bytes
//! handed out are borrowed from their message.
//!
//! The safe binding hands over one message per call, each through an event of its own; taking what is there in one call costs a
//! third of that. For it the client's events (outages, statistics, log lines) must come on a queue of their own, as
//! `rd_kafka_consume_batch_queue` would pass them to callbacks nobody has set.
#![expect(
    unsafe_code,
    reason = "the safe binding has no call for a batch of messages"
)]

use std::borrow::Cow;
use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::bindings as native;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;

use super::client::Events;

/// Messages taken by one call.
const BATCH_MAX: usize = 1_024;
/// Events looked at by one call; more wait for the next.
const EVENTS_MAX: usize = 256;

/// Where the messages of one consumer come from.
pub(super) struct Intake {
    messages: Queue,
    events: Queue,
    /// Room for the client library to write a batch to; holds no message between calls.
    room: Box<[*mut native::rd_kafka_message_t]>,
    consumer: Arc<BaseConsumer<Events>>,
}

// SAFETY: queues are locked by the client library and may be used from any thread, one at a time here (`&mut self`); the
// pointers in `room` are dead between calls.
unsafe impl Send for Intake {}

/// A handle of a queue of the client library.
struct Queue(NonNull<native::rd_kafka_queue_t>);

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the handle came from `rd_kafka_queue_get_*`, which makes it ours to destroy, once.
        unsafe { native::rd_kafka_queue_destroy(self.0.as_ptr()) }
    }
}

/// Messages taken together, in the order of their queue. Keeps their consumer alive.
pub(super) struct Batch {
    messages: std::vec::IntoIter<Owned>,
    _consumer: Option<Arc<BaseConsumer<Events>>>,
}

/// A message that is ours until it is dropped.
struct Owned(NonNull<native::rd_kafka_message_t>);

// SAFETY: a taken message is referred to by nobody else, and the client library lets any thread destroy it.
unsafe impl Send for Owned {}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the message was taken from a queue and not destroyed before; its client lives, as `Batch` holds it.
        unsafe { native::rd_kafka_message_destroy(self.0.as_ptr()) }
    }
}

/// One entry of a batch.
pub(super) enum Fetched<'b> {
    Record(Record<'b>),
    /// Everything of the partition before this offset has been handed over.
    End {
        partition: i32,
        offset: i64,
    },
    Error {
        /// `None` for what is about no partition in particular.
        partition: Option<i32>,
        error: KafkaError,
    },
}

/// A Kafka record, with its bytes where the client library has them.
pub(super) struct Record<'b> {
    message: Owned,
    _batch: PhantomData<&'b Batch>,
}

impl Intake {
    /// Takes over the queues of a consumer that has a group id; `None` for one that has none.
    pub(super) fn new(consumer: Arc<BaseConsumer<Events>>) -> Option<Self> {
        let client = consumer.client().native_ptr();
        // SAFETY: the client lives, as `consumer` does; both calls return a new handle or null.
        let (messages, events) = unsafe {
            (
                native::rd_kafka_queue_get_consumer(client),
                native::rd_kafka_queue_get_main(client),
            )
        };
        let messages = Queue(NonNull::new(messages)?);
        let events = Queue(NonNull::new(events)?);
        // SAFETY: the handle is valid; null ends the forwarding of events to the queue of messages.
        unsafe { native::rd_kafka_queue_forward(events.0.as_ptr(), ptr::null_mut()) }
        let intake = Self {
            messages,
            events,
            room: vec![ptr::null_mut(); BATCH_MAX].into_boxed_slice(),
            consumer,
        };
        // What was forwarded before that would be lost on callbacks.
        intake.serve(&intake.messages);
        Some(intake)
    }

    /// Tells the consumer's context what happened since the last call, and returns the errors.
    pub(super) fn serve_events(&mut self) -> Vec<KafkaError> {
        self.serve(&self.events)
    }

    fn serve(&self, queue: &Queue) -> Vec<KafkaError> {
        let mut errors = Vec::new();
        for _ in 0..EVENTS_MAX {
            // SAFETY: the queue's handle is valid; the event is ours, or null when there is none.
            let event = unsafe { native::rd_kafka_queue_poll(queue.0.as_ptr(), 0) };
            let Some(event) = NonNull::new(event) else {
                break;
            };
            errors.extend(self.tell(event));
            // SAFETY: the event is destroyed once, and nothing of it is kept.
            unsafe { native::rd_kafka_event_destroy(event.as_ptr()) }
        }
        errors
    }

    /// Passes one event to the context.
    fn tell(&self, event: NonNull<native::rd_kafka_event_t>) -> Option<KafkaError> {
        let (event, context) = (event.as_ptr(), self.consumer.context());
        // SAFETY: the event is valid until `serve` destroys it.
        match unsafe { native::rd_kafka_event_type(event) } {
            native::RD_KAFKA_EVENT_ERROR => {
                // SAFETY: the event is valid, and of the kind these calls are for.
                let (code, fatal, reason) = unsafe {
                    (
                        native::rd_kafka_event_error(event),
                        native::rd_kafka_event_error_is_fatal(event) != 0,
                        words(native::rd_kafka_event_error_string(event)),
                    )
                };
                context.error(KafkaError::Global(code.into()), reason.trim());
                Some(if fatal {
                    KafkaError::MessageConsumptionFatal(code.into())
                } else {
                    KafkaError::MessageConsumption(code.into())
                })
            }
            native::RD_KAFKA_EVENT_STATS => {
                // SAFETY: as above.
                let json = unsafe { words(native::rd_kafka_event_stats(event)) };
                context.stats_raw(json.as_bytes());
                None
            }
            native::RD_KAFKA_EVENT_LOG => {
                let (mut facility, mut line, mut level) = (ptr::null(), ptr::null(), 0);
                // SAFETY: as above; the strings live as long as the event.
                let (facility, line) = unsafe {
                    native::rd_kafka_event_log(event, &mut facility, &mut line, &mut level);
                    (words(facility), words(line))
                };
                context.log(RDKafkaLogLevel::Debug, facility.trim(), line.trim());
                None
            }
            // Group events do not come, as no group is joined.
            _ => None,
        }
    }

    /// Takes up to `count_max` messages that are there, or waits for the first one.
    pub(super) fn take(&mut self, count_max: usize, wait: Duration) -> Batch {
        let mut messages = self.take_now(count_max, 0);
        let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        if messages.is_empty() && wait_ms > 0 {
            // Asking for more than one would wait for all of them.
            messages = self.take_now(1, wait_ms);
        }
        Batch {
            messages: messages.into_iter(),
            _consumer: Some(Arc::clone(&self.consumer)),
        }
    }

    fn take_now(&mut self, count_max: usize, wait_ms: i32) -> Vec<Owned> {
        let size = count_max.clamp(1, self.room.len());
        // SAFETY: the handle is valid, and `room` has space for `size` pointers.
        let count = unsafe {
            native::rd_kafka_consume_batch_queue(
                self.messages.0.as_ptr(),
                wait_ms,
                self.room.as_mut_ptr(),
                size,
            )
        };
        let count = usize::try_from(count).unwrap_or(0).min(size);
        let taken = self.room.iter().take(count);
        taken
            .filter_map(|message| NonNull::new(*message).map(Owned))
            .collect()
    }
}

/// A text of the client library; empty for null.
///
/// # Safety
/// `text` is null or a terminated string that lives for `'t`.
unsafe fn words<'t>(text: *const c_char) -> Cow<'t, str> {
    if text.is_null() {
        return Cow::Borrowed("");
    }
    // SAFETY: by this function's contract.
    unsafe { CStr::from_ptr(text) }.to_string_lossy()
}

/// Bytes of the client library; `None` for null.
///
/// # Safety
/// `start` is null or `length` bytes that live, and are not written to, for `'t`.
unsafe fn bytes<'t>(start: *const c_void, length: usize) -> Option<&'t [u8]> {
    if start.is_null() {
        return None;
    }
    // SAFETY: by this function's contract.
    Some(unsafe { std::slice::from_raw_parts(start.cast(), length) })
}

impl Batch {
    /// A batch without messages.
    pub(super) fn empty() -> Self {
        Self {
            messages: Vec::new().into_iter(),
            _consumer: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.len() == 0
    }

    /// The next entry, given up by the batch.
    pub(super) fn next(&mut self) -> Option<Fetched<'_>> {
        use native::rd_kafka_resp_err_t as Code;
        let message = self.messages.next()?;
        // SAFETY: the message is valid while `message` lives, and nobody writes to it.
        let parts = unsafe { message.0.as_ref() };
        Some(match parts.err {
            Code::RD_KAFKA_RESP_ERR_NO_ERROR => Fetched::Record(Record {
                message,
                _batch: PhantomData,
            }),
            Code::RD_KAFKA_RESP_ERR__PARTITION_EOF => Fetched::End {
                partition: parts.partition,
                offset: parts.offset,
            },
            code => Fetched::Error {
                partition: Some(parts.partition).filter(|partition| *partition >= 0),
                error: match code {
                    Code::RD_KAFKA_RESP_ERR__FATAL => {
                        KafkaError::MessageConsumptionFatal(code.into())
                    }
                    code => KafkaError::MessageConsumption(code.into()),
                },
            },
        })
    }
}

impl Record<'_> {
    fn parts(&self) -> &native::rd_kafka_message_t {
        // SAFETY: the message is valid while `self` lives, and nobody writes to it.
        unsafe { self.message.0.as_ref() }
    }

    pub(super) fn partition(&self) -> i32 {
        self.parts().partition
    }

    pub(super) fn offset(&self) -> i64 {
        self.parts().offset
    }

    /// `None` for a tombstone.
    pub(super) fn payload(&self) -> Option<&[u8]> {
        let parts = self.parts();
        // SAFETY: the payload is part of the message, which lives as long as the result's borrow of `self`.
        unsafe { bytes(parts.payload, parts.len) }
    }

    pub(super) fn key(&self) -> Option<&[u8]> {
        let parts = self.parts();
        // SAFETY: as for the payload.
        unsafe { bytes(parts.key, parts.key_len) }
    }

    /// Milliseconds since the Unix epoch.
    pub(super) fn timestamp_ms(&self) -> Option<i64> {
        let mut kind = native::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is valid, and came from a consumer.
        let at_ms =
            unsafe { native::rd_kafka_message_timestamp(self.message.0.as_ptr(), &mut kind) };
        let known = kind != native::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        (known && at_ms != -1).then_some(at_ms)
    }

    /// Names and values in the record's order; `None` when it has no headers.
    pub(super) fn headers(&self) -> Option<Vec<(Cow<'_, str>, Option<&[u8]>)>> {
        use native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
        let mut headers = ptr::null_mut();
        // SAFETY: the message is valid; the headers belong to it, and are made on the first call by this thread alone.
        let found =
            unsafe { native::rd_kafka_message_headers(self.message.0.as_ptr(), &mut headers) };
        if found != RD_KAFKA_RESP_ERR_NO_ERROR || headers.is_null() {
            return None;
        }
        // SAFETY: the headers are valid while the message is.
        let count = unsafe { native::rd_kafka_header_cnt(headers) };
        let header = |index| {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            // SAFETY: as above; name and value live as long as the message, and so as the result's borrow of `self`.
            unsafe {
                let found = native::rd_kafka_header_get_all(
                    headers, index, &mut name, &mut value, &mut size,
                );
                (found == RD_KAFKA_RESP_ERR_NO_ERROR).then(|| (words(name), bytes(value, size)))
            }
        };
        Some((0..count).filter_map(header).collect())
    }
}
