//! Plans as text for people, and for golden files.
//!
//! Invariant: the text depends only on the plan: no addresses, no hash order, no DataFusion spellings of literals.

mod expr;

use datafusion::arrow::datatypes::FieldRef;
use datafusion::logical_expr::{Distinct, Expr, JoinType, LogicalPlan};

use crate::context::RelationScan;
use crate::error::visible;
use crate::stream::{Change, Keeping, Properties, StateSize, StreamNode, StreamPlan};
use expr::{list, sorts, text};

/// EXPLAIN: one operator per line, inputs indented; `verbose` adds each operator's columns.
pub(crate) fn batch(plan: &LogicalPlan, verbose: bool) -> String {
    let mut out = String::new();
    write_plan(plan, 0, verbose, &mut out);
    out.truncate(out.trim_end().len());
    out
}

fn write_plan(plan: &LogicalPlan, depth: usize, verbose: bool, out: &mut String) {
    let line = operator(plan);
    out.push_str(&"  ".repeat(depth));
    out.push_str(&line);
    out.push('\n');
    if verbose {
        let columns: Vec<String> = crate::output::columns(plan)
            .iter()
            .map(|c| format!("{} {}", c.name, c.ty))
            .collect();
        out.push_str(&format!(
            "{}  output: {}\n",
            "  ".repeat(depth),
            columns.join(", ")
        ));
    }
    for subquery in subqueries(plan) {
        out.push_str(&format!("{}  subquery:\n", "  ".repeat(depth)));
        write_plan(&subquery, depth + 2, verbose, out);
    }
    for input in plan.inputs() {
        write_plan(input, depth + 1, verbose, out);
    }
}

fn subqueries(plan: &LogicalPlan) -> Vec<LogicalPlan> {
    use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
    use datafusion::logical_expr::Expr;
    let mut found = Vec::new();
    let walked = plan.apply_expressions(|expr| {
        expr.apply(|e| {
            match e {
                Expr::ScalarSubquery(s) => found.push((*s.subquery).clone()),
                Expr::Exists(e) => found.push((*e.subquery.subquery).clone()),
                Expr::InSubquery(i) => found.push((*i.subquery.subquery).clone()),
                Expr::SetComparison(s) => found.push((*s.subquery.subquery).clone()),
                _ => {}
            }
            Ok(TreeNodeRecursion::Continue)
        })
    });
    debug_assert!(walked.is_ok());
    found
}

fn operator(plan: &LogicalPlan) -> String {
    match plan {
        LogicalPlan::Projection(p) => format!("Project {}", list(&p.expr)),
        LogicalPlan::Filter(f) => format!("Filter {}", text(&f.predicate)),
        LogicalPlan::Aggregate(a) => aggregate_line(&a.group_expr, a.aggr_expr.iter()),
        LogicalPlan::Window(w) => format!("Window {}", list(&w.window_expr)),
        LogicalPlan::Sort(s) => match s.fetch {
            Some(n) => format!("Sort {} limit {n}", sorts(&s.expr)),
            None => format!("Sort {}", sorts(&s.expr)),
        },
        LogicalPlan::Limit(l) => {
            let mut parts = vec!["Limit".to_owned()];
            if let Some(fetch) = &l.fetch {
                parts.push(text(fetch));
            }
            if let Some(skip) = &l.skip {
                parts.push(format!("offset {}", text(skip)));
            }
            parts.join(" ")
        }
        LogicalPlan::Join(j) => join_line(j.join_type, &j.on, j.filter.as_ref()),
        LogicalPlan::TableScan(scan) => match scan.source.downcast_ref::<RelationScan>() {
            Some(relation) => {
                let kind = if relation.append_only {
                    "source"
                } else {
                    "relation"
                };
                format!("Scan {kind} {}", relation.name)
            }
            None => format!("Scan system relation {}", scan.table_name),
        },
        LogicalPlan::SubqueryAlias(a) => format!("As {}", a.alias),
        LogicalPlan::Union(_) => "Union all".to_owned(),
        LogicalPlan::Distinct(Distinct::All(_)) => "Distinct".to_owned(),
        LogicalPlan::Distinct(Distinct::On(on)) => {
            let sort = on
                .sort_expr
                .as_ref()
                .map(|s| format!(" order {}", sorts(s)))
                .unwrap_or_default();
            format!("Distinct on {}{sort}", list(&on.on_expr))
        }
        LogicalPlan::Unnest(u) => {
            let columns: Vec<String> = u
                .list_type_columns
                .iter()
                .map(|(i, _)| visible(u.input.schema().field(*i).name()).to_owned())
                .collect();
            format!("Unnest {}", columns.join(", "))
        }
        LogicalPlan::Values(v) => format!("Values {} rows", v.values.len()),
        LogicalPlan::EmptyRelation(e) => {
            if e.produce_one_row {
                "One row".to_owned()
            } else {
                "No rows".to_owned()
            }
        }
        LogicalPlan::RecursiveQuery(r) => format!("Recursive {}", r.name),
        LogicalPlan::Subquery(_) => "Lateral".to_owned(),
        other => other.display().to_string(),
    }
}

