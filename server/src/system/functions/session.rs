//! Functions about the session and the server.
//!
//! Invariant: what they say is what SHOW and the system relations say.

use datafusion::common::Result;

use super::super::value::Cell;
use super::super::{EngineFacts, SystemFacts};
use super::{Arguments, Definition, Returns, define, failed};

pub(super) const FUNCTIONS: &[Definition] = &[
    define("version", Returns::Text, |arguments| {
        let version = setting(arguments.facts, "server_version").unwrap_or("15.18");
        let target = concat!(
            " on ",
            "x86_64",
            "-unknown-linux-gnu, compiled by rustc, 64-bit"
        );
        Ok(format!("PostgreSQL {version}{target}").into())
    }),
    define("current_database", Returns::Name, |arguments| {
        Ok(arguments.facts.database().into())
    }),
    define("current_catalog", Returns::Name, |arguments| {
        Ok(arguments.facts.database().into())
    }),
    define("current_schema", Returns::Name, |arguments| {
        let own = explicit_path(arguments.facts);
        Ok(own.first().copied().into())
    }),
    define("current_schemas", Returns::NameArray, |arguments| {
        let path = match arguments.bool(0) {
            None => return Ok(Cell::Null),
            Some(true) => arguments.facts.lookup_path(),
            Some(false) => explicit_path(arguments.facts),
        };
        Ok(path.into())
    }),
    define("current_user", Returns::Name, user),
    define("session_user", Returns::Name, user),
    define("current_role", Returns::Name, user),
    define("user", Returns::Name, user),
    define("current_setting", Returns::Text, current_setting),
    define("set_config", Returns::Text, |arguments| {
        Ok(arguments.text(1).into())
    }),
    define("pg_backend_pid", Returns::Int4, |arguments| {
        Ok(arguments.facts.session.backend_pid.into())
    }),
    define("pg_is_in_recovery", Returns::Bool, |_| Ok(false.into())),
    define("pg_is_wal_replay_paused", Returns::Bool, |_| {
        Ok(false.into())
    }),
    define("pg_postmaster_start_time", Returns::Timestamptz, |_| {
        Ok(Cell::Null)
    }),
    define("pg_conf_load_time", Returns::Timestamptz, |_| {
        Ok(Cell::Null)
    }),
    define("txid_current", Returns::Int8, |arguments| {
        Ok(newest_epoch(&arguments.facts.engine).into())
    }),
    define("txid_current_if_assigned", Returns::Int8, |_| {
        Ok(Cell::Null)
    }),
    define("pg_current_xact_id", Returns::Int8, |arguments| {
        Ok(newest_epoch(&arguments.facts.engine).into())
    }),
    define("pg_my_temp_schema", Returns::Oid, |_| Ok(0.into())),
    define("pg_is_other_temp_schema", Returns::Bool, |_| {
        Ok(false.into())
    }),
    define("inet_server_addr", Returns::Text, |_| Ok(Cell::Null)),
    define("inet_server_port", Returns::Int4, |_| Ok(Cell::Null)),
    define("inet_client_addr", Returns::Text, |_| Ok(Cell::Null)),
    define("inet_client_port", Returns::Int4, |_| Ok(Cell::Null)),
    define("pg_client_encoding", Returns::Name, |_| Ok("UTF8".into())),
    define("getdatabaseencoding", Returns::Name, |_| Ok("UTF8".into())),
    define("pg_encoding_to_char", Returns::Name, |arguments| {
        Ok(match arguments.int(0) {
            Some(0) => "SQL_ASCII".into(),
            Some(6) => "UTF8".into(),
            Some(_) => "".into(),
            None => Cell::Null,
        })
    }),
    define("pg_char_to_encoding", Returns::Int4, |arguments| {
        let name = arguments.text(0).map(|name| name.to_ascii_lowercase());
        Ok(match name.as_deref() {
            Some("utf8" | "utf-8" | "unicode") => 6.into(),
            Some("sql_ascii") => 0.into(),
            Some(_) => (-1).into(),
            None => Cell::Null,
        })
    }),
    // Sessions do not block each other here, so a lock that tools take around migrations is always free.
    define("pg_advisory_lock", Returns::Text, |_| Ok("".into())),
    define("pg_advisory_lock_shared", Returns::Text, |_| Ok("".into())),
    define("pg_advisory_xact_lock", Returns::Text, |_| Ok("".into())),
    define("pg_advisory_xact_lock_shared", Returns::Text, |_| {
        Ok("".into())
    }),
    define("pg_try_advisory_lock", Returns::Bool, |_| Ok(true.into())),
    define("pg_try_advisory_lock_shared", Returns::Bool, |_| {
        Ok(true.into())
    }),
    define("pg_try_advisory_xact_lock", Returns::Bool, |_| {
        Ok(true.into())
    }),
    define("pg_try_advisory_xact_lock_shared", Returns::Bool, |_| {
        Ok(true.into())
    }),
    define("pg_advisory_unlock", Returns::Bool, |_| Ok(true.into())),
    define("pg_advisory_unlock_shared", Returns::Bool, |_| {
        Ok(true.into())
    }),
    define("pg_advisory_unlock_all", Returns::Text, |_| Ok("".into())),
    define("pg_cancel_backend", Returns::Bool, |_| Ok(false.into())),
    define("pg_terminate_backend", Returns::Bool, |_| Ok(false.into())),
];

fn user(arguments: &Arguments<'_>) -> Result<Cell> {
    Ok(arguments.facts.session.user.as_str().into())
}

/// Existing schemas of the search path, without the implicit pg_catalog.
fn explicit_path(facts: &SystemFacts) -> Vec<&str> {
    facts
        .session
        .search_path
        .iter()
        .map(String::as_str)
        .filter(|name| facts.catalog.schema(name).is_some())
        .collect()
}

fn setting<'a>(facts: &'a SystemFacts, name: &str) -> Option<&'a str> {
    let found = facts
        .session
        .settings
        .iter()
        .find(|(candidate, _)| candidate.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str())
}

fn current_setting(arguments: &Arguments<'_>) -> Result<Cell> {
    let Some(name) = arguments.text(0) else {
        return Ok(Cell::Null);
    };
    match setting(arguments.facts, &name) {
        Some(value) => Ok(value.into()),
        None if arguments.bool(1) == Some(true) => Ok(Cell::Null),
        None => Err(failed(
            "42704",
            format!("unrecognized configuration parameter \"{name}\""),
        )),
    }
}

fn newest_epoch(engine: &EngineFacts) -> i64 {
    let newest = engine
        .epochs
        .iter()
        .map(|epoch| epoch.epoch)
        .max()
        .unwrap_or(0);
    i64::try_from(newest).unwrap_or(i64::MAX)
}
