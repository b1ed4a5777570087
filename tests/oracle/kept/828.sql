-- A scalar subquery without rows over a NOT NULL column was not NULL.
CREATE TABLE t0 (k int PRIMARY KEY, v0 boolean, v1 boolean, v2 text);
CREATE TABLE t1 (k bigint PRIMARY KEY, v0 text, v1 text, v2 text);
INSERT INTO t0 VALUES (2, FALSE, FALSE, CAST(NULL AS text)), (3, TRUE, FALSE, 'it''s'), (4, TRUE, TRUE, 'it''s'), (5, FALSE, FALSE, ''), (6, FALSE, TRUE, 'b'), (7, TRUE, TRUE, '');
INSERT INTO t0 VALUES (8, FALSE, FALSE, 'a'), (9, TRUE, FALSE, 'A'), (10, TRUE, TRUE, 'b'), (11, TRUE, TRUE, 'it''s'), (12, TRUE, TRUE, 'b'), (13, TRUE, TRUE, 'ab');
-- check
INSERT INTO t0 VALUES (14, CAST(NULL AS boolean), FALSE, 'A'), (15, FALSE, TRUE, 'a'), (16, TRUE, FALSE, 'ab');
UPDATE t1 SET v2 = coalesce(t1.v0, CAST(NULL AS text)) WHERE (t1.k IS NOT NULL);
CREATE MATERIALIZED VIEW w0 AS SELECT length(a.v2) AS c0, a.k AS c1, (SELECT min(s.k) FROM t0 s WHERE s.v2 IS NOT DISTINCT FROM a.v2) AS c2 FROM t0 a WHERE (a.v2 NOT IN ('it''s')) UNION SELECT (-1 * 6) AS c0, (coalesce(a.k, a.k) - 4) AS c1, CASE WHEN (a.v2 >= a.v0) THEN (a.k + -2) ELSE a.k END AS c2 FROM t1 a WHERE ((CASE WHEN ('a' < 'ab') THEN a.k ELSE a.k END <= (SELECT s.k FROM t1 s WHERE (s.v2 < s.v2) ORDER BY 1 NULLS LAST LIMIT 1)) IS NULL);
CREATE MATERIALIZED VIEW w1 AS SELECT a.c2 AS c0, b.v1 AS c1, sum((b.k - a.c2)) AS c2, sum(length(b.v2)) AS c3 FROM w0 a CROSS JOIN t0 b GROUP BY a.c2, b.v1;
INSERT INTO t1 VALUES (17, 'it''s', 'A', 'it''s'), (18, 'A', 'b', 'b');
UPDATE t0 SET v2 = CASE WHEN (t0.v2 IS DISTINCT FROM t0.v2) THEN t0.v2 ELSE t0.v2 END WHERE t0.v0;
UPDATE t0 SET v0 = t0.v1 WHERE (NOT (t0.v2 IS NOT NULL));
-- restart
-- check
CREATE MATERIALIZED VIEW w2 AS SELECT CASE WHEN (a.k < a.k) THEN a.k ELSE a.k END AS c0, CAST(a.k AS text) AS c1, (CASE WHEN a.v0 THEN 'ab' ELSE a.v2 END || a.v2) AS c2 FROM t0 a;
INSERT INTO t1 VALUES (19, 'it''s', 'it''s', 'A') ON CONFLICT (k) DO UPDATE SET v0 = excluded.v0, v1 = excluded.v1, v2 = excluded.v2;
-- check
INSERT INTO t0 VALUES (20, TRUE, FALSE, 'A'), (21, TRUE, TRUE, CAST(NULL AS text));
DELETE FROM t0 WHERE ((t0.v2 NOT IN ('', 'a', 'b')) AND (t0.k IS DISTINCT FROM t0.k));
-- check
