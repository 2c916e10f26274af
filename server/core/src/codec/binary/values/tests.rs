//! What a writer writes is read again, whatever stands behind what, and has room where it says so.

use super::*;
use crate::{
    codec::binary::{ServerFrame, decode_server},
    name::ChannelName,
    payload::Payload,
    position::Epoch,
    time::Now,
};

/// Splitmix64.
struct Rng(u64);

impl Rng {
    /// A number below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ mixed >> 27) % bound
    }
}

/// What is written, and what is to be read of it.
enum Item {
    Position(u64, Offset),
    Value(u64, Offset, Box<Publication>, Piece),
}

impl Item {
    fn write(&self, writer: &mut ValuesWriter) -> bool {
        match self {
            Self::Position(alias, low) => writer.position(*alias, *low),
            Self::Value(alias, low, publication, piece) => writer.push(*alias, *low, publication, *piece),
        }
    }

    fn entry(&self) -> Entry {
        let (alias, low, publication, piece) = match self {
            Self::Position(alias, low) => {
                return Entry { alias: *alias, low: *low, content: Content::Position };
            }
            Self::Value(alias, low, publication, piece) => (*alias, *low, &**publication, *piece),
        };
        let Publication { offset, time, draft, .. } = publication;
        let (offset, time) = (*offset, *time);
        let content = match piece {
            Piece::Whole => Content::Whole(Arrival { offset, time, draft: draft.clone() }),
            Piece::Part(index) => {
                let whole = draft.payload.as_ref().map(Payload::bytes).expect("no removal comes in parts");
                let range = part(whole.len(), index.into()).expect("a part of it");
                Content::Part(Part {
                    offset,
                    time,
                    key: draft.key.clone(),
                    id: draft.id.clone(),
                    kind: crate::codec::binary::content_flags(draft) & KIND,
                    index: index.into(),
                    length: whole.len(),
                    bytes: Bytes::copy_from_slice(&whole[range]),
                })
            }
        };
        Entry { alias, low, content }
    }
}

fn key(rng: &mut Rng, n: u64) -> String {
    match rng.below(8) {
        0 => format!("player:{}", rng.below(3_000)),
        1 => format!("{:016x}", rng.below(u64::MAX)),
        2 => ["", "ü", "ý", "卵", "🥚", "\u{7f}", "\u{80}"][rng.below(7) as usize].to_owned(),
        3 => "l".repeat(rng.below(256) as usize),
        _ => format!("k{n}"),
    }
}

fn draft(rng: &mut Rng, n: u64) -> Draft {
    let key = Key::parse(&key(rng, n)).unwrap_or_default();
    let id = (rng.below(6) == 0).then(|| PublicationId::parse(&format!("id-{n}")).expect("an id"));
    let length = [0, 1, 4, 4, 4, 63, 64, 200][rng.below(8) as usize];
    let payload = match rng.below(6) {
        0 => return Draft { id, ..Draft::removal(key) },
        1 => Payload::json(format!("{}", rng.below(100)).as_bytes()).expect("JSON"),
        2 => Payload::text("t".repeat(length)),
        _ => Payload::Binary(vec![7; length].into()),
    };
    Draft { key, id, ..Draft::new(payload) }
}

/// A run of entries, of a few channels that have each its low-water offset.
fn items(rng: &mut Rng) -> Vec<Item> {
    let lows = [0, 5, 16_000, 1 << 40].map(|low| Offset::new(low).expect("below 2^53"));
    let (mut alias, mut at, mut time) = (0, 0, rng.below(2_000_000_000_000));
    let mut items = Vec::new();
    for n in 0..rng.below(40) {
        if n == 0 || rng.below(8) == 0 {
            alias = rng.below(4);
            at = lows[alias as usize].get();
            if rng.below(4) == 0 {
                items.push(Item::Position(alias, lows[alias as usize]));
                continue;
            }
        }
        let low = lows[alias as usize];
        at = match rng.below(4) {
            0 => low.get() + 1 + rng.below(100_000),
            _ => at + 1,
        };
        time = match rng.below(4) {
            0 => rng.below(NUMBER + 1),
            1 => (time + rng.below(100)).min(NUMBER),
            _ => time,
        };
        let mut draft = draft(rng, n);
        let mut piece = Piece::Whole;
        if rng.below(12) == 0 {
            draft.payload = Some(Payload::Binary(vec![9; 2_100].into()));
            piece = Piece::Part(rng.below(3) as u8);
        }
        let offset = Offset::new(at).expect("below 2^53");
        let (name, epoch) = (ChannelName::parse("state:a").expect("a name"), Epoch::from_entropy(0));
        let now = Now { unix_ms: time, ..Now::from_millis(0) };
        let publication = Box::new(Publication::new(name, alias, epoch, offset, now, draft));
        items.push(Item::Value(alias, low, publication, piece));
    }
    items
}

