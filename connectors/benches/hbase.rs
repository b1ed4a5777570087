//! How fast HBase tables are read and written, beside what the gateways give a bare client that replays requests made before:
//!
//! ```text
//! eval $(THALWEG_SERVICES_JVM= tests/services/up hbase --gateways 2 | sed 's/^/export /')
//! cargo bench -p thalweg-connectors --bench hbase
//! ```
//!
//! Invariant: the bare client and ours ask the same gateways for the same rows in turns, and the rows of each are counted before
//! its time is. The table is Markdown; `docs/performance.md` shows one.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, RecordBatch, StringViewArray};
use thalweg_catalog::{Column, ColumnRole, SqlType};
use thalweg_connectors::{Condition, ConnectorContext, HbaseScan, HbaseTable, SystemClock};
use thrift::protocol::{
    TCompactOutputProtocol, TFieldIdentifier, TListIdentifier, TMessageIdentifier, TMessageType,
    TOutputProtocol, TStructIdentifier, TType,
};
use tokio::runtime::Runtime;

/// Rows of the table, of a page and of a batch.
const ROWS: usize = 200_000;
const PAGE_ROWS: usize = 5_000;
const BATCH_ROWS: usize = 1_000;
/// Single gets, and rows of random gets.
const SINGLE: usize = 4_000;
const RANDOM: usize = 60_000;
/// Rows that a lookup join enriches; a tenth of them names a key for the first time.
const LOOKED_UP: usize = 200_000;
/// Measurements; the best counts, as anything slower was disturbed.
const RUNS: usize = 5;
/// Connections of the bare client.
const CONNECTIONS: usize = 4;
const QUALIFIERS: [&str; 4] = ["a", "b", "c", "e"];
/// Every column of the table.
const ALL: [usize; 5] = [0, 1, 2, 3, 4];
/// Milliseconds since the Unix epoch, before every clock.
const STAMP: i64 = 1_500_000_000_000;

fn key(row: usize) -> String {
    format!("{row:08}")
}

fn value(row: usize) -> String {
    format!("{row:020}")
}

