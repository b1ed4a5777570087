//! SHOW and DESCRIBE: what exists, read from the catalog snapshot.
//!
//! Invariant: secrets never appear; definitions are printed through the redacting printer.

use thalweg_catalog::{Relation, RelationKind};
use thalweg_planner::OutputColumn;
use thalweg_sql::{ObjectKind, Report, SessionStatement, ShowObjects, Statement, ast};

use super::session::Session;
use super::{Outcome, rows};

impl Session {
    /// Result columns of a command, for Describe; `None` for one without rows.
    pub(super) fn describe_command(
        &self,
        statement: &Statement,
    ) -> Result<Option<Vec<OutputColumn>>, Report> {
        let names: Vec<String> = match statement {
            Statement::ShowObjects(show) => show_columns(show)
                .iter()
                .map(|name| (*name).to_owned())
                .collect(),
            Statement::Describe(_) => DESCRIBE_COLUMNS
                .iter()
                .map(|name| (*name).to_owned())
                .collect(),
            Statement::Explain(_) => vec!["QUERY PLAN".to_owned()],
            Statement::Session(SessionStatement::Show(Some(name))) => {
                self.settings.get(name)?;
                vec![show_name(name)]
            }
            Statement::Session(SessionStatement::Show(None)) => SHOW_ALL_COLUMNS
                .iter()
                .map(|name| (*name).to_owned())
                .collect(),
            _ => return Ok(None),
        };
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Ok(Some(rows::text_columns(&names)))
    }

    pub(super) fn show_setting(&mut self, name: Option<&str>) -> Result<Outcome, Report> {
        match name {
            Some(name) => {
                let value = self.settings.get(name)?;
                Ok(rows::text(
                    &[&show_name(name)],
                    vec![vec![Some(value)]],
                    "SHOW",
                ))
            }
            None => {
                let all = self.settings.all();
                let all = all
                    .into_iter()
                    .map(|(name, value)| vec![Some(name), Some(value), Some(String::new())]);
                Ok(rows::text(SHOW_ALL_COLUMNS, all.collect(), "SHOW"))
            }
        }
    }

    pub(super) fn show_objects(&mut self, show: &ShowObjects) -> Result<Outcome, Report> {
        let rows = match show {
            ShowObjects::List { kind, schema, like } => self.list(
                *kind,
                schema.as_ref().map(|schema| schema.value.as_str()),
                like.as_deref(),
            )?,
            ShowObjects::Jobs => self.jobs(),
            ShowObjects::Databases => vec![vec![Some(self.catalog().database().to_owned())]],
            ShowObjects::Columns(name) => return self.describe_object(name),
            ShowObjects::Create { kind, name } => self.show_create(*kind, name)?,
        };
        Ok(rows::text(show_columns(show), rows, "SHOW"))
    }

    fn list(
        &self,
        kind: ObjectKind,
        schema: Option<&str>,
        like: Option<&str>,
    ) -> Result<Vec<Vec<Option<String>>>, Report> {
        let catalog = self.catalog();
        let matches = |name: &str| like.is_none_or(|pattern| like_matches(pattern, name));
        if kind == ObjectKind::Schema {
            return Ok(catalog
                .schemas()
                .map(|schema| schema.name.clone())
                .filter(|name| matches(name))
                .map(|name| vec![Some(name)])
                .collect());
        }
        let only = match schema {
            Some(name) => Some(
                catalog
                    .require_schema(name)
                    .map_err(|error| error.report())?
                    .oid,
            ),
            None => None,
        };
        let path = self.search_path();
        let visible = |relation: &Relation| match only {
            Some(oid) => relation.schema == oid,
            None => catalog
                .schema_by_oid(relation.schema)
                .is_some_and(|schema| path.contains(&schema.name)),
        };
        let mut rows = Vec::new();
        for relation in catalog.relations().filter(|relation| visible(relation)) {
            if kind == ObjectKind::Index {
                if let Some(key) = relation
                    .primary_key
                    .as_ref()
                    .filter(|key| matches(&key.name))
                {
                    rows.push(vec![Some(key.name.clone()), Some(relation.name.clone())]);
                }
            } else if is_kind(relation, kind) && matches(&relation.name) {
                let mut row = vec![Some(relation.name.clone())];
                if let RelationKind::Sink(sink) = &relation.kind {
                    row.push(Some(sink.connector.clone()));
                    row.push(Some(sink.delivery.replace('_', " ")));
                }
                rows.push(row);
            }
        }
        rows.sort();
        Ok(rows)
    }

    fn jobs(&self) -> Vec<Vec<Option<String>>> {
        self.server
            .status()
            .jobs
            .iter()
            .map(|job| {
                vec![
                    Some(job.oid.0.to_string()),
                    Some(job.name.clone()),
                    Some(job.phase.as_str().to_owned()),
                    job.epoch.map(|epoch| epoch.0.to_string()),
                    job.error.clone(),
                ]
            })
            .collect()
    }

