-- length('A') = x AND NOT (1 <> x) was taken for a contradiction.
CREATE TABLE t0 (k int, v0 text);
CREATE TABLE t1 (k int, v0 boolean);
CREATE MATERIALIZED VIEW w0 AS SELECT (CASE WHEN (a.k IS NOT NULL) THEN a.v0 ELSE a.v0 END || a.v0) AS c0, a.k AS c1, a.k AS c2 FROM t0 a;
INSERT INTO t0 VALUES (3, 'a');
CREATE MATERIALIZED VIEW w1 AS SELECT (a.c0 || CAST(a.c2 AS text)) AS c0, ((1 IS NOT NULL) AND (a.c2 < a.c1)) AS c1, ((length('A') NOT IN (SELECT s.k FROM t0 s WHERE s.k = a.c2 AND (NOT (1 <> s.k)))) AND ((a.c1 - a.c2) NOT IN (SELECT s.k FROM t1 s WHERE s.k IS NOT DISTINCT FROM a.c1))) AS c2 FROM w0 a;
INSERT INTO t1 VALUES (-1, TRUE), (3, TRUE), (-1, FALSE), (-2, FALSE), (4, TRUE), (6, FALSE);
INSERT INTO t0 VALUES (CAST(NULL AS int), 'a'), (-2, 'a');
-- check
UPDATE t1 SET v0 = FALSE WHERE (t1.k IS NOT NULL);
DELETE FROM t0 WHERE (t0.v0 <= 'a');
CREATE MATERIALIZED VIEW w2 AS SELECT count((3 * CAST(NULL AS int))) AS c0 FROM w1 a;
INSERT INTO t0 VALUES (1, 'a'), (1, 'a'), (-1, '');
UPDATE t1 SET k = t1.k WHERE ('ab' IS NOT NULL);
CREATE MATERIALIZED VIEW w3 AS SELECT ((a.c0 IN ('a')) AND (5 <> 4)) AS c0, CASE WHEN a.c1 THEN coalesce(a.c0, a.c0) ELSE 'a' END AS c1 FROM w1 a WHERE EXISTS (SELECT 1 FROM w1 s WHERE (4 IS NOT NULL));
UPDATE t1 SET v0 = (t1.k = t1.k) WHERE (t1.v0 OR (6 <= t1.k));
-- restart
-- check
INSERT INTO t1 VALUES (1, TRUE);
-- check
-- check
