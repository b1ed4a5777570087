//! pg_settings, pg_stat_activity, the statistics views and pg_timezone_names.
//!
//! Invariant: counters that are not kept are NULL or zero; none is invented.

use std::collections::HashMap;

use super::super::shape;
use super::{Cell, DATABASE_OID, Rows, SystemFacts};

/// The session's settings, each with what Postgres says about it when it is one of Postgres'.
pub(super) fn settings(facts: &SystemFacts, rows: &mut Rows) {
    let Some(table) = shape::table("pg_catalog", "pg_settings") else {
        return;
    };
    let known: HashMap<&str, &Vec<Cell>> = shape::fixed_rows("pg_settings")
        .iter()
        .filter_map(|row| match row.first() {
            Some(Cell::Text(name)) => Some((name.as_str(), row)),
            _ => None,
        })
        .collect();
    for (name, value) in &facts.session.settings {
        let mut row = known.get(name.as_str()).map_or_else(
            || vec![Cell::Null; table.columns.len()],
            |row| (*row).clone(),
        );
        let of_ours = !known.contains_key(name.as_str());
        let mut set = |column: &str, cell: Cell| {
            if let Some(slot) = table
                .position(column)
                .and_then(|position| row.get_mut(position))
            {
                *slot = cell;
            }
        };
        if of_ours {
            set("name", name.into());
            set("category", "Thalweg".into());
            set("context", "user".into());
            set("vartype", "string".into());
        }
        for column in ["setting", "boot_val", "reset_val"] {
            set(column, value.into());
        }
        set("source", "default".into());
        set("pending_restart", false.into());
        rows.extend([row]);
    }
}

pub(super) fn connections(facts: &SystemFacts, rows: &mut Rows) {
    for connection in &facts.engine.connections {
        rows.push([
            ("datid", DATABASE_OID.into()),
            ("datname", (&connection.database).into()),
            ("pid", connection.pid.into()),
            ("usesysid", facts.role_oid(&connection.user).into()),
            ("usename", (&connection.user).into()),
            ("application_name", (&connection.application_name).into()),
            ("client_addr", connection.client_address.clone().into()),
            ("backend_start", connection.started_at_us.into()),
            ("state", (&connection.state).into()),
            ("query", connection.query.clone().into()),
            ("backend_type", "client backend".into()),
        ]);
    }
}

pub(super) fn table_statistics(facts: &SystemFacts, rows: &mut Rows) {
    for (relation, _) in facts.shown().filter(|(_, kind)| matches!(kind, 'r' | 'm')) {
        rows.push([
            ("relid", relation.oid.into()),
            ("schemaname", facts.schema_name(relation.schema).into()),
            ("relname", (&relation.name).into()),
        ]);
    }
}

pub(super) fn index_statistics(facts: &SystemFacts, rows: &mut Rows) {
    for (relation, _) in facts.shown() {
        let Some(key) = &relation.primary_key else {
            continue;
        };
        rows.push([
            ("relid", relation.oid.into()),
            ("indexrelid", key.index_oid.into()),
            ("schemaname", facts.schema_name(relation.schema).into()),
            ("relname", (&relation.name).into()),
            ("indexrelname", (&key.name).into()),
        ]);
    }
}

pub(super) fn time_zones(rows: &mut Rows) {
    for zone in chrono_tz::TZ_VARIANTS {
        rows.push([("name", zone.name().into())]);
    }
}
