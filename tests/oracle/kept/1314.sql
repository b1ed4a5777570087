-- x NOT IN (1) OR x NOT IN (2) was true for a NULL x.
CREATE TABLE t0 (k bigint, v0 int);
INSERT INTO t0 VALUES (-2, -1), (0, -2), (5, 6), (3, 3), (2, -3);
INSERT INTO t0 VALUES (-3, 2);
INSERT INTO t0 VALUES (4, 4), (-1, 4), (2, -3), (4, 0), (-3, -1);
CREATE MATERIALIZED VIEW w0 AS SELECT (upper('b') || coalesce(CAST(NULL AS text), 'ab')) AS c0, CAST(a.k AS text) AS c1 FROM t0 a WHERE (('b' = 'b') OR ('' IS NULL));
CREATE MATERIALIZED VIEW w1 AS SELECT length(coalesce(a.c1, a.c1)) AS c0 FROM w0 a WHERE ((NOT (a.c1 IN ('it''s', 'ab', 'it''s'))) OR (a.c1 NOT IN ('')));
INSERT INTO t0 VALUES (CAST(NULL AS int), -2), (-2, 3);
-- check
INSERT INTO t0 VALUES (0, 0), (CAST(NULL AS int), 5), (5, CAST(NULL AS int)), (-1, CAST(NULL AS int));
DELETE FROM t0 WHERE ('' IS NULL);
INSERT INTO t0 VALUES (4, 5), (-3, 3);
-- check
UPDATE t0 SET k = t0.v0 WHERE ('ab' <= 'it''s');
-- check
-- restart
-- check
INSERT INTO t0 VALUES (-2, -3), (1, 3), (-3, -1), (3, 1);
CREATE MATERIALIZED VIEW w2 AS SELECT a.k AS c0, a.v0 AS c1, rank() OVER (PARTITION BY a.v0 ORDER BY a.k NULLS LAST, a.v0 NULLS LAST) AS r, sum(a.k) OVER (PARTITION BY a.v0) AS s FROM t0 a;
INSERT INTO t0 VALUES (0, 0), (0, 0), (0, CAST(NULL AS int)), (-2, 5), (6, -3);
CREATE MATERIALIZED VIEW w3 AS SELECT upper('A') AS c0, length(CASE WHEN ('ab' IS NOT NULL) THEN '' ELSE 'a' END) AS c1 FROM w1 a;
DELETE FROM t0 WHERE ('it''s' IS DISTINCT FROM '');
-- check
