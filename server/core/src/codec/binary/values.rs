//! The `values` frame, and `ack`, which answers it. PROTOCOL.md, section 9.

use std::num::NonZeroU8;

use bytes::Bytes;

use super::{
    ACK, HAS_ID, HAS_KEY, IS_PART, Input, KIND, LIKE_BEFORE, Malformed, NUMBER, OTHER_CHANNEL, POSITION_ONLY,
    REMOVED, VALUES, bad, varint, write_string,
};
use crate::{
    limits::{PART_BYTES, PARTS},
    name::{Key, PublicationId},
    payload::Payload,
    position::Offset,
    problem::Problem,
    publication::{Draft, Publication},
};

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

/// Reads what follows the type byte of a `values` frame.
pub(super) fn decode(input: &mut Input<'_>) -> Result<Values, Problem> {
    let (number, base) = (input.integer()?, input.integer()?);
    if number == 0 {
        return Err(bad("packets are numbered from 1"));
    }
    let (mut entries, mut channel) = (Vec::new(), None);
    let mut before = Before { offset: Offset::ZERO, like: None };
    while !input.rest.is_empty() {
        let flags = input.byte()?;
        if flags & OTHER_CHANNEL != 0 {
            let (alias, low) = (input.integer()?, input.offset()?);
            (channel, before.offset) = (Some((alias, low)), low);
        }
        let Some((alias, low)) = channel else {
            return Err(bad("the first entry names no channel"));
        };
        let content = if flags == OTHER_CHANNEL | POSITION_ONLY {
            before.like = None;
            Content::Position
        } else {
            content(input, flags, low, base, &mut before)?
        };
        entries.push(Entry { alias, low, content });
    }
    Ok(Values { number, entries })
}

/// What an entry has of the one before it.
struct Before {
    offset: Offset,
    /// Time and length of its payload, if both stood there.
    like: Option<(u64, usize)>,
}

fn content(
    input: &mut Input<'_>,
    flags: u8,
    low: Offset,
    base: u64,
    before: &mut Before,
) -> Result<Content, Problem> {
    let kind = flags & KIND;
    let like = flags & LIKE_BEFORE != 0;
    if kind == KIND
        || flags & REMOVED != 0 && flags & (IS_PART | KIND | LIKE_BEFORE) != 0
        || like && flags & (IS_PART | OTHER_CHANNEL) != 0
    {
        return Err(bad("flags that do not go together"));
    }
    let offset = before.offset.get().checked_add_signed(unzigzag(input.wide()?)).and_then(Offset::new);
    let offset = offset.filter(|offset| *offset > low);
    let offset =
        offset.ok_or_else(|| bad("an entry's offset lies above its low-water offset and below 2^53"))?;
    before.offset = offset;
    if like {
        let (time, length) = before.like.ok_or_else(|| bad("nothing stands before it"))?;
        let (key, id) = names(input, flags)?;
        let payload = super::payload(kind, input.take(length)?)?;
        return Ok(Content::Whole(Arrival { offset, time, draft: Draft { key, id, ..Draft::new(payload) } }));
    }
    before.like = None;
    let time = base.checked_add_signed(unzigzag(input.wide()?)).filter(|time| *time <= NUMBER);
    let time = time.ok_or_else(|| bad("a time lies at 1970 or after, and below 2^53"))?;
    let (key, id) = names(input, flags)?;
    if flags & IS_PART != 0 {
        let index = usize::try_from(input.integer()?).unwrap_or(usize::MAX);
        let length = usize::try_from(input.integer()?).unwrap_or(usize::MAX);
        let bytes = Bytes::copy_from_slice(input.bytes()?);
        if length > PARTS * PART_BYTES || part(length, index).is_none_or(|range| range.len() != bytes.len()) {
            return Err(bad("no part of its payload"));
        }
        return Ok(Content::Part(Part { offset, time, key, id, kind, index, length, bytes }));
    }
    let draft = match flags & REMOVED {
        0 => {
            let payload = super::payload(kind, input.bytes()?)?;
            before.like = Some((time, payload.bytes().len()));
            Draft { key, id, ..Draft::new(payload) }
        }
        _ => Draft { id, ..Draft::removal(key) },
    };
    Ok(Content::Whole(Arrival { offset, time, draft }))
}

