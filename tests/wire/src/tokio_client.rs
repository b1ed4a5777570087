//! An independent client of the extended protocol: tokio-postgres, which asks for binary results only.
//!
//! Invariant: a value is the same whichever way it goes in and comes out; the texts are what Postgres prints.

use std::error::Error;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt, TryStreamExt, future, pin_mut};
use thalweg::testing::TestServer;
use tokio::time::timeout;
use tokio_postgres::binary_copy::{BinaryCopyInWriter, BinaryCopyOutStream};
use tokio_postgres::types::{Format, FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::raw::PATIENCE;

async fn connect(server: &TestServer) -> Client {
    let settings = format!(
        "host=127.0.0.1 port={} user=ann dbname=thalweg",
        server.pg_addr.port()
    );
    let (client, connection) = tokio_postgres::connect(&settings, NoTls)
        .await
        .expect("connects");
    // Ends when the client is dropped; its error reaches the query that meets it.
    tokio::spawn(async move { connection.await.ok() });
    client
}

/// A value of any type as its bytes, in either format.
#[derive(Debug, Clone, PartialEq)]
struct Raw {
    bytes: Vec<u8>,
    text: bool,
}

impl Raw {
    fn text(text: &str) -> Self {
        Self {
            bytes: text.into(),
            text: true,
        }
    }
}

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self {
            bytes: raw.to_vec(),
            text: false,
        })
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

impl ToSql for Raw {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&self.bytes);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        match self.text {
            true => Format::Text,
            false => Format::Binary,
        }
    }

    to_sql_checked!();
}

/// The first value of a text result.
async fn shown(client: &Client, query: &str) -> Option<String> {
    let messages = client.simple_query(query).await.expect(query);
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    row.and_then(|row| row.get(0).map(str::to_owned))
}

fn state(error: &tokio_postgres::Error) -> &str {
    error.code().map_or("", |code| code.code())
}

