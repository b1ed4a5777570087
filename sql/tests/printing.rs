//! Each statement prints in one canonical form, and that form parses back to an equal statement.
//!
//! Invariant: the right column of every table is a fixed point of parsing and printing.

use thalweg_sql::parse;

fn print(text: &str) -> String {
    let parsed = parse(text).unwrap_or_else(|e| panic!("{text}\n{e:?}"));
    assert_eq!(parsed.len(), 1, "{text}");
    parsed[0].statement.to_string()
}

/// The canonical form of `text` is `printed`, which is its own canonical form and an equal statement.
#[track_caller]
fn check(text: &str, printed: &str) {
    assert_eq!(print(text), printed, "printing {text}");
    let (original, again) = (parse(text).unwrap(), parse(printed).unwrap());
    assert_eq!(
        original[0].statement, again[0].statement,
        "parsing back {printed}"
    );
    assert_eq!(print(printed), printed, "printing again {printed}");
}

#[test]
fn create_source() {
    check(
        "create source Clicks (
            user_id bigint, channel int, show_id int, action text, ts timestamptz,
            WATERMARK FOR ts AS ts - INTERVAL '10' SECOND,
            CONSTRAINT known_action CHECK (action IN ('start', 'stop', 'switch')) ON VIOLATION DEAD_LETTER
        ) INCLUDE KEY AS k INCLUDE PARTITION AS p INCLUDE OFFSET AS o INCLUDE TIMESTAMP AS kts INCLUDE HEADER 'trace' AS trace
        WITH (connector = 'kafka', connection = k, topic = 'clicks',       -- or a server
              scan.startup.mode = 'earliest', Watermark.Idle.Timeout = '30s')
        FORMAT PLAIN ENCODE JSON",
        "CREATE SOURCE clicks (user_id BIGINT, channel INT, show_id INT, action TEXT, ts TIMESTAMPTZ, \
         WATERMARK FOR ts AS ts - INTERVAL '10' SECOND, \
         CONSTRAINT known_action CHECK (action IN ('start', 'stop', 'switch')) ON VIOLATION DEAD_LETTER) \
         INCLUDE KEY AS k INCLUDE PARTITION AS p INCLUDE OFFSET AS o INCLUDE TIMESTAMP AS kts INCLUDE HEADER 'trace' AS trace \
         WITH (connector = 'kafka', connection = k, topic = 'clicks', scan.startup.mode = 'earliest', \
         watermark.idle.timeout = '30s') FORMAT PLAIN ENCODE JSON",
    );
    check(
        "CREATE SOURCE IF NOT EXISTS public.g (\"Id\" int, c int AS proctime()) WITH (connector = datagen, rows = 10, seed = -1, x = true, fields.\"Id\".kind = 'sequence')",
        "CREATE SOURCE IF NOT EXISTS public.g (\"Id\" INT, c INT GENERATED ALWAYS AS (proctime()) STORED) WITH (connector = datagen, rows = 10, seed = -1, x = true, 'fields.Id.kind' = 'sequence')",
    );
    check(
        "CREATE SOURCE s WITH (connector = 'kafka', password = SECRET pw) FORMAT upsert ENCODE avro (connection = sr, schema.registry = 'u') KEY ENCODE text",
        "CREATE SOURCE s WITH (connector = 'kafka', password = SECRET pw) FORMAT UPSERT ENCODE AVRO (connection = sr, schema.registry = 'u') KEY ENCODE TEXT",
    );
    check(
        "CREATE SOURCE s (a int) INCLUDE headers INCLUDE payload AS \"Raw\"",
        "CREATE SOURCE s (a INT) INCLUDE HEADERS INCLUDE PAYLOAD AS \"Raw\"",
    );
}

