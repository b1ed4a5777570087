//! What can be wrong with names, types, options and catalog changes.
//!
//! Invariant: the primary text never contains a secret option's value, and user text in it is bounded and free of control
//! characters.

pub use thalweg_sql::Report;

/// User text is cut to this many characters in messages.
const QUOTED_CHARS_MAX: usize = 200;

/// An error of the catalog. `Display` is the primary line of the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// 42P01: no relation of that name.
    #[error("{kind} \"{name}\" does not exist")]
    UndefinedRelation {
        /// `relation`, or the kind a statement named.
        kind: &'static str,
        /// Name as written.
        name: String,
        /// Nearest existing name.
        nearest: Option<String>,
    },
    /// 3F000: no schema of that name.
    #[error("schema \"{name}\" does not exist")]
    UndefinedSchema {
        /// Name as written.
        name: String,
        /// Nearest existing name.
        nearest: Option<String>,
    },
    /// 3F000: an unqualified CREATE, and no schema of the search path exists.
    #[error("no schema has been selected to create in")]
    NoSchemaSelected,
    /// 42P07: the name is taken.
    #[error("relation \"{0}\" already exists")]
    DuplicateRelation(String),
    /// 42P06: the schema name is taken.
    #[error("schema \"{0}\" already exists")]
    DuplicateSchema(String),
    /// 42809: the statement names another kind of object.
    #[error("\"{name}\" is not {expected}")]
    WrongKind {
        /// Name of the object.
        name: String,
        /// Kind the statement named, with its article: `a view`.
        expected: &'static str,
        /// The statement that would do.
        hint: Option<String>,
    },
    /// 0A000: another database was named.
    #[error("cross-database references are not implemented: \"{0}\"")]
    CrossDatabase(String),
    /// 42601: a name with too many parts or with a function in it.
    #[error("improper relation name: \"{0}\"")]
    ImproperName(String),
    /// 2BP01: something depends on what would be dropped.
    #[error("cannot drop {object} because other objects depend on {pronoun}")]
    DependentObjects {
        /// The object with its kind, or `desired object(s)`.
        object: String,
        /// `it` or `them`.
        pronoun: &'static str,
        /// One line per dependency.
        detail: String,
    },
    /// 2BP01: the object belongs to another one and goes with it.
    #[error("cannot drop {object} because {owner} requires it")]
    RequiredBy {
        /// The object with its kind.
        object: String,
        /// Its owner with its kind.
        owner: String,
    },
    /// 2BP01: the schema is in every database.
    #[error("cannot drop schema {0} because it is required by the database system")]
    SystemSchema(String),
    /// 42P16: CREATE OR REPLACE VIEW changes columns that exist.
    #[error("{message}")]
    InvalidReplacement {
        /// Postgres' text for the first difference.
        message: String,
    },
    /// 42P17: a view would read itself.
    #[error("infinite recursion detected in the definition of view \"{0}\"")]
    Recursion(String),
    /// 42704: no type of that name.
    #[error("type \"{name}\" does not exist")]
    UndefinedType {
        /// Name as written.
        name: String,
        /// Nearest existing name.
        nearest: Option<String>,
    },
    /// 42701: a column name given twice.
    #[error("column \"{0}\" specified more than once")]
    DuplicateColumn(String),
    /// 42710: a constraint of the relation has the name.
    #[error("constraint \"{name}\" for relation \"{relation}\" already exists")]
    DuplicateConstraint {
        /// Name as written.
        name: String,
        /// The relation.
        relation: String,
    },
    /// 42703: a constraint or option names a column that is not there.
    #[error("column \"{name}\" does not exist")]
    UndefinedColumn {
        /// Name as written.
        name: String,
        /// Nearest existing name.
        nearest: Option<String>,
    },
    /// 42601: a type or option list that cannot be meant.
    #[error("{0}")]
    Syntax(String),
    /// 22023: an option or type modifier with a value it cannot have.
    #[error("{message}")]
    InvalidValue {
        /// Primary text.
        message: String,
        /// What is allowed.
        detail: Option<String>,
        /// What may have been meant.
        hint: Option<String>,
    },
    /// 0A000: promised, not built.
    #[error("{what} not built yet")]
    NotBuilt {
        /// What, with its verb: `kafka sinks are`.
        what: String,
        /// What to use instead.
        hint: Option<String>,
    },
    /// 54000: a limit of the catalog.
    #[error("{0}")]
    Limit(String),
    /// XX001: a change that breaks an invariant of the snapshot it is applied to.
    #[error("catalog change does not apply")]
    DoesNotApply(String),
    /// XX001: a record of the log that is not what was written.
    #[error("catalog log record {sequence} is corrupt")]
    Corrupt {
        /// Position in the log.
        sequence: u64,
        /// What was found.
        reason: String,
    },
    /// 55000: written by a newer version.
    #[error("catalog format {found} is newer than the newest this version reads, {known}")]
    NewerFormat {
        /// Version in the file.
        found: u64,
        /// Newest version this program reads.
        known: u64,
    },
    /// 58030: the storage below failed.
    #[error("could not {action} the catalog log")]
    Storage {
        /// `open`, `read`, `write`, `commit`.
        action: &'static str,
        /// What the storage said.
        reason: String,
    },
}

