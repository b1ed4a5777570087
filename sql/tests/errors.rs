//! What is refused, in which words, and where the caret points; and how a text is cut into statements.
//!
//! Invariant: line and column are those of the whole text, also in its later statements.

use thalweg_sql::{Statement, parse, parse_expr, parse_query};

struct Case {
    text: &'static str,
    sqlstate: &'static str,
    message: &'static str,
    line: usize,
    column: usize,
    hint: Option<&'static str>,
}

const fn case(
    text: &'static str,
    sqlstate: &'static str,
    message: &'static str,
    line: usize,
    column: usize,
    hint: Option<&'static str>,
) -> Case {
    Case {
        text,
        sqlstate,
        message,
        line,
        column,
        hint,
    }
}

const CASES: &[Case] = &[
    case(
        "SELEC 1",
        "42601",
        "syntax error at or near \"SELEC\"",
        1,
        1,
        Some("Perhaps you meant \"SELECT\"."),
    ),
    case(
        "CRATE TABLE t (a int)",
        "42601",
        "syntax error at or near \"CRATE\"",
        1,
        1,
        Some("Perhaps you meant \"CREATE\"."),
    ),
    case(
        "CREATE MATERIALISED VIEW v AS SELECT 1",
        "42601",
        "syntax error at or near \"MATERIALISED\"",
        1,
        8,
        Some("Perhaps you meant \"MATERIALIZED\"."),
    ),
    case(
        "CREATE SUORCE s",
        "42601",
        "syntax error at or near \"SUORCE\"",
        1,
        8,
        Some("Perhaps you meant \"SOURCE\"."),
    ),
    case(
        "DROP TABEL t",
        "42601",
        "syntax error at or near \"TABEL\"",
        1,
        6,
        Some("Perhaps you meant \"TABLE\"."),
    ),
    case(
        "ALTER TABEL t",
        "42601",
        "syntax error at or near \"TABEL\"",
        1,
        7,
        Some("Perhaps you meant \"TABLE\"."),
    ),
    case(
        "xyzzy",
        "42601",
        "syntax error at or near \"xyzzy\"",
        1,
        1,
        None,
    ),
    case(
        "SELECT 1;\n  SELECT a FROM",
        "42601",
        "syntax error at end of input",
        2,
        16,
        None,
    ),
    case(
        "SELECT *\nFROM t\nWHERE",
        "42601",
        "syntax error at end of input",
        3,
        6,
        None,
    ),
    case(
        "SELECT a FROM t WHERE ) ",
        "42601",
        "syntax error at or near \")\"",
        1,
        23,
        None,
    ),
    case(
        "SELECT (1",
        "42601",
        "syntax error at end of input",
        1,
        10,
        None,
    ),
    case(
        "SELECT 1 1",
        "42601",
        "syntax error at or near \"1\"",
        1,
        10,
        None,
    ),
    case(
        "CREATE TABLE",
        "42601",
        "syntax error at end of input",
        1,
        13,
        None,
    ),
    case(
        "CREATE TABLE select (a int)",
        "42601",
        "syntax error at or near \"select\"",
        1,
        14,
        None,
    ),
    case(
        "CREATE TABLE t (a int",
        "42601",
        "syntax error at end of input",
        1,
        22,
        None,
    ),
    case(
        "CREATE TABLE t (a int,)",
        "42601",
        "syntax error at or near \")\"",
        1,
        23,
        None,
    ),
    case(
        "CREATE TABLE t (a)",
        "42601",
        "syntax error at or near \")\"",
        1,
        18,
        None,
    ),
    case(
        "CREATE TABLE t (a int PRIMARY KEY, PRIMARY KEY (a))",
        "42P16",
        "multiple primary keys are not allowed",
        1,
        36,
        Some("Write PRIMARY KEY (a, b) for a key of several columns."),
    ),
    case(
        "CREATE TABLE t (a int UNIQUE)",
        "0A000",
        "UNIQUE is not supported yet",
        1,
        23,
        Some("Declare the columns as PRIMARY KEY."),
    ),
    case(
        "CREATE TABLE t (a int REFERENCES u)",
        "0A000",
        "FOREIGN KEY is not supported yet",
        1,
        23,
        None,
    ),
    case(
        "CREATE SOURCE s (a int) WITH (a = 1, a = 2)",
        "42601",
        "option \"a\" is given twice",
        1,
        38,
        None,
    ),
    case(
        "CREATE SOURCE s (a int) WITH (a 1)",
        "42601",
        "syntax error at or near \"1\"",
        1,
        33,
        None,
    ),
    case(
        "CREATE SOURCE s (a int) FORMAT JSON",
        "42601",
        "syntax error at end of input",
        1,
        36,
        None,
    ),
    case(
        "CREATE SINK s AS SELECT FROM FROM x WITH (a = 1)",
        "42601",
        "syntax error at or near \"FROM\"",
        1,
        30,
        None,
    ),
    case(
        "CREATE SINK s AS SELECT a + WITH (a = 1)",
        "42601",
        "syntax error at or near \"WITH\"",
        1,
        29,
        None,
    ),
    case(
        "CREATE MATERIALIZED VIEW v AS SELECT a FROM t EMIT ON WINDOW",
        "42601",
        "syntax error at end of input",
        1,
        61,
        None,
    ),
    case(
        "CREATE OR REPLACE TABLE t (a int)",
        "42601",
        "syntax error at or near \"TABLE\"",
        1,
        19,
        None,
    ),
    case(
        "SELECT 'abc",
        "42601",
        "unterminated quoted string at or near \"'abc\"",
        1,
        8,
        None,
    ),
    case(
        "SELECT \"abc",
        "42601",
        "unterminated quoted identifier at or near \"\"abc\"",
        1,
        8,
        None,
    ),
    case(
        "SELECT \"\"",
        "42601",
        "zero-length delimited identifier at or near \"\"\"\"",
        1,
        8,
        None,
    ),
    case(
        "EXPLAIN EXPLAIN SELECT 1",
        "42601",
        "syntax error at or near \"EXPLAIN\"",
        1,
        9,
        None,
    ),
    case(
        "EXPLAIN (FORMAT JSON) SELECT 1",
        "0A000",
        "an EXPLAIN format other than TEXT is not supported yet",
        1,
        17,
        None,
    ),
    case(
        "BEGIN TRANSACTION nonsense",
        "42601",
        "syntax error at or near \"nonsense\"",
        1,
        19,
        None,
    ),
    case(
        "COMMIT AND CHAIN",
        "0A000",
        "AND CHAIN is not supported yet",
        1,
        12,
        Some("Begin the next transaction with BEGIN."),
    ),
    case(
        "SET x 1",
        "42601",
        "syntax error at or near \"1\"",
        1,
        7,
        None,
    ),
    case(
        "FLUSH now",
        "42601",
        "syntax error at or near \"now\"",
        1,
        7,
        None,
    ),
    case(
        "WITH x AS (SELECT 1) DELETE FROM t",
        "0A000",
        "WITH before UPDATE or DELETE is not supported yet",
        1,
        1,
        Some("Write the WITH clause inside the query or subquery that reads it."),
    ),
    case(
        "SELECT 'ü', größe FROM t WHERE WHERE",
        "42601",
        "syntax error at or near \"WHERE\"",
        1,
        32,
        None,
    ),
];

