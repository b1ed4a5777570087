#!/usr/bin/env python3
"""Writes pg15_schema.txt and pg15_rows.txt from a running PostgreSQL 15: the columns of every system relation and the rows
of those that are the same in every database. Run by hand after a change of the reported version; builds never need it.

    PGHOST=/tmp PGUSER=postgres python3 generate.py
"""
import pathlib
import subprocess

HERE = pathlib.Path(__file__).parent


def query(sql):
    out = subprocess.run(
        ["psql", "-X", "-At", "-F", "\t", "-P", "null=\\N", "-c", sql], check=True, capture_output=True, text=True
    ).stdout
    return [line.split("\t") for line in out.splitlines()]


def schema():
    rows = query(
        """SELECT n.nspname, c.relname, c.oid, c.relkind, c.reltype,
                  string_agg(a.attname || ':' || t.typname || CASE WHEN a.attnotnull THEN '!' ELSE '' END, ' ' ORDER BY a.attnum)
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
           JOIN pg_type t ON t.oid = a.atttypid
           WHERE n.nspname IN ('pg_catalog', 'information_schema') AND c.relkind IN ('r', 'v')
           GROUP BY 1, 2, 3, 4, 5 ORDER BY 1 DESC, 2"""
    )
    with open(HERE / "pg15_schema.txt", "w") as out:
        out.write("# schema.relation oid relkind row-type column:type[!=not null] ...; written by generate.py\n")
        for namespace, name, oid, kind, row_type, columns in rows:
            out.write(f"{namespace}.{name} {oid} {kind} {row_type} {columns}\n")


# Row types of the catalogs and the domains of information_schema are left out: nothing here has those types.
TYPES = """typnamespace = 11 AND typtype IN ('b', 'p', 'r', 'm')
           AND (typelem = 0 OR typelem IN (SELECT oid FROM pg_type WHERE typtype <> 'c'))"""
TABLES = [
    ("pg_type", "*", f"SELECT {{}} FROM pg_type WHERE {TYPES} ORDER BY oid"),
    (
        "pg_proc",
        "oid proname pronamespace proowner prolang procost prorows prokind proleakproof proisstrict proretset provolatile"
        " proparallel pronargs pronargdefaults prorettype proargtypes prosrc",
        f"""SELECT {{}} FROM pg_proc WHERE oid IN (SELECT unnest(ARRAY[typinput, typoutput, typreceive, typsend, typmodin,
            typmodout, typanalyze, typsubscript]::oid[]) FROM pg_type WHERE {TYPES}) ORDER BY oid""",
    ),
    ("pg_am", "*", "SELECT {} FROM pg_am WHERE amname IN ('heap', 'btree') ORDER BY oid"),
    (
        "pg_collation",
        "*",
        "SELECT {} FROM pg_collation WHERE collname IN ('default', 'C', 'POSIX', 'ucs_basic') ORDER BY oid",
    ),
    ("pg_opfamily", "*", "SELECT {} FROM pg_opfamily WHERE opfmethod = 403 ORDER BY oid"),
    ("pg_opclass", "*", "SELECT {} FROM pg_opclass WHERE opcmethod = 403 ORDER BY oid"),
    ("pg_range", "*", "SELECT {} FROM pg_range ORDER BY rngtypid"),
    ("pg_cast", "*", "SELECT {} FROM pg_cast ORDER BY oid"),
    ("pg_language", "*", "SELECT {} FROM pg_language WHERE lanname IN ('internal', 'c', 'sql') ORDER BY oid"),
    ("pg_tablespace", "*", "SELECT {} FROM pg_tablespace ORDER BY oid"),
    (
        "pg_settings",
        "name unit category short_desc context vartype min_val max_val enumvals",
        "SELECT {} FROM pg_settings ORDER BY name",
    ),
]


def rows():
    with open(HERE / "pg15_rows.txt", "w") as out:
        out.write("# a line @relation columns, then its rows, tab-separated, \\N for NULL; written by generate.py\n")
        for table, columns, sql in TABLES:
            names = columns.split()
            if columns == "*":
                names = [
                    row[0]
                    for row in query(
                        f"SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0 ORDER BY attnum"
                    )
                ]
            # A reg* column is held as an OID, not as its name.
            picked = ", ".join(
                f"{name}::oid" if name in REGPROC else name for name in names
            )
            out.write(f"@{table} {' '.join(names)}\n")
            for row in query(sql.format(picked)):
                out.write("\t".join(row) + "\n")


REGPROC = {
    row[0]
    for row in query(
        "SELECT DISTINCT attname FROM pg_attribute WHERE attrelid < 16384 AND atttypid IN ('regproc'::regtype, 'regtype'::regtype)"
    )
}

if __name__ == "__main__":
    schema()
    rows()
