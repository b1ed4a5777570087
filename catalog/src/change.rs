//! DDL as values, and the pure function that applies them.
//!
//! Invariant: `apply` either gives a snapshot in which every name is unique, every dependency exists, nothing reads itself and
//! the OID counter is above every OID ever used, or an error that says which of these would break.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::CatalogError;
use crate::object::{Column, Environment, FIRST_USER_OID, Oid, Relation, RelationKind, Schema};
use crate::snapshot::Catalog;

/// One change of the catalog. The log is a list of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// A new schema.
    CreateSchema(Schema),
    /// An empty schema goes.
    DropSchema(Oid),
    /// A new relation.
    CreateRelation(Box<Relation>),
    /// A relation nothing depends on goes.
    DropRelation(Oid),
    /// CREATE OR REPLACE VIEW: the view keeps its OIDs.
    ReplaceView {
        /// The view.
        oid: Oid,
        /// Its new columns: the old ones, possibly followed by more.
        columns: Vec<Column>,
        /// Canonical text of the new query.
        query: String,
        /// Canonical SQL of the new definition.
        definition: String,
        /// What the new definition was resolved against.
        environment: Environment,
        /// Relations the new query reads, sorted.
        depends_on: Vec<Oid>,
    },
    /// A source, materialized view, sink or archive stands still, or goes on.
    Pause {
        /// The object.
        oid: Oid,
        /// It stands still.
        paused: bool,
    },
    /// The counter moves to this OID: those below are taken by something that is not a relation.
    ReserveOids(u32),
}

/// The catalog after `change`.
///
/// # Errors
/// XX001 with the broken invariant in the detail.
pub fn apply(catalog: &Catalog, change: &Change) -> Result<Catalog, CatalogError> {
    let mut next = catalog.clone();
    next.apply_owned(change)?;
    Ok(next)
}

/// The catalog after all of `changes`, in order.
///
/// # Errors
/// As [`apply`], for the first change that does not.
pub fn apply_all(catalog: &Catalog, changes: &[Change]) -> Result<Catalog, CatalogError> {
    let mut next = catalog.clone();
    for change in changes {
        next.apply_owned(change)?;
    }
    Ok(next)
}

fn refuse(reason: impl Into<String>) -> CatalogError {
    CatalogError::DoesNotApply(reason.into())
}

impl Catalog {
    /// Applies in place; a failed change leaves a value that must be thrown away, which only this crate can see.
    pub(crate) fn apply_owned(&mut self, change: &Change) -> Result<(), CatalogError> {
        match change {
            Change::CreateSchema(schema) => self.create_schema(schema)?,
            Change::DropSchema(oid) => self.drop_schema(*oid)?,
            Change::CreateRelation(relation) => self.create_relation(relation)?,
            Change::DropRelation(oid) => self.drop_relation(*oid)?,
            Change::ReplaceView { .. } => self.replace_view(change)?,
            Change::Pause { oid, paused } => self.pause(*oid, *paused)?,
            Change::ReserveOids(next) => self.move_counter(*next)?,
        }
        self.version += 1;
        Ok(())
    }

    fn create_schema(&mut self, schema: &Schema) -> Result<(), CatalogError> {
        if self.schema_names.contains_key(&schema.name) {
            return Err(refuse(format!("schema name \"{}\" is taken", schema.name)));
        }
        self.take_oids(&[schema.oid])?;
        Arc::make_mut(&mut self.schemas).insert(schema.oid, Arc::new(schema.clone()));
        Arc::make_mut(&mut self.schema_names).insert(schema.name.clone(), schema.oid);
        Ok(())
    }

    fn drop_schema(&mut self, oid: Oid) -> Result<(), CatalogError> {
        let schema = self
            .schema_by_oid(oid)
            .ok_or_else(|| refuse(format!("there is no schema {oid}")))?;
        if schema.is_system() {
            return Err(refuse(format!(
                "schema \"{}\" belongs to the system",
                schema.name
            )));
        }
        if self.relations_in(oid).next().is_some() {
            return Err(refuse(format!("schema \"{}\" is not empty", schema.name)));
        }
        let name = schema.name.clone();
        Arc::make_mut(&mut self.schemas).remove(&oid);
        Arc::make_mut(&mut self.schema_names).remove(&name);
        Ok(())
    }

