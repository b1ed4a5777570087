//! The defects of pgwire 0.42.1 (D2, D4 to D9), each shown there and absent here.

use std::sync::atomic::Ordering;

use thalweg::pg::PgLimits;

use crate::raw::{
    Bind, Raw, bind, bind_with, cancel_request, column, execute, extended, field, frame, parse,
    password, query, sqlstate, startup, sync, tags,
};
use crate::script::{Scripted, arrives, report};
use crate::stock::Stock;

/// D2: an error before the login that is not FATAL must not leave the connection usable.
#[tokio::test(flavor = "multi_thread")]
async fn d2_a_failed_login_never_reaches_the_query_loop() {
    let stock = Stock::guarded().await;
    let mut client = Raw::connect(stock.address).await;
    client.send(&startup(&[("user", "mallory")])).await;
    assert_eq!(tags(&client.until(b'R').await), "R");
    client.send(&password("wrong")).await;
    client.until(b'E').await;
    client.send_anyway(&query("rows 3")).await;
    let answer = client.until(b'C').await;
    assert_eq!(
        column(&answer),
        ["0", "1", "2"],
        "stock pgwire serves a client whose login failed"
    );

    let ours = Scripted::start_with(
        PgLimits::default(),
        Some(report("XX000", "user lookup failed")),
    )
    .await;
    let mut client = Raw::connect(ours.address).await;
    client
        .send(&[startup(&[("user", "mallory")]), query("rows 3")].concat())
        .await;
    let (tag, body) = client.next().await.expect("an answer");
    assert_eq!(
        (
            tag,
            field(&body, b'S').as_str(),
            field(&body, b'V').as_str()
        ),
        (b'E', "FATAL", "FATAL")
    );
    client.send_anyway(&query("rows 3")).await;
    assert!(
        client.next().await.is_none(),
        "nothing but the error is sent"
    );
    assert_eq!(
        ours.gate.started.available_permits(),
        0,
        "no statement was started"
    );
}

/// D4: a row that is ready is sent although the next one is not.
#[tokio::test(flavor = "multi_thread")]
async fn d4_rows_of_a_slow_stream_arrive_one_by_one() {
    let stock = Stock::open().await;
    let (mut client, _) = Raw::open(stock.address).await;
    client.send(&query("rows 3 then wait")).await;
    assert!(
        client.is_silent().await,
        "stock pgwire keeps the first rows in its buffer"
    );

    let ours = Scripted::start().await;
    for message in [query("rows 3 then wait"), extended("rows 3 then wait")] {
        let (mut client, _) = Raw::open(ours.address).await;
        client.send(&message).await;
        let mut rows = Vec::new();
        while rows.len() < 3 {
            rows.extend(column(&client.until(b'D').await));
        }
        assert_eq!(rows, ["0", "1", "2"]);
        for next in 3..6 {
            assert!(client.is_silent().await, "no row before it is there");
            ours.gate.released.add_permits(1);
            assert_eq!(column(&client.until(b'D').await), [next.to_string()]);
        }
    }
}

/// D5: a cancel request reaches a query that is sending rows, and one that sends nothing.
#[tokio::test(flavor = "multi_thread")]
async fn d5_a_cancel_request_stops_a_stream() {
    let stock = Stock::open().await;
    let (mut client, login) = Raw::open(stock.address).await;
    client.send(&query("silent")).await;
    Raw::connect(stock.address)
        .await
        .send(&cancel_request(login.process_id, &login.key))
        .await;
    assert!(
        client.is_silent().await,
        "stock pgwire goes on waiting for rows"
    );
    assert_eq!(stock.gate.dropped.available_permits(), 0);

    let ours = Scripted::start().await;
    for text in ["silent", "rows 2000 then wait", "endless", "hang"] {
        for message in [query(text), extended(text)] {
            let (mut client, login) = Raw::open(ours.address).await;
            client.send(&message).await;
            arrives("the start", &ours.gate.started).await;
            Raw::connect(ours.address)
                .await
                .send(&cancel_request(login.process_id, &login.key))
                .await;
            let answer = client.cycle().await;
            let (_, error) = answer
                .iter()
                .find(|(tag, _)| *tag == b'E')
                .expect("an error");
            assert_eq!(field(error, b'C'), "57014", "{text}");
            assert_eq!(
                field(error, b'M'),
                "canceling statement due to user request"
            );
            arrives("the end of the query", &ours.gate.dropped).await;
            assert_eq!(
                column(&client.query("rows 1").await),
                ["0"],
                "the connection goes on"
            );
            arrives("the start", &ours.gate.started).await;
        }
    }
}

