//! `fulmar.v1.bin`. PROTOCOL.md, section 5.

mod frame;
mod keys;
mod values;

pub use frame::{Malformed, ServerFrame, decode_server};
pub use values::{Ack, Arrival, Content, Entry, Part, Values, decode_ack, encode_ack, is_ack};
pub(crate) use values::{Piece, ValuesWriter, parts};

use std::{
    num::{NonZeroU8, NonZeroU32},
    str,
    time::Duration,
};

use bytes::Bytes;

use super::varint;
use crate::{
    cursor::Cursor,
    message::{Adopt, ClientMessage, Mark, Positions, Ref, Rejection, ServerMessage, StartRequest},
    name::{ChannelName, Key, PublicationId},
    payload::Payload,
    position::{Epoch, Offset, Position},
    problem::{Code, Problem},
    publication::{Draft, Publication},
};

const PUBLICATION: u8 = 0x01;
const SUBSCRIBED: u8 = 0x02;
const UNSUBSCRIBED: u8 = 0x03;
const GAP: u8 = 0x04;
const RESET: u8 = 0x05;
const SYNCED: u8 = 0x06;
const PUBLISHED: u8 = 0x07;
const ERROR: u8 = 0x08;
const PING: u8 = 0x09;
const PONG: u8 = 0x0a;
const CLOSE: u8 = 0x0b;
const ATTACHED: u8 = 0x0c;
const SUBSCRIBE: u8 = 0x21;
const UNSUBSCRIBE: u8 = 0x22;
const PUBLISH: u8 = 0x23;
const ATTACH: u8 = 0x24;
const VALUES: u8 = 0x0d;
const ACK: u8 = 0x25;

const KIND: u8 = 0x03;
const HAS_KEY: u8 = 0x04;
const REMOVED: u8 = 0x08;
const HAS_ID: u8 = 0x10;
const HAS_TTL: u8 = 0x20;
const HAS_PRIORITY: u8 = 0x40;

/// The largest number, so that a JavaScript number holds it. Bitmaps, and differences in zigzag, are wider.
const NUMBER: u64 = Offset::MAX.get();

const START_AFRESH: u8 = 0;
const START_CURSOR: u8 = 1;
const START_POSITION: u8 = 2;

// What `subscribed` says of the position that a client gave.
const RECOVERED: u8 = 1;
const NOT_RECOVERED: u8 = 2;
/// What `attached` says of a session that was no longer known.
const MADE_AGAIN: u8 = 0;
/// What `attach` says behind no positions where the session's subscriptions end.
const FRESH: u8 = 1;

/// The frame of a publication.
pub fn publication(publication: &Publication) -> Bytes {
    let Publication { alias, offset, time, draft, .. } = publication;
    let mut frame = Vec::with_capacity(draft.cost() - crate::limits::PUBLICATION_OVERHEAD + 24);
    frame.push(PUBLICATION);
    varint::write(&mut frame, *alias);
    varint::write(&mut frame, offset.get());
    varint::write(&mut frame, *time);
    body(&mut frame, draft, false, |_| {});
    frame.into()
}

