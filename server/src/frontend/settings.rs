//! Session settings: names, defaults, validation, and which of them clients are told about.
//!
//! Invariant: a setting that changes answers (TimeZone, search_path, consistency, timeouts) takes effect when it is set; a
//! Postgres setting that has no meaning here is accepted and kept, so that tools can read back what they wrote; any other
//! name is 42704.

use std::collections::BTreeMap;

use thalweg_sql::{Report, suggest};

/// How a setting's value is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Text,
    Boolean,
    Integer,
    /// Milliseconds, with or without a unit.
    Duration,
    TimeZone,
    Encoding,
    OneOf(&'static [&'static str]),
    /// Fixed by the server.
    ReadOnly,
}

/// One setting.
#[derive(Debug)]
struct Setting {
    name: &'static str,
    default: &'static str,
    check: Check,
}

const fn setting(name: &'static str, default: &'static str, check: Check) -> Setting {
    Setting {
        name,
        default,
        check,
    }
}

/// Reported Postgres version; tools parse it, so its shape is Debian's.
pub(crate) const SERVER_VERSION: &str = concat!("15.18 (Thalweg ", env!("CARGO_PKG_VERSION"), ")");

/// Settings that a client is told of at start and on change (ParameterStatus), in Postgres' spelling.
pub const REPORTED_SETTINGS: &[&str] = &[
    "application_name",
    "client_encoding",
    "DateStyle",
    "default_transaction_read_only",
    "in_hot_standby",
    "integer_datetimes",
    "IntervalStyle",
    "is_superuser",
    "server_encoding",
    "server_version",
    "session_authorization",
    "standard_conforming_strings",
    "TimeZone",
];

const ISOLATION: Check = Check::OneOf(&[
    "read committed",
    "read uncommitted",
    "repeatable read",
    "serializable",
]);

static SETTINGS: &[Setting] = &[
    setting("application_name", "", Check::Text),
    setting("portal_early_suspend", "off", Check::Boolean),
    setting("bytea_output", "hex", Check::OneOf(&["hex"])),
    setting("check_function_bodies", "on", Check::Boolean),
    setting("client_encoding", "UTF8", Check::Encoding),
    setting(
        "client_min_messages",
        "notice",
        Check::OneOf(&[
            "debug5", "debug4", "debug3", "debug2", "debug1", "log", "notice", "warning", "error",
        ]),
    ),
    setting(
        "consistency",
        "snapshot",
        Check::OneOf(&["snapshot", "strict", "eventual"]),
    ),
    setting("DateStyle", "ISO, MDY", Check::Text),
    setting("default_table_access_method", "heap", Check::Text),
    setting("default_tablespace", "", Check::Text),
    setting("default_transaction_deferrable", "off", Check::Boolean),
    setting("default_transaction_isolation", "read committed", ISOLATION),
    setting("default_transaction_read_only", "off", Check::Boolean),
    setting("enable_seqscan", "on", Check::Boolean),
    setting("escape_string_warning", "on", Check::Boolean),
    setting("extra_float_digits", "1", Check::Integer),
    setting("geqo", "on", Check::Boolean),
    setting("idle_in_transaction_session_timeout", "0", Check::Duration),
    setting("idle_session_timeout", "0", Check::Duration),
    setting("in_hot_standby", "off", Check::ReadOnly),
    setting("integer_datetimes", "on", Check::ReadOnly),
    setting("IntervalStyle", "postgres", Check::OneOf(&["postgres"])),
    setting("is_superuser", "on", Check::ReadOnly),
    setting("jit", "off", Check::Boolean),
    setting("lc_collate", "C.UTF-8", Check::ReadOnly),
    setting("lc_ctype", "C.UTF-8", Check::ReadOnly),
    setting("lc_messages", "C", Check::Text),
    setting("lc_monetary", "C", Check::Text),
    setting("lc_numeric", "C", Check::Text),
    setting("lc_time", "C", Check::Text),
    setting("lock_timeout", "0", Check::Duration),
    setting("max_identifier_length", "63", Check::ReadOnly),
    setting("max_index_keys", "32", Check::ReadOnly),
    setting("quote_all_identifiers", "off", Check::Boolean),
    setting("read_durable", "off", Check::Boolean),
    setting("read_wait_timeout", "10s", Check::Duration),
    setting("row_security", "on", Check::Boolean),
    setting("search_path", "\"$user\", public", Check::Text),
    setting("server_encoding", "UTF8", Check::ReadOnly),
    setting("server_version", SERVER_VERSION, Check::ReadOnly),
    setting("server_version_num", "150018", Check::ReadOnly),
    setting("session_authorization", "", Check::Text),
    setting("standard_conforming_strings", "on", Check::OneOf(&["on"])),
    setting("statement_timeout", "0", Check::Duration),
    setting("synchronize_seqscans", "on", Check::Boolean),
    setting("synchronous_commit", "on", Check::Text),
    setting("tcp_keepalives_idle", "0", Check::Integer),
    setting("TimeZone", "UTC", Check::TimeZone),
    setting(
        "thalweg_version",
        env!("CARGO_PKG_VERSION"),
        Check::ReadOnly,
    ),
    setting("transaction_deferrable", "off", Check::Boolean),
    setting("transaction_isolation", "read committed", ISOLATION),
    setting("transaction_read_only", "off", Check::Boolean),
    setting("work_mem", "4MB", Check::Text),
    setting("xmloption", "content", Check::Text),
];

