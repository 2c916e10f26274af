//! The `values` frame, and `ack`, which answers it. PROTOCOL.md, section 9.

use std::num::NonZeroU8;

use bytes::Bytes;

use super::{
    ACK, HAS_ID, HAS_KEY, Input, KIND, Malformed, NUMBER, REMOVED, VALUES, bad,
    keys::{Change, KeyRead, KeyWritten},
    varint, write_string,
};
use crate::{
    limits::{PART_BYTES, PARTS},
    name::{Key, PublicationId},
    position::Offset,
    problem::Problem,
    publication::{Draft, Publication},
};

// The head of an entry: how its key stands there, and which fields do that else are as in the entry before.
const KEY: u8 = 0x0f;
const SAYS_OFFSET: u8 = 0x10;
const SAYS_TIME: u8 = 0x20;
const SAYS_LENGTH: u8 = 0x40;
const SAYS_FLAGS: u8 = 0x80;

// What the flags of an entry say besides those of a publication.
const OTHER_CHANNEL: u8 = 0x20;
const IS_PART: u8 = 0x40;
/// With [`OTHER_CHANNEL`] and nothing else.
const POSITION_ONLY: u8 = 0x80;
/// The flags that hold for the next entry too.
const HOLD_ON: u8 = KIND | REMOVED | HAS_ID | IS_PART;

/// An offset that is the one before and 1, which need not stand there.
const NEXT: u64 = 2;

/// A `values` frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values {
    /// Its number among those of its datagrams or streams, from 1.
    pub number: u64,
    /// What it holds.
    pub entries: Vec<Entry>,
}

/// One entry of a [`Values`] frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose.
    pub alias: u64,
    /// The channel's low-water offset.
    pub low: Offset,
    /// What is said beside that.
    pub content: Content,
}

/// What an entry brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The low-water offset and nothing else.
    Position,
    /// A publication.
    Whole(Arrival),
    /// A part of one.
    Part(Part),
}

/// A publication that has come, or come together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its place.
    pub offset: Offset,
    /// When it was accepted, in ms since 1970.
    pub time: u64,
    /// What was published.
    pub draft: Draft,
}

/// A part of a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The publication's place.
    pub offset: Offset,
    /// When it was accepted, in ms since 1970.
    pub time: u64,
    /// Its key.
    pub key: Key,
    /// Its id.
    pub id: Option<PublicationId>,
    /// Of which kind the payload is, as in the flags.
    kind: u8,
    /// Which part it is, from 0.
    pub index: usize,
    /// The whole payload's length, in bytes.
    pub length: usize,
    /// The part's bytes.
    pub bytes: Bytes,
}

impl Part {
    /// How many parts the publication has.
    pub fn count(&self) -> usize {
        self.length.div_ceil(PART_BYTES)
    }

    /// The publication, of which this is a part and `payload` the whole payload.
    ///
    /// # Errors
    /// Where the payload is not of its kind.
    pub fn complete(self, payload: &[u8]) -> Result<Arrival, Malformed> {
        let Self { offset, time, key, id, kind, .. } = self;
        let payload = super::payload(kind, payload)?;
        let draft = Draft { key, id, ..Draft::new(payload) };
        Ok(Arrival { offset, time, draft })
    }
}

/// Acknowledges packets: the newest that was taken in, and which of those before it were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ack {
    /// The newest.
    pub newest: u64,
    /// Bit *i*: `newest - 1 - i` was taken in too.
    pub bitmap: u64,
}

impl Ack {
    /// How many packets before the newest can be named.
    pub const BITS: u32 = 62;

    /// The packets that it names, the newest first.
    pub fn numbers(self) -> impl Iterator<Item = u64> {
        let before = (0..u64::from(Self::BITS)).filter(move |bit| self.bitmap >> bit & 1 == 1);
        std::iter::once(self.newest).chain(before.filter_map(move |bit| self.newest.checked_sub(bit + 1)))
    }
}

/// The frame of an acknowledgement.
pub fn encode_ack(ack: Ack) -> Bytes {
    let mut out = Vec::with_capacity(17);
    out.push(ACK);
    varint::write(&mut out, ack.newest.min(NUMBER));
    varint::write(&mut out, ack.bitmap & varint::MAX);
    out.into()
}

