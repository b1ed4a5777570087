//! Makes a program from a seed: schema, rows, views at random moments, updates of join keys, deletes, checks and a restart.
//!
//! Invariant: the same seed gives the same program on every machine (ChaCha8, no hash order).

use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::program::{Col, Kind, Program, Rel, Step};
use crate::query::QueryMaker;

/// Steps that change rows, per program.
const CHANGES: std::ops::Range<usize> = 8..16;

struct Maker {
    rng: ChaCha8Rng,
    tables: Vec<Rel>,
    views: Vec<Rel>,
    steps: Vec<Step>,
    /// Keys given out so far, so that plain INSERTs do not collide.
    next_key: i64,
}

impl Program {
    /// The program of a seed.
    pub fn generate(seed: u64) -> Self {
        let mut maker = Maker {
            rng: ChaCha8Rng::seed_from_u64(seed),
            tables: Vec::new(),
            views: Vec::new(),
            steps: Vec::new(),
            next_key: 1,
        };
        maker.make_tables();
        maker.make_steps();
        Self {
            seed,
            tables: maker.tables,
            steps: maker.steps,
        }
    }
}

fn type_name(kind: Kind, wide: bool) -> &'static str {
    match kind {
        Kind::Int | Kind::Approximate => {
            if wide {
                "bigint"
            } else {
                "int"
            }
        }
        Kind::Text => "text",
        Kind::Bool => "boolean",
    }
}

impl Maker {
    fn make_tables(&mut self) {
        for i in 0..self.rng.random_range(1..4) {
            let name = format!("t{i}");
            let keyed = self.rng.random_bool(0.5);
            let mut columns = vec![Col {
                name: "k".into(),
                kind: Kind::Int,
            }];
            for j in 0..self.rng.random_range(1..4) {
                let kind = *[Kind::Int, Kind::Int, Kind::Text, Kind::Text, Kind::Bool]
                    .choose(&mut self.rng)
                    .unwrap_or(&Kind::Int);
                columns.push(Col {
                    name: format!("v{j}"),
                    kind,
                });
            }
            let definitions: Vec<String> = columns
                .iter()
                .map(|column| {
                    let key = if keyed && column.name == "k" {
                        " PRIMARY KEY"
                    } else {
                        ""
                    };
                    format!(
                        "{} {}{key}",
                        column.name,
                        type_name(column.kind, self.rng.random_bool(0.3))
                    )
                })
                .collect();
            self.steps.push(Step::Both(format!(
                "CREATE TABLE {name} ({})",
                definitions.join(", ")
            )));
            self.tables.push(Rel {
                name,
                columns,
                key: keyed.then(|| "k".to_owned()),
            });
        }
    }

    fn make_steps(&mut self) {
        let changes = self.rng.random_range(CHANGES);
        let views = self.rng.random_range(2..5);
        let view_at: Vec<usize> = (0..views)
            .map(|_| self.rng.random_range(0..changes))
            .collect();
        let check_at: Vec<usize> = (0..3).map(|_| self.rng.random_range(1..changes)).collect();
        let restart_at = self.rng.random_range(0..changes);
        for i in 0..changes {
            for _ in view_at.iter().filter(|at| **at == i) {
                self.view();
            }
            self.change(i < 3);
            if check_at.contains(&i) {
                self.steps.push(Step::Check);
            }
            if i == restart_at {
                self.steps.push(Step::Restart);
                self.steps.push(Step::Check);
            }
        }
        self.steps.push(Step::Check);
    }

    fn view(&mut self) {
        let mut relations = self.tables.clone();
        // Views on views, more likely than chance alone would make them.
        relations.extend(self.views.iter().cloned());
        relations.extend(self.views.iter().cloned());
        let query = QueryMaker {
            rng: &mut self.rng,
            relations: &relations,
        }
        .query();
        let name = format!("w{}", self.views.len());
        self.steps.push(Step::View {
            name: name.clone(),
            query: query.sql,
        });
        self.views.push(Rel {
            name,
            columns: query.columns,
            key: None,
        });
    }

    fn change(&mut self, early: bool) {
        let Some(table) = self.tables.choose(&mut self.rng).cloned() else {
            return;
        };
        let roll = if early {
            0
        } else {
            self.rng.random_range(0..100)
        };
        let sql = match roll {
            0..45 => self.insert(&table),
            45..65 => self.update(&table),
            65..85 => {
                let condition = self.maker(&[]).row_condition(&table);
                format!("DELETE FROM {} WHERE {condition}", table.name)
            }
            _ => self.upsert(&table),
        };
        self.steps.push(Step::Both(sql));
    }

    fn maker<'a>(&'a mut self, relations: &'a [Rel]) -> QueryMaker<'a> {
        QueryMaker {
            rng: &mut self.rng,
            relations,
        }
    }

    fn row(&mut self, table: &Rel, key: Option<i64>) -> String {
        let mut values = Vec::new();
        for column in &table.columns {
            let value = match (&table.key, key) {
                (Some(name), Some(key)) if *name == column.name => key.to_string(),
                _ => self.maker(&[]).literal(column.kind),
            };
            values.push(value);
        }
        format!("({})", values.join(", "))
    }

    fn insert(&mut self, table: &Rel) -> String {
        let rows: Vec<String> = (0..self.rng.random_range(1..7))
            .map(|_| {
                let key = table.key.is_some().then(|| {
                    self.next_key += 1;
                    self.next_key
                });
                self.row(table, key)
            })
            .collect();
        format!("INSERT INTO {} VALUES {}", table.name, rows.join(", "))
    }

    /// INSERT of one row whose key may exist, so that both branches of ON CONFLICT run.
    fn upsert(&mut self, table: &Rel) -> String {
        if table.key.is_none() {
            return self.insert(table);
        }
        let key = self.rng.random_range(1..self.next_key + 2);
        self.next_key = self.next_key.max(key);
        let row = self.row(table, Some(key));
        let set: Vec<String> = table
            .columns
            .iter()
            .filter(|column| column.name != "k")
            .map(|column| format!("{0} = excluded.{0}", column.name))
            .collect();
        let action = if self.rng.random_bool(0.3) {
            "NOTHING".to_owned()
        } else {
            format!("UPDATE SET {}", set.join(", "))
        };
        format!(
            "INSERT INTO {} VALUES {row} ON CONFLICT (k) DO {action}",
            table.name
        )
    }

    fn update(&mut self, table: &Rel) -> String {
        let free: Vec<Col> = table
            .columns
            .iter()
            .filter(|column| table.key.as_deref() != Some(column.name.as_str()))
            .cloned()
            .collect();
        let Some(column) = free.choose(&mut self.rng).cloned() else {
            return self.insert(table);
        };
        let value = self.maker(&[]).row_expr(table, column.kind);
        let condition = self.maker(&[]).row_condition(table);
        format!(
            "UPDATE {} SET {} = {value} WHERE {condition}",
            table.name, column.name
        )
    }
}
