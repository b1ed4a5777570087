//! A client that sends and sees bytes.
//!
//! Invariant: every wait has a limit, so that a test that would hang fails and says what it waited for.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest wait for something that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// How long nothing must happen where something must not.
pub(crate) const SILENCE: Duration = Duration::from_millis(400);

/// Type byte and body.
pub(crate) type Message = (u8, Vec<u8>);

pub(crate) struct Raw {
    pub(crate) socket: TcpStream,
    buffer: Vec<u8>,
}

/// What a server tells a client that logs in.
#[derive(Debug)]
pub(crate) struct Login {
    pub(crate) process_id: i32,
    pub(crate) key: Vec<u8>,
    pub(crate) settings: Vec<(String, String)>,
}

impl Login {
    pub(crate) fn setting(&self, name: &str) -> &str {
        self.settings
            .iter()
            .find(|(found, _)| found == name)
            .map_or("", |(_, value)| value)
    }
}

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let socket = timeout(PATIENCE, TcpStream::connect(address))
            .await
            .expect("connects in time")
            .expect("connects");
        socket.set_nodelay(true).expect("nodelay");
        Self {
            socket,
            buffer: Vec::new(),
        }
    }

    /// Connects and logs in as `ann`.
    pub(crate) async fn open(address: SocketAddr) -> (Self, Login) {
        let mut client = Self::connect(address).await;
        client.send(&startup(&[("user", "ann")])).await;
        let login = client.login().await;
        (client, login)
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.socket.write_all(bytes))
            .await
            .expect("sends in time")
            .expect("sends");
    }

    /// Sends to a server that may have closed already.
    pub(crate) async fn send_anyway(&mut self, bytes: &[u8]) {
        let _closed = timeout(PATIENCE, self.socket.write_all(bytes))
            .await
            .expect("sends in time");
    }

    /// The next message; `None` when the server has closed.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.take() {
                return Some(message);
            }
            let mut chunk = [0; 65_536];
            match timeout(PATIENCE, self.socket.read(&mut chunk))
                .await
                .expect("a message in time")
            {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
            }
        }
    }

    fn take(&mut self) -> Option<Message> {
        let head = self.buffer.get(..5)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        assert!(
            (4..1 << 30).contains(&length),
            "a server message of {length} bytes"
        );
        if self.buffer.len() < length + 1 {
            return None;
        }
        let rest = self.buffer.split_off(length + 1);
        let frame = std::mem::replace(&mut self.buffer, rest);
        Some((frame[0], frame[5..].to_vec()))
    }

    /// One byte, as the answer to an encryption request is.
    pub(crate) async fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        match timeout(PATIENCE, self.socket.read(&mut byte))
            .await
            .expect("a byte in time")
        {
            Ok(1) => Some(byte[0]),
            _ => None,
        }
    }

    /// Messages up to and including the first of type `tag`, or up to the end of the connection.
    pub(crate) async fn until(&mut self, tag: u8) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(message) = self.next().await {
            messages.push(message);
            if messages.last().is_some_and(|(found, _)| *found == tag) {
                break;
            }
        }
        messages
    }

    /// All messages of a query cycle.
    pub(crate) async fn cycle(&mut self) -> Vec<Message> {
        let messages = self.until(b'Z').await;
        assert_eq!(
            messages.last().map(|(tag, _)| *tag),
            Some(b'Z'),
            "{}",
            tags(&messages)
        );
        messages
    }

    /// Sends a simple query and returns its cycle.
    pub(crate) async fn query(&mut self, text: &str) -> Vec<Message> {
        self.send(&query(text)).await;
        self.cycle().await
    }

    pub(crate) async fn login(&mut self) -> Login {
        let mut login = Login {
            process_id: 0,
            key: Vec::new(),
            settings: Vec::new(),
        };
        for (tag, body) in self.cycle().await {
            match tag {
                b'S' => {
                    let mut parts = body
                        .split(|&byte| byte == 0)
                        .map(|part| String::from_utf8_lossy(part).into_owned());
                    login.settings.push((
                        parts.next().unwrap_or_default(),
                        parts.next().unwrap_or_default(),
                    ));
                }
                b'K' => {
                    login.process_id =
                        i32::from_be_bytes(body[..4].try_into().expect("four bytes"));
                    login.key = body[4..].to_vec();
                }
                b'E' => panic!("login failed: {}", field(&body, b'M')),
                _ => {}
            }
        }
        login
    }

    /// True when nothing comes for a while.
    pub(crate) async fn is_silent(&mut self) -> bool {
        self.buffer.is_empty() && {
            let mut byte = [0];
            timeout(SILENCE, self.socket.peek(&mut byte)).await.is_err()
        }
    }

    /// True when the server closes, whatever it says before.
    pub(crate) async fn is_closed(&mut self) -> bool {
        while self.next().await.is_some() {}
        true
    }
}

/// Type bytes of messages, for comparing a whole cycle at once.
pub(crate) fn tags(messages: &[Message]) -> String {
    messages.iter().map(|(tag, _)| char::from(*tag)).collect()
}