    fn create_relation(&mut self, relation: &Relation) -> Result<(), CatalogError> {
        if self.schema_by_oid(relation.schema).is_none() {
            return Err(refuse(format!("there is no schema {}", relation.schema)));
        }
        let mut names = vec![relation.name.clone()];
        names.extend(relation.primary_key.iter().map(|key| key.name.clone()));
        for (index, name) in names.iter().enumerate() {
            if self.name_taken(relation.schema, name) || names.iter().take(index).any(|n| n == name)
            {
                return Err(refuse(format!("relation name \"{name}\" is taken")));
            }
        }
        check_columns(relation)?;
        self.check_dependencies(&relation.depends_on)?;
        if let RelationKind::Errors { source } = relation.kind {
            self.check_source_of_errors(source)?;
        }
        self.take_oids(&relation.oids())?;

        let oid = relation.oid;
        if let RelationKind::Errors { source } = relation.kind {
            Arc::make_mut(&mut self.errors).insert(source, oid);
        }
        self.add_dependencies(oid, &relation.depends_on);
        let taken = Arc::make_mut(&mut self.names);
        for name in names {
            taken.insert((relation.schema, name), oid);
        }
        Arc::make_mut(&mut self.relations).insert(oid, Arc::new(relation.clone()));
        Ok(())
    }

    fn drop_relation(&mut self, oid: Oid) -> Result<(), CatalogError> {
        let relation = self
            .shared_relation(oid)
            .ok_or_else(|| refuse(format!("there is no relation {oid}")))?;
        if let Some(reader) = self.dependants(oid).first() {
            return Err(refuse(format!(
                "relation {reader} depends on relation {oid}"
            )));
        }
        if let Some(errors) = self.errors_of(oid) {
            return Err(refuse(format!(
                "errors relation {} of source {oid} still exists",
                errors.oid
            )));
        }
        if let RelationKind::Errors { source } = relation.kind {
            Arc::make_mut(&mut self.errors).remove(&source);
        }
        self.remove_dependencies(oid, &relation.depends_on);
        Arc::make_mut(&mut self.paused).remove(&oid);
        Arc::make_mut(&mut self.names).retain(|_, owner| *owner != oid);
        Arc::make_mut(&mut self.relations).remove(&oid);
        Ok(())
    }

    fn replace_view(&mut self, change: &Change) -> Result<(), CatalogError> {
        let Change::ReplaceView {
            oid,
            columns,
            query,
            definition,
            environment,
            depends_on,
        } = change
        else {
            return Err(refuse("not a view replacement"));
        };
        let old = self
            .shared_relation(*oid)
            .ok_or_else(|| refuse(format!("there is no relation {oid}")))?;
        if !matches!(old.kind, RelationKind::View { .. }) {
            return Err(refuse(format!("relation {oid} is not a view")));
        }
        self.check_dependencies(depends_on)?;
        if self.reaches(depends_on, *oid) {
            return Err(refuse(format!("view {oid} would read itself")));
        }
        let replaced = Relation {
            columns: columns.clone(),
            kind: RelationKind::View {
                query: query.clone(),
            },
            definition: definition.clone(),
            environment: environment.clone(),
            depends_on: depends_on.clone(),
            ..old.as_ref().clone()
        };
        check_columns(&replaced)?;
        self.remove_dependencies(*oid, &old.depends_on);
        self.add_dependencies(*oid, depends_on);
        Arc::make_mut(&mut self.relations).insert(*oid, Arc::new(replaced));
        Ok(())
    }

    fn pause(&mut self, oid: Oid, paused: bool) -> Result<(), CatalogError> {
        let relation = self
            .relation(oid)
            .ok_or_else(|| refuse(format!("there is no relation {oid}")))?;
        if !relation.can_pause() {
            let kind = relation.kind_word();
            return Err(refuse(format!("relation {oid} is a {kind}")));
        }
        let all = Arc::make_mut(&mut self.paused);
        match paused {
            true => all.insert(oid),
            false => all.remove(&oid),
        };
        Ok(())
    }

    fn move_counter(&mut self, next: u32) -> Result<(), CatalogError> {
        if next < self.next_oid {
            return Err(refuse(format!(
                "the OID counter would go back from {} to {next}",
                self.next_oid
            )));
        }
        self.next_oid = next;
        Ok(())
    }

