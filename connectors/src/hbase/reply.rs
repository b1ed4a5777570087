//! Decodes the replies of HBase's Thrift2 interface.
//!
//! Invariant: a reply is taken only for the call whose name and sequence number it carries, and only when the frame holds nothing
//! else.

use super::wire::{Field, Kind, MessageKind, Protocol, Reader, Span, Verdict, WireError};

/// What a gateway answered instead of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// HBase, or the gateway on its behalf, failed (`TIOError`, `TIllegalArgument`).
    Remote {
        /// Its words, with a Java stack trace.
        message: String,
        /// Whether it says that trying again may help.
        retry: Option<bool>,
    },
    /// The server does not know the call.
    Application {
        /// Its words.
        message: String,
    },
}

/// A decoded reply: the result, or why there is none.
pub(super) type Answer<T> = Result<T, Refusal>;

/// Reads a reply to the call `name`; `result` reads the field of the result.
pub(super) fn decode<T>(
    frame: &[u8],
    protocol: Protocol,
    name: &str,
    sequence: i32,
    mut result: impl FnMut(&mut Reader<'_>, Field) -> Result<T, WireError>,
) -> Result<Answer<Option<T>>, WireError> {
    let mut reader = Reader::new(frame, protocol);
    let (kind, found, number) = reader.message()?;
    if number != sequence || found != name.as_bytes() {
        return Err(WireError::WrongCall);
    }
    let answer = match kind {
        MessageKind::Exception => Err(application(&mut reader)?),
        MessageKind::Reply => {
            let (mut value, mut refusal) = (None, None);
            reader.structure(|reader, field| {
                match field.id {
                    0 => value = Some(result(reader, field)?),
                    _ => refusal = Some(remote(reader, field)?),
                }
                Ok(Verdict::Read)
            })?;
            match refusal {
                Some(refusal) => Err(refusal),
                None => Ok(value),
            }
        }
    };
    match reader.position() == frame.len() {
        true => Ok(answer),
        false => Err(WireError::Length),
    }
}

/// The length of the first message in bytes from a stream without frames, `None` when more must be read.
pub(super) fn message_length(bytes: &[u8], protocol: Protocol) -> Result<Option<usize>, WireError> {
    let mut reader = Reader::new(bytes, protocol);
    let whole = reader.message().and_then(|_| reader.skip(Kind::Struct));
    match whole {
        Ok(()) => Ok(Some(reader.position())),
        Err(WireError::Truncated) => Ok(None),
        Err(error) => Err(error),
    }
}

fn application(reader: &mut Reader<'_>) -> Result<Refusal, WireError> {
    let mut message = String::new();
    reader.structure(|reader, field| match field.id {
        1 => {
            message = reader.text(field)?;
            Ok(Verdict::Read)
        }
        _ => Ok(Verdict::Skip),
    })?;
    Ok(Refusal::Application { message })
}

fn remote(reader: &mut Reader<'_>, field: Field) -> Result<Refusal, WireError> {
    if field.kind != Kind::Struct {
        return Err(WireError::Structure);
    }
    let (mut message, mut retry) = (String::new(), None);
    reader.structure(|reader, field| {
        match field.id {
            1 => message = reader.text(field)?,
            2 => retry = Some(reader.bool(field)?),
            _ => return Ok(Verdict::Skip),
        }
        Ok(Verdict::Read)
    })?;
    Ok(Refusal::Remote { message, retry })
}

/// Rows as they came: the frame, and where in it everything is.
#[derive(Debug, Clone, Default)]
pub(super) struct Page {
    frame: Vec<u8>,
    rows: Vec<RowAt>,
    cells: Vec<CellAt>,
}

#[derive(Debug, Clone, Copy)]
struct RowAt {
    key: Option<Span>,
    cells_start: u32,
    cells_end: u32,
}

#[derive(Debug, Clone, Copy)]
struct CellAt {
    family: Span,
    qualifier: Span,
    value: Span,
    timestamp: i64,
}

impl CellAt {
    fn of(self, page: &Page) -> Cell<'_> {
        Cell {
            family: self.family.of(&page.frame),
            qualifier: self.qualifier.of(&page.frame),
            value: self.value.of(&page.frame),
            timestamp: self.timestamp,
        }
    }
}

/// A cell of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell<'a> {
    pub(super) family: &'a [u8],
    pub(super) qualifier: &'a [u8],
    pub(super) value: &'a [u8],
    /// Milliseconds since the Unix epoch, unless a writer chose otherwise.
    pub(super) timestamp: i64,
}

/// A row of a page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    page: &'a Page,
    at: RowAt,
}

impl<'a> Row<'a> {
    /// Its key; `None` for a get that found nothing.
    pub(super) fn key(&self) -> Option<&'a [u8]> {
        self.at.key.map(|key| key.of(&self.page.frame))
    }

    /// Its cells, by family and qualifier.
    pub(super) fn cells(&self) -> impl ExactSizeIterator<Item = Cell<'a>> + use<'a> {
        let page = self.page;
        self.places().iter().map(|cell| cell.of(page))
    }

    /// The value of the cell at a position.
    pub(super) fn value(&self, index: usize) -> Option<&'a [u8]> {
        let cell = self.places().get(index)?;
        Some(cell.value.of(&self.page.frame))
    }

    fn places(&self) -> &'a [CellAt] {
        let range = self.at.cells_start as usize..self.at.cells_end as usize;
        self.page.cells.get(range).unwrap_or_default()
    }
}

