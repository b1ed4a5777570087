//! The extended query protocol: pipelines, portals, errors.

use crate::raw::{
    Bind, Raw, bind, bind_with, close, column, command_tags, describe, execute, extended, flush,
    parse, query, sqlstate, sync, tags,
};
use crate::script::Scripted;

async fn client() -> (Scripted, Raw) {
    let server = Scripted::start().await;
    let (client, _) = Raw::open(server.address).await;
    (server, client)
}

fn bind_number(portal: &str, value: &[u8], format: i16) -> Vec<u8> {
    bind_with(&Bind {
        portal,
        statement: "",
        formats: &[format],
        values: &[Some(value)],
        result_formats: &[format],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_is_answered_in_order() {
    let (_server, mut client) = client().await;
    let pipeline = [
        parse("one", "rows 1", &[]),
        describe(b'S', "one"),
        bind("p", "one"),
        describe(b'P', "p"),
        execute("p", 0),
        close(b'P', "p"),
        extended("write nothing"),
        extended("rows 2"),
    ];
    _server.gate.released.add_permits(1);
    client.send(&pipeline.concat()).await;
    assert_eq!(tags(&client.cycle().await), "1tT2TDC312CZ");
    assert_eq!(tags(&client.cycle().await), "12DDCZ");
    client
        .send(&[bind("", "one"), execute("", 0), sync()].concat())
        .await;
    assert_eq!(
        tags(&client.cycle().await),
        "2DCZ",
        "a named statement outlives its transaction"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_skips_to_the_next_sync() {
    let (server, mut client) = client().await;
    let pipeline = [
        parse("", "fail", &[]),
        bind("", ""),
        execute("", 0),
        parse("lost", "rows 1", &[]),
        query("rows 1"),
        bind("", "lost"),
        sync(),
        extended("rows 1"),
        bind("", "lost"),
        sync(),
    ];
    client.send(&pipeline.concat()).await;
    let answer = client.cycle().await;
    assert_eq!(
        (tags(&answer).as_str(), sqlstate(&answer).as_str()),
        ("12EZ", "22012")
    );
    assert_eq!(tags(&client.cycle().await), "12DCZ");
    let answer = client.cycle().await;
    assert_eq!(
        (tags(&answer).as_str(), sqlstate(&answer).as_str()),
        ("EZ", "26000")
    );
    assert_eq!(
        server.gate.started.available_permits(),
        2,
        "what was skipped did not run"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_is_sent_before_the_sync() {
    let (_server, mut client) = client().await;
    client.send(&parse("", "unknown", &[])).await;
    assert_eq!(sqlstate(&client.until(b'E').await), "42P01");
    client.send(&sync()).await;
    assert_eq!(tags(&client.cycle().await), "Z");
}

#[tokio::test(flavor = "multi_thread")]
async fn flush_sends_what_is_there() {
    let (_server, mut client) = client().await;
    client
        .send(&[parse("", "rows 1", &[]), describe(b'S', "")].concat())
        .await;
    assert!(client.is_silent().await, "answers wait for Flush or Sync");
    client.send(&flush()).await;
    assert_eq!(tags(&client.until(b'T').await), "1tT");
}

#[tokio::test(flavor = "multi_thread")]
async fn portals_are_suspended_and_resumed() {
    let (_server, mut client) = client().await;
    client
        .send(
            &[
                parse("", "rows 5", &[]),
                bind("p", ""),
                execute("p", 2),
                execute("p", 2),
                execute("p", 2),
                sync(),
            ]
            .concat(),
        )
        .await;
    let answer = client.cycle().await;
    assert_eq!(tags(&answer), "12DDsDDsDCZ");
    assert_eq!(column(&answer), ["0", "1", "2", "3", "4"]);
    assert_eq!(
        command_tags(&answer),
        ["SELECT 1"],
        "the tag counts the rows of the last Execute, as in Postgres"
    );

    client
        .send(
            &[
                parse("", "rows 2", &[]),
                bind("", ""),
                execute("", 2),
                execute("", 0),
                execute("", 0),
                sync(),
            ]
            .concat(),
        )
        .await;
    let answer = client.cycle().await;
    assert_eq!(
        tags(&answer),
        "12DDsCCZ",
        "suspended at the limit even when no row is left"
    );
    assert_eq!(command_tags(&answer), ["SELECT 0", "SELECT 0"]);

    client.send(&[execute("p", 1), sync()].concat()).await;
    assert_eq!(
        sqlstate(&client.cycle().await),
        "34000",
        "Sync outside a block closes portals"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_portals_take_turns_in_a_block() {
    let (_server, mut client) = client().await;
    client.query("begin").await;
    client
        .send(
            &[
                parse("s", "rows 3", &[]),
                bind("a", "s"),
                bind("b", "s"),
                execute("a", 1),
                sync(),
            ]
            .concat(),
        )
        .await;
    assert_eq!(tags(&client.cycle().await), "122DsZ");
    client
        .send(&[execute("b", 2), execute("a", 1), sync()].concat())
        .await;
    let answer = client.cycle().await;
    assert_eq!(column(&answer), ["0", "1", "1"]);
    client.query("rows 1").await;
    client
        .send(&[execute("a", 9), execute("b", 9), sync()].concat())
        .await;
    assert_eq!(
        column(&client.cycle().await),
        ["2", "2"],
        "portals of a block outlive a simple query"
    );
    client.query("commit").await;
    client.send(&[execute("a", 1), sync()].concat()).await;
    assert_eq!(sqlstate(&client.cycle().await), "34000");
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_come_and_go_in_both_formats() {
    let (_server, mut client) = client().await;
    client
        .send(&[parse("", "echo $1", &[]), describe(b'S', "")].concat())
        .await;
    client
        .send(&[bind_number("", b"-42", 0), execute("", 0), sync()].concat())
        .await;
    let answer = client.cycle().await;
    assert_eq!(tags(&answer), "1tT2DCZ");
    assert_eq!(answer[1].1, [0, 1, 0, 0, 0, 20], "one int8 parameter");
    assert_eq!(column(&answer), ["-42"]);
    client
        .send(
            &[
                bind_number("", &7_i64.to_be_bytes(), 1),
                describe(b'P', ""),
                execute("", 0),
                sync(),
            ]
            .concat(),
        )
        .await;
    let answer = client.cycle().await;
    let (_, row) = answer.iter().find(|(tag, _)| *tag == b'D').expect("a row");
    assert_eq!(row[2..], [&[0, 0, 0, 8][..], &7_i64.to_be_bytes()].concat());
    let (_, description) = answer
        .iter()
        .find(|(tag, _)| *tag == b'T')
        .expect("a description");
    assert_eq!(
        description,
        &[
            &[0, 1][..],
            b"n\0",
            &[0; 6],
            &[0, 0, 0, 20, 0, 8, 0xff, 0xff, 0xff, 0xff, 0, 1]
        ]
        .concat()
    );
    for (message, expected) in [
        (bind_number("", b"x", 0), "22P02"),
        (bind_number("", &[1, 2, 3], 1), "22P03"),
        (bind_number("", b"1", 2), "22023"),
        (bind("", ""), "08P01"),
        (bind("", "missing"), "26000"),
    ] {
        client.send(&[message, sync()].concat()).await;
        assert_eq!(sqlstate(&client.cycle().await), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_and_portals_follow_their_rules() {
    let (_server, mut client) = client().await;
    let pairs: Vec<(Vec<u8>, &str, &str)> = vec![
        (
            [parse("", "rows 1; rows 2", &[]), sync()].concat(),
            "EZ",
            "42601",
        ),
        (
            [parse("s", "rows 1", &[]), parse("s", "rows 1", &[]), sync()].concat(),
            "1EZ",
            "42P05",
        ),
        (
            [bind("p", "s"), bind("p", "s"), sync()].concat(),
            "2EZ",
            "42P03",
        ),
        ([describe(b'S', "missing"), sync()].concat(), "EZ", "26000"),
        ([describe(b'P', "missing"), sync()].concat(), "EZ", "34000"),
        (
            [close(b'S', "missing"), close(b'P', "missing"), sync()].concat(),
            "33Z",
            "",
        ),
        (
            [parse("", "rows 1", &[4_000_000]), sync()].concat(),
            "EZ",
            "42704",
        ),
        (
            [
                parse("", "", &[]),
                bind("", ""),
                describe(b'P', ""),
                execute("", 0),
                sync(),
            ]
            .concat(),
            "12nIZ",
            "",
        ),
        (
            [
                parse("", "notice", &[]),
                describe(b'S', ""),
                bind("", ""),
                execute("", 0),
                sync(),
            ]
            .concat(),
            "1tn2NCZ",
            "",
        ),
        (
            [
                parse("", "notice", &[]),
                bind("", ""),
                execute("", 0),
                execute("", 0),
                sync(),
            ]
            .concat(),
            "12NCEZ",
            "55000",
        ),
        (extended("retype"), "12EZ", "0A000"),
        (extended("panic"), "12EZ", "XX000"),
        ([query("rows 1"), bind("", ""), sync()].concat(), "TDCZ", ""),
    ];
    for (bytes, expected, state) in pairs {
        client.send(&bytes).await;
        let answer = client.cycle().await;
        assert_eq!(
            (tags(&answer).as_str(), sqlstate(&answer).as_str()),
            (expected, state)
        );
    }
    assert_eq!(
        sqlstate(&client.cycle().await),
        "26000",
        "a simple query drops the unnamed statement"
    );
    client.query("begin; fail").await;
    client
        .send(&[parse("", "rows 1", &[]), sync()].concat())
        .await;
    assert_eq!(sqlstate(&client.cycle().await), "25P02");
    client.send(&extended("rollback")).await;
    assert_eq!(
        tags(&client.cycle().await),
        "12CZ",
        "what ends the block gets through"
    );
}
