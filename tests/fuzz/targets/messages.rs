//! Messages, in both encodings.

use std::{collections::HashSet, fmt::Write as _, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use fulmar_core::{
    Adopt, ChannelName, ClientMessage, Code, Draft, Epoch, Now, Offset, Payload, Position, Positions,
    Problem, Publication, Rejection, ServerMessage, StartRequest,
    codec::{
        binary::{self, ServerFrame},
        json,
    },
    limits,
    message::Mark,
};
use serde_json::{Value, value::RawValue};

/// A client's frames: read, written and read again they are the same, in JSON too.
pub(super) fn client_frames(input: &[u8]) {
    match binary::decode(input) {
        Ok(message) => {
            message_keeps_its_bounds(&message);
            assert_eq!(
                binary::decode(&binary::encode_client(&message)).as_ref(),
                Ok(&message),
                "written again"
            );
            let text = client_text(&message);
            assert_eq!(json::decode(text.as_bytes()).as_ref(), Ok(&message), "as {text}");
        }
        Err(Rejection { r#ref, problem }) => {
            problem_is_short(&problem);
            // A ref was read, or none was given.
            assert!(r#ref.is_none() || input.len() > 1);
        }
    }
}

/// A client's messages in JSON, and the bodies of `POST /api/publish`.
pub(super) fn client_json(input: &[u8]) {
    let published = json::decode_publish(input);
    match &published {
        Ok((channel, draft)) => {
            let message =
                ClientMessage::Publish { r#ref: None, channel: channel.clone(), draft: draft.clone() };
            message_keeps_its_bounds(&message);
            assert_eq!(json::decode_publish(client_text(&message).as_bytes()), published, "written again");
        }
        Err(problem) => problem_is_short(problem),
    }
    match json::decode(input) {
        Ok(message) => {
            message_keeps_its_bounds(&message);
            let text = client_text(&message);
            assert_eq!(json::decode(text.as_bytes()).as_ref(), Ok(&message), "as {text}");
            let again = binary::decode(&binary::encode_client(&message));
            if let ClientMessage::Publish { channel, draft, .. } = &message {
                assert_eq!(published.as_ref(), Ok(&(channel.clone(), draft.clone())), "without its type");
                // No frame can say such a time to live, and no server takes one.
                let most = Duration::from_millis(Offset::MAX.get());
                if draft.ttl.is_some_and(|ttl| ttl > most) {
                    let Ok(ClientMessage::Publish { draft, .. }) = again else { panic!("{again:?}") };
                    assert_eq!(draft.ttl, Some(most));
                    return;
                }
            }
            assert_eq!(again.as_ref(), Ok(&message), "in binary");
        }
        Err(Rejection { problem, .. }) => problem_is_short(&problem),
    }
}

/// A server's frames: what a client finds in them is what a server writes, in both encodings.
pub(super) fn server_frames(input: &[u8]) {
    let Ok(frame) = binary::decode_server(input) else { return };
    let Some(message) = server_message(&frame) else { return };
    assert_eq!(binary::decode_server(&binary::encode(&message)).as_ref(), Ok(&frame), "written again");
    let text = json::encode(&message);
    let object: &RawValue = serde_json::from_slice(&text).expect("JSON");
    if let ServerMessage::Publication(publication) = &message {
        let (brace, rest) = json::object_of(&text);
        let without_type = [brace, rest].concat();
        serde_json::from_slice::<&RawValue>(&without_type).expect("JSON without its type too");
        // Values nested too deeply are JSON, but no `Value`.
        if let Ok(value) = serde_json::from_str::<Value>(object.get()) {
            let (data, b64) = (value.get("data"), value.get("b64").and_then(Value::as_str));
            match &publication.draft.payload {
                None => assert_eq!((data, b64, &value["removed"]), (None, None, &Value::Bool(true))),
                Some(Payload::Text(text)) => {
                    assert_eq!(data.and_then(Value::as_str).map(str::as_bytes), Some(&**text));
                }
                Some(Payload::Json(json)) => {
                    assert_eq!(data, serde_json::from_slice(json).ok().as_ref());
                    assert!(!matches!(data, Some(Value::String(_))), "a string is text");
                }
                Some(Payload::Binary(bytes)) => {
                    assert_eq!(b64.and_then(|b64| STANDARD.decode(b64).ok()).as_deref(), Some(&**bytes));
                }
            }
            let key = value.get("key").and_then(Value::as_str).unwrap_or_default();
            assert_eq!(key, publication.draft.key.as_str());
        }
    }
}

/// What is told to a client about its message does not grow with the message.
pub(super) fn problem_is_short(problem: &Problem) {
    assert!(problem.message.len() <= 256, "{} bytes: {}", problem.message.len(), problem.message);
}

fn message_keeps_its_bounds(message: &ClientMessage) {
    let channel = match message {
        ClientMessage::Subscribe { channel, start, .. } => {
            match start {
                StartRequest::Afresh => {}
                StartRequest::Cursor(cursor) => assert!(cursor.to_string().len() <= limits::CURSOR_BYTES),
                StartRequest::Position(Position { epoch, offset }) => {
                    assert!(
                        *offset <= Offset::MAX && (1..=limits::EPOCH_BYTES).contains(&epoch.as_str().len())
                    );
                }
            }
            channel
        }
        ClientMessage::Publish { channel, draft: Draft { key, id, payload, .. }, .. } => {
            assert!(key.as_str().len() <= limits::KEY_BYTES);
            if let Some(id) = id {
                assert!((1..=limits::PUBLICATION_ID_BYTES).contains(&id.as_str().len()));
            }
            match payload {
                Some(Payload::Text(text)) => assert!(str::from_utf8(text).is_ok()),
                Some(Payload::Json(json)) => {
                    let value: &RawValue = serde_json::from_slice(json).expect("one JSON value");
                    assert!(value.get().len() == json.len() && !value.get().starts_with('"'));
                }
                Some(Payload::Binary(_)) | None => {}
            }
            channel
        }
        ClientMessage::Unsubscribe { channel, .. } => channel,
        ClientMessage::Attach { adopt, .. } => {
            let positions = adopt.positions();
            let names: HashSet<_> =
                positions.into_iter().flat_map(Positions::iter).map(|(name, _)| name).collect();
            let count = positions.map_or(0, |positions| positions.iter().len());
            assert!(names.len() == count && count <= limits::SUBSCRIPTIONS);
            return;
        }
        ClientMessage::Ping { .. } | ClientMessage::Pong { .. } => return,
    };
    assert!((1..=limits::CHANNEL_NAME_BYTES).contains(&channel.as_str().len()));
}

/// A client's message in JSON, put together by hand: the server has no need to write one.
fn client_text(message: &ClientMessage) -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    let (kind, r#ref) = match message {
        ClientMessage::Subscribe { r#ref, .. } => ("subscribe", r#ref),
        ClientMessage::Unsubscribe { r#ref, .. } => ("unsubscribe", r#ref),
        ClientMessage::Publish { r#ref, .. } => ("publish", r#ref),
        ClientMessage::Attach { r#ref, .. } => ("attach", r#ref),
        ClientMessage::Ping { r#ref } => ("ping", r#ref),
        ClientMessage::Pong { r#ref } => ("pong", r#ref),
    };
    let mut out = format!(r#"{{"type":"{kind}""#);
    let mut member = |name: &str, value: String| {
        let _ = write!(out, r#","{name}":{value}"#);
    };
    if let Some(r#ref) = r#ref {
        member("ref", r#ref.to_string());
    }
    match message {
        ClientMessage::Subscribe { channel, start, .. } => {
            member("channel", quoted(channel.as_str()));
            match start {
                StartRequest::Afresh => {}
                StartRequest::Cursor(cursor) => member("after", quoted(&cursor.to_string())),
                StartRequest::Position(Position { epoch, offset }) => {
                    let epoch = quoted(epoch.as_str());
                    member("position", format!(r#"{{"epoch":{epoch},"offset":{offset}}}"#));
                }
            }
        }
        ClientMessage::Unsubscribe { channel, .. } => member("channel", quoted(channel.as_str())),
        ClientMessage::Publish { channel, draft: Draft { key, id, payload, ttl, priority }, .. } => {
            member("channel", quoted(channel.as_str()));
            if !key.is_empty() {
                member("key", quoted(key.as_str()));
            }
            if let Some(id) = id {
                member("id", quoted(id.as_str()));
            }
            if let Some(ttl) = ttl {
                member("ttl_ms", ttl.as_millis().to_string());
            }
            if let Some(priority) = priority {
                member("priority", priority.to_string());
            }
            let utf8 = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).expect("checked");
            match payload {
                None => member("removed", "true".to_owned()),
                Some(Payload::Binary(bytes)) => member("b64", quoted(&STANDARD.encode(bytes))),
                Some(Payload::Text(text)) => member("data", quoted(&utf8(text))),
                Some(Payload::Json(json)) => member("data", utf8(json)),
            }
        }
        ClientMessage::Attach { id, secret, adopt, .. } => {
            if !id.is_empty() || *adopt != Adopt::Fresh {
                member("id", quoted(id));
            }
            member("secret", quoted(secret));
            if *adopt == Adopt::Fresh {
                member("fresh", "true".to_owned());
            }
            if let Some(positions) = adopt.positions() {
                let places = positions.iter().map(|(channel, Position { epoch, offset })| {
                    let (channel, epoch) = (quoted(channel.as_str()), quoted(epoch.as_str()));
                    format!(r#"{{"channel":{channel},"epoch":{epoch},"offset":{offset}}}"#)
                });
                member("positions", format!("[{}]", places.collect::<Vec<_>>().join(",")));
            }
        }
        ClientMessage::Ping { .. } | ClientMessage::Pong { .. } => {}
    }
    out.push('}');
    out
}

/// The message that a frame came from; `None` for an error whose code this server does not know.
fn server_message(frame: &ServerFrame) -> Option<ServerMessage> {
    // What a frame leaves to its alias.
    let channel = ChannelName::parse("some:channel").expect("a name");
    let epoch = Epoch::parse("e1").expect("an epoch");
    Some(match frame.clone() {
        ServerFrame::Publication { alias, offset, time, draft } => {
            let now = Now { monotonic: Duration::ZERO, unix_ms: time };
            let publication = Publication::new(channel, alias, epoch, offset, now, draft);
            ServerMessage::Publication(Arc::new(publication))
        }
        // Written by the sender alone, from its logs.
        ServerFrame::Values(_) => return None,
        ServerFrame::Gap(mark) => ServerMessage::Gap(mark),
        ServerFrame::Reset(mark) => ServerMessage::Reset(mark),
        ServerFrame::Synced { alias, offset } => {
            ServerMessage::Synced(Mark { channel, alias, position: Position { epoch, offset } })
        }
        ServerFrame::Subscribed { r#ref, mark, recovered } => {
            ServerMessage::Subscribed { r#ref, mark, recovered }
        }
        ServerFrame::Unsubscribed { r#ref, channel } => ServerMessage::Unsubscribed { r#ref, channel },
        ServerFrame::Published { r#ref, channel, position } => {
            ServerMessage::Published { r#ref, channel, position }
        }
        ServerFrame::Attached { r#ref, session, resumed } => {
            ServerMessage::Attached { r#ref, session, resumed }
        }
        ServerFrame::Error { r#ref, code, message, channel } => {
            let code = *Code::ALL.iter().find(|known| known.as_str() == code)?;
            let problem = Problem::new(code, message);
            match channel {
                // About a channel that `attach` named, and so without a ref.
                Some(_) if r#ref.is_some() => return None,
                Some(channel) => ServerMessage::Refused { channel, problem },
                None => ServerMessage::Error(Rejection { r#ref, problem }),
            }
        }
        ServerFrame::Ping { r#ref } => ServerMessage::Ping { r#ref },
        ServerFrame::Pong { r#ref } => ServerMessage::Pong { r#ref },
        ServerFrame::Close { code, reason, retry } => ServerMessage::Close { code, reason, retry },
    })
}