#[test]
fn create_table() {
    check(
        "CREATE TABLE t (a int PRIMARY KEY, b text NOT NULL DEFAULT 'it''s')",
        "CREATE TABLE t (a INT, b TEXT DEFAULT 'it''s' NOT NULL, PRIMARY KEY (a))",
    );
    check(
        "CREATE TABLE t (a int, b int, CONSTRAINT pk PRIMARY KEY (a, b))",
        "CREATE TABLE t (a INT, b INT, CONSTRAINT pk PRIMARY KEY (a, b))",
    );
    check(
        "CREATE TABLE t (a int CONSTRAINT pos CHECK (a > 0) NULL, b int DEFAULT 1 + 2 NOT NULL)",
        "CREATE TABLE t (a INT, b INT DEFAULT (1 + 2) NOT NULL, CONSTRAINT pos CHECK (a > 0))",
    );
    check(
        "CREATE TABLE t (a int, b int AS a + 1 NOT NULL, c boolean AS a > 1 AND a < 3, d int GENERATED ALWAYS AS (a * 2) STORED)",
        "CREATE TABLE t (a INT, b INT GENERATED ALWAYS AS (a + 1) STORED NOT NULL, c BOOLEAN GENERATED ALWAYS AS (a > 1 AND a < 3) STORED, d INT GENERATED ALWAYS AS (a * 2) STORED)",
    );
    check(
        "CREATE TABLE t (a int, p AS a IS NOT NULL)",
        "CREATE TABLE t (a INT, p AS (a IS NOT NULL))",
    );
    check(
        "CREATE TABLE t AS SELECT 1 AS a",
        "CREATE TABLE t AS SELECT 1 AS a",
    );
    check(
        "CREATE TABLE customers (PRIMARY KEY (id)) WITH (connector = 'kafka') FORMAT DEBEZIUM ENCODE AVRO (connection = sr)",
        "CREATE TABLE customers (PRIMARY KEY (id)) WITH (connector = 'kafka') FORMAT DEBEZIUM ENCODE AVRO (connection = sr)",
    );
    check(
        "CREATE TABLE profiles (rowkey text PRIMARY KEY, name text OPTIONS (column = 'info:name'), stats STRUCT<views bigint, last timestamptz>) WITH (connector = 'hbase', create = 'if-missing')",
        "CREATE TABLE profiles (rowkey TEXT, name TEXT OPTIONS (column = 'info:name'), stats STRUCT<views BIGINT, last TIMESTAMPTZ>, PRIMARY KEY (rowkey)) WITH (connector = 'hbase', create = 'if-missing')",
    );
    check(
        "CREATE TABLE types (a smallint, b numeric(10, 2), c varchar(5), d char(3), e timestamp with time zone, f double precision, g int[], h uuid, i jsonb, j interval, k \"char\", l timestamp(3), m bytea, n date, o time, p real, q text[][], r decimal)",
        "CREATE TABLE types (a SMALLINT, b NUMERIC(10,2), c VARCHAR(5), d CHAR(3), e TIMESTAMP WITH TIME ZONE, f DOUBLE PRECISION, g INT[], h UUID, i JSONB, j INTERVAL, k \"char\", l TIMESTAMP(3), m BYTEA, n DATE, o TIME, p REAL, q TEXT[][], r DECIMAL)",
    );
    check(
        "CREATE TABLE n (a STRUCT<b STRUCT<c int, d STRUCT<e int>>>, f STRUCT<g text>[], h STRUCT<i int[], j numeric(1, 2)>)",
        "CREATE TABLE n (a STRUCT<b STRUCT<c INT, d STRUCT<e INT>>>, f STRUCT<g TEXT>[], h STRUCT<i INT[], j NUMERIC(1,2)>)",
    );
    check(
        "CREATE TABLE \"T\" (\"a\" int, \"select\" int, größe int)",
        "CREATE TABLE \"T\" (a INT, \"select\" INT, größe INT)",
    );
}