/// D6: an extended query without a row limit is streamed, not collected.
#[tokio::test(flavor = "multi_thread")]
async fn d6_an_extended_query_is_not_collected_before_its_first_row() {
    let stock = Stock::open().await;
    let (mut client, _) = Raw::open(stock.address).await;
    client.send(&extended("rows 50000 then wait")).await;
    arrives_rows(&stock.gate.produced, 50_000).await;
    assert_eq!(tags(&client.until(b'2').await), "12");
    assert!(
        client.is_silent().await,
        "stock pgwire holds all 50,000 rows back"
    );

    let ours = Scripted::start().await;
    let (mut client, _) = Raw::open(ours.address).await;
    client.send(&extended("rows 50000 then wait")).await;
    assert_eq!(
        tags(&[
            client.next().await.expect("an answer"),
            client.next().await.expect("an answer")
        ]),
        "12"
    );
    for row in 0..50_000 {
        assert_eq!(
            client.next().await.map(|(tag, _)| tag),
            Some(b'D'),
            "row {row}"
        );
    }
}

/// D6, the other half: a client that does not read holds the query back instead of filling the memory.
#[tokio::test(flavor = "multi_thread")]
async fn d6_a_client_that_does_not_read_stops_the_query() {
    let ours = Scripted::start().await;
    let (mut client, _) = Raw::open(ours.address).await;
    client.send(&extended("endless")).await;
    let mut before = 0;
    loop {
        tokio::time::sleep(crate::raw::SILENCE).await;
        let now = ours.gate.produced.load(Ordering::SeqCst);
        if now == before && now > 0 {
            break;
        }
        before = now;
    }
    // What is in flight is in the sockets' buffers, a few megabytes, and one batch.
    assert!(
        before < 2_000_000,
        "{before} rows were produced for a client that reads none"
    );
    drop(client);
    arrives("the end of the query", &ours.gate.dropped).await;
}

async fn arrives_rows(produced: &std::sync::atomic::AtomicU64, count: u64) {
    let reached = async {
        while produced.load(Ordering::SeqCst) < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::raw::PATIENCE, reached)
        .await
        .expect("the rows are produced in time");
}

/// D7: a client that leaves ends its query, whether it closes or resets.
#[tokio::test(flavor = "multi_thread")]
async fn d7_a_client_that_leaves_ends_its_query() {
    let stock = Stock::open().await;
    let (mut client, _) = Raw::open(stock.address).await;
    client.send(&query("silent")).await;
    assert!(client.is_silent().await);
    drop(client);
    tokio::time::sleep(crate::raw::SILENCE).await;
    assert_eq!(
        stock.gate.dropped.available_permits(),
        0,
        "stock pgwire still runs the query of a client that left"
    );

    let ours = Scripted::start().await;
    for text in ["silent", "hang", "rows 10 then wait", "endless"] {
        for reset in [false, true] {
            for message in [query(text), extended(text)] {
                let (mut client, _) = Raw::open(ours.address).await;
                client.send(&message).await;
                arrives("the start", &ours.gate.started).await;
                if reset {
                    client.socket.set_zero_linger().expect("linger");
                }
                drop(client);
                arrives(&format!("the end of {text}"), &ours.gate.dropped).await;
            }
        }
    }
}

