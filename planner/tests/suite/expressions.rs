//! Literals, arithmetic, casts and functions give Postgres' values, types and errors.

use super::world::{World, check_all};

#[test]
fn literals_have_the_types_of_their_spelling() {
    let world = World::new();
    for (text, expected) in [
        ("SELECT 1", "?column? integer"),
        ("SELECT 3000000000", "?column? bigint"),
        ("SELECT -2147483648", "?column? integer"),
        ("SELECT 99999999999999999999", "?column? numeric"),
        ("SELECT 1.10", "?column? numeric"),
        ("SELECT 'x'", "?column? text"),
        ("SELECT NULL", "?column? text"),
        ("SELECT true", "?column? boolean"),
        ("SELECT 1::bigint, '5'::int2", "int8 bigint, int2 smallint"),
        (
            "SELECT date '2024-01-01', interval '1 day'",
            "date date, interval interval",
        ),
        (
            "SELECT 1 + 1, 1 + 2::bigint, 1.5 + 1, 1 + 1::float4",
            "?column? integer, ?column? bigint, ?column? numeric, ?column? double precision",
        ),
        (
            "SELECT count(*), sum(id), sum(id::bigint), avg(id), max(note) FROM orders",
            "count bigint, sum bigint, sum numeric, avg numeric, max character varying(10)",
        ),
        (
            "SELECT sum(f4), avg(f4), min(doc) FROM types",
            "sum real, avg double precision, min jsonb",
        ),
        ("SELECT CASE WHEN true THEN 1 ELSE 2.5 END", "case numeric"),
        (
            "SELECT now(), current_date, extract(year FROM now())",
            "now timestamp with time zone, current_date date, extract numeric",
        ),
        (
            "SELECT doc -> 'a', doc ->> 'a' FROM types",
            "?column? jsonb, ?column? text",
        ),
        (
            "SELECT row_number() OVER (ORDER BY id) FROM orders",
            "row_number bigint",
        ),
        (
            "SELECT id, id, upper(note) FROM orders",
            "id integer, id integer, upper text",
        ),
        (
            "SELECT *, id FROM orders",
            "id integer, amount numeric(10,2), qty integer, note character varying(10), id integer",
        ),
        ("SELECT ARRAY[1, 2]", "array integer[]"),
        ("SELECT coalesce(doc, '{}') FROM types", "coalesce jsonb"),
        ("SELECT 1 UNION SELECT 2.5", "?column? numeric"),
        (
            "SELECT x FROM (VALUES (1), (3000000000)) AS v(x)",
            "x bigint",
        ),
        (
            "SELECT * FROM (SELECT 1, 2) AS t",
            "?column? integer, ?column? integer",
        ),
    ] {
        assert_eq!(
            world
                .columns(text)
                .map_err(|e| format!("{}: {}", e.sqlstate, e.message)),
            Ok(expected.to_owned()),
            "{text}"
        );
    }
}

#[test]
fn arithmetic_is_exact_or_an_error() {
    check_all(
        &World::new(),
        &[
            ("2147483647 + 1", "22003: integer out of range"),
            ("9223372036854775807 + 1", "22003: bigint out of range"),
            ("7 / 2", "3"),
            ("-7 / 2", "-3"),
            ("1 / 0", "22012: division by zero"),
            ("1 % 0", "22012: division by zero"),
            ("1.0 / 0", "22012: division by zero"),
            ("1::float8 / 0", "22012: division by zero"),
            ("1e308::float8 * 10", "22003: value out of range: overflow"),
            ("- (-2147483648)", "22003: integer out of range"),
            ("abs(-2147483648)", "22003: integer out of range"),
            ("(1.10 + 2.205)::text", "3.305"),
            ("(1.5 * 1.5)::text", "2.25"),
            ("(1 / 3.0)::text", "0.3333333333"),
            (
                "99999999999999999999::numeric * 99999999999999999999",
                "22003: numeric field overflow",
            ),
            ("0.1 + 0.2 = 0.3", "true"),
            ("round(2.5)::text", "3"),
            ("round(-2.5)::text", "-3"),
            ("round(1.2345, 2)::text", "1.23"),
            ("2 ^ 10", "1024.0"),
            ("5 & 3, 5 | 3, 5 # 3, 1 << 4", "1|7|6|16"),
            (
                "sqrt(-1)",
                "2201F: cannot take square root of a negative number",
            ),
            (
                "sum(x) FROM (VALUES (9223372036854775807), (1)) AS v(x)",
                "9223372036854775808",
            ),
            ("avg(x)::text FROM (VALUES (1), (2)) AS v(x)", "1.5"),
            (
                "sum(DISTINCT x), sum(x) FILTER (WHERE x > 1) FROM (VALUES (1), (2), (2)) AS v(x)",
                "3|4",
            ),
            (
                "select sum(x) OVER (ORDER BY x ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM (VALUES (1), (2), (4)) AS v(x)",
                "1\n3\n6",
            ),
            (
                "select qty, sum(id), avg(id)::text FROM orders GROUP BY qty",
                "0|2|2\n2|1|1\n5|3|3",
            ),
        ],
    );
}