/// What happened to a SET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SetEffect {
    /// Kept and in force.
    Applied,
    /// Kept for its tool, without effect; the text is the notice.
    Ignored(String),
}

/// A session's settings: defaults, what the startup packet said, and what SET changed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    startup: BTreeMap<&'static str, String>,
    current: BTreeMap<&'static str, String>,
    foreign: BTreeMap<String, String>,
    /// What the server was started with, by name.
    server: BTreeMap<String, String>,
}

fn find(name: &str) -> Option<&'static Setting> {
    let name = if name.eq_ignore_ascii_case("time zone") {
        "timezone"
    } else {
        name
    };
    SETTINGS
        .iter()
        .find(|setting| setting.name.eq_ignore_ascii_case(name))
}

fn unknown(name: &str) -> Report {
    let hint = suggest(name, SETTINGS.iter().map(|setting| setting.name))
        .map(|near| format!("Perhaps you meant \"{near}\"."));
    Report {
        sqlstate: "42704",
        message: format!("unrecognized configuration parameter \"{name}\""),
        detail: None,
        hint,
        position: None,
    }
}

fn fixed_at_start(name: &str) -> Report {
    Report {
        sqlstate: "55P02",
        message: format!("parameter \"{name}\" cannot be changed without restarting the server"),
        detail: None,
        hint: Some("Set it in the configuration file (--config).".into()),
        position: None,
    }
}

fn invalid(name: &str, value: &str, hint: Option<String>) -> Report {
    Report {
        sqlstate: "22023",
        message: format!("invalid value for parameter \"{name}\": \"{value}\""),
        detail: None,
        hint,
        position: None,
    }
}

fn is_foreign(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower.starts_with("rw_") || lower.starts_with("streaming_") || lower.contains('.')
}

fn canonical_boolean(value: &str) -> Option<&'static str> {
    match value.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" | "t" | "y" => Some("on"),
        "off" | "false" | "no" | "0" | "f" | "n" => Some("off"),
        _ => None,
    }
}

/// Milliseconds of a duration setting; a bare number is milliseconds, as in Postgres.
pub(super) fn duration_ms(value: &str) -> Option<u64> {
    let trimmed = value.trim();
    if let Ok(number) = trimmed.parse::<u64>() {
        return Some(number);
    }
    thalweg_catalog::option::parse_duration(trimmed)
}

fn canonical_time_zone(value: &str) -> Option<String> {
    if value.eq_ignore_ascii_case("utc")
        || value.eq_ignore_ascii_case("gmt")
        || value.eq_ignore_ascii_case("z")
    {
        return Some(value.to_ascii_uppercase());
    }
    if value.eq_ignore_ascii_case("local") || value.eq_ignore_ascii_case("default") {
        return Some("UTC".to_owned());
    }
    if let Some(zone) = chrono_tz::TZ_VARIANTS
        .iter()
        .find(|zone| zone.name().eq_ignore_ascii_case(value))
    {
        return Some(zone.name().to_owned());
    }
    fixed_offset(value)
}

/// `+05:30`, `-8`, `INTERVAL '+00:00' HOUR TO MINUTE` given as its text; kept as an ISO offset.
fn fixed_offset(value: &str) -> Option<String> {
    let (sign, rest) = match value.as_bytes().first()? {
        b'+' => ('+', &value[1..]),
        b'-' => ('-', &value[1..]),
        b'0'..=b'9' => ('+', value),
        _ => return None,
    };
    let mut parts = rest.splitn(3, ':');
    let hours: u32 = parts.next()?.parse().ok()?;
    let minutes: u32 = parts.next().map_or(Ok(0), str::parse).ok()?;
    (hours <= 15 && minutes < 60).then(|| format!("{sign}{hours:02}:{minutes:02}"))
}

