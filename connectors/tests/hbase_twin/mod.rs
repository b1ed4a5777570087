//! An HBase in memory behind a Thrift2 gateway of its own, which fails by script: for tests that need no real one.
//!
//! Invariant: it answers as the real one does. A random program, run against both, checks that; it prints its seed.

mod descending;
mod filter;
mod foreign;
mod large;
mod laws;
mod whole;
mod wire;
mod writes;

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use filter::Filter;
use wire::{Fields, Value};

/// Bytes of the longest request of a gateway that is not configured otherwise; it hangs up on a longer one.
const REQUEST_BYTES_MAX: usize = 2 << 20;
/// Bytes of the longest request of any.
const REQUEST_BYTES_CONFIGURED: usize = 64 << 20;
/// Bytes of the largest cell, but for its name; a gateway throws over a larger one.
const CELL_BYTES_MAX: usize = 10 << 20;

/// What a gateway does with the next call that is not a greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It hangs up before it has done anything.
    Before,
    /// It hangs up when it has done it.
    After,
    /// A region is on its way to another server.
    Moving,
    /// It answers late.
    Slow(Duration),
    /// It refuses for good.
    Refusing,
    /// Something in the gateway throws what it does not expect.
    Internal,
}

/// A cell of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    family: Vec<u8>,
    qualifier: Vec<u8>,
    value: Vec<u8>,
    timestamp: i64,
}

/// Versions of a cell by timestamp: its value, and whether everything up to there is deleted.
type Versions = BTreeMap<i64, (Option<Vec<u8>>, bool)>;

#[derive(Debug, Default)]
struct Table {
    families: Vec<Fields>,
    borders: Vec<Vec<u8>>,
    disabled: bool,
    rows: BTreeMap<Vec<u8>, BTreeMap<(Vec<u8>, Vec<u8>), Versions>>,
}

#[derive(Debug, Default)]
struct State {
    tables: BTreeMap<String, Table>,
    faults: VecDeque<Fault>,
    calls: Vec<String>,
    /// Row keys of each request that puts rows.
    puts: Vec<Vec<Vec<u8>>>,
    /// Bytes of each reply.
    replies: Vec<usize>,
    /// It is configured to take long requests.
    takes_long_requests: bool,
    /// Beginning of the keys that cannot be put.
    poison: Option<Vec<u8>>,
    /// Calls under way, and the most there were at once.
    under_way: (usize, usize),
}

/// The server. It lives as long as the process.
#[derive(Debug, Clone)]
pub(crate) struct Twin {
    pub(crate) address: String,
    state: Arc<Mutex<State>>,
}

/// Words of the real one.
#[derive(Debug)]
struct Refused(String);

