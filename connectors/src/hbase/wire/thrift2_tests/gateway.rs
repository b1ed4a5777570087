//! The gateway and the client that were generated, each between bytes and values.
//!
//! Invariant: what is left over of a request fails the test, so no request is longer than its arguments.

use std::cell::RefCell;

use thrift::protocol::{
    TBinaryInputProtocol, TBinaryOutputProtocol, TCompactInputProtocol, TCompactOutputProtocol,
    TInputProtocol, TMessageIdentifier, TMessageType, TOutputProtocol, TSerializable,
};
use thrift::{ApplicationError, ApplicationErrorKind, Error};

use super::super::Protocol;
use super::super::interface::*;
use super::mirror::{Asked, Heard, name};
use super::server::TProcessor;
use crate::hbase::request::Call;

/// What a gateway answers.
#[derive(Debug, Clone)]
pub(super) enum Told {
    Nothing,
    Bool(bool),
    Number(i32),
    Rows(Vec<TResult>),
    Left(Vec<TDelete>),
    Regions(Vec<THRegionLocation>),
    Table(TTableDescriptor),
    Failed(TIOError),
    Unable(String),
}

/// The generated gateway around it: it notes what it heard, and answers as it was told.
pub(super) struct Gateway {
    heard: RefCell<Option<Heard>>,
    told: Told,
}

impl Gateway {
    fn note(&self, heard: Heard) -> thrift::Result<Told> {
        *self.heard.borrow_mut() = Some(heard);
        match &self.told {
            Told::Failed(error) => Err(Error::User(Box::new(error.clone()))),
            Told::Unable(message) => Err(Error::Application(ApplicationError::new(
                ApplicationErrorKind::InternalError,
                message.clone(),
            ))),
            told => Ok(told.clone()),
        }
    }
}

macro_rules! answer {
    ($told:expr, $kind:path) => {
        match $told? {
            $kind(value) => Ok(value),
            other => panic!("{other:?} answers another call"),
        }
    };
}

impl THBaseServiceSyncHandler for &Gateway {
    fn handle_get_multiple(&self, table: Vec<u8>, gets: Vec<TGet>) -> thrift::Result<Vec<TResult>> {
        answer!(self.note(Heard::Get(table, gets)), Told::Rows)
    }
    fn handle_put_multiple(&self, table: Vec<u8>, puts: Vec<TPut>) -> thrift::Result<()> {
        self.note(Heard::Put(table, puts)).map(drop)
    }
    fn handle_delete_multiple(
        &self,
        table: Vec<u8>,
        deletes: Vec<TDelete>,
    ) -> thrift::Result<Vec<TDelete>> {
        answer!(self.note(Heard::Delete(table, deletes)), Told::Left)
    }
    fn handle_get_scanner_results(
        &self,
        table: Vec<u8>,
        scan: TScan,
        rows: i32,
    ) -> thrift::Result<Vec<TResult>> {
        answer!(self.note(Heard::Scan(table, scan, rows)), Told::Rows)
    }
    fn handle_get_all_region_locations(
        &self,
        table: Vec<u8>,
    ) -> thrift::Result<Vec<THRegionLocation>> {
        answer!(self.note(Heard::Regions(table)), Told::Regions)
    }
    fn handle_get_table_descriptor(&self, table: TTableName) -> thrift::Result<TTableDescriptor> {
        answer!(self.note(Heard::Describe(table)), Told::Table)
    }
    fn handle_table_exists(&self, table: TTableName) -> thrift::Result<bool> {
        answer!(self.note(Heard::Exists(table)), Told::Bool)
    }
    fn handle_create_table(&self, table: TTableDescriptor) -> thrift::Result<()> {
        self.note(Heard::Create(table)).map(drop)
    }
    fn handle_is_table_disabled(&self, table: TTableName) -> thrift::Result<bool> {
        answer!(self.note(Heard::IsDisabled(table)), Told::Bool)
    }
    fn handle_create_namespace(&self, namespace: TNamespaceDescriptor) -> thrift::Result<()> {
        self.note(Heard::CreateNamespace(namespace)).map(drop)
    }
    fn handle_get_thrift_server_type(&self) -> thrift::Result<TThriftServerType> {
        let number = answer!(self.note(Heard::ServerType), Told::Number);
        number.map(TThriftServerType)
    }
}

pub(super) fn input<T>(
    protocol: Protocol,
    frame: &[u8],
    read: impl FnOnce(&mut dyn TInputProtocol) -> T,
) -> (T, usize) {
    let mut rest = frame;
    let value = match protocol {
        Protocol::Compact => read(&mut TCompactInputProtocol::new(&mut rest)),
        Protocol::Binary => read(&mut TBinaryInputProtocol::new(&mut rest, true)),
    };
    (value, rest.len())
}