#[test]
fn create_archives() {
    for text in [
        "CREATE ARCHIVE a (id BIGINT NOT NULL, ts TIMESTAMPTZ) WITH (connector = 'file', path = './lake')",
        "CREATE ARCHIVE IF NOT EXISTS s.a (region TEXT, ts TIMESTAMPTZ) PARTITION BY (ts::DATE AS dt, region) WITH (connector = 'hdfs', path = 'hdfs://ns1/a') ENCODE PARQUET (compression = 'zstd', row.group.rows = 1000)",
        "CREATE ARCHIVE a FROM clicks PARTITION BY (dt) WITH (connector = 'file', path = './lake') ENCODE PARQUET",
        "CREATE ARCHIVE a ()",
        "DROP ARCHIVE IF EXISTS a, b CASCADE",
        "SHOW ARCHIVES",
        "SHOW CREATE ARCHIVE a",
    ] {
        check(text, text);
    }
    check(
        "create archive a (id bigint) partition by ((id % 10) as bucket) with (connector = 'file')",
        "CREATE ARCHIVE a (id BIGINT) PARTITION BY (id % 10 AS bucket) WITH (connector = 'file')",
    );
}

#[test]
fn create_views_and_sinks() {
    check(
        "CREATE VIEW v (x, \"Y\") AS SELECT a, b FROM t",
        "CREATE VIEW v (x, \"Y\") AS SELECT a, b FROM t",
    );
    check(
        "CREATE OR REPLACE VIEW v AS VALUES (1), (2)",
        "CREATE OR REPLACE VIEW v AS VALUES (1), (2)",
    );
    check(
        "CREATE MATERIALIZED VIEW IF NOT EXISTS m WITH (state_ttl = '1 h') AS SELECT window_start, count(DISTINCT user_id) AS users FROM TUMBLE(clicks, ts, INTERVAL '1' MINUTE) GROUP BY window_start EMIT ON WINDOW CLOSE",
        "CREATE MATERIALIZED VIEW IF NOT EXISTS m WITH (state_ttl = '1 h') AS SELECT window_start, count(DISTINCT user_id) AS users FROM tumble(clicks, ts, INTERVAL '1' MINUTE) GROUP BY window_start EMIT ON WINDOW CLOSE",
    );
    check(
        "CREATE MATERIALIZED VIEW m AS SELECT 1 FROM t emit final",
        "CREATE MATERIALIZED VIEW m AS SELECT 1 FROM t EMIT ON WINDOW CLOSE",
    );
    check(
        "CREATE MATERIALIZED VIEW m AS SELECT 1 FROM t EMIT CHANGES",
        "CREATE MATERIALIZED VIEW m AS SELECT 1 FROM t",
    );
    check(
        "CREATE SINK o FROM v WITH (connector = 'kafka') FORMAT UPSERT ENCODE JSON",
        "CREATE SINK o FROM v WITH (connector = 'kafka') FORMAT UPSERT ENCODE JSON",
    );
    check(
        "CREATE SINK raw AS SELECT user_id, action FROM clicks WITH (connector = 'kafka', topic = 'raw') FORMAT PLAIN ENCODE JSON",
        "CREATE SINK raw AS SELECT user_id, action FROM clicks WITH (connector = 'kafka', topic = 'raw') FORMAT PLAIN ENCODE JSON",
    );
    check(
        "CREATE SINK s AS WITH x AS (SELECT 1 AS a) SELECT a FROM x WITH (connector = 'blackhole')",
        "CREATE SINK s AS WITH x AS (SELECT 1 AS a) SELECT a FROM x WITH (connector = 'blackhole')",
    );
    check(
        "CREATE SINK s AS SELECT 0 AS format, emit FROM encode AS t JOIN emit ON true FORMAT PLAIN ENCODE JSON",
        "CREATE SINK s AS SELECT 0 AS format, emit FROM encode AS t JOIN emit ON true FORMAT PLAIN ENCODE JSON",
    );
    check(
        "CREATE SINK h INTO user_day AS SELECT a, count(*) AS clicks FROM clicks GROUP BY 1",
        "CREATE SINK h INTO user_day AS SELECT a, count(*) AS clicks FROM clicks GROUP BY 1",
    );
    check(
        "CREATE SCHEMA IF NOT EXISTS \"My\"",
        "CREATE SCHEMA IF NOT EXISTS \"My\"",
    );
}

