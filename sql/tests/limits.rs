//! At a limit a statement parses, one past it is refused, and nothing below the limits is slow or overflows a stack.
//!
//! Invariant: everything here runs on a thread with half of the usual stack.

use std::time::{Duration, Instant};

use thalweg_sql::limits::{CHAIN_MAX, NESTING_MAX, SET_QUERIES_MAX, STATEMENT_BYTES_MAX};
use thalweg_sql::{parse, parse_expr};

const STACK_BYTES: usize = 1024 * 1024;

fn on_a_small_stack(test: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(test)
        .unwrap()
        .join()
        .unwrap();
}

/// Parses, prints, compares, clones and drops; gives the SQLSTATE or nothing.
fn exercise(text: &str) -> Option<&'static str> {
    match parse(text) {
        Ok(parsed) => {
            let copy = parsed.clone();
            assert_eq!(copy, parsed);
            for statement in &parsed {
                let _ = statement.statement.to_string();
                let _ = thalweg_sql::redacted(&statement.statement);
                let _ = format!("{:?}", statement.statement).len();
            }
            None
        }
        Err(error) => Some(error.sqlstate()),
    }
}

#[test]
fn bytes() {
    let at = |bytes: usize| format!("SELECT 1{}", " ".repeat(bytes - 8));
    assert_eq!(parse(&at(STATEMENT_BYTES_MAX)).map(|p| p.len()), Ok(1));
    let report = parse(&at(STATEMENT_BYTES_MAX + 1)).unwrap_err().report();
    assert_eq!(report.sqlstate, "54000");
    assert_eq!(
        report.message,
        "statement of 1048577 bytes exceeds the limit of 1048576 bytes"
    );
}

/// Texts that nest `n` levels, each in its own way.
fn nested(n: usize) -> Vec<(&'static str, String)> {
    let wrap = |before: &str, inner: &str, after: &str| {
        format!("{}{inner}{}", before.repeat(n), after.repeat(n))
    };
    vec![
        ("parentheses", format!("SELECT {}", wrap("(", "1", ")"))),
        ("functions", format!("SELECT {}", wrap("f(", "1", ")"))),
        (
            "functions of two",
            format!("SELECT {}", wrap("f(1, ", "1", ")")),
        ),
        (
            "named arguments",
            format!("SELECT {}", wrap("f(a => ", "1", ")")),
        ),
        (
            "casts",
            format!("SELECT {}", wrap("CAST(", "1", " AS int)")),
        ),
        (
            "case",
            format!("SELECT {}", wrap("CASE WHEN true THEN ", "1", " END")),
        ),
        (
            "case operands",
            format!("SELECT {}", wrap("CASE ", "1", " WHEN 1 THEN 2 END")),
        ),
        ("not", format!("SELECT {}", wrap("NOT ", "true", ""))),
        ("minus", format!("SELECT {}", wrap("- ", "1", ""))),
        (
            "interval",
            format!("SELECT {}", wrap("INTERVAL ", "'1 day'", "")),
        ),
        ("arrays", format!("SELECT {}", wrap("ARRAY[", "1", "]"))),
        (
            "bare arrays",
            format!("SELECT ARRAY{}", wrap("[", "1", "]")),
        ),
        ("array types", format!("SELECT NULL::int{}", "[]".repeat(n))),
        ("subscripts", format!("SELECT a{}", "[1]".repeat(n))),
        ("scalar subqueries", wrap("SELECT (", "SELECT 1", ")")),
        ("exists", wrap("SELECT EXISTS (", "SELECT 1", ")")),
        (
            "in subqueries",
            format!(
                "SELECT 1 WHERE {}",
                wrap("1 IN (SELECT 1 WHERE ", "true", ")")
            ),
        ),
        (
            "derived tables",
            format!("SELECT * FROM {}", wrap("(SELECT * FROM ", "t", ") AS x")),
        ),
        (
            "nested joins",
            format!("SELECT * FROM {}", wrap("(", "a JOIN b ON true", ")")),
        ),
        ("parenthesised queries", wrap("(", "SELECT 1", ")")),
        ("ctes", wrap("WITH a AS (", "SELECT 1", ") SELECT 1")),
        ("tuples", format!("SELECT {}", wrap("(1, ", "2", ")"))),
        (
            "lateral",
            format!(
                "SELECT * FROM {}",
                wrap("LATERAL (SELECT * FROM ", "t", ") AS x")
            ),
        ),
        (
            "extract",
            format!("SELECT {}", wrap("extract(day FROM ", "a", ")")),
        ),
        (
            "substring",
            format!("SELECT {}", wrap("substring(", "a", " FROM 1)")),
        ),
        ("trim", format!("SELECT {}", wrap("trim(", "a", ")"))),
        (
            "position",
            format!("SELECT {}", wrap("position('a' IN ", "a", ")")),
        ),
        (
            "grouping",
            format!("SELECT 1 GROUP BY {}", wrap("(", "a", ")")),
        ),
        (
            "table functions",
            format!("SELECT * FROM {}", wrap("f(", "1", ")")),
        ),
        (
            "unnest",
            format!("SELECT * FROM unnest({})", wrap("f(", "1", ")")),
        ),
        (
            "window",
            format!("SELECT {}", wrap("sum(", "1", ") OVER ()")),
        ),
        (
            "struct types",
            format!("CREATE TABLE t (a {})", wrap("STRUCT<a ", "int", "> ")),
        ),
        (
            "mixed",
            format!("SELECT {}", wrap("coalesce(NULL, ", "1", ")")),
        ),
    ]
}

