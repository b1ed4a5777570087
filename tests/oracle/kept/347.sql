-- sum(a) beside count(DISTINCT b) stopped the view.
CREATE TABLE t0 (k int, v0 text);
CREATE TABLE t1 (k bigint, v0 text);
CREATE TABLE t2 (k int, v0 int, v1 int, v2 boolean);
INSERT INTO t0 VALUES (5, CAST(NULL AS text)), (4, 'it''s');
-- restart
-- check
CREATE MATERIALIZED VIEW w0 AS SELECT a.v2 AS c0, sum((6 - a.k)) AS c1, count(DISTINCT a.v0) AS c2 FROM t2 a GROUP BY a.v2;
INSERT INTO t1 VALUES (2, ''), (-1, 'it''s'), (2, 'it''s');
CREATE MATERIALIZED VIEW w1 AS SELECT ('a' IS NOT NULL) AS c0, c.v1 AS c1 FROM w0 a RIGHT JOIN w0 b ON a.c1 = b.c1 AND (b.c1 >= b.c2) JOIN t2 c ON a.c2 = c.v1 AND (-1 <= c.v1) WHERE (c.v0 IS NOT NULL);
INSERT INTO t2 VALUES (1, 5, -2, TRUE), (-3, 2, 2, TRUE), (CAST(NULL AS int), 3, 5, CAST(NULL AS boolean));
INSERT INTO t2 VALUES (5, 2, 4, FALSE), (CAST(NULL AS int), 3, 2, TRUE), (0, -2, -2, FALSE), (3, 6, -1, TRUE);
DELETE FROM t0 WHERE (t0.k <> t0.k);
CREATE MATERIALIZED VIEW w2 AS SELECT a.k AS c0, a.v0 AS c1, rank() OVER (PARTITION BY a.k ORDER BY a.k NULLS LAST, a.v0 NULLS LAST) AS r, sum(a.k) OVER (PARTITION BY a.k) AS s FROM t1 a;
INSERT INTO t1 VALUES (2, 'A'), (2, 'A'), (-2, 'a'), (-3, 'a');
DELETE FROM t0 WHERE (NOT (t0.v0 <= t0.v0));
-- check
UPDATE t0 SET k = (t0.k - t0.k) WHERE (NOT (t0.v0 IS DISTINCT FROM t0.v0));
DELETE FROM t0 WHERE (t0.k IS DISTINCT FROM t0.k);
-- check
-- check
