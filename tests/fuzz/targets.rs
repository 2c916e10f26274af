//! What is true of every decoder that meets the network, whatever bytes it is given. The fuzzer looks for bytes of which it is
//! not (`tests/fuzz/run`); the ordinary tests hold it against those that are in `tests/corpus` (`tests/corpus.rs`).
//!
//! The input of a target is what its decoder would be given, as it is. How a stream is cut follows from its bytes.

// As paths, since it is a module of two crates, of which each would look for them elsewhere.
#[path = "targets/acks.rs"]
mod acks;
#[path = "targets/messages.rs"]
mod messages;

use std::sync::Arc;

use self::{
    acks::acknowledgements,
    messages::{client_frames, client_json, server_frames},
};
use bytes::Buf as _;
use fulmar::{access::Access, admission::Admission, config::Config};
use fulmar_core::{
    ChannelName, Code, Cursor, Epoch, Key, Now, Offset, Position, PublicationId,
    codec::{
        framing::{self, Splitter},
        varint,
    },
    cursor::CursorWriter,
    limits,
    log::Class,
    registry::{Capacity, Registry, Secret, SessionId, Ticket},
    webtransport::{
        capsule::{self, Capsule, Capsules},
        error_code,
        gauge::Gauge,
        settings,
    },
};

/// Holds a decoder to what is true of it, with bytes that it would be given.
pub type Target = fn(&[u8]);

/// Every target, by its name, which its part of the corpus has too.
pub const TARGETS: &[(&str, Target)] = &[
    ("access", access),
    ("acks", acknowledgements),
    ("binary", client_frames),
    ("capsules", capsules),
    ("config", config),
    ("cursor", cursors),
    ("error_code", error_codes),
    ("framing", frames),
    ("gauge", gauge),
    ("json", client_json),
    ("names", names),
    ("registry", secrets),
    ("server", server_frames),
    ("settings", control_streams),
    ("varint", varints),
];

fn varints(input: &[u8]) {
    match (varint::read(input), input.first()) {
        (Some((value, length)), Some(first)) => {
            assert!(value <= varint::MAX && length == varint::length(*first) && length <= input.len());
            assert_eq!(varint::read(&input[..length]), Some((value, length)), "what follows means nothing");
            assert_eq!(varint::read(&input[..length - 1]), None, "all of it is needed");
            let mut written = Vec::new();
            varint::write(&mut written, value);
            assert!(written.len() <= length, "the shortest form");
            assert_eq!(varint::read(&written), Some((value, written.len())));
        }
        (None, Some(first)) => assert!(input.len() < varint::length(*first)),
        (read, None) => assert_eq!(read, None, "out of nothing"),
    }
    if let Some(bytes) = input.first_chunk() {
        let value = u64::from_be_bytes(*bytes) & varint::MAX;
        let mut written = Vec::new();
        varint::write(&mut written, value);
        assert_eq!(varint::read(&written), Some((value, written.len())));
    }
}

/// The capsules of a CONNECT stream, which may come in any pieces; held against a reader that has all of it at once.
fn capsules(input: &[u8]) {
    let mut expected = Vec::new();
    let mut rest = input;
    while let Some((kind, length, body)) = type_and_length(rest) {
        if kind == 0x2843 {
            if !(4..=1028).contains(&length) {
                expected.push(Err(capsule::Malformed));
                break;
            }
            let Some(mut body) = body.get(..length as usize) else { break };
            let code = body.get_u32();
            let close = str::from_utf8(body).map(|reason| (code, reason.to_owned()));
            expected.push(close.map_err(|_| capsule::Malformed));
            if expected.last().is_some_and(Result::is_err) {
                break;
            }
        }
        let Some(next) = body.get(usize::try_from(length).unwrap_or(usize::MAX)..) else { break };
        rest = next;
    }
    for pieces in cuts(input) {
        let (mut capsules, mut found) = (Capsules::default(), Vec::new());
        'stream: for (n, piece) in pieces.into_iter().enumerate() {
            // A piece may come as a buffer that is itself in pieces.
            let (one, other) = piece.split_at(if n % 2 == 0 { piece.len() / 2 } else { 0 });
            capsules.push(one.chain(other));
            loop {
                match capsules.take() {
                    Ok(Some(Capsule::Close { code, reason })) => found.push(Ok((code, reason))),
                    Ok(None) => break,
                    Err(malformed) => {
                        found.push(Err(malformed));
                        break 'stream;
                    }
                }
            }
        }
        assert_eq!(found, expected);
    }
    for (code, reason) in expected.into_iter().flatten() {
        assert!(reason.len() <= 1024);
        let mut capsules = Capsules::default();
        capsules.push(capsule::drain().chain(capsule::close(code, &reason)));
        assert_eq!(capsules.take(), Ok(Some(Capsule::Close { code, reason })));
    }
}

