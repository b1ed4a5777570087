//! What the errors of an object store are to an archive.
//!
//! Invariant: what is passed on of an answer is its code and its message, never a URL, which may hold a signature.

use std::error::Error as _;

use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};

use crate::store::StoreFault;

/// Longest text of an answer that is passed on.
const DETAIL_CHARS: usize = 300;

/// An error in the words of stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) fault: StoreFault,
    pub(super) detail: String,
    pub(super) hint: Option<&'static str>,
}

impl Told {
    fn new(fault: StoreFault, detail: &str) -> Self {
        let detail = detail.split_whitespace().collect::<Vec<_>>().join(" ");
        Self {
            fault,
            detail: detail.chars().take(DETAIL_CHARS).collect(),
            hint: None,
        }
    }
}

/// What an error is to us, and why it came.
pub(super) fn told(error: &Error) -> Told {
    let text = error.to_string();
    if text.contains("/latest/api/token") || text.contains("/metadata/identity/") {
        // Where no key is written the client asks the machine for one, and most machines have none.
        let detail = "No credentials are given, and this machine has none of its own.";
        return Told::new(StoreFault::Denied, detail);
    }
    if text.contains("redirect without LOCATION") {
        let mut told = Told::new(StoreFault::Other, "The bucket is in another region.");
        told.hint = Some("Set s3.region to the region of the bucket.");
        return told;
    }
    let answer = Answer::of(&text);
    let by_code = answer.code.and_then(fault_of_code);
    let by_status = answer.status.and_then(fault_of_status);
    let fault = by_code.or(by_status).unwrap_or_else(|| fault_of(error));
    let detail = match (answer.code, answer.message, answer.status) {
        (Some(code), Some(message), _) => format!("{code}: {message}"),
        (Some(code), None, _) => code.to_owned(),
        (None, _, Some(status)) => format!("The store answered with HTTP status {status}."),
        (None, _, None) => innermost(error),
    };
    Told::new(fault, &detail)
}

/// What the text of an error holds of the store's answer.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer<'a> {
    status: Option<u16>,
    code: Option<&'a str>,
    message: Option<&'a str>,
}

impl<'a> Answer<'a> {
    fn of(text: &'a str) -> Self {
        let between = |from: &str, to: &str| {
            let rest = text.split_once(from)?.1;
            let found = rest.split_once(to)?.0.trim();
            (!found.is_empty()).then_some(found)
        };
        let status = between("status code: ", " ").map(|digits| digits.trim_end_matches(':'));
        Self {
            status: status.and_then(|digits| digits.parse().ok()),
            // Of several deletions in one request each has a code of its own.
            code: between("<Code>", "</Code>").or_else(|| between("(code: ", ")")),
            message: between("<Message>", "</Message>"),
        }
    }
}

fn fault_of_code(code: &str) -> Option<StoreFault> {
    Some(match code {
        "NoSuchBucket" | "ContainerNotFound" | "ContainerBeingDeleted" | "FilesystemNotFound" => {
            StoreFault::NoContainer
        }
        "AccessDenied"
        | "AccountProblem"
        | "AllAccessDisabled"
        | "AuthenticationFailed"
        | "AuthorizationFailure"
        | "AuthorizationPermissionMismatch"
        | "ExpiredToken"
        | "InsufficientAccountPermissions"
        | "InvalidAccessKeyId"
        | "InvalidToken"
        | "RequestTimeTooSkewed"
        | "SignatureDoesNotMatch" => StoreFault::Denied,
        "InternalError"
        | "OperationTimedOut"
        | "RequestTimeout"
        | "ServerBusy"
        | "ServiceUnavailable"
        | "SlowDown"
        | "ThrottlingException" => StoreFault::Unreachable,
        "QuotaExceeded" | "XMinioStorageFull" => StoreFault::Full,
        _ => return None,
    })
}

fn fault_of_status(status: u16) -> Option<StoreFault> {
    Some(match status {
        401 | 403 => StoreFault::Denied,
        404 => StoreFault::Missing,
        304 | 409 | 412 => StoreFault::Exists,
        507 => StoreFault::Full,
        408 | 429 | 500..=599 => StoreFault::Unreachable,
        _ => return None,
    })
}

/// What an error without an answer is.
fn fault_of(error: &Error) -> StoreFault {
    match error {
        Error::NotFound { .. } => StoreFault::Missing,
        Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. } => {
            StoreFault::Exists
        }
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => StoreFault::Denied,
        _ => match http_kind(error) {
            Some(HttpErrorKind::Decode) | None => StoreFault::Other,
            Some(_) => StoreFault::Unreachable,
        },
    }
}

