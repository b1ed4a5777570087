//! The client of Azure Blob Storage and Data Lake Storage from the options of an archive.
//!
//! Invariant: credentials of the environment go to Azure's own hosts only: an endpoint that is written needs credentials that are
//! written too.

use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};

use super::ObjectFolder;
use super::client::{Kind, check_endpoint, folder, is_name, retries, root_of};
use crate::context::ConnectorContext;
use crate::error::ConnectorError;
use crate::options::Options;

const EXAMPLE: &str = "abfss://container@account.dfs.core.windows.net/folder";
const KIND: Kind = Kind {
    client: "an Azure",
    look: "Look at the options that begin with azure, and at the AZURE variables of the server.",
    refused: "Let the owner of the credentials that begin with azure, or of those that the server runs with, list the container and read, write and delete blobs below the path.",
};
/// Hosts of accounts.
const HOSTS: [&str; 2] = ["dfs.core.windows.net", "blob.core.windows.net"];

/// Options that each are a way to log in, with what goes along.
const LOGINS: [(&str, &[(&str, AzureConfigKey)]); 3] = [
    (
        "azure.access.key",
        &[("azure.access.key", AzureConfigKey::AccessKey)],
    ),
    (
        "azure.sas.token",
        &[("azure.sas.token", AzureConfigKey::SasKey)],
    ),
    (
        "azure.client.secret",
        &[
            ("azure.client.id", AzureConfigKey::ClientId),
            ("azure.client.secret", AzureConfigKey::ClientSecret),
            ("azure.tenant.id", AzureConfigKey::AuthorityId),
        ],
    ),
];

/// The folder that option `path` names. Contacts nobody.
///
/// # Errors
/// 22023 for an option that cannot work.
pub(crate) fn azure_store(
    options: Options<'_>,
    context: &ConnectorContext,
) -> Result<ObjectFolder, ConnectorError> {
    let place = place(options.required("path")?)?;
    let builder = builder(options, &place)?;
    folder(&KIND, options, context, place.root, |settings| {
        let builder = settings
            .into_iter()
            .fold(builder.clone(), |builder, (key, value)| {
                builder.with_config(AzureConfigKey::Client(key), value)
            });
        builder.build()
    })
}

fn builder(
    options: Options<'_>,
    place: &Place<'_>,
) -> Result<MicrosoftAzureBuilder, ConnectorError> {
    let environment = MicrosoftAzureBuilder::from_env();
    let endpoint = options.text("azure.endpoint");
    let allow_http = options.bool("azure.allow.http")?.unwrap_or(false);
    let account = place.account.or(options.text("azure.account"));
    let account = account
        .map(str::to_owned)
        .or_else(|| environment.get_config_value(&AzureConfigKey::AccountName));
    let Some(account) = account.filter(|account| is_name(account)) else {
        return Err(ConnectorError::option_hint(
            "option \"azure.account\" is required",
            format!("Add azure.account = '...', or write path = '{EXAMPLE}'."),
        ));
    };
    let mut builder = match login(options)? {
        Some(own) => own,
        None if endpoint.is_some() => {
            return Err(ConnectorError::option_hint(
                "option \"azure.endpoint\" needs credentials beside it",
                "Add azure.access.key, azure.sas.token or azure.client.secret: those of the server go to Azure only.",
            ));
        }
        None => environment,
    };
    if let Some(endpoint) = endpoint {
        check_endpoint("azure.endpoint", endpoint, allow_http)?;
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    Ok(builder
        .with_account(account)
        .with_container_name(place.container)
        .with_allow_http(allow_http)
        .with_disable_tagging(true)
        .with_retry(retries()))
}

/// A client with the credentials that are written; `None` when there are none.
fn login(options: Options<'_>) -> Result<Option<MicrosoftAzureBuilder>, ConnectorError> {
    let written = |(name, _): &(&str, AzureConfigKey)| options.text(name).is_some();
    let mut logins = LOGINS.iter().filter(|(_, parts)| parts.iter().any(written));
    let Some((_, parts)) = logins.next() else {
        return Ok(None);
    };
    if let Some((other, _)) = logins.next() {
        return Err(ConnectorError::option_hint(
            format!("option \"{other}\" is given beside other credentials"),
            "Write one of azure.access.key, azure.sas.token and azure.client.secret.",
        ));
    }
    let mut builder = MicrosoftAzureBuilder::new();
    for (name, key) in *parts {
        builder = builder.with_config(*key, options.required(name)?);
    }
    Ok(Some(builder))
}

/// What option `path` says.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    account: Option<&'a str>,
    container: &'a str,
    root: String,
}