fn read(frame: &[u8]) -> Values {
    match decode_server(frame) {
        Ok(ServerFrame::Values(values)) => values,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_written_is_read() {
    for seed in 0..2_000 {
        let items = items(&mut Rng(seed));
        let mut writer = ValuesWriter::stream(seed + 1, 0);
        assert!(items.iter().all(|item| item.write(&mut writer)), "on a stream there is room");
        let values = read(&writer.finish());
        let entries: Vec<_> = items.iter().map(Item::entry).collect();
        assert_eq!(values, Values { number: seed + 1, entries }, "seed {seed}");
    }
}

#[test]
fn an_entry_is_written_if_it_has_room_and_else_nothing_is() {
    for seed in 0..500 {
        let items = items(&mut Rng(seed));
        let mut writer = ValuesWriter::stream(1, 0);
        let mut sizes = vec![writer.out.len()];
        for item in &items {
            item.write(&mut writer);
            sizes.push(writer.out.len());
        }
        for (count, size) in sizes.iter().enumerate().take(items.len()) {
            // To the last byte, and one byte less than the next would take.
            for room in [*size, sizes[count + 1] - 1] {
                let mut writer = ValuesWriter::stream(1, 0);
                writer.room = room;
                let written = items.iter().take_while(|item| item.write(&mut writer)).count();
                assert_eq!((written, writer.out.len()), (count, *size), "seed {seed}, {room} bytes");
                // What had no room has left no trace.
                writer.room = usize::MAX;
                assert!(items[count].write(&mut writer));
                assert_eq!(writer.out.len(), sizes[count + 1], "seed {seed}, {room} bytes");
                let entries: Vec<_> = items[..=count].iter().map(Item::entry).collect();
                assert_eq!(read(&writer.finish()).entries, entries, "seed {seed}, {room} bytes");
            }
        }
    }
}

#[test]
fn no_change_of_a_byte_makes_the_decoder_panic_or_give_more_than_came() {
    for seed in 0..200 {
        let mut rng = Rng(seed);
        let mut writer = ValuesWriter::stream(1, 0);
        items(&mut rng).iter().for_each(|item| _ = item.write(&mut writer));
        let frame = writer.finish();
        for _ in 0..50 {
            let mut changed = frame.to_vec();
            for _ in 0..=rng.below(3) {
                let at = rng.below(changed.len() as u64) as usize;
                changed[at] = rng.below(256) as u8;
            }
            changed.truncate(1 + rng.below(changed.len() as u64) as usize);
            if let Ok(ServerFrame::Values(values)) = decode_server(&changed) {
                assert!(values.entries.len() < changed.len(), "an entry has at least a byte");
                let bytes = |entry: &Entry| match &entry.content {
                    Content::Whole(it) => {
                        it.draft.payload.as_ref().map_or(0, |payload| payload.bytes().len())
                    }
                    Content::Part(it) => it.bytes.len(),
                    Content::Position => 0,
                };
                assert!(values.entries.iter().map(bytes).sum::<usize>() < changed.len());
            }
        }
    }
}

/// As in `fulmar bench age`.
#[test]
fn numbered_keys_of_one_moment_take_a_byte_each() {
    let mut writer = ValuesWriter::stream(1, 0);
    let mut sizes = Vec::new();
    for n in 0..30 {
        let draft = Draft {
            key: Key::parse(&format!("k{n}")).expect("a key"),
            ..Draft::new(Payload::Binary(vec![0; 64].into()))
        };
        let (name, epoch) = (ChannelName::parse("state:a").expect("a name"), Epoch::from_entropy(0));
        let offset = Offset::new(101 + n).expect("below 2^53");
        let now = Now { unix_ms: 1_764_000_000_123, ..Now::from_millis(0) };
        let publication = Publication::new(name, 3, epoch, offset, now, draft);
        let before = writer.out.len();
        assert!(writer.push(3, Offset::new(100).expect("below 2^53"), &publication, Piece::Whole));
        sizes.push(writer.out.len() - before - 64);
    }
    let (first, rest) = sizes.split_first().expect("some");
    // Head, flags, alias, low (2), time (8), key, length (2).
    assert_eq!(*first, 1 + 1 + 1 + 2 + 8 + 2 + 2);
    assert_eq!(rest.iter().filter(|size| **size == 1).count(), 27);
    assert_eq!(
        rest.iter().filter(|size| **size == 3).count(),
        2,
        "10 behind 9, 20 behind 19: two bytes more"
    );
}