impl Twin {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let twin = Self {
            address: listener.local_addr().expect("bound").to_string(),
            state: Arc::default(),
        };
        let accepting = twin.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let twin = accepting.clone();
                std::thread::spawn(move || twin.serve(stream));
            }
        });
        twin
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no call failed in here")
    }

    /// Makes a table, cut at these keys.
    pub(crate) fn create(&self, name: &str, families: &[&str], borders: &[&[u8]]) {
        let family = |name: &&str| Fields::from([(1, Value::Bytes(name.as_bytes().to_vec()))]);
        let table = Table {
            families: families.iter().map(family).collect(),
            borders: borders.iter().map(|border| border.to_vec()).collect(),
            ..Table::default()
        };
        self.state().tables.insert(name.to_owned(), table);
    }

    /// Has the next calls fail.
    pub(crate) fn script(&self, faults: &[Fault]) {
        self.state().faults.extend(faults);
    }

    /// Disables or enables a table.
    pub(crate) fn set_disabled(&self, name: &str, disabled: bool) {
        if let Some(table) = self.state().tables.get_mut(name) {
            table.disabled = disabled;
        }
    }

    /// Has regions begin elsewhere.
    pub(crate) fn split(&self, name: &str, borders: &[&[u8]]) {
        if let Some(table) = self.state().tables.get_mut(name) {
            table.borders = borders.iter().map(|border| border.to_vec()).collect();
        }
    }

    /// Row keys of the requests that put rows, since this was asked last.
    pub(crate) fn take_puts(&self) -> Vec<Vec<Vec<u8>>> {
        std::mem::take(&mut self.state().puts)
    }

    /// Bytes of the replies since this was asked last.
    pub(crate) fn take_replies(&self) -> Vec<usize> {
        std::mem::take(&mut self.state().replies)
    }

    /// Has the gateway throw over every request that puts a row whose key begins so.
    pub(crate) fn set_poison(&self, key: Option<&str>) {
        self.state().poison = key.map(|key| key.as_bytes().to_vec());
    }

    /// Configures the gateway to take long requests.
    pub(crate) fn take_long_requests(&self) {
        self.state().takes_long_requests = true;
    }

    /// The most calls that were under way at once, since this was asked last.
    pub(crate) fn take_most_under_way(&self) -> usize {
        std::mem::take(&mut self.state().under_way.1)
    }

    /// Names of the calls so far, but for greetings.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    fn read(&self, stream: &mut TcpStream) -> Option<Vec<u8>> {
        let mut head = [0; 4];
        stream.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes(head) as usize;
        let most = match self.state().takes_long_requests {
            true => REQUEST_BYTES_CONFIGURED,
            false => REQUEST_BYTES_MAX,
        };
        if length > most {
            return None;
        }
        let mut frame = vec![0; length];
        stream.read_exact(&mut frame).ok()?;
        Some(frame)
    }

    fn serve(&self, mut stream: TcpStream) {
        while let Some(frame) = self.read(&mut stream) {
            let (name, sequence, arguments) = wire::request(&frame).expect("a request");
            let greeting = name == "getThriftServerType";
            let fault = match greeting {
                true => None,
                false => {
                    let mut state = self.state();
                    state.calls.push(name.clone());
                    state.faults.pop_front()
                }
            };
            {
                let mut state = self.state();
                state.under_way.0 += 1;
                state.under_way.1 = state.under_way.1.max(state.under_way.0);
            }
            let moving = "org.apache.hadoop.hbase.NotServingRegionException: it moves";
            if fault == Some(Fault::Internal) || self.state().throws(&name, &arguments) {
                self.state().under_way.0 -= 1;
                let reply = wire::internal_error(&name, sequence).expect("memory");
                if stream.write_all(&reply).is_err() {
                    return;
                }
                continue;
            }
            let answer = match fault {
                Some(Fault::Before) => {
                    self.state().under_way.0 -= 1;
                    return;
                }
                Some(Fault::Moving) => Err(Refused(moving.to_owned())),
                Some(Fault::Refusing) => Err(Refused(
                    "NoSuchColumnFamilyException: it is altered".to_owned(),
                )),
                Some(Fault::Slow(wait)) => {
                    std::thread::sleep(wait);
                    self.state().call(&name, &arguments)
                }
                _ => self.state().call(&name, &arguments),
            };
            self.state().under_way.0 -= 1;
            if fault == Some(Fault::After) {
                return;
            }
            let fields = match answer {
                Ok(Some(value)) => Fields::from([(0, value)]),
                Ok(None) => Fields::new(),
                // `TIOError { message = 1 }`
                Err(Refused(message)) => {
                    let error = Fields::from([(1, Value::Bytes(message.into_bytes()))]);
                    Fields::from([(1, Value::Struct(error))])
                }
            };
            let reply = wire::reply(&name, sequence, &fields).expect("memory");
            self.state().replies.push(reply.len());
            if stream.write_all(&reply).is_err() {
                return;
            }
        }
    }
}

/// A table by its bytes, or as `TTableName`.
fn table_name(value: &Value) -> String {
    let name = match value {
        Value::Struct(fields) => {
            let part = |id| fields.get(&id).map(Value::bytes);
            match (part(1), part(2)) {
                (Some(space), Some(name)) => [&space[..], b":", &name].concat(),
                (_, name) => name.unwrap_or_default(),
            }
        }
        other => other.bytes(),
    };
    String::from_utf8(name).expect("a name")
}

impl State {
    fn throws(&self, name: &str, arguments: &Fields) -> bool {
        if name != "putMultiple" {
            return false;
        }
        let puts = arguments.get(&2).map(Value::items).unwrap_or_default();
        puts.iter().map(Value::fields).any(|put| {
            let key = put[&1].bytes();
            let is_poison = self.poison.as_ref().is_some_and(|one| key.starts_with(one));
            let cells = put[&2].items().iter();
            let mut cells = cells.map(Value::fields);
            is_poison || cells.any(|cell| cell[&3].bytes().len() > CELL_BYTES_MAX)
        })
    }

