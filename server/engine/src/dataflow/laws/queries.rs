//! Random queries for the laws of dataflows.
//!
//! Invariant: the same seed makes the same query.

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::TABLES;

/// Random queries over the three tables.
pub(super) struct Queries<'a> {
    pub(super) random: &'a mut ChaCha8Rng,
}

impl Queries<'_> {
    fn one<'b>(&mut self, of: &[&'b str]) -> &'b str {
        of.choose(self.random).copied().unwrap_or_default()
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn column(&mut self, aliases: &[&str], columns: &[&str]) -> String {
        format!("{}.{}", self.one(aliases), self.one(columns))
    }

    fn condition(&mut self, aliases: &[&str]) -> String {
        let number = self.random.random_range(-2..4);
        let (a, b) = (
            self.column(aliases, &["i", "j"]),
            self.column(aliases, &["i", "j"]),
        );
        match self.random.random_range(0..9) {
            0 => format!("{a} > {number}"),
            1 => format!("{a} <= {b}"),
            2 => format!("{} <> 'ab'", self.column(aliases, &["w"])),
            3 => format!("{a} IS NOT NULL"),
            4 => format!(
                "({a} = {b} OR {} IS NULL)",
                self.column(aliases, &["w", "f"])
            ),
            5 => self.column(aliases, &["b"]),
            6 => format!("NOT ({a} < {number} AND {b} IS NOT NULL)"),
            7 => format!("{a} + {b} <> {number}"),
            _ => format!("{} < {number}.5", self.column(aliases, &["f", "d"])),
        }
    }

    fn from(&mut self) -> (String, Vec<&'static str>) {
        let mut sql = format!("{} a", self.one(&TABLES));
        let mut aliases = vec!["a"];
        for alias in ["b", "c"] {
            if !self.chance(if alias == "b" { 65 } else { 25 }) {
                break;
            }
            let join = self.one(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "LEFT JOIN"]);
            let key = self.one(&["i", "j", "w", "f", "i", "i"]);
            let old = self.column(&aliases, &[key]);
            aliases.push(alias);
            let mut on = format!("{old} = {alias}.{key}");
            if self.chance(20) {
                on = format!(
                    "{on} AND {} = {alias}.w",
                    self.column(&aliases[..1], &["w"])
                );
            }
            if self.chance(35) {
                on = format!("{on} AND {}", self.condition(&aliases));
            }
            if self.chance(7) && matches!(join, "JOIN" | "LEFT JOIN" | "RIGHT JOIN") {
                on = self.condition(&aliases);
            }
            sql = format!("{sql} {join} {} {alias} ON {on}", self.one(&TABLES));
        }
        (sql, aliases)
    }

    fn filter(&mut self, aliases: &[&str]) -> String {
        if self.chance(35) {
            let table = self.one(&TABLES);
            let not = self.one(&["", "NOT "]);
            let outer = self.column(aliases, &["i"]);
            let extra = self.condition(&["z"]);
            let extra_outer = self.condition(aliases);
            return match self.random.random_range(0..6) {
                5 => format!(
                    " WHERE {extra_outer} OR {not}EXISTS (SELECT 1 FROM {table} z WHERE z.i = {outer})"
                ),
                0 => format!(
                    " WHERE {not}EXISTS (SELECT 1 FROM {table} z WHERE z.i = {outer} AND {extra})"
                ),
                1 => format!(
                    " WHERE {not}EXISTS (SELECT 1 FROM {table} z WHERE z.i = {outer} AND z.j < {}.j)",
                    aliases[0]
                ),
                2 => format!(" WHERE {outer} {not}IN (SELECT z.i FROM {table} z WHERE {extra})"),
                3 => format!(" WHERE {not}EXISTS (SELECT 1 FROM {table} z WHERE {extra})"),
                _ => format!(" WHERE {outer} >= (SELECT avg(z.i) FROM {table} z WHERE {extra})"),
            };
        }
        if self.chance(50) {
            return format!(" WHERE {}", self.condition(aliases));
        }
        String::new()
    }

    fn call(&mut self, aliases: &[&str]) -> String {
        let exact = self.column(aliases, &["i", "j", "d"]);
        let any = self.column(aliases, &["i", "j", "d", "f"]);
        let text = self.column(aliases, &["w"]);
        let flag = self.column(aliases, &["b"]);
        let float = self.column(aliases, &["f"]);
        let distinct = self.one(&["", "", "DISTINCT "]);
        let call = match self.random.random_range(0..15) {
            0 => "count(*)".to_owned(),
            1 => format!("count({distinct}{any})"),
            2 => format!("sum({distinct}{exact})"),
            3 => format!("avg({distinct}{exact})"),
            4 => format!("sum({float})"),
            5 => format!("min({any})"),
            6 => format!("max({any})"),
            7 => format!("max({text})"),
            8 => format!("bool_and({flag})"),
            9 => format!("bool_or({flag})"),
            10 => format!("stddev({exact})"),
            11 => format!("var_pop({exact})"),
            12 => format!("string_agg({distinct}{text}, ',' ORDER BY {text})"),
            13 => format!("array_agg({exact} ORDER BY {exact} DESC)"),
            _ => format!("count({distinct}{text})"),
        };
        if self.chance(25) {
            return format!("{call} FILTER (WHERE {})", self.condition(aliases));
        }
        call
    }

    fn select(&mut self, width: usize) -> String {
        let (from, aliases) = self.from();
        let filter = self.filter(&aliases);
        let columns = ["i", "i + 1", "j"];
        let mut items = vec![format!("{}.i AS x0", self.one(&aliases))];
        for place in 1..width {
            let column = self.one(&columns).to_owned();
            items.push(format!(
                "CAST({}.{column} AS bigint) AS x{place}",
                self.one(&aliases)
            ));
        }
        let distinct = self.one(&["", "", "DISTINCT "]);
        format!("SELECT {distinct}{} FROM {from}{filter}", items.join(", "))
    }

    fn aggregate(&mut self) -> String {
        let (from, aliases) = self.from();
        let filter = self.filter(&aliases);
        let mut keys: Vec<String> = (0..self.random.random_range(0..3))
            .map(|_| self.column(&aliases, &["i", "j", "w", "f", "d", "b"]))
            .collect();
        keys.sort_unstable();
        keys.dedup();
        let mut items = keys.clone();
        items.extend((0..self.random.random_range(1..4)).map(|_| self.call(&aliases)));
        let items: Vec<String> = items
            .iter()
            .enumerate()
            .map(|(place, item)| format!("{item} AS x{place}"))
            .collect();
        let mut sql = format!("SELECT {} FROM {from}{filter}", items.join(", "));
        if !keys.is_empty() {
            sql = format!("{sql} GROUP BY {}", keys.join(", "));
        }
        if self.chance(25) {
            sql = format!("{sql} HAVING count(*) > {}", self.random.random_range(0..3));
        }
        sql
    }

    pub(super) fn query(&mut self) -> String {
        match self.random.random_range(0..10) {
            0..=4 => self.aggregate(),
            5 | 6 => {
                let width = self.random.random_range(1..4);
                self.select(width)
            }
            7 | 8 => {
                let width = self.random.random_range(1..3);
                let op = self.one(&["UNION ALL", "UNION ALL", "UNION", "EXCEPT", "INTERSECT"]);
                format!("{} {op} {}", self.select(width), self.select(width))
            }
            _ => {
                let inner = self.aggregate();
                format!("SELECT q.x0, count(*) AS n FROM ({inner}) q GROUP BY q.x0")
            }
        }
    }
}