/// How a request failed that got no answer.
fn http_kind(error: &Error) -> Option<HttpErrorKind> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            return Some(http.kind());
        }
        cause = error.source();
    }
    None
}

/// The text of the cause of all causes.
fn innermost(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let text = cause.to_string();
    // What of the client has no cause tells the URL too.
    match text.contains("://") {
        true => "The request failed.".into(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: &str, body: &str) -> Error {
        let text = format!(
            "Error performing PUT http://127.0.0.1:9000/lake/x?sig=hunter2 in 1.2ms - Server returned non-2xx status code: {status}: {body}"
        );
        Error::Generic {
            store: "S3",
            source: text.into(),
        }
    }

    #[test]
    fn answers_are_told_by_code_then_by_status() {
        let xml = |code: &str| {
            format!(
                "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>As it\n says.</Message><HostId>hunter2</HostId></Error>"
            )
        };
        for (status, code, fault) in [
            ("404 Not Found", "NoSuchBucket", StoreFault::NoContainer),
            (
                "404 Not Found",
                "ContainerNotFound",
                StoreFault::NoContainer,
            ),
            ("404 Not Found", "NoSuchKey", StoreFault::Missing),
            ("403 Forbidden", "SignatureDoesNotMatch", StoreFault::Denied),
            ("400 Bad Request", "ExpiredToken", StoreFault::Denied),
            ("400 Bad Request", "InvalidArgument", StoreFault::Other),
            (
                "412 Precondition Failed",
                "PreconditionFailed",
                StoreFault::Exists,
            ),
            (
                "409 Conflict",
                "ConditionalRequestConflict",
                StoreFault::Exists,
            ),
            ("409 Conflict", "BlobAlreadyExists", StoreFault::Exists),
            ("503 Slow Down", "SlowDown", StoreFault::Unreachable),
            (
                "507 Insufficient Storage",
                "XMinioStorageFull",
                StoreFault::Full,
            ),
        ] {
            let told = told(&answered(status, &xml(code)));
            assert_eq!(told.fault, fault, "{code}");
            assert_eq!(told.detail, format!("{code}: As it says."));
        }
        let bare = told(&answered("429 Too Many Requests", ""));
        assert_eq!(bare.fault, StoreFault::Unreachable);
        assert_eq!(bare.detail, "The store answered with HTTP status 429.");
    }

    #[test]
    fn a_request_without_an_answer_is_told_by_its_cause() {
        let io = std::io::Error::other("Connection refused (os error 111)");
        for (kind, fault) in [
            (HttpErrorKind::Connect, StoreFault::Unreachable),
            (HttpErrorKind::Timeout, StoreFault::Unreachable),
            (HttpErrorKind::Interrupted, StoreFault::Unreachable),
            (HttpErrorKind::Decode, StoreFault::Other),
        ] {
            let cause = std::io::Error::new(io.kind(), io.to_string());
            let error = Error::Generic {
                store: "S3",
                source: Box::new(HttpError::new(kind, cause)),
            };
            let told = told(&error);
            assert_eq!(told.fault, fault, "{kind:?}");
            assert_eq!(told.detail, "Connection refused (os error 111)");
        }
    }

    #[test]
    fn urls_and_their_signatures_stay_here() {
        for error in [
            answered("403 Forbidden", ""),
            answered("400 Bad Request", "https://account/x?sig=hunter2"),
            Error::Generic {
                store: "S3",
                source: "Error performing GET https://account/x?sig=hunter2 - broken".into(),
            },
        ] {
            let told = told(&error);
            assert!(!told.detail.contains("hunter2"), "{told:?}");
        }
    }

    #[test]
    fn missing_credentials_and_other_regions_are_told() {
        let text =
            "Error performing PUT http://169.254.169.254/latest/api/token in 9s - HTTP error";
        let told_of = |text: &str| {
            told(&Error::Generic {
                store: "S3",
                source: text.to_owned().into(),
            })
        };
        let none = told_of(text);
        assert_eq!(none.fault, StoreFault::Denied);
        assert!(none.detail.starts_with("No credentials are given"));
        let moved = told_of("Received redirect without LOCATION, this normally indicates ...");
        assert_eq!(moved.detail, "The bucket is in another region.");
        assert!(moved.hint.is_some());
    }
}
