-- sum(a) beside count(DISTINCT b) stopped the view.
CREATE TABLE t0 (k bigint PRIMARY KEY, v0 boolean, v1 boolean);
CREATE TABLE t1 (k bigint PRIMARY KEY, v0 bigint, v1 text);
INSERT INTO t0 VALUES (2, TRUE, TRUE), (3, FALSE, FALSE), (4, FALSE, FALSE), (5, FALSE, FALSE), (6, TRUE, TRUE), (7, TRUE, FALSE);
INSERT INTO t0 VALUES (8, FALSE, TRUE), (9, FALSE, TRUE), (10, CAST(NULL AS boolean), FALSE), (11, TRUE, TRUE), (12, FALSE, FALSE), (13, CAST(NULL AS boolean), TRUE);
-- check
CREATE MATERIALIZED VIEW w0 AS SELECT (coalesce(6, b.k) * 6) AS c0 FROM t1 a CROSS JOIN t0 b RIGHT JOIN t1 c ON a.v1 = c.v1 INTERSECT SELECT a.k AS c0 FROM t1 a WHERE EXISTS (SELECT 1 FROM t0 s WHERE s.k = a.v0 AND ((s.k BETWEEN 6 AND 1) AND (s.k IS DISTINCT FROM s.k)));
INSERT INTO t1 VALUES (14, 6, 'a'), (15, 5, 'b'), (16, 1, 'it''s'), (17, 1, 'b');
INSERT INTO t1 VALUES (18, CAST(NULL AS int), 'it''s') ON CONFLICT (k) DO UPDATE SET v0 = excluded.v0, v1 = excluded.v1;
-- check
-- restart
-- check
INSERT INTO t0 VALUES (10, FALSE, FALSE) ON CONFLICT (k) DO NOTHING;
INSERT INTO t0 VALUES (19, FALSE, FALSE), (20, TRUE, FALSE), (21, FALSE, TRUE), (22, TRUE, FALSE);
-- check
INSERT INTO t0 VALUES (23, FALSE, TRUE), (24, CAST(NULL AS boolean), FALSE);
INSERT INTO t1 VALUES (25, 0, 'it''s'), (26, CAST(NULL AS int), ''), (27, -2, 'b'), (28, 5, 'A'), (29, 0, 'A');
CREATE MATERIALIZED VIEW w1 AS SELECT length(coalesce('it''s', 'a')) AS c0, coalesce((a.c0 + 6), (a.c0 + a.c0)) AS c1 FROM w0 a WHERE (length('A') = a.c0);
INSERT INTO t1 VALUES (30, -2, 'b'), (31, 4, 'A'), (32, 3, 'a'), (33, 5, 'a'), (34, CAST(NULL AS int), 'it''s');
CREATE MATERIALIZED VIEW w2 AS SELECT count(DISTINCT a.c1) AS c0, max('A') AS c1, sum(5) AS c2 FROM w1 a;
CREATE MATERIALIZED VIEW w3 AS WITH q AS (SELECT max('it''s') AS c0, max(('b' || 'A')) AS c1 FROM w0 a WHERE ('b' NOT IN (SELECT s.v1 FROM t1 s WHERE (s.v0 BETWEEN 4 AND 5)))) SELECT DISTINCT c0, c1 FROM q;
INSERT INTO t1 VALUES (35, 6, 'b'), (36, 1, 'ab'), (37, -1, 'A'), (38, -3, 'a'), (39, 6, 'A'), (40, 4, 'A');
UPDATE t0 SET v0 = t0.v1 WHERE (t0.k >= t0.k);
-- check