#[test]
fn nesting_below_the_limit_is_quick_and_past_it_is_refused() {
    on_a_small_stack(|| {
        // The outermost construct of some texts is a level itself.
        for (what, text) in nested(NESTING_MAX - 2) {
            let start = Instant::now();
            let refused = exercise(&text);
            assert!(
                matches!(refused, None | Some("42601" | "0A000")),
                "{what}: {refused:?}"
            );
            assert!(
                start.elapsed() < Duration::from_secs(2),
                "{what} took {:?}",
                start.elapsed()
            );
        }
        for n in [NESTING_MAX + 1, 5_000, 100_000] {
            for (what, text) in nested(n)
                .into_iter()
                .filter(|(_, text)| text.len() <= STATEMENT_BYTES_MAX)
            {
                assert_eq!(exercise(&text), Some("54001"), "{what} of {n}");
            }
        }
    });
}

#[test]
fn nesting_at_the_limit_exactly() {
    let text = |n: usize| format!("SELECT {}1{}", "(".repeat(n), ")".repeat(n));
    assert_eq!(exercise(&text(NESTING_MAX)), None);
    assert_eq!(exercise(&text(NESTING_MAX + 1)), Some("54001"));
}

#[test]
fn chains_at_the_limit_and_one_past_it() {
    on_a_small_stack(|| {
        let forms: &[(&str, &str)] = &[
            ("1", " + "),
            ("a", " AND "),
            ("a", " OR "),
            ("'x'", " || "),
            ("a", " = "),
            ("a", "->"),
            ("1", "-"),
        ];
        for (term, operator) in forms {
            let expr = |terms: usize| vec![*term; terms].join(operator);
            assert_eq!(
                exercise(&format!("SELECT {}", expr(CHAIN_MAX))),
                None,
                "{operator}"
            );
            assert_eq!(
                exercise(&format!("SELECT {}", expr(CHAIN_MAX + 1))),
                Some("54001"),
                "{operator}"
            );
            assert!(parse_expr(&expr(CHAIN_MAX)).is_ok(), "{operator}");
            assert_eq!(
                parse_expr(&expr(2_000)).unwrap_err().sqlstate(),
                "54001",
                "{operator}"
            );
        }
        let casts = |n: usize| format!("SELECT a{}", "::int".repeat(n));
        assert_eq!(exercise(&casts(CHAIN_MAX - 1)), None);
        assert_eq!(exercise(&casts(CHAIN_MAX)), Some("54001"));
        let union = |n: usize| vec!["SELECT a, b"; n].join(" UNION ALL ");
        assert_eq!(exercise(&union(SET_QUERIES_MAX)), None);
        assert_eq!(exercise(&union(SET_QUERIES_MAX + 1)), Some("54001"));
        let joins = |n: usize| format!("SELECT * FROM {}", vec!["t"; n].join(" CROSS JOIN "));
        assert_eq!(exercise(&joins(CHAIN_MAX)), None);
        assert_eq!(exercise(&joins(CHAIN_MAX + 1)), Some("54001"));
        for suffix in [
            " IS NULL",
            " COLLATE \"C\"",
            " AT TIME ZONE 'UTC'",
            " ISNULL",
            " IS DISTINCT FROM a",
            " NOTNULL",
        ] {
            let refused = exercise(&format!("SELECT a{}", suffix.repeat(5_000)));
            assert_eq!(refused, Some("54001"), "{suffix}");
        }
    });
}

#[test]
fn long_lists_are_no_chains() {
    on_a_small_stack(|| {
        let list = vec!["-1"; 100_000].join(",");
        assert_eq!(exercise(&format!("SELECT 1 WHERE a IN ({list})")), None);
        let rows = vec!["(1,-2)"; 100_000].join(",");
        assert_eq!(exercise(&format!("INSERT INTO t VALUES {rows}")), None);
        assert_eq!(exercise(&"SELECT 1;".repeat(20_000)), None);
    });
}
