//! The one-letter column kinds of `query` lines.
//!
//! Invariant: `Any` matches every kind; the simple protocol, which the files share, carries no reliable type.

use sqllogictest::ColumnType;
use tokio_postgres::types::Type;

/// What a column holds, as far as a test file states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `I`: an integer type or oid.
    Integer,
    /// `R`: numeric or floating point.
    Real,
    /// `B`: boolean.
    Bool,
    /// `D`: date, time, timestamp or interval.
    Time,
    /// `T`: everything else.
    Text,
    /// `?`: not stated.
    Any,
}

impl ColumnType for Kind {
    fn from_char(value: char) -> Option<Self> {
        match value {
            'I' => Some(Self::Integer),
            'R' => Some(Self::Real),
            'B' => Some(Self::Bool),
            'D' => Some(Self::Time),
            'T' => Some(Self::Text),
            '?' => Some(Self::Any),
            _ => None,
        }
    }

    fn to_char(&self) -> char {
        match self {
            Self::Integer => 'I',
            Self::Real => 'R',
            Self::Bool => 'B',
            Self::Time => 'D',
            Self::Text => 'T',
            Self::Any => '?',
        }
    }
}

impl Kind {
    /// The kind of a Postgres type.
    pub fn of(ty: &Type) -> Self {
        match *ty {
            Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => Self::Integer,
            Type::FLOAT4 | Type::FLOAT8 | Type::NUMERIC => Self::Real,
            Type::BOOL => Self::Bool,
            Type::DATE | Type::TIME | Type::TIMESTAMP | Type::TIMESTAMPTZ | Type::INTERVAL => {
                Self::Time
            }
            _ => Self::Text,
        }
    }
}

/// The number of columns must agree, and the kinds wherever both sides state one.
// The signature is sqllogictest's.
#[allow(clippy::ptr_arg)]
pub fn agree(actual: &Vec<Kind>, expected: &Vec<Kind>) -> bool {
    let same = |a: &Kind, b: &Kind| a == b || *a == Kind::Any || *b == Kind::Any;
    actual.len() == expected.len() && actual.iter().zip(expected).all(|(a, b)| same(a, b))
}
