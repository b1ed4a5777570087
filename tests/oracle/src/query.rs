//! Random queries over given relations, within what Postgres and SQLite both say and mean alike.
//!
//! Invariant: no query depends on row order (LIMIT only under a total order), on collation, or on floating point.

use rand::Rng;
use rand::seq::IndexedRandom as _;
use rand_chacha::ChaCha8Rng;

use crate::program::{Col, Kind, Rel};

/// A query with its output columns.
pub(crate) struct Query {
    pub(crate) sql: String,
    pub(crate) columns: Vec<Col>,
}

/// A relation in FROM under an alias.
struct Scope {
    alias: String,
    columns: Vec<Col>,
}

pub(crate) struct QueryMaker<'a> {
    pub(crate) rng: &'a mut ChaCha8Rng,
    pub(crate) relations: &'a [Rel],
}

fn is_exact(column: &Col) -> bool {
    column.kind != Kind::Approximate
}

impl QueryMaker<'_> {
    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn relation(&mut self) -> Rel {
        self.relations
            .choose(self.rng)
            .cloned()
            .unwrap_or_else(|| unreachable!("a program has a table"))
    }

    fn scope(&mut self, alias: &str) -> (String, Scope) {
        let relation = self.relation();
        let from = format!("{} {alias}", relation.name);
        (
            from,
            Scope {
                alias: alias.to_owned(),
                columns: relation.columns,
            },
        )
    }

    fn column_of(&mut self, scopes: &[Scope], kind: Kind) -> Option<String> {
        let found: Vec<String> = scopes
            .iter()
            .flat_map(|scope| scope.columns.iter().map(move |column| (scope, column)))
            .filter(|(_, column)| column.kind == kind)
            .map(|(scope, column)| format!("{}.{}", scope.alias, column.name))
            .collect();
        found.choose(self.rng).cloned()
    }

    pub(crate) fn literal(&mut self, kind: Kind) -> String {
        if self.chance(8) {
            let ty = match kind {
                Kind::Int | Kind::Approximate => "int",
                Kind::Text => "text",
                Kind::Bool => "boolean",
            };
            return format!("CAST(NULL AS {ty})");
        }
        match kind {
            Kind::Int | Kind::Approximate => self.rng.random_range(-3..7).to_string(),
            Kind::Text => format!(
                "'{}'",
                ["", "a", "b", "A", "ab", "it''s"]
                    .choose(self.rng)
                    .unwrap_or(&"a")
            ),
            Kind::Bool => if self.chance(50) { "TRUE" } else { "FALSE" }.to_owned(),
        }
    }

    /// A scalar expression of a kind.
    fn expr(&mut self, scopes: &[Scope], kind: Kind, depth: u32) -> String {
        if depth == 0 || self.chance(45) {
            let column = if self.chance(80) {
                self.column_of(scopes, kind)
            } else {
                None
            };
            return column.unwrap_or_else(|| self.literal(kind));
        }
        match kind {
            Kind::Bool => self.condition(scopes, depth - 1),
            Kind::Int | Kind::Approximate => match self.rng.random_range(0..6) {
                0 => format!(
                    "({} + {})",
                    self.expr(scopes, Kind::Int, depth - 1),
                    self.expr(scopes, Kind::Int, depth - 1)
                ),
                1 => format!(
                    "({} - {})",
                    self.expr(scopes, Kind::Int, depth - 1),
                    self.expr(scopes, Kind::Int, depth - 1)
                ),
                2 => format!(
                    "({} * {})",
                    self.expr(scopes, Kind::Int, depth - 1),
                    self.literal(Kind::Int)
                ),
                3 => format!(
                    "coalesce({}, {})",
                    self.expr(scopes, Kind::Int, depth - 1),
                    self.expr(scopes, Kind::Int, depth - 1)
                ),
                4 => format!("length({})", self.expr(scopes, Kind::Text, depth - 1)),
                _ => self.case(scopes, Kind::Int, depth - 1),
            },
            Kind::Text => match self.rng.random_range(0..5) {
                0 => format!(
                    "({} || {})",
                    self.expr(scopes, Kind::Text, depth - 1),
                    self.expr(scopes, Kind::Text, depth - 1)
                ),
                1 => format!("upper({})", self.expr(scopes, Kind::Text, depth - 1)),
                2 => format!(
                    "coalesce({}, {})",
                    self.expr(scopes, Kind::Text, depth - 1),
                    self.expr(scopes, Kind::Text, depth - 1)
                ),
                3 => format!("CAST({} AS text)", self.expr(scopes, Kind::Int, depth - 1)),
                _ => self.case(scopes, Kind::Text, depth - 1),
            },
        }
    }

    fn case(&mut self, scopes: &[Scope], kind: Kind, depth: u32) -> String {
        let condition = self.condition(scopes, depth);
        let then = self.expr(scopes, kind, depth);
        let other = self.expr(scopes, kind, depth);
        format!("CASE WHEN {condition} THEN {then} ELSE {other} END")
    }

    fn condition(&mut self, scopes: &[Scope], depth: u32) -> String {
        let kind = if self.chance(60) {
            Kind::Int
        } else {
            Kind::Text
        };
        if depth > 0 && self.chance(35) {
            let left = self.condition(scopes, depth - 1);
            let right = self.condition(scopes, depth - 1);
            return match self.rng.random_range(0..5) {
                0 | 1 => format!("({left} AND {right})"),
                2 | 3 => format!("({left} OR {right})"),
                _ => format!("(NOT {left})"),
            };
        }
        let left = self.expr(scopes, kind, depth.saturating_sub(1));
        match self.rng.random_range(0..9) {
            0 => format!("({left} IS NULL)"),
            1 => format!("({left} IS NOT NULL)"),
            2 => {
                let items: Vec<String> = (0..self.rng.random_range(1..4))
                    .map(|_| self.literal(kind))
                    .collect();
                let not = if self.chance(30) { "NOT " } else { "" };
                format!("({left} {not}IN ({}))", items.join(", "))
            }
            3 if kind == Kind::Int => {
                let (low, high) = (self.literal(Kind::Int), self.literal(Kind::Int));
                format!("({left} BETWEEN {low} AND {high})")
            }
            4 => format!(
                "({left} IS DISTINCT FROM {})",
                self.expr(scopes, kind, depth.saturating_sub(1))
            ),
            5 => match self.column_of(scopes, Kind::Bool) {
                Some(column) => column,
                None => format!("({left} = {})", self.literal(kind)),
            },
            _ => {
                let op = ["=", "<>", "<", "<=", ">", ">="]
                    .choose(self.rng)
                    .unwrap_or(&"=");
                format!(
                    "({left} {op} {})",
                    self.expr(scopes, kind, depth.saturating_sub(1))
                )
            }
        }
    }

    /// A subquery's FROM with its scope, and a filter that often names columns of the outer query too.
    fn inner(&mut self, outer: &[Scope]) -> (String, [Scope; 1], String) {
        let (from, inner) = self.scope("s");
        let inner = [inner];
        let kind = if self.chance(80) {
            Kind::Int
        } else {
            Kind::Text
        };
        let plain = self.condition(&inner, 1);
        let sides = (self.column_of(outer, kind), self.column_of(&inner, kind));
        let filter = match (self.rng.random_range(0..6), sides) {
            (0..3, (Some(outer), Some(inner))) => format!("{inner} = {outer} AND {plain}"),
            (3, (Some(outer), Some(inner))) => format!("{inner} < {outer} OR {plain}"),
            (4, (Some(outer), Some(inner))) => format!("{inner} IS NOT DISTINCT FROM {outer}"),
            _ => plain,
        };
        (from, inner, filter)
    }

    /// A subquery in a condition: on its own, or where its NULL counts.
    fn subquery_condition(&mut self, scopes: &[Scope]) -> String {
        let found = self.subquery_test(scopes);
        match self.rng.random_range(0..8) {
            0 => format!("({found} OR {})", self.condition(scopes, 1)),
            1 => format!("(NOT ({found} AND {}))", self.condition(scopes, 1)),
            2 => format!("({found} IS NULL)"),
            3 => format!("({found} AND {})", self.subquery_test(scopes)),
            _ => found,
        }
    }

    /// `[NOT] EXISTS`, `[NOT] IN (SELECT ...)` or a comparison with a scalar subquery.
    fn subquery_test(&mut self, scopes: &[Scope]) -> String {
        let (from, inner, filter) = self.inner(scopes);
        let not = if self.chance(40) { "NOT " } else { "" };
        match self.rng.random_range(0..8) {
            0..3 => format!("{not}EXISTS (SELECT 1 FROM {from} WHERE {filter})"),
            3..6 => {
                let kind = if self.chance(70) {
                    Kind::Int
                } else {
                    Kind::Text
                };
                let (left, right) = (self.expr(scopes, kind, 1), self.expr(&inner, kind, 0));
                format!("({left} {not}IN (SELECT {right} FROM {from} WHERE {filter}))")
            }
            6 => {
                let left = [
                    self.expr(scopes, Kind::Int, 0),
                    self.expr(scopes, Kind::Text, 0),
                ];
                let right = [
                    self.expr(&inner, Kind::Int, 0),
                    self.expr(&inner, Kind::Text, 0),
                ];
                format!(
                    "(({}) {not}IN (SELECT {} FROM {from} WHERE {filter}))",
                    left.join(", "),
                    right.join(", ")
                )
            }
            _ => {
                let left = self.expr(scopes, Kind::Int, 1);
                format!("({left} <= {})", self.scalar_subquery(scopes))
            }
        }
    }

    /// An integer: an aggregate, or the first row under a total order.
    fn scalar_subquery(&mut self, scopes: &[Scope]) -> String {
        let (from, inner, filter) = self.inner(scopes);
        let column = self.expr(&inner, Kind::Int, 0);
        if self.chance(30) {
            let skip = if self.chance(25) { " OFFSET 1" } else { "" };
            return format!(
                "(SELECT {column} FROM {from} WHERE {filter} ORDER BY 1 NULLS LAST LIMIT 1{skip})"
            );
        }
        let function = ["min", "max", "count", "sum"]
            .choose(self.rng)
            .unwrap_or(&"max");
        format!("(SELECT {function}({column}) FROM {from} WHERE {filter})")
    }

    fn from(&mut self) -> (String, Vec<Scope>) {
        let (mut sql, first) = self.scope("a");
        let mut scopes = vec![first];
        for alias in ["b", "c"] {
            if !self.chance(if alias == "b" { 55 } else { 20 }) {
                break;
            }
            let (from, scope) = self.scope(alias);
            scopes.push(scope);
            let join = [
                "JOIN",
                "JOIN",
                "LEFT JOIN",
                "LEFT JOIN",
                "RIGHT JOIN",
                "FULL JOIN",
                "CROSS JOIN",
            ]
            .choose(self.rng)
            .unwrap_or(&"JOIN");
            if *join == "CROSS JOIN" {
                sql = format!("{sql} CROSS JOIN {from}");
                continue;
            }
            let on = self.join_condition(&scopes);
            sql = format!("{sql} {join} {from} ON {on}");
        }
        (sql, scopes)
    }

    /// An equality between the new relation and an earlier one, sometimes with a residual condition.
    fn join_condition(&mut self, scopes: &[Scope]) -> String {
        let (new, old) = scopes
            .split_last()
            .unwrap_or_else(|| unreachable!("a join has two sides"));
        let kind = if self.chance(80) {
            Kind::Int
        } else {
            Kind::Text
        };
        let left = self.column_of(old, kind);
        let right = self.column_of(std::slice::from_ref(new), kind);
        let (Some(left), Some(right)) = (left, right) else {
            return self.condition(scopes, 1);
        };
        if self.chance(25) {
            return format!("{left} = {right} AND {}", self.condition(scopes, 0));
        }
        format!("{left} = {right}")
    }

    fn filter(&mut self, scopes: &[Scope]) -> String {
        if self.chance(20) {
            return format!(" WHERE {}", self.subquery_condition(scopes));
        }
        if self.chance(50) {
            return format!(" WHERE {}", self.condition(scopes, 2));
        }
        String::new()
    }

    fn exact_kind(&mut self) -> Kind {
        [Kind::Int, Kind::Int, Kind::Text, Kind::Bool]
            .choose(self.rng)
            .copied()
            .unwrap_or(Kind::Int)
    }

    /// Select list of scalar expressions named c0, c1, ...
    fn items(&mut self, scopes: &[Scope], kinds: &[Kind]) -> (String, Vec<Col>) {
        let mut items = Vec::new();
        let mut columns = Vec::new();
        for (i, kind) in kinds.iter().enumerate() {
            let item = match kind {
                Kind::Int if self.chance(8) => self.scalar_subquery(scopes),
                Kind::Bool if self.chance(20) => self.subquery_condition(scopes),
                _ => self.expr(scopes, *kind, 2),
            };
            items.push(format!("{item} AS c{i}"));
            columns.push(Col {
                name: format!("c{i}"),
                kind: *kind,
            });
        }
        (items.join(", "), columns)
    }

    fn kinds(&mut self) -> Vec<Kind> {
        (0..self.rng.random_range(1..4))
            .map(|_| self.exact_kind())
            .collect()
    }

    fn plain(&mut self, kinds: &[Kind]) -> Query {
        let (from, scopes) = self.from();
        let filter = self.filter(&scopes);
        let (items, columns) = self.items(&scopes, kinds);
        Query {
            sql: format!("SELECT {items} FROM {from}{filter}"),
            columns,
        }
    }

    fn stateless(&mut self) -> Query {
        let (from, scope) = self.scope("a");
        let scopes = [scope];
        let filter = if self.chance(70) {
            format!(" WHERE {}", self.condition(&scopes, 2))
        } else {
            String::new()
        };
        let kinds = self.kinds();
        let (items, columns) = self.items(&scopes, &kinds);
        Query {
            sql: format!("SELECT {items} FROM {from}{filter}"),
            columns,
        }
    }

    fn aggregate_item(&mut self, scopes: &[Scope]) -> (String, Kind) {
        let number = self.expr(scopes, Kind::Int, 1);
        let filter = if self.chance(25) {
            format!(" FILTER (WHERE {})", self.condition(scopes, 1))
        } else {
            String::new()
        };
        match self.rng.random_range(0..8) {
            0 => (format!("count(*){filter}"), Kind::Int),
            1 => (format!("count({number}){filter}"), Kind::Int),
            2 | 3 => (format!("sum({number}){filter}"), Kind::Int),
            4 => (format!("min({number}){filter}"), Kind::Int),
            5 => {
                let text = self.expr(scopes, Kind::Text, 1);
                (format!("max({text}){filter}"), Kind::Text)
            }
            6 => (format!("count(DISTINCT {number}){filter}"), Kind::Int),
            _ => (format!("avg({number}){filter}"), Kind::Approximate),
        }
    }

    fn aggregate(&mut self) -> Query {
        let (from, scopes) = self.from();
        let filter = self.filter(&scopes);
        let keys: Vec<(String, Kind)> = (0..self.rng.random_range(0..3))
            .filter_map(|_| {
                let kind = self.exact_kind();
                self.column_of(&scopes, kind).map(|column| (column, kind))
            })
            .collect();
        // DataFusion's unoptimised physical plan names columns wrongly when a key is written twice (seen in 55.2).
        let mut keys = keys;
        keys.sort_by(|a, b| a.0.cmp(&b.0));
        keys.dedup_by(|a, b| a.0 == b.0);
        let mut items = Vec::new();
        let mut columns = Vec::new();
        for (i, (key, kind)) in keys.iter().enumerate() {
            items.push(format!("{key} AS c{i}"));
            columns.push(Col {
                name: format!("c{i}"),
                kind: *kind,
            });
        }
        for i in keys.len()..keys.len() + self.rng.random_range(1..4) {
            let (item, kind) = self.aggregate_item(&scopes);
            items.push(format!("{item} AS c{i}"));
            columns.push(Col {
                name: format!("c{i}"),
                kind,
            });
        }
        let mut sql = format!("SELECT {} FROM {from}{filter}", items.join(", "));
        if !keys.is_empty() {
            let keys: Vec<&str> = keys.iter().map(|(key, _)| key.as_str()).collect();
            sql.push_str(&format!(" GROUP BY {}", keys.join(", ")));
        }
        if self.chance(25) {
            let number = self.expr(&scopes, Kind::Int, 0);
            let bound = self.rng.random_range(0..4);
            sql.push_str(&format!(" HAVING count({number}) > {bound}"));
        }
        Query { sql, columns }
    }

    fn set_operation(&mut self) -> Query {
        let kinds = self.kinds();
        let left = self.plain(&kinds);
        let right = self.plain(&kinds);
        let op = ["UNION ALL", "UNION ALL", "UNION", "EXCEPT", "INTERSECT"]
            .choose(self.rng)
            .unwrap_or(&"UNION");
        Query {
            sql: format!("{} {op} {}", left.sql, right.sql),
            columns: left.columns,
        }
    }

    fn window(&mut self) -> Query {
        let (from, scope) = self.scope("a");
        let exact: Vec<String> = scope
            .columns
            .iter()
            .filter(|column| is_exact(column))
            .map(|column| format!("a.{}", column.name))
            .collect();
        let scopes = [scope];
        let partition = exact
            .choose(self.rng)
            .cloned()
            .unwrap_or_else(|| "1".to_owned());
        let order: Vec<String> = exact
            .iter()
            .map(|column| format!("{column} NULLS LAST"))
            .collect();
        let number = self
            .column_of(&scopes, Kind::Int)
            .unwrap_or_else(|| "1".to_owned());
        // The order is total up to equal rows, so these functions do not depend on how ties are broken.
        let function = ["rank()", "dense_rank()", "row_number()"]
            .choose(self.rng)
            .unwrap_or(&"rank()");
        let running = format!("sum({number}) OVER (PARTITION BY {partition})");
        let sql = format!(
            "SELECT {}, {function} OVER (PARTITION BY {partition} ORDER BY {}) AS r, {running} AS s FROM {from}",
            exact
                .iter()
                .enumerate()
                .map(|(i, column)| format!("{column} AS c{i}"))
                .collect::<Vec<_>>()
                .join(", "),
            order.join(", ")
        );
        let mut columns: Vec<Col> = scopes[0]
            .columns
            .iter()
            .filter(|column| is_exact(column))
            .enumerate()
            .map(|(i, column)| Col {
                name: format!("c{i}"),
                kind: column.kind,
            })
            .collect();
        columns.push(Col {
            name: "r".into(),
            kind: Kind::Int,
        });
        columns.push(Col {
            name: "s".into(),
            kind: Kind::Int,
        });
        Query { sql, columns }
    }

    fn top(&mut self) -> Query {
        let kinds = self.kinds();
        let inner = self.plain(&kinds);
        let order: Vec<String> = inner
            .columns
            .iter()
            .map(|column| {
                format!(
                    "{} {} NULLS LAST",
                    column.name,
                    if self.chance(50) { "ASC" } else { "DESC" }
                )
            })
            .collect();
        let limit = self.rng.random_range(1..5);
        let offset = if self.chance(30) { " OFFSET 1" } else { "" };
        let sql = format!(
            "SELECT * FROM ({}) q ORDER BY {} LIMIT {limit}{offset}",
            inner.sql,
            order.join(", ")
        );
        Query {
            sql,
            columns: inner.columns,
        }
    }

    fn with(&mut self) -> Query {
        let inner = self.aggregate();
        let exact: Vec<&Col> = inner
            .columns
            .iter()
            .filter(|column| is_exact(column))
            .collect();
        let names: Vec<&str> = exact.iter().map(|column| column.name.as_str()).collect();
        if names.is_empty() {
            return inner;
        }
        let sql = format!(
            "WITH q AS ({}) SELECT DISTINCT {} FROM q",
            inner.sql,
            names.join(", ")
        );
        let columns = exact.into_iter().cloned().collect();
        Query { sql, columns }
    }

    /// Any query.
    pub(crate) fn query(&mut self) -> Query {
        match self.rng.random_range(0..100) {
            0..15 => self.stateless(),
            15..35 => {
                let kinds = self.kinds();
                let mut query = self.plain(&kinds);
                if self.chance(20) {
                    query.sql = query.sql.replacen("SELECT ", "SELECT DISTINCT ", 1);
                }
                query
            }
            35..65 => self.aggregate(),
            65..78 => self.set_operation(),
            78..86 => self.window(),
            86..94 => self.top(),
            _ => self.with(),
        }
    }

    /// A condition over one relation, for UPDATE and DELETE.
    pub(crate) fn row_condition(&mut self, relation: &Rel) -> String {
        let scope = Scope {
            alias: relation.name.clone(),
            columns: relation.columns.clone(),
        };
        self.condition(&[scope], 1)
    }

    /// An expression over one relation, for UPDATE.
    pub(crate) fn row_expr(&mut self, relation: &Rel, kind: Kind) -> String {
        let scope = Scope {
            alias: relation.name.clone(),
            columns: relation.columns.clone(),
        };
        self.expr(&[scope], kind, 1)
    }
}
