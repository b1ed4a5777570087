//! Our own encoding against what the Thrift compiler made of HBase's interface (`connectors/tests/thrift2`).
//!
//! Invariant: each call and each answer that we know crosses in both protocols, between our code and the generated one.

mod gateway;
mod mirror;
pub(super) mod server;
mod values;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use thrift::protocol::TMessageType;

use super::interface::*;
use super::{Kind, Protocol, WireError};
use crate::hbase::reply::{Answer, Family, Page, Refusal, Region, decode, families, region};
use crate::hbase::request::{Call, Projection, Scan, TableName};
use gateway::{Told, heard, input, reply, written};
use mirror::{Asked, delete, expected, name};
use values::{asked, family, location, new_delete, protocols, result};

proptest! {
    #[test]
    fn the_generated_gateway_reads_every_request_as_it_was_meant(
        protocol in protocols(),
        sequence in any::<i32>(),
        asked in asked(),
    ) {
        let request = asked.call().encode(protocol, sequence).expect("memory");
        let (head, _) = input(protocol, &request, |input| input.read_message_begin());
        let head = head.expect("a head");
        prop_assert_eq!(
            (head.name.as_str(), head.message_type, head.sequence_number),
            (asked.call().name(), TMessageType::Call, sequence)
        );
        prop_assert_eq!(heard(protocol, &request, &asked), expected(&asked));
    }

    /// Fields go in the order of their numbers and numbers have one spelling, so there is one request for a call.
    #[test]
    fn requests_are_byte_for_byte_those_of_the_generated_client(
        protocol in protocols(),
        asked in asked(),
    ) {
        let request = asked.call().encode(protocol, 1).expect("memory");
        prop_assert_eq!(written(protocol, &expected(&asked)), request);
    }
}

/// Cells of a row as they are compared: family, qualifier, value, time.
type Cells = Vec<(Vec<u8>, Vec<u8>, Vec<u8>, i64)>;

fn rows_of(page: &Page) -> Vec<(Option<Vec<u8>>, Cells)> {
    let cells = |row: &crate::hbase::reply::Row<'_>| -> Cells {
        let cells = row.cells().map(|cell| {
            let (family, qualifier) = (cell.family.to_vec(), cell.qualifier.to_vec());
            (family, qualifier, cell.value.to_vec(), cell.timestamp)
        });
        cells.collect()
    };
    let rows = page.rows();
    rows.map(|row| (row.key().map(<[u8]>::to_vec), cells(&row)))
        .collect()
}

fn rows_told(told: &[TResult]) -> Vec<(Option<Vec<u8>>, Cells)> {
    let cell = |cell: TColumnValue| {
        let at = cell.timestamp.expect("every cell has one");
        (cell.family, cell.qualifier, cell.value, at)
    };
    let told = told.iter().cloned();
    told.map(|row| (row.row, row.column_values.into_iter().map(cell).collect()))
        .collect()
}

