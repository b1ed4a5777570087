//! SUBSCRIBE, COPY, cursors, PREPARE and TRUNCATE: what parses, how it prints, and what is refused how.
//!
//! Invariant: the right column of every table is a fixed point of parsing and printing.

use thalweg_sql::parse;

fn print(text: &str) -> String {
    let parsed = parse(text).unwrap_or_else(|e| panic!("{text}\n{e:?}"));
    assert_eq!(parsed.len(), 1, "{text}");
    parsed[0].statement.to_string()
}

#[track_caller]
fn check(text: &str, printed: &str) {
    assert_eq!(print(text), printed, "printing {text}");
    assert_eq!(print(printed), printed, "printing again {printed}");
}

#[track_caller]
fn refused(text: &str, sqlstate: &str, message: &str) {
    let report = parse(text).expect_err(text).report();
    assert_eq!(report.sqlstate, sqlstate, "{text}: {report:?}");
    assert!(report.message.contains(message), "{text}: {report:?}");
}

#[test]
fn subscribe() {
    check("SUBSCRIBE v", "SUBSCRIBE TO v");
    check(
        "subscribe to S.V with (snapshot, progress)",
        "SUBSCRIBE TO s.v WITH (PROGRESS = true)",
    );
    check(
        "SUBSCRIBE minutes WITH (SNAPSHOT = true, PROGRESS = true)",
        "SUBSCRIBE TO minutes WITH (PROGRESS = true)",
    );
    check(
        "SUBSCRIBE (SELECT a FROM t WHERE b) WITH (HEARTBEAT = '5s', SNAPSHOT = false) AS OF 7 UP TO 9",
        "SUBSCRIBE TO (SELECT a FROM t WHERE b) WITH (SNAPSHOT = false, HEARTBEAT = '5s') AS OF 7 UP TO 9",
    );
    check("SUBSCRIBE v AFTER '12'", "SUBSCRIBE TO v AFTER 12");
    check(
        "SUBSCRIBE v FROM 12 WITH (PROGRESS)",
        "SUBSCRIBE TO v WITH (PROGRESS = true) AFTER 12",
    );
    refused("SUBSCRIBE", "42601", "end of input");
    refused(
        "SUBSCRIBE v WITH (SNAPSHOT) AFTER 1",
        "42601",
        "without a snapshot",
    );
    refused(
        "SUBSCRIBE v AFTER 1 WITH (SNAPSHOT)",
        "42601",
        "without a snapshot",
    );
    refused(
        "SUBSCRIBE v WITH (PROGRES)",
        "22023",
        "does not exist for SUBSCRIBE",
    );
    refused(
        "SUBSCRIBE v WITH (PROGRESS, PROGRESS)",
        "42601",
        "given twice",
    );
    refused("SUBSCRIBE v AS OF -1", "42601", "syntax error");
    refused(
        "SUBSCRIBE v AS OF 99999999999999999999",
        "42601",
        "syntax error",
    );
    refused("SUBSCRIBE v ENVELOPE UPSERT (KEY (a))", "0A000", "ENVELOPE");
    refused("SUBSCRIBE v 1", "42601", "syntax error");
    refused(
        "SUBSCRIBE (INSERT INTO t VALUES (1))",
        "42601",
        "syntax error",
    );
}

