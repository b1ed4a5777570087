//! The events of the auction house: who registers, what is offered, who bids.
//!
//! Invariant: of 50 consecutive events the first is a person, three are auctions and 46 are bids; an auction's seller, a bid's
//! auction and bidder came before it, but for the first few events.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringViewArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, TimeUnit};

use crate::datagen::{Draw, mix};

/// Events of one round.
const ROUND: u64 = 50;
const AUCTIONS: u64 = 3;
const BIDS: u64 = 46;
/// Numbers of persons and auctions begin here.
const FIRST_ID: u64 = 1_000;
const FIRST_CATEGORY: u64 = 10;
/// Persons who sell and bid, and auctions that are bid on: this many of the newest.
const ACTIVE_PERSONS: u64 = 1_000;
const OPEN_AUCTIONS: u64 = 100;
/// A hot seller, auction or bidder is the first of its hundred.
const HOT: u64 = 100;

const STATES: [&str; 6] = ["az", "ca", "id", "or", "wa", "wy"];
const CITIES: [&str; 10] = [
    "phoenix",
    "los angeles",
    "san francisco",
    "boise",
    "portland",
    "bend",
    "redmond",
    "seattle",
    "kent",
    "cheyenne",
];
const FIRST_NAMES: [&str; 11] = [
    "peter", "paul", "luke", "john", "saul", "vicky", "kate", "julie", "sarah", "deiter", "walter",
];
const LAST_NAMES: [&str; 9] = [
    "shultz", "abrams", "spencer", "white", "bartels", "walton", "smith", "jones", "noris",
];
const CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];

/// What an event is about; the number is its `event_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entity {
    Person = 0,
    Auction = 1,
    Bid = 2,
}

impl Entity {
    /// What event `event` is.
    pub(super) fn at(event: u64) -> Self {
        match event % ROUND {
            0 => Entity::Person,
            1..=AUCTIONS => Entity::Auction,
            _ => Entity::Bid,
        }
    }

    pub(super) fn of(name: &str) -> Option<Self> {
        [Entity::Person, Entity::Auction, Entity::Bid]
            .into_iter()
            .find(|entity| entity.name() == name)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Entity::Person => "person",
            Entity::Auction => "auction",
            Entity::Bid => "bid",
        }
    }

    /// First event of a round that is one, and how many there are.
    fn share(self) -> (u64, u64) {
        match self {
            Entity::Person => (0, 1),
            Entity::Auction => (1, AUCTIONS),
            Entity::Bid => (1 + AUCTIONS, BIDS),
        }
    }

    /// The event that is the entity's row `row`.
    pub(super) fn event(self, row: u64) -> u64 {
        let (first, each) = self.share();
        (row / each)
            .saturating_mul(ROUND)
            .saturating_add(first + row % each)
    }

    /// The entity's rows among the first `events` events.
    pub(super) fn rows_within(self, events: u64) -> u64 {
        let (first, each) = self.share();
        (events / ROUND) * each + (events % ROUND).saturating_sub(first).min(each)
    }

    pub(super) fn fields(self) -> &'static [&'static str] {
        match self {
            Entity::Person => &[
                "id",
                "name",
                "email_address",
                "credit_card",
                "city",
                "state",
                "date_time",
                "extra",
            ],
            Entity::Auction => &[
                "id",
                "item_name",
                "description",
                "initial_bid",
                "reserve",
                "date_time",
                "expires",
                "seller",
                "category",
                "extra",
            ],
            Entity::Bid => &[
                "auction",
                "bidder",
                "price",
                "channel",
                "url",
                "date_time",
                "extra",
            ],
        }
    }

    /// The type a field is made in.
    pub(super) fn field_type(self, name: &str) -> Option<DataType> {
        if !self.fields().contains(&name) {
            return None;
        }
        Some(match name {
            "date_time" | "expires" => DataType::Timestamp(TimeUnit::Microsecond, None),
            "id" | "initial_bid" | "reserve" | "seller" | "category" | "auction" | "bidder"
            | "price" => DataType::Int64,
            _ => DataType::Utf8View,
        })
    }
}

