-- A scalar subquery without rows over a NOT NULL column stopped the view.
CREATE TABLE t0 (k bigint, v0 bigint, v1 boolean, v2 boolean);
CREATE TABLE t1 (k int PRIMARY KEY, v0 boolean, v1 text);
CREATE TABLE t2 (k int, v0 text);
INSERT INTO t1 VALUES (2, TRUE, 'A'), (3, FALSE, CAST(NULL AS text)), (4, FALSE, 'it''s');
CREATE MATERIALIZED VIEW w0 AS SELECT count(DISTINCT b.v0) AS c0, max(CASE WHEN (b.k IN (2)) THEN a.v0 ELSE a.v0 END) FILTER (WHERE (5 <> b.k)) AS c1, max((a.v0 || a.v0)) AS c2 FROM t2 a LEFT JOIN t0 b ON a.k = b.k WHERE ((a.v0 <= '') OR (NOT b.v1));
CREATE MATERIALIZED VIEW w1 AS SELECT ((a.v1 > c.c2) AND (a.k IS DISTINCT FROM b.v0)) AS c0, CASE WHEN (c.c2 IS NOT NULL) THEN 'ab' ELSE CASE WHEN (a.v1 > a.v1) THEN c.c2 ELSE c.c1 END END AS c1, a.k AS c2 FROM t1 a JOIN t0 b ON a.k = b.v0 LEFT JOIN w0 c ON b.v0 = c.c0 UNION ALL SELECT ((c.k + c.k) <= (SELECT sum(s.c0) FROM w0 s WHERE s.c2 IS NOT DISTINCT FROM b.v1)) AS c0, CASE WHEN (c.k BETWEEN 0 AND 1) THEN upper(b.v1) ELSE 'A' END AS c1, b.k AS c2 FROM t0 a RIGHT JOIN t1 b ON a.k = b.k RIGHT JOIN t0 c ON b.k = c.k WHERE (((b.v1 <= b.v1) AND (a.v0 IS NOT NULL)) OR (c.v0 BETWEEN 6 AND -2));
INSERT INTO t1 VALUES (5, TRUE, CAST(NULL AS text));
CREATE MATERIALIZED VIEW w2 AS SELECT CASE WHEN ((a.c1 > 'ab') OR (a.c1 <= a.c2)) THEN coalesce(a.c2, a.c2) ELSE (a.c2 || a.c1) END AS c0, (SELECT 3 FROM w1 s WHERE ((s.c2 IS DISTINCT FROM s.c2) OR (s.c1 <= s.c1)) ORDER BY 1 NULLS LAST LIMIT 1) AS c1, (a.c0 IS NULL) AS c2 FROM w0 a;
INSERT INTO t2 VALUES (-2, 'A'), (3, 'a'), (4, '');
CREATE MATERIALIZED VIEW w3 AS SELECT (CAST(a.k AS text) || upper('A')) AS c0, upper(a.v0) AS c1, coalesce(a.v0, 'it''s') AS c2 FROM t2 a WHERE (length(a.v0) IS DISTINCT FROM length(a.v0));
INSERT INTO t0 VALUES (2, -2, FALSE, FALSE), (-2, 2, FALSE, FALSE), (-2, CAST(NULL AS int), TRUE, CAST(NULL AS boolean)), (1, -3, FALSE, FALSE);
-- restart
-- check
UPDATE t0 SET v0 = t0.k WHERE ('' < 'b');
INSERT INTO t2 VALUES (-3, 'a'), (4, CAST(NULL AS text)), (5, 'it''s');
-- check
UPDATE t2 SET k = CASE WHEN (t2.k IS NOT NULL) THEN t2.k ELSE t2.k END WHERE (6 < t2.k);
UPDATE t0 SET k = -2 WHERE (t0.k BETWEEN -3 AND 5);
-- check
-- check