impl Page {
    /// Decodes the answer to a get or a scan of at most `rows_max` rows: an empty row is a byte of a reply, and twenty here.
    pub(super) fn decode(
        frame: Vec<u8>,
        protocol: Protocol,
        name: &str,
        sequence: i32,
        rows_max: usize,
    ) -> Result<Answer<Page>, WireError> {
        let (mut rows, mut cells) = (Vec::new(), Vec::new());
        let answer = decode(&frame, protocol, name, sequence, |reader, field| {
            reader.list(field, Kind::Struct, |reader| {
                if rows.len() >= rows_max {
                    return Err(WireError::Structure);
                }
                let start = reader.position();
                rows.push(row(reader, &mut cells)?);
                if rows.len() == 1 {
                    // Rows of a table are much alike; what the first one says is still bounded by the frame.
                    let (at, left) = (reader.position(), frame.len() - reader.position());
                    let more = left / (at - start).max(1);
                    rows.reserve(more.min(rows_max));
                    cells.reserve(cells.len() * more);
                }
                Ok(())
            })
        })?;
        Ok(match answer {
            Ok(Some(())) => Ok(Page { frame, rows, cells }),
            Ok(None) => return Err(WireError::Structure),
            Err(refusal) => Err(refusal),
        })
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Bytes of the reply.
    pub(super) fn bytes(&self) -> usize {
        self.frame.len()
    }

    /// The rows in their order.
    pub(super) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|at| Row {
            page: self,
            at: *at,
        })
    }

    /// The row at a position.
    pub(super) fn row(&self, index: usize) -> Option<Row<'_>> {
        let at = *self.rows.get(index)?;
        Some(Row { page: self, at })
    }

    /// Key of the last row.
    pub(super) fn last_key(&self) -> Option<&[u8]> {
        self.rows.last()?.key.map(|key| key.of(&self.frame))
    }
}

fn row(reader: &mut Reader<'_>, cells: &mut Vec<CellAt>) -> Result<RowAt, WireError> {
    let mut key = None;
    let start = cells.len();
    reader.structure(|reader, field| {
        match field.id {
            1 => key = Some(reader.span(field)?),
            2 => reader.list(field, Kind::Struct, |reader| {
                cells.push(match reader.usual_cell() {
                    Some(([family, qualifier, value], timestamp)) => CellAt {
                        family,
                        qualifier,
                        value,
                        timestamp,
                    },
                    None => cell(reader)?,
                });
                Ok(())
            })?,
            // Rows are asked for whole; a part of one would be taken for a row with NULLs.
            4 if reader.bool(field)? => return Err(WireError::Structure),
            4 => {}
            _ => return Ok(Verdict::Skip),
        }
        Ok(Verdict::Read)
    })?;
    let place = |count: usize| u32::try_from(count).map_err(|_| WireError::Length);
    Ok(RowAt {
        key,
        cells_start: place(start)?,
        cells_end: place(cells.len())?,
    })
}

fn cell(reader: &mut Reader<'_>) -> Result<CellAt, WireError> {
    let (mut family, mut qualifier, mut value, mut timestamp) = (None, None, None, None);
    reader.structure(|reader, field| {
        match field.id {
            1 => family = Some(reader.span(field)?),
            2 => qualifier = Some(reader.span(field)?),
            3 => value = Some(reader.span(field)?),
            4 => timestamp = Some(reader.i64(field)?),
            _ => return Ok(Verdict::Skip),
        }
        Ok(Verdict::Read)
    })?;
    match (family, qualifier, value, timestamp) {
        (Some(family), Some(qualifier), Some(value), Some(timestamp)) => Ok(CellAt {
            family,
            qualifier,
            value,
            timestamp,
        }),
        _ => Err(WireError::Structure),
    }
}

/// A region of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Region {
    /// First key; empty for the first region.
    pub(super) start: Vec<u8>,
    /// First key of the next; empty for the last region.
    pub(super) end: Vec<u8>,
}

/// Reads one region of `getAllRegionLocations`.
pub(super) fn region(frame: &[u8], reader: &mut Reader<'_>) -> Result<Region, WireError> {
    let (mut start, mut end) = (Span::default(), Span::default());
    reader.structure(|reader, field| match (field.id, field.kind) {
        (2, Kind::Struct) => {
            reader.structure(|reader, field| {
                match field.id {
                    3 => start = reader.span(field)?,
                    4 => end = reader.span(field)?,
                    _ => return Ok(Verdict::Skip),
                }
                Ok(Verdict::Read)
            })?;
            Ok(Verdict::Read)
        }
        _ => Ok(Verdict::Skip),
    })?;
    Ok(Region {
        start: start.of(frame).to_vec(),
        end: end.of(frame).to_vec(),
    })
}

/// A column family as it is declared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Family {
    pub(super) name: Vec<u8>,
    /// Versions of each cell that are kept.
    pub(super) versions: i32,
    /// Whether cells stay that were deleted later.
    pub(super) keeps_deleted: bool,
}

/// Reads the families of a `TTableDescriptor`.
pub(super) fn families(frame: &[u8], reader: &mut Reader<'_>) -> Result<Vec<Family>, WireError> {
    let mut families = Vec::new();
    reader.structure(|reader, field| match field.id {
        2 => {
            reader.list(field, Kind::Struct, |reader| {
                let mut family = Family::default();
                reader.structure(|reader, field| {
                    match field.id {
                        1 => family.name = reader.span(field)?.of(frame).to_vec(),
                        // `TKeepDeletedCells`: 0 for no.
                        9 => family.keeps_deleted = reader.i32(field)? != 0,
                        10 => family.versions = reader.i32(field)?,
                        _ => return Ok(Verdict::Skip),
                    }
                    Ok(Verdict::Read)
                })?;
                families.push(family);
                Ok(())
            })?;
            Ok(Verdict::Read)
        }
        _ => Ok(Verdict::Skip),
    })?;
    Ok(families)
}
