//! Calls against gateways that refuse, hang, lie and come back, over real sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use thrift::protocol::{
    TBinaryInputProtocol, TBinaryOutputProtocol, TCompactInputProtocol, TCompactOutputProtocol,
    TFieldIdentifier, TInputProtocol, TListIdentifier, TMessageIdentifier, TMessageType,
    TOutputProtocol, TStructIdentifier, TType,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::client::Client;
use super::connection::{Dialect, Transport};
use super::endpoint::Endpoint;
use super::error::HbaseError;
use super::gateways::Gateways;
use super::key::KeyRange;
use super::reply::message_length;
use super::request::{NewCell, Projection, Put, Scan, TableName};
use super::wire::Protocol;
use crate::context::Deadline;

const FRAMED: Dialect = Dialect {
    transport: Transport::Framed,
    protocol: Protocol::Compact,
};

/// What a scripted gateway does with a call.
#[derive(Debug, Clone)]
enum Act {
    /// Says what kind of server it is.
    Kind(i32),
    /// Says that the table exists.
    Yes,
    /// Gives rows with these keys and one cell each.
    Rows(Vec<&'static str>),
    /// Fails as the gateway does when HBase fails.
    Fail(&'static str),
    /// The same, and says that trying again is of no use.
    FailForGood(&'static str),
    /// Throws what its code does not declare.
    Internal,
    /// Answers with another call's number.
    WrongNumber,
    /// Never answers.
    Hang,
    /// Answers after a while.
    Late(Duration),
    /// Hangs up.
    Close,
    /// Sends bytes that are no reply.
    Noise(&'static [u8]),
}

/// A gateway that acts by script: number of the connection, number of the call on it, name of the call.
async fn gateway(
    dialect: Dialect,
    script: impl Fn(usize, usize, &str) -> Act + Send + Sync + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let script = Arc::new(script);
    tokio::spawn(async move {
        let mut count = 0;
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, dialect, count, Arc::clone(&script)));
            count += 1;
        }
    });
    address
}

async fn serve(
    mut stream: TcpStream,
    dialect: Dialect,
    connection: usize,
    script: Arc<impl Fn(usize, usize, &str) -> Act>,
) {
    for call in 0.. {
        let Some((name, sequence)) = request(&mut stream, dialect).await else {
            return;
        };
        let bytes = match script(connection, call, &name) {
            Act::Hang => std::future::pending().await,
            Act::Close => return,
            Act::Noise(bytes) => {
                let _ = stream.write_all(bytes).await;
                continue;
            }
            Act::Late(wait) => {
                tokio::time::sleep(wait).await;
                reply(dialect, &name, sequence, &Act::Yes)
            }
            Act::WrongNumber => reply(dialect, &name, sequence - 1, &Act::Yes),
            act => reply(dialect, &name, sequence, &act),
        };
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

async fn request(stream: &mut TcpStream, dialect: Dialect) -> Option<(String, i32)> {
    let body = match dialect.transport {
        Transport::Framed => {
            let length = stream.read_i32().await.ok()?;
            let mut body = vec![0; length as usize];
            stream.read_exact(&mut body).await.ok()?;
            body
        }
        Transport::Unframed => {
            // A request is read as a reply once its head says so.
            let mut body = vec![0; 4096];
            let length = stream.read(&mut body).await.ok()?;
            body.truncate(length);
            body
        }
    };
    let (mut compact, mut binary);
    let input: &mut dyn TInputProtocol = match dialect.protocol {
        Protocol::Compact => {
            compact = TCompactInputProtocol::new(&body[..]);
            &mut compact
        }
        Protocol::Binary => {
            binary = TBinaryInputProtocol::new(&body[..], true);
            &mut binary
        }
    };
    let head = input.read_message_begin().ok()?;
    Some((head.name, head.sequence_number))
}

fn reply(dialect: Dialect, name: &str, sequence: i32, act: &Act) -> Vec<u8> {
    let mut body = Vec::new();
    {
        let (mut compact, mut binary);
        let out: &mut dyn TOutputProtocol = match dialect.protocol {
            Protocol::Compact => {
                compact = TCompactOutputProtocol::new(&mut body);
                &mut compact
            }
            Protocol::Binary => {
                binary = TBinaryOutputProtocol::new(&mut body, true);
                &mut binary
            }
        };
        write_reply(out, name, sequence, act).expect("memory");
    }
    assert_eq!(
        message_length(&body, dialect.protocol),
        Ok(Some(body.len()))
    );
    if dialect.transport == Transport::Framed {
        let mut framed = (body.len() as i32).to_be_bytes().to_vec();
        framed.extend_from_slice(&body);
        return framed;
    }
    body
}

fn write_reply(
    out: &mut dyn TOutputProtocol,
    name: &str,
    sequence: i32,
    act: &Act,
) -> thrift::Result<()> {
    let kind = match act {
        Act::Internal => TMessageType::Exception,
        _ => TMessageType::Reply,
    };
    out.write_message_begin(&TMessageIdentifier::new(name, kind, sequence))?;
    begin(out)?;
    match act {
        Act::Internal => {
            field(out, TType::String, 1)?;
            out.write_string(&format!("Internal error processing {name}"))?;
        }
        Act::Kind(kind) => {
            field(out, TType::I32, 0)?;
            out.write_i32(*kind)?;
        }
        Act::Rows(keys) => {
            field(out, TType::List, 0)?;
            out.write_list_begin(&TListIdentifier::new(TType::Struct, keys.len() as i32))?;
            for key in keys {
                write_row(out, key)?;
            }
        }
        Act::Fail(message) | Act::FailForGood(message) => {
            field(out, TType::Struct, 1)?;
            begin(out)?;
            field(out, TType::String, 1)?;
            out.write_string(message)?;
            if matches!(act, Act::FailForGood(_)) {
                field(out, TType::Bool, 2)?;
                out.write_bool(false)?;
            }
            end(out)?;
        }
        _ => {
            field(out, TType::Bool, 0)?;
            out.write_bool(true)?;
        }
    }
    end(out)
}

fn write_row(out: &mut dyn TOutputProtocol, key: &str) -> thrift::Result<()> {
    begin(out)?;
    field(out, TType::String, 1)?;
    out.write_string(key)?;
    field(out, TType::List, 2)?;
    out.write_list_begin(&TListIdentifier::new(TType::Struct, 1))?;
    begin(out)?;
    for (id, text) in [(1, "f"), (2, "q"), (3, "v")] {
        field(out, TType::String, id)?;
        out.write_string(text)?;
    }
    field(out, TType::I64, 4)?;
    out.write_i64(5)?;
    end(out)?;
    end(out)
}

fn begin(out: &mut dyn TOutputProtocol) -> thrift::Result<()> {
    out.write_struct_begin(&TStructIdentifier::new(""))
}

fn end(out: &mut dyn TOutputProtocol) -> thrift::Result<()> {
    out.write_field_stop()?;
    out.write_struct_end()
}

fn field(out: &mut dyn TOutputProtocol, field_type: TType, id: i16) -> thrift::Result<()> {
    out.write_field_begin(&TFieldIdentifier {
        name: None,
        field_type,
        id: Some(id),
    })
}

fn client(addresses: &[&str], dialect: Dialect) -> Client {
    let endpoints: Option<Vec<_>> = addresses.iter().map(|one| Endpoint::parse(one)).collect();
    Client::new(Gateways::new(&endpoints.expect("addresses"), dialect, None))
}

fn within(seconds: u64) -> Deadline {
    Deadline::after(Duration::from_secs(seconds))
}

fn table() -> TableName {
    TableName::parse("t").expect("a name")
}

/// Greets as a Thrift2 gateway, and does `act` for everything else.
fn does(act: Act) -> impl Fn(usize, usize, &str) -> Act + Send + Sync + 'static {
    move |_, _, name| match name {
        "getThriftServerType" => Act::Kind(2),
        _ => act.clone(),
    }
}

/// An address that nobody listens on.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("bound").to_string()
}

#[tokio::test]
async fn every_transport_and_protocol_is_spoken() {
    for transport in [Transport::Framed, Transport::Unframed] {
        for protocol in [Protocol::Compact, Protocol::Binary] {
            let dialect = Dialect {
                transport,
                protocol,
            };
            let address = gateway(dialect, does(Act::Yes)).await;
            let client = client(&[&address], dialect);
            for _ in 0..3 {
                assert_eq!(client.exists(&table(), within(10)).await, Ok(true));
            }
        }
    }
}

#[tokio::test]
async fn work_moves_away_from_gateways_that_are_gone_or_hang() {
    let good = gateway(FRAMED, does(Act::Yes)).await;
    let gone = nobody().await;
    let hangs = gateway(FRAMED, |_, _, _| Act::Hang).await;
    let hangs_later = gateway(FRAMED, |connection, call, _| match (connection, call) {
        (0, 0) => Act::Kind(2),
        _ => Act::Hang,
    })
    .await;
    let closes = gateway(FRAMED, does(Act::Close)).await;
    for bad in [gone, hangs, hangs_later, closes] {
        let client = client(&[&bad, &good], FRAMED);
        let begun = Instant::now();
        // Ties go to the last gateway, so several calls under way reach both.
        let table = table();
        let calls: Vec<_> = (0..6).map(|_| client.exists(&table, within(30))).collect();
        for answer in futures::future::join_all(calls).await {
            assert_eq!(answer, Ok(true));
        }
        // About two seconds, and some for a busy machine.
        assert!(begun.elapsed() < Duration::from_secs(4), "{bad}");
    }
}

#[tokio::test]
async fn a_slow_answer_of_a_living_gateway_is_waited_for() {
    let slow = gateway(FRAMED, does(Act::Late(Duration::from_secs(3)))).await;
    let client = client(&[&slow], FRAMED);
    assert_eq!(client.exists(&table(), within(20)).await, Ok(true));
    let error = client.exists(&table(), within(1)).await.expect_err("late");
    assert_eq!(error, HbaseError::Timeout { table: "t".into() });
}

#[tokio::test]
async fn a_gateway_that_hangs_up_on_idle_connections_is_healthy() {
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&calls);
    // Every connection serves one call after the greeting.
    let address = gateway(FRAMED, move |_, call, name| {
        seen.fetch_add(1, Ordering::SeqCst);
        match (name, call) {
            ("getThriftServerType", _) => Act::Kind(2),
            (_, 1) => Act::Yes,
            _ => Act::Close,
        }
    })
    .await;
    let client = client(&[&address], FRAMED);
    for _ in 0..3 {
        assert_eq!(client.exists(&table(), within(10)).await, Ok(true));
    }
    // Two calls on the first connection, then a refused one and two on each new one.
    assert_eq!(calls.load(Ordering::SeqCst), 2 + 3 + 3);
}

