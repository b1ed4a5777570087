//! The client of S3, and of stores that speak its protocol, from the options of an archive.
//!
//! Invariant: keys that are written are the ones that are used, and are never mixed with those of the environment.

use object_store::ClientConfigKey;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};

use super::ObjectFolder;
use super::client::{Kind, check_endpoint, folder, is_name, retries, root_of};
use crate::context::ConnectorContext;
use crate::error::ConnectorError;
use crate::options::Options;

const EXAMPLE: &str = "s3://bucket/folder";
const KIND: Kind = Kind {
    client: "an S3",
    look: "Look at the options that begin with s3, and at the AWS variables of the server.",
    refused: "Let the owner of s3.access.key.id, or of the AWS credentials that the server runs with, list the bucket and read, write and delete objects below the path.",
};

/// The folder that option `path` names. Contacts nobody.
///
/// # Errors
/// 22023 for an option that cannot work.
pub(crate) fn s3_store(
    options: Options<'_>,
    context: &ConnectorContext,
) -> Result<ObjectFolder, ConnectorError> {
    let (bucket, root) = place(options.required("path")?)?;
    let builder = builder(options, bucket)?;
    folder(&KIND, options, context, root, |settings| {
        let builder = settings
            .into_iter()
            .fold(builder.clone(), |builder, (key, value)| {
                builder.with_config(AmazonS3ConfigKey::Client(key), value)
            });
        builder.build()
    })
}

fn builder(options: Options<'_>, bucket: &str) -> Result<AmazonS3Builder, ConnectorError> {
    let environment = AmazonS3Builder::from_env();
    let known = |key: AmazonS3ConfigKey| environment.get_config_value(&key);
    let allow_http = match options.bool("s3.allow.http")? {
        Some(allow) => allow,
        None => known(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp))
            .is_some_and(|allow| allow == "true"),
    };
    let endpoint = options.text("s3.endpoint").map(str::to_owned);
    let endpoint = endpoint
        .or_else(|| known(AmazonS3ConfigKey::S3Endpoint))
        .or_else(|| known(AmazonS3ConfigKey::Endpoint));
    let region = options.text("s3.region").map(str::to_owned);
    let region = region.or_else(|| known(AmazonS3ConfigKey::Region));
    let keys = (
        options.text("s3.access.key.id"),
        options.text("s3.secret.access.key"),
    );
    let mut builder = match keys {
        (Some(id), Some(secret)) => {
            let own = AmazonS3Builder::new()
                .with_access_key_id(id)
                .with_secret_access_key(secret);
            match options.text("s3.session.token") {
                Some(token) => own.with_token(token),
                None => own,
            }
        }
        (None, None) if options.text("s3.session.token").is_none() => environment,
        _ => {
            return Err(ConnectorError::option_hint(
                "options \"s3.access.key.id\" and \"s3.secret.access.key\" go together",
                "Write both of them, or neither to use the AWS credentials that the server runs with.",
            ));
        }
    };
    if let Some(region) = region {
        builder = builder.with_region(region);
    }
    let path_style = options.bool("s3.path.style.access")?.unwrap_or(true);
    if let Some(endpoint) = endpoint {
        check_endpoint("s3.endpoint", &endpoint, allow_http)?;
        builder = builder.with_endpoint(match path_style {
            true => endpoint,
            false => hosted(&endpoint, bucket),
        });
    }
    Ok(builder
        .with_bucket_name(bucket)
        .with_virtual_hosted_style_request(!path_style)
        .with_allow_http(allow_http)
        // Commits rest on it, whatever the environment says.
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_disable_tagging(true)
        .with_retry(retries()))
}

/// The endpoint of a bucket that is part of the host's name.
fn hosted(endpoint: &str, bucket: &str) -> String {
    match endpoint.split_once("://") {
        Some((scheme, host)) => format!("{scheme}://{bucket}.{host}"),
        None => endpoint.to_owned(),
    }
}

/// The bucket, and the key of the folder in it.
fn place(text: &str) -> Result<(&str, String), ConnectorError> {
    let refused = |reason: &str| {
        ConnectorError::option_hint(
            format!("option \"path\" {reason}"),
            format!("Write path = '{EXAMPLE}'."),
        )
    };
    let Some(("s3" | "s3a", rest)) = text.split_once("://") else {
        return Err(refused("must begin with s3:// for connector 's3'"));
    };
    let (bucket, folder) = rest.split_once('/').unwrap_or((rest, ""));
    if !is_name(bucket) {
        return Err(refused("names no bucket"));
    }
    Ok((bucket, root_of(folder, EXAMPLE)?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::context::SystemClock;

    fn made(options: &[(&str, &str)]) -> Result<ObjectFolder, ConnectorError> {
        let path = [("path", "s3://bucket/lake")];
        let options = path.iter().chain(options);
        let options: BTreeMap<String, String> = options
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let context = ConnectorContext::new(Arc::new(SystemClock));
        s3_store(Options(&options), &context)
    }

    #[test]
    fn a_path_names_a_bucket_and_a_folder() {
        for text in ["s3://bucket/a/b", "s3a://bucket//a/b/"] {
            let (bucket, root) = place(text).expect(text);
            assert_eq!((bucket, root.as_str()), ("bucket", "a/b"), "{text}");
        }
        for text in [
            "bucket/a",
            "hdfs://ns1/a",
            "s3://",
            "s3:///a",
            "s3://bucket",
            "s3://bucket/",
            "s3://bu?ket/a",
            "s3://user@bucket/a",
            "s3://bucket/a/../b",
        ] {
            let report = place(text).expect_err(text).report();
            assert_eq!(report.sqlstate, "22023");
            assert!(report.message.starts_with("option \"path\" "), "{report:?}");
        }
    }

    #[test]
    fn a_bucket_can_be_part_of_the_host() {
        assert_eq!(
            hosted("https://s3.local:9000", "b"),
            "https://b.s3.local:9000"
        );
    }

    #[tokio::test]
    async fn options_that_cannot_work_are_refused_without_their_values() {
        let keys = [
            ("s3.access.key.id", "id"),
            ("s3.secret.access.key", "hunter2"),
        ];
        made(&keys).expect("a client");
        for (options, named) in [
            (vec![keys[0]], "s3.secret.access.key"),
            (vec![keys[1]], "s3.access.key.id"),
            (vec![("s3.session.token", "hunter2")], "s3.access.key.id"),
            (
                vec![keys[0], keys[1], ("s3.endpoint", "http://hunter2:1")],
                "s3.endpoint",
            ),
            (vec![("s3.endpoint", "hunter2")], "s3.endpoint"),
            (vec![("s3.allow.http", "hunter2")], "s3.allow.http"),
            (vec![("rollover.size", "5368709120")], "rollover.size"),
        ] {
            let report = made(&options).expect_err(named).report();
            assert_eq!(report.sqlstate, "22023", "{report:?}");
            assert!(report.message.contains(named), "{report:?}");
            assert!(!format!("{report:?}").contains("hunter2"), "{report:?}");
        }
    }
}
