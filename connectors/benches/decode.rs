//! How fast JSON becomes columns, beside what limits it on the same machine: `cargo bench -p thalweg-connectors --bench decode`.
//!
//! Invariant: every figure is CPU time of this thread, and every decoder's rows are counted before its time is. The table is
//! Markdown; `docs/performance.md` shows one.

use std::hint::black_box;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use thalweg_catalog::{Column, ColumnRole, SqlType};
use thalweg_connectors::{ColumnsRead, JsonRows, NexmarkText};

/// Rows of one batch, as a source delivers them.
const BATCH_ROWS: usize = 8_192;
/// Batches of one measurement, and measurements; the fastest counts, as anything slower was disturbed.
const BATCHES: usize = 100;
const RUNS: usize = 5;

fn column(name: &str, ty: SqlType) -> Column {
    Column {
        name: name.to_owned(),
        attnum: 1,
        ty,
        not_null: false,
        default: None,
        generated: None,
        role: ColumnRole::Data,
    }
}

fn fields(names: &str) -> Vec<(String, SqlType)> {
    let ty = |kind: &str| match kind {
        "i" => SqlType::Int8,
        "t" => SqlType::Timestamp,
        _ => SqlType::Text,
    };
    let field = |part: &str| {
        let (name, kind) = part.split_once(':').unwrap_or((part, "s"));
        (name.to_owned(), ty(kind))
    };
    names.split(' ').map(field).collect()
}

const PERSON: &str = "id:i name email_address credit_card city state date_time:t extra";
const AUCTION: &str = "id:i item_name description initial_bid:i reserve:i date_time:t expires:t seller:i category:i extra";
const BID: &str = "auction:i bidder:i price:i channel url date_time:t extra";

/// Records in one buffer.
struct Records {
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl Records {
    fn new(count: u64, mut append: impl FnMut(u64, &mut Vec<u8>)) -> Self {
        let (mut text, mut ends) = (Vec::new(), Vec::new());
        for number in 0..count {
            append(number, &mut text);
            ends.push(text.len());
        }
        Self { text, ends }
    }

    fn each(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, end)| &self.text[start..*end])
    }
}

/// Nanoseconds this thread has been on a CPU.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = stat.split(' ').next().and_then(|ns| ns.parse().ok());
    first.expect("a kernel that counts CPU time per thread")
}

/// The least CPU time of one pass over the records, in nanoseconds per record.
fn measure(records: &Records, mut pass: impl FnMut(&Records) -> usize) -> f64 {
    let count = records.ends.len();
    let mut best = u64::MAX;
    for _ in 0..RUNS {
        let start = cpu_ns();
        let rows: usize = (0..BATCHES).map(|_| pass(black_box(records))).sum();
        best = best.min(cpu_ns() - start);
        assert_eq!(rows, count * BATCHES, "every record is a row");
    }
    best as f64 / (count * BATCHES) as f64
}

fn ours(columns: &[Column]) -> impl FnMut(&Records) -> usize {
    let mut rows = JsonRows::new(columns).expect("columns JSON can fill");
    move |records| {
        for record in records.each() {
            rows.append(record).expect("a good record");
        }
        rows.finish().first().map_or(0, |column| column.len())
    }
}

/// All columns declared, and these read: whole ones, and fields of `bid`.
fn reading(columns: &[Column], whole: &[&str], of_bid: &[&str]) -> impl FnMut(&Records) -> usize {
    let mut read = ColumnsRead::none();
    whole.iter().for_each(|name| read.add(name));
    of_bid.iter().for_each(|field| read.add_field("bid", field));
    let mut rows = JsonRows::new(columns).expect("columns JSON can fill");
    rows.read_only(&read);
    move |records| {
        for record in records.each() {
            rows.append(record).expect("a good record");
        }
        rows.finish().first().map_or(0, |column| column.len())
    }
}

fn arrow_json(columns: &[Column]) -> impl FnMut(&Records) -> usize {
    let field = |column: &Column| Field::new(&column.name, column.ty.arrow(), true);
    let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
    let mut decoder = arrow::json::ReaderBuilder::new(schema)
        .with_batch_size(BATCH_ROWS)
        .build_decoder()
        .expect("a decoder");
    move |records| {
        let mut taken = 0;
        while taken < records.text.len() {
            taken += decoder
                .decode(&records.text[taken..])
                .expect("good records");
            if taken < records.text.len() {
                panic!("one batch holds all records");
            }
        }
        decoder
            .flush()
            .expect("a batch")
            .map_or(0, |batch| batch.num_rows())
    }
}

