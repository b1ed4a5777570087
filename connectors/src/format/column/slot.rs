//! Values that a record's layout has read already, put into their column.
//!
//! Invariant: a slot's value is the one that [`ColumnBuilder::append`] makes of the slot's text, which does it wherever the layout
//! has found no more than the text.

use super::{ColumnBuilder, Values, catch_up};
use crate::format::Fault;
use crate::format::json::{Kind, Layout, Read, Slot};

impl ColumnBuilder {
    /// Takes the next free slot, and one for each field of a struct.
    pub(in crate::format) fn take_slots(&mut self, next: &mut usize) {
        self.slot = *next;
        *next += 1;
        if let Values::Struct { fields, .. } = &mut self.values {
            fields.iter_mut().for_each(|field| field.take_slots(next));
        }
    }

    /// How a layout reads this column, and the slot for it.
    pub(in crate::format) fn kind(&self) -> (Kind, usize) {
        let kind = match &self.values {
            Values::Bool(_) => Kind::Bool,
            Values::Int2(_) => Kind::Integer(i16::MIN.into(), i16::MAX.into()),
            Values::Int4(_) => Kind::Integer(i32::MIN.into(), i32::MAX.into()),
            Values::Int8(_) => Kind::Integer(i64::MIN, i64::MAX),
            Values::Oid(_) => Kind::Integer(0, u32::MAX.into()),
            // No text has more characters than bytes.
            Values::Text { length_max, .. } => {
                Kind::Text(length_max.map_or(usize::MAX, |characters| characters as usize))
            }
            Values::Timestamp { zoned, .. } => Kind::Timestamp { zoned: *zoned },
            Values::Struct {
                fields, members, ..
            } => Kind::Object(Box::new(Layout::new(
                members.clone(),
                fields.iter().map(ColumnBuilder::kind),
            ))),
            _ => Kind::Other,
        };
        (kind, self.slot)
    }

    /// Appends what a layout has read of `record`. True when the value is not NULL.
    pub(in crate::format) fn fill(&mut self, slots: &[Slot], record: &str) -> Result<bool, Fault> {
        let slot = slots.get(self.slot).copied().unwrap_or(Slot::NULL);
        if self.unread.is_some() {
            return self.pass_over(slot, slots, record);
        }
        match (&mut self.values, slot.read) {
            (_, Read::Null) => {
                self.append_null();
                return Ok(false);
            }
            // The layout keeps to the bounds of the column's kind.
            (Values::Int2(values), Read::Integer(value)) => values.append_value(value as i16),
            (Values::Int4(values), Read::Integer(value)) => values.append_value(value as i32),
            (Values::Int8(values), Read::Integer(value)) => values.append_value(value),
            (Values::Oid(values), Read::Integer(value)) => values.append_value(value as u32),
            (Values::Timestamp { values, .. }, Read::Integer(us)) => values.append_value(us),
            (Values::Bool(values), Read::Bool(value)) => values.append_value(value),
            (Values::Text { values, .. }, Read::Text) => match slot.content(record) {
                Some(text) => values.append_value(text),
                None => return self.append(slot.of(record)),
            },
            (
                Values::Struct {
                    fields,
                    validity,
                    behind,
                    ..
                },
                Read::Object,
            ) => {
                catch_up(fields, behind);
                let mut outcome = Ok(true);
                for field in fields {
                    if let Err(fault) = field.fill(slots, record) {
                        outcome = outcome.and(Err(fault));
                    }
                }
                validity.append_non_null();
                return outcome;
            }
            _ => return self.append(slot.of(record)),
        }
        Ok(true)
    }

    /// Counts a value that nobody reads, when the layout has found nothing wrong with it.
    fn pass_over(&mut self, slot: Slot, slots: &[Slot], record: &str) -> Result<bool, Fault> {
        match (&mut self.values, slot.read) {
            (_, Read::Null) => {
                self.append_null();
                return Ok(false);
            }
            (Values::Struct { fields, .. }, Read::Object) => {
                let mut outcome = Ok(true);
                for field in fields {
                    if let Err(fault) = field.fill(slots, record) {
                        outcome = outcome.and(Err(fault));
                    }
                }
                self.append_null();
                return outcome;
            }
            (_, Read::Extent | Read::Object) => return self.append(slot.of(record)),
            _ => {}
        }
        self.append_null();
        Ok(true)
    }
}