/// Makes fields of events.
#[derive(Debug)]
pub(super) struct Events {
    pub(super) seed: u64,
    /// Event time of event 0.
    pub(super) base_us: i64,
    /// Events per second of event time.
    pub(super) per_second: u64,
}

impl Events {
    /// One field of each event, NULL where the event is about something else.
    pub(super) fn field(&self, entity: Entity, name: &str, events: &[u64]) -> ArrayRef {
        let here = |event: &u64| (Entity::at(*event) == entity).then_some(*event);
        match entity.field_type(name) {
            Some(DataType::Int64) => {
                let number = |event: u64| self.number(entity, name, event);
                Arc::new(Int64Array::from_iter(events.iter().map(|event| {
                    here(event).map(|event| i64::try_from(number(event)).unwrap_or(i64::MAX))
                })))
            }
            Some(DataType::Timestamp(..)) => {
                let time = |event: u64| match name {
                    "expires" => self.expires_us(event),
                    _ => self.time_us(event),
                };
                Arc::new(TimestampMicrosecondArray::from_iter(
                    events.iter().map(|event| here(event).map(time)),
                ))
            }
            _ => {
                Arc::new(StringViewArray::from_iter(events.iter().map(|event| {
                    here(event).map(|event| self.text(entity, name, event))
                })))
            }
        }
    }

    fn draw(&self, event: u64, field: u64) -> Draw {
        Draw::new(mix(self.seed ^ mix(event ^ mix(field))))
    }

    pub(super) fn time_us(&self, event: u64) -> i64 {
        let since = u128::from(event) * 1_000_000 / u128::from(self.per_second.max(1));
        self.base_us
            .saturating_add(i64::try_from(since).unwrap_or(i64::MAX))
    }

    /// Auctions stay open for about as long as their hundred in-flight neighbours take to come.
    pub(super) fn expires_us(&self, event: u64) -> i64 {
        let span_events = OPEN_AUCTIONS * ROUND / AUCTIONS;
        let span_us = span_events * 1_000_000 / self.per_second.max(1);
        let open_us = 1 + self.draw(event, 1).below(span_us.saturating_mul(2).max(1));
        self.time_us(event)
            .saturating_add(i64::try_from(open_us).unwrap_or(i64::MAX))
    }

    /// Number of the newest person at `event`, counted from 0.
    fn newest_person(event: u64) -> u64 {
        event / ROUND
    }

    /// Number of the newest auction at `event`, counted from 0.
    fn newest_auction(event: u64) -> u64 {
        Entity::Auction
            .rows_within(event.saturating_add(1))
            .saturating_sub(1)
    }

    pub(super) fn number(&self, entity: Entity, name: &str, event: u64) -> u64 {
        let person = |hot: u64, salt: u64, shift: u64| {
            let newest = Self::newest_person(event);
            let mut draw = self.draw(event, salt);
            let chosen = match draw.below(hot) {
                0 => newest - draw.below(newest.min(ACTIVE_PERSONS) + 1),
                _ => (newest / HOT * HOT + shift).min(newest),
            };
            FIRST_ID + chosen
        };
        match (entity, name) {
            (Entity::Person, _) => FIRST_ID + Self::newest_person(event),
            (Entity::Auction, "id") => FIRST_ID + Self::newest_auction(event),
            (Entity::Auction, "seller") => person(4, 2, 0),
            (Entity::Auction, "category") => FIRST_CATEGORY + self.draw(event, 3).below(5),
            (Entity::Auction, "reserve") => self.price(event, 4) + self.price(event, 5),
            (Entity::Auction, _) => self.price(event, 4),
            (Entity::Bid, "auction") => {
                let newest = Self::newest_auction(event);
                let mut draw = self.draw(event, 6);
                let chosen = match draw.below(2) {
                    0 => newest - draw.below(newest.min(OPEN_AUCTIONS) + 1),
                    _ => newest / HOT * HOT,
                };
                FIRST_ID + chosen
            }
            (Entity::Bid, "bidder") => person(4, 7, 1),
            (Entity::Bid, _) => self.price(event, 8),
        }
    }