/// Measures and prints one row, if its name holds what the command line asks for.
fn row(what: &str, records: &Records, pass: impl FnMut(&Records) -> usize) {
    let mut arguments = std::env::args().skip(1);
    if !arguments.all(|argument| argument == "--bench" || what.contains(&argument)) {
        return;
    }
    let ns = measure(records, pass);
    let bytes = records.text.len() as f64 / records.ends.len() as f64;
    println!(
        "| {what} | {bytes:.0} | {ns:.0} | {:.2} | {:.0} |",
        1000.0 / ns,
        bytes / ns * 1000.0
    );
}

/// Moves the first member to the end of every tenth record.
fn every_tenth_in_another_order(records: &Records) -> Records {
    let all: Vec<&[u8]> = records.each().collect();
    Records::new(all.len() as u64, |number, text| {
        let record = all[number as usize];
        match record.iter().position(|byte| *byte == b',') {
            Some(comma) if number % 10 == 0 => {
                text.push(b'{');
                text.extend_from_slice(&record[comma + 1..record.len() - 1]);
                text.push(b',');
                text.extend_from_slice(&record[1..comma]);
                text.push(b'}');
            }
            _ => text.extend_from_slice(record),
        }
    })
}

fn main() {
    let events = NexmarkText::new(1);
    let bids = Records::new(BATCH_ROWS as u64, |number, text| {
        events.append_bid(number, text)
    });
    let nexmark = Records::new(BATCH_ROWS as u64, |number, text| {
        events.append_event(number, text)
    });
    let shuffled = every_tenth_in_another_order(&bids);
    let escaped = Records::new(BATCH_ROWS as u64, |number, text| {
        let start = text.len() + 1;
        events.append_bid(number, text);
        // An escape in a name is what no layout reads.
        text.splice(start + 1..start + 2, *b"\\u0061");
    });
    let bid: Vec<Column> = fields(BID)
        .into_iter()
        .map(|(name, ty)| column(&name, ty))
        .collect();
    let two: Vec<Column> = bid
        .iter()
        .filter(|column| matches!(column.name.as_str(), "auction" | "price"))
        .cloned()
        .collect();
    let mut all = vec![column("event_type", SqlType::Int4)];
    for (name, members) in [("person", PERSON), ("auction", AUCTION), ("bid", BID)] {
        all.push(column(name, SqlType::Struct(fields(members))));
    }
    println!("| | bytes/record | ns/record | M records/s | MB/s |");
    println!("|---|---|---|---|---|");
    let utf8 = |records: &Records| {
        assert!(std::str::from_utf8(black_box(&records.text)).is_ok());
        records.ends.len()
    };
    row("limit: UTF-8 check alone, flat bids", &bids, utf8);
    let mut copy = Vec::new();
    let memcpy = move |records: &Records| {
        copy.clear();
        copy.extend_from_slice(black_box(&records.text));
        black_box(&copy);
        records.ends.len()
    };
    row("limit: copy, flat bids", &bids, memcpy);
    row("flat bids, 7 columns", &bids, ours(&bid));
    row("flat bids, 2 columns declared", &bids, ours(&two));
    row(
        "flat bids, 2 of 7 columns read",
        &bids,
        reading(&bid, &["auction", "price"], &[]),
    );
    row(
        "flat bids, every tenth in another order",
        &shuffled,
        ours(&bid),
    );
    row(
        "flat bids, an escape in a name (split by serde_json)",
        &escaped,
        ours(&bid),
    );
    row("flat bids, arrow-json", &bids, arrow_json(&bid));
    row("Nexmark, one topic", &nexmark, ours(&all));
    let q0 = ["auction", "bidder", "price", "date_time", "extra"];
    row(
        "Nexmark, one topic, what q0 reads",
        &nexmark,
        reading(&all, &["event_type"], &q0),
    );
    row(
        "Nexmark, one topic, what q2 reads",
        &nexmark,
        reading(&all, &["event_type"], &["auction", "price"]),
    );
    row("Nexmark, one topic, arrow-json", &nexmark, arrow_json(&all));
}