/// The frame of a message.
pub fn encode(message: &ServerMessage) -> Bytes {
    let mut out = Vec::with_capacity(64);
    match message {
        ServerMessage::Publication(it) => return publication(it),
        ServerMessage::Gap(mark) => write_mark(&mut out, GAP, mark),
        ServerMessage::Reset(mark) => write_mark(&mut out, RESET, mark),
        ServerMessage::Synced(mark) => {
            out.push(SYNCED);
            varint::write(&mut out, mark.alias);
            varint::write(&mut out, mark.position.offset.get());
        }
        ServerMessage::Subscribed { r#ref, mark, recovered } => {
            out.push(SUBSCRIBED);
            write_ref(&mut out, *r#ref);
            write_mark_fields(&mut out, mark);
            out.extend(recovered.map(|recovered| if recovered { RECOVERED } else { NOT_RECOVERED }));
        }
        ServerMessage::Unsubscribed { r#ref, channel } => {
            out.push(UNSUBSCRIBED);
            write_ref(&mut out, *r#ref);
            write_string(&mut out, channel.as_str());
        }
        ServerMessage::Published { r#ref, channel, position } => {
            out.push(PUBLISHED);
            write_ref(&mut out, *r#ref);
            write_string(&mut out, channel.as_str());
            write_position(&mut out, position);
        }
        ServerMessage::Attached { r#ref, session, resumed } => {
            out.push(ATTACHED);
            write_ref(&mut out, *r#ref);
            write_string(&mut out, session);
            out.extend((!resumed).then_some(MADE_AGAIN));
        }
        ServerMessage::Error(Rejection { r#ref, problem }) => write_error(&mut out, *r#ref, problem),
        ServerMessage::Refused { channel, problem } => {
            write_error(&mut out, None, problem);
            write_string(&mut out, channel.as_str());
        }
        ServerMessage::Ping { r#ref } => {
            out.push(PING);
            write_ref(&mut out, *r#ref);
        }
        ServerMessage::Pong { r#ref } => {
            out.push(PONG);
            write_ref(&mut out, *r#ref);
        }
        ServerMessage::Close { code, reason, retry } => {
            out.push(CLOSE);
            varint::write(&mut out, u64::from(*code));
            write_string(&mut out, reason);
            if let Some(retry) = retry {
                write_millis(&mut out, *retry);
            }
        }
    }
    out.into()
}

/// The frame of a client's message; for clients written in Rust, and tests.
pub fn encode_client(message: &ClientMessage) -> Bytes {
    let mut out = Vec::with_capacity(64);
    match message {
        ClientMessage::Subscribe { r#ref, channel, start } => {
            out.push(SUBSCRIBE);
            write_ref(&mut out, *r#ref);
            write_string(&mut out, channel.as_str());
            match start {
                StartRequest::Afresh => out.push(START_AFRESH),
                StartRequest::Cursor(cursor) => {
                    out.push(START_CURSOR);
                    write_string(&mut out, &cursor.to_string());
                }
                StartRequest::Position(position) => {
                    out.push(START_POSITION);
                    write_position(&mut out, position);
                }
            }
        }
        ClientMessage::Unsubscribe { r#ref, channel } => {
            out.push(UNSUBSCRIBE);
            write_ref(&mut out, *r#ref);
            write_string(&mut out, channel.as_str());
        }
        ClientMessage::Publish { r#ref, channel, draft } => {
            out.push(PUBLISH);
            write_ref(&mut out, *r#ref);
            body(&mut out, draft, true, |out| write_string(out, channel.as_str()));
        }
        ClientMessage::Attach { r#ref, id, secret, adopt } => {
            out.push(ATTACH);
            write_ref(&mut out, *r#ref);
            write_string(&mut out, id);
            write_string(&mut out, secret);
            match adopt {
                Adopt::AsKnown => {}
                Adopt::After(positions) => {
                    varint::write(&mut out, positions.iter().len() as u64);
                    for (channel, position) in positions.iter() {
                        write_string(&mut out, channel.as_str());
                        write_position(&mut out, position);
                    }
                }
                Adopt::Fresh => out.extend([0, FRESH]),
            }
        }
        ClientMessage::Ping { r#ref } => {
            out.push(PING);
            write_ref(&mut out, *r#ref);
        }
        ClientMessage::Pong { r#ref } => {
            out.push(PONG);
            write_ref(&mut out, *r#ref);
        }
    }
    out.into()
}

/// Reads a client's frame.
///
/// # Errors
/// What is wrong with it, and the `ref` where that much could be read.
pub fn decode(frame: &[u8]) -> Result<ClientMessage, Rejection> {
    let mut input = Input { rest: frame };
    let kind = input.byte()?;
    if ![SUBSCRIBE, UNSUBSCRIBE, PUBLISH, ATTACH, PING, PONG].contains(&kind) {
        return Err(bad("no such frame").into());
    }
    let r#ref = input.reference()?;
    decode_after_ref(kind, r#ref, input).map_err(|problem| Rejection { r#ref, problem })
}

fn decode_after_ref(kind: u8, r#ref: Ref, mut input: Input<'_>) -> Result<ClientMessage, Problem> {
    let message = match kind {
        SUBSCRIBE => {
            let channel = ChannelName::parse(input.string()?)?;
            let start = match input.byte()? {
                START_AFRESH => StartRequest::Afresh,
                START_CURSOR => StartRequest::Cursor(Cursor::parse(input.string()?)?),
                START_POSITION => StartRequest::Position(input.position()?),
                _ => return Err(bad("no such kind of start")),
            };
            ClientMessage::Subscribe { r#ref, channel, start }
        }
        UNSUBSCRIBE => ClientMessage::Unsubscribe { r#ref, channel: ChannelName::parse(input.string()?)? },
        PUBLISH => {
            let flags = input.flags(KIND | HAS_KEY | REMOVED | HAS_ID | HAS_TTL | HAS_PRIORITY)?;
            let channel = ChannelName::parse(input.string()?)?;
            ClientMessage::Publish { r#ref, channel, draft: input.draft(flags)? }
        }
        ATTACH => ClientMessage::Attach {
            r#ref,
            id: input.string()?.to_owned(),
            secret: input.string()?.to_owned(),
            adopt: input.adopt()?,
        },
        PING => ClientMessage::Ping { r#ref },
        _ => ClientMessage::Pong { r#ref },
    };
    input.end()?;
    Ok(message)
}

fn bad(message: &'static str) -> Problem {
    Problem::new(Code::BadMessage, message)
}

/// The flags that say what a publication holds.
fn content_flags(draft: &Draft) -> u8 {
    let flags = match &draft.payload {
        Some(Payload::Binary(_)) => 0,
        Some(Payload::Text(_)) => 1,
        Some(Payload::Json(_)) => 2,
        None => REMOVED,
    };
    let key = if draft.key.is_empty() { 0 } else { HAS_KEY };
    flags | key | if draft.id.is_some() { HAS_ID } else { 0 }
}

/// A payload of the kind that the flags say.
fn payload(kind: u8, bytes: &[u8]) -> Result<Payload, Problem> {
    let bad = |why| Problem::new(Code::BadPayload, why);
    match kind & KIND {
        0 => Ok(Payload::Binary(Bytes::copy_from_slice(bytes))),
        1 => str::from_utf8(bytes).map(Payload::text).map_err(|_| bad("a text payload is not UTF-8")),
        _ => Payload::json(bytes).map_err(|_| bad("a JSON payload is not JSON")),
    }
}

/// Flags, what stands between them and the optional fields, those, and the payload.
fn body(out: &mut Vec<u8>, draft: &Draft, publish: bool, between: impl FnOnce(&mut Vec<u8>)) {
    let (ttl, priority) = (draft.ttl.filter(|_| publish), draft.priority.filter(|_| publish));
    let mut flags = content_flags(draft);
    flags |= if ttl.is_some() { HAS_TTL } else { 0 };
    flags |= if priority.is_some() { HAS_PRIORITY } else { 0 };
    out.push(flags);
    between(out);
    if !draft.key.is_empty() {
        write_string(out, draft.key.as_str());
    }
    if let Some(id) = &draft.id {
        write_string(out, id.as_str());
    }
    if let Some(ttl) = ttl {
        // What no frame can say is longer than any server takes.
        write_millis(out, ttl);
    }
    out.extend(priority.map(NonZeroU8::get));
    if let Some(payload) = &draft.payload {
        out.extend_from_slice(payload.bytes());
    }
}

/// The most that a frame can say stands for all that is longer.
fn write_millis(out: &mut Vec<u8>, time: Duration) {
    varint::write(out, time.as_millis().min(u128::from(NUMBER)) as u64);
}

fn write_ref(out: &mut Vec<u8>, r#ref: Ref) {
    varint::write(out, r#ref.map_or(0, |r| u64::from(r.get())));
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    varint::write(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn write_position(out: &mut Vec<u8>, position: &Position) {
    write_string(out, position.epoch.as_str());
    varint::write(out, position.offset.get());
}

fn write_error(out: &mut Vec<u8>, r#ref: Ref, problem: &Problem) {
    out.push(ERROR);
    write_ref(out, r#ref);
    write_string(out, problem.code.as_str());
    write_string(out, &problem.message);
}

fn write_mark(out: &mut Vec<u8>, kind: u8, mark: &Mark) {
    out.push(kind);
    write_mark_fields(out, mark);
}

fn write_mark_fields(out: &mut Vec<u8>, mark: &Mark) {
    varint::write(out, mark.alias);
    write_string(out, mark.channel.as_str());
    write_position(out, &mark.position);
}

struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn byte(&mut self) -> Result<u8, Problem> {
        let (first, rest) = self.rest.split_first().ok_or_else(truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    /// A number.
    fn integer(&mut self) -> Result<u64, Problem> {
        let value = self.wide()?;
        if value <= NUMBER { Ok(value) } else { Err(bad("a number is below 2^53")) }
    }

    /// An integer of up to 62 bits.
    fn wide(&mut self) -> Result<u64, Problem> {
        let (value, length) = varint::read(self.rest).ok_or_else(truncated)?;
        self.rest = &self.rest[length..];
        Ok(value)
    }

    fn offset(&mut self) -> Result<Offset, Problem> {
        Offset::new(self.wide()?).ok_or_else(|| Problem::new(Code::BadCursor, "an offset is below 2^53"))
    }

    fn position(&mut self) -> Result<Position, Problem> {
        let epoch = Epoch::parse(self.string()?)?;
        Ok(Position { epoch, offset: self.offset()? })
    }

    /// Positions behind their number.
    fn positions(&mut self) -> Result<Positions, Problem> {
        let mut positions = Positions::default();
        for _ in 0..self.integer()? {
            let channel = ChannelName::parse(self.string()?)?;
            positions.push(channel, self.position()?)?;
        }
        Ok(positions)
    }

    /// Nothing, positions, or none and that the session's subscriptions end.
    fn adopt(&mut self) -> Result<Adopt, Problem> {
        if self.rest.is_empty() {
            return Ok(Adopt::AsKnown);
        }
        let positions = self.positions()?;
        if self.rest.is_empty() {
            return Ok(Adopt::After(positions));
        }
        match self.byte()? {
            FRESH if positions.iter().len() == 0 => Ok(Adopt::Fresh),
            FRESH => Err(bad("an attach has positions or is fresh, not both")),
            _ => Err(bad("bytes after the end of the frame")),
        }
    }

    fn reference(&mut self) -> Result<Ref, Problem> {
        let number = u32::try_from(self.integer()?).map_err(|_| bad("a ref is below 2^32"))?;
        Ok(NonZeroU32::new(number))
    }

    fn string(&mut self) -> Result<&'a str, Problem> {
        str::from_utf8(self.bytes()?).map_err(|_| bad("a string is not UTF-8"))
    }

    /// Bytes behind their length.
    fn bytes(&mut self) -> Result<&'a [u8], Problem> {
        let length = usize::try_from(self.integer()?).map_err(|_| truncated())?;
        self.take(length)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Problem> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or_else(truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// The flags of a publication or publish, of which those in `known` may be set.
    fn flags(&mut self, known: u8) -> Result<u8, Problem> {
        let flags = self.byte()?;
        if flags & !known != 0 || flags & KIND == KIND {
            return Err(bad("a reserved flag is set"));
        }
        Ok(flags)
    }

    /// What the flags announce, and the payload, which is the rest.
    fn draft(&mut self, flags: u8) -> Result<Draft, Problem> {
        let key = if flags & HAS_KEY == 0 { Key::default() } else { Key::parse(self.string()?)? };
        let id = if flags & HAS_ID == 0 { None } else { Some(PublicationId::parse(self.string()?)?) };
        let ttl = if flags & HAS_TTL == 0 { None } else { Some(Duration::from_millis(self.integer()?)) };
        let priority = if flags & HAS_PRIORITY == 0 { None } else { Some(self.priority()?) };
        let rest = std::mem::take(&mut self.rest);
        let payload = match flags & (REMOVED | KIND) {
            REMOVED if rest.is_empty() => None,
            kind if kind & REMOVED == 0 => Some(payload(kind, rest)?),
            _ => return Err(Problem::new(Code::BadPayload, "a removal has no payload")),
        };
        Ok(Draft { key, id, payload, ttl, priority })
    }

    fn priority(&mut self) -> Result<NonZeroU8, Problem> {
        let priority = NonZeroU8::new(self.byte()?);
        priority.ok_or_else(|| Problem::new(Code::BadPriority, "a priority is from 1 to 255"))
    }

    fn end(&self) -> Result<(), Problem> {
        if self.rest.is_empty() { Ok(()) } else { Err(bad("bytes after the end of the frame")) }
    }
}

fn truncated() -> Problem {
    bad("the frame ends too early")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_time_to_live_keeps_within_its_frame() {
        let draft = Draft { ttl: Some(Duration::MAX), ..Draft::new(Payload::text("x")) };
        let channel = ChannelName::parse("signal:x").expect("a name");
        let frame = encode_client(&ClientMessage::Publish { r#ref: None, channel, draft });
        let Ok(ClientMessage::Publish { draft, .. }) = decode(&frame) else { panic!("a publish: {frame:?}") };
        assert_eq!(draft.ttl, Some(Duration::from_millis(NUMBER)));
        assert_eq!(draft.payload, Some(Payload::text("x")));
    }
}
