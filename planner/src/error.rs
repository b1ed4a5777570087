//! Planner errors, and the SQLSTATE of everything DataFusion can raise.
//!
//! Invariant: a report never carries DataFusion's own wording for something Postgres has a sentence for, and never a secret.

use datafusion::arrow::error::ArrowError;
use datafusion::common::{DataFusionError, SchemaError};
use thalweg_sql::Report;

/// Why a statement could not be planned.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PlanError {
    /// The statement is wrong; the report says how.
    #[error("{0}")]
    Report(Box<Report>),
}

impl PlanError {
    /// The error as the client sees it.
    pub fn report(&self) -> Report {
        match self {
            PlanError::Report(report) => (**report).clone(),
        }
    }

    pub(crate) fn new(sqlstate: &'static str, message: impl Into<String>) -> Self {
        PlanError::Report(Box::new(report(sqlstate, message)))
    }

    pub(crate) fn hint(
        sqlstate: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        let mut report = report(sqlstate, message);
        report.hint = Some(hint.into());
        PlanError::Report(Box::new(report))
    }

    pub(crate) fn unsupported(what: impl std::fmt::Display) -> Self {
        PlanError::new("0A000", format!("{what} is not supported"))
    }
}

impl From<Report> for PlanError {
    fn from(report: Report) -> Self {
        PlanError::Report(Box::new(report))
    }
}

impl From<DataFusionError> for PlanError {
    fn from(error: DataFusionError) -> Self {
        PlanError::Report(Box::new(classify(&error)))
    }
}

impl From<PlanError> for DataFusionError {
    fn from(error: PlanError) -> Self {
        DataFusionError::External(Box::new(error.report()))
    }
}

/// A report with only a state and a message.
pub(crate) fn report(sqlstate: &'static str, message: impl Into<String>) -> Report {
    Report {
        sqlstate,
        message: message.into(),
        detail: None,
        hint: None,
        position: None,
    }
}

/// An error to raise from inside an expression.
pub(crate) fn raise(sqlstate: &'static str, message: impl Into<String>) -> DataFusionError {
    DataFusionError::External(Box::new(report(sqlstate, message)))
}

/// The client's view of any DataFusion error, at plan time or at run time.
pub(crate) fn classify(error: &DataFusionError) -> Report {
    match error {
        DataFusionError::External(inner) => external(inner.as_ref()),
        DataFusionError::ArrowError(arrow, _) => arrow_report(arrow),
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => {
            classify(inner)
        }
        DataFusionError::Shared(inner) => classify(inner),
        DataFusionError::Collection(errors) => match errors.first() {
            Some(first) => classify(first),
            None => report("XX000", "several errors without a message"),
        },
        DataFusionError::SchemaError(schema, _) => schema_report(schema),
        DataFusionError::ResourcesExhausted(message) => {
            let mut r = report("53200", "out of memory");
            r.detail = Some(first_line(message));
            r
        }
        DataFusionError::NotImplemented(message) if message.contains("OuterReferenceColumn") => {
            report("0A000", "this correlated subquery is not supported")
        }
        DataFusionError::NotImplemented(message) => {
            let said = plain(message);
            let said = if said.contains("not supported") || said.contains("not implemented") {
                said
            } else {
                format!("{} is not supported", said)
            };
            report("0A000", said)
        }
        DataFusionError::Plan(message) => plan_report(message),
        DataFusionError::Execution(message) => execution_report(message),
        DataFusionError::SQL(error, _) => report("42601", plain(&error.to_string())),
        DataFusionError::Configuration(message) => report("22023", plain(message)),
        DataFusionError::IoError(error) => report("58030", plain(&error.to_string())),
        other => {
            if let Some(report) = carried(other) {
                return report;
            }
            let message = other.strip_backtrace();
            if message.contains("Divide by zero") {
                return report("22012", "division by zero");
            }
            report("XX000", plain(&message))
        }
    }
}

