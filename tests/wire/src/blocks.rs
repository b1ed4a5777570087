//! Several statements in one query text are one transaction, as in Postgres.
//!
//! Invariant: what a text leaves behind and how its cycle ends are what Postgres 15 answers to the same text, but where a comment
//! says otherwise.

use thalweg::testing::TestServer;

use crate::raw::{Raw, column, command_tags, sqlstate, tags};

/// Runs texts one after the other; for each the tags of the messages, the SQLSTATE of the error or notice, the state at its end,
/// and the rows of `t` after it.
async fn check(table: &[(&str, &str, &str, char, &[&str])]) {
    let server = TestServer::start().await;
    let (mut client, _) = Raw::open(server.pg_addr).await;
    let (mut other, _) = Raw::open(server.pg_addr).await;
    let made = client.query("CREATE TABLE t (k int PRIMARY KEY)").await;
    assert_eq!(sqlstate(&made), "");
    for (text, messages, state, end, rows) in table {
        let answer = client.query(text).await;
        assert_eq!(
            (tags(&answer).as_str(), sqlstate(&answer).as_str()),
            (*messages, *state),
            "{text}"
        );
        let ready = answer.last().map(|(_, body)| char::from(body[0]));
        assert_eq!(ready, Some(*end), "{text}");
        // Another session sees what is committed, and nothing else.
        let seen = other.query("SELECT k FROM t ORDER BY k").await;
        assert_eq!(column(&seen), *rows, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_all_or_nothing() {
    check(&[
        (
            "INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)",
            "CCZ",
            "",
            'I',
            &["1", "2"],
        ),
        (
            "INSERT INTO t VALUES (3); INSERT INTO t VALUES (1)",
            "CEZ",
            "23505",
            'I',
            &["1", "2"],
        ),
        (
            "INSERT INTO t VALUES (3); SELECT nosuch FROM t",
            "CEZ",
            "42703",
            'I',
            &["1", "2"],
        ),
        (
            "INSERT INTO t VALUES (3); nonsense",
            "EZ",
            "42601",
            'I',
            &["1", "2"],
        ),
        (
            "INSERT INTO t VALUES (3); SELECT count(*) FROM t; DELETE FROM t WHERE k = 3",
            "CTDCCZ",
            "",
            'I',
            &["1", "2"],
        ),
        (
            "DELETE FROM t; INSERT INTO t VALUES (4); ROLLBACK",
            "CCNCZ",
            "",
            'I',
            &["1", "2"],
        ),
        (
            "INSERT INTO t VALUES (3); COMMIT; INSERT INTO t VALUES (1)",
            "CNCEZ",
            "23505",
            'I',
            &["1", "2", "3"],
        ),
        (
            "DELETE FROM t WHERE k = 3; TRUNCATE t; SELECT k FROM missing",
            "CCEZ",
            "42P01",
            'I',
            &["1", "2", "3"],
        ),
        ("DELETE FROM t WHERE k = 3", "CZ", "", 'I', &["1", "2"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_begin_and_end_anywhere_in_a_text() {
    check(&[
        (
            "BEGIN; INSERT INTO t VALUES (1); COMMIT; INSERT INTO t VALUES (1)",
            "CCCEZ",
            "23505",
            'I',
            &["1"],
        ),
        (
            "INSERT INTO t VALUES (2); BEGIN; INSERT INTO t VALUES (3)",
            "CCCZ",
            "",
            'T',
            &["1"],
        ),
        (
            "INSERT INTO t VALUES (4); COMMIT; SELECT 1",
            "CCTDCZ",
            "",
            'I',
            &["1", "2", "3", "4"],
        ),
        (
            "INSERT INTO t VALUES (5); BEGIN; SELECT nosuch; COMMIT",
            "CCEZ",
            "42703",
            'E',
            &["1", "2", "3", "4"],
        ),
        (
            "ROLLBACK; DELETE FROM t WHERE k = 4",
            "CCZ",
            "",
            'I',
            &["1", "2", "3"],
        ),
        (
            "BEGIN; INSERT INTO t VALUES (6)",
            "CCZ",
            "",
            'T',
            &["1", "2", "3"],
        ),
        (
            "ROLLBACK; INSERT INTO t VALUES (7); BEGIN",
            "CCCZ",
            "",
            'T',
            &["1", "2", "3"],
        ),
        ("ROLLBACK", "CZ", "", 'I', &["1", "2", "3"]),
        (
            "SELECT 1; SAVEPOINT a",
            "TDCEZ",
            "25P01",
            'I',
            &["1", "2", "3"],
        ),
        (
            "SET LOCAL statement_timeout = '1h'; SHOW statement_timeout",
            "CTDCZ",
            "",
            'I',
            &["1", "2", "3"],
        ),
        (
            "DECLARE c CURSOR FOR SELECT k FROM t ORDER BY k; FETCH 2 FROM c",
            "CTDDCZ",
            "",
            'I',
            &["1", "2", "3"],
        ),
        ("FETCH 1 FROM c", "EZ", "34000", 'I', &["1", "2", "3"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_of_a_text_are_one_transaction() {
    let server = TestServer::start().await;
    let (mut client, _) = Raw::open(server.pg_addr).await;
    let script = "CREATE TABLE a (k int PRIMARY KEY, v int); INSERT INTO a VALUES (1, 10), (2, 20); CREATE VIEW big AS SELECT * FROM a WHERE v > 10; CREATE MATERIALIZED VIEW total AS SELECT sum(v) AS v FROM a; CREATE MATERIALIZED VIEW twice AS SELECT v * 2 AS v FROM total; CREATE SOURCE s (n int) WITH (connector = 'datagen', rows = 3, rows_per_second = 1000); CREATE MATERIALIZED VIEW ns AS SELECT count(*) AS n FROM s";
    // Postgres has no materialized view that its own transaction could fill later; here its query stands for it until then.
    let answer = client
        .query(&format!(
            "{script}; SELECT v FROM twice; SELECT k FROM big; SELECT nosuch"
        ))
        .await;
    assert_eq!(tags(&answer), "CCCCCCCTDCTDCEZ", "{}", sqlstate(&answer));
    assert_eq!(column(&answer), ["60", "2"]);
    for name in ["a", "big", "total", "twice", "s", "ns"] {
        let gone = client.query(&format!("SELECT * FROM {name}")).await;
        assert_eq!(sqlstate(&gone), "42P01", "{name}");
    }
    let answer = client.query(script).await;
    assert_eq!(tags(&answer), "CCCCCCCZ", "{}", sqlstate(&answer));
    assert_eq!(command_tags(&answer)[1], "INSERT 0 2");
    let answer = client
        .query("WAIT FOR twice; WAIT FOR ns; SELECT v FROM twice; SELECT n FROM ns")
        .await;
    assert_eq!(column(&answer), ["60", "3"]);
    let answer = client
        .query("CREATE SOURCE u (n int) WITH (connector = 'datagen', rows = 3); SELECT * FROM u")
        .await;
    assert_eq!(
        (tags(&answer).as_str(), sqlstate(&answer).as_str()),
        ("CEZ", "0A000")
    );
    assert_eq!(sqlstate(&client.query("SELECT * FROM u").await), "42P01");
}

/// As Postgres does with VACUUM, but only where there is something to wait for.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_the_block_itself_is_refused() {
    let server = TestServer::start().await;
    let (mut client, _) = Raw::open(server.pg_addr).await;
    client.query("CREATE TABLE t (k int PRIMARY KEY)").await;
    client
        .query("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM t")
        .await;
    for text in [
        "FLUSH",
        "WAIT FOR v",
        "SUBSCRIBE v",
        "COPY (SUBSCRIBE v) TO STDOUT",
    ] {
        for text in [
            format!("INSERT INTO t VALUES (1); {text}"),
            format!("BEGIN; INSERT INTO t VALUES (1); {text}"),
        ] {
            let answer = client.query(&text).await;
            assert_eq!(sqlstate(&answer), "25001", "{text}");
            client.query("ROLLBACK").await;
        }
    }
    let answer = client.query("FLUSH; WAIT FOR v; SELECT n FROM v").await;
    assert_eq!(
        (tags(&answer).as_str(), column(&answer)),
        ("CCTDCZ", vec!["0".to_owned()])
    );
    let answer = client
        .query("INSERT INTO t VALUES (1); COMMIT; FLUSH; WAIT FOR v; SELECT n FROM v")
        .await;
    assert_eq!(column(&answer), ["1"]);
}
