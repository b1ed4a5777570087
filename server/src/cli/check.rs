//! `thalweg check`: errors of a script with their positions, without running it.
//!
//! Invariant: one bad statement does not hide the errors of those after it.

use std::path::Path;
use std::sync::Arc;

use thalweg_connectors::SystemClock;
use thalweg_sql::Report;

use super::Failure;
use crate::config::Config;
use crate::frontend::{Server, ServerOptions, Session, SessionOptions};
use crate::testing::scratch_dir;

pub(super) async fn check(path: &Path) -> Result<(), Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::User(format!("could not read {}: {error}", path.display())))?;
    let data_dir = scratch_dir();
    let found = check_text(&text, Config::ephemeral(data_dir.clone())).await;
    let _kept = std::fs::remove_dir_all(&data_dir);
    let errors = found?;
    for (start, report) in &errors {
        eprintln!("{}", describe(path, &text, *start, report));
    }
    match errors.len() {
        0 => Ok(()),
        count => Err(Failure::User(format!(
            "{count} error{} in {}",
            if count == 1 { "" } else { "s" },
            path.display()
        ))),
    }
}

/// Errors with the character offset of their statement.
async fn check_text(text: &str, config: Config) -> Result<Vec<(usize, Report)>, Failure> {
    let internal = |report: Report| Failure::Internal(report.to_string());
    let options = ServerOptions {
        config,
        clock: Arc::new(SystemClock),
    };
    let runtime = tokio::runtime::Handle::current();
    let server = tokio::task::spawn_blocking(move || Server::open(options, runtime))
        .await
        .map_err(|error| Failure::Internal(error.to_string()))?
        .map_err(internal)?;
    let mut session =
        Session::new(Arc::clone(&server), SessionOptions::default()).map_err(internal)?;
    session.begin_check().map_err(internal)?;
    let statements = match session.parse(text) {
        Ok(statements) => statements,
        // A syntax error leaves nothing to plan; its position is already in the whole text.
        Err(report) => return Ok(vec![(0, report)]),
    };
    let mut errors = Vec::new();
    for parsed in &statements {
        if let Err(report) = session.check(parsed).await {
            errors.push((parsed.start, report));
            session.recover_check();
        }
    }
    server.stop();
    Ok(errors)
}

fn describe(path: &Path, text: &str, start: usize, report: &Report) -> String {
    let offset = start
        + report
            .position
            .map_or(0, |position| position.saturating_sub(1));
    let before: String = text.chars().take(offset).collect();
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let mut lines = format!(
        "{}:{line}:{column}: {} ({})",
        path.display(),
        report.message,
        report.sqlstate
    );
    for (label, more) in [("detail", &report.detail), ("hint", &report.hint)] {
        if let Some(more) = more {
            lines.push_str(&format!("\n  {label}: {more}"));
        }
    }
    lines
}
