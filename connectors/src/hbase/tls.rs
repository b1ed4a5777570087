//! Whom a gateway's certificate must be from.
//!
//! Invariant: there is no way to leave the check out: a certificate is of an authority that is trusted and names the gateway, or
//! nothing is sent.

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, Error, RootCertStore};

use super::error::Failure;
use crate::error::ConnectorError;

/// The option with certificates to trust.
const OPTION: &str = "thrift.ssl.ca.pem";

/// The authorities that are trusted.
#[derive(Debug, Clone)]
pub(super) struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Those in a PEM text and no others, or those that this machine trusts.
    ///
    /// # Errors
    /// 22023 when the text holds no certificate, or one that cannot be read.
    pub(super) fn new(pem: Option<&str>) -> Result<Self, ConnectorError> {
        let mut roots = RootCertStore::empty();
        match pem {
            Some(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                    let added = certificate.ok().map(|certificate| roots.add(certificate));
                    if !matches!(added, Some(Ok(()))) {
                        return Err(unreadable());
                    }
                }
                if roots.is_empty() {
                    return Err(unreadable());
                }
            }
            // A store of the system may hold certificates that are of no use; the others count.
            None => {
                let found = rustls_native_certs::load_native_certs();
                let (_added, _ignored) = roots.add_parsable_certificates(found.certs);
            }
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| ConnectorError::Internal(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }

    /// Agrees on a key with the server of this name.
    pub(super) async fn secure(
        &self,
        stream: TcpStream,
        name: ServerName<'static>,
    ) -> Result<TlsStream<TcpStream>, Failure> {
        let connector = TlsConnector::from(Arc::clone(&self.0));
        connector
            .connect(name, stream)
            .await
            .map_err(|error| refused(&error))
    }
}

fn unreadable() -> ConnectorError {
    ConnectorError::option_hint(
        format!("option \"{OPTION}\" holds no certificates that can be read"),
        "Write the PEM text, from -----BEGIN CERTIFICATE----- on.",
    )
}

/// What it means that there is no agreement.
fn refused(error: &io::Error) -> Failure {
    let of_tls = error
        .get_ref()
        .and_then(|error| error.downcast_ref::<Error>());
    match of_tls {
        Some(error @ Error::InvalidCertificate(_)) => Failure::Untrusted(error.to_string()),
        Some(Error::InvalidMessage(_)) => {
            Failure::WrongEndpoint("it does not speak TLS, which https asks for".to_owned())
        }
        Some(error) => Failure::WrongEndpoint(error.to_string()),
        None => match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Failure::Broken(
                "it hangs up on TLS, as a gateway does that was given https and has none"
                    .to_owned(),
            ),
            _ => Failure::Broken(error.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_without_certificates_are_refused() {
        for text in [
            "",
            "a word",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n",
        ] {
            let error = Trust::new(Some(text)).map(drop).expect_err("refused");
            assert_eq!(error.report().sqlstate, "22023");
            assert!(error.to_string().contains(OPTION), "{error}");
        }
    }

    #[test]
    fn the_authorities_of_the_machine_are_the_default() {
        assert!(Trust::new(None).is_ok());
    }
}
