//! Plans as golden text: `tests/plans/*.sql` against the `.txt` beside it.
//!
//! `THALWEG_UPDATE_GOLDEN=1` rewrites the expected files.

use std::path::Path;

use thalweg_sql::Statement;

use super::world::{NOW_US, World};

fn shown(world: &World, text: &str) -> String {
    let statement = match world.statement(text) {
        Ok(statement) => statement,
        Err(report) => return format!("{}: {}", report.sqlstate, report.message),
    };
    let (stream, inner) = match statement {
        Statement::Explain(explain) => (explain.stream, *explain.statement),
        other => (false, other),
    };
    let Statement::Query(query) = inner else {
        return "not a query".to_owned();
    };
    let outcome = if stream {
        world
            .planner
            .view(&world.cx(text, None), &query, &[])
            .map(|v| world.planner.explain_stream(&v))
    } else {
        world
            .planner
            .query(&world.cx(text, Some(NOW_US)), &query)
            .map(|q| world.planner.explain(&q.plan, false))
    };
    outcome.unwrap_or_else(|e| format!("{}: {}", e.report().sqlstate, e.report().message))
}

#[test]
fn golden() {
    let world = World::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("tests/plans")
        .map(|e| e.expect("an entry").path())
        .collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "sql"));
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let input = std::fs::read_to_string(&file).expect("a readable file");
        let mut got = String::new();
        for text in input.split(';').map(str::trim).filter(|t| !t.is_empty()) {
            got.push_str(&format!("{text};\n{}\n\n", shown(&world, text)));
        }
        let expected_file = file.with_extension("txt");
        if std::env::var_os("THALWEG_UPDATE_GOLDEN").is_some() {
            std::fs::write(&expected_file, &got).expect("a writable file");
            continue;
        }
        let expected = std::fs::read_to_string(&expected_file).unwrap_or_default();
        assert_eq!(
            got,
            expected,
            "{}: run with THALWEG_UPDATE_GOLDEN=1 to accept",
            file.display()
        );
    }
}
