//! `HYBRID(archive, source)`: the rows of an archive, then those of the source that fills it from where the archive ends.
//!
//! Invariant: ad hoc the two halves have the source's columns, and the second one names the archive, so that whoever runs the plan
//! reads it from the archive's own end. In a continuous query a hybrid is the source, whose rows begin in the archive that it names.

use std::collections::BTreeMap;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use thalweg_catalog::{Oid, Relation, RelationKind, SqlType};
use thalweg_sql::ast::{self, Expr, TableFactor};

use crate::context::RelationScan;
use crate::error::PlanError;
use crate::names::{fold, quoted};

type Result<T> = std::result::Result<T, PlanError>;

/// First part of the name under which the normaliser leaves a hybrid: the archive's name and the source's follow.
pub(crate) const MARK: &str = "\0hybrid";
/// First part of the name of one half: its OID follows, then that of the archive behind which it begins, or 0.
pub(crate) const HALF: &str = "\0half";
/// Between the parts of a name in one part of another. No name of a user's holds it.
const BETWEEN: char = '\0';

const SHAPE: &str =
    "Write HYBRID(archive, source), with an archive that was created FROM that source.";

/// The table that stands for a hybrid until names are resolved.
pub(crate) fn marked(args: &[Expr], alias: ast::TableAlias) -> Result<TableFactor> {
    let [archive, source] = args else {
        return Err(PlanError::hint(
            "42601",
            "HYBRID takes an archive and a source",
            SHAPE,
        ));
    };
    let name = name_of([MARK.to_owned(), packed(archive)?, packed(source)?]);
    Ok(TableFactor::Derived {
        lateral: false,
        subquery: Box::new(with_names("SELECT * FROM a AS a", [name])?),
        alias: Some(alias),
        sample: None,
    })
}

/// A relation's name as one part of another.
fn packed(arg: &Expr) -> Result<String> {
    let parts: Vec<String> = match arg {
        Expr::Identifier(name) => vec![fold(name)],
        Expr::CompoundIdentifier(parts) => parts.iter().map(fold).collect(),
        _ => {
            return Err(PlanError::hint(
                "42601",
                format!("HYBRID takes names of relations, not {arg}"),
                SHAPE,
            ));
        }
    };
    Ok(parts.join(&BETWEEN.to_string()))
}

/// The name that was packed.
pub(crate) fn unpacked(part: &str) -> ast::ObjectName {
    name_of(part.split(BETWEEN).map(str::to_owned))
}

fn name_of(parts: impl IntoIterator<Item = String>) -> ast::ObjectName {
    let part = |part| ast::ObjectNamePart::Identifier(quoted(part));
    ast::ObjectName(parts.into_iter().map(part).collect())
}

/// The query of a text in which the relations have these names, in the order in which they stand there.
fn with_names<const N: usize>(text: &str, names: [ast::ObjectName; N]) -> Result<ast::Query> {
    let mut query = crate::bind::normalize::parsed(text)?;
    let mut names = names.into_iter();
    let _: std::ops::ControlFlow<()> = ast::visit_relations_mut(&mut query, |name| {
        if let Some(new) = names.next() {
            *name = new;
        }
        std::ops::ControlFlow::Continue(())
    });
    Ok(query)
}

/// How a query reads each of its relations: those that a hybrid is of, and all others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hybrids {
    /// What is read, and the archive before it; sorted.
    read: Vec<(Oid, Option<Oid>)>,
}

impl Hybrids {
    /// Those of a plan.
    pub(crate) fn of(plan: &LogicalPlan) -> Self {
        let mut read = Vec::new();
        let walked = plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node
                && let Some(leaf) = scan.source.downcast_ref::<RelationScan>()
            {
                read.push((leaf.oid, leaf.after));
            }
            Ok(TreeNodeRecursion::Continue)
        });
        debug_assert!(walked.is_ok());
        read.sort_unstable();
        read.dedup();
        Self { read }
    }

    /// The archives that are part of hybrids.
    pub fn archives(&self) -> impl Iterator<Item = Oid> + '_ {
        self.read.iter().filter_map(|(_, after)| *after)
    }

    /// In which archive the rows of sources begin.
    ///
    /// # Errors
    /// 0A000 when a source or archive is also read in another way: the changes of a source go to all who read it in one query,
    /// and those of an archive are not known.
    pub fn histories(&self) -> Result<BTreeMap<Oid, Oid>> {
        let mut histories = BTreeMap::new();
        for (source, archive) in &self.read {
            let Some(archive) = archive else { continue };
            let ways = self.read.iter().filter(|(oid, _)| oid == source).count();
            if ways > 1 || self.read.contains(&(*archive, None)) {
                return Err(PlanError::hint(
                    "0A000",
                    "a continuous query over a hybrid and, apart from it, its source or archive is not supported",
                    "Make a materialized view of the hybrid alone, and read that instead.",
                ));
            }
            histories.insert(*source, *archive);
        }
        Ok(histories)
    }
}

/// The query that a hybrid stands for, and its columns.
///
/// # Errors
/// 42809 for relations that are no archive and its source.
pub(crate) fn halves(
    archive: &Relation,
    source: &Relation,
    continuous: bool,
) -> Result<(ast::Query, Vec<(String, SqlType)>)> {
    let RelationKind::Archive(spec) = &archive.kind else {
        let message = format!("\"{}\" is not an archive", archive.name);
        return Err(PlanError::hint("42809", message, SHAPE));
    };
    let fed = spec.feed.as_ref().map(|feed| feed.from);
    if fed != Some(source.oid) || !matches!(source.kind, RelationKind::Source(_)) {
        let message = format!(
            "archive \"{}\" is not filled from a source \"{}\"",
            archive.name, source.name
        );
        return Err(PlanError::hint("42809", message, SHAPE));
    }
    let names: Vec<String> = source
        .columns
        .iter()
        .map(|column| thalweg_sql::quote_ident(&column.name))
        .collect();
    let names = names.join(", ");
    let half =
        |oid: Oid, after: Oid| name_of([HALF.to_owned(), oid.0.to_string(), after.0.to_string()]);
    let behind = half(source.oid, archive.oid);
    let query = if continuous {
        with_names(&format!("SELECT {names} FROM b AS b"), [behind])?
    } else {
        let text = format!("SELECT {names} FROM a AS a UNION ALL SELECT {names} FROM b AS b");
        with_names(&text, [half(archive.oid, Oid(0)), behind])?
    };
    let columns = source.columns.iter();
    Ok((
        query,
        columns
            .map(|column| (column.name.clone(), column.ty.clone()))
            .collect(),
    ))
}