/// Whether a frame says that it is an `ack`.
pub fn is_ack(frame: &[u8]) -> bool {
    frame.first() == Some(&ACK)
}

/// Reads an `ack` frame.
///
/// # Errors
/// What is wrong with it; another frame than `ack` is wrong.
pub fn decode_ack(frame: &[u8]) -> Result<Ack, Problem> {
    let mut input = Input { rest: frame };
    if input.byte()? != ACK {
        return Err(bad("a client's datagram holds acknowledgements only"));
    }
    let ack = Ack { newest: input.integer()?, bitmap: input.wide()? };
    input.end()?;
    if ack.newest == 0 { Err(bad("packets are numbered from 1")) } else { Ok(ack) }
}

/// What an entry has of the one before it.
#[derive(Debug, Default)]
struct Before<Key> {
    /// Those that hold on.
    flags: u8,
    /// The low-water offset before the first of a channel.
    offset: Offset,
    time: u64,
    /// Of the bytes of a payload.
    length: u64,
    key: Key,
}

/// Reads what follows the type byte of a `values` frame.
pub(super) fn decode(input: &mut Input<'_>) -> Result<Values, Problem> {
    let number = input.integer()?;
    if number == 0 {
        return Err(bad("packets are numbered from 1"));
    }
    let (mut entries, mut channel, mut before) = (Vec::new(), None, Before::<KeyRead>::default());
    while !input.rest.is_empty() {
        let head = input.byte()?;
        let flags = if head & SAYS_FLAGS == 0 { before.flags } else { input.byte()? };
        before.flags = flags & HOLD_ON;
        if flags & OTHER_CHANNEL != 0 {
            let (alias, low) = (input.integer()?, input.offset()?);
            (channel, before.offset) = (Some((alias, low)), low);
        }
        let Some((alias, low)) = channel else {
            return Err(bad("the first entry names no channel"));
        };
        let content = if flags == OTHER_CHANNEL | POSITION_ONLY && head == SAYS_FLAGS {
            Content::Position
        } else {
            content(input, head, flags, low, &mut before)?
        };
        entries.push(Entry { alias, low, content });
    }
    Ok(Values { number, entries })
}

fn content(
    input: &mut Input<'_>,
    head: u8,
    flags: u8,
    low: Offset,
    before: &mut Before<KeyRead>,
) -> Result<Content, Problem> {
    let kind = flags & KIND;
    let removed = flags & REMOVED != 0;
    if flags & !(HOLD_ON | OTHER_CHANNEL) != 0
        || kind == KIND
        || removed && (flags & (IS_PART | KIND) != 0 || head & SAYS_LENGTH != 0)
    {
        return Err(bad("flags that do not go together"));
    }
    let step = if head & SAYS_OFFSET == 0 { 1 } else { unzigzag(input.wide()?) };
    let offset = before.offset.get().checked_add_signed(step).and_then(Offset::new);
    let offset = offset.filter(|offset| *offset > low);
    let offset =
        offset.ok_or_else(|| bad("an entry's offset lies above its low-water offset and below 2^53"))?;
    before.offset = offset;
    if head & SAYS_TIME != 0 {
        let time = before.time.checked_add_signed(unzigzag(input.wide()?)).filter(|time| *time <= NUMBER);
        before.time = time.ok_or_else(|| bad("a time lies at 1970 or after, and below 2^53"))?;
    }
    let time = before.time;
    let key = before.key.read(head & KEY, input)?;
    let id = if flags & HAS_ID == 0 { None } else { Some(PublicationId::parse(input.string()?)?) };
    if removed {
        return Ok(Content::Whole(Arrival { offset, time, draft: Draft { id, ..Draft::removal(key) } }));
    }
    let part_of = if flags & IS_PART == 0 { None } else { Some((input.integer()?, input.integer()?)) };
    if head & SAYS_LENGTH != 0 {
        before.length = input.integer()?;
    }
    let bytes = input.take(usize::try_from(before.length).unwrap_or(usize::MAX))?;
    let Some((index, length)) = part_of else {
        let payload = super::payload(kind, bytes)?;
        return Ok(Content::Whole(Arrival { offset, time, draft: Draft { key, id, ..Draft::new(payload) } }));
    };
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > PARTS * PART_BYTES || part(length, index).is_none_or(|range| range.len() != bytes.len()) {
        return Err(bad("no part of its payload"));
    }
    let bytes = Bytes::copy_from_slice(bytes);
    Ok(Content::Part(Part { offset, time, key, id, kind, index, length, bytes }))
}