#[test]
fn drop_show_explain_and_the_rest() {
    check(
        "DROP TABLE IF EXISTS a, b.c CASCADE",
        "DROP TABLE IF EXISTS a, b.c CASCADE",
    );
    check(
        "drop materialized view m restrict",
        "DROP MATERIALIZED VIEW m",
    );
    check("SHOW TABLES", "SHOW TABLES");
    check(
        "SHOW MATERIALIZED VIEWS IN public LIKE 'a%'",
        "SHOW MATERIALIZED VIEWS FROM public LIKE 'a%'",
    );
    check("SHOW JOBS", "SHOW JOBS");
    check("SHOW DATABASES", "SHOW DATABASES");
    check("SHOW COLUMNS IN x", "SHOW COLUMNS FROM x");
    check(
        "SHOW CREATE MATERIALIZED VIEW a.m",
        "SHOW CREATE MATERIALIZED VIEW a.m",
    );
    check("DESC x", "DESCRIBE x");
    check("EXPLAIN SELECT 1", "EXPLAIN SELECT 1");
    check(
        "EXPLAIN (ANALYZE, VERBOSE false, FORMAT TEXT, COSTS off) SELECT 1",
        "EXPLAIN ANALYZE SELECT 1",
    );
    check("EXPLAIN (SELECT 1)", "EXPLAIN (SELECT 1)");
    check(
        "EXPLAIN STREAM VERBOSE CREATE MATERIALIZED VIEW m AS SELECT 1",
        "EXPLAIN STREAM VERBOSE CREATE MATERIALIZED VIEW m AS SELECT 1",
    );
    check("FLUSH", "FLUSH");
    check("WAIT FOR a.b", "WAIT FOR a.b");
    check("alter sink a.b resume", "ALTER SINK a.b RESUME");
    check("backup to '/mnt/it''s'", "BACKUP TO '/mnt/it''s'");
    check("alter archive a resume", "ALTER ARCHIVE a RESUME");
    check("alter source \"pause\" pause", "ALTER SOURCE pause PAUSE");
    check(
        "alter materialized view a.b.c pause",
        "ALTER MATERIALIZED VIEW a.b.c PAUSE",
    );
    check("vacuum archive a.b", "VACUUM ARCHIVE a.b");
}

#[test]
fn session_statements() {
    for (text, printed) in [
        ("SET a = 1", "SET a TO '1'"),
        (
            "SET SESSION search_path TO a, \"B\", 'c'",
            "SET search_path TO 'a', 'B', 'c'",
        ),
        ("SET LOCAL x.y = off", "SET LOCAL x.y TO 'off'"),
        (
            "SET extra_float_digits = -3",
            "SET extra_float_digits TO '-3'",
        ),
        ("SET DateStyle TO DEFAULT", "SET datestyle TO DEFAULT"),
        (
            "SET TIME ZONE 'Europe/Berlin'",
            "SET timezone TO 'Europe/Berlin'",
        ),
        (
            "SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE",
            "SET timezone TO '-08:00'",
        ),
        ("SET TIME ZONE LOCAL", "SET timezone TO DEFAULT"),
        ("SET TIME ZONE -7", "SET timezone TO '-7'"),
        ("SET NAMES 'UTF8'", "SET client_encoding TO 'UTF8'"),
        ("SET SCHEMA 'a'", "SET search_path TO 'a'"),
        (
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        ),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        ),
        ("RESET x", "RESET x"),
        ("RESET ALL", "RESET ALL"),
        ("SHOW search_path", "SHOW search_path"),
        ("SHOW ALL", "SHOW ALL"),
        (
            "SHOW TRANSACTION ISOLATION LEVEL",
            "SHOW transaction_isolation",
        ),
        ("SHOW TIME ZONE", "SHOW timezone"),
        ("BEGIN", "BEGIN"),
        (
            "BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY",
            "BEGIN READ ONLY",
        ),
        ("START TRANSACTION READ WRITE", "BEGIN"),
        ("COMMIT WORK", "COMMIT"),
        ("END", "COMMIT"),
        ("ABORT", "ROLLBACK"),
        ("ROLLBACK TRANSACTION", "ROLLBACK"),
        ("SAVEPOINT s", "SAVEPOINT s"),
        ("RELEASE s", "RELEASE SAVEPOINT s"),
        ("ROLLBACK TO SAVEPOINT \"S\"", "ROLLBACK TO SAVEPOINT \"S\""),
        ("DISCARD TEMPORARY", "DISCARD TEMP"),
        ("DEALLOCATE PREPARE p", "DEALLOCATE p"),
        ("DEALLOCATE ALL", "DEALLOCATE ALL"),
        ("CLOSE c", "CLOSE c"),
        ("LISTEN l", "LISTEN l"),
        ("UNLISTEN *", "UNLISTEN *"),
    ] {
        check(text, printed);
    }
}

