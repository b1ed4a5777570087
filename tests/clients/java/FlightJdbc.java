// The Flight SQL JDBC driver: types, parameters, writes, errors, metadata. Prints "ok" when every check held.
// Run as a single file: java --add-opens=java.base/java.nio=ALL-UNNAMED -cp 'lib/*' FlightJdbc.java <port>.

import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;

public final class FlightJdbc {
    private static final String TABLE = "flight" + System.nanoTime();

    public static void main(String[] arguments) throws Exception {
        String url = "jdbc:arrow-flight-sql://127.0.0.1:" + arguments[0] + "?useEncryption=false&user=app&password=x";
        try (Connection connection = DriverManager.getConnection(url)) {
            types(connection);
            writes(connection);
            errors(connection);
            metadata(connection);
        }
        System.out.println("ok");
    }

    private static void same(Object expected, Object found, String what) {
        if (!Objects.equals(expected, found)) {
            throw new AssertionError(what + ": expected " + expected + ", found " + found);
        }
    }

    private static void types(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement();
             ResultSet rows = statement.executeQuery("SELECT 1::int2, 2, 3::int8, 1.5::float8, 12.50::numeric(10,2), 'x'::text, true, NULL::int")) {
            same(true, rows.next(), "a row");
            same((short) 1, rows.getShort(1), "int2");
            same(2, rows.getInt(2), "int4");
            same(3L, rows.getLong(3), "int8");
            same(1.5, rows.getDouble(4), "float8");
            same(new BigDecimal("12.50"), rows.getBigDecimal(5), "numeric");
            same("x", rows.getString(6), "text");
            same(true, rows.getBoolean(7), "bool");
            same(null, rows.getObject(8), "null");
            same(false, rows.next(), "one row");
        }
        try (PreparedStatement statement = connection.prepareStatement("SELECT $1::int + 1, $2::text")) {
            statement.setInt(1, 41);
            statement.setString(2, "y");
            try (ResultSet rows = statement.executeQuery()) {
                rows.next();
                same(42, rows.getInt(1), "parameter 1");
                same("y", rows.getString(2), "parameter 2");
            }
        }
    }

    private static void writes(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute("CREATE TABLE " + TABLE + " (id int PRIMARY KEY, name text)");
            same(2, statement.executeUpdate("INSERT INTO " + TABLE + " VALUES (1, 'a'), (2, 'b')"), "inserted");
        }
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO " + TABLE + " VALUES ($1, $2)")) {
            for (int id = 3; id < 6; id++) {
                insert.setInt(1, id);
                insert.setString(2, "n" + id);
                same(1, insert.executeUpdate(), "one row");
            }
        }
        try (Statement statement = connection.createStatement();
             ResultSet rows = statement.executeQuery("SELECT count(*), max(name) FROM " + TABLE)) {
            rows.next();
            same(5L, rows.getLong(1), "rows");
            same("n5", rows.getString(2), "name");
        }
    }

    private static void errors(Connection connection) throws SQLException {
        for (String[] pair : new String[][] {{"SELECT * FROM nosuch", "42P01"}, {"INSERT INTO " + TABLE + " VALUES (1)", "23505"}}) {
            try (Statement statement = connection.createStatement()) {
                statement.execute(pair[0]);
                throw new AssertionError(pair[0] + " did not fail");
            } catch (SQLException error) {
                same(true, error.getMessage().contains(pair[1]), pair[0] + ": " + error.getMessage());
            }
        }
    }

    private static void metadata(Connection connection) throws SQLException {
        DatabaseMetaData metadata = connection.getMetaData();
        same("Thalweg", metadata.getDatabaseProductName(), "product");
        List<String> names = new ArrayList<>();
        try (ResultSet tables = metadata.getTables(null, "public", TABLE, null)) {
            while (tables.next()) {
                names.add(tables.getString("TABLE_NAME") + " " + tables.getString("TABLE_TYPE"));
            }
        }
        same(List.of(TABLE + " TABLE"), names, "tables");
        names.clear();
        try (ResultSet columns = metadata.getColumns(null, "public", TABLE, null)) {
            while (columns.next()) {
                names.add(columns.getString("COLUMN_NAME"));
            }
        }
        same(List.of("id", "name"), names, "columns");
        try (ResultSet keys = metadata.getPrimaryKeys(null, "public", TABLE)) {
            same(true, keys.next(), "a key");
            same("id", keys.getString("COLUMN_NAME"), "key column");
        }
    }
}
