-- A kernel met NULLs of a type it was not bound for and panicked.
CREATE TABLE t0 (k int PRIMARY KEY, v0 boolean, v1 text, v2 bigint);
CREATE TABLE t1 (k bigint, v0 text, v1 text);
CREATE TABLE t2 (k int, v0 boolean, v1 int);
INSERT INTO t2 VALUES (0, FALSE, CAST(NULL AS int)), (-2, TRUE, 5), (-3, TRUE, 2);
INSERT INTO t1 VALUES (CAST(NULL AS int), 'ab', 'a'), (0, '', '');
INSERT INTO t1 VALUES (5, 'a', ''), (-3, 'a', CAST(NULL AS text)), (5, 'A', 'A');
CREATE MATERIALIZED VIEW w0 AS SELECT count(*) AS c0 FROM t1 a RIGHT JOIN t1 b ON a.v1 = b.v1 WHERE ((a.v1 || b.v1) IS NULL);
DELETE FROM t2 WHERE (t2.k > t2.k);
CREATE MATERIALIZED VIEW w1 AS SELECT coalesce(2, a.v2) AS c0, (CASE WHEN (a.v1 IN ('b')) THEN a.k ELSE a.v2 END - (a.k + a.v2)) AS c1 FROM t0 a;
UPDATE t0 SET v2 = (t0.v2 + t0.k) WHERE ((t0.k = 6) AND (t0.k = t0.v2));
INSERT INTO t0 VALUES (2, FALSE, 'A', -1);
-- check
INSERT INTO t0 VALUES (3, TRUE, 'ab', 2), (4, FALSE, 'a', -1), (5, TRUE, '', CAST(NULL AS int)), (6, TRUE, CAST(NULL AS text), 6), (7, TRUE, 'A', 4);
INSERT INTO t2 VALUES (4, TRUE, -1), (2, TRUE, -3), (5, FALSE, 6), (0, FALSE, 6);
INSERT INTO t1 VALUES (2, 'a', 'b'), (-2, 'a', 'it''s'), (0, 'it''s', 'it''s'), (CAST(NULL AS int), 'it''s', 'it''s'), (4, 'A', '');
-- restart
-- check
UPDATE t0 SET v0 = (t0.v1 < t0.v1) WHERE (NOT (t0.v2 IS DISTINCT FROM t0.v2));
DELETE FROM t1 WHERE (4 > CAST(NULL AS int));
-- check
INSERT INTO t1 VALUES (6, '', 'ab');
INSERT INTO t1 VALUES (CAST(NULL AS int), '', 'A'), (2, 'it''s', ''), (-3, CAST(NULL AS text), 'b'), (1, CAST(NULL AS text), 'it''s'), (-3, 'ab', 'b');
DELETE FROM t0 WHERE t0.v0;
CREATE MATERIALIZED VIEW w2 AS SELECT a.c0 AS c0, sum(CASE WHEN ('b' = 'b') THEN a.c0 ELSE a.c0 END) AS c1, avg(length('a')) AS c2 FROM w0 a WHERE ((4 + a.c0) NOT IN (SELECT s.k FROM t1 s WHERE (s.v0 <= s.v0))) GROUP BY a.c0;
DELETE FROM t0 WHERE (t0.v1 IN ('A', ''));
-- check
