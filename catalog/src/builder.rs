//! Builds relations with the OIDs they reserve.
//!
//! Invariant: OIDs are taken from one allocator in creation order, so changes that are applied in the order they were built
//! always find the counter at or below their first OID.

use std::collections::BTreeSet;

use crate::error::{CatalogError, bounded};
use crate::object::{CheckConstraint, Column, Environment, Key, Oid, Relation, RelationKind};
use crate::snapshot::Catalog;
use crate::types::SqlType;

/// Most columns of a relation, as in Postgres.
pub const COLUMNS_MAX: usize = 1600;

/// Gives out OIDs on top of a snapshot. What it gave out counts only once a change that uses it is in the log.
#[derive(Debug, Clone)]
pub struct OidAllocator {
    next: u32,
}

impl OidAllocator {
    /// Starts where the snapshot's counter stands.
    pub fn new(catalog: &Catalog) -> OidAllocator {
        OidAllocator {
            next: catalog.next_oid(),
        }
    }

    /// The next OID.
    ///
    /// # Errors
    /// 54000 when four billion objects have been created.
    pub fn allocate(&mut self) -> Result<Oid, CatalogError> {
        let oid = Oid(self.next);
        self.next = self
            .next
            .checked_add(1)
            .ok_or_else(|| CatalogError::Limit("no object identifiers are left".to_owned()))?;
        Ok(oid)
    }

    /// Where the counter stands now.
    pub fn next(&self) -> u32 {
        self.next
    }
}

/// A relation in the making. Columns get attribute numbers in the order they are added.
#[derive(Debug)]
pub struct RelationBuilder<'a> {
    oids: &'a mut OidAllocator,
    catalog: &'a Catalog,
    relation: Relation,
}

impl<'a> RelationBuilder<'a> {
    /// Reserves the OIDs of the relation, its row type and its array type.
    ///
    /// # Errors
    /// 42P07 when the name is taken, 54000 when OIDs run out.
    pub fn new(
        catalog: &'a Catalog,
        oids: &'a mut OidAllocator,
        schema: Oid,
        name: &str,
        kind: RelationKind,
    ) -> Result<RelationBuilder<'a>, CatalogError> {
        catalog.require_free(schema, name)?;
        let relation = Relation {
            oid: oids.allocate()?,
            row_type_oid: oids.allocate()?,
            array_type_oid: oids.allocate()?,
            schema,
            name: name.to_owned(),
            kind,
            columns: Vec::new(),
            primary_key: None,
            checks: Vec::new(),
            definition: String::new(),
            environment: Environment::default(),
            depends_on: Vec::new(),
            created_at_ms: 0,
        };
        Ok(RelationBuilder {
            oids,
            catalog,
            relation,
        })
    }

    /// Adds a column; its attribute number is given here, whatever the value says.
    ///
    /// # Errors
    /// 42701 for a name that is there already, 54000 beyond [`COLUMNS_MAX`].
    pub fn column(&mut self, mut column: Column) -> Result<&mut Self, CatalogError> {
        if self.relation.column(&column.name).is_some() {
            return Err(CatalogError::DuplicateColumn(bounded(&column.name)));
        }
        let count = self.relation.columns.len();
        column.attnum = match i16::try_from(count + 1) {
            Ok(attnum) if count < COLUMNS_MAX => attnum,
            _ => {
                return Err(CatalogError::Limit(format!(
                    "tables can have at most {COLUMNS_MAX} columns"
                )));
            }
        };
        self.relation.columns.push(column);
        Ok(self)
    }

    /// Adds columns in order.
    ///
    /// # Errors
    /// As [`RelationBuilder::column`].
    pub fn columns(
        &mut self,
        columns: impl IntoIterator<Item = Column>,
    ) -> Result<&mut Self, CatalogError> {
        for column in columns {
            self.column(column)?;
        }
        Ok(self)
    }

    /// Makes these columns the primary key, not null, with an index and a constraint. Without a name it is `<relation>_pkey`,
    /// with a number behind it when that is taken.
    ///
    /// # Errors
    /// 42703 for a column that is not there, 42701 for one named twice, 42P07 for a given name that is taken.
    pub fn primary_key<S: AsRef<str>>(
        &mut self,
        name: Option<&str>,
        columns: &[S],
    ) -> Result<&mut Self, CatalogError> {
        let schema = self.relation.schema;
        let name = match name {
            Some(name) if name == self.relation.name => {
                return Err(CatalogError::DuplicateRelation(bounded(name)));
            }
            Some(name) => {
                self.catalog.require_free(schema, name)?;
                name.to_owned()
            }
            None => self.free_name(&format!("{}_pkey", self.relation.name)),
        };
        let mut attnums = Vec::with_capacity(columns.len());
        for written in columns.iter().map(AsRef::as_ref) {
            let known = self
                .relation
                .columns
                .iter()
                .map(|column| column.name.clone());
            let nearest = thalweg_sql::suggest(written, known);
            let column = self
                .relation
                .columns
                .iter_mut()
                .find(|column| column.name == written)
                .ok_or_else(|| CatalogError::UndefinedColumn {
                    name: bounded(written),
                    nearest,
                })?;
            if attnums.contains(&column.attnum) {
                return Err(CatalogError::DuplicateColumn(bounded(written)));
            }
            column.not_null = true;
            attnums.push(column.attnum);
        }
        self.relation.primary_key = Some(Key {
            name,
            index_oid: self.oids.allocate()?,
            constraint_oid: self.oids.allocate()?,
            columns: attnums,
        });
        Ok(self)
    }

    /// Adds a CHECK constraint. Without a name it is `<relation>_check`, `<relation>_check1`, ...
    ///
    /// # Errors
    /// 42710 when the relation has a constraint of that name.
    pub fn check(
        &mut self,
        name: Option<&str>,
        expr: impl Into<String>,
        on_violation: &str,
    ) -> Result<&mut Self, CatalogError> {
        let taken: BTreeSet<&str> = self
            .relation
            .checks
            .iter()
            .map(|check| check.name.as_str())
            .collect();
        let name = match name {
            Some(name) if taken.contains(name) => {
                return Err(CatalogError::DuplicateConstraint {
                    name: bounded(name),
                    relation: bounded(&self.relation.name),
                });
            }
            Some(name) => name.to_owned(),
            None => numbered(&format!("{}_check", self.relation.name), |candidate| {
                taken.contains(candidate)
            }),
        };
        let oid = self.oids.allocate()?;
        self.relation.checks.push(CheckConstraint {
            name,
            oid,
            expr: expr.into(),
            on_violation: on_violation.to_owned(),
        });
        Ok(self)
    }

    /// Sets the canonical SQL and what it was resolved against.
    pub fn definition(&mut self, sql: impl Into<String>, environment: Environment) -> &mut Self {
        self.relation.definition = sql.into();
        self.relation.environment = environment;
        self
    }

    /// Sets what it reads; sorted here.
    pub fn depends_on(&mut self, oids: impl IntoIterator<Item = Oid>) -> &mut Self {
        let sorted: BTreeSet<Oid> = oids.into_iter().collect();
        self.relation.depends_on = sorted.into_iter().collect();
        self
    }

    /// Sets when it was created.
    pub fn created_at_ms(&mut self, at: i64) -> &mut Self {
        self.relation.created_at_ms = at;
        self
    }

    /// The relation so far, for planning its expressions.
    pub fn relation(&self) -> &Relation {
        &self.relation
    }

    /// The finished relation.
    pub fn build(self) -> Relation {
        self.relation
    }

    fn free_name(&self, base: &str) -> String {
        let schema = self.relation.schema;
        numbered(base, |candidate| {
            candidate == self.relation.name || self.catalog.name_taken(schema, candidate)
        })
    }
}