/// A field of an error or notice.
pub(crate) fn field(body: &[u8], code: u8) -> String {
    body.split(|&byte| byte == 0)
        .find(|field| field.first() == Some(&code))
        .map(|field| String::from_utf8_lossy(&field[1..]).into_owned())
        .unwrap_or_default()
}

/// SQLSTATE of the first error among messages.
pub(crate) fn sqlstate(messages: &[Message]) -> String {
    messages
        .iter()
        .find(|(tag, _)| *tag == b'E')
        .map(|(_, body)| field(body, b'C'))
        .unwrap_or_default()
}

/// Values of all rows with one column each, as text.
pub(crate) fn column(messages: &[Message]) -> Vec<String> {
    let rows = messages.iter().filter(|(tag, _)| *tag == b'D');
    rows.map(|(_, body)| String::from_utf8_lossy(&body[6..]).into_owned())
        .collect()
}

/// Command tags among messages.
pub(crate) fn command_tags(messages: &[Message]) -> Vec<String> {
    let complete = messages.iter().filter(|(tag, _)| *tag == b'C');
    complete
        .map(|(_, body)| String::from_utf8_lossy(&body[..body.len() - 1]).into_owned())
        .collect()
}

pub(crate) fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend((body.len() as u32 + 4).to_be_bytes());
    bytes.extend(body);
    bytes
}

pub(crate) fn packet(code: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32 + 8).to_be_bytes().to_vec();
    bytes.extend(code.to_be_bytes());
    bytes.extend(body);
    bytes
}

pub(crate) fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    startup_version(3 << 16, parameters)
}

pub(crate) fn startup_version(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in parameters {
        body.extend(cstring(name));
        body.extend(cstring(value));
    }
    body.push(0);
    packet(version, &body)
}

pub(crate) fn ssl_request() -> Vec<u8> {
    packet(80_877_103, &[])
}

pub(crate) fn gss_request() -> Vec<u8> {
    packet(80_877_104, &[])
}

pub(crate) fn cancel_request(process_id: i32, key: &[u8]) -> Vec<u8> {
    let mut body = process_id.to_be_bytes().to_vec();
    body.extend(key);
    packet(80_877_102, &body)
}

fn cstring(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

pub(crate) fn query(text: &str) -> Vec<u8> {
    frame(b'Q', &cstring(text))
}

pub(crate) fn password(text: &str) -> Vec<u8> {
    frame(b'p', &cstring(text))
}

pub(crate) fn parse(name: &str, text: &str, types: &[u32]) -> Vec<u8> {
    let mut body = cstring(name);
    body.extend(cstring(text));
    body.extend((types.len() as u16).to_be_bytes());
    body.extend(types.iter().flat_map(|oid| oid.to_be_bytes()));
    frame(b'P', &body)
}

pub(crate) struct Bind<'a> {
    pub(crate) portal: &'a str,
    pub(crate) statement: &'a str,
    pub(crate) formats: &'a [i16],
    pub(crate) values: &'a [Option<&'a [u8]>],
    pub(crate) result_formats: &'a [i16],
}

pub(crate) fn bind_with(bind: &Bind<'_>) -> Vec<u8> {
    let mut body = cstring(bind.portal);
    body.extend(cstring(bind.statement));
    body.extend((bind.formats.len() as u16).to_be_bytes());
    body.extend(bind.formats.iter().flat_map(|code| code.to_be_bytes()));
    body.extend((bind.values.len() as u16).to_be_bytes());
    for value in bind.values {
        match value {
            Some(bytes) => {
                body.extend((bytes.len() as i32).to_be_bytes());
                body.extend(*bytes);
            }
            None => body.extend((-1_i32).to_be_bytes()),
        }
    }
    body.extend((bind.result_formats.len() as u16).to_be_bytes());
    body.extend(
        bind.result_formats
            .iter()
            .flat_map(|code| code.to_be_bytes()),
    );
    frame(b'B', &body)
}

pub(crate) fn bind(portal: &str, statement: &str) -> Vec<u8> {
    bind_with(&Bind {
        portal,
        statement,
        formats: &[],
        values: &[],
        result_formats: &[],
    })
}

pub(crate) fn describe(kind: u8, name: &str) -> Vec<u8> {
    frame(b'D', &[&[kind], &cstring(name)[..]].concat())
}

pub(crate) fn close(kind: u8, name: &str) -> Vec<u8> {
    frame(b'C', &[&[kind], &cstring(name)[..]].concat())
}

pub(crate) fn execute(portal: &str, limit: i32) -> Vec<u8> {
    frame(b'E', &[&cstring(portal)[..], &limit.to_be_bytes()].concat())
}

pub(crate) fn sync() -> Vec<u8> {
    frame(b'S', &[])
}

pub(crate) fn flush() -> Vec<u8> {
    frame(b'H', &[])
}

/// Parse, Bind, Execute without a limit, and Sync.
pub(crate) fn extended(text: &str) -> Vec<u8> {
    [parse("", text, &[]), bind("", ""), execute("", 0), sync()].concat()
}
