//! Where what fills an archive goes on after what is in it.
//!
//! Invariant: a place that a commit tells is used only for the feed that the commit is of. One of another feed would have rows missing
//! or twice, so it is refused.

use std::sync::Arc;

use super::error::ArchiveError;
use super::snapshot::{Reached, Snapshot};
use super::table::ArchiveTable;

impl ArchiveTable {
    /// How far what fills this archive is in it; `None` before the first commit.
    ///
    /// # Errors
    /// 55000 when something else, or another archive, has filled it since.
    pub fn reached<'a>(
        &self,
        snapshot: &'a Snapshot,
    ) -> Result<Option<&'a Arc<Reached>>, ArchiveError> {
        let since = || self.other_feed("Another archive has filled it since.".into());
        let other = snapshot.filled_before(self.writer_name());
        match self.delivered(snapshot)? {
            Some(own) if other.is_some_and(|(_, other)| other.number > own.number) => Err(since()),
            Some(own) => Ok(Some(own)),
            // It was empty when it was taken.
            None if !self.is_attached() && !snapshot.files().is_empty() => Err(since()),
            None => self.inherited(snapshot),
        }
    }

    /// How far its own deliveries are in it.
    pub(super) fn delivered<'a>(
        &self,
        snapshot: &'a Snapshot,
    ) -> Result<Option<&'a Arc<Reached>>, ArchiveError> {
        let Some(reached) = snapshot.reached(self.writer_name()) else {
            return Ok(None);
        };
        // A data dir that was restored from an older copy gives names again.
        match self.is_of_our_feed(reached) {
            true => Ok(Some(reached)),
            false => Err(self.other_feed("Its newest commit is of something else.".into())),
        }
    }

    /// How far its source was in the archive that it was attached to: its own deliveries begin there.
    ///
    /// # Errors
    /// 55000 when another server, or something else, has filled that last.
    pub fn inherited<'a>(
        &self,
        snapshot: &'a Snapshot,
    ) -> Result<Option<&'a Arc<Reached>>, ArchiveError> {
        if !self.is_attached() {
            return Ok(None);
        }
        let Some((writer, reached)) = snapshot.filled_before(self.writer_name()) else {
            return Ok(None);
        };
        match self.why_not_after(writer, reached) {
            None => Ok(Some(reached)),
            Some(detail) => Err(self.other_feed(detail)),
        }
    }

    /// Why nobody can tell where this archive goes on after the one of another writer.
    fn why_not_after(&self, writer: &str, reached: &Reached) -> Option<String> {
        let installation = |writer: &str| writer.split('/').next().map(str::to_owned);
        if installation(writer) != installation(self.writer_name()) {
            return Some("Another server has filled it.".into());
        }
        let other =
            "It was filled from another topic or path, or by a query that takes other rows.";
        (!self.is_of_our_feed(reached)).then(|| other.to_owned())
    }

    fn is_of_our_feed(&self, reached: &Reached) -> bool {
        match (self.feed(), &reached.feed) {
            (Some(own), Some(theirs)) => own.is(theirs),
            // Nothing else was ever known of older commits.
            _ => true,
        }
    }

    fn other_feed(&self, detail: String) -> ArchiveError {
        ArchiveError::OtherFeed {
            archive: self.store().describe(),
            detail,
        }
    }

    /// Asks whether a source of this name can go on after what is in the folder, for an archive that is new.
    ///
    /// # Errors
    /// 55000 when it cannot, and what the store reports.
    pub async fn check_place(&self, source: &str) -> Result<(), ArchiveError> {
        let there = Snapshot::load(self.store().as_ref()).await?;
        let no_place = |detail| ArchiveError::NoPlace {
            archive: self.store().describe(),
            source_name: source.to_owned(),
            detail,
        };
        if there.reached(self.writer_name()).is_some() {
            let lost = "It was filled by an archive that this data dir does not know of any more.";
            return Err(no_place(lost.to_owned()));
        }
        let Some((writer, reached)) = there.filled_before(self.writer_name()) else {
            return Ok(());
        };
        let mut sources = reached.frontier.keys();
        let known = match (sources.next(), sources.next()) {
            (Some(known), None) => known,
            _ => return Err(no_place("Its newest commit does not say so.".to_owned())),
        };
        let detail = self.why_not_after(writer, reached).or_else(|| {
            let other = format!("It was filled from source \"{known}\".");
            (known != source).then_some(other)
        });
        detail.map_or(Ok(()), |detail| Err(no_place(detail)))
    }
}
