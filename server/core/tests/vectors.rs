//! The golden frames of `tests/vectors`, which the JavaScript client reads too: bytes are compared, not round trips.

use std::{collections::VecDeque, fmt::Write as _, fs, num::NonZeroU32, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use fulmar_core::{
    ChannelName, Class, Cursor, Draft, Encoding, Epoch, Key, Log, Now, Offset, Payload, Position,
    Publication, PublicationId, ServerMessage,
    codec::{
        self, batch, binary,
        binary::{Ack, Content, ServerFrame},
        framing, json, varint,
    },
    cursor::CursorWriter,
    datagrams::{Effects, Pace, Path, Sender, Source},
    log::Bounds,
    message::{Mark, Ref, Rejection},
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
        "subscribed" => {
            ServerMessage::Subscribed { r#ref, mark: mark(), recovered: json["recovered"].as_bool() }
        }
        "unsubscribed" => ServerMessage::Unsubscribed { r#ref, channel: channel(json) },
        "published" => ServerMessage::Published { r#ref, channel: channel(json), position: position(json) },
        "attached" => {
            let resumed = json["resumed"].as_bool().expect("it says so");
            ServerMessage::Attached { r#ref, session: text(json, "session").to_owned(), resumed }
        }
        "error" => {
            let code = code(text(&json["error"], "code"));
            let problem = Problem::new(code, text(&json["error"], "message").to_owned());
            match json.get("channel") {
                Some(_) => ServerMessage::Refused { channel: channel(json), problem },
                None => ServerMessage::Error(Rejection { r#ref, problem }),
            }
        }
        "ping" => ServerMessage::Ping { r#ref },
        "pong" => ServerMessage::Pong { r#ref },
        "close" => ServerMessage::Close {
            code: u32::try_from(json["code"].as_u64().expect("a code")).expect("32 bits"),
            reason: text(json, "reason").to_owned(),
            retry: json.get("retry_ms").map(|ms| Duration::from_millis(ms.as_u64().expect("milliseconds"))),
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
        ServerMessage::Subscribed { r#ref, mark, recovered } => {
            ServerFrame::Subscribed { r#ref, mark, recovered }
        }
        ServerMessage::Unsubscribed { r#ref, channel } => ServerFrame::Unsubscribed { r#ref, channel },
        ServerMessage::Published { r#ref, channel, position } => {
            ServerFrame::Published { r#ref, channel, position }
        }
        ServerMessage::Attached { r#ref, session, resumed } => {
            ServerFrame::Attached { r#ref, session, resumed }
        }
        ServerMessage::Error(Rejection { r#ref, .. }) => server_error(r#ref, None, vector),
        ServerMessage::Refused { channel, .. } => server_error(None, Some(channel), vector),
        ServerMessage::Ping { r#ref } => ServerFrame::Ping { r#ref },
        ServerMessage::Pong { r#ref } => ServerFrame::Pong { r#ref },
        ServerMessage::Close { code, reason, retry } => ServerFrame::Close { code, reason, retry },
    }
}

fn server_error(r#ref: Ref, channel: Option<ChannelName>, vector: &Value) -> ServerFrame {
    let error = &vector["json"]["error"];
    let (code, message) = (text(error, "code").to_owned(), text(error, "message").to_owned());
    ServerFrame::Error { r#ref, code, message, channel }
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

/// A payload of a vector, put together by hand.
fn payload(json: &Value) -> Option<Payload> {
    match (json.get("data"), json.get("b64")) {
        (Some(Value::String(text)), _) => Some(Payload::text(text.clone())),
        (Some(value), _) => Some(Payload::Json(value.to_string().into())),
        (None, Some(b64)) => {
            Some(Payload::Binary(STANDARD.decode(b64.as_str().expect("a string")).expect("base64").into()))
        }
        (None, None) => None,
    }
}

fn offset(json: &Value, member: &str) -> Offset {
    Offset::new(json[member].as_u64().expect("an offset")).expect("below 2^53")
}

/// Whether an entry of a `values` frame says what its vector does.
fn compare_entry(name: &str, entry: &binary::Entry, json: &Value) {
    assert_eq!((Some(entry.alias), entry.low), (json["alias"].as_u64(), offset(json, "low")), "{name}");
    let key = json["key"].as_str().map_or(Key::default(), |key| Key::parse(key).expect("a key"));
    let id = json["id"].as_str().map(|id| PublicationId::parse(id).expect("an id"));
    match &entry.content {
        Content::Position => assert!(json.get("offset").is_none(), "{name}"),
        Content::Whole(it) => {
            let draft = Draft { key, id, payload: payload(json), ttl: None, priority: None };
            assert_eq!((it.offset, &it.draft), (offset(json, "offset"), &draft), "{name}");
            assert_eq!(Some(it.time), json["time"].as_u64(), "{name}");
            assert_eq!(draft.payload.is_none(), json["removed"] == true, "{name}");
        }
        Content::Part(it) => {
            let part = &json["part"];
            assert_eq!((it.offset, &it.key, &it.id), (offset(json, "offset"), &key, &id), "{name}");
            assert_eq!(Some(it.time), json["time"].as_u64(), "{name}");
            assert_eq!(Some(it.index as u64), part["index"].as_u64(), "{name}");
            assert_eq!(Some(it.length as u64), part["length"].as_u64(), "{name}");
            assert_eq!(STANDARD.encode(&it.bytes), text(part, "b64"), "{name}");
            let whole = it.clone().complete(b"0").expect("a digit is of every kind");
            let kind = match whole.draft.payload {
                Some(Payload::Binary(_)) => "binary",
                Some(Payload::Text(_)) => "text",
                Some(Payload::Json(_)) => "json",
                None => "none",
            };
            assert_eq!(kind, text(part, "kind"), "{name}");
        }
    }
}

#[test]
fn values_are_decoded() {
    let mut seen = 0;
    for vector in list("values") {
        let name = text(&vector, "name");
        let Ok(ServerFrame::Values(values)) = binary::decode_server(&unhex(text(&vector, "bin"))) else {
            panic!("{name} is a frame of values");
        };
        let json = &vector["values"];
        assert_eq!(Some(values.number), json["number"].as_u64(), "{name}");
        let entries = json["entries"].as_array().expect("entries");
        assert_eq!(values.entries.len(), entries.len(), "{name}");
        for (entry, json) in values.entries.iter().zip(entries) {
            compare_entry(name, entry, json);
        }
        seen += 1;
    }
    assert!(seen > 20, "{seen} frames");
}

#[test]
fn acknowledgements_are_encoded_and_decoded() {
    for vector in list("acks") {
        let (name, json) = (text(&vector, "name"), &vector["ack"]);
        let bitmap = u64::from_str_radix(text(json, "bitmap"), 16).expect("hex");
        let ack = Ack { newest: json["newest"].as_u64().expect("a number"), bitmap };
        assert_eq!(hex(&binary::encode_ack(ack)), text(&vector, "bin"), "{name}");
        assert_eq!(binary::decode_ack(&unhex(text(&vector, "bin"))), Ok(ack), "{name}");
    }
}

#[test]
fn malformed_values_and_acknowledgements_are_refused() {
    let taken = |name: &str, is_taken: &dyn Fn(&[u8]) -> bool| {
        let taken = list(name).into_iter().filter(|vector| is_taken(&unhex(text(vector, "bin"))));
        taken.map(|vector| format!("{}: {}", text(&vector, "name"), text(&vector, "why"))).collect::<Vec<_>>()
    };
    let values = taken("malformed_values", &|bytes| binary::decode_server(bytes).is_ok());
    let acks = taken("malformed_acks", &|bytes| binary::decode_ack(bytes).is_ok());
    assert!(values.is_empty() && acks.is_empty(), "{values:#?} {acks:#?}");
}

/// Frames with one value can be had of a sender as they stand in the vectors, but for their numbers.
#[test]
fn values_are_encoded() {
    let mut seen = 0;
    for vector in list("values") {
        let name = text(&vector, "name");
        let json = &vector["values"];
        let entries = json["entries"].as_array().expect("entries");
        let [entry] = &entries[..] else { continue };
        if entry.get("part").is_some() || entry.get("offset").is_none() {
            continue;
        }
        let bytes = sent(entry, vector["values"]["number"].as_u64().expect("a number"));
        assert_eq!(hex(&bytes), text(&vector, "bin"), "{name}");
        seen += 1;
    }
    assert!(seen >= 10, "{seen} frames");
}

/// The frame of a value as a sender makes it, with its number changed to `number`.
fn sent(json: &Value, number: u64) -> Vec<u8> {
    struct One(Log);
    impl Source for One {
        fn news(&mut self, _tag: usize, read: &mut dyn FnMut(&Log) -> bool) {
            read(&self.0);
        }
        fn look(&mut self, _tag: usize, look: &mut dyn FnMut(&Log)) {
            look(&self.0);
        }
    }
    let bounds = Bounds { count: 10, bytes: usize::MAX, age: Duration::MAX };
    let mut log = Log::new(Class::State, Epoch::from_entropy(0), bounds);
    let (low, alias) = (offset(json, "low"), json["alias"].as_u64().expect("an alias"));
    let key = json["key"].as_str().map_or(Key::default(), |key| Key::parse(key).expect("a key"));
    let id = json["id"].as_str().map(|id| PublicationId::parse(id).expect("an id"));
    let draft = Draft { key, id, payload: payload(json), ttl: None, priority: None };
    let now = Now { monotonic: Duration::ZERO, unix_ms: json["time"].as_u64().expect("a time") };
    let name = ChannelName::parse("state:a").expect("a name");
    let publication = Publication::new(name, alias, log.epoch().clone(), offset(json, "offset"), now, draft);
    log.apply(Arc::new(publication), now);
    let mut sender = Sender::default();
    sender.open(0, alias, 0, low, Pace { interval: Duration::ZERO, duplicate: None });
    let mut log = One(log);
    sender.stream(0, 1_000, Duration::ZERO, &mut log).expect("the channel is in sync");
    sender.acknowledge_stream(0, 1);
    let path = Path { prefix: &[], room: 1_452, window: 10_000, burst: 10_000, rtt: Duration::ZERO };
    let mut effects = Effects::default();
    sender.flush(Duration::ZERO, &path, &mut log, &mut effects);
    let mut frame = framing::split_datagram(&effects.packets[0]).expect("a frame")[0].to_vec();
    assert_eq!(frame[1], 1, "the first packet's number");
    let mut changed = vec![frame[0]];
    varint::write(&mut changed, number);
    changed.extend(frame.drain(2..));
    changed
}

#[test]
fn no_bytes_make_a_decoder_panic() {
    let mut frames: Vec<_> = list("frames").iter().map(|vector| unhex(text(vector, "bin"))).collect();
    frames.extend(list("values").iter().map(|vector| unhex(text(vector, "bin"))).filter(|it| it.len() < 300));
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

#[test]
fn golden_batches() {
    for entry in list("batches") {
        let frames = entry["frames"].as_array().expect("a list");
        let mut frames: VecDeque<Bytes> =
            frames.iter().map(|frame| unhex(frame.as_str().expect("hex")).into()).collect();
        let bytes = batch::next(&mut frames, 1000).expect("there are frames");
        assert_eq!(hex(&bytes), text(&entry, "bin"), "{}", text(&entry, "name"));
        assert!(frames.is_empty());
    }
}

#[test]
fn batches_hold_what_fits_and_a_frame_alone_is_left_as_it_is() {
    let frame = |length: usize| Bytes::from(vec![7; length]);
    let mut frames = VecDeque::from([9, 9, 9, 30, 300, 300, 5].map(frame));
    let mut next = || Some(batch::next(&mut frames, 31)?.len());
    // Three of 10 with their lengths, and the byte before them; what is longer goes alone, without either.
    assert_eq!(next(), Some(31));
    assert_eq!([next(), next(), next(), next(), next()], [30, 300, 300, 5, 0].map(|n| (n > 0).then_some(n)));
}