proptest! {
    #[test]
    fn rows_of_the_generated_gateway_are_read_as_they_are(
        protocol in protocols(),
        sequence in any::<i32>(),
        is_scan in any::<bool>(),
        told in vec(result(), 0..20),
    ) {
        let table = TableName::parse("t").expect("a name");
        let (scan, projection) = (Scan::default(), Projection::default());
        let call = match is_scan {
            true => Call::Scan(&table, &scan, &projection),
            false => Call::Get(&table, &[], &projection),
        };
        let frame = reply(protocol, sequence, &call, Told::Rows(told.clone()));
        let page = Page::decode(frame, protocol, call.name(), sequence, told.len());
        let page = page.expect("a reply").expect("rows");
        prop_assert_eq!(page.len(), told.len());
        prop_assert_eq!(rows_of(&page), rows_told(&told));
    }

    #[test]
    fn regions_of_the_generated_gateway_are_read_as_they_are(
        protocol in protocols(),
        sequence in any::<i32>(),
        told in vec(location(), 0..20),
    ) {
        let table = TableName::parse("t").expect("a name");
        let call = Call::Regions(&table);
        let frame = reply(protocol, sequence, &call, Told::Regions(told.clone()));
        let found = decode(&frame, protocol, call.name(), sequence, |reader, field| {
            let mut found = Vec::new();
            reader.list(field, Kind::Struct, |reader| {
                found.push(region(&frame, reader)?);
                Ok(())
            })?;
            Ok(found)
        });
        let expected = told.into_iter().map(|one| Region {
            start: one.region_info.start_key.unwrap_or_default(),
            end: one.region_info.end_key.unwrap_or_default(),
        });
        prop_assert_eq!(found, Ok(Ok(Some(expected.collect::<Vec<_>>()))));
    }

    #[test]
    fn families_of_the_generated_gateway_are_read_as_they_are(
        protocol in protocols(),
        sequence in any::<i32>(),
        told in vec(family(), 0..20),
    ) {
        let table = TableName::parse("n:t").expect("a name");
        let call = Call::Describe(&table);
        let descriptor = TTableDescriptor::new(name(&table), told.clone(), None, None);
        let frame = reply(protocol, sequence, &call, Told::Table(descriptor));
        let found = decode(&frame, protocol, call.name(), sequence, |reader, field| {
            assert!(field.is(Kind::Struct));
            families(&frame, reader)
        });
        let expected = told.into_iter().map(|one| Family {
            name: one.name,
            versions: one.max_versions.unwrap_or_default(),
            keeps_deleted: one
                .keep_deleted_cells
                .is_some_and(|keeps| keeps != TKeepDeletedCells::FALSE),
        });
        prop_assert_eq!(found, Ok(Ok(Some(expected.collect::<Vec<_>>()))));
    }

    #[test]
    fn plain_answers_of_the_generated_gateway_are_read_as_they_are(
        protocol in protocols(),
        sequence in any::<i32>(),
        flag in any::<bool>(),
        number in any::<i32>(),
        left in vec(new_delete(), 0..20),
    ) {
        let table = TableName::parse("t").expect("a name");
        let calls = [Call::Exists(&table), Call::IsDisabled(&table)];
        for call in calls {
            let frame = reply(protocol, sequence, &call, Told::Bool(flag));
            let found = decode(&frame, protocol, call.name(), sequence, |reader, field| reader.bool(field));
            prop_assert_eq!(found, Ok(Ok(Some(flag))));
        }
        let call = Call::ServerType;
        let frame = reply(protocol, sequence, &call, Told::Number(number));
        let found = decode(&frame, protocol, call.name(), sequence, |reader, field| reader.i32(field));
        prop_assert_eq!(found, Ok(Ok(Some(number))));
        let call = Call::Put(&table, &[]);
        let frame = reply(protocol, sequence, &call, Told::Nothing);
        let found = decode(&frame, protocol, call.name(), sequence, |reader, field| reader.skip(field.kind));
        prop_assert_eq!(found, Ok(Ok(None)));
        let call = Call::Delete(&table, &left);
        let frame = reply(protocol, sequence, &call, Told::Left(left.iter().map(delete).collect()));
        let found = decode(&frame, protocol, call.name(), sequence, |reader, field| {
            let mut count = 0;
            reader.list(field, Kind::Struct, |reader| {
                count += 1;
                reader.skip(Kind::Struct)
            })?;
            Ok(count)
        });
        prop_assert_eq!(found, Ok(Ok(Some(left.len()))));
    }

    #[test]
    fn refusals_of_the_generated_gateway_are_read_as_they_are(
        protocol in protocols(),
        sequence in any::<i32>(),
        message in option::of(".{0,40}"),
        retry in option::of(any::<bool>()),
        asked in asked().prop_filter("has a refusal", |asked| {
            // The arguments of a checked put are no call of the interface as it was trimmed, and a gateway always knows its type.
            !matches!(asked, Asked::PutIf(..) | Asked::ServerType)
        }),
    ) {
        let call = asked.call();
        let read = |frame: &[u8]| -> Result<Answer<Option<()>>, WireError> {
            decode(frame, protocol, call.name(), sequence, |_, _| panic!("there is no result"))
        };
        let failed = TIOError::new(message.clone(), retry);
        let frame = reply(protocol, sequence, &call, Told::Failed(failed));
        let message = message.unwrap_or_default();
        let refusal = Refusal::Remote { message: message.clone(), retry };
        prop_assert_eq!(read(&frame), Ok(Err(refusal)));
        let frame = reply(protocol, sequence, &call, Told::Unable(message.clone()));
        prop_assert_eq!(read(&frame), Ok(Err(Refusal::Application { message })));
    }
}

/// Rows are asked for whole and cells have times: anything else is no answer.
#[test]
fn parts_of_rows_and_cells_without_a_time_are_refused() {
    let table = TableName::parse("t").expect("a name");
    let projection = Projection::default();
    let call = Call::Get(&table, &[], &projection);
    let timeless = TColumnValue::new(vec![1], vec![2], vec![3], None, None, None);
    for result in [
        TResult::new(vec![1], vec![], None, true),
        TResult::new(vec![1], vec![timeless], None, None),
    ] {
        for protocol in [Protocol::Compact, Protocol::Binary] {
            let frame = reply(protocol, 1, &call, Told::Rows(vec![result.clone()]));
            let page = Page::decode(frame, protocol, call.name(), 1, 1);
            assert_eq!(page.map(drop), Err(WireError::Structure));
        }
    }
}
