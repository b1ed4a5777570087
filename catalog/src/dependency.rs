//! Who depends on whom, and in which order things can be dropped.
//!
//! Invariant: a drop order lists every dependant before what it depends on, and an errors relation before its source.

use std::collections::BTreeSet;

use crate::error::CatalogError;
use crate::object::{Oid, Relation, RelationKind};
use crate::snapshot::Catalog;

/// Most dependency lines in one message, as in Postgres.
const DETAIL_LINES_MAX: usize = 100;

impl Catalog {
    /// The relations that read this one directly, by OID. The errors relation of a source is part of it, not a dependant.
    pub fn dependants(&self, oid: Oid) -> Vec<Oid> {
        self.dependants
            .get(&oid)
            .map_or_else(Vec::new, |readers| readers.iter().copied().collect())
    }

    /// The relations to drop, in order, when these are dropped: their errors relations and, with `cascade`, all that depends
    /// on them, dependants first.
    ///
    /// # Errors
    /// 2BP01 when something else depends on them and `cascade` is false, or when an errors relation is named without its
    /// source.
    pub fn drop_order(&self, oids: &[Oid], cascade: bool) -> Result<Vec<Oid>, CatalogError> {
        let wanted: BTreeSet<Oid> = oids.iter().copied().collect();
        for oid in &wanted {
            self.refuse_owned(*oid, &wanted)?;
        }
        let closure = self.dependency_lines(&wanted);
        if !cascade && !closure.lines.is_empty() {
            let (object, pronoun) = match oids {
                [only] => (
                    self.relation(*only)
                        .map_or_else(|| only.to_string(), |relation| self.describe(relation)),
                    "it",
                ),
                _ => ("desired object(s)".to_owned(), "them"),
            };
            return Err(dependent_objects(object, pronoun, &closure.lines));
        }
        Ok(self.dependants_first(&closure.all))
    }

    /// The relations to drop, in order, when this schema is dropped.
    ///
    /// # Errors
    /// 2BP01 for a system schema, and for one that is not empty unless `cascade` is given.
    pub fn schema_drop_order(&self, schema: Oid, cascade: bool) -> Result<Vec<Oid>, CatalogError> {
        let Some(found) = self.schema_by_oid(schema) else {
            return Ok(Vec::new());
        };
        if found.is_system() {
            return Err(CatalogError::SystemSchema(found.name.clone()));
        }
        let inside: BTreeSet<Oid> = self
            .relations_in(schema)
            .map(|relation| relation.oid)
            .collect();
        let closure = self.dependency_lines(&inside);
        if !cascade && !inside.is_empty() {
            let mut lines: Vec<String> = self
                .relations_in(schema)
                .filter(|relation| !matches!(relation.kind, RelationKind::Errors { .. }))
                .map(|relation| {
                    format!(
                        "{} depends on schema {}",
                        self.describe(relation),
                        found.name
                    )
                })
                .collect();
            lines.extend(closure.lines);
            return Err(dependent_objects(
                format!("schema {}", found.name),
                "it",
                &lines,
            ));
        }
        Ok(self.dependants_first(&closure.all))
    }

    /// What reads this relation, directly or through other relations, dependants last.
    pub fn readers_closure(&self, oid: Oid) -> Vec<Oid> {
        let mut order = self.dependants_first(&self.dependency_lines(&BTreeSet::from([oid])).all);
        order.reverse();
        order.retain(|found| *found != oid);
        order
    }

    fn refuse_owned(&self, oid: Oid, wanted: &BTreeSet<Oid>) -> Result<(), CatalogError> {
        let Some(relation) = self.relation(oid) else {
            return Ok(());
        };
        let RelationKind::Errors { source } = relation.kind else {
            return Ok(());
        };
        match self.relation(source) {
            Some(owner) if !wanted.contains(&source) => Err(CatalogError::RequiredBy {
                object: self.describe(relation),
                owner: self.describe(owner),
            }),
            _ => Ok(()),
        }
    }

    /// Everything that goes with `wanted`, breadth first, with a line for each dependency of something not wanted.
    fn dependency_lines(&self, wanted: &BTreeSet<Oid>) -> Closure {
        let mut all = wanted.clone();
        let mut queue: Vec<Oid> = wanted.iter().copied().collect();
        let mut lines = Vec::new();
        let mut next = 0;
        while let Some(oid) = queue.get(next).copied() {
            next += 1;
            if let Some(errors) = self.errors_of(oid)
                && all.insert(errors.oid)
            {
                queue.push(errors.oid);
            }
            for reader in self.dependants(oid) {
                if all.insert(reader) {
                    queue.push(reader);
                    lines.push(self.dependency_line(reader, oid));
                }
            }
        }
        Closure { all, lines }
    }

    fn dependency_line(&self, reader: Oid, read: Oid) -> String {
        let described = |relation: Option<&Relation>| {
            relation.map_or_else(String::new, |relation| self.describe(relation))
        };
        // What reads the errors relation depends on the source: nobody can drop the one without the other.
        let read = match self.relation(read).map(|relation| &relation.kind) {
            Some(RelationKind::Errors { source }) => *source,
            _ => read,
        };
        format!(
            "{} depends on {}",
            described(self.relation(reader)),
            described(self.relation(read))
        )
    }

    /// `all`, dependants first. Newer relations come first among equals, so the order is stable.
    fn dependants_first(&self, all: &BTreeSet<Oid>) -> Vec<Oid> {
        let mut order = Vec::with_capacity(all.len());
        let mut done = BTreeSet::new();
        // Explicit stack: a chain of views may be longer than the thread's stack is deep.
        for start in all.iter().rev() {
            let mut stack = vec![(*start, false)];
            while let Some((oid, expanded)) = stack.pop() {
                if expanded {
                    order.push(oid);
                    continue;
                }
                if !all.contains(&oid) || !done.insert(oid) {
                    continue;
                }
                stack.push((oid, true));
                stack.extend(
                    self.dependants(oid)
                        .into_iter()
                        .map(|reader| (reader, false)),
                );
                stack.extend(self.errors_of(oid).map(|errors| (errors.oid, false)));
            }
        }
        order
    }
}

struct Closure {
    all: BTreeSet<Oid>,
    lines: Vec<String>,
}

fn dependent_objects(object: String, pronoun: &'static str, lines: &[String]) -> CatalogError {
    let mut shown: Vec<String> = lines.iter().take(DETAIL_LINES_MAX).cloned().collect();
    let hidden = lines.len() - shown.len();
    if hidden > 0 {
        shown.push(format!("and {hidden} other objects"));
    }
    CatalogError::DependentObjects {
        object,
        pronoun,
        detail: shown.join("\n"),
    }
}
