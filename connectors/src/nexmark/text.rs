//! Nexmark events as JSON, which any system can read from a file or a topic: the common input of benchmarks.
//!
//! Invariant: reading event `n` gives the values that the Nexmark source makes of event `n` with the same seed.

use std::io::Write;

use chrono::DateTime;

use super::event::{Entity, Events};
use super::{BASE_US, EVENTS_PER_SECOND};

/// Writes events as JSON objects.
#[derive(Debug)]
pub struct NexmarkText {
    events: Events,
}

impl NexmarkText {
    /// Events of this seed, at the default rate of event time.
    pub fn new(seed: u64) -> Self {
        Self {
            events: Events {
                seed,
                base_us: BASE_US,
                per_second: EVENTS_PER_SECOND,
            },
        }
    }

    /// Appends an event of the one stream of all events: its type, and a person, an auction or a bid.
    pub fn append_event(&self, event: u64, text: &mut Vec<u8>) {
        let about = Entity::at(event);
        let _ = write!(text, "{{\"event_type\":{}", about as i32);
        for entity in [Entity::Person, Entity::Auction, Entity::Bid] {
            let _ = write!(text, ",\"{}\":", entity.name());
            match entity == about {
                true => self.append_fields(entity, event, text),
                false => text.extend_from_slice(b"null"),
            }
        }
        text.push(b'}');
    }

    /// Appends bid number `row` alone.
    pub fn append_bid(&self, row: u64, text: &mut Vec<u8>) {
        self.append_fields(Entity::Bid, Entity::Bid.event(row), text);
    }

    fn append_fields(&self, entity: Entity, event: u64, text: &mut Vec<u8>) {
        for (index, name) in entity.fields().iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            // Writing to memory does not fail; no text of ours needs an escape.
            let _ = match (entity.field_type(name), *name) {
                (Some(arrow::datatypes::DataType::Int64), name) => {
                    let number = self.events.number(entity, name, event);
                    write!(text, "{open}\"{name}\":{number}")
                }
                (Some(arrow::datatypes::DataType::Timestamp(..)), name) => {
                    let us = match name {
                        "expires" => self.events.expires_us(event),
                        _ => self.events.time_us(event),
                    };
                    let at = DateTime::from_timestamp_micros(us).unwrap_or_default();
                    write!(text, "{open}\"{name}\":\"{}\"", at.format("%F %T%.6f"))
                }
                (_, name) => {
                    let value = self.events.text(entity, name, event);
                    write!(text, "{open}\"{name}\":\"{value}\"")
                }
            };
        }
        text.push(b'}');
    }
}