#[test]
fn errors_name_the_token_the_place_and_the_way_out() {
    for Case {
        text,
        sqlstate,
        message,
        line,
        column,
        hint,
    } in CASES
    {
        let error = match parse(text) {
            Err(error) => error,
            Ok(parsed) => panic!("{text} parsed as {}", parsed[0].statement),
        };
        let report = error.report();
        assert_eq!(
            (report.sqlstate, report.message.as_str()),
            (*sqlstate, *message),
            "{text}"
        );
        let place = error.place().unwrap();
        assert_eq!((place.line, place.column), (*line, *column), "{text}");
        assert_eq!(report.hint.as_deref(), *hint, "{text}");
        let before: usize = text
            .split('\n')
            .take(line - 1)
            .map(|l| l.chars().count() + 1)
            .sum();
        assert_eq!(report.position, Some(before + column), "{text}");
    }
}

#[test]
fn the_detail_shows_the_line_with_a_caret_under_the_token() {
    let report = parse("SELECT 1;\nCREATE VEW v AS\nSELECT 1")
        .unwrap_err()
        .report();
    let detail = report.detail.unwrap();
    let lines: Vec<&str> = detail.lines().collect();
    assert!(
        lines[0].starts_with("Expected SOURCE, TABLE, ARCHIVE, VIEW,"),
        "{detail}"
    );
    assert_eq!(lines[1], "LINE 2: CREATE VEW v AS");
    assert_eq!(lines[2], "               ^");
    assert_eq!(report.position, Some(18));
    assert_eq!(report.hint.as_deref(), Some("Perhaps you meant \"VIEW\"."));
}

