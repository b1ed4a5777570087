-- The first row of a view with a constant among the columns it is sorted by was another one.
CREATE TABLE t0 (k int PRIMARY KEY, v0 text, v1 int);
CREATE TABLE t1 (k bigint, v0 text, v1 int);
CREATE MATERIALIZED VIEW w0 AS SELECT a.v0 AS c0, min(a.v1) AS c1, sum((a.v1 - a.v1)) AS c2 FROM t1 a GROUP BY a.v0;
INSERT INTO t0 VALUES (2, 'ab', 4), (3, 'a', -1), (4, 'it''s', -1), (5, 'ab', 0), (6, 'a', 5), (7, 'A', 2);
CREATE MATERIALIZED VIEW w1 AS SELECT 'b' AS c0 FROM t0 a WHERE (((a.v1 <> 0) OR (a.k IS NULL)) AND (a.v0 IS NOT NULL)) EXCEPT SELECT a.c0 AS c0 FROM w0 a WHERE (coalesce(a.c1, a.c1) <= a.c2);
INSERT INTO t0 VALUES (8, '', 6), (9, 'ab', 1), (10, 'ab', 6), (11, '', -3);
INSERT INTO t1 VALUES (-3, 'b', 3), (3, 'it''s', -3), (5, 'it''s', 5), (1, 'ab', 3);
-- check
DELETE FROM t0 WHERE (t0.v1 BETWEEN -1 AND -2);
UPDATE t1 SET v0 = coalesce('', t1.v0) WHERE ('b' IS DISTINCT FROM t1.v0);
-- check
INSERT INTO t1 VALUES (2, '', 2), (CAST(NULL AS int), 'A', 3), (-2, '', CAST(NULL AS int));
INSERT INTO t1 VALUES (4, 'b', CAST(NULL AS int)), (1, 'a', CAST(NULL AS int));
INSERT INTO t1 VALUES (CAST(NULL AS int), 'ab', 5), (3, '', -1);
-- check
INSERT INTO t1 VALUES (1, '', 4), (6, 'b', 3), (6, 'a', CAST(NULL AS int)), (5, 'ab', 5), (-3, 'ab', -2), (5, 'it''s', 2);
INSERT INTO t0 VALUES (12, '', 5), (13, 'a', 5), (14, '', -1), (15, 'A', 4);
DELETE FROM t0 WHERE (t0.v0 <> t0.v0);
INSERT INTO t1 VALUES (1, 'b', CAST(NULL AS int)), (-1, 'it''s', -2), (2, 'a', 6), (4, 'it''s', 1), (CAST(NULL AS int), 'A', 6);
CREATE MATERIALIZED VIEW w2 AS SELECT * FROM (SELECT (1 * -3) AS c0, (NOT (NOT EXISTS (SELECT 1 FROM w0 s WHERE s.c1 = a.k AND (s.c1 IS DISTINCT FROM s.c2)) AND (a.k IS NOT NULL))) AS c1, (a.k - a.v1) AS c2 FROM t0 a) q ORDER BY c0 DESC NULLS LAST, c1 ASC NULLS LAST, c2 ASC NULLS LAST LIMIT 1;
UPDATE t0 SET v1 = coalesce(t0.k, 3) WHERE (t0.k = t0.v1);
-- restart
-- check
INSERT INTO t1 VALUES (2, CAST(NULL AS text), 2), (-3, 'a', 3), (4, '', 0), (5, '', 1), (3, 'ab', CAST(NULL AS int)), (3, 'ab', 2);
-- check
