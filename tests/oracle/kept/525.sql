-- A condition on the NULL side of an outer join was pushed to the other side.
CREATE TABLE t0 (k int, v0 text, v1 text, v2 text);
CREATE TABLE t1 (k bigint PRIMARY KEY, v0 text);
CREATE MATERIALIZED VIEW w0 AS SELECT (a.k - (a.k * 6)) AS c0 FROM t0 a WHERE (a.v1 >= a.v1);
CREATE MATERIALIZED VIEW w1 AS SELECT (coalesce(c.c0, c.c0) + 3) AS c0, coalesce('ab', coalesce('a', '')) AS c1 FROM w0 a FULL JOIN w0 b ON ('a' > CAST(NULL AS text)) RIGHT JOIN w0 c ON a.c0 = c.c0 WHERE (((a.c0 = -2) OR (b.c0 < 3)) AND (NOT (c.c0 IS NULL))) UNION ALL SELECT length(a.v0) AS c0, a.v0 AS c1 FROM t0 a JOIN w0 b ON a.k = b.c0;
INSERT INTO t0 VALUES (5, 'b', 'it''s', 'ab'), (4, 'it''s', 'A', 'ab'), (-2, 'A', CAST(NULL AS text), CAST(NULL AS text)), (4, 'A', 'A', 'it''s'), (5, CAST(NULL AS text), 'A', 'a'), (-2, 'b', 'it''s', 'ab');
INSERT INTO t0 VALUES (6, 'it''s', 'A', 'it''s'), (-1, '', 'b', 'b'), (1, 'a', 'b', ''), (CAST(NULL AS int), '', '', 'b'), (-3, CAST(NULL AS text), CAST(NULL AS text), '');
INSERT INTO t1 VALUES (2, 'a'), (3, 'it''s'), (4, 'b'), (5, ''), (6, CAST(NULL AS text)), (7, '');
-- check
INSERT INTO t1 VALUES (8, 'b');
CREATE MATERIALIZED VIEW w2 AS SELECT CASE WHEN ((a.k BETWEEN -3 AND -2) OR (c.v0 IS NULL)) THEN CAST(-3 AS text) ELSE c.v0 END AS c0, coalesce(CASE WHEN (a.k > b.c0) THEN -2 ELSE 3 END, (1 - 6)) AS c1, TRUE AS c2 FROM t1 a LEFT JOIN w0 b ON ((a.v0 <> a.v0) OR (b.c0 BETWEEN CAST(NULL AS int) AND 6)) CROSS JOIN t1 c;
INSERT INTO t1 VALUES (9, 'ab');
-- restart
-- check
DELETE FROM t1 WHERE (6 <= 6);
INSERT INTO t1 VALUES (10, 'a');
UPDATE t1 SET v0 = t1.v0 WHERE (t1.k >= t1.k);
-- check
CREATE MATERIALIZED VIEW w3 AS SELECT sum(a.c0) AS c0 FROM w0 a WHERE (NOT ('b' < 'A'));
INSERT INTO t0 VALUES (CAST(NULL AS int), 'it''s', 'it''s', 'A'), (CAST(NULL AS int), 'A', 'it''s', 'it''s'), (2, 'a', 'it''s', 'A');
DELETE FROM t0 WHERE (t0.k = -1);
-- check
INSERT INTO t0 VALUES (3, 'a', 'A', 'A'), (6, '', 'b', 'a'), (2, 'a', 'a', 'a'), (4, 'b', CAST(NULL AS text), 'b'), (5, 'a', '', 'it''s'), (2, 'it''s', 'b', 'b');
-- check
