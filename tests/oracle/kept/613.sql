-- NOT IN a correlated subquery stopped the view.
CREATE TABLE t0 (k bigint PRIMARY KEY, v0 text, v1 int, v2 text);
CREATE TABLE t1 (k bigint PRIMARY KEY, v0 text, v1 text);
CREATE TABLE t2 (k int PRIMARY KEY, v0 int);
INSERT INTO t2 VALUES (2, -1), (3, -3), (4, CAST(NULL AS int));
CREATE MATERIALIZED VIEW w0 AS SELECT DISTINCT CASE WHEN ((a.k IS NULL) OR (a.v0 < -1)) THEN '' ELSE 'it''s' END AS c0, ('a' < 'ab') AS c1, EXISTS (SELECT 1 FROM t0 s WHERE s.k = a.v0 AND (s.v0 IS NOT NULL)) AS c2 FROM t2 a WHERE (CASE WHEN (3 <> a.k) THEN 'it''s' ELSE 'A' END NOT IN (SELECT 'a' FROM t2 s WHERE s.v0 = a.k AND ((s.k IS NOT NULL) AND (s.k = 0))));
INSERT INTO t0 VALUES (5, CAST(NULL AS text), -2, CAST(NULL AS text)), (6, 'A', 3, 'it''s');
INSERT INTO t2 VALUES (7, 2), (8, -1), (9, 1), (10, -1), (11, 3);
-- restart
-- check
UPDATE t1 SET v1 = t1.v1 WHERE ((t1.k <> t1.k) AND (t1.k BETWEEN 2 AND -2));
-- check
UPDATE t0 SET v0 = t0.v0 WHERE (t0.v2 = 'ab');
-- check
INSERT INTO t1 VALUES (12, 'a', ''), (13, CAST(NULL AS text), 'ab'), (14, 'ab', 'a'), (15, 'b', 'b'), (16, '', 'a'), (17, CAST(NULL AS text), CAST(NULL AS text));
UPDATE t2 SET v0 = -1 WHERE (('A' IS NOT NULL) AND (t2.v0 IS NULL));
INSERT INTO t0 VALUES (18, 'ab', 5, '') ON CONFLICT (k) DO UPDATE SET v0 = excluded.v0, v1 = excluded.v1, v2 = excluded.v2;
DELETE FROM t0 WHERE ((t0.v0 IS NULL) OR (t0.k <> t0.v1));
-- check
INSERT INTO t1 VALUES (19, 'A', 'it''s'), (20, 'A', CAST(NULL AS text)), (21, 'A', ''), (22, '', 'ab'), (23, 'A', 'a'), (24, CAST(NULL AS text), 'A');
CREATE MATERIALIZED VIEW w1 AS SELECT a.c0 AS c0 FROM w0 a;
UPDATE t0 SET v0 = t0.v0 WHERE (t0.v0 IN ('it''s', 'b'));
-- check
