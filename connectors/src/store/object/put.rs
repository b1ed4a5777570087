//! Objects that are put where nothing is, and what became of a put whose answer says little.
//!
//! Invariant: of all puts to one name at most one is told to have made its object, and only when the object is that put's own.

use std::time::Duration;

use object_store::{
    Attribute, Attributes, Error, GetOptions, ObjectStore, PutMode, PutOptions, PutPayload,
};

use super::ObjectFolder;
use crate::store::{Moved, Store, StoreError, StoreFault};

/// Metadata of an object that holds the mark of the put that made it. Azure takes no name with a hyphen, proxies drop underscores.
const MARK: &str = "thalwegput";
/// Puts of one object: a store that is asked for one name by two at once may refuse both.
const ATTEMPTS: u32 = 6;
/// Pause before the second put; each next one is twice as long.
const PAUSE: Duration = Duration::from_millis(50);
/// Folder for the proof that conditions hold: of a generation that is long past, so that the next take-over sweeps it.
const PROOF_FOLDER: &str = "_staging/000000";

/// What is under a name after a put to it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// Nothing.
    Nothing,
    /// An object, with the mark of the put that made it.
    Object(Option<&'a str>),
}

/// What a put that failed has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The object is the put's own.
    Ours,
    /// Another object has the name, so the put can never succeed.
    Theirs,
    /// It was refused for the sake of a put that was refused too.
    Again,
    /// It may still succeed.
    Unknown,
}

/// What became of a put with the mark `ours` that failed in this way, given what is there afterwards.
pub(super) fn outcome(fault: StoreFault, found: Found<'_>, ours: &str) -> Outcome {
    match (fault, found) {
        (_, Found::Object(Some(mark))) if mark == ours => Outcome::Ours,
        (_, Found::Object(_)) => Outcome::Theirs,
        (StoreFault::Exists, Found::Nothing) => Outcome::Again,
        (_, Found::Nothing) => Outcome::Unknown,
    }
}

impl ObjectFolder {
    /// Puts an object where nothing is.
    pub(super) async fn put_new(
        &self,
        action: &'static str,
        path: &str,
        payload: PutPayload,
    ) -> Result<Moved, StoreError> {
        let key = self.key(action, path)?;
        let mark = self.mark();
        let mut pause = PAUSE;
        let mut attempt = 1;
        loop {
            let put = self
                .parts
                .patient
                .put_opts(&key, payload.clone(), new(&mark));
            let Err(error) = put.await else {
                return Ok(Moved::Done);
            };
            let error = self.error(action, path, &error);
            if matches!(
                error.fault,
                StoreFault::Denied | StoreFault::NoContainer | StoreFault::Full
            ) {
                return Err(error);
            }
            let found = self
                .parts
                .client
                .get_opts(&key, GetOptions::new().with_head(true));
            let attributes = match found.await {
                Ok(found) => Some(found.attributes),
                Err(Error::NotFound { .. }) => None,
                // What it would tell is not known either.
                Err(_) => return Err(unknown(error)),
            };
            let found = match &attributes {
                Some(attributes) => Found::Object(mark_of(attributes)),
                None => Found::Nothing,
            };
            match outcome(error.fault, found, &mark) {
                Outcome::Ours => return Ok(Moved::Done),
                Outcome::Theirs => return Ok(Moved::Taken),
                Outcome::Again if attempt < ATTEMPTS => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                    attempt += 1;
                }
                Outcome::Again | Outcome::Unknown => return Err(unknown(error)),
            }
        }
    }

    /// Finds out, once, that a put is refused where an object is. Without that two writers would both believe that they have
    /// made the same commit.
    pub(super) async fn prove(&self) -> Result<(), StoreError> {
        let proof = || async {
            let path = format!("{PROOF_FOLDER}/{}", self.mark());
            let put = || self.put_new("write", &path, PutPayload::from_static(b"proof"));
            let (first, second) = (put().await?, put().await?);
            self.delete(&path).await?;
            match (first, second) {
                (Moved::Done, Moved::Taken) => Ok(()),
                _ => {
                    let detail = "It overwrites objects in spite of If-None-Match, so two writers would overwrite each other's commits.";
                    let shown = self.parts.shown.clone();
                    let error =
                        StoreError::new("keep an archive in", shown, StoreFault::Unfit, detail);
                    Err(error.with_hint(Some(
                        "Use a store, or a release of it, that has conditional writes.",
                    )))
                }
            }
        };
        self.proven.get_or_try_init(proof).await.copied()
    }

    pub(super) fn taken(&self, action: &'static str, path: &str) -> StoreError {
        let detail = "There is an object of this name.";
        StoreError::new(action, self.shown_path(path), StoreFault::Exists, detail)
    }
}

/// A put with this mark, where nothing is.
fn new(mark: &str) -> PutOptions {
    let mut attributes = Attributes::new();
    attributes.insert(Attribute::Metadata(MARK.into()), mark.to_owned().into());
    PutOptions {
        mode: PutMode::Create,
        attributes,
        ..PutOptions::default()
    }
}

fn mark_of(attributes: &Attributes) -> Option<&str> {
    let mark = attributes.get(&Attribute::Metadata(MARK.into()))?;
    Some(mark.as_ref())
}

/// An error after which nobody knows whether the object comes to be there: never one that says that it is there.
fn unknown(mut error: StoreError) -> StoreError {
    if error.fault != StoreFault::Unreachable {
        error.fault = StoreFault::Other;
    }
    error
}