#[test]
fn queries() {
    for text in [
        "SELECT 1",
        "SELECT DISTINCT ON (a) a, b FROM t ORDER BY a, b DESC NULLS LAST LIMIT 10 OFFSET 5",
        "SELECT a::TEXT, b -> 'x', b ->> 'y', c[1], ARRAY[1, 2], row(1, 2) FROM t",
        "SELECT count(*) FILTER (WHERE a > 1) FROM t GROUP BY GROUPING SETS ((a), ()) HAVING count(*) > 1",
        "SELECT sum(a) OVER (PARTITION BY b ORDER BY c ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM t",
        "SELECT * FROM a LEFT JOIN b FOR SYSTEM_TIME AS OF proctime() AS p ON p.x = a.x",
        "SELECT * FROM a, LATERAL (SELECT * FROM b WHERE b.x = a.x LIMIT 1) AS l",
        "SELECT * FROM t WHERE a IS NOT DISTINCT FROM $1 AND b = ANY($2) AND c NOT IN (SELECT x FROM y)",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT n FROM r",
        "VALUES (1, 'a'), (2, 'it''s')",
        "SELECT 'a''''b', '\\''', \"Weird \"\"name\" FROM \"T\"",
        "SELECT CASE WHEN a THEN 1 ELSE 2 END, CAST(a AS NUMERIC(10,2)), EXTRACT(YEAR FROM ts), a AT TIME ZONE 'UTC'",
        "SELECT * FROM UNNEST(ARRAY[1, 2]) WITH ORDINALITY AS u (a, o)",
        "SELECT * FROM generate_series(1, 3) AS g (x)",
        "SELECT top, sort, format, output, start, at, before, sample FROM pivot AS qualify",
        "SELECT INTERVAL '1 day', DATE '2020-01-01', TIMESTAMP '2020-01-01 00:00:00'",
        "SELECT t.end, t.order, t.from AS select FROM t",
        "SELECT a FROM t UNION ALL SELECT b FROM u EXCEPT SELECT c FROM v",
    ] {
        check(text, text);
    }
    check(
        "table Pg_Class order by 1",
        "SELECT * FROM pg_class ORDER BY 1",
    );
    check(
        "SELECT E'a\\'b\\n', $$it's$$, $q$x$q$, U&'\\0041', N'n', 'a'\n 'b'",
        "SELECT 'a''b\n', 'it''s', 'x', 'A', 'n', 'ab'",
    );
    check(
        "SELECT /* a /* nested */ b */ A AS \"B\" -- end\n FROM T",
        "SELECT a AS \"B\" FROM t",
    );
}

#[test]
fn dml() {
    for text in [
        "INSERT INTO t VALUES (1, 2)",
        "INSERT INTO t DEFAULT VALUES",
        "INSERT INTO s.t (a, b) SELECT 1, 2 ON CONFLICT(a) DO UPDATE SET b = excluded.b WHERE t.b > 1 RETURNING a, b AS x",
        "INSERT INTO t (a) VALUES (1) ON CONFLICT DO NOTHING",
        "UPDATE t SET a = 1, b = b + 1 WHERE c = 'x''y' RETURNING *",
        "DELETE FROM t WHERE a IN (1, 2) RETURNING a",
    ] {
        check(text, text);
    }
    check(
        "WITH x AS (SELECT 1 AS a) INSERT INTO t SELECT a FROM x",
        "INSERT INTO t WITH x AS (SELECT 1 AS a) SELECT a FROM x",
    );
}
