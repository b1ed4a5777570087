-- NOT EXISTS (...) IS NULL negates the whole test.
CREATE TABLE t0 (k int, v0 text);
CREATE TABLE t1 (k int PRIMARY KEY, v0 text, v1 bigint, v2 text);
CREATE TABLE t2 (k bigint, v0 boolean, v1 text);
INSERT INTO t1 VALUES (2, CAST(NULL AS text), 4, 'A'), (3, 'ab', 1, 'A'), (4, 'a', -3, 'A'), (5, 'A', 5, 'a');
INSERT INTO t0 VALUES (0, 'b'), (-2, 'b'), (-1, 'A'), (5, 'A');
INSERT INTO t2 VALUES (6, TRUE, 'b'), (2, TRUE, 'ab'), (6, TRUE, 'ab'), (-3, FALSE, 'a');
UPDATE t2 SET k = (t2.k + -2) WHERE ((t2.v1 >= 'b') AND t2.v0);
INSERT INTO t2 VALUES (3, FALSE, 'ab'), (6, CAST(NULL AS boolean), 'A'), (0, TRUE, 'A');
CREATE MATERIALIZED VIEW w0 AS SELECT a.v0 AS c0, avg(a.k) AS c1, avg((CAST(NULL AS int) * -3)) AS c2, max(CASE WHEN (a.k >= a.k) THEN a.v0 ELSE 'b' END) AS c3 FROM t0 a WHERE ('ab' IS NOT NULL) GROUP BY a.v0;
INSERT INTO t2 VALUES (4, FALSE, 'it''s'), (5, CAST(NULL AS boolean), 'A'), (3, FALSE, 'A');
UPDATE t2 SET v1 = t2.v1 WHERE (t2.k IS NULL);
-- check
UPDATE t2 SET k = CASE WHEN (t2.v1 IN ('ab', '', 'ab')) THEN t2.k ELSE t2.k END WHERE (NOT (t2.k < t2.k));
-- check
-- restart
-- check
INSERT INTO t1 VALUES (6, 'a', 0, 'a'), (7, CAST(NULL AS text), 4, 'a'), (8, CAST(NULL AS text), CAST(NULL AS int), '');
UPDATE t2 SET v1 = CASE WHEN (t2.k <> 0) THEN CAST(NULL AS text) ELSE t2.v1 END WHERE (NOT (t2.k NOT IN (1, -2)));
INSERT INTO t2 VALUES (6, FALSE, ''), (3, TRUE, 'A'), (2, FALSE, 'ab'), (-1, FALSE, '');
CREATE MATERIALIZED VIEW w1 AS SELECT upper((a.v0 || a.v0)) AS c0, -2 AS c1 FROM t0 a WHERE (NOT EXISTS (SELECT 1 FROM w0 s WHERE (s.c0 <= s.c3)) IS NULL) UNION ALL SELECT CAST(6 AS text) AS c0, -2 AS c1 FROM w0 a JOIN w0 b ON ((a.c3 = 'A') OR (b.c3 IS NOT NULL)) WHERE (length(b.c3) >= (4 + 6));
INSERT INTO t1 VALUES (6, 'a', 0, 'a') ON CONFLICT (k) DO UPDATE SET v0 = excluded.v0, v1 = excluded.v1, v2 = excluded.v2;
DELETE FROM t0 WHERE ('A' <> t0.v0);
UPDATE t1 SET v2 = CASE WHEN (t1.k = 5) THEN t1.v0 ELSE t1.v2 END WHERE (t1.v2 <> t1.v0);
INSERT INTO t0 VALUES (-3, ''), (1, 'A'), (CAST(NULL AS int), 'it''s');
-- check
-- check
