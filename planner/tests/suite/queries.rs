//! Query shapes run, with the results of Postgres.

use super::world::{World, check_all};

#[test]
fn shapes() {
    check_all(
        &World::new(),
        &[
            (
                "select o.id, i.price FROM orders o JOIN items i ON i.order_id = o.id",
                "1|1.5\n1|2.5\n2|0.0",
            ),
            (
                "select o.id, count(i.id) FROM orders o LEFT JOIN items i ON i.order_id = o.id GROUP BY o.id",
                "1|2\n2|1\n3|0",
            ),
            (
                "select id FROM orders WHERE id NOT IN (SELECT order_id FROM items)",
                "",
            ),
            (
                "select id FROM orders o WHERE EXISTS (SELECT 1 FROM items i WHERE i.order_id = o.id)",
                "1\n2",
            ),
            (
                "select id FROM orders o WHERE NOT EXISTS (SELECT 1 FROM items i WHERE i.order_id = o.id)",
                "3",
            ),
            (
                "select id, (SELECT max(price) FROM items i WHERE i.order_id = o.id) FROM orders o",
                "1|2.5\n2|0.0\n3|-",
            ),
            (
                "(SELECT id FROM orders)",
                "21000: more than one row returned by a subquery used as an expression",
            ),
            (
                "select DISTINCT ON (order_id) order_id, price FROM items WHERE order_id IS NOT NULL ORDER BY order_id, price DESC",
                "1|2.5\n2|0.0",
            ),
            (
                "select qty, count(*) FROM orders GROUP BY GROUPING SETS ((qty), ())",
                "-|3\n0|1\n2|1\n5|1",
            ),
            (
                "select id, rank() OVER (ORDER BY qty DESC) FROM orders",
                "1|2\n2|3\n3|1",
            ),
            (
                "select id FROM (SELECT id, row_number() OVER (ORDER BY qty) AS rn FROM orders) t WHERE rn <= 1",
                "2",
            ),
            ("select 1 UNION ALL SELECT 1", "1\n1"),
            ("select 1 UNION SELECT 1", "1"),
            ("select id FROM orders EXCEPT SELECT 2", "1\n3"),
            ("select id FROM orders INTERSECT SELECT 2", "2"),
            (
                "with x AS (SELECT id FROM orders WHERE id > 1) SELECT sum(id) FROM x",
                "5",
            ),
            (
                "with RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 4) SELECT sum(n) FROM r",
                "10",
            ),
            ("values (1, 'a'), (2, NULL)", "1|a\n2|-"),
            (
                "select id FROM orders ORDER BY id DESC FETCH FIRST 1 ROW ONLY",
                "3",
            ),
            ("select id FROM orders ORDER BY 1 LIMIT 1 OFFSET 1", "2"),
            ("select n FROM generate_series(1, 3) AS g(n)", "1\n2\n3"),
            ("select g FROM generate_series(1, 5, 2) AS g", "1\n3\n5"),
            ("select x FROM unnest(ARRAY[1, 2]) AS x", "1\n2"),
            ("select unnest(ARRAY['a', 'b'])", "a\nb"),
            (
                "select count(*) FROM generate_series(timestamp '2024-01-01', '2024-01-02', '6 hours') AS t",
                "5",
            ),
            (
                "select window_start::text, count(*) FROM TUMBLE(clicks, at, INTERVAL '1' MINUTE) GROUP BY window_start",
                "2024-01-01 00:00:00+00|1\n2024-01-01 00:01:00+00|2",
            ),
            (
                "select count(*) FROM HOP(clicks, at, INTERVAL '30' SECOND, INTERVAL '1' MINUTE)",
                "6",
            ),
            (
                "select string_agg(note, ',' ORDER BY id), array_agg(id ORDER BY id DESC)::text FROM orders",
                "first,third|{3,2,1}",
            ),
            ("select id FROM priced", "1\n2"),
            (
                "select public.orders.id FROM public.orders WHERE orders.id = 1",
                "1",
            ),
            (
                "select ARRAY(SELECT id FROM orders ORDER BY id)::text",
                "{1,2,3}",
            ),
            ("select count(*) FROM orders HAVING count(*) > 2", "3"),
            (
                "select qty > 1 AS big, count(*) FROM orders GROUP BY big",
                "false|1\ntrue|2",
            ),
            ("select o.id FROM orders o JOIN items USING (id)", ""),
            (
                "select t.x FROM orders o, LATERAL (SELECT o.id + 1 AS x) t",
                "2\n3\n4",
            ),
            (
                "select o.id, t.price FROM orders o, LATERAL (SELECT price FROM items i WHERE i.order_id = o.id) t",
                "1|1.5\n1|2.5\n2|0.0",
            ),
            ("select count(DISTINCT order_id) FROM items", "2"),
            ("select sum(qty) FROM orders WHERE id > ALL (SELECT 1)", "5"),
            ("select k FROM types, jsonb_object_keys(doc) AS k", "a\nn"),
        ],
    );
}