/// `base`, or `base1`, `base2`, ... when that is taken.
fn numbered(base: &str, taken: impl Fn(&str) -> bool) -> String {
    let mut candidate = base.to_owned();
    let mut number = 0_u32;
    while taken(&candidate) {
        number += 1;
        candidate = format!("{base}{number}");
    }
    candidate
}

/// The errors relation that comes with a source, named `<source>_errors`; its OIDs must follow those of the source.
///
/// It is keyed by (topic, partition, offset, reason), so that views which read the source again do not double its rows.
///
/// # Errors
/// 42P07 when the name is taken.
pub fn errors_relation(
    catalog: &Catalog,
    oids: &mut OidAllocator,
    source: &Relation,
) -> Result<Relation, CatalogError> {
    let name = format!("{}_errors", source.name);
    let kind = RelationKind::Errors { source: source.oid };
    let mut builder = RelationBuilder::new(catalog, oids, source.schema, &name, kind)?;
    let columns = [
        ("reason", SqlType::Text),
        ("message", SqlType::Text),
        ("topic", SqlType::Text),
        ("partition", SqlType::Int4),
        ("offset", SqlType::Int8),
        ("key", SqlType::Bytea),
        ("payload", SqlType::Bytea),
        ("headers", SqlType::Jsonb),
        ("at", SqlType::Timestamptz),
        ("epoch", SqlType::Int8),
    ];
    builder.columns(columns.map(|(name, ty)| Column::data(name, 0, ty)))?;
    builder.primary_key(None, &["topic", "partition", "offset", "reason"])?;
    builder
        .definition("", source.environment.clone())
        .created_at_ms(source.created_at_ms);
    Ok(builder.build())
}

/// Checks that CREATE OR REPLACE VIEW may give `view` these columns: the old ones unchanged, possibly followed by more.
///
/// # Errors
/// 42P16 with Postgres' text for the first difference; 42P17 when the view would read itself.
pub fn check_view_replacement(
    catalog: &Catalog,
    view: &Relation,
    columns: &[Column],
    depends_on: &[Oid],
) -> Result<(), CatalogError> {
    let refuse = |message: String| Err(CatalogError::InvalidReplacement { message });
    if columns.len() < view.columns.len() {
        return refuse("cannot drop columns from view".to_owned());
    }
    for (old, new) in view.columns.iter().zip(columns) {
        if old.name != new.name {
            return refuse(format!(
                "cannot change name of view column \"{}\" to \"{}\"",
                bounded(&old.name),
                bounded(&new.name)
            ));
        }
        if old.ty != new.ty {
            return refuse(format!(
                "cannot change data type of view column \"{}\" from {} to {}",
                bounded(&old.name),
                old.ty,
                new.ty
            ));
        }
    }
    if catalog.reaches(depends_on, view.oid) {
        return Err(CatalogError::Recursion(bounded(&view.name)));
    }
    Ok(())
}
