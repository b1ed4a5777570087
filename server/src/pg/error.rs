//! Reports and notices as protocol messages.
//!
//! Invariant: every field is one NUL-terminated string, so a report's text can hold anything without breaking the frame.

use bytes::BytesMut;
use pgwire::messages::response::{ErrorResponse, NoticeResponse};

use super::frames::encode;
use crate::frontend::{Notice, Report};

/// How bad an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    /// The statement failed; the session goes on.
    Error,
    /// The connection ends.
    Fatal,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        }
    }
}

/// A report with nothing but its code and message.
pub(super) fn report(sqlstate: &'static str, message: impl Into<String>) -> Report {
    Report::new(sqlstate, message)
}

/// 08P01: the client broke the protocol.
pub(super) fn violation(message: impl Into<String>) -> Report {
    report("08P01", message)
}

/// 57P01: the server stops.
pub(super) fn stopping() -> Report {
    report(
        "57P01",
        "terminating connection due to administrator command",
    )
}

fn clean(text: &str) -> String {
    if text.contains('\0') {
        text.replace('\0', "")
    } else {
        text.to_owned()
    }
}

/// Appends an ErrorResponse.
pub(super) fn put_error(out: &mut BytesMut, severity: Severity, report: &Report) {
    put_error_at(out, severity, report, None);
}

/// Appends an ErrorResponse that says where it happened.
pub(super) fn put_error_at(
    out: &mut BytesMut,
    severity: Severity,
    report: &Report,
    context: Option<&str>,
) {
    let mut fields = vec![
        (b'S', severity.word().to_owned()),
        (b'V', severity.word().to_owned()),
        (b'C', report.sqlstate.to_owned()),
        (b'M', clean(&report.message)),
    ];
    fields.extend(report.detail.as_deref().map(|detail| (b'D', clean(detail))));
    fields.extend(report.hint.as_deref().map(|hint| (b'H', clean(hint))));
    fields.extend(context.map(|context| (b'W', clean(context))));
    fields.extend(report.position.map(|position| (b'P', position.to_string())));
    encode(out, &ErrorResponse::new(fields));
}

/// Appends a NoticeResponse.
pub(super) fn put_notice(out: &mut BytesMut, notice: &Notice) {
    let mut fields = vec![
        (b'S', notice.severity.to_owned()),
        (b'V', notice.severity.to_owned()),
        (b'C', notice.sqlstate.to_owned()),
        (b'M', clean(&notice.message)),
    ];
    fields.extend(notice.detail.as_deref().map(|detail| (b'D', clean(detail))));
    fields.extend(notice.hint.as_deref().map(|hint| (b'H', clean(hint))));
    encode(out, &NoticeResponse::new(fields));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_carries_every_field_and_no_stray_terminator() {
        let mut out = BytesMut::new();
        let mut failed = report("42703", "column \"a\0b\" does not exist");
        failed.hint = Some("Perhaps you meant \"ab\".".into());
        failed.position = Some(8);
        put_error(&mut out, Severity::Error, &failed);
        let body =
            b"SERROR\0VERROR\0C42703\0Mcolumn \"ab\" does not exist\0HPerhaps you meant \"ab\".\0P8\0\0";
        assert_eq!(out[0], b'E');
        assert_eq!(out[1..5], (body.len() as u32 + 4).to_be_bytes());
        assert_eq!(&out[5..], body);
    }

    #[test]
    fn a_fatal_error_says_so_in_both_severities() {
        let mut out = BytesMut::new();
        put_error(&mut out, Severity::Fatal, &stopping());
        assert!(out[5..].starts_with(b"SFATAL\0VFATAL\0C57P01\0"));
    }
}