/// Which bytes of a payload its part `index` has; `None` where there is no such part.
fn part(length: usize, index: usize) -> Option<std::ops::Range<usize>> {
    let start = index.checked_mul(PART_BYTES).filter(|start| *start < length)?;
    Some(start..length.min(start + PART_BYTES))
}

fn zigzag(n: i64) -> u64 {
    (n << 1 ^ n >> 63) as u64
}

fn unzigzag(n: u64) -> i64 {
    (n >> 1) as i64 ^ -((n & 1) as i64)
}

/// What of a publication an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Whole,
    /// The part of this number.
    Part(u8),
}

/// An entry that brings a value, as it is written.
struct Fields<'a> {
    /// Says which of these stand there.
    head: u8,
    flags: u8,
    channel: Option<(u64, Offset)>,
    step: u64,
    later: u64,
    key: Change<'a>,
    /// Empty without one.
    id: &'a str,
    /// Its number, and the length of the whole payload.
    part: Option<(u8, usize)>,
    bytes: &'a [u8],
}

impl Fields<'_> {
    /// No more than this, in bytes, which is quicker to tell than the size.
    fn most(&self) -> usize {
        // Head, flags, and ten numbers.
        2 + 10 * 8 + self.key.most() + self.id.len() + self.bytes.len()
    }

    fn size(&self) -> usize {
        let optional = |flag, size| if self.head & flag == 0 { 0 } else { size };
        let numbers = optional(SAYS_OFFSET, varint::size(self.step))
            + optional(SAYS_TIME, varint::size(self.later))
            + optional(SAYS_LENGTH, varint::size(self.bytes.len() as u64));
        let channel = self.channel.map_or(0, |(alias, low)| varint::size(alias) + varint::size(low.get()));
        let part =
            self.part.map_or(0, |(index, whole)| varint::size(index.into()) + varint::size(whole as u64));
        let id = if self.id.is_empty() { 0 } else { varint::size(self.id.len() as u64) + self.id.len() };
        1 + optional(SAYS_FLAGS, 1) + channel + numbers + self.key.size() + id + part + self.bytes.len()
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.head);
        if self.head & SAYS_FLAGS != 0 {
            out.push(self.flags);
        }
        if let Some((alias, low)) = self.channel {
            varint::write(out, alias);
            varint::write(out, low.get());
        }
        if self.head & SAYS_OFFSET != 0 {
            varint::write(out, self.step);
        }
        if self.head & SAYS_TIME != 0 {
            varint::write(out, self.later);
        }
        self.key.write(out);
        if !self.id.is_empty() {
            write_string(out, self.id);
        }
        if let Some((index, whole)) = self.part {
            varint::write(out, index.into());
            varint::write(out, whole as u64);
        }
        if self.head & SAYS_LENGTH != 0 {
            varint::write(out, self.bytes.len() as u64);
        }
        out.extend_from_slice(self.bytes);
    }
}

/// Writes a `values` frame into a packet of bounded size.
#[derive(Debug)]
pub(crate) struct ValuesWriter {
    out: Vec<u8>,
    /// Where the frame begins; before it come what the packet begins with, and the frame's length.
    frame: usize,
    room: usize,
    channel: Option<u64>,
    before: Before<KeyWritten>,
}

impl ValuesWriter {
    /// A datagram, written to the empty `out`, that begins with `prefix` and has at most `room` bytes.
    pub(crate) fn datagram(mut out: Vec<u8>, number: u64, prefix: &[u8], room: usize) -> Self {
        out.reserve_exact(room.min(64 * 1024));
        out.extend_from_slice(prefix);
        // The frame's length, in the form of two bytes, which is filled in at the end.
        out.extend_from_slice(&[0x40, 0]);
        let frame = out.len();
        // A length of two bytes says no more.
        Self::new(out, frame, number, room.min(frame + 0x3fff))
    }

