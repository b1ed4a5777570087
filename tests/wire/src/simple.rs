//! The simple query protocol.

use crate::raw::{Raw, column, command_tags, field, frame, query, sqlstate, tags};
use crate::script::{Scripted, arrives};

async fn client() -> (Scripted, Raw) {
    let server = Scripted::start().await;
    let (client, _) = Raw::open(server.address).await;
    (server, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_of_a_text_run_in_turn_and_an_error_stops_the_rest() {
    let (server, mut client) = client().await;
    let answer = client.query("rows 2; write; rows 1");
    server.gate.released.add_permits(1);
    let answer = answer.await;
    assert_eq!(tags(&answer), "TDDCCTDCZ");
    assert_eq!(
        command_tags(&answer),
        ["SELECT 2", "CREATE SCHEMA", "SELECT 1"]
    );

    let answer = client.query("rows 1; fail; rows 1").await;
    assert_eq!(
        (tags(&answer).as_str(), sqlstate(&answer).as_str()),
        ("TDCEZ", "22012")
    );
    let (_, error) = answer
        .iter()
        .find(|(tag, _)| *tag == b'E')
        .expect("an error");
    assert_eq!(
        field(error, b'P'),
        "11",
        "the position counts from the start of the text"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_rows_are_out_before_the_next_statement_starts() {
    let (server, mut client) = client().await;
    client.send(&query("rows 1; write; rows 1")).await;
    assert_eq!(column(&client.until(b'C').await), ["0"]);
    assert_eq!(server.gate.written.available_permits(), 0);
    server.gate.released.add_permits(1);
    assert_eq!(tags(&client.cycle().await), "CTDCZ");
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_texts_have_their_own_answers() {
    let (_server, mut client) = client().await;
    for (text, expected) in [
        ("", "IZ"),
        (" ;; ", "IZ"),
        ("notice", "NCZ"),
        ("rows 0", "TCZ"),
        ("syntax", "EZ"),
    ] {
        assert_eq!(tags(&client.query(text).await), expected, "{text}");
    }
    let answer = client.query("failing 2").await;
    assert_eq!(tags(&answer), "TDDEZ", "rows before the error were sent");
    let answer = client.query("panic").await;
    assert_eq!(
        (tags(&answer).as_str(), sqlstate(&answer).as_str()),
        ("EZ", "XX000")
    );
    assert_eq!(
        tags(&client.query("rows 1").await),
        "TDCZ",
        "a panic fails its statement only"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_for_query_tells_the_state_of_the_block() {
    let (_server, mut client) = client().await;
    let mut state = async |text: &str| {
        let answer = client.query(text).await;
        answer.last().map(|(_, body)| char::from(body[0]))
    };
    for (text, expected) in [
        ("rows 1", 'I'),
        ("begin", 'T'),
        ("rows 1", 'T'),
        ("fail", 'E'),
        ("rows 1", 'E'),
        ("rollback", 'I'),
    ] {
        assert_eq!(state(text).await, Some(expected), "{text}");
    }
    for (text, expected) in [("begin; failing 1", 'E'), ("commit", 'I')] {
        assert_eq!(state(text).await, Some(expected), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statement_timeout_ends_waiting_and_streaming() {
    let (server, mut client) = client().await;
    client.query("timeout 100").await;
    for text in ["silent", "hang", "rows 5 then wait", "endless"] {
        client.send(&query(text)).await;
        let answer = client.cycle().await;
        let (_, error) = answer
            .iter()
            .find(|(tag, _)| *tag == b'E')
            .expect("an error");
        assert_eq!(field(error, b'C'), "57014", "{text}");
        assert_eq!(
            field(error, b'M'),
            "canceling statement due to statement timeout"
        );
        arrives("the end of the query", &server.gate.dropped).await;
    }
    client.query("timeout 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_finished_although_its_client_left() {
    let (server, mut client) = client().await;
    client.send(&query("write")).await;
    arrives("the first statement", &server.gate.started).await;
    drop(client);
    let (mut other, _) = Raw::open(server.address).await;
    assert_eq!(tags(&other.query("rows 1").await), "TDCZ");
    server.gate.released.add_permits(1);
    arrives("the write", &server.gate.written).await;
    assert_eq!(server.gate.dropped.available_permits(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_no_use_are_ignored_or_end_the_connection() {
    let (server, mut client) = client().await;
    client
        .send(
            &[
                frame(b'd', b"data"),
                frame(b'c', b""),
                frame(b'f', b"why\0"),
                query("rows 1"),
            ]
            .concat(),
        )
        .await;
    assert_eq!(
        tags(&client.cycle().await),
        "TDCZ",
        "COPY messages outside a COPY are dropped"
    );
    client.send(&frame(b'F', &[0; 12])).await;
    let answer = client.cycle().await;
    assert_eq!(
        (tags(&answer).as_str(), sqlstate(&answer).as_str()),
        ("EZ", "0A000")
    );
    client.send(&frame(b'Q', b"rows '\xff'\0")).await;
    let answer = client.cycle().await;
    assert_eq!(
        (tags(&answer).as_str(), sqlstate(&answer).as_str()),
        ("EZ", "22021")
    );
    for bytes in [
        frame(b'p', b"secret\0"),
        frame(b'~', b""),
        b"Q\0\0\0\x03".to_vec(),
        frame(b'Q', b"rows 1"),
    ] {
        let (mut client, _) = Raw::open(server.address).await;
        client.send(&bytes).await;
        let (tag, body) = client.next().await.expect("an error");
        assert_eq!(
            (tag, field(&body, b'S'), field(&body, b'C')),
            (b'E', "FATAL".into(), "08P01".into())
        );
        assert!(client.next().await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_of_ten_megabytes_is_refused_and_the_connection_goes_on() {
    let (_server, mut client) = client().await;
    client.send(&query(&"x".repeat(10 << 20))).await;
    let answer = client.cycle().await;
    assert_eq!(
        (tags(&answer).as_str(), sqlstate(&answer).as_str()),
        ("EZ", "54000")
    );
    assert_eq!(tags(&client.query("rows 1").await), "TDCZ");
}