fn place(text: &str) -> Result<Place<'_>, ConnectorError> {
    let refused = |reason: &str| {
        ConnectorError::option_hint(
            format!("option \"path\" {reason}"),
            format!("Write path = '{EXAMPLE}' or 'azure://container/folder'."),
        )
    };
    let Some(("abfs" | "abfss" | "azure" | "az", rest)) = text.split_once("://") else {
        return Err(refused(
            "must begin with abfss:// or azure:// for connector 'azure'",
        ));
    };
    let (authority, folder) = rest.split_once('/').unwrap_or((rest, ""));
    let (container, account) = match authority.split_once('@') {
        None => (authority, None),
        Some((container, host)) => {
            let account = HOSTS
                .iter()
                .find_map(|known| host.strip_suffix(known)?.strip_suffix('.'));
            let Some(account) = account.filter(|account| is_name(account)) else {
                return Err(refused("names no account of Azure"));
            };
            (container, Some(account))
        }
    };
    if !is_name(container) {
        return Err(refused("names no container"));
    }
    Ok(Place {
        account,
        container,
        root: root_of(folder, EXAMPLE)?,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::context::SystemClock;

    fn made(options: &[(&str, &str)]) -> Result<ObjectFolder, ConnectorError> {
        let path = [("path", "azure://container/lake")];
        let options: BTreeMap<String, String> = path
            .iter()
            .chain(options)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let context = ConnectorContext::new(Arc::new(SystemClock));
        azure_store(Options(&options), &context)
    }

    #[test]
    fn a_path_names_a_container_and_a_folder() {
        for (text, account) in [
            ("azure://box/a/b", None),
            ("az://box/a/b/", None),
            ("abfss://box@acc.dfs.core.windows.net/a/b", Some("acc")),
            ("abfs://box@acc.blob.core.windows.net//a/b", Some("acc")),
        ] {
            let found = place(text).expect(text);
            let expected = Place {
                account,
                container: "box",
                root: "a/b".into(),
            };
            assert_eq!(found, expected, "{text}");
        }
        for text in [
            "s3://box/a",
            "azure://box",
            "azure:///a",
            "azure://b?x/a",
            "abfss://box@acc.example.com/a",
            "abfss://box@dfs.core.windows.net/a",
            "abfss://box@a@acc.dfs.core.windows.net/a",
        ] {
            let report = place(text).expect_err(text).report();
            assert_eq!(report.sqlstate, "22023", "{text}");
        }
    }

    #[tokio::test]
    async fn options_that_cannot_work_are_refused_without_their_values() {
        let account = ("azure.account", "acc");
        // "hunter2" in base64, as keys are.
        let key = ("azure.access.key", "aHVudGVyMg==");
        let endpoint = ("azure.endpoint", "https://127.0.0.1:10000/acc");
        made(&[account, key]).expect("a client");
        made(&[account, key, endpoint]).expect("a client");
        for (options, named) in [
            (vec![account, endpoint], "azure.endpoint"),
            (
                vec![account, ("azure.client.id", "me")],
                "azure.client.secret",
            ),
            (
                vec![account, key, ("azure.sas.token", "aHVudGVyMg==")],
                "azure.sas.token",
            ),
            (
                vec![account, key, ("azure.endpoint", "http://127.0.0.1")],
                "azure.endpoint",
            ),
            (vec![("azure.account", "a/b"), key], "azure.account"),
        ] {
            let report = made(&options).expect_err(named).report();
            assert_eq!(report.sqlstate, "22023", "{report:?}");
            assert!(report.message.contains(named), "{report:?}");
            assert!(!format!("{report:?}").contains("aHVudGVyMg"), "{report:?}");
        }
    }
}
