//! Answers that DataFusion alone gives otherwise than Postgres 15, which gave the expected results here.

use super::world::{World, check_all};

#[test]
fn set_operations_count_duplicates() {
    check_all(
        &World::new(),
        &[
            (
                "select * FROM (VALUES (1), (1), (1), (2), (NULL), (NULL)) a(x) INTERSECT ALL SELECT * FROM (VALUES (1), (1), (NULL), (3)) b(y)",
                "-\n1\n1",
            ),
            (
                "select * FROM (VALUES (1), (1), (1), (2), (NULL), (NULL)) a(x) EXCEPT ALL SELECT * FROM (VALUES (1), (1), (NULL), (3)) b(y)",
                "-\n1\n2",
            ),
            (
                "select x FROM (VALUES (1), (1)) a(x) EXCEPT ALL SELECT 1 UNION ALL SELECT 5 ORDER BY x",
                "1\n5",
            ),
            (
                "select x, x FROM (VALUES (1), (1)) a(x) EXCEPT ALL SELECT 1, 1.0",
                "1|1.0",
            ),
            (
                "select t.x FROM (SELECT * FROM (VALUES (1), (1)) a(x) INTERSECT ALL VALUES (1), (1)) t",
                "1\n1",
            ),
        ],
    );
}

#[test]
fn full_joins_merge_their_keys() {
    check_all(
        &World::new(),
        &[
            (
                "select k, a, b FROM (VALUES (1, 'x'), (2, 'y')) l(k, a) FULL JOIN (VALUES (2, 'p'), (3, 'q')) r(k, b) USING (k)",
                "1|x|-\n2|y|p\n3|-|q",
            ),
            (
                "select * FROM (VALUES (1, 'x'), (2, 'y')) l(k, a) NATURAL FULL JOIN (VALUES (2, 'p'), (3, 'q')) r(k, b) ORDER BY k",
                "1|x|-\n2|y|p\n3|-|q",
            ),
            (
                "select l.k, r.k FROM (VALUES (1), (2)) l(k) FULL JOIN (VALUES (2), (3)) r(k) USING (k) WHERE k > 1",
                "-|3\n2|2",
            ),
            (
                "select k, count(*) FROM (VALUES (1), (2)) l(k) FULL JOIN (VALUES (2), (3)) r(k) USING (k) GROUP BY k",
                "1|1\n2|1\n3|1",
            ),
            (
                "select k FROM (VALUES (1)) l(k) FULL JOIN (VALUES (2)) r(k) USING (k) FULL JOIN (VALUES (2), (3)) s(k) USING (k)",
                "1\n2\n3",
            ),
        ],
    );
}

#[test]
fn values_and_functions() {
    check_all(
        &World::new(),
        &[
            (
                "(ARRAY(SELECT id FROM orders ORDER BY id DESC))::text",
                "{3,2,1}",
            ),
            (
                "(ARRAY(SELECT note FROM orders ORDER BY qty DESC))::text",
                "{third,first,NULL}",
            ),
            (
                "(ARRAY(SELECT id FROM orders ORDER BY 1 DESC LIMIT 2))::text",
                "{3,2}",
            ),
            ("(ARRAY(SELECT id FROM orders WHERE id > 9))::text", "{}"),
            (
                "select o.id, ARRAY(SELECT i.id FROM items i WHERE i.order_id = o.id ORDER BY i.price DESC)::text FROM orders o",
                "1|{20,10}\n2|{30}\n3|{}",
            ),
            ("array_remove(ARRAY[1, 2, 1, NULL], 1)::text", "{2,NULL}"),
            ("array_replace(ARRAY[1, 2, 1], 1, 5)::text", "{5,2,5}"),
            ("-2 ^ 2", "4.0"),
            ("- 2 ^ 2 ^ 3", "64.0"),
            ("-(2 ^ 2)", "-4.0"),
            ("sign(-2.5)", "-1"),
            ("concat(true, 1, NULL, 'x')", "t1x"),
            ("concat_ws('-', true, false)", "t-f"),
            ("(65::\"char\")::text", "A"),
            (
                "select count(1, 2)",
                "42883: function count() does not exist",
            ),
            (
                "length(true)",
                "42883: function length(boolean) does not exist",
            ),
            ("upper(5)", "42883: function upper(integer) does not exist"),
            ("select 1 LIMIT -1", "2201W: LIMIT must not be negative"),
            ("select 1 OFFSET -1", "2201X: OFFSET must not be negative"),
            (
                "select orders.id::text AS id FROM orders ORDER BY orders.id DESC LIMIT 1",
                "3",
            ),
        ],
    );
}

#[test]
fn misplaced_constructs() {
    check_all(
        &World::new(),
        &[
            (
                "select sum(max(qty)) FROM orders",
                "42803: aggregate function calls cannot be nested",
            ),
            (
                "select id FROM orders WHERE sum(qty) > 1",
                "42803: aggregate functions are not allowed in WHERE",
            ),
            (
                "select id FROM orders WHERE row_number() OVER () = 1",
                "42P20: window functions are not allowed in WHERE",
            ),
            ("select sum(sum(qty)) OVER () FROM orders", "7"),
            (
                "select 1 WHERE 1",
                "42804: argument of WHERE must be type boolean, not type integer",
            ),
            (
                "select 1 FROM orders WHERE qty",
                "42804: argument of WHERE must be type boolean, not type integer",
            ),
            ("select 1 WHERE true", "1"),
            ("select b FROM types WHERE b", "true"),
            (
                "select id FROM orders ORDER BY 5",
                "42P10: ORDER BY position 5 is not in select list",
            ),
            (
                "select id FROM orders GROUP BY 5",
                "42P10: GROUP BY position 5 is not in select list",
            ),
            (
                "select DISTINCT id FROM orders ORDER BY qty",
                "42P10: for SELECT DISTINCT, ORDER BY expressions must appear in select list",
            ),
            (
                "upper(DISTINCT 'a')",
                "42809: DISTINCT specified, but upper is not an aggregate function",
            ),
        ],
    );
}

#[test]
fn rows_and_groups() {
    check_all(
        &World::new(),
        &[
            ("(1, 2) = (1, 2)", "true"),
            ("(1, 2) <> (1, 3)", "true"),
            ("(1, NULL) = (2, NULL)", "false"),
            ("(1, 2) < (1, 3)", "true"),
            ("ROW(2, 1) < ROW(1, 3)", "false"),
            ("(1, 2) IN ((3, 4), (1, 2))", "true"),
            ("(1, 2) NOT IN ((3, 4), (1, 2))", "false"),
            (
                "select id FROM orders WHERE (id, qty) IN (SELECT 1, 2)",
                "1",
            ),
            (
                "select x, i FROM unnest(ARRAY['a', 'b']) WITH ORDINALITY AS u(x, i)",
                "a|1\nb|2",
            ),
            ("NULL IN (SELECT id FROM orders)", "-"),
            ("NULL::int NOT IN (SELECT 1 WHERE false)", "true"),
            (
                "'\\x01'::bytea || '\\x02'::bytea = '\\x0102'::bytea",
                "true",
            ),
            (
                "'{a0eebc999c0b4ef8bb6d6bb9bd380a11}'::uuid = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
                "true",
            ),
            (
                "select qty, count(*) FROM orders GROUP BY ROLLUP (1)",
                "-|3\n0|1\n2|1\n5|1",
            ),
            (
                "select o.id FROM orders o WHERE o.qty > (SELECT count(*) FROM items i WHERE i.order_id = o.id)",
                "3",
            ),
        ],
    );
}
