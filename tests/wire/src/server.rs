//! The whole server behind the wire: settings, types and limits as clients meet them.

use thalweg::testing::TestServer;

use crate::raw::{Raw, column, describe, extended, parse, query, sqlstate, startup, sync, tags};
use crate::stock::Stock;

/// D9: settings of the startup packet are applied and told.
#[tokio::test(flavor = "multi_thread")]
async fn d9_startup_settings_are_applied_and_told() {
    let packet = startup(&[
        ("user", "ann"),
        ("TimeZone", "Asia/Kolkata"),
        ("application_name", "probe"),
        (
            "options",
            "-c extra_float_digits=3 -c search_path=shop,public",
        ),
    ]);
    let stock = Stock::open().await;
    let mut client = Raw::connect(stock.address).await;
    client.send(&packet).await;
    let login = client.login().await;
    assert_eq!(
        login.setting("TimeZone"),
        "Etc/UTC",
        "stock pgwire tells its own zone"
    );

    let server = TestServer::start().await;
    let mut client = Raw::connect(server.pg_addr).await;
    client.send(&packet).await;
    let login = client.login().await;
    let table = [
        ("TimeZone", "Asia/Kolkata"),
        ("application_name", "probe"),
        ("client_encoding", "UTF8"),
        ("server_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("IntervalStyle", "postgres"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
        ("session_authorization", "ann"),
        ("default_transaction_read_only", "off"),
        ("in_hot_standby", "off"),
    ];
    for (name, value) in table {
        assert_eq!(login.setting(name), value, "{name}");
    }
    assert!(
        login
            .setting("server_version")
            .starts_with("15.18 (Thalweg "),
        "{}",
        login.setting("server_version")
    );
    assert_eq!(
        column(&client.query("SHOW search_path").await),
        ["shop,public"]
    );
    let shown = column(
        &client
            .query("SELECT timestamptz '2024-01-01 00:00:00+00'")
            .await,
    );
    assert_eq!(shown, ["2024-01-01 05:30:00+05:30"]);
    let answer = client.query("SET TimeZone = 'Europe/Berlin'").await;
    assert_eq!(tags(&answer), "CSZ");
    assert_eq!(answer[1].1, b"TimeZone\0Europe/Berlin\0");

    let mut client = Raw::connect(server.pg_addr).await;
    client
        .send(&startup(&[("user", "ann"), ("TimeZone", "Mars/Olympus")]))
        .await;
    let answer = client.until(b'Z').await;
    assert_eq!(
        (tags(&answer).as_str(), sqlstate(&answer).as_str()),
        ("E", "22023")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_of_ten_megabytes_is_refused_and_the_connection_goes_on() {
    let server = TestServer::start().await;
    let (mut client, _) = Raw::open(server.pg_addr).await;
    for bytes in [1_100_000, 10 << 20] {
        let text = format!("SELECT '{}'", "x".repeat(bytes));
        client.send(&query(&text)).await;
        let answer = client.cycle().await;
        assert_eq!(
            (tags(&answer).as_str(), sqlstate(&answer).as_str()),
            ("EZ", "54000")
        );
        client.send(&[parse("", &text, &[]), sync()].concat()).await;
        assert_eq!(sqlstate(&client.cycle().await), "54000");
        assert_eq!(column(&client.query("SELECT 1").await), ["1"]);
    }
}

/// Type OID, typlen and typmod of each column of a RowDescription.
fn types(body: &[u8]) -> Vec<(u32, i16, i32)> {
    let mut rest = &body[2..];
    let mut found = Vec::new();
    while let Some(end) = rest.iter().position(|&byte| byte == 0) {
        let fixed = &rest[end + 1..end + 19];
        let oid = u32::from_be_bytes(fixed[6..10].try_into().expect("four bytes"));
        let length = i16::from_be_bytes(fixed[10..12].try_into().expect("two bytes"));
        let modifier = i32::from_be_bytes(fixed[12..16].try_into().expect("four bytes"));
        found.push((oid, length, modifier));
        rest = &rest[end + 19..];
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn describe_tells_types_lengths_and_modifiers() {
    let server = TestServer::start().await;
    let (mut client, _) = Raw::open(server.pg_addr).await;
    let answer = client.query("CREATE TABLE t (i int PRIMARY KEY, v varchar(20), n numeric(10,2), a text[], j jsonb, u uuid)").await;
    assert_eq!(sqlstate(&answer), "");
    client
        .send(
            &[
                parse(
                    "",
                    "SELECT i, v, n, a, j, u, i + 1 FROM t WHERE i = $1",
                    &[],
                ),
                describe(b'S', ""),
                sync(),
            ]
            .concat(),
        )
        .await;
    let answer = client.cycle().await;
    assert_eq!(tags(&answer), "1tTZ", "{}", sqlstate(&answer));
    assert_eq!(answer[1].1, [0, 1, 0, 0, 0, 23]);
    let expected = [
        (23, 4, -1),
        (1043, -1, 24),
        (1700, -1, 655_366),
        (1009, -1, -1),
        (3802, -1, -1),
        (2950, 16, -1),
        (23, 4, -1),
    ];
    assert_eq!(types(&answer[2].1), expected);
    client.send(&extended("SELECT 1, 'x', NULL")).await;
    assert_eq!(tags(&client.cycle().await), "12DCZ");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_independent_client_reads_and_writes_every_type() {
    let server = TestServer::start().await;
    let settings = format!(
        "host=127.0.0.1 port={} user=ann dbname=thalweg",
        server.pg_addr.port()
    );
    let (client, connection) = tokio_postgres::connect(&settings, tokio_postgres::NoTls)
        .await
        .expect("connects");
    let connection = tokio::spawn(connection);
    client
        .batch_execute(
            "CREATE TABLE t (k int8 PRIMARY KEY, s text, b bytea, f float8, o bool, l int4[])",
        )
        .await
        .expect("creates");
    let inserted = client
        .execute(
            "INSERT INTO t VALUES ($1, $2, $3, $4, $5, $6)",
            &[
                &1_i64,
                &"ä",
                &&b"\x00\xff"[..],
                &1.5_f64,
                &true,
                &vec![Some(1_i32), None],
            ],
        )
        .await
        .expect("inserts");
    assert_eq!(inserted, 1);
    let row = client
        .query_one("SELECT * FROM t WHERE k = $1", &[&1_i64])
        .await
        .expect("selects");
    assert_eq!(row.get::<_, &str>(1), "ä");
    assert_eq!(row.get::<_, &[u8]>(2), b"\x00\xff");
    assert_eq!((row.get::<_, f64>(3), row.get::<_, bool>(4)), (1.5, true));
    assert_eq!(row.get::<_, Vec<Option<i32>>>(5), [Some(1), None]);
    let failure = client
        .query("SELECT k / 0 FROM t", &[])
        .await
        .expect_err("division by zero");
    assert_eq!(
        failure.code().map(tokio_postgres::error::SqlState::code),
        Some("22012")
    );
    drop(client);
    connection.await.expect("joins").expect("ends well");
}