/// D8: nobody makes the server hold megabytes before logging in.
#[tokio::test(flavor = "multi_thread")]
async fn d8_bytes_before_the_login_are_bounded() {
    let megabytes = [&b"Q\x3f\xff\xff\x00"[..], &vec![b'x'; 4 << 20]].concat();
    let stock = Stock::guarded().await;
    let mut client = Raw::connect(stock.address).await;
    client.send(&startup(&[("user", "mallory")])).await;
    client.until(b'R').await;
    client.send(&megabytes).await;
    assert!(
        client.is_silent().await,
        "stock pgwire takes 4 MB of a 1 GB message from a client that is not logged in"
    );

    let ours = Scripted::start().await;
    for bytes in [
        megabytes,
        [&[0x3f, 0xff, 0xff, 0, 0, 3, 0, 0][..], &vec![b'x'; 4 << 20]].concat(),
    ] {
        let mut client = Raw::connect(ours.address).await;
        client.send_anyway(&bytes).await;
        assert!(client.is_closed().await);
    }
    let (mut client, _) = Raw::open(ours.address).await;
    assert_eq!(column(&client.query("rows 1").await), ["0"]);
}

/// D8: a short list of format codes is the client's error, not the server's panic.
#[tokio::test(flavor = "multi_thread")]
async fn d8_format_codes_are_counted() {
    let formats = |codes: &'static [i16]| {
        let message = Bind {
            portal: "",
            statement: "",
            formats: &[],
            values: &[],
            result_formats: codes,
        };
        [
            parse("", "rows 1", &[]),
            bind_with(&message),
            execute("", 0),
            sync(),
        ]
        .concat()
    };
    let stock = Stock::open().await;
    let (mut client, _) = Raw::open(stock.address).await;
    client.send(&formats(&[0, 0])).await;
    let answer = client.until(b'Z').await;
    assert!(
        !answer.iter().any(|(tag, _)| matches!(tag, b'E' | b'Z')),
        "stock pgwire panics: {}",
        tags(&answer)
    );

    let ours = Scripted::start().await;
    let (mut client, _) = Raw::open(ours.address).await;
    for codes in [&[0, 0][..], &[1, 1, 1]] {
        client.send(&formats(codes)).await;
        let answer = client.cycle().await;
        assert_eq!(
            (tags(&answer).as_str(), sqlstate(&answer).as_str()),
            ("1EZ", "08P01")
        );
    }
    for codes in [&[][..], &[0], &[1]] {
        client.send(&formats(codes)).await;
        assert_eq!(tags(&client.cycle().await), "12DCZ", "{codes:?}");
    }
}

/// D8: prepared statements and portals of a connection are bounded, and the bound is an ordinary error.
#[tokio::test(flavor = "multi_thread")]
async fn d8_ten_thousand_prepared_statements_are_too_many() {
    const COUNT: usize = 10_000;
    let stock = Stock::open().await;
    let (mut client, _) = Raw::open(stock.address).await;
    let accepted = prepare(&mut client, COUNT).await;
    assert_eq!(accepted, COUNT, "stock pgwire keeps them all");

    let ours = Scripted::start().await;
    let (mut client, _) = Raw::open(ours.address).await;
    assert_eq!(
        prepare(&mut client, COUNT).await,
        PgLimits::default().statements_max
    );
    client
        .send(&[bind("", "s7"), execute("", 0), sync()].concat())
        .await;
    assert_eq!(
        column(&client.cycle().await),
        ["0"],
        "those within the bound work"
    );
    client
        .send(&[frame(b'C', b"Ss7\0"), parse("again", "rows 1", &[]), sync()].concat())
        .await;
    assert_eq!(
        tags(&client.cycle().await),
        "31Z",
        "closing one makes room for another"
    );
}

/// Prepares that many statements in short pipelines; counts ParseComplete messages.
async fn prepare(client: &mut Raw, count: usize) -> usize {
    let (mut accepted, mut refused) = (0, 0);
    let numbers: Vec<usize> = (0..count).collect();
    for part in numbers.chunks(100) {
        let cycle = |number: &usize| [parse(&format!("s{number}"), "rows 1", &[]), sync()].concat();
        client
            .send(&part.iter().flat_map(cycle).collect::<Vec<u8>>())
            .await;
        for _ in part {
            match sqlstate(&client.cycle().await).as_str() {
                "" => accepted += 1,
                "54000" => refused += 1,
                other => panic!("unexpected {other}"),
            }
        }
    }
    assert_eq!(accepted + refused, count);
    accepted
}
