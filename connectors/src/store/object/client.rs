//! What the clients of all object stores share: how a path names a folder, what an endpoint may be, how long is waited.
//!
//! Invariant: an error here names the option and never repeats a value that may be secret.

use std::sync::Arc;
use std::time::Duration;

use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig};

use super::error::told;
use super::{ObjectFolder, PART_BYTES, Parts, WAITING_BYTES_MAX};
use crate::context::ConnectorContext;
use crate::error::ConnectorError;
use crate::options::Options;

/// Time for one request, as the client's options write it: for most, and for those that the store works on for long.
const TIMEOUT: &str = "30 seconds";
const PATIENCE: &str = "3 minutes";
/// Time for a connection.
const CONNECT_TIMEOUT: &str = "5 seconds";
/// Bytes of the largest file: more than this no store copies in one request.
const FILE_BYTES_MAX: u64 = 4 << 30;

/// What tells one kind of object store from another.
pub(super) struct Kind {
    /// What clients of it are called, with the article.
    pub(super) client: &'static str,
    /// Where to look when no client can be made.
    pub(super) look: &'static str,
    /// What to do when the store refuses a request.
    pub(super) refused: &'static str,
}

/// The folder below `root` of the store whose clients `build` makes, each with the settings it is given. Contacts nobody.
///
/// # Errors
/// 22023 for an option that cannot work.
pub(super) fn folder<C: ObjectStore>(
    kind: &Kind,
    options: Options<'_>,
    context: &ConnectorContext,
    root: String,
    build: impl Fn([(ClientConfigKey, &'static str); 2]) -> object_store::Result<C>,
) -> Result<ObjectFolder, ConnectorError> {
    for name in ["rollover.size", "compaction.target.size"] {
        check_file_bytes(name, options.u64(name)?)?;
    }
    let client = |timeout| {
        let built = build([
            (ClientConfigKey::Timeout, timeout),
            (ClientConfigKey::ConnectTimeout, CONNECT_TIMEOUT),
        ]);
        built.map(Arc::new).map_err(|error| {
            let detail = told(&error).detail;
            ConnectorError::option_hint(
                format!("could not make {} client: {detail}", kind.client),
                kind.look,
            )
        })
    };
    Ok(ObjectFolder::of(Parts {
        client: client(TIMEOUT)?,
        patient: client(PATIENCE)?,
        root,
        shown: options.required("path")?.trim_end_matches('/').to_owned(),
        process: context.process,
        refused: kind.refused,
        part_bytes: PART_BYTES,
        waiting_bytes_max: WAITING_BYTES_MAX,
    }))
}

/// How often a request is repeated: for seconds, since whoever waits longer says so himself.
pub(super) fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(3),
            base: 2.0,
        },
        max_retries: 6,
        retry_timeout: Duration::from_secs(15),
    }
}

/// The key that the parts of a path make, without a slash at its ends.
pub(super) fn root_of(path: &str, example: &str) -> Result<String, ConnectorError> {
    let refused = |reason: &str| {
        ConnectorError::option_hint(
            format!("option \"path\" {reason}"),
            format!("Write path = '{example}'."),
        )
    };
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return Err(refused("must name a folder"));
    }
    let wrong = |part: &&str| {
        matches!(*part, "." | "..") || part.contains(|c: char| c.is_control() || c == '\\')
    };
    if parts.iter().any(wrong) {
        return Err(refused(
            "must not hold '.', '..', a backslash or a control character",
        ));
    }
    Ok(parts.join("/"))
}

/// True for what can be the name of a bucket or container: it becomes part of a URL.
pub(super) fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'$');
    !text.is_empty() && text.len() <= 255 && text.bytes().all(fits)
}

/// Checks an endpoint: a URL of a host, encrypted unless `allow_http`.
pub(super) fn check_endpoint(
    option: &str,
    endpoint: &str,
    allow_http: bool,
) -> Result<(), ConnectorError> {
    let store = option.split('.').next().unwrap_or(option);
    let (is_http, rest) = match endpoint.split_once("://") {
        Some(("https", rest)) => (false, rest),
        Some(("http", rest)) => (true, rest),
        _ => {
            return Err(ConnectorError::option_hint(
                format!("option \"{option}\" must begin with https:// or http://"),
                format!("Write {option} = 'https://host:port'."),
            ));
        }
    };
    let odd = |c: char| c.is_whitespace() || c.is_control() || "@?#\\".contains(c);
    if rest.is_empty() || rest.starts_with(['/', ':']) || rest.contains(odd) {
        return Err(ConnectorError::option_hint(
            format!("option \"{option}\" must be the URL of a host"),
            format!("Write {option} = 'https://host:port'."),
        ));
    }
    if is_http && !allow_http {
        return Err(ConnectorError::option_hint(
            format!("option \"{option}\" is not encrypted"),
            format!(
                "Write https://, or add {store}.allow.http = 'true' where nobody else can listen."
            ),
        ));
    }
    Ok(())
}

/// Checks a size that files may come to.
fn check_file_bytes(option: &str, bytes: Option<u64>) -> Result<(), ConnectorError> {
    match bytes {
        Some(bytes) if bytes > FILE_BYTES_MAX => Err(ConnectorError::option_hint(
            format!("option \"{option}\" is more than an object store copies in one request"),
            "Write 4GB or less.",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_folder() {
        let root = |path: &str| root_of(path, "s3://bucket/folder");
        assert_eq!(root("lake//clicks/").expect("a folder"), "lake/clicks");
        assert_eq!(root("lake/a=b c").expect("a folder"), "lake/a=b c");
        for path in ["", "/", "a/../b", "./a", "a\\b", "a\nb"] {
            assert!(root(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn an_endpoint_is_a_host_and_encrypted_unless_said_otherwise() {
        let check = |endpoint: &str, http: bool| check_endpoint("s3.endpoint", endpoint, http);
        for endpoint in ["https://minio:9000", "https://minio/", "https://a.b/prefix"] {
            check(endpoint, false).expect(endpoint);
        }
        check("http://127.0.0.1:9000", true).expect("allowed");
        let error = check("http://127.0.0.1:9000", false).expect_err("plain");
        assert!(
            error
                .report()
                .hint
                .is_some_and(|hint| hint.contains("s3.allow.http"))
        );
        for endpoint in [
            "minio:9000",
            "ftp://minio",
            "https://",
            "https:///x",
            "https://user:hunter2@minio",
            "https://minio?x=1",
        ] {
            let error = check(endpoint, true).expect_err(endpoint);
            assert!(!error.to_string().contains("hunter2"));
        }
    }
}