fn names(input: &mut Input<'_>, flags: u8) -> Result<(Key, Option<PublicationId>), Problem> {
    let key = if flags & HAS_KEY == 0 { Key::default() } else { Key::parse(input.string()?)? };
    let id = if flags & HAS_ID == 0 { None } else { Some(PublicationId::parse(input.string()?)?) };
    Ok((key, id))
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

/// Writes a `values` frame into a packet of bounded size.
#[derive(Debug)]
pub(crate) struct ValuesWriter {
    out: Vec<u8>,
    /// Where the frame begins; before it come what the packet begins with, and the frame's length.
    frame: usize,
    number: u64,
    room: usize,
    base: Option<u64>,
    channel: Option<u64>,
    /// The offset before, or the low-water offset before it.
    offset: Offset,
    /// Time and length of the payload before, where both stand there.
    like: Option<(u64, usize)>,
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

    fn new(out: Vec<u8>, frame: usize, number: u64, room: usize) -> Self {
        Self { out, frame, number, room, base: None, channel: None, offset: Offset::ZERO, like: None }
    }

    /// Whether it has no entry yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.base.is_none()
    }

    fn begin(&mut self, time: u64) -> u64 {
        *self.base.get_or_insert_with(|| {
            self.out.push(VALUES);
            varint::write(&mut self.out, self.number);
            varint::write(&mut self.out, time.min(NUMBER));
            time.min(NUMBER)
        })
    }

    /// Adds an entry without a value. Whether there was room.
    pub(crate) fn position(&mut self, alias: u64, low: Offset) -> bool {
        let (before, base) = (self.out.len(), self.base);
        self.begin(0);
        self.out.push(OTHER_CHANNEL | POSITION_ONLY);
        varint::write(&mut self.out, alias);
        varint::write(&mut self.out, low.get());
        self.keep(before, base, alias, low, None)
    }

    /// Adds a value of the channel `alias`, or a part of one. Whether there was room.
    pub(crate) fn push(&mut self, alias: u64, low: Offset, publication: &Publication, piece: Piece) -> bool {
        let Publication { offset, time, draft, .. } = publication;
        let (before, before_base) = (self.out.len(), self.base);
        let payload = draft.payload.as_ref().map(Payload::bytes);
        let room = self.room.saturating_sub(before);
        let whole = payload.map_or(0, |payload| payload.len());
        let range = match piece {
            Piece::Whole => 0..whole,
            Piece::Part(index) => part(whole, usize::from(index)).unwrap_or(0..0),
        };
        if range.len() > room {
            return false;
        }
        let base = self.begin(*time);
        let other = self.channel != Some(alias);
        let out = &mut self.out;
        // What an entry after this may leave out.
        let own = payload.filter(|_| piece == Piece::Whole).map(|payload| (*time, payload.len()));
        let like = !other && own.is_some() && own == self.like;
        let mut flags = super::content_flags(draft);
        flags |= if other { OTHER_CHANNEL } else { 0 };
        flags |= if like { LIKE_BEFORE } else { 0 };
        flags |= if piece == Piece::Whole { 0 } else { IS_PART };
        out.push(flags);
        if other {
            varint::write(out, alias);
            varint::write(out, low.get());
        }
        let from = if other { low } else { self.offset };
        varint::write(out, zigzag(offset.get().wrapping_sub(from.get()) as i64));
        if !like {
            varint::write(out, zigzag((*time).min(NUMBER).wrapping_sub(base) as i64));
        }
        if !draft.key.is_empty() {
            write_string(out, draft.key.as_str());
        }
        if let Some(id) = &draft.id {
            write_string(out, id.as_str());
        }
        if let Piece::Part(index) = piece {
            varint::write(out, u64::from(index));
            varint::write(out, whole as u64);
        }
        if let Some(payload) = payload {
            let bytes = &payload[range];
            if !like {
                varint::write(out, bytes.len() as u64);
            }
            out.extend_from_slice(bytes);
        }
        self.keep(before, before_base, alias, *offset, own)
    }

    /// Takes back what was written after `before` if it is too much.
    fn keep(
        &mut self,
        before: usize,
        base: Option<u64>,
        channel: u64,
        offset: Offset,
        like: Option<(u64, usize)>,
    ) -> bool {
        if self.out.len() > self.room {
            self.out.truncate(before);
            self.base = base;
            return false;
        }
        (self.channel, self.offset, self.like) = (Some(channel), offset, like);
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
