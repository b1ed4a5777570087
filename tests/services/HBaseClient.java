// Reads, writes and administers tables over HBase's own protocol, for tests that must not check a gateway client with itself.
//
// Invariant: one request per line of standard input, words parted by spaces, bytes in hexadecimal ("-" for none); each answer
// is zero or more lines and then "ok" or "error <why>".

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.hbase.Cell;
import org.apache.hadoop.hbase.CellUtil;
import org.apache.hadoop.hbase.HBaseConfiguration;
import org.apache.hadoop.hbase.HRegionLocation;
import org.apache.hadoop.hbase.ServerName;
import org.apache.hadoop.hbase.TableName;
import org.apache.hadoop.hbase.client.Admin;
import org.apache.hadoop.hbase.client.ColumnFamilyDescriptorBuilder;
import org.apache.hadoop.hbase.client.Connection;
import org.apache.hadoop.hbase.client.ConnectionFactory;
import org.apache.hadoop.hbase.client.Delete;
import org.apache.hadoop.hbase.client.Get;
import org.apache.hadoop.hbase.client.Put;
import org.apache.hadoop.hbase.client.RegionInfo;
import org.apache.hadoop.hbase.client.Result;
import org.apache.hadoop.hbase.client.ResultScanner;
import org.apache.hadoop.hbase.client.Scan;
import org.apache.hadoop.hbase.client.Table;
import org.apache.hadoop.hbase.client.TableDescriptorBuilder;

public class HBaseClient {
  private static final HexFormat HEX = HexFormat.of();
  private static PrintStream out;

  public static void main(String[] arguments) throws Exception {
    // Libraries that print would break the answers.
    out = System.out;
    System.setOut(System.err);
    Configuration configuration = HBaseConfiguration.create();
    try (Connection connection = ConnectionFactory.createConnection(configuration)) {
      BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
      for (String line = in.readLine(); line != null; line = in.readLine()) {
        try {
          answer(connection, line.trim().split(" +"));
          out.println("ok");
        } catch (Exception error) {
          out.println("error " + String.valueOf(error).replace('\n', ' '));
        }
        out.flush();
      }
    }
  }

  private static void answer(Connection connection, String[] words) throws Exception {
    TableName name = TableName.valueOf(words[1]);
    try (Table table = connection.getTable(name); Admin admin = connection.getAdmin()) {
      switch (words[0]) {
        case "create" -> create(admin, name, words);
        case "put" -> table.put(put(words));
        case "delete" -> table.delete(delete(words));
        case "fill" -> fill(table, words);
        case "get" -> print(table.get(new Get(bytes(words[2])).readVersions(1)));
        case "scan" -> scan(table, new Scan());
        case "raw" -> scan(table, new Scan().setRaw(true).readAllVersions());
        case "flush" -> admin.flush(name);
        case "split" -> admin.splitRegionAsync(regionOf(connection, name, words).getRegionName(), bytes(words[2])).get();
        case "move" -> move(connection, admin, name, words);
        case "gather" -> gather(connection, admin, name, words);
        case "regions" -> regions(connection, name);
        case "disable" -> {
          // Asked again when the first answer was lost.
          if (!admin.isTableDisabled(name)) {
            admin.disableTable(name);
          }
        }
        case "enable" -> admin.enableTable(name);
        case "drop" -> {
          if (admin.isTableEnabled(name)) {
            admin.disableTable(name);
          }
          admin.deleteTable(name);
        }
        default -> throw new IllegalArgumentException("unknown request " + words[0]);
      }
    }
  }

  private static byte[] bytes(String word) {
    return word.equals("-") ? new byte[0] : HEX.parseHex(word);
  }

  private static String hex(byte[] bytes) {
    return bytes.length == 0 ? "-" : HEX.formatHex(bytes);
  }

  // create TABLE FAMILY,FAMILY VERSIONS [SPLIT,SPLIT]
  private static void create(Admin admin, TableName name, String[] words) throws Exception {
    TableDescriptorBuilder table = TableDescriptorBuilder.newBuilder(name);
    for (String family : words[2].split(",")) {
      byte[] bytes = family.getBytes(StandardCharsets.UTF_8);
      int versions = Integer.parseInt(words[3]);
      table.setColumnFamily(ColumnFamilyDescriptorBuilder.newBuilder(bytes).setMaxVersions(versions).build());
    }
    List<byte[]> splits = new ArrayList<>();
    for (int index = 4; index < words.length; index++) {
      splits.add(bytes(words[index]));
    }
    admin.createTable(table.build(), splits.isEmpty() ? null : splits.toArray(new byte[0][]));
  }