fn external(inner: &(dyn std::error::Error + Send + Sync + 'static)) -> Report {
    if let Some(report) = inner.downcast_ref::<Report>() {
        return report.clone();
    }
    if let Some(error) = inner.downcast_ref::<PlanError>() {
        return error.report();
    }
    if let Some(error) = inner.downcast_ref::<DataFusionError>() {
        return classify(error);
    }
    if let Some(error) = inner.downcast_ref::<ArrowError>() {
        return arrow_report(error);
    }
    carried(inner).unwrap_or_else(|| report("XX000", plain(&inner.to_string())))
}

/// The report that a library was given and put into an error of its own, as the Parquet reader does with what a file's store says.
fn carried(error: &(dyn std::error::Error + 'static)) -> Option<Report> {
    let mut inner = error.source();
    while let Some(error) = inner {
        if let Some(report) = error.downcast_ref::<Report>() {
            return Some(report.clone());
        }
        inner = error.source();
    }
    None
}

fn arrow_report(error: &ArrowError) -> Report {
    match error {
        ArrowError::DivideByZero => report("22012", "division by zero"),
        ArrowError::ArithmeticOverflow(_) => report("22003", "value out of range: overflow"),
        ArrowError::CastError(message) => {
            if message.contains("too large to store")
                || message.contains("out of range")
                || message.contains("Can't cast value")
            {
                report("22003", "value out of range")
            } else {
                report("22P02", plain(message))
            }
        }
        ArrowError::ParseError(message) => report("22P02", plain(message)),
        ArrowError::ExternalError(inner) => external(inner.as_ref()),
        ArrowError::ComputeError(message) if message.contains("verflow") => {
            report("22003", "value out of range: overflow")
        }
        ArrowError::InvalidArgumentError(message)
            if message.contains("too large to store in a Decimal") =>
        {
            report("22003", "numeric field overflow")
        }
        other => report("XX000", plain(&other.to_string())),
    }
}

fn schema_report(error: &SchemaError) -> Report {
    match error {
        SchemaError::FieldNotFound {
            field,
            valid_fields,
        } => {
            let name = match &field.relation {
                Some(relation) => format!("{}.{}", relation.table(), visible(&field.name)),
                None => visible(&field.name).to_owned(),
            };
            let mut r = match &field.relation {
                // A qualifier that no relation carries is a missing FROM entry, not a missing column.
                Some(relation)
                    if !valid_fields.iter().any(|c| {
                        c.relation
                            .as_ref()
                            .is_some_and(|q| q.table() == relation.table())
                    }) =>
                {
                    report(
                        "42P01",
                        format!(
                            "missing FROM-clause entry for table \"{}\"",
                            relation.table()
                        ),
                    )
                }
                Some(_) => report("42703", format!("column {name} does not exist")),
                None => report("42703", format!("column \"{name}\" does not exist")),
            };
            if r.sqlstate == "42703" {
                let names: Vec<&str> = valid_fields.iter().map(|c| c.name.as_str()).collect();
                if let Some(near) = crate::names::nearest(&field.name, &names) {
                    let full = valid_fields
                        .iter()
                        .find(|c| c.name == near)
                        .map(|c| match &c.relation {
                            Some(q) => format!("{}.{}", q.table(), c.name),
                            None => c.name.clone(),
                        })
                        .unwrap_or_else(|| near.to_owned());
                    r.hint = Some(format!(
                        "Perhaps you meant to reference the column \"{full}\"."
                    ));
                }
            }
            r
        }
        SchemaError::AmbiguousReference { field } => report(
            "42702",
            format!("column reference \"{}\" is ambiguous", visible(&field.name)),
        ),
        SchemaError::DuplicateQualifiedField { name, .. }
        | SchemaError::DuplicateUnqualifiedField { name } => report(
            "42712",
            format!("column name \"{}\" specified more than once", visible(name)),
        ),
    }
}

/// A column's name without the suffix that keeps duplicate output names apart inside a plan.
pub(crate) fn visible(name: &str) -> &str {
    name.split(crate::names::SEPARATOR).next().unwrap_or(name)
}

fn plan_report(message: &str) -> Report {
    let text = plain(message);
    let lower = text.to_lowercase();
    if lower.contains("must be in the group by clause")
        || lower.contains("must appear in the group by")
    {
        let column = text.split('"').nth(1).map(|c| visible(c).to_owned());
        return match column {
            Some(column) => report(
                "42803",
                format!(
                    "column \"{column}\" must appear in the GROUP BY clause or be used in an aggregate function"
                ),
            ),
            None => report(
                "42803",
                "a column must appear in the GROUP BY clause or be used in an aggregate function",
            ),
        };
    }
    if lower.contains("aggregate functions are not allowed")
        || lower.contains("aggregate functions is not allowed")
    {
        return report("42803", text);
    }
    if lower.contains("invalid function")
        || lower.contains("no function matches")
        || lower.contains("does not support zero arguments")
    {
        return report("42883", text);
    }
    if lower.contains("unexpected argument")
        || lower.contains("expects") && lower.contains("argument")
    {
        return report("42883", text);
    }
    if lower.contains("table") && lower.contains("not found") {
        return report("42P01", text);
    }
    if lower.contains("same number of columns")
        || lower.contains("number of columns") && lower.contains("union")
    {
        return report(
            "42601",
            "each UNION query must have the same number of columns",
        );
    }
    if lower.starts_with("order by column out of bounds") || lower.starts_with("order by index") {
        let at = text.split("specified: ").nth(1);
        let at = at.and_then(|rest| rest.split(',').next()).unwrap_or("0");
        return report(
            "42P10",
            format!("ORDER BY position {at} is not in select list"),
        );
    }
    if lower.starts_with("cannot find column with position") {
        let at = text.split_whitespace().nth(5).unwrap_or_default();
        return report(
            "42P10",
            format!("GROUP BY position {at} is not in select list"),
        );
    }
    if lower.starts_with("for select distinct") {
        return report(
            "42P10",
            "for SELECT DISTINCT, ORDER BY expressions must appear in select list",
        );
    }
    if lower.contains("position") && lower.contains("select list")
        || lower.contains("column at position")
    {
        return report("42P10", text);
    }
    if lower.contains("cannot coerce")
        || lower.contains("cannot infer common")
        || lower.contains("coercion")
    {
        return report("42804", text);
    }
    if lower.contains("not supported")
        || lower.contains("unsupported")
        || lower.contains("not implemented")
    {
        return report("0A000", text);
    }
    if lower.contains("recursi") && lower.contains("limit") {
        return report("54001", text);
    }
    report("42601", text)
}

fn execution_report(message: &str) -> Report {
    let text = plain(message);
    let lower = text.to_lowercase();
    if lower.contains("more than one row") || lower.contains("more than one record") {
        return report(
            "21000",
            "more than one row returned by a subquery used as an expression",
        );
    }
    if lower.contains("divide by zero") || lower.contains("division by zero") {
        return report("22012", "division by zero");
    }
    if lower.contains("overflow") || lower.contains("out of range") {
        return report("22003", "value out of range: overflow");
    }
    if lower.contains("error parsing timestamp") || lower.contains("parsing timestamp") {
        return report("22007", text);
    }
    if lower.contains("regular expression") || lower.contains("regex") {
        return report("2201B", format!("invalid regular expression: {text}"));
    }
    report("22023", text)
}

fn plain(message: &str) -> String {
    let mut text = first_line(message);
    for prefix in [
        "Error during planning: ",
        "This feature is not implemented: ",
        "Execution error: ",
        "External error: ",
        "Internal error: ",
        "Arrow error: ",
        "SQL error: ",
        "type_coercion\ncaused by\n",
    ] {
        while let Some(rest) = text.strip_prefix(prefix) {
            text = rest.to_owned();
        }
    }
    let mut text: String = text.split(crate::names::SEPARATOR).collect();
    text.truncate(text.trim_end_matches('.').len());
    let mut chars = text.chars();
    match chars.next() {
        // Only an ordinary capitalised word loses its capital; GROUP BY and such keep theirs.
        Some(first)
            if first.is_uppercase() && chars.clone().next().is_some_and(char::is_lowercase) =>
        {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text,
    }
}

fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or("").trim().to_owned()
}
