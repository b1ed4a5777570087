//! What can go wrong with a store.
//!
//! Invariant: a text in here is what a user can act on: no stack trace, no secret.

/// Kinds of failure that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreFault {
    /// The file is not there.
    Missing,
    /// The bucket or container that it should be in is not there.
    NoContainer,
    /// A file is there already.
    Exists,
    /// The store does not let us.
    Denied,
    /// No space is left, or a quota is used up.
    Full,
    /// It does not answer, or not now.
    Unreachable,
    /// It cannot keep archives.
    Unfit,
    /// Anything else; what was asked may have happened.
    Other,
}

/// An error of a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("could not {action} \"{path}\"")]
pub struct StoreError {
    /// What was tried, as a verb.
    pub action: &'static str,
    /// The file or folder, with the name of the store.
    pub path: String,
    /// Which kind of failure.
    pub fault: StoreFault,
    /// Why.
    pub detail: String,
    /// What a user of this store can do about it, when that is not what users of any store can.
    advice: Option<&'static str>,
}

impl StoreError {
    pub(crate) fn new(
        action: &'static str,
        path: impl Into<String>,
        fault: StoreFault,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            action,
            path: path.into(),
            fault,
            detail: detail.into(),
            advice: None,
        }
    }

    /// The same with another hint.
    #[must_use]
    pub(crate) fn with_hint(self, hint: Option<&'static str>) -> Self {
        Self {
            advice: hint.or(self.advice),
            ..self
        }
    }

    /// Its SQLSTATE.
    pub fn sqlstate(&self) -> &'static str {
        match self.fault {
            StoreFault::Missing | StoreFault::NoContainer => "58P01",
            StoreFault::Exists => "58P02",
            StoreFault::Denied => "42501",
            StoreFault::Full => "53100",
            StoreFault::Unreachable => "08006",
            StoreFault::Unfit => "0A000",
            StoreFault::Other => "58030",
        }
    }

    /// What a user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        if self.advice.is_some() {
            return self.advice;
        }
        match self.fault {
            StoreFault::NoContainer => Some("Create it, or correct the option \"path\"."),
            StoreFault::Denied => {
                Some("Let the user that the server runs as, or the option \"user\", write there.")
            }
            StoreFault::Full => Some("Make room, or raise the quota; nothing was committed."),
            _ => None,
        }
    }
}