    /// A frame for a stream, without its length.
    pub(crate) fn stream(number: u64, capacity: usize) -> Self {
        Self::new(Vec::with_capacity(capacity), 0, number, usize::MAX)
    }

    fn new(mut out: Vec<u8>, frame: usize, number: u64, room: usize) -> Self {
        out.push(VALUES);
        varint::write(&mut out, number);
        Self { out, frame, room, channel: None, before: Before::default() }
    }

    /// Whether it has no entry yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.channel.is_none()
    }

    /// Whether so many bytes more have room.
    fn has_room(&self, bytes: usize) -> bool {
        bytes <= self.room.saturating_sub(self.out.len())
    }

    /// Adds an entry without a value. Whether there was room.
    pub(crate) fn position(&mut self, alias: u64, low: Offset) -> bool {
        if !self.has_room(2 + varint::size(alias) + varint::size(low.get())) {
            return false;
        }
        self.out.extend_from_slice(&[SAYS_FLAGS, OTHER_CHANNEL | POSITION_ONLY]);
        varint::write(&mut self.out, alias);
        varint::write(&mut self.out, low.get());
        self.channel = Some(alias);
        (self.before.flags, self.before.offset) = (0, low);
        true
    }

    /// Adds a value of the channel `alias`, or a part of one. Whether there was room.
    pub(crate) fn push(&mut self, alias: u64, low: Offset, publication: &Publication, piece: Piece) -> bool {
        let Publication { offset, time, draft, .. } = publication;
        let payload: &[u8] = draft.payload.as_ref().map_or(&[], |payload| payload.bytes());
        let (bytes, part) = match piece {
            Piece::Whole => (payload, None),
            Piece::Part(index) => {
                let range = part(payload.len(), index.into()).unwrap_or(0..0);
                (&payload[range], Some((index, payload.len())))
            }
        };
        let channel = if self.channel == Some(alias) { None } else { Some((alias, low)) };
        let flags = super::content_flags(draft) & !HAS_KEY
            | if part.is_some() { IS_PART } else { 0 }
            | if channel.is_some() { OTHER_CHANNEL } else { 0 };
        let from = if channel.is_some() { low } else { self.before.offset };
        let time = (*time).min(NUMBER);
        let key = self.before.key.change(&draft.key);
        let mut fields = Fields {
            head: key.how,
            flags,
            channel,
            step: zigzag(offset.get().wrapping_sub(from.get()) as i64),
            later: zigzag(time.wrapping_sub(self.before.time) as i64),
            key,
            id: draft.id.as_ref().map_or("", PublicationId::as_str),
            part,
            bytes,
        };
        fields.head |= if flags == self.before.flags { 0 } else { SAYS_FLAGS };
        fields.head |= if fields.step == NEXT { 0 } else { SAYS_OFFSET };
        fields.head |= if fields.later == 0 { 0 } else { SAYS_TIME };
        let is_as_long = bytes.len() as u64 == self.before.length || draft.payload.is_none();
        fields.head |= if is_as_long { 0 } else { SAYS_LENGTH };
        if !self.has_room(fields.most()) && !self.has_room(fields.size()) {
            return false;
        }
        fields.write(&mut self.out);
        self.channel = Some(alias);
        self.before.flags = flags & HOLD_ON;
        (self.before.offset, self.before.time) = (*offset, time);
        if !is_as_long {
            self.before.length = bytes.len() as u64;
        }
        self.before.key.keep(&fields.key);
        true
    }

    /// The packet.
    pub(crate) fn finish(mut self) -> Bytes {
        if self.frame >= 2 {
            let length = (self.out.len() - self.frame) as u16 | 0x4000;
            self.out[self.frame - 2..self.frame].copy_from_slice(&length.to_be_bytes());
        }
        self.out.into()
    }
}

/// How many parts a payload of this length has; `None` where it is too large for parts.
pub(crate) fn parts(length: usize) -> Option<NonZeroU8> {
    let count = length.div_ceil(PART_BYTES);
    if count > PARTS { None } else { NonZeroU8::new(count as u8) }
}

#[cfg(test)]
mod tests;
