//! From connect to login: negotiation, refusals, limits, shutdown.

use std::time::Duration;

use thalweg::pg::PgLimits;

use crate::raw::{
    Raw, cancel_request, field, frame, gss_request, packet, query, sqlstate, ssl_request, startup,
    startup_version, sync, tags,
};
use crate::script::{Scripted, arrives, report};

async fn fatal(server: &Scripted, bytes: &[u8]) -> (String, String) {
    let mut client = Raw::connect(server.address).await;
    client.send_anyway(bytes).await;
    let (tag, body) = client.next().await.expect("an error");
    assert_eq!((tag, field(&body, b'S')), (b'E', "FATAL".to_owned()));
    assert!(client.next().await.is_none(), "the connection ends");
    (field(&body, b'C'), field(&body, b'M'))
}

#[tokio::test(flavor = "multi_thread")]
async fn encryption_requests_are_declined_and_the_login_goes_on() {
    let server = Scripted::start().await;
    for requests in [
        vec![ssl_request()],
        vec![gss_request()],
        vec![gss_request(), ssl_request()],
    ] {
        let mut client = Raw::connect(server.address).await;
        for request in requests {
            client.send(&request).await;
            assert_eq!(client.byte().await, Some(b'N'));
        }
        client.send(&startup(&[("user", "ann")])).await;
        client.login().await;
        assert_eq!(tags(&client.query("rows 1").await), "TDCZ");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_behind_an_encryption_request_end_the_connection() {
    let server = Scripted::start().await;
    for request in [ssl_request(), gss_request()] {
        let stuffed = [request, startup(&[("user", "mallory")]), query("rows 1")].concat();
        let mut client = Raw::connect(server.address).await;
        client.send(&stuffed).await;
        let answer = client.until(b'Z').await;
        assert_eq!(
            (tags(&answer).as_str(), sqlstate(&answer).as_str()),
            ("E", "08P01")
        );
    }
    assert_eq!(
        server.gate.started.available_permits(),
        0,
        "the stuffed query did not run"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_startups_are_fatal() {
    let server = Scripted::start().await;
    let version_3 = 3 << 16;
    let table: Vec<(Vec<u8>, &str)> = vec![
        (vec![0, 0, 0, 0, 0, 0, 0, 0], "08P01"),
        (vec![0, 0, 0, 7, 0, 0, 0, 0], "08P01"),
        (vec![0, 0, 0x27, 0x11, 0, 3, 0, 0], "08P01"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "08P01"),
        (vec![0x16, 3, 1, 2, 0, 1, 0, 1], "08P01"),
        (packet(version_3, b"user\0ann\0"), "08P01"),
        (packet(version_3, b"user\0ann\0\0trailing"), "08P01"),
        (packet(version_3, b""), "08P01"),
        (packet(version_3, b"\0"), "28000"),
        (startup(&[("database", "x")]), "28000"),
        (
            startup(&[("user", "ann"), ("replication", "database")]),
            "0A000",
        ),
        (startup(&[("user", "ann"), ("options", "-z")]), "42601"),
        (startup_version(2 << 16, &[("user", "ann")]), "0A000"),
        (startup_version(4 << 16, &[("user", "ann")]), "0A000"),
        ([ssl_request(), ssl_request()].concat(), "08P01"),
    ];
    for (bytes, expected) in table {
        assert_eq!(fatal(&server, &bytes).await.0, expected, "{bytes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_is_fatal_whatever_its_code() {
    let server = Scripted::start_with(
        PgLimits::default(),
        Some(report("42704", "no such setting")),
    )
    .await;
    let refused = fatal(
        &server,
        &[startup(&[("user", "ann")]), query("rows 1"), sync()].concat(),
    )
    .await;
    assert_eq!(refused, ("42704".to_owned(), "no such setting".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn protocol_versions_are_negotiated() {
    let server = Scripted::start().await;
    let table: [(u32, Vec<(&str, &str)>, Option<(u32, u32)>, usize); 4] = [
        (3 << 16, vec![("user", "ann")], None, 4),
        ((3 << 16) | 2, vec![("user", "ann")], None, 32),
        (
            (3 << 16) | 9999,
            vec![("user", "ann")],
            Some(((3 << 16) | 2, 0)),
            32,
        ),
        (
            3 << 16,
            vec![("user", "ann"), ("_pq_.x", "1")],
            Some((3 << 16, 1)),
            4,
        ),
    ];
    for (version, parameters, negotiated, key_bytes) in table {
        let mut client = Raw::connect(server.address).await;
        client.send(&startup_version(version, &parameters)).await;
        let answer = client.cycle().await;
        let found = answer
            .iter()
            .find(|(tag, _)| *tag == b'v')
            .map(|(_, body)| {
                let number = |at: usize| {
                    u32::from_be_bytes(body[at..at + 4].try_into().expect("four bytes"))
                };
                (number(0), number(4))
            });
        assert_eq!(found, negotiated);
        let key = answer.iter().find(|(tag, _)| *tag == b'K').expect("a key");
        assert_eq!(key.1.len() - 4, key_bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_connections_are_closed() {
    let limits = PgLimits {
        startup_timeout: Duration::from_millis(200),
        ..PgLimits::default()
    };
    let server = Scripted::start_with(limits, None).await;
    let startup = startup(&[("user", "ann")]);
    for bytes in [
        &b""[..],
        &[0],
        &startup[..startup.len() - 1],
        &ssl_request(),
    ] {
        let mut client = Raw::connect(server.address).await;
        client.send(bytes).await;
        let mut answered = Vec::new();
        while let Some(byte) = client.byte().await {
            answered.push(byte);
        }
        assert!(
            matches!(&answered[..], [] | [b'N']),
            "closed without a word: {answered:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_too_many_is_told_at_once() {
    let limits = PgLimits {
        max_connections: 2,
        starting_max: 2,
        ..PgLimits::default()
    };
    let server = Scripted::start_with(limits, None).await;
    let (first, login) = Raw::open(server.address).await;
    let (mut second, _) = Raw::open(server.address).await;
    let refused = fatal(&server, &startup(&[("user", "ann")])).await;
    assert_eq!(
        refused,
        (
            "53300".to_owned(),
            "sorry, too many clients already".to_owned()
        )
    );

    // A cancel request needs no session, so it works when all are taken.
    let _idle = first;
    second.send(&query("silent")).await;
    arrives("the start", &server.gate.started).await;
    let mut canceller = Raw::connect(server.address).await;
    canceller
        .send(&cancel_request(login.process_id + 1, &[0; 4]))
        .await;
    assert!(canceller.is_closed().await);

    // Clients that say nothing take the places of those that start, and then even these are refused.
    let quiet = [
        Raw::connect(server.address).await,
        Raw::connect(server.address).await,
    ];
    let mut refused = Raw::connect(server.address).await;
    let (tag, body) = refused
        .next()
        .await
        .expect("an error before anything was sent");
    assert_eq!((tag, field(&body, b'C').as_str()), (b'E', "53300"));
    drop((quiet, second));
    arrives("the end of the query", &server.gate.dropped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_cancel_key_is_silent_and_cancels_nothing() {
    let server = Scripted::start().await;
    let (mut client, login) = Raw::open(server.address).await;
    client.send(&query("silent")).await;
    arrives("the start", &server.gate.started).await;
    let mut wrong = login.key.clone();
    wrong[0] ^= 0x80;
    let requests = [
        cancel_request(login.process_id, &wrong),
        cancel_request(login.process_id + 1, &login.key),
        cancel_request(login.process_id, &login.key[..3]),
        cancel_request(login.process_id, &[&login.key[..], &[0]].concat()),
        packet(80_877_102, &[]),
    ];
    for request in requests {
        let mut canceller = Raw::connect(server.address).await;
        canceller.send(&request).await;
        assert!(canceller.next().await.is_none(), "no answer");
    }
    assert_eq!(tags(&client.until(b'T').await), "T");
    assert!(client.is_silent().await, "the query still runs");
    assert_eq!(server.gate.dropped.available_permits(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_for_an_idle_client_leaves_the_next_query_alone() {
    let server = Scripted::start().await;
    let (mut client, login) = Raw::open(server.address).await;
    let mut canceller = Raw::connect(server.address).await;
    canceller
        .send(&cancel_request(login.process_id, &login.key))
        .await;
    assert!(canceller.is_closed().await);
    assert_eq!(tags(&client.query("rows 3").await), "TDDDCZ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_tells_its_clients() {
    let mut server = Scripted::start().await;
    let (mut idle, _) = Raw::open(server.address).await;
    let (mut busy, _) = Raw::open(server.address).await;
    busy.send(&query("silent")).await;
    arrives("the start", &server.gate.started).await;
    server.stop.cancel();
    for client in [&mut idle, &mut busy] {
        let answer = client.until(b'E').await;
        assert_eq!(sqlstate(&answer), "57P01");
    }
    drop((idle, busy));
    arrives("the end of the query", &server.gate.dropped).await;
    tokio::time::timeout(Duration::from_secs(60), &mut server.task)
        .await
        .expect("stops in time")
        .expect("stops well");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_may_come_one_at_a_time() {
    let server = Scripted::start().await;
    let mut client = Raw::connect(server.address).await;
    for byte in [
        startup(&[("user", "ann")]),
        query("rows 2"),
        frame(b'X', &[]),
    ]
    .concat()
    {
        client.send(&[byte]).await;
    }
    client.login().await;
    assert_eq!(tags(&client.cycle().await), "TDDCZ");
    assert!(client.is_closed().await);
}
