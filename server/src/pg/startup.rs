//! From the first byte of a connection to a ready session.
//!
//! Invariant: nothing but a startup packet, an encryption request or a cancel request is understood here, every error ends
//! the connection with FATAL, and only a function that returns [`Greeting::Session`] lets a client reach the query loop.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::{Buf, BytesMut};
use pgwire::messages::startup::{
    Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, SecretKey, Startup,
};
use pgwire::messages::{DecodeContext, Message, ProtocolVersion};

use super::backend::{Backend, Client};
use super::cancel::Registration;
use super::error::{report, violation};
use super::frames::{check_utf8, encode};
use super::limits::{QUOTED_CHARS_MAX, STARTUP_BYTES_MAX};
use super::wire::{End, Input, Output};
use crate::frontend::Report;

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
/// Newest protocol version spoken, 3.2.
const NEWEST_MINOR: u16 = 2;
/// Longest cancel key of protocol 3.2.
const CANCEL_KEY_BYTES_MAX: usize = 256;

/// What a connection turned out to be.
#[derive(Debug)]
pub(super) enum Greeting {
    /// A client that wants a session.
    Session {
        /// Who.
        client: Client,
        /// Which protocol was agreed on.
        protocol: Protocol,
    },
    /// A cancel request.
    Cancel {
        /// Process id.
        process_id: i32,
        /// Key.
        key: Vec<u8>,
    },
}

/// The negotiated protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Protocol {
    minor: u16,
}

impl Protocol {
    /// Bytes of the cancel key: protocol 3.2 has room for one that cannot be guessed.
    pub(super) fn key_bytes(self) -> usize {
        if self.minor >= 2 { 32 } else { 4 }
    }
}

/// Reads until the client has said what it wants, answering encryption requests.
pub(super) async fn greet(input: &mut Input, output: &mut Output) -> Result<Greeting, End> {
    let mut asked = Vec::new();
    loop {
        let mut packet = read_packet(input).await?;
        let code = packet.get_u32();
        match code {
            SSL_REQUEST | GSS_REQUEST => {
                // One request of each kind, as in Postgres; and nothing behind it: bytes that were sent before our answer
                // must never be taken for part of an encrypted session.
                let stuffed = !input.at_least(0).await?.is_empty();
                if !packet.is_empty() || stuffed || asked.contains(&code) {
                    return Err(End::Fatal(violation(
                        "received unencrypted data after an encryption request",
                    )));
                }
                asked.push(code);
                output.buffer.extend_from_slice(b"N");
                output.flush().await?;
            }
            CANCEL_REQUEST => return cancel_request(packet).ok_or(End::Gone),
            _ => return session_request(code, packet, output),
        }
    }
}

/// One packet without its length field; the first four bytes are the code.
async fn read_packet(input: &mut Input) -> Result<BytesMut, End> {
    let mut head: &[u8] = input.at_least(4).await?;
    let length = head.get_u32() as usize;
    if !(8..=STARTUP_BYTES_MAX).contains(&length) {
        return Err(End::Fatal(violation("invalid length of startup packet")));
    }
    let buffer = input.at_least(length).await?;
    let mut packet = buffer.split_to(length);
    packet.advance(4);
    Ok(packet)
}

/// `None` for a malformed request, which gets no answer, like a wrong one.
fn cancel_request(mut packet: BytesMut) -> Option<Greeting> {
    let process_id = packet.try_get_i32().ok()?;
    (4..=CANCEL_KEY_BYTES_MAX)
        .contains(&packet.len())
        .then(|| Greeting::Cancel {
            process_id,
            key: packet.to_vec(),
        })
}

fn session_request(code: u32, packet: BytesMut, output: &mut Output) -> Result<Greeting, End> {
    let (major, minor) = ((code >> 16) as u16, (code & 0xffff) as u16);
    if major != 3 {
        let message = format!(
            "unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{NEWEST_MINOR}"
        );
        return Err(End::Fatal(report("0A000", message)));
    }
    let startup = decode(code, packet).map_err(End::Fatal)?;
    let options: Vec<String> = startup
        .parameters
        .keys()
        .filter(|name| name.starts_with("_pq_."))
        .cloned()
        .collect();
    if minor > NEWEST_MINOR || !options.is_empty() {
        let agreed = (3 << 16) | i32::from(minor.min(NEWEST_MINOR));
        encode(
            &mut output.buffer,
            &NegotiateProtocolVersion::new(agreed, options),
        );
    }
    let client = client(startup).map_err(End::Fatal)?;
    Ok(Greeting::Session {
        client,
        protocol: Protocol {
            minor: minor.min(NEWEST_MINOR),
        },
    })
}

/// Checks the layout, then hands exactly this packet to pgwire's decoder.
fn decode(code: u32, packet: BytesMut) -> Result<Startup, Report> {
    check_parameters(&packet)?;
    let mut whole = BytesMut::with_capacity(packet.len() + 8);
    whole.extend_from_slice(&(packet.len() as u32 + 8).to_be_bytes());
    whole.extend_from_slice(&code.to_be_bytes());
    whole.extend_from_slice(&packet);
    let context = DecodeContext::new(ProtocolVersion::PROTOCOL3_0);
    match catch_unwind(AssertUnwindSafe(|| Startup::decode(&mut whole, &context))) {
        Ok(Ok(Some(startup))) => Ok(startup),
        _ => Err(violation("invalid startup packet layout")),
    }
}

