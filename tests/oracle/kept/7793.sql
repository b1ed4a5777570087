-- A sort by a column that a filter makes constant was refused by DataFusion's own check of the plan.
CREATE TABLE t0 (k bigint PRIMARY KEY, v0 int, v1 text);
CREATE TABLE t1 (k int PRIMARY KEY, v0 text);
CREATE TABLE t2 (k int, v0 boolean, v1 text);
INSERT INTO t2 VALUES (-3, FALSE, 'A'), (-3, TRUE, 'a'), (6, FALSE, '');
CREATE MATERIALIZED VIEW w0 AS SELECT * FROM (SELECT coalesce(a.v1, a.v1) AS c0, a.v0 AS c1, b.v0 AS c2 FROM t0 a LEFT JOIN t2 b ON a.v0 = b.k LEFT JOIN t0 c ON a.k = c.v0 WHERE b.v0) q ORDER BY c0 ASC NULLS LAST, c1 DESC NULLS LAST, c2 ASC NULLS LAST LIMIT 2;
INSERT INTO t1 VALUES (2, 'it''s'), (3, 'ab');
-- check
INSERT INTO t0 VALUES (4, 3, CAST(NULL AS text)), (5, 3, ''), (6, -1, 'it''s');
CREATE MATERIALIZED VIEW w1 AS SELECT TRUE AS c0, coalesce(-3, (a.c1 * -1)) AS c1, (coalesce(6, a.c1) + a.c1) AS c2 FROM w0 a;
INSERT INTO t0 VALUES (7, -3, 'b');
DELETE FROM t1 WHERE (t1.v0 = 'a');
-- check
INSERT INTO t1 VALUES (8, CAST(NULL AS text)), (9, ''), (10, CAST(NULL AS text));
DELETE FROM t0 WHERE (-2 > t0.v0);
-- check
-- restart
-- check
DELETE FROM t0 WHERE ('b' IS NULL);
INSERT INTO t1 VALUES (6, 'b') ON CONFLICT (k) DO UPDATE SET v0 = excluded.v0;
DELETE FROM t1 WHERE (t1.k IS NOT NULL);
-- check
