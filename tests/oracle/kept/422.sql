-- A full join lost the rows of one side under NOT (x OR a.c IS NOT NULL).
CREATE TABLE t0 (k bigint PRIMARY KEY, v0 bigint, v1 boolean, v2 text);
CREATE TABLE t1 (k int, v0 text, v1 int, v2 int);
INSERT INTO t0 VALUES (2, -3, FALSE, ''), (3, -2, TRUE, 'b'), (4, 6, TRUE, '');
INSERT INTO t1 VALUES (0, 'ab', -3, -2), (-3, 'a', -3, 1), (2, 'ab', 0, 1), (6, '', 6, 0);
-- check
-- restart
-- check
CREATE MATERIALIZED VIEW w0 AS WITH q AS (SELECT a.v1 AS c0, b.k AS c1, sum(a.k) FILTER (WHERE ((a.k BETWEEN 1 AND 4) AND (a.v2 < b.v2))) AS c2 FROM t0 a FULL JOIN t0 b ON a.v0 = b.k WHERE (NOT ((b.v0 > b.k) OR (a.v2 IS NOT NULL))) GROUP BY a.v1, b.k) SELECT DISTINCT c0, c1, c2 FROM q;
CREATE MATERIALIZED VIEW w1 AS SELECT ((b.v2 <> b.v2) AND (b.v2 IS NOT NULL)) AS c0, (b.k <= b.v0) AS c1 FROM w0 a FULL JOIN t0 b ON a.c2 = b.v0 WHERE NOT EXISTS (SELECT 1 FROM w0 s WHERE s.c1 = b.k AND (s.c2 IN (2, 4))) UNION ALL SELECT ('a' >= a.v0) AS c0, (b.v0 = b.v0) AS c1 FROM t1 a RIGHT JOIN t1 b ON a.v0 = b.v0 AND (-2 BETWEEN 0 AND 2) LEFT JOIN t1 c ON b.k = c.v2 WHERE (1 IS DISTINCT FROM (c.v1 * 6));
INSERT INTO t1 VALUES (3, 'it''s', -1, -1), (CAST(NULL AS int), 'ab', 4, 4), (6, 'a', -2, -1), (3, 'a', 4, -3);
CREATE MATERIALIZED VIEW w2 AS SELECT a.c0 AS c0, a.c1 AS c1, a.c2 AS c2, dense_rank() OVER (PARTITION BY a.c0 ORDER BY a.c0 NULLS LAST, a.c1 NULLS LAST, a.c2 NULLS LAST) AS r, sum(a.c1) OVER (PARTITION BY a.c0) AS s FROM w0 a;
DELETE FROM t1 WHERE (NOT (-2 = t1.v1));
CREATE MATERIALIZED VIEW w3 AS SELECT a.c1 AS c0, max('a') AS c1, sum(length(CAST(NULL AS text))) AS c2, avg((2 + a.c2)) FILTER (WHERE (a.c2 IS DISTINCT FROM a.c1)) AS c3 FROM w2 a GROUP BY a.c1;
INSERT INTO t0 VALUES (5, 6, CAST(NULL AS boolean), 'b'), (6, 6, FALSE, 'it''s'), (7, 1, TRUE, ''), (8, -3, FALSE, 'ab'), (9, -2, FALSE, 'a');
UPDATE t0 SET v0 = (t0.v0 - t0.v0) WHERE t0.v1;
-- check
INSERT INTO t0 VALUES (10, 2, FALSE, 'A'), (11, -3, TRUE, 'b');
INSERT INTO t1 VALUES (CAST(NULL AS int), 'a', 1, 5), (6, CAST(NULL AS text), 2, 6), (0, 'a', 5, -3), (2, 'A', 0, 6), (3, '', 5, 2);
-- check
DELETE FROM t1 WHERE (t1.v1 >= t1.k);
-- check