fn table(servers: &str) -> HbaseTable {
    let column = |name: &str| Column {
        name: name.to_owned(),
        attnum: 1,
        ty: SqlType::Text,
        not_null: name == "k",
        default: None,
        generated: None,
        role: ColumnRole::Data,
    };
    let names = std::iter::once("k").chain(QUALIFIERS);
    let columns: Vec<Column> = names.map(column).collect();
    let options = BTreeMap::from(
        [
            ("thrift.servers", servers),
            ("table", "bench"),
            ("family", "d"),
            ("lookup.timeout", "60 s"),
            ("lookup.cache.rows", "1000000"),
            ("lookup.cache.bytes", "1GB"),
            ("lookup.cache.ttl", "1 h"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let context = ConnectorContext::new(Arc::new(SystemClock));
    HbaseTable::new(&columns, &[0], &options, &context).expect("a table")
}

/// Asks HBase's own client, which can make a table of several regions.
fn admin(run: &str, requests: &str) {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/services/hbase_client"
    );
    let mut client = Command::new(script)
        .args(["--run", run])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the Java client starts");
    let mut input = client.stdin.take().expect("piped");
    input.write_all(requests.as_bytes()).expect("it reads");
    drop(input);
    assert!(client.wait().expect("it ends").success());
}

fn rows(from: usize, count: usize) -> RecordBatch {
    let keys: ArrayRef = Arc::new(
        (from..from + count)
            .map(|row| Some(key(row)))
            .collect::<StringViewArray>(),
    );
    let values: ArrayRef = Arc::new(
        (from..from + count)
            .map(|row| Some(value(row)))
            .collect::<StringViewArray>(),
    );
    let columns = std::iter::once(("k", keys, false));
    let columns = columns.chain(QUALIFIERS.map(|name| (name, Arc::clone(&values), true)));
    RecordBatch::try_from_iter_with_nullable(columns).expect("columns")
}

/// A request as bytes, its length before it.
fn request(
    name: &str,
    arguments: impl FnOnce(&mut dyn TOutputProtocol) -> thrift::Result<()>,
) -> Vec<u8> {
    let mut body = Vec::new();
    let mut out = TCompactOutputProtocol::new(&mut body);
    let head = TMessageIdentifier::new(name, TMessageType::Call, 0);
    out.write_message_begin(&head).expect("memory");
    structure(&mut out, arguments).expect("memory");
    drop(out);
    [&(body.len() as u32).to_be_bytes()[..], &body].concat()
}

fn structure(
    out: &mut dyn TOutputProtocol,
    fields: impl FnOnce(&mut dyn TOutputProtocol) -> thrift::Result<()>,
) -> thrift::Result<()> {
    out.write_struct_begin(&TStructIdentifier::new(""))?;
    fields(out)?;
    out.write_field_stop()?;
    out.write_struct_end()
}

fn begin(out: &mut dyn TOutputProtocol, id: i16, kind: TType) -> thrift::Result<()> {
    out.write_field_begin(&TFieldIdentifier {
        name: None,
        field_type: kind,
        id: Some(id),
    })
}

fn bytes(out: &mut dyn TOutputProtocol, id: i16, value: &[u8]) -> thrift::Result<()> {
    begin(out, id, TType::String)?;
    out.write_bytes(value)
}

fn number(out: &mut dyn TOutputProtocol, id: i16, value: i32) -> thrift::Result<()> {
    begin(out, id, TType::I32)?;
    out.write_i32(value)
}

fn stamp(out: &mut dyn TOutputProtocol, id: i16) -> thrift::Result<()> {
    begin(out, id, TType::I64)?;
    out.write_i64(STAMP)
}

fn list(
    out: &mut dyn TOutputProtocol,
    id: i16,
    items: usize,
    mut item: impl FnMut(&mut dyn TOutputProtocol, usize) -> thrift::Result<()>,
) -> thrift::Result<()> {
    begin(out, id, TType::List)?;
    out.write_list_begin(&TListIdentifier::new(TType::Struct, items as i32))?;
    for index in 0..items {
        structure(out, |out| item(out, index))?;
    }
    out.write_list_end()
}

/// The cells that a row of ours has: the marker, then its columns.
fn cell_names() -> Vec<&'static str> {
    std::iter::once("_").chain(QUALIFIERS).collect()
}

fn columns(out: &mut dyn TOutputProtocol, id: i16) -> thrift::Result<()> {
    let names = cell_names();
    list(out, id, names.len(), |out, at| {
        bytes(out, 1, b"d")?;
        bytes(out, 2, names[at].as_bytes())
    })
}

fn put_request(from: usize) -> Vec<u8> {
    let names = cell_names();
    request("putMultiple", |out| {
        bytes(out, 1, b"bench")?;
        list(out, 2, BATCH_ROWS, |out, at| {
            let value = value(from + at);
            bytes(out, 1, key(from + at).as_bytes())?;
            list(out, 2, names.len(), |out, at| {
                let is_marker = at == 0;
                bytes(out, 1, b"d")?;
                bytes(out, 2, names[at].as_bytes())?;
                bytes(out, 3, if is_marker { b"" } else { value.as_bytes() })?;
                stamp(out, 4)
            })?;
            stamp(out, 3)
        })
    })
}

fn scan_request(from: usize) -> Vec<u8> {
    request("getScannerResults", |out| {
        bytes(out, 1, b"bench")?;
        begin(out, 2, TType::Struct)?;
        structure(out, |out| {
            bytes(out, 1, key(from).as_bytes())?;
            bytes(out, 2, key(from + PAGE_ROWS).as_bytes())?;
            columns(out, 3)?;
            number(out, 4, PAGE_ROWS as i32)?;
            begin(out, 12, TType::Bool)?;
            out.write_bool(false)?;
            number(out, 14, 2)?;
            number(out, 15, PAGE_ROWS as i32)
        })?;
        number(out, 3, PAGE_ROWS as i32)
    })
}

fn get_request(keys: &[usize]) -> Vec<u8> {
    request("getMultiple", |out| {
        bytes(out, 1, b"bench")?;
        list(out, 2, keys.len(), |out, at| {
            bytes(out, 1, key(keys[at]).as_bytes())?;
            columns(out, 2)
        })
    })
}

/// Sends a request and gives its reply, which is not looked into.
fn ask(stream: &mut TcpStream, request: &[u8], reply: &mut Vec<u8>) {
    stream.write_all(request).expect("the gateway reads");
    let mut head = [0; 4];
    stream.read_exact(&mut head).expect("the gateway answers");
    reply.resize(u32::from_be_bytes(head) as usize, 0);
    stream.read_exact(reply).expect("the gateway answers");
    // The second byte of a compact message: version 1, and 2 for a reply.
    assert_eq!(reply.get(1), Some(&0x41), "a reply and no exception");
}

/// Replays requests over some connections; seconds, and the bytes that came.
fn replay(servers: &[&str], connections: usize, requests: &[Vec<u8>]) -> (f64, usize) {
    let mut streams: Vec<TcpStream> = (0..connections)
        .map(|at| TcpStream::connect(servers[at % servers.len()]).expect("a gateway"))
        .collect();
    let begun = Instant::now();
    let received = std::thread::scope(|scope| {
        let each = streams.iter_mut().enumerate().map(|(first, stream)| {
            scope.spawn(move || {
                stream.set_nodelay(true).expect("a socket");
                let (mut reply, mut received) = (Vec::new(), 0);
                for request in requests.iter().skip(first).step_by(connections) {
                    ask(stream, request, &mut reply);
                    received += reply.len();
                }
                received
            })
        });
        let threads: Vec<_> = each.collect();
        threads
            .into_iter()
            .map(|one| one.join().expect("replayed"))
            .sum()
    });
    (begun.elapsed().as_secs_f64(), received)
}

/// The best rates of the bare client and of ours, run in turns.
fn compare(
    rows: usize,
    mut bare: impl FnMut() -> f64,
    mut ours: impl FnMut() -> f64,
) -> (f64, f64) {
    let mut best = (f64::MAX, f64::MAX);
    for _ in 0..RUNS {
        best.0 = best.0.min(bare());
        best.1 = best.1.min(ours());
    }
    (rows as f64 / best.0, rows as f64 / best.1)
}

fn line(what: &str, (bare, ours): (f64, f64)) {
    println!(
        "| {what} | {bare:.0} | {ours:.0} | {:.0} % |",
        100.0 * ours / bare
    );
}

/// Rows of the table in an order that is the same in each run and follows no other.
fn shuffled(count: usize) -> Vec<usize> {
    let step = 1_299_709;
    (0..count).map(|at| at * step % ROWS).collect()
}

fn decode_cost(table: &HbaseTable, server: &str) {
    let mut stream = TcpStream::connect(server).expect("a gateway");
    let mut frame = Vec::new();
    ask(&mut stream, &scan_request(0), &mut frame);
    let cells = PAGE_ROWS * cell_names().len();
    let mut best = f64::MAX;
    for _ in 0..50 {
        let copy = frame.clone();
        let begun = Instant::now();
        let batch = table.decode_reply(&ALL, copy).expect("its own reply");
        best = best.min(begun.elapsed().as_secs_f64());
        assert_eq!(batch.num_rows(), PAGE_ROWS);
    }
    println!(
        "\ndecode: {:.1} ns per cell of {} bytes on the wire",
        best * 1e9 / cells as f64,
        frame.len() / cells
    );
}

fn lookup_rate(runtime: &Runtime, table: &HbaseTable) -> f64 {
    let lookup = table.lookup(&[1, 2, 3, 4]).expect("a lookup");
    let fresh = shuffled(LOOKED_UP / 10);
    let mut seconds = 0.0;
    for chunk in 0..LOOKED_UP / 8_000 {
        // A tenth of each chunk is new; the others were looked up before, or are repeated in it.
        let new = &fresh[chunk * 800..(chunk + 1) * 800];
        let known = &fresh[..(chunk + 1) * 800];
        let keys = (0..8_000).map(|at| match at % 10 {
            0 => new[at / 10],
            _ => known[at * 7 % known.len()],
        });
        let keys: ArrayRef = Arc::new(keys.map(|row| Some(key(row))).collect::<StringViewArray>());
        let begun = Instant::now();
        let found = runtime.block_on(lookup.rows(&[keys])).expect("found");
        let decoded = lookup
            .decode(found.iter().flatten().map(AsRef::as_ref))
            .expect("rows");
        seconds += begun.elapsed().as_secs_f64();
        assert_eq!(decoded.num_rows(), 8_000);
    }
    assert_eq!(lookup.keys_asked(), (LOOKED_UP / 10) as u64);
    LOOKED_UP as f64 / seconds
}

/// What both clients work on.
struct Bench<'a> {
    runtime: &'a Runtime,
    table: &'a HbaseTable,
    gateways: Vec<&'a str>,
}