#[test]
fn copy() {
    check(
        "copy T (a, \"B\") from stdin",
        "COPY t (a, \"B\") FROM STDIN",
    );
    check(
        "COPY t FROM STDIN WITH CSV HEADER DELIMITER AS ';' NULL 'x'",
        "COPY t FROM STDIN WITH (FORMAT csv, DELIMITER ';', NULL 'x', HEADER true)",
    );
    check(
        "COPY t TO STDOUT (FORMAT 'csv', HEADER match, QUOTE '''', ESCAPE '~', ENCODING 'UTF-8')",
        "COPY t TO STDOUT WITH (FORMAT csv, QUOTE '''', ESCAPE '~', HEADER match)",
    );
    check(
        "COPY (SELECT 1) TO STDOUT WITH BINARY",
        "COPY (SELECT 1) TO STDOUT WITH (FORMAT binary)",
    );
    check(
        "COPY (SUBSCRIBE v WITH (PROGRESS)) TO STDOUT",
        "COPY (SUBSCRIBE TO v WITH (PROGRESS = true)) TO STDOUT",
    );
    refused("COPY t FROM '/etc/passwd'", "0A000", "file or program");
    refused("COPY t TO PROGRAM 'rm'", "0A000", "file or program");
    refused("COPY t FROM STDIN (FORMAT xml)", "22023", "not recognized");
    refused("COPY t FROM STDIN (FORMATT csv)", "42601", "not recognized");
    refused(
        "COPY t FROM STDIN (FORMAT csv, FORMAT csv)",
        "42601",
        "redundant",
    );
    refused(
        "COPY t FROM STDIN (DELIMITER 'ab')",
        "22023",
        "single one-byte",
    );
    refused(
        "COPY t FROM STDIN (DELIMITER 'ü')",
        "22023",
        "single one-byte",
    );
    refused("COPY t FROM STDIN (QUOTE 'x')", "22023", "only in CSV");
    refused(
        "COPY t FROM STDIN (FORMAT csv, QUOTE ',')",
        "22023",
        "must be different",
    );
    refused(
        "COPY t FROM STDIN (FORMAT binary, HEADER)",
        "22023",
        "BINARY",
    );
    refused("COPY t FROM STDIN (ENCODING 'LATIN1')", "0A000", "LATIN1");
    refused("COPY t FROM STDIN (FREEZE)", "0A000", "FREEZE");
}

#[test]
fn cursors_and_prepared_statements() {
    check(
        "DECLARE c NO SCROLL CURSOR WITHOUT HOLD FOR SELECT 1",
        "DECLARE c CURSOR FOR SELECT 1",
    );
    check(
        "DECLARE \"C\" INSENSITIVE CURSOR WITH HOLD FOR SUBSCRIBE v",
        "DECLARE \"C\" CURSOR WITH HOLD FOR SUBSCRIBE TO v",
    );
    check("FETCH c", "FETCH 1 FROM c");
    check("FETCH NEXT FROM c", "FETCH 1 FROM c");
    check("FETCH FORWARD 10 IN c", "FETCH 10 FROM c");
    check(
        "FETCH FORWARD ALL FROM c WITH (timeout = '1s')",
        "FETCH ALL FROM c WITH (timeout = '1s')",
    );
    check("MOVE 5 FROM c", "MOVE 5 FROM c");
    check(
        "PREPARE p (int, text) AS SELECT $1, $2",
        "PREPARE p (INT, TEXT) AS SELECT $1, $2",
    );
    check("EXECUTE p(1 + 1, 'x')", "EXECUTE p (1 + 1, 'x')");
    check(
        "TRUNCATE a, ONLY b RESTART IDENTITY CASCADE",
        "TRUNCATE TABLE a, b",
    );
    refused("FETCH BACKWARD 1 FROM c", "0A000", "BACKWARD");
    refused("FETCH -1 FROM c", "0A000", "backward");
    refused("DECLARE c SCROLL CURSOR FOR SELECT 1", "0A000", "SCROLL");
    refused(
        "DECLARE c SUBSCRIPTION CURSOR FOR s FULL",
        "0A000",
        "SUBSCRIPTION CURSOR",
    );
    refused(
        "DECLARE c CURSOR FOR DELETE FROM t",
        "42601",
        "syntax error",
    );
    refused(
        "PREPARE p AS CREATE TABLE t (a int)",
        "42601",
        "syntax error",
    );
    refused("PREPARE TRANSACTION 'x'", "0A000", "two-phase");
    refused("TRUNCATE", "42601", "end of input");
}