/// Name and value strings in turn, then an empty name as the last byte.
fn check_parameters(mut rest: &[u8]) -> Result<(), Report> {
    let bad = || violation("invalid startup packet layout: expected terminator as last byte");
    loop {
        let name_end = rest.iter().position(|&byte| byte == 0).ok_or_else(bad)?;
        if name_end == 0 {
            return if rest.len() == 1 { Ok(()) } else { Err(bad()) };
        }
        let value = &rest[name_end + 1..];
        let value_end = value.iter().position(|&byte| byte == 0).ok_or_else(bad)?;
        check_utf8(&rest[..name_end])?;
        check_utf8(&value[..value_end])?;
        rest = &value[value_end + 1..];
    }
}

fn client(startup: Startup) -> Result<Client, Report> {
    let mut client = Client::default();
    for (name, value) in startup.parameters {
        match name.as_str() {
            "user" => client.user = value,
            "database" => client.database = value,
            // `options` come first, so that the packet's own parameters win over them.
            "options" => client
                .settings
                .splice(0..0, command_line(&value)?)
                .for_each(drop),
            "replication" => {
                if !matches!(value.as_str(), "false" | "off" | "no" | "0") {
                    return Err(report("0A000", "replication connections are not supported"));
                }
            }
            name if name.starts_with("_pq_.") => {}
            _ => client.settings.push((name, value)),
        }
    }
    if client.user.is_empty() {
        return Err(report(
            "28000",
            "no PostgreSQL user name specified in startup packet",
        ));
    }
    if client.database.is_empty() {
        client.database.clone_from(&client.user);
    }
    Ok(client)
}

/// `-c name=value`, `-cname=value` and `--name=value`, separated by blanks; a backslash takes the next character as it is.
fn command_line(text: &str) -> Result<Vec<(String, String)>, Report> {
    let mut settings = Vec::new();
    let mut words = split_words(text).into_iter();
    while let Some(word) = words.next() {
        let assignment = match word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            Some("") if word == "-c" => words.next(),
            Some(rest) => Some(rest.to_owned()),
            None => None,
        };
        let pair = assignment.as_deref().and_then(|pair| pair.split_once('='));
        let Some((name, value)) = pair.filter(|(name, _)| !name.is_empty()) else {
            let shown: String = word.chars().take(QUOTED_CHARS_MAX).collect();
            return Err(report(
                "42601",
                format!("invalid command-line argument for server process: {shown}"),
            ));
        };
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = None::<String>;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c.is_ascii_whitespace() {
            words.extend(word.take());
            continue;
        }
        let kept = if c == '\\' {
            chars.next().unwrap_or('\\')
        } else {
            c
        };
        word.get_or_insert_default().push(kept);
    }
    words.extend(word);
    words
}

/// Tells the client that it is in: AuthenticationOk, settings, cancel key. ReadyForQuery follows from the query loop.
pub(super) fn welcome(output: &mut Output, backend: &dyn Backend, registration: &Registration) {
    encode(&mut output.buffer, &Authentication::Ok);
    for (name, value) in backend.reported_settings() {
        encode(&mut output.buffer, &ParameterStatus::new(name, value));
    }
    let key = SecretKey::Bytes(registration.key.clone().into());
    encode(
        &mut output.buffer,
        &BackendKeyData::new(registration.process_id, key),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_split_as_postgres_splits_them() {
        let parsed = command_line(r"-c TimeZone=Asia/Kolkata --search-path=a,\ b -cwork_mem=1MB")
            .expect("options");
        let expected = [
            ("TimeZone", "Asia/Kolkata"),
            ("search_path", "a, b"),
            ("work_mem", "1MB"),
        ];
        assert_eq!(
            parsed,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        for bad in ["-c", "-c x", "--=1", "-d 3", "plain", "-c =1"] {
            assert_eq!(command_line(bad).expect_err(bad).sqlstate, "42601", "{bad}");
        }
    }

    #[test]
    fn the_packets_own_parameters_win_over_options() {
        let mut startup = Startup::new();
        for (name, value) in [
            ("user", "ann"),
            ("TimeZone", "UTC"),
            ("options", "-c TimeZone=Asia/Tokyo"),
            ("_pq_.x", "1"),
        ] {
            startup.parameters.insert(name.into(), value.into());
        }
        let client = client(startup).expect("client");
        assert_eq!(client.database, "ann");
        let names: Vec<&str> = client
            .settings
            .iter()
            .map(|(_, value)| value.as_str())
            .collect();
        assert_eq!(names, ["Asia/Tokyo", "UTC"]);
    }

    #[test]
    fn a_packet_without_its_terminator_is_a_violation() {
        for bad in [
            &b"user\0ann\0"[..],
            b"user\0ann",
            b"user",
            b"",
            b"user\0ann\0\0x",
            b"\0\0",
        ] {
            assert_eq!(
                check_parameters(bad).expect_err("malformed").sqlstate,
                "08P01",
                "{bad:?}"
            );
        }
        assert!(check_parameters(b"user\0ann\0\0").is_ok());
        assert_eq!(
            check_parameters(b"user\0\xff\0\0")
                .expect_err("not UTF-8")
                .sqlstate,
            "22021"
        );
    }
}
