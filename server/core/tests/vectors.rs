//! The golden frames of `tests/vectors`, which the JavaScript client reads too: bytes are compared, not round trips.

use std::{fmt::Write as _, fs, num::NonZeroU32, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fulmar_core::{
    ChannelName, Cursor, Draft, Encoding, Epoch, Key, Now, Offset, Payload, Position, Publication,
    PublicationId, ServerMessage,
    codec::{self, binary, binary::ServerFrame, json},
    cursor::CursorWriter,
    message::{Mark, Rejection},
    problem::{Code, Problem},
};
use serde_json::Value;

fn vectors() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/frames.json");
    serde_json::from_slice(&fs::read(path).expect("the vectors are there")).expect("they are JSON")
}

fn list(name: &str) -> Vec<Value> {
    let list = vectors()[name].as_array().cloned().unwrap_or_default();
    assert!(!list.is_empty(), "{name} has entries");
    list
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn text<'a>(json: &'a Value, member: &str) -> &'a str {
    json[member].as_str().unwrap_or_else(|| panic!("{member} in {json}"))
}

fn channel(json: &Value) -> ChannelName {
    ChannelName::parse(text(json, "channel")).expect("a name")
}

fn position(json: &Value) -> Position {
    let offset = Offset::new(json["offset"].as_u64().expect("an offset")).expect("below 2^53");
    Position { epoch: Epoch::parse(text(json, "epoch")).expect("an epoch"), offset }
}