fn validate(setting: &Setting, value: &str) -> Result<String, Report> {
    let name = setting.name;
    match setting.check {
        Check::Text => Ok(value.to_owned()),
        Check::Boolean => canonical_boolean(value)
            .map(str::to_owned)
            .ok_or_else(|| Report {
                sqlstate: "22023",
                message: format!("parameter \"{name}\" requires a Boolean value"),
                detail: None,
                hint: None,
                position: None,
            }),
        Check::Integer => match value.parse::<i64>() {
            Ok(number) => Ok(number.to_string()),
            Err(_) => Err(invalid(name, value, None)),
        },
        Check::Duration => match duration_ms(value) {
            Some(_) => Ok(value.to_owned()),
            None => Err(invalid(
                name,
                value,
                Some("Valid units are \"ms\", \"s\", \"min\", \"h\", and \"d\".".into()),
            )),
        },
        Check::TimeZone => canonical_time_zone(value).ok_or_else(|| {
            let hint = suggest(value, chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name()))
                .map(|near| format!("Perhaps you meant \"{near}\"."));
            invalid(name, value, hint)
        }),
        Check::Encoding => {
            let flat: String = value
                .chars()
                .filter(|c| c.is_ascii_alphanumeric())
                .collect();
            match flat.to_ascii_lowercase().as_str() {
                "utf8" | "unicode" => Ok("UTF8".to_owned()),
                // SQL_ASCII means "bytes as they are", which for our UTF-8 text is the same.
                "sqlascii" => Ok("SQL_ASCII".to_owned()),
                _ => Err(invalid(name, value, Some("The server speaks UTF8.".into()))),
            }
        }
        Check::OneOf(allowed) => {
            let lower = value.to_ascii_lowercase();
            let on_off = canonical_boolean(value).unwrap_or(&lower);
            match allowed
                .iter()
                .find(|word| **word == lower || **word == on_off)
            {
                Some(word) => Ok((*word).to_owned()),
                None => Err(invalid(
                    name,
                    value,
                    Some(format!("Available values: {}.", allowed.join(", "))),
                )),
            }
        }
        Check::ReadOnly => Err(Report {
            sqlstate: "55P02",
            message: format!("parameter \"{name}\" cannot be changed"),
            detail: None,
            hint: None,
            position: None,
        }),
    }
}

impl Settings {
    /// Settings of a new session. Unknown names are refused as in Postgres; read-only ones are skipped.
    pub(crate) fn new(user: &str, startup: &[(String, String)]) -> Result<Self, Report> {
        let mut settings = Self::default();
        settings
            .startup
            .insert("session_authorization", user.to_owned());
        for (name, value) in startup {
            if let Some(setting) = find(name) {
                settings
                    .startup
                    .insert(setting.name, validate(setting, value)?);
            } else if is_foreign(name) {
                settings
                    .foreign
                    .insert(name.to_ascii_lowercase(), value.clone());
            } else {
                return Err(unknown(name));
            }
        }
        Ok(settings)
    }

    /// The same with what the server was started with, which a session reads and cannot change.
    pub(crate) fn with_server(mut self, server: impl Iterator<Item = (String, String)>) -> Self {
        self.server = server.collect();
        self
    }

    /// Value of a setting; 42704 for a name nobody knows.
    pub(crate) fn get(&self, name: &str) -> Result<String, Report> {
        let lower = name.to_ascii_lowercase();
        match find(name) {
            Some(setting) => Ok(self.value(setting)),
            None => self
                .foreign
                .get(&lower)
                .or_else(|| self.server.get(&lower))
                .cloned()
                .ok_or_else(|| unknown(name)),
        }
    }

    fn value(&self, setting: &'static Setting) -> String {
        self.current
            .get(setting.name)
            .or_else(|| self.startup.get(setting.name))
            .cloned()
            .unwrap_or_else(|| setting.default.to_owned())
    }

    /// `SET name = values`.
    pub(crate) fn set(&mut self, name: &str, values: &[String]) -> Result<SetEffect, Report> {
        let value = if name.eq_ignore_ascii_case("search_path") {
            values
                .iter()
                .map(|part| quote_path_part(part))
                .collect::<Vec<_>>()
                .join(", ")
        } else {
            values.join(", ")
        };
        let Some(setting) = find(name) else {
            if is_foreign(name) {
                self.foreign.insert(name.to_ascii_lowercase(), value);
                return Ok(SetEffect::Ignored(format!(
                    "setting \"{name}\" has no effect here"
                )));
            }
            return Err(self.not_for_sessions(name));
        };
        let value = validate(setting, &value)?;
        self.current.insert(setting.name, value);
        Ok(SetEffect::Applied)
    }