/// The frames of an HTTP/3 stream, which may come in any pieces.
fn gauge(input: &[u8]) {
    // Where the first header ends that is refused.
    let mut refused = None;
    let (mut rest, mut at) = (input, 0);
    while let Some((kind, length, body)) = type_and_length(rest) {
        at += rest.len() - body.len();
        if kind != 0 && length > limits::HTTP3_FRAME {
            refused = Some(at);
            break;
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(next) = body.get(length..) else { break };
        (rest, at) = (next, at + length);
    }
    let mut after = None;
    for pieces in cuts(input) {
        let (mut gauge, mut passed, mut found) = (Gauge::default(), 0, None);
        for piece in pieces {
            if gauge.pass(piece).is_err() {
                found = Some(passed..=passed + piece.len());
                break;
            }
            passed += piece.len();
        }
        match (&found, refused) {
            (None, None) => {
                let gauge = format!("{gauge:?}");
                assert_eq!(*after.get_or_insert(gauge.clone()), gauge, "what is known of the rest");
            }
            (Some(piece), Some(at)) => assert!(piece.contains(&at), "{at} is not in {piece:?}"),
            _ => panic!("{found:?} is not {refused:?}"),
        }
    }
}

fn control_streams(input: &[u8]) {
    let Some(extended) = settings::extend(input) else {
        let preface = type_and_length(&input[input.len().min(1)..]);
        let whole = preface.is_some_and(|(kind, length, body)| kind == 4 && length == body.len() as u64);
        assert!(input.first() != Some(&0) || !whole, "a control stream with its settings");
        return;
    };
    let body = |stream: &[u8]| {
        let (kind, after) = varint::read(stream).expect("a type of stream");
        let (frame, length, body) = type_and_length(&stream[after..]).expect("a frame");
        assert_eq!((kind, frame, length), (settings::CONTROL_STREAM, 4, body.len() as u64));
        body.to_vec()
    };
    let (before, after) = (body(input), body(&extended));
    assert!(after.starts_with(&before) && after.len() == before.len() + 14, "two settings more");
    assert!(settings::extend(&extended).is_some(), "it is a control stream still");
}

fn error_codes(input: &[u8]) {
    let Some(bytes) = input.first_chunk() else { return };
    let carried = u64::from_be_bytes(*bytes);
    let code = carried as u32;
    assert_eq!(error_code::from_http3(error_code::to_http3(code)), Some(code));
    if let Some(code) = error_code::from_http3(carried) {
        assert_eq!(error_code::to_http3(code), carried);
    }
}

/// Cursors have one spelling, so what is read is written as it was.
fn cursors(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(cursor) = Cursor::parse(&text) {
        assert!(text.len() <= limits::CURSOR_BYTES && text.split('~').count() <= limits::CURSOR_CHANNELS);
        assert_eq!(cursor.to_string(), text);
    }
    // The numbers of the input, as offsets of as many channels.
    let mut writer = CursorWriter::default();
    let mut written = Vec::new();
    for (n, bytes) in input.as_chunks::<8>().0.iter().take(limits::CURSOR_CHANNELS).enumerate() {
        let Some(offset) = Offset::new(u64::from_be_bytes(*bytes) >> (n % 48)) else { continue };
        let channel = ChannelName::parse(&format!("c:{n}")).expect("a name");
        let epoch = Epoch::from_entropy(u64::from_be_bytes(*bytes));
        let base = (n == 0).then_some(Offset::MAX);
        writer.push(&channel, &epoch, offset, base);
        written.push((channel, Position { epoch, offset }, base));
    }
    let text = writer.finish();
    assert_eq!(text.is_empty(), written.is_empty());
    if !text.is_empty() {
        let cursor = Cursor::parse(&text).expect("its own writing");
        for (channel, position, base) in written {
            let resume = cursor.get(&channel).expect("the channel is in it");
            assert_eq!((&resume.position, resume.base), (&position, base));
        }
    }
}

fn names(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let marks = |allowed: &'static str| move |c: char| c.is_ascii_alphanumeric() || allowed.contains(c);
    let ok = (1..=255).contains(&text.len()) && text.chars().all(marks("._-:/~=@"));
    let channel = ChannelName::parse(&text);
    assert_eq!(channel.is_ok(), ok);
    if let Ok(channel) = channel {
        assert_eq!(channel.as_str(), text);
        let namespace = channel.namespace();
        assert!(!namespace.contains(':'));
        assert!(text.starts_with(&format!("{namespace}:")) || namespace == "default" && !text.contains(':'));
    }
    let key = Key::parse(&text);
    assert_eq!(key.is_ok(), (1..=255).contains(&text.len()));
    assert!(
        key.is_ok_and(|key| key.as_str() == text && !key.is_empty()) || text.is_empty() || text.len() > 255
    );
    let id = PublicationId::parse(&text);
    assert_eq!(id.is_ok(), (1..=64).contains(&text.len()));
    assert!(id.is_ok_and(|id| id.as_str() == text) || text.is_empty() || text.len() > 64);
    let ok = (1..=32).contains(&text.len()) && text.chars().all(marks("_-"));
    let epoch = Epoch::parse(&text);
    assert_eq!(epoch.is_ok(), ok);
    assert!(epoch.is_ok_and(|epoch| epoch.as_str() == text) || !ok);
}

/// A stand-in for a one-way hash, which gives the session of [`secrets`] its id.
fn digest(bytes: &[u8]) -> [u8; 32] {
    let mut out = *b"session session.session session.";
    for (at, (byte, of)) in bytes.iter().zip(b"fulmar session:secret secret secret sec").enumerate() {
        out[at % 16] ^= byte ^ of;
    }
    out
}

/// Nothing attaches to a session but the very text of its secret, with its id or without it, or its ticket.
fn secrets(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (id, now) = (SessionId::from_entropy(*b"session session."), Now::from_millis(0));
    let (secret, ticket) =
        (Secret::from_entropy(*b"secret secret secret sec"), Ticket::from_entropy([0xa5; 16]));
    assert_eq!(secret.session(digest), id);
    let mut registry =
        Registry::new(Capacity { sessions: 1, detached_subscriptions: 0 }, limits::SESSION_GRACE, digest);
    registry.insert_resumable(id, (), now).expect("room");
    registry.issue(id, ticket, now).expect("room");
    let whole = secret.reveal(id);
    // The id may be left out, since it follows from the rest.
    let is_secret = whole == text || whole.split_once('.').is_some_and(|(_, own)| own == text);
    assert_eq!(registry.authenticate(&text).map(|(found, ())| found).ok(), is_secret.then_some(id));
    assert_eq!(registry.attach(&text).is_ok(), is_secret);
    // With a connection it makes room for no other.
    registry.attach(&secret.reveal(id)).expect("known");
    match registry.resume(&text, |_| ()) {
        Ok(resumed) => assert!(resumed.known && is_secret),
        // That of another session, for which there is no room.
        Err(problem) if problem.code == Code::TooManySessions => {
            assert!(registry.identify(&text).is_ok_and(|other| other != id));
        }
        Err(_) => assert!(registry.identify(&text).is_err()),
    }
    let is_ticket = ticket.reveal() == text;
    assert_eq!(registry.redeem(&text, now).is_ok(), is_ticket);
    assert!(registry.redeem(&text, now).is_err(), "a ticket is good once");
    assert_eq!(registry.redeem(&ticket.reveal(), now).is_ok(), !is_ticket, "nothing else spends it");
}

/// Frames behind their lengths, on a stream in any pieces, and in a datagram.
fn frames(input: &[u8]) {
    const MOST: usize = 300;
    let (mut expected, mut too_long, mut rest) = (Vec::new(), false, input);
    while let Some((length, after)) = varint::read(rest) {
        too_long = length > MOST as u64;
        if too_long {
            break;
        }
        let Some(frame) = rest[after..].get(..length as usize) else { break };
        expected.push(frame);
        rest = &rest[after + frame.len()..];
    }
    for pieces in cuts(input) {
        let (mut splitter, mut found, mut refused) = (Splitter::new(MOST), Vec::new(), false);
        'stream: for piece in pieces {
            splitter.push(piece);
            loop {
                let begun = splitter.begun();
                match splitter.take() {
                    Ok(Some(frame)) => {
                        assert_eq!(begun, Some(frame.len()));
                        found.push(frame);
                    }
                    Ok(None) => {
                        assert!(begun.is_none_or(|length| length <= MOST));
                        break;
                    }
                    Err(why) => {
                        assert!(why.length > MOST as u64 && splitter.take() == Err(why));
                        refused = true;
                        break 'stream;
                    }
                }
            }
        }
        assert_eq!(found, expected);
        assert_eq!(refused, too_long);
        assert!(refused || splitter.is_empty() == rest.is_empty());
    }
    let whole = rest.is_empty();
    match framing::split_datagram(input) {
        Some(frames) if !too_long => assert!(whole && frames == expected),
        Some(frames) => assert!(frames.starts_with(&expected)),
        None => assert!(!whole),
    }
    let again: Vec<u8> = expected.iter().flat_map(|frame| framing::prefixed(frame)).collect();
    assert_eq!(framing::split_datagram(&again), Some(expected));
}

