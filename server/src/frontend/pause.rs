//! `ALTER MATERIALIZED VIEW | SOURCE | SINK | ARCHIVE name PAUSE | RESUME`.
//!
//! Invariant: what is paused is so in the catalog, in the transaction that has the engine stop it, so a restart finds it as it was.

use thalweg_catalog::{Change, Relation};
use thalweg_sql::{ObjectKind, Pause, Report};

use super::ddl::Effect;
use super::define::refused;
use super::session::{Session, command};
use super::{Notice, Outcome};

/// The object has to be what the statement says it is, and something has to run for it.
fn check(relation: &Relation, kind: ObjectKind) -> Result<(), Report> {
    let word = kind.keyword().to_ascii_lowercase();
    if relation.kind_word() != word {
        let article = if word.starts_with('a') { "an" } else { "a" };
        let message = format!("\"{}\" is not {article} {word}", relation.name);
        return Err(Report::new("42809", message));
    }
    if relation.can_pause() {
        return Ok(());
    }
    let message = format!("nothing runs for {word} \"{}\"", relation.name);
    Err(Report {
        detail: Some("Statements fill it.".into()),
        ..Report::new("42809", message)
    })
}

impl Session {
    pub(super) async fn pause(&mut self, pause: &Pause) -> Result<Outcome, Report> {
        let tag = format!("ALTER {}", pause.kind);
        let catalog = self.catalog();
        let relation = catalog
            .resolve(&self.search_path(), &pause.name)
            .map_err(refused)?;
        check(relation, pause.kind)?;
        let (oid, name) = (relation.oid, &relation.name);
        match (catalog.is_paused(oid), pause.paused) {
            (true, true) => {
                let message = format!("{} \"{name}\" is already paused", relation.kind_word());
                self.notice(Notice::notice(message));
            }
            (false, false) => self.accept(relation)?,
            (_, paused) => {
                let (change, effect) = (Change::Pause { oid, paused }, Effect::Pause(oid, paused));
                self.change(&tag, vec![change], vec![effect]).await?;
            }
        }
        Ok(command(&tag))
    }

    /// A sink that is not paused may stand still for another reason: its target holds what this data dir does not know of.
    fn accept(&self, relation: &Relation) -> Result<(), Report> {
        if matches!(relation.kind_word(), "sink" | "archive") {
            let resumed = self.server.engine.resume_sink(relation.oid);
            return resumed.map_err(|error| error.report());
        }
        let message = format!(
            "{} \"{}\" is not paused",
            relation.kind_word(),
            relation.name
        );
        Err(Report::new("55000", message))
    }
}