    fn call(&mut self, name: &str, arguments: &Fields) -> Result<Option<Value>, Refused> {
        let table = arguments.get(&1);
        let list = |id: i16| arguments.get(&id).map(Value::items).unwrap_or_default();
        Ok(match name {
            "getThriftServerType" => Some(Value::I32(2)),
            "createNamespace" => None,
            "createTable" => {
                let new = table.expect("a table").fields();
                let families = new[&2].items().iter().map(Value::fields).collect();
                let made = Table {
                    families,
                    ..Table::default()
                };
                self.tables.entry(table_name(&new[&1])).or_insert(made);
                None
            }
            "tableExists" => {
                let name = table_name(table.expect("a table"));
                Some(Value::Bool(self.tables.contains_key(&name)))
            }
            "isTableDisabled" => {
                let name = table_name(table.expect("a table"));
                let table = self.tables.get(&name);
                Some(Value::Bool(table.is_some_and(|table| table.disabled)))
            }
            "getTableDescriptor" => {
                let table = self.table(table)?;
                let families = table.families.iter().cloned().map(Value::Struct).collect();
                Some(Value::Struct(Fields::from([(2, Value::List(families))])))
            }
            "getAllRegionLocations" => Some(self.table(table)?.regions()),
            "getMultiple" => {
                let table = self.served(table)?;
                let rows = list(2).iter().map(|get| table.get(&get.fields()));
                Some(Value::List(rows.collect()))
            }
            "getScannerResults" => {
                let scan = arguments[&2].fields();
                let families = self.table(table)?.families.len();
                if families > 1 && scan.contains_key(&11) && scan.contains_key(&18) {
                    return Err(Refused("org.apache.hadoop.hbase.DoNotRetryIOException: Reverse scan with loading CFs on demand is not supported".to_owned()));
                }
                let most = arguments[&3].number() as usize;
                Some(Value::List(self.served(table)?.scan(&scan, most)))
            }
            "putMultiple" => {
                let rows = list(2).iter().map(|put| put.fields()[&1].bytes());
                self.puts.push(rows.collect());
                let table = self.served(table)?;
                for put in list(2) {
                    table.put(&put.fields())?;
                }
                None
            }
            "deleteMultiple" => {
                let table = self.served(table)?;
                list(2)
                    .iter()
                    .for_each(|delete| table.delete(&delete.fields()));
                Some(Value::List(Vec::new()))
            }
            "checkAndPut" => Some(Value::Bool(self.served(table)?.check_and_put(arguments)?)),
            other => panic!("call {other}"),
        })
    }

    fn table(&mut self, name: Option<&Value>) -> Result<&mut Table, Refused> {
        let name = table_name(name.expect("a table"));
        let missing = format!("org.apache.hadoop.hbase.TableNotFoundException: {name}");
        self.tables.get_mut(&name).ok_or(Refused(missing))
    }

    fn served(&mut self, name: Option<&Value>) -> Result<&mut Table, Refused> {
        let table = self.table(name)?;
        match table.disabled {
            true => Err(Refused(
                "org.apache.hadoop.hbase.TableNotEnabledException: it is disabled".to_owned(),
            )),
            false => Ok(table),
        }
    }
}

impl Table {
    fn regions(&self) -> Value {
        let ends = self.borders.iter().cloned().chain([Vec::new()]);
        let starts = std::iter::once(Vec::new()).chain(self.borders.iter().cloned());
        let region = |(start, end)| {
            let info = Fields::from([(3, Value::Bytes(start)), (4, Value::Bytes(end))]);
            Value::Struct(Fields::from([(2, Value::Struct(info))]))
        };
        Value::List(starts.zip(ends).map(region).collect())
    }

    /// The cells of a row that a get or scan asks for, sorted; nothing when it passes no filter.
    fn visible(
        &self,
        row: &[u8],
        columns: Option<&Value>,
        filter: Option<&Filter>,
        until: i64,
    ) -> Vec<Cell> {
        let names: Option<Vec<Fields>> =
            columns.map(|list| list.items().iter().map(Value::fields).collect());
        let wanted = |family: &[u8], qualifier: &[u8]| {
            names.as_ref().is_none_or(|names| {
                names.iter().any(|name| {
                    name[&1].bytes() == family
                        && name.get(&2).is_none_or(|name| name.bytes() == qualifier)
                })
            })
        };
        let mut cells = Vec::new();
        for ((family, qualifier), versions) in self.rows.get(row).into_iter().flatten() {
            let seen = || versions.range(..until).rev();
            let deleted = seen().find(|(_, version)| version.1).map(|(at, _)| *at);
            let newest = seen().find(|(_, version)| version.0.is_some());
            if let Some((at, (Some(value), _))) = newest
                && deleted.is_none_or(|deleted| deleted < *at)
                && wanted(family, qualifier)
            {
                cells.push(Cell {
                    family: family.clone(),
                    qualifier: qualifier.clone(),
                    value: value.clone(),
                    timestamp: *at,
                });
            }
        }
        match filter {
            Some(filter) if !filter.passes(&cells) => cells.clear(),
            Some(filter) => filter.cut(&mut cells),
            None => {}
        }
        cells
    }

