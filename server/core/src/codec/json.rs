//! `fulmar.v1.json`: one JSON object per message. PROTOCOL.md, section 4.

use std::{
    borrow::Cow,
    num::{NonZeroU8, NonZeroU32},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::{
    cursor::Cursor,
    message::{Adopt, ClientMessage, Mark, Positions, Ref, Rejection, ServerMessage, StartRequest},
    name::{ChannelName, Key, PublicationId},
    payload::Payload,
    position::{Epoch, Offset, Position},
    problem::{Code, Problem},
    publication::{Draft, Publication},
};

/// What a publication's message begins with. SSE and polling send the object without its `type`:
/// [`object_of`] cuts it off, so that one encoding serves both.
const PUBLICATION: &str = r#"{"type":"publication","#;

/// Most that is shown of what the parser says of a text, in bytes.
const SHOWN_BYTES: usize = 160;

/// The message of a publication.
pub fn publication(publication: &Publication) -> Bytes {
    let Publication { channel, epoch, offset, time, draft, .. } = publication;
    let mut out = Writer(Vec::with_capacity(draft.cost() * 4 / 3));
    out.raw(PUBLICATION);
    out.raw("\"channel\":").string(channel.as_str());
    out.raw(",\"epoch\":").string(epoch.as_str());
    out.raw(",\"offset\":").number(offset.get());
    out.raw(",\"time\":").number(*time);
    if !draft.key.is_empty() {
        out.raw(",\"key\":").string(draft.key.as_str());
    }
    if let Some(id) = &draft.id {
        out.raw(",\"id\":").string(id.as_str());
    }
    match &draft.payload {
        None => out.raw(",\"removed\":true"),
        Some(Payload::Binary(bytes)) => out.raw(",\"b64\":\"").raw(&STANDARD.encode(bytes)).raw("\""),
        // Checked to be UTF-8 when it came in; lossy conversion never changes it.
        Some(Payload::Text(text)) => out.raw(",\"data\":").string(&String::from_utf8_lossy(text)),
        Some(Payload::Json(json)) => out.raw(",\"data\":").bytes(json),
    };
    out.raw("}");
    out.0.into()
}

/// A publication's object as SSE and polling send it, in two parts to be written one after the other.
pub fn object_of(message: &[u8]) -> (&'static [u8], &[u8]) {
    (b"{", &message[PUBLICATION.len()..])
}

/// The text of a message.
pub fn encode(message: &ServerMessage) -> Bytes {
    let mut out = Writer(Vec::with_capacity(96));
    match message {
        ServerMessage::Publication(it) => return publication(it),
        ServerMessage::Gap(mark) => out.open("gap", None).mark(mark),
        ServerMessage::Reset(mark) => out.open("reset", None).mark(mark),
        ServerMessage::Synced(mark) => out.open("synced", None).mark(mark),
        ServerMessage::Subscribed { r#ref, mark, recovered } => {
            out.open("subscribed", *r#ref).mark(mark);
            match recovered {
                None => &mut out,
                Some(recovered) => out.raw(",\"recovered\":").truth(*recovered),
            }
        }
        ServerMessage::Unsubscribed { r#ref, channel } => {
            out.open("unsubscribed", *r#ref).raw(",\"channel\":").string(channel.as_str())
        }
        ServerMessage::Published { r#ref, channel, position } => {
            out.open("published", *r#ref).raw(",\"channel\":").string(channel.as_str()).position(position)
        }
        ServerMessage::Attached { r#ref, session, resumed } => {
            out.open("attached", *r#ref).raw(",\"session\":").string(session);
            out.raw(",\"resumed\":").truth(*resumed)
        }
        ServerMessage::Error(Rejection { r#ref, problem }) => {
            out.open("error", *r#ref).raw(",\"error\":").problem(problem)
        }
        ServerMessage::Refused { channel, problem } => {
            out.open("error", None).raw(",\"channel\":").string(channel.as_str());
            out.raw(",\"error\":").problem(problem)
        }
        ServerMessage::Ping { r#ref } => out.open("ping", *r#ref),
        ServerMessage::Pong { r#ref } => out.open("pong", *r#ref),
        ServerMessage::Close { code, reason, retry } => {
            out.open("close", None).raw(",\"code\":").number(u64::from(*code));
            out.raw(",\"reason\":").string(reason);
            match retry {
                Some(retry) => out.raw(",\"retry_ms\":").number(retry.as_millis() as u64),
                None => &mut out,
            }
        }
    };
    out.raw("}");
    out.0.into()
}

/// The body of an HTTP error: `{"error":{"code","message"}}`.
pub fn encode_problem(problem: &Problem) -> Bytes {
    let mut out = Writer(Vec::with_capacity(96));
    out.raw("{\"error\":").problem(problem).raw("}");
    out.0.into()
}

/// Reads a client's message.
///
/// # Errors
/// What is wrong with it, and the `ref` where that much could be read.
pub fn decode(text: &[u8]) -> Result<ClientMessage, Rejection> {
    let members: Members<'_> = parse(text)?;
    let r#ref = members.r#ref;
    members.message().map_err(|problem| Rejection { r#ref, problem })
}

/// Reads the body of `POST /api/publish`: a `publish` message without its `type`.
///
/// # Errors
/// What is wrong with it.
pub fn decode_publish(text: &[u8]) -> Result<(ChannelName, Draft), Problem> {
    parse::<Members<'_>>(text)?.publish()
}

fn parse<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, Problem> {
    // A derived reader also takes an array of the members' values; the protocol does not.
    let object = text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let parsed = serde_json::from_slice(text);
    match parsed {
        Ok(value) if object => Ok(value),
        Ok(_) => Err(Problem::new(Code::BadJson, "a JSON object is expected")),
        Err(error) => Err(Problem::new(Code::BadJson, format!("not a message in JSON: {}", shown(&error)))),
    }
}

/// What the parser says, which may quote any length of the text, and escape it.
fn shown(error: &serde_json::Error) -> String {
    let mut said = error.to_string();
    if said.len() > SHOWN_BYTES {
        said.truncate(said.floor_char_boundary(SHOWN_BYTES));
        said.push_str(&format!("... at line {} column {}", error.line(), error.column()));
    }
    said
}

#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    r#ref: Option<NonZeroU32>,
    #[serde(borrow)]
    channel: Option<Cow<'a, str>>,
    after: Option<Cow<'a, str>>,
    position: Option<PositionMembers<'a>>,
    #[serde(borrow)]
    positions: Option<Vec<PlaceMembers<'a>>>,
    fresh: Option<bool>,
    key: Option<Cow<'a, str>>,
    id: Option<Cow<'a, str>>,
    secret: Option<Cow<'a, str>>,
    /// `null` is a payload like any other, so presence is told apart from null.
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    b64: Option<Cow<'a, str>>,
    removed: Option<bool>,
    ttl_ms: Option<u64>,
    priority: Option<i64>,
}

#[derive(Deserialize)]
struct PositionMembers<'a> {
    #[serde(borrow)]
    epoch: Cow<'a, str>,
    offset: u64,
}

impl PositionMembers<'_> {
    fn position(&self) -> Result<Position, Problem> {
        let offset = Offset::new(self.offset)
            .ok_or_else(|| Problem::new(Code::BadCursor, "an offset is below 2^53"))?;
        Ok(Position { epoch: Epoch::parse(&self.epoch)?, offset })
    }
}

/// A channel and a position in it.
#[derive(Deserialize)]
struct PlaceMembers<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    epoch: Cow<'a, str>,
    offset: u64,
}

fn positions(places: Vec<PlaceMembers<'_>>) -> Result<Positions, Problem> {
    let mut positions = Positions::default();
    for PlaceMembers { channel, epoch, offset } in places {
        let position = PositionMembers { epoch, offset }.position()?;
        positions.push(ChannelName::parse(&channel)?, position)?;
    }
    Ok(positions)
}

fn present<'de, D: Deserializer<'de>>(input: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(input).map(Some)
}

impl Members<'_> {
    fn message(self) -> Result<ClientMessage, Problem> {
        let bad = |message: &'static str| Problem::new(Code::BadMessage, message);
        let r#ref = self.r#ref;
        let kind = self.kind.as_deref().ok_or_else(|| bad("a message has a type"))?;
        Ok(match kind {
            "subscribe" => ClientMessage::Subscribe { r#ref, channel: self.channel()?, start: self.start()? },
            "unsubscribe" => ClientMessage::Unsubscribe { r#ref, channel: self.channel()? },
            "publish" => {
                let (channel, draft) = self.publish()?;
                ClientMessage::Publish { r#ref, channel, draft }
            }
            "attach" => {
                let adopt = match (self.positions, self.fresh.unwrap_or(false)) {
                    (None, false) => Adopt::AsKnown,
                    (Some(places), false) => Adopt::After(positions(places)?),
                    (None, true) => Adopt::Fresh,
                    (Some(_), true) => return Err(bad("an attach has positions or is fresh, not both")),
                };
                let id = match self.id {
                    None if adopt == Adopt::Fresh => "".into(),
                    id => id.ok_or_else(|| bad("attach has an id, unless it is fresh"))?,
                };
                let secret = self.secret.ok_or_else(|| bad("attach has a secret"))?;
                ClientMessage::Attach { r#ref, id: id.into_owned(), secret: secret.into_owned(), adopt }
            }
            "ping" => ClientMessage::Ping { r#ref },
            "pong" => ClientMessage::Pong { r#ref },
            _ => return Err(bad("type is subscribe, unsubscribe, publish, attach, ping or pong")),
        })
    }

    fn channel(&self) -> Result<ChannelName, Problem> {
        match &self.channel {
            Some(channel) => ChannelName::parse(channel),
            None => Err(Problem::new(Code::MissingChannel, "name a channel")),
        }
    }

    fn start(&self) -> Result<StartRequest, Problem> {
        match (&self.after, &self.position) {
            (None, None) => Ok(StartRequest::Afresh),
            (Some(after), None) => Cursor::parse(after).map(StartRequest::Cursor),
            (None, Some(position)) => position.position().map(StartRequest::Position),
            (Some(_), Some(_)) => Err(Problem::new(Code::BadCursor, "give after or position, not both")),
        }
    }

    fn publish(self) -> Result<(ChannelName, Draft), Problem> {
        let bad = |message: &'static str| Problem::new(Code::BadPayload, message);
        let channel = self.channel()?;
        let key = self.key.as_deref().filter(|key| !key.is_empty()).map(Key::parse).transpose()?;
        let id = self.id.as_deref().map(PublicationId::parse).transpose()?;
        let payload = match (self.data, self.b64, self.removed.unwrap_or(false)) {
            (Some(data), None, false) => Some(
                Payload::json(data.get().as_bytes())
                    .map_err(|_| bad("data holds text that is not Unicode"))?,
            ),
            (None, Some(b64), false) => {
                let bytes = STANDARD.decode(&*b64).map_err(|_| bad("b64 is not base64 with padding"))?;
                Some(Payload::Binary(bytes.into()))
            }
            (None, None, true) => None,
            (None, None, false) => return Err(bad("give data, b64 or removed: true")),
            _ => return Err(bad("give one of data, b64 and removed: true")),
        };
        let ttl = self.ttl_ms.map(Duration::from_millis);
        let priority = self.priority.map(priority).transpose()?;
        Ok((channel, Draft { key: key.unwrap_or_default(), id, payload, ttl, priority }))
    }
}

fn priority(number: i64) -> Result<NonZeroU8, Problem> {
    let number = u8::try_from(number).ok().and_then(NonZeroU8::new);
    number.ok_or_else(|| Problem::new(Code::BadPriority, "a priority is from 1 to 255"))
}

struct Writer(Vec<u8>);

impl Writer {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn raw(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    fn string(&mut self, text: &str) -> &mut Self {
        // Writing a string to memory does not fail.
        let _ = serde_json::to_writer(&mut self.0, text);
        self
    }

    fn number(&mut self, n: u64) -> &mut Self {
        use std::io::Write as _;
        let _ = write!(self.0, "{n}");
        self
    }

    fn truth(&mut self, it: bool) -> &mut Self {
        self.raw(if it { "true" } else { "false" })
    }

    fn open(&mut self, kind: &str, r#ref: Ref) -> &mut Self {
        self.raw("{\"type\":\"").raw(kind).raw("\"");
        if let Some(r#ref) = r#ref {
            self.raw(",\"ref\":").number(u64::from(r#ref.get()));
        }
        self
    }

    fn position(&mut self, position: &Position) -> &mut Self {
        self.raw(",\"epoch\":").string(position.epoch.as_str());
        self.raw(",\"offset\":").number(position.offset.get())
    }

    fn mark(&mut self, mark: &Mark) -> &mut Self {
        self.raw(",\"channel\":").string(mark.channel.as_str()).position(&mark.position)
    }

    fn problem(&mut self, problem: &Problem) -> &mut Self {
        self.raw("{\"code\":\"").raw(problem.code.as_str()).raw("\",\"message\":");
        self.string(&problem.message).raw("}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attach_says_whose_session_and_one_thing_of_its_subscriptions() {
        let adopt = |members: &str| {
            let text = format!(r#"{{"type":"attach","secret":"t",{members}}}"#);
            match decode(text.as_bytes()) {
                Ok(ClientMessage::Attach { id, adopt, .. }) => Ok((id, adopt)),
                other => Err(other.expect_err("an attach or none").problem.code),
            }
        };
        assert_eq!(adopt(r#""fresh":true"#), Ok((String::new(), Adopt::Fresh)));
        assert_eq!(adopt(r#""id":"s","fresh":false"#), Ok(("s".to_owned(), Adopt::AsKnown)));
        for both in [r#""fresh":true,"positions":[]"#, r#""fresh":false"#, r#""positions":[]"#] {
            assert_eq!(adopt(both), Err(Code::BadMessage), "{both}");
        }
        assert_eq!(adopt(r#""id":"s","fresh":1"#), Err(Code::BadJson));
    }

    #[test]
    fn a_complaint_does_not_grow_with_the_message() {
        for text in ["\u{7f}".repeat(100_000), "\u{1f426}".repeat(50_000)] {
            let message = format!(r#"{{"type":"ping","ref":"{text}"}}"#);
            let problem = decode(message.as_bytes()).expect_err("a ref is a number").problem;
            assert!(problem.message.len() < 256, "{} bytes", problem.message.len());
            assert!(problem.message.contains("invalid type: string"), "{}", problem.message);
            assert!(problem.message.contains("at line 1 column"), "{}", problem.message);
        }
    }
}