    /// Cents, spread evenly over six orders of magnitude.
    fn price(&self, event: u64, field: u64) -> u64 {
        (10_f64.powf(self.draw(event, field).unit() * 6.0) * 100.0).round() as u64
    }

    pub(super) fn text(&self, entity: Entity, name: &str, event: u64) -> String {
        match (entity, name) {
            (Entity::Person, "name") => {
                let mut draw = self.draw(event, 10);
                let first = pick(&mut draw, &FIRST_NAMES);
                format!("{first} {}", pick(&mut draw, &LAST_NAMES))
            }
            (Entity::Person, "email_address") => {
                let mut draw = self.draw(event, 11);
                let user = letters(&mut draw, 7);
                format!("{user}@{}.com", letters(&mut draw, 5))
            }
            (Entity::Person, "credit_card") => {
                let mut draw = self.draw(event, 12);
                let group = std::array::from_fn::<_, 4, _>(|_| draw.below(10_000));
                let [a, b, c, d] = group;
                format!("{a:04} {b:04} {c:04} {d:04}")
            }
            (Entity::Person, "city") => pick(&mut self.draw(event, 13), &CITIES).to_owned(),
            (Entity::Person, "state") => pick(&mut self.draw(event, 14), &STATES).to_owned(),
            (Entity::Auction, "item_name") => letters(&mut self.draw(event, 15), 20),
            (Entity::Auction, "description") => letters(&mut self.draw(event, 16), 100),
            (Entity::Bid, "channel") => self.channel(event).0,
            (Entity::Bid, "url") => self.channel(event).1,
            _ => {
                let mut draw = self.draw(event, 17);
                let about = match entity {
                    Entity::Person => 80,
                    Entity::Auction => 200,
                    Entity::Bid => 50,
                };
                let length = about * 4 / 5 + draw.below(about * 2 / 5 + 1);
                letters(&mut draw, length)
            }
        }
    }

    /// Half of the bids come through one of four channels, the rest through one of ten thousand.
    fn channel(&self, event: u64) -> (String, String) {
        let mut draw = self.draw(event, 18);
        let hot = draw.below(2) == 0;
        let number = draw.below(if hot { 4 } else { 10_000 });
        let folder = letters(&mut Draw::new(mix(number ^ mix(u64::from(hot)))), 15);
        let path = format!(
            "https://www.nexmark.com/{}/{}/{}/item.htm?query=1",
            folder.get(..5).unwrap_or_default(),
            folder.get(5..10).unwrap_or_default(),
            folder.get(10..).unwrap_or_default()
        );
        match CHANNELS.get(number as usize) {
            Some(name) if hot => ((*name).to_owned(), path),
            _ => {
                // One in ten of the small channels does not say which it is.
                let id = mix(number) % (1 << 30);
                let url = if number.is_multiple_of(10) {
                    path
                } else {
                    format!("{path}&channel_id={id}")
                };
                (format!("channel-{number}"), url)
            }
        }
    }
}

fn pick<'a>(draw: &mut Draw, from: &[&'a str]) -> &'a str {
    let index = draw.below(from.len() as u64) as usize;
    from.get(index).copied().unwrap_or_default()
}

fn letters(draw: &mut Draw, length: u64) -> String {
    let mut text = String::with_capacity(length as usize);
    while (text.len() as u64) < length {
        let mut bits = draw.next();
        for _ in 0..12 {
            if text.len() as u64 == length {
                break;
            }
            text.push(char::from(b'a' + (bits % 26) as u8));
            bits /= 26;
        }
    }
    text
}