/// A server's message out of its JSON, put together by hand so that the codec under test has no part in it.
fn server_message(json: &Value, alias: u64) -> ServerMessage {
    let r#ref = json["ref"].as_u64().and_then(|n| NonZeroU32::new(u32::try_from(n).ok()?));
    let mark = || Mark { channel: channel(json), alias, position: position(json) };
    match text(json, "type") {
        "publication" => {
            let Position { epoch, offset } = position(json);
            let payload = match (json.get("data"), json.get("b64")) {
                (Some(Value::String(text)), _) => Some(Payload::text(text.clone())),
                (Some(value), _) => Some(Payload::Json(value.to_string().into())),
                (None, Some(b64)) => Some(Payload::Binary(
                    STANDARD.decode(b64.as_str().expect("a string")).expect("base64").into(),
                )),
                (None, None) => None,
            };
            let key = json["key"].as_str().map_or(Key::default(), |key| Key::parse(key).expect("a key"));
            let id = json["id"].as_str().map(|id| PublicationId::parse(id).expect("an id"));
            let draft = Draft { key, id, payload, ttl: None, priority: None };
            let now = Now { monotonic: Duration::ZERO, unix_ms: json["time"].as_u64().expect("a time") };
            let publication = Publication::new(channel(json), alias, epoch, offset, now, draft);
            ServerMessage::Publication(Arc::new(publication))
        }
        "gap" => ServerMessage::Gap(mark()),
        "reset" => ServerMessage::Reset(mark()),
        "synced" => ServerMessage::Synced(mark()),
        "subscribed" => ServerMessage::Subscribed { r#ref, mark: mark() },
        "unsubscribed" => ServerMessage::Unsubscribed { r#ref, channel: channel(json) },
        "published" => ServerMessage::Published { r#ref, channel: channel(json), position: position(json) },
        "attached" => ServerMessage::Attached { r#ref, session: text(json, "session").to_owned() },
        "error" => {
            let code = code(text(&json["error"], "code"));
            let problem = Problem::new(code, text(&json["error"], "message").to_owned());
            ServerMessage::Error(Rejection { r#ref, problem })
        }
        "ping" => ServerMessage::Ping { r#ref },
        "pong" => ServerMessage::Pong { r#ref },
        "close" => ServerMessage::Close {
            code: u32::try_from(json["code"].as_u64().expect("a code")).expect("32 bits"),
            reason: text(json, "reason").to_owned(),
        },
        other => panic!("no such message: {other}"),
    }
}

fn code(text: &str) -> Code {
    let known = Code::ALL.iter().find(|code| code.as_str() == text);
    *known.unwrap_or_else(|| panic!("{text} is no code of the protocol"))
}

/// What a client must find in the frame of a message.
fn server_frame(message: &ServerMessage, vector: &Value) -> ServerFrame {
    match message.clone() {
        ServerMessage::Publication(it) => ServerFrame::Publication {
            alias: it.alias,
            offset: it.offset,
            time: it.time,
            draft: it.draft.clone(),
        },
        ServerMessage::Gap(mark) => ServerFrame::Gap(mark),
        ServerMessage::Reset(mark) => ServerFrame::Reset(mark),
        ServerMessage::Synced(mark) => {
            ServerFrame::Synced { alias: mark.alias, offset: mark.position.offset }
        }
        ServerMessage::Subscribed { r#ref, mark } => ServerFrame::Subscribed { r#ref, mark },
        ServerMessage::Unsubscribed { r#ref, channel } => ServerFrame::Unsubscribed { r#ref, channel },
        ServerMessage::Published { r#ref, channel, position } => {
            ServerFrame::Published { r#ref, channel, position }
        }
        ServerMessage::Attached { r#ref, session } => ServerFrame::Attached { r#ref, session },
        ServerMessage::Error(Rejection { r#ref, .. }) => {
            let error = &vector["json"]["error"];
            let (code, message) = (text(error, "code").to_owned(), text(error, "message").to_owned());
            ServerFrame::Error { r#ref, code, message }
        }
        ServerMessage::Ping { r#ref } => ServerFrame::Ping { r#ref },
        ServerMessage::Pong { r#ref } => ServerFrame::Pong { r#ref },
        ServerMessage::Close { code, reason } => ServerFrame::Close { code, reason },
    }
}

#[test]
fn servers_frames() {
    let mut seen = 0;
    for vector in list("frames").iter().filter(|vector| vector["direction"] == "server") {
        let name = text(vector, "name");
        let alias = vector["alias"].as_u64().unwrap_or(0);
        let message = server_message(&vector["json"], alias);
        assert_eq!(hex(&binary::encode(&message)), text(vector, "bin"), "{name}, binary");
        assert_eq!(
            binary::decode_server(&unhex(text(vector, "bin"))),
            Ok(server_frame(&message, vector)),
            "{name}, decoded"
        );
        let encoded: Value = serde_json::from_slice(&json::encode(&message)).expect("JSON");
        assert_eq!(encoded, vector["json"], "{name}, JSON");
        if let ServerMessage::Publication(publication) = &message {
            let mut encodes = 0;
            for _ in 0..3 {
                let frame = codec::publication(publication, Encoding::Binary, |frame| {
                    encodes += 1;
                    Some(frame)
                });
                assert_eq!(hex(&frame), text(vector, "bin"), "{name}, kept");
            }
            assert_eq!(encodes, 1, "{name} is encoded once");
        }
        seen += 1;
    }
    assert!(seen > 12, "{seen} frames");
}

#[test]
fn clients_frames() {
    let mut seen = 0;
    for vector in list("frames").iter().filter(|vector| vector["direction"] == "client") {
        let name = text(vector, "name");
        let bytes = unhex(text(vector, "bin"));
        let from_binary = binary::decode(&bytes).unwrap_or_else(|why| panic!("{name}, binary: {why:?}"));
        let from_json = json::decode(vector["json"].to_string().as_bytes())
            .unwrap_or_else(|why| panic!("{name}, JSON: {why:?}"));
        assert_eq!(from_binary, from_json, "{name}: both encodings say the same");
        assert_eq!(hex(&binary::encode_client(&from_json)), text(vector, "bin"), "{name}, encoded");
        for cut in 0..bytes.len().min(4) {
            assert!(binary::decode(&bytes[..cut]).is_err() || cut >= 2, "{name} cut at {cut}");
        }
        seen += 1;
    }
    assert!(seen > 8, "{seen} frames");
}

#[test]
fn malformed_frames_are_refused() {
    let mut seen = [0, 0];
    for vector in list("malformed") {
        let (name, why, bytes) = (text(&vector, "name"), text(&vector, "why"), unhex(text(&vector, "bin")));
        if vector["direction"] == "client" {
            let refused = binary::decode(&bytes);
            assert!(refused.is_err(), "{name}: {why} gave {refused:?}");
            seen[0] += 1;
        } else {
            let refused = binary::decode_server(&bytes);
            assert!(refused.is_err(), "{name}: {why} gave {refused:?}");
            seen[1] += 1;
        }
    }
    assert!(seen.iter().all(|seen| *seen > 20), "{seen:?}");
}

#[test]
fn no_bytes_make_a_decoder_panic() {
    let frames: Vec<_> = list("frames").iter().map(|vector| unhex(text(vector, "bin"))).collect();
    for frame in &frames {
        for at in 0..frame.len() {
            for byte in [0, 0x3f, 0x7f, 0x80, 0xc0, 0xff] {
                let mut changed = frame.clone();
                changed[at] = byte;
                let _ = binary::decode_server(&changed);
                let _ = binary::decode(&changed);
            }
            let _ = binary::decode_server(&frame[..at]);
        }
    }
}

#[test]
fn cursors() {
    for vector in list("cursors") {
        let name = text(&vector, "name");
        let mut writer = CursorWriter::default();
        let positions = vector["positions"].as_array().expect("positions");
        for entry in positions {
            let Position { epoch, offset } = position(entry);
            let base = entry["base"].as_u64().and_then(Offset::new);
            writer.push(&channel(entry), &epoch, offset, base);
        }
        let written = writer.finish();
        assert_eq!(written, text(&vector, "cursor"), "{name}");
        let cursor = Cursor::parse(&written).expect("its own writing");
        for entry in positions {
            let resume = cursor.get(&channel(entry)).unwrap_or_else(|| panic!("{name}: {entry}"));
            assert_eq!(resume.position, position(entry), "{name}");
        }
        assert_eq!(cursor.to_string(), written, "{name}");
    }
}
