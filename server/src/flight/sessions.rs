//! Sessions of Flight clients, which have no connection of their own to hang one on.
//!
//! Invariant: a client's statements share one session (settings and floor), so that it reads its own writes; the number of
//! sessions and of prepared statements is bounded, the least recently used session goes first.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::common::ScalarValue;
use parking_lot::Mutex;
use thalweg_catalog::SqlType;
use thalweg_planner::OutputColumn;
use thalweg_sql::{Parsed, Report};
use tonic::Request;

use crate::frontend::{Server, Session, SessionOptions};

/// Sessions kept; one more evicts the least recently used.
const SESSIONS_MAX: usize = 1000;
/// A session unused for this long goes away.
const IDLE_MAX: Duration = Duration::from_secs(30 * 60);
/// Prepared statements of one session.
const STATEMENTS_MAX: usize = 1000;

/// A statement a client has prepared, or a query it has asked the schema of.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    pub(super) parsed: Parsed,
    pub(super) columns: Option<Vec<OutputColumn>>,
    pub(super) parameters: Vec<SqlType>,
    /// Rows of parameters that are bound.
    pub(super) bound: Arc<Vec<Vec<ScalarValue>>>,
    /// Rows affected, once a statement without rows has run: it must not run again when its result is fetched.
    pub(super) affected: Option<i64>,
}

/// One client's state.
#[derive(Debug)]
pub(super) struct ClientSession {
    pub(super) session: tokio::sync::Mutex<Session>,
    statements: Mutex<HashMap<Vec<u8>, Prepared>>,
}

impl ClientSession {
    /// Keeps a statement under a new unguessable handle.
    pub(super) fn keep(&self, prepared: Prepared) -> Result<Vec<u8>, Report> {
        let mut statements = self.statements.lock();
        if statements.len() >= STATEMENTS_MAX {
            return Err(Report {
                sqlstate: "54000",
                message: format!("a session may hold at most {STATEMENTS_MAX} prepared statements"),
                detail: None,
                hint: Some("Close prepared statements that are no longer used.".into()),
                position: None,
            });
        }
        let mut handle = vec![0u8; 16];
        getrandom::fill(&mut handle).map_err(|error| Report {
            sqlstate: "XX000",
            message: format!("no random bytes: {error}"),
            detail: None,
            hint: None,
            position: None,
        })?;
        statements.insert(handle.clone(), prepared);
        Ok(handle)
    }

    pub(super) fn find(&self, handle: &[u8]) -> Result<Prepared, Report> {
        self.statements
            .lock()
            .get(handle)
            .cloned()
            .ok_or_else(|| Report {
                sqlstate: "26000",
                message: "prepared statement does not exist".into(),
                detail: None,
                hint: Some("Handles belong to one client session and end with it.".into()),
                position: None,
            })
    }

    /// Binds parameters; a statement that has run may run again with them.
    pub(super) fn bind(&self, handle: &[u8], rows: Vec<Vec<ScalarValue>>) {
        if let Some(prepared) = self.statements.lock().get_mut(handle) {
            prepared.bound = Arc::new(rows);
            prepared.affected = None;
        }
    }

    pub(super) fn set_affected(&self, handle: &[u8], affected: i64) {
        if let Some(prepared) = self.statements.lock().get_mut(handle) {
            prepared.affected = Some(affected);
        }
    }

    pub(super) fn forget(&self, handle: &[u8]) {
        self.statements.lock().remove(handle);
    }
}

struct Entry {
    client: Arc<ClientSession>,
    used: Instant,
}

/// All Flight sessions of a server.
pub(super) struct Sessions {
    server: Arc<Server>,
    entries: Mutex<HashMap<String, Entry>>,
}

impl Sessions {
    pub(super) fn new(server: Arc<Server>) -> Self {
        Self {
            server,
            entries: Mutex::new(HashMap::new()),
        }
    }

    pub(super) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The session of the client that sent `request`: by its bearer token, else by its connection.
    pub(super) fn of<T>(&self, request: &Request<T>) -> Result<Arc<ClientSession>, Report> {
        let token = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.to_str().ok());
        let key = match token {
            Some(token) => format!("token {token}"),
            None => format!("peer {:?}", request.remote_addr()),
        };
        let now = Instant::now();
        let mut entries = self.entries.lock();
        entries.retain(|_, entry| now.duration_since(entry.used) < IDLE_MAX);
        if let Some(entry) = entries.get_mut(&key) {
            entry.used = now;
            return Ok(Arc::clone(&entry.client));
        }
        if entries.len() >= SESSIONS_MAX {
            let oldest = entries
                .iter()
                .min_by_key(|(_, entry)| entry.used)
                .map(|(key, _)| key.clone());
            oldest.and_then(|key| entries.remove(&key));
        }
        let options = SessionOptions {
            settings: vec![("application_name".into(), "flight".into())],
            ..SessionOptions::default()
        };
        let session = Session::new(Arc::clone(&self.server), options)?;
        let client = Arc::new(ClientSession {
            session: tokio::sync::Mutex::new(session),
            statements: Mutex::new(HashMap::new()),
        });
        entries.insert(
            key,
            Entry {
                client: Arc::clone(&client),
                used: now,
            },
        );
        Ok(client)
    }
}