  // put TABLE ROW FAMILY QUALIFIER VALUE [TIMESTAMP]
  private static Put put(String[] words) {
    Put put = new Put(bytes(words[2]));
    byte[] family = words[3].getBytes(StandardCharsets.UTF_8);
    if (words.length > 6) {
      return put.addColumn(family, bytes(words[4]), Long.parseLong(words[6]), bytes(words[5]));
    }
    return put.addColumn(family, bytes(words[4]), bytes(words[5]));
  }

  // delete TABLE ROW [FAMILY QUALIFIER TIMESTAMP]
  private static Delete delete(String[] words) {
    Delete delete = new Delete(bytes(words[2]));
    if (words.length > 3) {
      delete.addColumns(words[3].getBytes(StandardCharsets.UTF_8), bytes(words[4]), Long.parseLong(words[5]));
    }
    return delete;
  }

  // fill TABLE FAMILY COUNT CELLS: rows of eight decimal digits with qualifiers 0, 1, ... and the row's digits as values
  private static void fill(Table table, String[] words) throws Exception {
    byte[] family = words[2].getBytes(StandardCharsets.UTF_8);
    int cells = Integer.parseInt(words[4]);
    List<Put> puts = new ArrayList<>();
    for (int row = 0; row < Integer.parseInt(words[3]); row++) {
      byte[] key = String.format("%08d", row).getBytes(StandardCharsets.UTF_8);
      Put put = new Put(key);
      for (int cell = 0; cell < cells; cell++) {
        put.addColumn(family, Integer.toString(cell).getBytes(StandardCharsets.UTF_8), key);
      }
      puts.add(put);
      if (puts.size() == 1000) {
        table.put(puts);
        puts.clear();
      }
    }
    table.put(puts);
  }

  private static void scan(Table table, Scan scan) throws Exception {
    try (ResultScanner results = table.getScanner(scan.setCaching(1000))) {
      for (Result result : results) {
        print(result);
      }
    }
  }

  // ROW FAMILY QUALIFIER VALUE TIMESTAMP TYPE
  private static void print(Result result) {
    if (result.isEmpty()) {
      return;
    }
    for (Cell cell : result.rawCells()) {
      out.println(String.join(" ",
          hex(CellUtil.cloneRow(cell)),
          new String(CellUtil.cloneFamily(cell), StandardCharsets.UTF_8),
          hex(CellUtil.cloneQualifier(cell)),
          hex(CellUtil.cloneValue(cell)),
          Long.toString(cell.getTimestamp()),
          cell.getType().toString()));
    }
  }

  private static RegionInfo regionOf(Connection connection, TableName name, String[] words) throws Exception {
    return connection.getRegionLocator(name).getRegionLocation(bytes(words[2]), true).getRegion();
  }

  // move TABLE ROW: to a region server that does not hold the region now
  private static void move(Connection connection, Admin admin, TableName name, String[] words) throws Exception {
    HRegionLocation location = connection.getRegionLocator(name).getRegionLocation(bytes(words[2]), true);
    for (ServerName server : admin.getRegionServers()) {
      if (!server.equals(location.getServerName())) {
        admin.move(location.getRegion().getEncodedNameAsBytes(), server);
        return;
      }
    }
    throw new IllegalStateException("there is no other region server");
  }

  // gather TABLE PORT: moves every region to the region server at this port
  private static void gather(Connection connection, Admin admin, TableName name, String[] words) throws Exception {
    int port = Integer.parseInt(words[2]);
    ServerName wanted = null;
    for (ServerName server : admin.getRegionServers()) {
      wanted = server.getPort() == port ? server : wanted;
    }
    if (wanted == null) {
      throw new IllegalStateException("there is no region server at that port");
    }
    connection.clearRegionLocationCache();
    for (HRegionLocation location : connection.getRegionLocator(name).getAllRegionLocations()) {
      if (!wanted.equals(location.getServerName())) {
        admin.move(location.getRegion().getEncodedNameAsBytes(), wanted);
      }
    }
  }

  private static void regions(Connection connection, TableName name) throws Exception {
    connection.clearRegionLocationCache();
    for (HRegionLocation location : connection.getRegionLocator(name).getAllRegionLocations()) {
      RegionInfo region = location.getRegion();
      out.println(hex(region.getStartKey()) + " " + hex(region.getEndKey()) + " " + location.getServerName());
    }
  }
}
