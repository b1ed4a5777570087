//! EXPLAIN: plans as text rows.
//!
//! Invariant: EXPLAIN without ANALYZE runs nothing and changes nothing.

use thalweg_planner::DmlPlan;
use thalweg_sql::{Explain, Parsed, Report, SinkInput, Statement, ast};

use super::session::{Session, unsupported};
use super::{Outcome, rows};

impl Session {
    pub(super) async fn explain(
        &mut self,
        parsed: &Parsed,
        explain: &Explain,
    ) -> Result<Outcome, Report> {
        if explain.analyze {
            return Err(unsupported(
                "EXPLAIN ANALYZE",
                "EXPLAIN shows the plan; sys.jobs shows what views cost.",
            ));
        }
        let mut text = self.explain_text(parsed, explain)?;
        if let Statement::Query(query) = explain.statement.as_ref()
            && !explain.stream
        {
            let plan = self.plan_query(&parsed.text, query, Vec::new())?;
            let archives = self.server.engine.explain_archives(&plan.plan, &plan.reads);
            for line in archives.await.map_err(|error| error.report())? {
                text.push('\n');
                text.push_str(&line);
            }
        }
        let lines = text
            .lines()
            .map(|line| vec![Some(line.to_owned())])
            .collect();
        Ok(rows::text(&["QUERY PLAN"], lines, "EXPLAIN"))
    }

    fn explain_text(&self, parsed: &Parsed, explain: &Explain) -> Result<String, Report> {
        match explain.statement.as_ref() {
            Statement::Query(query) if !explain.stream => {
                let plan = self.plan_query(&parsed.text, query, Vec::new())?;
                let asked = self.server.engine.explain_external(&plan.plan);
                let asked = asked.map_err(|error| error.report())?;
                let mut text = self.server.planner.explain(&plan.plan, explain.verbose);
                for line in asked {
                    text.push('\n');
                    text.push_str(&line);
                }
                Ok(text)
            }
            Statement::Query(query) => self.explain_stream(&parsed.text, query, &[]),
            Statement::CreateMaterializedView(create) | Statement::CreateView(create) => {
                self.explain_stream(&parsed.text, &create.query, &create.columns)
            }
            Statement::CreateSink(create) => match &create.input {
                SinkInput::Query(query) => self.explain_stream(&parsed.text, query, &[]),
                SinkInput::Relation(name) => {
                    let query = super::ddl::select_all(name)?;
                    self.explain_stream(&parsed.text, &query, &[])
                }
            },
            data @ (Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_)) => {
                let inner = Parsed {
                    statement: data.clone(),
                    text: parsed.text.clone(),
                    start: parsed.start,
                };
                self.explain_write(&inner, explain.verbose)
            }
            other => Err(unsupported(
                &format!("EXPLAIN of {}", leading_words(&other.to_string())),
                "",
            )),
        }
    }

    /// What an INSERT, UPDATE or DELETE reads; the change itself is a line above.
    fn explain_write(&self, parsed: &Parsed, verbose: bool) -> Result<String, Report> {
        let scope = self.scope(&parsed.text, Vec::new());
        let plan = self.plan_dml(&parsed.statement, &scope, Some(self.server.clock.now_us()))?;
        let (verb, table, input) = match plan {
            DmlPlan::Insert { table, input, .. } => ("Insert into", table, input),
            DmlPlan::Update { table, input, .. } => ("Update", table, input),
            DmlPlan::Delete { table, input, .. } => ("Delete from", table, input),
        };
        let name = scope
            .catalog
            .relation(table)
            .map_or("?", |relation| relation.name.as_str());
        let text = self.server.planner.explain(&input, verbose);
        let indented: Vec<String> = text.lines().map(|line| format!("  {line}")).collect();
        Ok(format!("{verb} {name}\n{}", indented.join("\n")))
    }

    fn explain_stream(
        &self,
        text: &str,
        query: &ast::Query,
        columns: &[ast::Ident],
    ) -> Result<String, Report> {
        let scope = self.scope(text, Vec::new());
        let plan = self
            .server
            .planner
            .view(&self.context(&scope, None), query, columns)
            .map_err(|error| error.report())?;
        let mut shown = self.server.planner.explain_stream(&plan);
        let name = |oid| match scope.catalog.relation(oid) {
            Some(relation) => relation.name.clone(),
            None => "?".to_owned(),
        };
        // What cannot be kept up to date is said when it is created.
        for (source, archive) in plan.hybrids.histories().unwrap_or_default() {
            let (source, archive) = (name(source), name(archive));
            shown.push_str(&format!(
                "\nhistory: {source} begins with archive {archive}"
            ));
        }
        Ok(shown)
    }
}

fn leading_words(text: &str) -> String {
    text.split_whitespace()
        .take_while(|word| word.chars().all(|c| c.is_ascii_uppercase()))
        .collect::<Vec<_>>()
        .join(" ")
}