/// Types with texts as Postgres prints them.
const VALUES: &[(&str, &[&str])] = &[
    ("boolean", &["t", "f"]),
    ("smallint", &["-32768", "32767"]),
    ("integer", &["-2147483648", "0"]),
    ("bigint", &["-9223372036854775808", "9223372036854775807"]),
    ("real", &["0.1", "-1e+30", "NaN", "Infinity"]),
    ("double precision", &["0.1", "1e+300", "-Infinity", "NaN"]),
    (
        "numeric",
        &["0", "-12.5", "12345678901234567890.0123456789"],
    ),
    ("numeric(10,3)", &["1.500", "-9999999.999"]),
    ("text", &["", "\u{e4}\u{1f600} 'quoted' \\", "NULL"]),
    ("varchar(5)", &["abc", "\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}"]),
    ("char(3)", &["abc"]),
    ("name", &["a_name"]),
    ("bytea", &["\\x", "\\x00ff7a"]),
    ("date", &["2024-02-29", "0001-01-01", "9999-12-31"]),
    ("time", &["00:00:00", "23:59:59.999999"]),
    (
        "timestamp",
        &["2024-02-29 01:02:03.5", "1969-12-31 23:59:59.999999"],
    ),
    (
        "timestamptz",
        &["2024-02-29 01:02:03+00", "0001-01-01 00:00:00+00"],
    ),
    (
        "interval",
        &["1 year 2 mons 3 days 04:05:06.7", "-00:00:01", "00:00:00"],
    ),
    ("uuid", &["6ba7b810-9dad-11d1-80b4-00c04fd430c8"]),
    ("json", &["{\"b\": 1, \"a\": [null]}"]),
    (
        "jsonb",
        &["{\"a\": [null, 1.50], \"b\": \"\u{e4}\"}", "null"],
    ),
    ("oid", &["0", "4294967295"]),
    ("integer[]", &["{}", "{1,NULL,-3}"]),
    ("text[]", &["{a,\"b c\",\"\",NULL,\"\\\"\"}"]),
    ("numeric[]", &["{1.5,NULL}"]),
    ("timestamptz[]", &["{\"2024-02-29 01:02:03+00\"}"]),
    ("boolean[]", &["{t,f}"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_type_goes_both_ways_in_both_formats() {
    let server = TestServer::start().await;
    let client = connect(&server).await;
    for (ty, texts) in VALUES {
        let echo = format!("SELECT $1::{ty}");
        let echo = client.prepare(&echo).await.expect(ty);
        let spell = format!("SELECT ($1::{ty})::text");
        let spell = client.prepare(&spell).await.expect(ty);
        for text in *texts {
            let literal = format!("'{}'", text.replace('\'', "''"));
            let plain = shown(&client, &format!("SELECT {literal}::{ty}")).await;
            assert_eq!(plain.as_deref(), Some(*text), "{ty}: a literal");
            let row = client.query_one(&echo, &[&Raw::text(text)]).await;
            let binary: Raw = row.expect(text).get(0);
            let row = client.query_one(&echo, &[&binary]).await;
            assert_eq!(row.expect(text).get::<_, Raw>(0), binary, "{ty}: {text}");
            let cast = match *ty {
                "boolean" if *text == "t" => "true",
                "boolean" => "false",
                _ => text,
            };
            for parameter in [Raw::text(text), binary] {
                let row = client.query_one(&spell, &[&parameter]).await.expect(text);
                assert_eq!(row.get::<_, String>(0), cast, "{ty} by {parameter:?}");
            }
        }
        let nothing: Option<Raw> = None;
        let row = client.query_one(&echo, &[&nothing]).await.expect(ty);
        assert_eq!(row.get::<_, Option<Raw>>(0), None, "{ty}");
        // Bytes that are no value of the type are refused, and the connection goes on.
        if !matches!(*ty, "text" | "varchar(5)" | "char(3)" | "name" | "bytea") {
            let odd = Raw {
                bytes: vec![0xff; 3],
                text: false,
            };
            let error = client.query_one(&echo, &[&odd]).await.expect_err(ty);
            assert!(
                ["22P03", "22021", "08P01", "22P02"].contains(&state(&error)),
                "{ty}: {error:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_types_come_out_as_they_went_in() {
    let server = TestServer::start().await;
    let client = connect(&server).await;
    let moment = std::time::UNIX_EPOCH + Duration::from_micros(1_709_168_523_123_456);
    let row = client
        .query_one(
            "SELECT $1::bool, $2::int2, $3::int4, $4::int8, $5::float4, $6::float8, $7::text, $8::bytea, $9::timestamptz, $10::int8[], $11::text[], $12::oid",
            &[
                &true,
                &-2_i16,
                &3_i32,
                &i64::MIN,
                &0.25_f32,
                &f64::MAX,
                &"\u{e4}",
                &&b"\x00\x01"[..],
                &moment,
                &vec![Some(1_i64), None],
                &vec!["a", ""],
                &7_u32,
            ],
        )
        .await
        .expect("echoes");
    assert!(row.get::<_, bool>(0));
    assert_eq!((row.get::<_, i16>(1), row.get::<_, i32>(2)), (-2, 3));
    assert_eq!(row.get::<_, i64>(3), i64::MIN);
    assert_eq!(
        (row.get::<_, f32>(4), row.get::<_, f64>(5)),
        (0.25, f64::MAX)
    );
    assert_eq!(row.get::<_, &str>(6), "\u{e4}");
    assert_eq!(row.get::<_, &[u8]>(7), b"\x00\x01");
    assert_eq!(row.get::<_, std::time::SystemTime>(8), moment);
    assert_eq!(row.get::<_, Vec<Option<i64>>>(9), [Some(1), None]);
    assert_eq!(row.get::<_, Vec<String>>(10), ["a", ""]);
    assert_eq!(row.get::<_, u32>(11), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_statements_know_their_types_and_outlive_failures() {
    let server = TestServer::start().await;
    let client = connect(&server).await;
    client
        .batch_execute("CREATE TABLE t (k int8 PRIMARY KEY, v text)")
        .await
        .expect("creates");
    let insert = client
        .prepare("INSERT INTO t VALUES ($1, $2) RETURNING v, k")
        .await
        .expect("prepares");
    assert_eq!(insert.params(), [Type::INT8, Type::TEXT]);
    let columns: Vec<_> = insert
        .columns()
        .iter()
        .map(|c| (c.name(), c.type_()))
        .collect();
    assert_eq!(columns, [("v", &Type::TEXT), ("k", &Type::INT8)]);
    for k in 1..=3_i64 {
        let row = client
            .query_one(&insert, &[&k, &"x"])
            .await
            .expect("inserts");
        assert_eq!(row.get::<_, i64>(1), k);
    }
    let error = client
        .query(&insert, &[&1_i64, &"x"])
        .await
        .expect_err("again");
    assert_eq!(state(&error), "23505");
    assert_eq!(
        client
            .execute(&insert, &[&4_i64, &"x"])
            .await
            .expect("inserts"),
        1
    );
    let typed = client
        .prepare_typed("SELECT $1", &[Type::INT2])
        .await
        .expect("prepares");
    assert_eq!(typed.params(), [Type::INT2]);
    let read = client
        .prepare("SELECT * FROM t WHERE k = $1")
        .await
        .expect("prepares");
    client
        .batch_execute("DROP TABLE t; CREATE TABLE t (k int8 PRIMARY KEY, v int)")
        .await
        .expect("creates anew");
    let error = client
        .query(&read, &[&1_i64])
        .await
        .expect_err("another type");
    assert_eq!(state(&error), "0A000", "{error:?}");
    let error = client
        .prepare("SELECT nosuch FROM t")
        .await
        .expect_err("no column");
    assert_eq!(state(&error), "42703");
}

#[tokio::test(flavor = "multi_thread")]
async fn portals_give_a_result_in_portions() {
    let server = TestServer::start().await;
    let mut client = connect(&server).await;
    let block = client.transaction().await.expect("begins");
    let statement = block
        .prepare("SELECT n FROM generate_series(1, $1::int) AS s(n) ORDER BY n")
        .await
        .expect("prepares");
    let (first, second) = (
        block.bind(&statement, &[&5]).await.expect("binds"),
        block.bind(&statement, &[&2]).await.expect("binds"),
    );
    let numbers = |rows: Vec<tokio_postgres::Row>| -> Vec<i32> {
        rows.iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(
        numbers(block.query_portal(&first, 2).await.expect("reads")),
        [1, 2]
    );
    assert_eq!(
        numbers(block.query_portal(&second, 0).await.expect("reads")),
        [1, 2]
    );
    assert_eq!(
        numbers(block.query_portal(&first, 2).await.expect("reads")),
        [3, 4]
    );
    assert_eq!(
        numbers(block.query_portal(&first, 9).await.expect("reads")),
        [5]
    );
    assert!(
        block
            .query_portal(&first, 9)
            .await
            .expect("reads")
            .is_empty()
    );
    block.commit().await.expect("commits");
    assert_eq!(shown(&client, "SELECT 1").await.as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_in_flight_are_answered_in_order() {
    let server = TestServer::start().await;
    let client = connect(&server).await;
    client
        .batch_execute("CREATE TABLE t (k int PRIMARY KEY)")
        .await
        .expect("creates");
    let insert = client
        .prepare("INSERT INTO t VALUES ($1)")
        .await
        .expect("prepares");
    let read = client
        .prepare("SELECT count(*) FROM t")
        .await
        .expect("prepares");
    let work = (0..200_i32).map(|n| {
        let (client, insert, read) = (&client, &insert, &read);
        async move {
            // Every tenth key is there already: its failure is its own.
            let key = if n % 10 == 9 { n - 1 } else { n };
            let parameters: [&(dyn ToSql + Sync); 1] = [&key];
            let (inserted, counted) = future::join(
                client.execute(insert, &parameters),
                client.query_one(read, &[]),
            )
            .await;
            (inserted, counted.expect("counts").get::<_, i64>(0))
        }
    });
    let answers = future::join_all(work).await;
    let mut there = 0;
    for (n, (inserted, counted)) in answers.into_iter().enumerate() {
        match (n % 10, inserted) {
            (9, Err(error)) => assert_eq!(state(&error), "23505"),
            (9, Ok(_)) => panic!("{n} is there twice"),
            (_, inserted) => {
                assert_eq!(inserted.expect("inserts"), 1);
                there += 1;
            }
        }
        assert_eq!(counted, there, "after {n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_copied_in_and_out() {
    let server = TestServer::start().await;
    let client = connect(&server).await;
    client
        .batch_execute("CREATE TABLE t (k int8 PRIMARY KEY, v text, f float8)")
        .await
        .expect("creates");
    let sink = client.copy_in::<_, Bytes>("COPY t (k, v) FROM STDIN").await;
    let sink = sink.expect("copies");
    pin_mut!(sink);
    for part in ["1\tone\n2\t", "\\N\n3\tthr", "ee\\\\\n"] {
        sink.send(Bytes::from_static(part.as_bytes()))
            .await
            .expect("sends");
    }
    assert_eq!(sink.finish().await.expect("ends"), 3);

    let types = [Type::INT8, Type::TEXT, Type::FLOAT8];
    let sink = client.copy_in("COPY t FROM STDIN (FORMAT binary)").await;
    let writer = BinaryCopyInWriter::new(sink.expect("copies"), &types);
    pin_mut!(writer);
    for k in 10..20_i64 {
        let v = format!("v{k}");
        writer
            .as_mut()
            .write(&[&k, &v, &0.5_f64])
            .await
            .expect("writes");
    }
    assert_eq!(writer.finish().await.expect("ends"), 10);

    let stream = client
        .copy_out("COPY (SELECT * FROM t WHERE k < 10 ORDER BY k) TO STDOUT")
        .await
        .expect("copies");
    let text: Vec<Bytes> = stream.try_collect().await.expect("reads");
    assert_eq!(
        text.concat(),
        b"1\tone\t\\N\n2\t\\N\t\\N\n3\tthree\\\\\t\\N\n"
    );

    let stream = client
        .copy_out("COPY (SELECT * FROM t WHERE k >= 10 ORDER BY k) TO STDOUT (FORMAT binary)")
        .await
        .expect("copies");
    let rows: Vec<_> = BinaryCopyOutStream::new(stream, &types)
        .try_collect()
        .await
        .expect("reads");
    assert_eq!(rows.len(), 10);
    assert_eq!((rows[9].get::<i64>(0), rows[9].get::<&str>(1)), (19, "v19"));

    // A copy that is given up leaves nothing, and neither does one that breaks a key; the line is told.
    let sink = client.copy_in::<_, Bytes>("COPY t (k) FROM STDIN").await;
    let mut sink = Box::pin(sink.expect("copies"));
    sink.send(Bytes::from_static(b"99\n")).await.expect("sends");
    drop(sink);
    let sink = client.copy_in::<_, Bytes>("COPY t (k) FROM STDIN").await;
    let mut sink = Box::pin(sink.expect("copies"));
    sink.send(Bytes::from_static(b"100\n1\n"))
        .await
        .expect("sends");
    let error = sink
        .as_mut()
        .finish()
        .await
        .expect_err("a key that is there");
    let told = error
        .as_db_error()
        .map(|error| (error.code().code(), error.where_()));
    assert_eq!(told, Some(("23505", Some("COPY t, line 2"))));
    assert_eq!(
        shown(&client, "SELECT count(*) FROM t").await.as_deref(),
        Some("13")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_cancelled_and_the_connection_goes_on() {
    let server = TestServer::start().await;
    let client = connect(&server).await;
    client
        .batch_execute("CREATE TABLE t (k int PRIMARY KEY)")
        .await
        .expect("creates");
    let cancel = client.cancel_token();
    let parameters: [&(dyn ToSql + Sync); 0] = [];
    let stream = client
        .query_raw("SUBSCRIBE t", parameters)
        .await
        .expect("subscribes");
    pin_mut!(stream);
    client_writes(&server, "INSERT INTO t VALUES (1)").await;
    let row = timeout(PATIENCE, stream.next()).await.expect("in time");
    assert_eq!(row.expect("a row").expect("a row").get::<_, i32>(2), 1);
    cancel.cancel_query(NoTls).await.expect("asks");
    let error = loop {
        match timeout(PATIENCE, stream.next()).await.expect("in time") {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("a subscription has no end"),
        }
    };
    assert_eq!(state(&error), "57014");
    assert_eq!(
        shown(&client, "SELECT k FROM t").await.as_deref(),
        Some("1")
    );
}

/// Runs a text on a connection of its own.
async fn client_writes(server: &TestServer, text: &str) {
    connect(server).await.batch_execute(text).await.expect(text);
}

#[tokio::test(flavor = "multi_thread")]
async fn listen_says_what_to_use_instead() {
    let server = TestServer::start().await;
    let client = connect(&server).await;
    let simple = client
        .batch_execute("LISTEN changes")
        .await
        .expect_err("none");
    let extended = client.query("LISTEN changes", &[]).await.expect_err("none");
    for error in [simple, extended] {
        assert_eq!(state(&error), "0A000", "{error:?}");
        let hint = error
            .as_db_error()
            .and_then(|error| error.hint())
            .unwrap_or_default();
        assert!(hint.contains("SUBSCRIBE"), "{hint}");
    }
    client
        .batch_execute("UNLISTEN *")
        .await
        .expect("as after a LISTEN");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_fetched_by_cursor() {
    let server = TestServer::start().await;
    let mut client = connect(&server).await;
    client
        .batch_execute("CREATE TABLE t (k int, v int); CREATE MATERIALIZED VIEW s AS SELECT k, sum(v) AS v FROM t GROUP BY k; INSERT INTO t VALUES (1, 10), (2, 20)")
        .await
        .expect("creates");
    client.batch_execute("WAIT FOR s").await.expect("waits");
    let block = client.transaction().await.expect("begins");
    block
        .batch_execute("DECLARE c CURSOR FOR SUBSCRIBE s")
        .await
        .expect("declares");
    let fetch = "FETCH 100 FROM c WITH (timeout = '200ms')";
    let mut content = std::collections::BTreeMap::new();
    let mut until = async |wanted: &[(i32, i64)]| {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !content
            .iter()
            .map(|(row, _)| *row)
            .eq(wanted.iter().copied())
        {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{content:?}, not {wanted:?}"
            );
            for row in block.query(fetch, &[]).await.expect("fetches") {
                let key: (i32, i64) = (row.get("k"), row.get("v"));
                let count: &mut i64 = content.entry(key).or_default();
                *count += row.get::<_, i64>("_diff");
                if *count == 0 {
                    content.remove(&key);
                }
            }
        }
    };
    until(&[(1, 10), (2, 20)]).await;
    client_writes(
        &server,
        "INSERT INTO t VALUES (1, 5); DELETE FROM t WHERE k = 2",
    )
    .await;
    until(&[(1, 15)]).await;
    block.batch_execute("CLOSE c").await.expect("closes");
    block.commit().await.expect("commits");
}
