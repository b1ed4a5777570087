//! Hostile bytes: random ones, every prefix of a session, flipped bits.
//!
//! Invariant: whatever was sent, the server answers a new client afterwards. `THALWEG_SEED` replays a run.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::raw::{
    Raw, bind, cancel_request, close, describe, execute, extended, flush, frame, parse, query,
    ssl_request, startup, sync,
};
use crate::script::Scripted;

const RANDOM_CLIENTS: usize = 150;
const FLIPPED_CLIENTS: usize = 250;

fn generator() -> ChaCha8Rng {
    let seed = match std::env::var("THALWEG_SEED") {
        Ok(text) => text.parse().expect("THALWEG_SEED is a number"),
        Err(_) => rand::rng().random(),
    };
    println!("replay with THALWEG_SEED={seed}");
    ChaCha8Rng::seed_from_u64(seed)
}

/// A session that uses every message type.
fn session() -> Vec<u8> {
    [
        startup(&[
            ("user", "ann"),
            ("database", "thalweg"),
            ("TimeZone", "Asia/Kolkata"),
        ]),
        query("rows 3; notice"),
        parse("s", "rows 5", &[]),
        describe(b'S', "s"),
        bind("p", "s"),
        describe(b'P', "p"),
        execute("p", 2),
        flush(),
        execute("p", 0),
        close(b'P', "p"),
        close(b'S', "s"),
        sync(),
        frame(b'd', b"data"),
        frame(b'c', b""),
        extended("fail"),
        extended("rows 1500"),
        query("fail"),
        frame(b'X', b""),
    ]
    .concat()
}

/// Sends bytes, closes the sending side, and waits until the server has closed as well.
async fn expose(server: &Scripted, bytes: &[u8], reset: bool) {
    let mut client = Raw::connect(server.address).await;
    client.send_anyway(bytes).await;
    if reset {
        client.socket.set_zero_linger().expect("linger");
        return;
    }
    let _closed = tokio::io::AsyncWriteExt::shutdown(&mut client.socket).await;
    while client.byte().await.is_some() {}
}

async fn still_serves(server: &Scripted) {
    let (mut client, _) = Raw::open(server.address).await;
    assert_eq!(crate::raw::column(&client.query("rows 1").await), ["0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_end_their_connection_only() {
    let mut random = generator();
    let server = Scripted::start().await;
    for round in 0..RANDOM_CLIENTS {
        let length = random.random_range(0..2_000);
        let mut bytes: Vec<u8> = (0..length).map(|_| random.random()).collect();
        match round % 3 {
            // Random bytes as a startup packet of a plausible length.
            0 if bytes.len() >= 8 => {
                let length = bytes.len() as u32;
                bytes[..4].copy_from_slice(&length.to_be_bytes());
                bytes[4..8].copy_from_slice(&[0, 3, 0, random.random_range(0..4)]);
            }
            // Random bodies under real message types, in an open session.
            1 => {
                let types = b"QPBEDCSHXdcfFp";
                let mut whole = startup(&[("user", "ann")]);
                for part in bytes.chunks(40) {
                    whole.extend(frame(types[random.random_range(0..types.len())], part));
                }
                bytes = whole;
            }
            _ => {}
        }
        expose(&server, &bytes, random.random_bool(0.2)).await;
    }
    still_serves(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_prefix_of_a_session_ends_cleanly() {
    let server = Scripted::start().await;
    let session = session();
    for end in 0..=session.len() {
        expose(&server, &session[..end], end % 5 == 0).await;
    }
    still_serves(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_end_their_connection_only() {
    let mut random = generator();
    let server = Scripted::start().await;
    let session = [ssl_request(), session(), cancel_request(1, &[1, 2, 3, 4])].concat();
    for _ in 0..FLIPPED_CLIENTS {
        let mut bytes = session[8..].to_vec();
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(0..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
        }
        expose(&server, &bytes, random.random_bool(0.2)).await;
    }
    still_serves(&server).await;
}