pub(super) fn output(protocol: Protocol, write: impl FnOnce(&mut dyn TOutputProtocol)) -> Vec<u8> {
    let mut frame = Vec::new();
    match protocol {
        Protocol::Compact => write(&mut TCompactOutputProtocol::new(&mut frame)),
        Protocol::Binary => write(&mut TBinaryOutputProtocol::new(&mut frame, true)),
    }
    frame
}

/// Gives a request to the generated gateway: what it heard and its reply. Nothing of the request may be left over.
pub(super) fn gateway(protocol: Protocol, request: &[u8], told: Told) -> (Heard, Vec<u8>) {
    let gateway = Gateway {
        heard: RefCell::default(),
        told,
    };
    let reply = output(protocol, |out| {
        let processor = THBaseServiceSyncProcessor::new(&gateway);
        let (outcome, left) = input(protocol, request, |input| processor.process(input, out));
        outcome.expect("a request of the interface");
        assert_eq!(left, 0, "the request has more than its arguments");
    });
    let heard = gateway.heard.into_inner().expect("a handler was called");
    (heard, reply)
}

/// What the other side reads of a request.
pub(super) fn heard(protocol: Protocol, request: &[u8], asked: &Asked) -> Heard {
    let told = match asked {
        Asked::ServerType => Told::Number(2),
        Asked::Regions(_) => Told::Regions(Vec::new()),
        Asked::Describe(table) => Told::Table(TTableDescriptor::new(name(table), None, None, None)),
        Asked::Exists(_) | Asked::IsDisabled(_) => Told::Bool(true),
        Asked::Get(..) | Asked::Scan(..) => Told::Rows(Vec::new()),
        Asked::Delete(..) => Told::Left(Vec::new()),
        Asked::Create(_) | Asked::CreateNamespace(_) | Asked::Put(..) => Told::Nothing,
        // Its arguments are a structure of the interface as it was trimmed.
        Asked::PutIf(..) => {
            let (arguments, left) = input(protocol, request, |input| {
                let head = input.read_message_begin().expect("a head");
                assert_eq!(head.name, "checkAndPut");
                CheckAndPutArguments::read_from_in_protocol(input).expect("arguments")
            });
            assert_eq!(left, 0, "the request has more than its arguments");
            return Heard::PutIf(arguments);
        }
    };
    gateway(protocol, request, told).0
}

/// The request as the generated client writes it, the first on its connection.
pub(super) fn written(protocol: Protocol, heard: &Heard) -> Vec<u8> {
    let mut frame = Vec::new();
    match protocol {
        Protocol::Compact => ask(TCompactOutputProtocol::new(&mut frame), heard),
        Protocol::Binary => ask(TBinaryOutputProtocol::new(&mut frame, true), heard),
    }
    frame
}

pub(super) fn ask(mut out: impl TOutputProtocol, heard: &Heard) {
    if let Heard::PutIf(arguments) = heard {
        let head = TMessageIdentifier::new("checkAndPut", TMessageType::Call, 1);
        out.write_message_begin(&head).expect("memory");
        arguments.write_to_out_protocol(&mut out).expect("memory");
        return;
    }
    let nothing: &[u8] = &[];
    let unanswered = TBinaryInputProtocol::new(nothing, true);
    let mut client = THBaseServiceSyncClient::new(unanswered, out);
    let done = match heard.clone() {
        Heard::ServerType => client.get_thrift_server_type().map(drop),
        Heard::Regions(table) => client.get_all_region_locations(table).map(drop),
        Heard::Describe(table) => client.get_table_descriptor(table).map(drop),
        Heard::Exists(table) => client.table_exists(table).map(drop),
        Heard::IsDisabled(table) => client.is_table_disabled(table).map(drop),
        Heard::Create(table) => client.create_table(table),
        Heard::CreateNamespace(namespace) => client.create_namespace(namespace),
        Heard::Get(table, gets) => client.get_multiple(table, gets).map(drop),
        Heard::Scan(table, scan, rows) => client.get_scanner_results(table, scan, rows).map(drop),
        Heard::Put(table, puts) => client.put_multiple(table, puts),
        Heard::Delete(table, deletes) => client.delete_multiple(table, deletes).map(drop),
        Heard::PutIf(_) => unreachable!("written above"),
    };
    assert!(done.is_err(), "nobody answers");
}

/// The reply of the generated gateway to a call.
pub(super) fn reply(protocol: Protocol, sequence: i32, call: &Call<'_>, told: Told) -> Vec<u8> {
    let request = call.encode(protocol, sequence).expect("memory");
    gateway(protocol, &request, told).1
}