impl CatalogError {
    /// The error as a client sees it.
    pub fn report(&self) -> Report {
        let (sqlstate, detail, hint) = self.parts();
        Report {
            sqlstate,
            message: self.to_string(),
            detail,
            hint,
            position: None,
        }
    }

    /// The SQLSTATE alone.
    pub fn sqlstate(&self) -> &'static str {
        self.parts().0
    }

    fn parts(&self) -> (&'static str, Option<String>, Option<String>) {
        let perhaps = |nearest: &Option<String>| {
            nearest
                .as_ref()
                .map(|nearest| format!("Perhaps you meant \"{nearest}\"."))
        };
        match self {
            CatalogError::UndefinedRelation { nearest, .. } => ("42P01", None, perhaps(nearest)),
            CatalogError::UndefinedSchema { nearest, .. } => ("3F000", None, perhaps(nearest)),
            CatalogError::NoSchemaSelected => ("3F000", None, None),
            CatalogError::DuplicateRelation(_) => ("42P07", None, None),
            CatalogError::DuplicateSchema(_) => ("42P06", None, None),
            CatalogError::WrongKind { hint, .. } => ("42809", None, hint.clone()),
            CatalogError::CrossDatabase(_) => (
                "0A000",
                None,
                Some("Connect to the other database instead.".to_owned()),
            ),
            CatalogError::ImproperName(_) | CatalogError::Syntax(_) => ("42601", None, None),
            CatalogError::DependentObjects { detail, .. } => (
                "2BP01",
                Some(detail.clone()),
                Some("Use DROP ... CASCADE to drop the dependent objects too.".to_owned()),
            ),
            CatalogError::RequiredBy { owner, .. } => (
                "2BP01",
                None,
                Some(format!("You can drop {owner} instead.")),
            ),
            CatalogError::SystemSchema(_) => ("2BP01", None, None),
            CatalogError::InvalidReplacement { .. } => ("42P16", None, None),
            CatalogError::Recursion(_) => ("42P17", None, None),
            CatalogError::UndefinedType { nearest, .. } => ("42704", None, perhaps(nearest)),
            CatalogError::DuplicateColumn(_) => ("42701", None, None),
            CatalogError::DuplicateConstraint { .. } => ("42710", None, None),
            CatalogError::UndefinedColumn { nearest, .. } => ("42703", None, perhaps(nearest)),
            CatalogError::InvalidValue { detail, hint, .. } => {
                ("22023", detail.clone(), hint.clone())
            }
            CatalogError::NotBuilt { hint, .. } => ("0A000", None, hint.clone()),
            CatalogError::Limit(_) => ("54000", None, None),
            CatalogError::DoesNotApply(reason) => ("XX001", Some(reason.clone()), None),
            CatalogError::Corrupt { reason, .. } => (
                "XX001",
                Some(reason.clone()),
                Some("Restore the data directory from a backup.".to_owned()),
            ),
            CatalogError::NewerFormat { .. } => (
                "55000",
                None,
                Some(
                    "Open this data directory with the version of thalweg that wrote it."
                        .to_owned(),
                ),
            ),
            CatalogError::Storage { reason, .. } => ("58030", Some(reason.clone()), None),
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> CatalogError {
        CatalogError::InvalidValue {
            message: message.into(),
            detail: None,
            hint: None,
        }
    }

    pub(crate) fn not_built(what: impl Into<String>, hint: Option<&str>) -> CatalogError {
        CatalogError::NotBuilt {
            what: what.into(),
            hint: hint.map(str::to_owned),
        }
    }
}

/// User text for a message: cut, with control characters escaped.
pub(crate) fn bounded(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(QUOTED_CHARS_MAX)
        .flat_map(|c| {
            let escaped = if c.is_control() {
                Some(c.escape_default())
            } else {
                None
            };
            let plain = if c.is_control() { None } else { Some(c) };
            escaped.into_iter().flatten().chain(plain)
        })
        .collect();
    if text.chars().nth(QUOTED_CHARS_MAX).is_some() {
        shown.push_str("...");
    }
    shown
}