    fn show_create(
        &self,
        kind: ObjectKind,
        name: &ast::ObjectName,
    ) -> Result<Vec<Vec<Option<String>>>, Report> {
        let catalog = self.catalog();
        let relation = catalog
            .resolve_kind(&self.search_path(), name, kind)
            .map_err(|error| error.report())?;
        let parsed = thalweg_sql::parse(&relation.definition).map_err(|error| error.report())?;
        let text = parsed
            .first()
            .map(|parsed| thalweg_sql::redacted(&parsed.statement));
        Ok(vec![vec![Some(catalog.qualified_name(relation)), text]])
    }

    pub(super) fn describe_object(&mut self, name: &ast::ObjectName) -> Result<Outcome, Report> {
        let catalog = self.catalog();
        let relation = catalog
            .resolve(&self.search_path(), name)
            .map_err(|error| error.report())?;
        let key = relation
            .primary_key
            .as_ref()
            .map(|key| key.columns.clone())
            .unwrap_or_default();
        let rows = relation
            .columns
            .iter()
            .map(|column| {
                vec![
                    Some(column.name.clone()),
                    Some(column.ty.to_string()),
                    Some(if column.not_null { "not null" } else { "" }.to_owned()),
                    Some(
                        if key.contains(&column.attnum) {
                            "primary key"
                        } else {
                            ""
                        }
                        .to_owned(),
                    ),
                    column.default.clone(),
                ]
            })
            .collect();
        Ok(rows::text(DESCRIBE_COLUMNS, rows, "DESCRIBE"))
    }
}

const DESCRIBE_COLUMNS: &[&str] = &["name", "type", "nullable", "key", "default"];
const SHOW_ALL_COLUMNS: &[&str] = &["name", "setting", "description"];

fn show_columns(show: &ShowObjects) -> &'static [&'static str] {
    match show {
        ShowObjects::List {
            kind: ObjectKind::Sink,
            ..
        } => &["name", "connector", "delivery"],
        ShowObjects::List {
            kind: ObjectKind::Index,
            ..
        } => &["name", "table"],
        ShowObjects::List { .. } | ShowObjects::Databases => &["name"],
        ShowObjects::Jobs => &["id", "name", "state", "epoch", "error"],
        ShowObjects::Columns(_) => DESCRIBE_COLUMNS,
        ShowObjects::Create { .. } => &["name", "create_sql"],
    }
}

/// Column name of `SHOW x`: Postgres' spelling of the setting.
fn show_name(name: &str) -> String {
    super::REPORTED_SETTINGS
        .iter()
        .find(|reported| reported.eq_ignore_ascii_case(name))
        .map_or_else(
            || name.to_ascii_lowercase(),
            |reported| (*reported).to_owned(),
        )
}

/// True when a statement that names `kind` may act on `relation`. An errors relation lists as a table.
pub(super) fn is_kind(relation: &Relation, kind: ObjectKind) -> bool {
    matches!(
        (&relation.kind, kind),
        (RelationKind::Source(_), ObjectKind::Source)
            | (
                RelationKind::Table | RelationKind::External(_),
                ObjectKind::Table
            )
            | (RelationKind::Archive(_), ObjectKind::Archive)
            | (RelationKind::View { .. }, ObjectKind::View)
            | (
                RelationKind::MaterializedView { .. },
                ObjectKind::MaterializedView
            )
            | (RelationKind::Sink(_), ObjectKind::Sink)
    )
}

pub(super) fn kind_word(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Source => "source",
        ObjectKind::Table => "table",
        ObjectKind::Archive => "archive",
        ObjectKind::View => "view",
        ObjectKind::MaterializedView => "materialized view",
        ObjectKind::Sink => "sink",
        ObjectKind::Schema => "schema",
        ObjectKind::Index => "index",
    }
}

/// SQL LIKE with `%` and `_`, for SHOW ... LIKE. Iterative, so a hostile pattern costs at most text x pattern.
fn like_matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let mut reachable = vec![false; pattern.len() + 1];
    reachable[0] = true;
    let skip_percent = |reachable: &mut Vec<bool>| {
        for (i, c) in pattern.iter().enumerate() {
            if *c == '%' && reachable[i] {
                reachable[i + 1] = true;
            }
        }
    };
    skip_percent(&mut reachable);
    for c in text.chars() {
        let mut next = vec![false; pattern.len() + 1];
        for (i, p) in pattern.iter().enumerate() {
            if reachable[i] {
                match p {
                    '%' => next[i] = true,
                    '_' => next[i + 1] = true,
                    p if *p == c => next[i + 1] = true,
                    _ => {}
                }
            }
        }
        skip_percent(&mut next);
        reachable = next;
    }
    reachable[pattern.len()]
}

#[cfg(test)]
mod tests {
    use super::like_matches;

    #[test]
    fn like_follows_sql() {
        for (pattern, text, expected) in [
            ("%", "", true),
            ("a%c", "abc", true),
            ("a%c", "abd", false),
            ("_b_", "abc", true),
            ("_", "", false),
            ("%b%", "aabaa", true),
        ] {
            assert_eq!(like_matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
