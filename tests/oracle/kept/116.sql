-- A row IN a correlated subquery stopped the view.
CREATE TABLE t0 (k int, v0 text);
CREATE TABLE t1 (k bigint PRIMARY KEY, v0 text, v1 int);
INSERT INTO t0 VALUES (CAST(NULL AS int), 'A');
INSERT INTO t1 VALUES (2, CAST(NULL AS text), CAST(NULL AS int)), (3, CAST(NULL AS text), 2), (4, 'it''s', -3), (5, 'a', CAST(NULL AS int)), (6, 'ab', 2);
INSERT INTO t0 VALUES (1, ''), (3, 'ab'), (1, '');
-- check
UPDATE t1 SET v1 = t1.k WHERE ((t1.k IS NOT NULL) AND (4 BETWEEN 6 AND 2));
-- restart
-- check
UPDATE t1 SET v1 = CASE WHEN (t1.v0 IN ('ab', 'A', 'A')) THEN t1.v1 ELSE t1.v1 END WHERE (t1.k BETWEEN 0 AND 6);
CREATE MATERIALIZED VIEW w0 AS SELECT DISTINCT TRUE AS c0 FROM t0 a WHERE ((a.k, a.v0) IN (SELECT s.v1, s.v0 FROM t1 s WHERE s.k = a.k AND (s.v0 IS NOT NULL)));
INSERT INTO t0 VALUES (-2, 'b'), (4, 'ab'), (2, 'it''s'), (5, 'ab'), (4, 'a'), (1, 'ab');
CREATE MATERIALIZED VIEW w1 AS SELECT DISTINCT (a.c0 AND (1 IN (0))) AS c0, (('ab' IS NOT NULL) OR (-1 IN (-3, 0, -2))) AS c1, coalesce('a', CAST(5 AS text)) AS c2 FROM w0 a;
CREATE MATERIALIZED VIEW w2 AS SELECT * FROM (SELECT FALSE AS c0 FROM t0 a) q ORDER BY c0 ASC NULLS LAST LIMIT 2;
INSERT INTO t0 VALUES (-3, ''), (CAST(NULL AS int), ''), (6, 'ab'), (-2, 'a'), (4, CAST(NULL AS text)), (3, 'it''s');
-- check
CREATE MATERIALIZED VIEW w3 AS WITH q AS (SELECT sum(1) AS c0, min(CASE WHEN ('ab' IS NOT NULL) THEN -1 ELSE 4 END) AS c1, min(CASE WHEN (4 >= -3) THEN 5 ELSE 1 END) AS c2 FROM w2 a WHERE ((2 - 3) NOT IN (SELECT CAST(NULL AS int) FROM w1 s WHERE (s.c2 IS NULL)))) SELECT DISTINCT c0, c1, c2 FROM q;
UPDATE t0 SET k = coalesce(t0.k, t0.k) WHERE (t0.k IS NULL);
INSERT INTO t0 VALUES (4, CAST(NULL AS text)), (6, 'A'), (1, 'it''s'), (-1, 'a'), (-2, 'A'), (-2, '');
INSERT INTO t0 VALUES (6, ''), (4, 'A'), (1, 'a');
-- check
-- check
