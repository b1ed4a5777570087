//! Where a gateway is and how it is spoken to, as `thrift.servers` says it.
//!
//! Invariant: pure; what passes here can be connected to, and holds no secret: user names and queries are refused.

use tokio_rustls::rustls::pki_types::ServerName;

/// One element of `thrift.servers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    text: String,
    /// Host and port, as sockets take them.
    address: String,
    way: Way,
}

/// How messages get to a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// On a connection of their own, as `thrift.transport` and `thrift.protocol` say.
    Raw,
    /// Each as the body of a POST to this path, in the binary protocol: an HBase gateway over HTTP has no other.
    Http {
        path: String,
        /// Whom the certificate must name, over TLS.
        tls: Option<ServerName<'static>>,
    },
}

impl Endpoint {
    /// `host:port`, `http://host:port/path` or `https://host:port/path`; `None` for anything else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
            None => (None, text),
        };
        let (address, path) = match (&scheme, rest.find('/')) {
            (Some(_), Some(at)) => rest.split_at(at),
            _ => (rest, "/"),
        };
        let (host, port) = address.rsplit_once(':')?;
        let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
        let plain = |c: char| c.is_ascii_graphic() && !"@?#\\\"<>".contains(c);
        if host.is_empty() || host.contains('/') || !is_port || !rest.chars().all(plain) {
            return None;
        }
        let way = match scheme.as_deref() {
            None => Way::Raw,
            Some("http") => Way::Http {
                path: path.to_owned(),
                tls: None,
            },
            Some("https") => Way::Http {
                path: path.to_owned(),
                tls: Some(server_name(host)?),
            },
            Some(_) => return None,
        };
        Some(Self {
            text: text.to_owned(),
            address: address.to_owned(),
            way,
        })
    }

    /// As given.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Host and port.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn way(&self) -> &Way {
        &self.way
    }

    /// Whether its certificate is checked.
    pub(super) fn is_tls(&self) -> bool {
        matches!(self.way, Way::Http { tls: Some(_), .. })
    }
}

/// A host as certificates name it: addresses of version 6 without their brackets.
fn server_name(host: &str) -> Option<ServerName<'static>> {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    ServerName::try_from(bare.unwrap_or(host).to_owned()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(path: &str, tls: Option<&str>) -> Way {
        Way::Http {
            path: path.to_owned(),
            tls: tls.map(|name| ServerName::try_from(name.to_owned()).expect("a name")),
        }
    }

    #[test]
    fn gateways_are_addresses_or_urls() {
        for (text, address, way) in [
            ("gw1:9090", "gw1:9090", Way::Raw),
            (" 127.0.0.1:9090 ", "127.0.0.1:9090", Way::Raw),
            ("[::1]:9090", "[::1]:9090", Way::Raw),
            ("http://gw1:9090", "gw1:9090", http("/", None)),
            ("HTTP://gw1:9090/", "gw1:9090", http("/", None)),
            ("https://gw1:9090/", "gw1:9090", http("/", Some("gw1"))),
            ("https://[::1]:9/", "[::1]:9", http("/", Some("::1"))),
            (
                "https://knox.example.org:8443/gateway/default/hbase",
                "knox.example.org:8443",
                http("/gateway/default/hbase", Some("knox.example.org")),
            ),
        ] {
            let found = Endpoint::parse(text).expect(text);
            assert_eq!((found.address(), found.way()), (address, &way), "{text}");
            assert_eq!(found.text(), text.trim());
        }
    }

    #[test]
    fn what_cannot_be_connected_to_is_refused() {
        for text in [
            "",
            "gw1",
            ":9090",
            "gw1:0",
            "gw1:65536",
            "gw1:9090/",
            "gw1/x:9090",
            "http://gw1",
            "http://gw1/",
            "http://:9090/",
            "ftp://gw1:9090/",
            "https://user:word@gw1:9090/",
            "http://gw1:9090/?a=b",
            "http://gw1:9090/a b",
            "http://gw1:9090/\r\nx: y",
            "https://-:9090/",
        ] {
            assert_eq!(Endpoint::parse(text), None, "{text}");
        }
    }
}