/// The configuration file. It allows nothing beyond its bounds, and serves nothing in plain text to other machines.
fn config(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let Ok(config) = Config::parse(&text) else { return };
    assert!(!config.development);
    assert!(config.tls.is_some() || config.http.ip().is_loopback());
    for name in ["event:x", "state:x", "signal:x", "a:x", "x", "default"] {
        let namespace = config.namespaces.of(&ChannelName::parse(name).expect("a name"));
        assert!(namespace.payload_bytes <= limits::PAYLOAD_BYTES);
        if !text.contains("[") && !text.contains("namespaces") {
            assert!(!namespace.subscribe && !namespace.publish && namespace.class == Class::Event);
        }
    }
    for address in [config.http, config.quic] {
        let caps = config.caps.of_listener(address);
        assert!(caps.connections > 0 && caps.handshakes > 0 && caps.connections_per_address != Some(0));
        let admission = Admission::new(caps, Arc::default());
        assert!(admission.admit(address.ip()).is_some(), "the first comes in");
    }
    let access = Access::new(config.hosts.clone(), config.origins, "https", config.http.port());
    assert!(access.check(Some("localhost"), None).is_ok());
    let named = config.hosts.iter().any(|host| host.eq_ignore_ascii_case("elsewhere.example"));
    assert_eq!(access.check(Some("elsewhere.example"), None).is_ok(), named);
}

