// pgjdbc: types, parameters, transactions, errors, metadata, portions, COPY. Prints "ok" when every check held.
// Run as a single file: java -cp 'lib/*' PgJdbc.java <port>.

import java.io.StringReader;
import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Types;
import java.time.LocalDate;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.UUID;
import org.postgresql.PGConnection;

public final class PgJdbc {
    private static final String TABLE = "jdbc" + System.nanoTime();

    public static void main(String[] arguments) throws Exception {
        String url = "jdbc:postgresql://127.0.0.1:" + arguments[0] + "/thalweg?user=app";
        try (Connection connection = DriverManager.getConnection(url)) {
            types(connection);
            writes(connection);
            errors(connection);
            metadata(connection);
            portions(connection);
            copies(connection);
        }
        System.out.println("ok");
    }

    private static void same(Object expected, Object found, String what) {
        if (!Objects.deepEquals(expected, found)) {
            throw new AssertionError(what + ": expected " + expected + ", found " + found);
        }
    }

    private static void types(Connection connection) throws SQLException {
        OffsetDateTime instant = OffsetDateTime.parse("2024-01-02T03:04:05.678901Z");
        UUID uuid = UUID.fromString("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
        String query = "SELECT ?::int2, ?::int4, ?::int8, ?::float8, ?::numeric(10,2), ?::text, ?::bool, ?::date, ?::timestamptz,"
            + " ?::uuid, ?::bytea, ?::int[], ?::jsonb, ?::text";
        try (PreparedStatement statement = connection.prepareStatement(query)) {
            // From the fifth run on the driver uses a named statement and binary results.
            for (int run = 0; run < 8; run++) {
                statement.setShort(1, (short) 7);
                statement.setInt(2, -5);
                statement.setLong(3, 1L << 40);
                statement.setDouble(4, 1.25);
                statement.setBigDecimal(5, new BigDecimal("12.50"));
                statement.setString(6, "it's ü");
                statement.setBoolean(7, true);
                statement.setObject(8, LocalDate.of(2024, 2, 29));
                statement.setObject(9, instant);
                statement.setObject(10, uuid);
                statement.setBytes(11, new byte[] {0, -1});
                statement.setArray(12, connection.createArrayOf("int4", new Integer[] {1, null, 3}));
                statement.setObject(13, "{\"a\": 1}", Types.OTHER);
                statement.setNull(14, Types.VARCHAR);
                try (ResultSet rows = statement.executeQuery()) {
                    same(true, rows.next(), "a row");
                    same((short) 7, rows.getShort(1), "int2");
                    same(-5, rows.getInt(2), "int4");
                    same(1L << 40, rows.getLong(3), "int8");
                    same(1.25, rows.getDouble(4), "float8");
                    same(new BigDecimal("12.50"), rows.getBigDecimal(5), "numeric");
                    same("it's ü", rows.getString(6), "text");
                    same(true, rows.getBoolean(7), "bool");
                    same(LocalDate.of(2024, 2, 29), rows.getObject(8, LocalDate.class), "date");
                    same(instant.toInstant(), rows.getObject(9, OffsetDateTime.class).toInstant(), "timestamptz");
                    same(uuid, rows.getObject(10), "uuid");
                    same(new byte[] {0, -1}, rows.getBytes(11), "bytea");
                    same(Arrays.asList(1, null, 3), Arrays.asList((Integer[]) rows.getArray(12).getArray()), "int[]");
                    same("{\"a\": 1}", rows.getString(13), "jsonb");
                    same(null, rows.getString(14), "null");
                }
            }
        }
    }

    private static void writes(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute("CREATE TABLE " + TABLE + " (id int PRIMARY KEY, name varchar(20) NOT NULL, price numeric(10,2))");
            statement.execute("CREATE MATERIALIZED VIEW " + TABLE + "_view AS SELECT count(*) AS n FROM " + TABLE);
        }
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO " + TABLE + " VALUES (?, ?, ?)")) {
            for (int id = 1; id <= 100; id++) {
                insert.setInt(1, id);
                insert.setString(2, "n" + id);
                insert.setBigDecimal(3, BigDecimal.valueOf(id, 2));
                insert.addBatch();
            }
            same(100, insert.executeBatch().length, "a batch");
        }
        connection.setAutoCommit(false);
        try (Statement statement = connection.createStatement()) {
            same(100, statement.executeUpdate("DELETE FROM " + TABLE), "deleted");
            connection.rollback();
            try (ResultSet rows = statement.executeQuery("SELECT count(*), sum(price) FROM " + TABLE)) {
                rows.next();
                same(100L, rows.getLong(1), "rows after the rollback");
                same(0, new BigDecimal("50.50").compareTo(rows.getBigDecimal(2)), "sum");
            }
        }
        connection.commit();
        connection.setAutoCommit(true);
    }

    private static void errors(Connection connection) throws SQLException {
        String[][] cases = {
            {"SELECT 1 / 0", "22012"}, {"SELECT * FROM nosuch", "42P01"}, {"SELEC 1", "42601"},
            {"INSERT INTO " + TABLE + " VALUES (1, 'x', 0)", "23505"},
        };
        for (String[] pair : cases) {
            try (Statement statement = connection.createStatement()) {
                statement.execute(pair[0]);
                throw new AssertionError(pair[0] + " did not fail");
            } catch (SQLException error) {
                same(pair[1], error.getSQLState(), pair[0]);
            }
        }
    }

    private static void metadata(Connection connection) throws SQLException {
        DatabaseMetaData metadata = connection.getMetaData();
        same("PostgreSQL", metadata.getDatabaseProductName(), "product");
        List<String> kinds = new ArrayList<>();
        try (ResultSet tables = metadata.getTables(null, "public", TABLE + "%", null)) {
            while (tables.next()) {
                kinds.add(tables.getString("TABLE_NAME").replace(TABLE, "") + " " + tables.getString("TABLE_TYPE"));
            }
        }
        same(List.of("_view MATERIALIZED VIEW", " TABLE"), kinds.stream().filter(kind -> !kind.contains("INDEX")).sorted((a, b) -> b.compareTo(a)).toList(), "tables");
        List<String> columns = new ArrayList<>();
        try (ResultSet rows = metadata.getColumns(null, "public", TABLE, null)) {
            while (rows.next()) {
                columns.add(rows.getString("COLUMN_NAME") + " " + rows.getInt("DATA_TYPE") + " " + rows.getInt("COLUMN_SIZE")
                    + " " + rows.getString("IS_NULLABLE"));
            }
        }
        same(List.of("id 4 10 NO", "name 12 20 NO", "price 2 10 YES"), columns, "columns");
        try (ResultSet keys = metadata.getPrimaryKeys(null, "public", TABLE)) {
            same(true, keys.next(), "a key");
            same("id", keys.getString("COLUMN_NAME"), "key column");
        }
        try (ResultSet schemas = metadata.getSchemas()) {
            boolean found = false;
            while (schemas.next()) {
                found |= schemas.getString(1).equals("public");
            }
            same(true, found, "schema public");
        }
        try (PreparedStatement statement = connection.prepareStatement("SELECT id, name, price FROM " + TABLE + " WHERE id = ?")) {
            ResultSetMetaData result = statement.getMetaData();
            same(3, result.getColumnCount(), "columns");
            same("name", result.getColumnName(2), "name");
            same(TABLE, ((org.postgresql.PGResultSetMetaData) result).getBaseTableName(1), "base table");
            same(10, result.getPrecision(3), "precision");
            same(Types.INTEGER, statement.getParameterMetaData().getParameterType(1), "parameter");
        }
    }

    private static void portions(Connection connection) throws SQLException {
        connection.setAutoCommit(false);
        try (PreparedStatement first = connection.prepareStatement("SELECT id FROM " + TABLE + " ORDER BY id");
             PreparedStatement second = connection.prepareStatement("SELECT g FROM generate_series(1, 100) AS s(g)")) {
            first.setFetchSize(7);
            second.setFetchSize(9);
            // Two results that are open at the same time.
            try (ResultSet left = first.executeQuery(); ResultSet right = second.executeQuery()) {
                for (int expected = 1; expected <= 100; expected++) {
                    same(true, left.next() && right.next(), "row " + expected);
                    same(expected, left.getInt(1), "left");
                    same(expected, right.getInt(1), "right");
                }
                same(false, left.next() || right.next(), "the end");
            }
        }
        connection.commit();
        connection.setAutoCommit(true);
    }

    private static void copies(Connection connection) throws Exception {
        long rows = connection.unwrap(PGConnection.class).getCopyAPI()
            .copyIn("COPY " + TABLE + " FROM STDIN (FORMAT csv)", new StringReader("1001,a,1\n1002,b,\n"));
        same(2L, rows, "copied");
    }
}