#[test]
fn a_long_line_is_cut_around_the_caret() {
    let text = format!("SELECT {} FROM FROM", "a, ".repeat(400) + "a");
    let detail = parse(&text).unwrap_err().report().detail.unwrap();
    let lines: Vec<&str> = detail.lines().rev().collect();
    let (caret, shown) = (lines[0], lines[1]);
    assert!(shown.chars().count() < 100, "{detail}");
    let under: String = shown.chars().skip(caret.len() - 1).collect();
    assert!(under.starts_with("FROM"), "{detail}");
}

#[test]
fn promised_statements_are_recognised_as_unsupported() {
    for (text, name) in [
        (
            "create connection k with (type = 'kafka')",
            "CREATE CONNECTION",
        ),
        ("CREATE SECRET s AS 'x'", "CREATE SECRET"),
        ("CREATE INDEX i ON t (a)", "CREATE INDEX"),
        ("CREATE UNIQUE INDEX i ON t (a)", "CREATE UNIQUE INDEX"),
        ("CREATE SUBSCRIPTION s FROM v", "CREATE SUBSCRIPTION"),
        ("CREATE FUNCTION f() RETURNS int", "CREATE FUNCTION"),
        ("CREATE TASK t SCHEDULE 'x' AS SELECT 1", "CREATE TASK"),
        ("CREATE ALERT a ON QUERY SELECT 1", "CREATE ALERT"),
        ("CREATE ROLE r", "CREATE ROLE"),
        ("CREATE USER u", "CREATE USER"),
        ("CREATE DATABASE d", "CREATE DATABASE"),
        (
            "CREATE OR REPLACE MATERIALIZED VIEW m AS SELECT 1",
            "CREATE OR REPLACE MATERIALIZED VIEW",
        ),
        ("CREATE TEMP TABLE t (a int)", "CREATE TEMP TABLE"),
        ("ALTER TABLE t ADD COLUMN a int", "ALTER TABLE"),
        (
            "ALTER MATERIALIZED VIEW v RENAME TO w",
            "ALTER MATERIALIZED VIEW",
        ),
        ("ALTER SYSTEM SET a = 1", "ALTER SYSTEM"),
        ("ALTER SOURCE s PAUSE NOW", "ALTER SOURCE"),
        ("ALTER TABLE t PAUSE", "ALTER TABLE"),
        ("COMMENT ON TABLE t IS 'x'", "COMMENT ON"),
        ("REPLAY ERRORS OF s", "REPLAY ERRORS"),
        ("CANCEL JOB 1", "CANCEL JOB"),
        ("REFRESH MATERIALIZED VIEW v", "REFRESH MATERIALIZED VIEW"),
        ("GRANT SELECT ON t TO u", "GRANT"),
        ("REVOKE ALL ON t FROM u", "REVOKE"),
        ("DROP CONNECTION k", "DROP CONNECTION"),
    ] {
        let parsed = parse(text).unwrap();
        match &parsed[0].statement {
            Statement::Unsupported { name: found, .. } => assert_eq!(found, name, "{text}"),
            other => panic!("{text} parsed as {other:?}"),
        }
        assert_eq!(
            parse(name).unwrap()[0].statement,
            parsed[0].statement,
            "{name}"
        );
    }
}

#[test]
fn a_text_is_cut_at_semicolons_outside_literals_and_comments() {
    assert_eq!(parse("").unwrap(), []);
    assert_eq!(parse(" ;; -- nothing;\n /* ; /* ; */ */ ;").unwrap(), []);
    let parsed = parse("  SELECT 'ü;' ; -- a;b\n\n SELECT 2 /* ; */ + 3;;SHOW x").unwrap();
    let found: Vec<(&str, usize)> = parsed.iter().map(|p| (p.text.as_str(), p.start)).collect();
    assert_eq!(
        found,
        [
            ("SELECT 'ü;'", 2),
            ("SELECT 2 /* ; */ + 3", 25),
            ("SHOW x", 47)
        ]
    );
}

#[test]
fn single_queries_and_expressions() {
    assert_eq!(
        parse_query("select A from T;").unwrap().to_string(),
        "SELECT a FROM t"
    );
    assert_eq!(parse_expr("a + 'x'").unwrap().to_string(), "a + 'x'");
    for text in [
        "",
        "SELECT 1; SELECT 2",
        "INSERT INTO t VALUES (1)",
        "FLUSH",
        "SELECT 1 SELECT",
    ] {
        assert_eq!(parse_query(text).unwrap_err().sqlstate(), "42601", "{text}");
    }
    for text in ["", "1; 2", "1 2", "a +", "SELECT 1"] {
        assert_eq!(parse_expr(text).unwrap_err().sqlstate(), "42601", "{text}");
    }
}