    /// Takes OIDs that nothing uses, and moves the counter above them. An allocator only counts up and starts at the counter,
    /// so no OID is ever given out twice; but changes reach the log in another order than their OIDs were given out.
    fn take_oids(&mut self, oids: &[Oid]) -> Result<(), CatalogError> {
        let distinct: BTreeSet<Oid> = oids.iter().copied().collect();
        if distinct.len() != oids.len() {
            return Err(refuse("an object uses one OID twice"));
        }
        let Some((lowest, highest)) = distinct.first().zip(distinct.last()) else {
            return Ok(());
        };
        if lowest.0 < FIRST_USER_OID {
            return Err(refuse(format!("OID {lowest} belongs to the system")));
        }
        // Only a change that was overtaken has OIDs below the counter, so the search is rare.
        if lowest.0 < self.next_oid
            && let Some(used) = distinct.iter().find(|oid| self.uses_oid(**oid))
        {
            return Err(refuse(format!("OID {used} is in use")));
        }
        let above = highest.0.checked_add(1);
        let above = above.ok_or_else(|| refuse("the OID counter is exhausted"))?;
        self.next_oid = self.next_oid.max(above);
        Ok(())
    }

    fn uses_oid(&self, oid: Oid) -> bool {
        self.schemas.contains_key(&oid)
            || self
                .relations
                .values()
                .any(|relation| relation.oids().contains(&oid))
    }

    fn check_dependencies(&self, depends_on: &[Oid]) -> Result<(), CatalogError> {
        if !depends_on.is_sorted_by(|left, right| left < right) {
            return Err(refuse("dependencies are not sorted and distinct"));
        }
        match depends_on
            .iter()
            .find(|oid| !self.relations.contains_key(oid))
        {
            Some(missing) => Err(refuse(format!(
                "there is no relation {missing} to depend on"
            ))),
            None => Ok(()),
        }
    }

    fn check_source_of_errors(&self, source: Oid) -> Result<(), CatalogError> {
        match self.relation(source).map(|relation| &relation.kind) {
            Some(RelationKind::Source(_)) if !self.errors.contains_key(&source) => Ok(()),
            Some(RelationKind::Source(_)) => Err(refuse(format!(
                "source {source} has an errors relation already"
            ))),
            _ => Err(refuse(format!("there is no source {source}"))),
        }
    }

    /// True when one of `from` is `target` or reads it, directly or not.
    pub(crate) fn reaches(&self, from: &[Oid], target: Oid) -> bool {
        let mut seen: BTreeSet<Oid> = BTreeSet::new();
        let mut queue: VecDeque<Oid> = from.iter().copied().collect();
        while let Some(oid) = queue.pop_front() {
            if oid == target {
                return true;
            }
            if seen.insert(oid)
                && let Some(relation) = self.relation(oid)
            {
                queue.extend(relation.depends_on.iter().copied());
            }
        }
        false
    }

    fn add_dependencies(&mut self, reader: Oid, depends_on: &[Oid]) {
        let dependants = Arc::make_mut(&mut self.dependants);
        for read in depends_on {
            dependants.entry(*read).or_default().insert(reader);
        }
    }

    fn remove_dependencies(&mut self, reader: Oid, depends_on: &[Oid]) {
        let dependants = Arc::make_mut(&mut self.dependants);
        for read in depends_on {
            if let Some(readers) = dependants.get_mut(read) {
                readers.remove(&reader);
                if readers.is_empty() {
                    dependants.remove(read);
                }
            }
        }
    }
}

fn check_columns(relation: &Relation) -> Result<(), CatalogError> {
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for column in &relation.columns {
        if !names.insert(column.name.as_str()) {
            return Err(refuse(format!(
                "column name \"{}\" is used twice",
                column.name
            )));
        }
        if column.attnum < 1 || !numbers.insert(column.attnum) {
            return Err(refuse(format!(
                "attribute number {} of column \"{}\" is used twice or not positive",
                column.attnum, column.name
            )));
        }
    }
    let key = relation.primary_key.iter().flat_map(|key| &key.columns);
    for attnum in key {
        if !numbers.contains(attnum) {
            return Err(refuse(format!(
                "the primary key names attribute {attnum}, which does not exist"
            )));
        }
    }
    Ok(())
}