    fn get(&self, get: &Fields) -> Value {
        let row = get[&1].bytes();
        let filter = get.get(&15).map(|bytes| Filter::parse(&bytes.bytes()));
        let until = get
            .get(&4)
            .map_or(i64::MAX, |times| times.fields()[&2].number());
        result(
            &row,
            self.visible(&row, get.get(&2), filter.as_ref(), until),
        )
    }

    fn scan(&self, scan: &Fields, most: usize) -> Vec<Value> {
        let bytes = |id| scan.get(&id).map(Value::bytes).unwrap_or_default();
        let (start, stop) = (bytes(1), bytes(2));
        let reversed = scan.get(&11).is_some_and(|is| is.number() == 1);
        let filter = scan.get(&18).map(|bytes| Filter::parse(&bytes.bytes()));
        let until = scan
            .get(&6)
            .map_or(i64::MAX, |times| times.fields()[&2].number());
        let inside = |row: &&Vec<u8>| match reversed {
            false => **row >= start && (stop.is_empty() || **row < stop),
            true => **row > stop && (start.is_empty() || **row <= start),
        };
        let mut rows: Vec<&Vec<u8>> = self.rows.keys().filter(inside).collect();
        if reversed {
            rows.reverse();
        }
        let found = rows.into_iter().filter_map(|row| {
            let cells = self.visible(row, scan.get(&3), filter.as_ref(), until);
            (!cells.is_empty()).then(|| result(row, cells))
        });
        found.take(most).collect()
    }

    fn put(&mut self, put: &Fields) -> Result<(), Refused> {
        let row = put[&1].bytes();
        for cell in put[&2].items().iter().map(Value::fields) {
            let family = cell[&1].bytes();
            let known = self.families.iter().any(|one| one[&1].bytes() == family);
            if !known {
                let family = String::from_utf8_lossy(&family);
                return Err(Refused(format!(
                    "Failed 1 action: org.apache.hadoop.hbase.regionserver.NoSuchColumnFamilyException: Column family {family} does not exist"
                )));
            }
            let at = cell.get(&4).or(put.get(&3)).expect("a timestamp").number();
            let version = self.version(&row, (family, cell[&2].bytes()), at);
            version.0 = Some(cell[&3].bytes());
        }
        Ok(())
    }

    fn delete(&mut self, delete: &Fields) {
        let row = delete[&1].bytes();
        for column in delete[&2].items().iter().map(Value::fields) {
            let at = column
                .get(&3)
                .or(delete.get(&3))
                .expect("a timestamp")
                .number();
            self.version(&row, (column[&1].bytes(), column[&2].bytes()), at)
                .1 = true;
        }
    }

    fn version(
        &mut self,
        row: &[u8],
        column: (Vec<u8>, Vec<u8>),
        at: i64,
    ) -> &mut (Option<Vec<u8>>, bool) {
        let cells = self.rows.entry(row.to_vec()).or_default();
        cells.entry(column).or_default().entry(at).or_default()
    }

    fn check_and_put(&mut self, arguments: &Fields) -> Result<bool, Refused> {
        let cells = self.visible(&arguments[&2].bytes(), None, None, i64::MAX);
        let (family, qualifier) = (arguments[&3].bytes(), arguments[&4].bytes());
        let held = cells
            .iter()
            .find(|cell| cell.family == family && cell.qualifier == qualifier);
        let expected = arguments.get(&5).map(Value::bytes);
        let fits = held.map(|cell| &cell.value) == expected.as_ref();
        if fits {
            self.put(&arguments[&6].fields())?;
        }
        Ok(fits)
    }
}

/// `TResult`
fn result(row: &[u8], cells: Vec<Cell>) -> Value {
    let cell = |cell: Cell| {
        Value::Struct(Fields::from([
            (1, Value::Bytes(cell.family)),
            (2, Value::Bytes(cell.qualifier)),
            (3, Value::Bytes(cell.value)),
            (4, Value::I64(cell.timestamp)),
        ]))
    };
    let mut fields = Fields::new();
    if !cells.is_empty() {
        fields.insert(1, Value::Bytes(row.to_vec()));
    }
    fields.insert(2, Value::List(cells.into_iter().map(cell).collect()));
    Value::Struct(fields)
}