    /// `RESET name`, `SET name TO DEFAULT`.
    pub(crate) fn reset(&mut self, name: &str) -> Result<(), Report> {
        match find(name) {
            Some(setting) => {
                self.current.remove(setting.name);
                Ok(())
            }
            None if is_foreign(name) => {
                self.foreign.remove(&name.to_ascii_lowercase());
                Ok(())
            }
            None => Err(self.not_for_sessions(name)),
        }
    }

    fn not_for_sessions(&self, name: &str) -> Report {
        match self.server.get_key_value(&name.to_ascii_lowercase()) {
            Some((name, _)) => fixed_at_start(name),
            None => unknown(name),
        }
    }

    /// `RESET ALL`.
    pub(crate) fn reset_all(&mut self) {
        self.current.clear();
        self.foreign.clear();
    }

    /// All settings, those of the server last, for `SHOW ALL` and pg_settings.
    pub(crate) fn all(&self) -> Vec<(String, String)> {
        let mut all: Vec<(String, String)> = SETTINGS
            .iter()
            .map(|setting| (setting.name.to_owned(), self.value(setting)))
            .collect();
        all.extend(
            self.foreign
                .iter()
                .chain(&self.server)
                .map(|(name, value)| (name.clone(), value.clone())),
        );
        all
    }

    /// Milliseconds of a duration setting; 0 when off.
    pub(crate) fn duration_ms(&self, name: &str) -> u64 {
        self.get(name)
            .ok()
            .as_deref()
            .and_then(duration_ms)
            .unwrap_or(0)
    }

    /// The search path as schema names, `"$user"` resolved and unknown entries kept (they just match nothing).
    pub(crate) fn search_path(&self, user: &str) -> Vec<String> {
        let text = self.get("search_path").unwrap_or_default();
        split_path(&text)
            .into_iter()
            .map(|part| {
                if part == "$user" {
                    user.to_owned()
                } else {
                    part
                }
            })
            .collect()
    }
}

fn quote_path_part(part: &str) -> String {
    let plain = part
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain && !part.is_empty() {
        part.to_owned()
    } else {
        format!("\"{}\"", part.replace('"', "\"\""))
    }
}

/// Splits `a, "B c", d` into names; unquoted ones fold to lower case.
fn split_path(text: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut part = String::new();
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                part.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => parts.push(std::mem::take(&mut part)),
            c if quoted => part.push(c),
            c if c.is_whitespace() => {}
            c => part.extend(c.to_lowercase()),
        }
    }
    parts.push(part);
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_follow_postgres() {
        let mut settings =
            Settings::new("ann", &[("TimeZone".into(), "europe/berlin".into())]).expect("startup");
        assert_eq!(settings.get("timezone").as_deref(), Ok("Europe/Berlin"));
        assert_eq!(settings.search_path("ann"), ["ann", "public"]);
        settings
            .set("search_path", &["Shop".into(), "public".into()])
            .expect("set");
        assert_eq!(settings.search_path("ann"), ["Shop", "public"]);
        assert_eq!(
            settings.get("search_path").as_deref(),
            Ok("\"Shop\", public")
        );
        assert_eq!(
            settings
                .set("timzone", &["UTC".into()])
                .expect_err("typo")
                .sqlstate,
            "42704"
        );
        assert_eq!(
            settings
                .set("server_version", &["9".into()])
                .expect_err("fixed")
                .sqlstate,
            "55P02"
        );
        assert_eq!(
            settings
                .set("consistency", &["maybe".into()])
                .expect_err("value")
                .sqlstate,
            "22023"
        );
        assert!(matches!(
            settings.set("rw_x", &["1".into()]),
            Ok(SetEffect::Ignored(_))
        ));
        settings.reset("timezone").expect("reset");
        assert_eq!(
            settings.get("TimeZone").as_deref(),
            Ok("Europe/Berlin"),
            "reset goes back to the startup value"
        );
        assert_eq!(fixed_offset("+00:00").as_deref(), Some("+00:00"));
        assert_eq!(fixed_offset("-8").as_deref(), Some("-08:00"));
        assert_eq!(settings.duration_ms("read_wait_timeout"), 10_000);
    }
}