#[test]
fn casts_follow_postgres() {
    check_all(
        &World::new(),
        &[
            (
                "'x'::int",
                "22P02: invalid input syntax for type integer: \"x\"",
            ),
            (
                "'3000000000'::int",
                "22003: value \"3000000000\" is out of range for type integer",
            ),
            ("3000000000::int", "22003: integer out of range"),
            ("2.5::float8::int, 3.5::float8::int", "2|4"),
            ("2.5::int, -2.5::int", "3|-3"),
            ("'yes'::bool, 'f'::bool, 'off'::bool", "true|false|false"),
            (
                "'maybe'::bool",
                "22P02: invalid input syntax for type boolean: \"maybe\"",
            ),
            ("12345.678::numeric(5,2)", "22003: numeric field overflow"),
            ("'abcdef'::varchar(3)", "abc"),
            (
                "'2024-02-30'::date",
                "22008: date/time field value out of range: \"2024-02-30\"",
            ),
            (
                "'hello'::date",
                "22007: invalid input syntax for type date: \"hello\"",
            ),
            (
                "'2024-01-31 10:00:00+02'::timestamptz::text",
                "2024-01-31 08:00:00+00",
            ),
            (
                "1::text || 'a', true::text, 1.50::text, 1e20::float8::text",
                "1a|true|1.50|1e+20",
            ),
            ("'{1,NULL,3}'::int[]::text", "{1,NULL,3}"),
            ("'{\"b\":1,\"a\":2}'::jsonb::text", "{\"a\": 2, \"b\": 1}"),
            (
                "interval '1 year 2 months 3 days 04:05:06'::text",
                "1 year 2 mons 3 days 04:05:06",
            ),
            (
                "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid::text",
                "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            ),
            ("1::date", "42846: cannot cast type integer to date"),
        ],
    );
}

#[test]
fn untyped_literals_take_the_other_side() {
    check_all(
        &World::new(),
        &[
            ("select name FROM types WHERE b = 't'", "Ann"),
            ("select name FROM types WHERE day > '2024-01-01'", "Ann"),
            (
                "select name FROM types WHERE ts < now() - interval '1 day'",
                "Ann",
            ),
            (
                "select name FROM types WHERE day = 'garbage'",
                "22007: invalid input syntax for type date: \"garbage\"",
            ),
            ("select id FROM orders WHERE amount = '10.5'", "1"),
            ("select id FROM orders WHERE id IN ('1', '2')", "1\n2"),
            ("select id FROM orders WHERE id BETWEEN '2' AND 3", "2\n3"),
            (
                "CASE WHEN true THEN NULL ELSE date '2024-01-01' END IS NULL",
                "true",
            ),
            (
                "select day FROM types UNION SELECT '2024-05-01'",
                "2024-01-31\n2024-05-01",
            ),
            ("select id FROM orders WHERE id = ANY('{1,3}')", "1\n3"),
            (
                "1 = 'a'",
                "22P02: invalid input syntax for type integer: \"a\"",
            ),
            (
                "select 1 FROM orders WHERE id = note",
                "42883: operator does not exist: integer = character varying",
            ),
        ],
    );
}

#[test]
fn dates_and_intervals_compute() {
    check_all(
        &World::new(),
        &[
            ("date '2024-01-31' + 1", "2024-02-01"),
            ("date '2024-03-01' - date '2024-02-01'", "29"),
            (
                "(date '2024-01-31' + interval '1 month')::text",
                "2024-02-29 00:00:00",
            ),
            (
                "(timestamp '2024-01-02' - timestamp '2024-01-01')::text",
                "1 day",
            ),
            (
                "date_trunc('month', timestamp '2024-05-17 10:00')::text",
                "2024-05-01 00:00:00",
            ),
            (
                "extract(epoch FROM timestamp '1970-01-02')::text",
                "86400.000000",
            ),
            (
                "extract(year FROM date '2024-05-17')::text, date_part('dow', date '2024-05-17')",
                "2024|5.0",
            ),
            (
                "to_char(timestamp '2024-05-07 15:04:05', 'YYYY-MM-DD HH24:MI:SS')",
                "2024-05-07 15:04:05",
            ),
            ("to_char(now(), 'YYYY')", "2024"),
            ("to_char(1234.5, 'FM9,999.00')", "1,234.50"),
            ("to_char(12, '999')", "  12"),
            ("now()::text", "2024-03-10 12:34:56.789+00"),
            ("interval '1 day' = interval '24 hours'", "true"),
            ("(interval '1 hour' * 1.5)::text", "01:30:00"),
            ("to_date('07 May 2024', 'DD Mon YYYY')", "2024-05-07"),
            (
                "(timestamptz '2024-07-01 12:00+00' AT TIME ZONE 'Europe/Berlin')::text",
                "2024-07-01 14:00:00",
            ),
            (
                "age(timestamp '2024-03-01', timestamp '2023-01-15')::text",
                "1 year 1 mon 15 days",
            ),
        ],
    );
}

#[test]
fn text_json_and_arrays() {
    check_all(
        &World::new(),
        &[
            ("'a' || 1 || true", "a1true"),
            (
                "length('héllo'), upper('x'), substring('hello' FROM 2 FOR 3), position('l' IN 'hello')",
                "5|X|ell|3",
            ),
            (
                "'a_b' LIKE 'a/_b' ESCAPE '/', 'axb' LIKE 'a/_b' ESCAPE '/'",
                "true|false",
            ),
            (
                "'ABC' ILIKE 'a%', 'abc' ~ '^a', 'abc' !~* 'B', 'abc' SIMILAR TO 'a%'",
                "true|true|false|true",
            ),
            (
                "select doc -> 'a' -> 1 ->> 'b', doc #>> '{a,0}', doc ->> 'n' FROM types",
                "x|1|-",
            ),
            (
                "select doc @> '{\"n\": null}', jsonb_array_length(doc -> 'a'), jsonb_typeof(doc) FROM types",
                "true|2|object",
            ),
            (
                "json_build_object('a', 1, 'b', ARRAY[1,2])::text",
                "{\"a\" : 1, \"b\" : [1,2]}",
            ),
            (
                "(ARRAY[1,2,3])[2], (ARRAY[1,2,3])[9], cardinality(ARRAY[1,2])",
                "2|-|2",
            ),
            (
                "2 = ANY(ARRAY[1,2]), 3 = ALL(ARRAY[3,3]), 1 = ANY(ARRAY[2,NULL])",
                "true|true|-",
            ),
            (
                "(ARRAY[1] || 2)::text, (ARRAY[1,2] @> ARRAY[2])",
                "{1,2}|true",
            ),
            (
                "coalesce(NULL, 2), nullif(1, 1), greatest(1, 5, 3), least('b', 'a')",
                "2|-|5|a",
            ),
            (
                "1 IS DISTINCT FROM NULL, NULL IS NOT DISTINCT FROM NULL",
                "true|true",
            ),
            (
                "pg_typeof(1), pg_typeof('a'), pg_typeof(1.5)",
                "integer|unknown|numeric",
            ),
            (
                "concat('a', NULL, 1), concat_ws(',', 1, NULL, 'b')",
                "a1|1,b",
            ),
            ("current_user", "ann"),
        ],
    );
}

#[test]
fn and_does_not_raise_for_rows_the_left_side_decides() {
    check_all(
        &World::new(),
        &[
            (
                "select id FROM orders WHERE qty <> 0 AND 10 / qty > 1",
                "1\n3",
            ),
            (
                "select id FROM orders WHERE qty = 0 OR 10 / qty > 4",
                "1\n2",
            ),
            (
                "select id FROM orders WHERE CASE WHEN qty <> 0 THEN 10 / qty > 1 ELSE false END",
                "1\n3",
            ),
            (
                "select id, CASE WHEN qty = 0 THEN -1 ELSE 10 / qty END FROM orders",
                "1|5\n2|-1\n3|2",
            ),
        ],
    );
}