/// EXPLAIN STREAM: operators with their properties, then how the query is kept and what is remembered for it.
pub(crate) fn stream(plan: &StreamPlan) -> String {
    let mut out = String::new();
    write_node(&plan.root, 0, &mut out);
    match (plan.keeping, &plan.root) {
        (_, StreamNode::Recompute { reason, .. }) => {
            out.push_str(&format!("kept by: recompute ({reason})\n"));
        }
        (Keeping::Incremental, root) if has_state(root) => {
            out.push_str("kept by: changes, with state\n");
        }
        _ => out.push_str("kept by: changes, row by row\n"),
    }
    write_lookups(&plan.root, &mut out);
    let before = out.len();
    write_state(&plan.root, &mut out);
    if out.len() == before {
        out.push_str("state: none\n");
    }
    out.truncate(out.trim_end().len());
    out
}

fn bound(node: &StreamNode) -> &'static str {
    if node.properties().bounded {
        "bounded"
    } else {
        "unbounded"
    }
}

fn has_state(node: &StreamNode) -> bool {
    let own = match node {
        StreamNode::Aggregate { .. } | StreamNode::Join { .. } => true,
        StreamNode::Lookup { properties, .. } => properties.state == StateSize::Found,
        _ => false,
    };
    own || node.inputs().into_iter().any(has_state)
}

/// What lookups do apart from the inputs' changes.
fn write_lookups(node: &StreamNode, out: &mut String) {
    if let StreamNode::Lookup { name, outside, .. } = node {
        let (rows, ttl) = (&outside.cache_rows, &outside.cache_ttl);
        out.push_str(&format!(
            "cache: at most {rows} rows of {name}, each for {ttl}\nlookups: once for each row that comes; again for all rows when the view is built anew, as after a restart\n"
        ));
    }
    for input in node.inputs() {
        write_lookups(input, out);
    }
}

/// What each operator remembers, from the top.
fn write_state(node: &StreamNode, out: &mut String) {
    match (&node.properties().state, node) {
        (state, StreamNode::Aggregate { input, group, .. }) => {
            let each = if group.is_empty() {
                "one total".to_owned()
            } else {
                format!("one entry for each ({})", list(group))
            };
            // The values are as many as the input has, however few the groups are.
            out.push_str(&match state {
                StateSize::Values => format!("state: {each} with its values, {}\n", bound(input)),
                _ => format!("state: {each}, {}\n", bound(node)),
            });
        }
        (_, StreamNode::Join { left, right, .. }) => out.push_str(&format!(
            "state: rows of the left input, {}, and of the right, {}\n",
            bound(left),
            bound(right)
        )),
        (StateSize::Found, StreamNode::Lookup { name, .. }) => out.push_str(&format!(
            "state: the row of {name} that each row of the input found, {}\n",
            bound(node)
        )),
        (StateSize::Inputs, _) => out.push_str("state: the last result\n"),
        (StateSize::Unbounded(sources), _) => {
            for source in sources {
                out.push_str(&format!(
                    "state: hidden history of source {source}, unbounded\n"
                ));
            }
        }
        _ => {}
    }
    for input in node.inputs() {
        write_state(input, out);
    }
}