#[tokio::test]
async fn an_answer_to_another_call_is_never_taken() {
    let address = gateway(FRAMED, |connection, _, name| match name {
        "getThriftServerType" => Act::Kind(2),
        _ if connection == 0 => Act::WrongNumber,
        _ => Act::Yes,
    })
    .await;
    let client = client(&[&address], FRAMED);
    assert_eq!(client.exists(&table(), within(10)).await, Ok(true));
}

#[tokio::test]
async fn other_servers_are_named_as_such() {
    for act in [
        Act::Kind(1),
        Act::Noise(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        Act::Noise(b"\0\0\0\x04abcd"),
    ] {
        let address = gateway(FRAMED, move |_, _, _| act.clone()).await;
        let client = client(&[&address], FRAMED);
        let error = client.exists(&table(), within(10)).await.expect_err("no");
        assert_eq!(error.sqlstate(), "08P01", "{error:?}");
        assert!(matches!(error, HbaseError::WrongEndpoint { .. }));
    }
}

#[tokio::test]
async fn nobody_there_is_an_error_at_the_deadline() {
    let client = client(&[&nobody().await], FRAMED);
    let begun = Instant::now();
    let error = client.exists(&table(), within(1)).await.expect_err("no");
    assert_eq!(error.sqlstate(), "08001");
    assert!(
        error
            .detail()
            .is_some_and(|text| text.contains("127.0.0.1"))
    );
    assert!(begun.elapsed() < Duration::from_secs(6));
}

#[tokio::test]
async fn what_hbase_says_decides_whether_a_call_is_repeated() {
    let trace = "org.apache.hadoop.hbase.TableNotFoundException: t\n\tat org.apache.X";
    let address = gateway(FRAMED, does(Act::Fail(trace))).await;
    let error = client(&[&address], FRAMED)
        .exists(&table(), within(10))
        .await;
    assert_eq!(error, Err(HbaseError::TableMissing { table: "t".into() }));

    for refusal in [
        Act::Fail("NotServingRegionException: t is not online"),
        // HBase's client has tried for ten seconds; the ensemble comes back all the same.
        Act::FailForGood("Zookeeper LIST could not be completed in 10000 ms"),
    ] {
        let count = Arc::new(AtomicUsize::new(0));
        let address = gateway(FRAMED, move |_, _, name| {
            match (name, count.fetch_add(1, Ordering::SeqCst)) {
                ("getThriftServerType", _) => Act::Kind(2),
                (_, 1) => refusal.clone(),
                _ => Act::Yes,
            }
        })
        .await;
        let answer = client(&[&address], FRAMED)
            .exists(&table(), within(10))
            .await;
        assert_eq!(answer, Ok(true));
    }

    let address = gateway(FRAMED, does(Act::FailForGood("no such snapshot"))).await;
    let answer = client(&[&address], FRAMED)
        .exists(&table(), within(10))
        .await;
    assert!(
        matches!(answer, Err(HbaseError::Remote { .. })),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_put_that_a_gateway_fails_over_is_made_at_another() {
    let count = Arc::new(AtomicUsize::new(0));
    let sick = async || {
        let count = Arc::clone(&count);
        let act = does(Act::Internal);
        gateway(FRAMED, move |connection, call, name| {
            count.fetch_add(usize::from(name == "putMultiple"), Ordering::SeqCst);
            act(connection, call, name)
        })
        .await
    };
    // A put is answered with nothing, which a list of nothing is as good as.
    let good = gateway(FRAMED, does(Act::Rows(vec![]))).await;
    let (one, other) = (sick().await, sick().await);
    let (one, other) = (&one[..], &other[..]);
    let put = |row: u8| Put {
        row: vec![row],
        cells: vec![NewCell {
            family: b"f".to_vec(),
            qualifier: b"q".to_vec(),
            value: vec![],
        }],
        timestamp: 1,
    };
    for puts in [vec![put(1)], vec![put(1), put(2)]] {
        // Ties go to the last gateway, so the sick one is asked first.
        let client = client(&[&good[..], one], FRAMED);
        count.store(0, Ordering::SeqCst);
        assert_eq!(client.put(&table(), &puts, within(10)).await, Ok(()));
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }
    for (addresses, rows, asked) in [
        (vec![one, other], 1, 2),
        (vec![one, other], 2, 2),
        (vec![one], 1, 2),
        (vec![one], 2, 1),
    ] {
        let client = client(&addresses, FRAMED);
        count.store(0, Ordering::SeqCst);
        let puts: Vec<Put> = (0..rows).map(put).collect();
        let error = client.put(&table(), &puts, within(10)).await;
        assert!(
            matches!(error, Err(HbaseError::RowFailed { .. })),
            "{error:?}"
        );
        assert_eq!(count.load(Ordering::SeqCst), asked, "{addresses:?} {rows}");
    }
}

#[tokio::test]
async fn rows_that_were_not_asked_for_are_an_error() {
    let address = |keys: &[&'static str]| gateway(FRAMED, does(Act::Rows(keys.to_vec())));
    let everything = Projection::default();
    let range = KeyRange {
        start: b"b".to_vec(),
        stop: b"d".to_vec(),
    };
    let (forward, reversed) = (Scan::first(&range, 2), Scan::last(&range, 1));
    for (scan, keys, good) in [
        (&forward, &["b", "c"][..], true),
        (&forward, &["a"], false),
        (&forward, &["d"], false),
        (&forward, &["c", "b"], false),
        (&forward, &["b", "b"], false),
        (&forward, &["b", "ba", "c"], false),
        (&forward, &[], true),
        // A row just behind each end may come.
        (&reversed, &["d", "c"], true),
        (&reversed, &["c", "b"], true),
        (&reversed, &["b", "c"], false),
        (&reversed, &["c", "c"], false),
        (&reversed, &["c", "a"], false),
        (&reversed, &["e", "c"], false),
        (&reversed, &["d", "c", "b"], false),
    ] {
        let client = client(&[&address(keys).await], FRAMED);
        let answer = client.scan(&table(), scan, &everything, within(1)).await;
        assert_eq!(answer.is_ok(), good, "{keys:?}");
        if let Ok(page) = answer {
            let found: Vec<_> = page.rows().filter_map(|row| row.key()).collect();
            assert_eq!(
                found,
                keys.iter().map(|key| key.as_bytes()).collect::<Vec<_>>()
            );
        }
    }
    let asked = [b"b".to_vec(), b"c".to_vec()];
    for (keys, good) in [
        (&["b", "c"][..], true),
        (&["b"], false),
        (&["c", "b"], false),
    ] {
        let client = client(&[&address(keys).await], FRAMED);
        let answer = client.get(&table(), &asked, &everything, within(1)).await;
        assert_eq!(answer.is_ok(), good, "{keys:?}");
    }
}