/// `Host` and `Origin`, one on each line.
fn access(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (host, origin) = text.split_once('\n').unwrap_or((&text, "null"));
    let access = Access::new(vec!["Game.example".into()], vec!["https://app.example".into()], "http", 8080);
    let ours = |authority: &str| {
        let authority = authority.to_ascii_lowercase();
        let name = authority.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
        let name = name.map_or(&*authority, |(name, _)| name);
        let loopback =
            name.strip_prefix("127.").map(|rest| rest.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
        let six = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let six = six.and_then(|name| name.parse::<std::net::Ipv6Addr>().ok());
        name == "localhost"
            || name == "game.example"
            || loopback == Some(true)
            || six.is_some_and(|ip| ip.is_loopback())
    };
    let answers = access.check(Some(host), None).is_ok();
    assert!(!answers || ours(host), "{host:?}");
    if access.check(Some(host), Some(origin.as_bytes())).is_ok() {
        assert!(answers, "{host:?}");
        let page = origin.strip_prefix("http://").is_some_and(ours) && origin.ends_with("8080");
        assert!(page || origin == "https://app.example", "{origin:?}");
    }
}

/// What stands before a capsule and an HTTP/3 frame: type, length, and what comes then.
fn type_and_length(input: &[u8]) -> Option<(u64, u64, &[u8])> {
    let (kind, after) = varint::read(input)?;
    let (length, more) = varint::read(&input[after..])?;
    Some((kind, length, &input[after + more..]))
}

/// Ways to cut a stream: not at all, after every byte, and in pieces whose sizes follow from its bytes.
fn cuts(input: &[u8]) -> [Vec<&[u8]>; 3] {
    let mut seed = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let (mut pieces, mut rest) = (Vec::new(), input);
    while !rest.is_empty() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // Short ones mostly, and empty ones too.
        let size = (seed >> 60) as usize * if seed >> 52 & 7 == 0 { 40 } else { 1 };
        let (piece, after) = rest.split_at(size.min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    [vec![input], input.chunks(1).collect(), pieces]
}