impl Bench<'_> {
    fn write(&self) {
        let puts: Vec<Vec<u8>> = (0..ROWS / BATCH_ROWS)
            .map(|part| put_request(part * BATCH_ROWS))
            .collect();
        let batches: Vec<RecordBatch> =
            (0..4).map(|part| rows(part * ROWS / 4, ROWS / 4)).collect();
        let none = rows(0, 0);
        let deliver = |batch: &RecordBatch| {
            let written = self.table.deliver(batch, &none, STAMP);
            let written = self.runtime.block_on(written).expect("written");
            assert_eq!(written.rows, batch.num_rows());
        };
        let rates = compare(
            ROWS,
            || replay(&self.gateways, CONNECTIONS, &puts).0,
            || {
                let begun = Instant::now();
                batches.iter().for_each(deliver);
                begun.elapsed().as_secs_f64()
            },
        );
        line("batched write", rates);
    }

    /// Reads what a scan asks for; seconds and rows.
    fn read(&self, scan: &HbaseScan) -> (f64, usize) {
        let begun = Instant::now();
        let count = self.runtime.block_on(async {
            let mut found = self.table.read(scan);
            let mut count = 0;
            while let Some(batch) = found.next().await {
                count += batch.expect("read").num_rows();
            }
            count
        });
        (begun.elapsed().as_secs_f64(), count)
    }

    fn of_keys(&self, keys: &[usize]) -> HbaseScan {
        let values = keys.iter().map(|row| Some(key(*row)));
        let condition = Condition::In {
            column: 0,
            values: Arc::new(values.collect::<StringViewArray>()),
        };
        self.table.plan(&ALL, &[condition], None)
    }

    fn scan(&self) {
        let pages: Vec<Vec<u8>> = (0..ROWS / PAGE_ROWS)
            .map(|page| scan_request(page * PAGE_ROWS))
            .collect();
        let scan = self.table.plan(&ALL, &[], None);
        let rates = compare(
            ROWS,
            || {
                let (seconds, received) = replay(&self.gateways, CONNECTIONS, &pages);
                assert!(received > ROWS * 100, "every row came");
                seconds
            },
            || {
                let (seconds, count) = self.read(&scan);
                assert_eq!(count, ROWS);
                seconds
            },
        );
        line("scan", rates);
    }

    fn gets(&self) {
        let random = shuffled(RANDOM);
        let requests: Vec<Vec<u8>> = random.chunks(BATCH_ROWS).map(get_request).collect();
        let parts = random.chunks(10_000).map(|keys| self.of_keys(keys));
        let parts: Vec<HbaseScan> = parts.collect();
        let rates = compare(
            RANDOM,
            || replay(&self.gateways, CONNECTIONS, &requests).0,
            || {
                let found: Vec<(f64, usize)> = parts.iter().map(|scan| self.read(scan)).collect();
                assert_eq!(found.iter().map(|one| one.1).sum::<usize>(), RANDOM);
                found.iter().map(|one| one.0).sum()
            },
        );
        line("random gets", rates);
        let singles = &random[..SINGLE];
        let requests: Vec<Vec<u8>> = singles.iter().map(|row| get_request(&[*row])).collect();
        let scans: Vec<HbaseScan> = singles.iter().map(|row| self.of_keys(&[*row])).collect();
        let rates = compare(
            SINGLE,
            || replay(&self.gateways, 1, &requests).0,
            || scans.iter().map(|scan| self.read(scan).0).sum(),
        );
        line("single gets, one connection", rates);
    }
}

fn main() {
    let (Ok(servers), Ok(run)) = (std::env::var("HBASE_THRIFT"), std::env::var("HBASE_RUN")) else {
        println!("SKIPPED: set HBASE_THRIFT and HBASE_RUN as tests/services/up hbase prints them");
        return;
    };
    let runtime = Runtime::new().expect("a runtime");
    let table = table(&servers);
    let borders = (1..4).map(|part| hex(key(part * ROWS / 4).as_bytes()));
    let borders: Vec<String> = borders.collect();
    admin(&run, &format!("create bench d 1 {}\n", borders.join(" ")));
    let bench = Bench {
        runtime: &runtime,
        table: &table,
        gateways: servers.split(',').collect(),
    };
    println!("| | bare client, rows/s | ours, rows/s | |\n|---|---|---|---|");
    bench.write();
    bench.scan();
    bench.gets();
    decode_cost(&table, bench.gateways[0]);
    let rates = (0..RUNS).map(|_| lookup_rate(&runtime, &table));
    let best = rates.fold(0.0, f64::max);
    println!("lookup join, 9 of 10 keys known: {best:.0} rows/s");
    admin(&run, "drop bench\n");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