fn aggregate_line<'a>(group: &[Expr], calls: impl Iterator<Item = &'a Expr>) -> String {
    let calls: Vec<Expr> = calls.cloned().collect();
    let mut parts = Vec::new();
    if !group.is_empty() {
        parts.push(format!("by {}", list(group)));
    }
    if !calls.is_empty() {
        parts.push(format!("compute {}", list(&calls)));
    }
    format!("Aggregate {}", parts.join(" "))
}

fn join_line(kind: JoinType, on: &[(Expr, Expr)], filter: Option<&Expr>) -> String {
    let mut conditions: Vec<String> = on
        .iter()
        .map(|(l, r)| format!("{} = {}", text(l), text(r)))
        .collect();
    conditions.extend(filter.map(text));
    if conditions.is_empty() {
        format!("{kind} Join")
    } else {
        format!("{kind} Join on {}", conditions.join(" AND "))
    }
}

fn lookup_line(
    table: &str,
    outer: bool,
    keys: &[(usize, Expr)],
    filter: Option<&Expr>,
    columns: &[FieldRef],
) -> String {
    let mut conditions: Vec<String> = keys
        .iter()
        .map(|(column, key)| {
            let name = columns.get(*column).map_or("?", |field| field.name());
            format!("{name} = {}", text(key))
        })
        .collect();
    conditions.extend(filter.map(text));
    let kind = if outer {
        "Left lookup join"
    } else {
        "Lookup join"
    };
    format!("{kind} {table} on {}", conditions.join(" AND "))
}

fn write_node(node: &StreamNode, depth: usize, out: &mut String) {
    let line = match node {
        StreamNode::Scan { name, .. } => format!("Scan {name}"),
        StreamNode::Filter { predicate, .. } => format!("Filter {}", text(predicate)),
        StreamNode::Project { exprs, .. } => format!("Project {}", list(exprs)),
        StreamNode::Union { .. } => "Union all".to_owned(),
        StreamNode::Unnest { .. } => "Unnest".to_owned(),
        StreamNode::Aggregate {
            group, aggregates, ..
        } => aggregate_line(group, aggregates.iter().map(|aggregate| &aggregate.call)),
        StreamNode::Join {
            kind, on, filter, ..
        } => join_line(*kind, on, filter.as_ref()),
        StreamNode::Lookup {
            name,
            outer,
            keys,
            wanted,
            filter,
            pair,
            ..
        } => lookup_line(
            name,
            *outer,
            keys,
            filter.as_ref(),
            &pair.fields()[pair.fields().len() - wanted.len()..],
        ),
        StreamNode::Recompute { reason, .. } => format!("Recompute {reason}"),
    };
    out.push_str(&format!(
        "{}{line}  {}\n",
        "  ".repeat(depth),
        properties(node.properties(), node)
    ));
    for input in node.inputs() {
        write_node(input, depth + 1, out);
    }
}

fn properties(p: &Properties, node: &StreamNode) -> String {
    let mut parts = vec![match p.change {
        Change::AppendOnly => "append-only".to_owned(),
        Change::Retract => "retract".to_owned(),
    }];
    for key in &p.keys {
        let names: Vec<&str> = key
            .iter()
            .map(|i| visible(node.schema().field(*i).name()))
            .collect();
        parts.push(format!("key ({})", names.join(", ")));
    }
    parts.push(if p.bounded { "bounded" } else { "unbounded" }.to_owned());
    if !p.deterministic {
        parts.push("not deterministic".to_owned());
    }
    format!("[{}]", parts.join(", "))
}
