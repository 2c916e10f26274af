//! The keys of a `values` frame, each by what it has of the one before it. PROTOCOL.md, section 9.

use std::str;

use super::{Input, bad, varint};
use crate::{limits::KEY_BYTES, name::Key, problem::Problem};

// How a key stands in its entry. Any other number: its upper two bits say how many bytes less it has of the one before, its
// lower two how many it has instead.
const AS_BEFORE: u8 = 0;
/// The last byte is one more.
const COUNTED_ON: u8 = 4;
/// In full.
const AFRESH: u8 = 8;
/// How many bytes it shares with the one before, and the rest.
const SHARING: u8 = 12;
/// The most that two bits say.
const FEW: usize = 3;

/// How much of a key a writer remembers, in bytes: no key shares more with the one before. It stands in every writer, one of
/// which is made for every datagram.
const REMEMBERED: usize = 64;

/// The key that was written last.
#[derive(Debug)]
pub(super) struct KeyWritten {
    bytes: [u8; REMEMBERED],
    /// Of the whole key.
    length: usize,
}

/// The key that was read last.
#[derive(Debug)]
pub(super) struct KeyRead {
    bytes: [u8; KEY_BYTES],
    length: usize,
}

/// How a key follows on the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change<'a> {
    /// The lower half of the entry's head.
    pub(super) how: u8,
    /// How many bytes it has of the one before.
    shared: usize,
    rest: &'a [u8],
}

impl Change<'_> {
    /// What it takes at most besides the head and two numbers, in bytes.
    pub(super) fn most(&self) -> usize {
        self.rest.len()
    }

    /// What it takes besides the head, in bytes.
    pub(super) fn size(&self) -> usize {
        let rest = self.rest.len();
        match self.how {
            AS_BEFORE | COUNTED_ON => 0,
            AFRESH => varint::size(rest as u64) + rest,
            SHARING => varint::size(self.shared as u64) + varint::size(rest as u64) + rest,
            _ => rest,
        }
    }

    /// Writes that.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self.how {
            AS_BEFORE | COUNTED_ON => return,
            AFRESH => varint::write(out, self.rest.len() as u64),
            SHARING => {
                varint::write(out, self.shared as u64);
                varint::write(out, self.rest.len() as u64);
            }
            _ => {}
        }
        out.extend_from_slice(self.rest);
    }
}

impl Default for KeyWritten {
    fn default() -> Self {
        Self { bytes: [0; REMEMBERED], length: 0 }
    }
}

impl KeyWritten {
    /// How `key` follows.
    pub(super) fn change<'a>(&self, key: &'a Key) -> Change<'a> {
        let (before, key) = (&self.bytes[..self.length.min(REMEMBERED)], key.as_str().as_bytes());
        let same = before.iter().zip(key).take_while(|(a, b)| a == b).count();
        if same == key.len() && same == self.length {
            return Change { how: AS_BEFORE, shared: same, rest: &[] };
        }
        // A key that is the beginning of the one before has a byte of its own all the same.
        let shared = same.min(key.len().saturating_sub(1));
        let (less, rest) = (self.length - shared, &key[shared..]);
        let follows = |last: &u8| less == 1 && last.checked_add(1) == Some(rest[0]);
        let how = match rest.len() {
            1 if before.get(shared).is_some_and(follows) => COUNTED_ON,
            1..=FEW if less <= FEW => (less << 2 | rest.len()) as u8,
            _ if shared > 1 => SHARING,
            _ => return Change { how: AFRESH, shared: 0, rest: key },
        };
        Change { how, shared, rest }
    }

    /// The key that follows so is the one before from now on.
    pub(super) fn keep(&mut self, change: &Change<'_>) {
        self.length = change.shared + change.rest.len();
        if let Some(place) = self.bytes.get_mut(change.shared..) {
            let length = place.len().min(change.rest.len());
            place[..length].copy_from_slice(&change.rest[..length]);
        }
    }
}

impl Default for KeyRead {
    fn default() -> Self {
        Self { bytes: [0; KEY_BYTES], length: 0 }
    }
}

impl KeyRead {
    /// Reads the key that follows.
    pub(super) fn read(&mut self, how: u8, input: &mut Input<'_>) -> Result<Key, Problem> {
        let (shared, rest) = match how {
            AS_BEFORE => (Some(self.length), &[][..]),
            COUNTED_ON => {
                let last = self.bytes[..self.length].last_mut();
                let last = last.ok_or_else(|| bad("the key before has no last byte"))?;
                // What is no UTF-8 any more is refused as such.
                *last = last.wrapping_add(1);
                (Some(self.length), &[][..])
            }
            AFRESH => (Some(0), input.bytes()?),
            SHARING => {
                let shared = usize::try_from(input.integer()?).ok().filter(|shared| *shared <= self.length);
                (shared, input.bytes()?)
            }
            _ => {
                let (less, more) = (usize::from(how >> 2), usize::from(how & 3));
                (self.length.checked_sub(less), input.take(more)?)
            }
        };
        let shared = shared.ok_or_else(|| bad("a key has more of the one before than there is"))?;
        let end = shared.saturating_add(rest.len());
        let place = self.bytes.get_mut(shared..end).ok_or_else(|| bad("a key is at most 255 bytes"))?;
        place.copy_from_slice(rest);
        self.length = end;
        let key = str::from_utf8(&self.bytes[..end]).map_err(|_| bad("a string is not UTF-8"))?;
        if key.is_empty() { Ok(Key::default()) } else { Key::parse(key) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::parse(text).unwrap_or_default()
    }

    /// How `after` follows on `before`, and in how many bytes besides the head.
    fn follows(before: &str, after: &str) -> (u8, usize) {
        let (before, after) = (key(before), key(after));
        let (mut written, mut read) = (KeyWritten::default(), KeyRead::default());
        let mut last = (0, 0);
        for it in [&before, &after] {
            let change = written.change(it);
            let mut out = Vec::new();
            change.write(&mut out);
            assert_eq!(out.len(), change.size());
            let mut input = Input { rest: &out };
            assert_eq!(read.read(change.how, &mut input).as_ref(), Ok(it));
            assert!(input.rest.is_empty());
            last = (change.how, out.len());
            written.keep(&change);
        }
        last
    }

    #[test]
    fn a_key_says_what_differs_from_the_one_before() {
        let long = "l".repeat(255);
        let (remembered, counted) = ("l".repeat(64), "l".repeat(63) + "m");
        for (before, after, how, size) in [
            ("", "", AS_BEFORE, 0),
            ("total", "total", AS_BEFORE, 0),
            ("k1", "k2", COUNTED_ON, 0),
            ("k9", "k10", 1 << 2 | 2, 2),
            ("k19", "k20", 2 << 2 | 2, 2),
            ("k", "k1", 1, 1),
            ("player:17", "player:4", 2 << 2 | 1, 1),
            ("player:17", "player:1", 2 << 2 | 1, 1),
            ("player:1", "player:170", 2, 2),
            ("player:1000", "player:2000", SHARING, 1 + 1 + 4),
            ("player:1", "player:1000", 3, 3),
            ("player:1", "player:10000", SHARING, 1 + 1 + 4),
            ("player:10000", "player:1", SHARING, 1 + 1 + 1),
            ("", "a", 1, 1),
            ("", "player", AFRESH, 1 + 6),
            ("a", "", AFRESH, 1),
            ("player", "a1b2c3", AFRESH, 1 + 6),
            ("p-3141", "p", AFRESH, 2),
            ("ü", "ý", COUNTED_ON, 0),
            ("\u{7f}", "\u{80}", 1 << 2 | 2, 2),
            ("", long.as_str(), AFRESH, 2 + 255),
            (long.as_str(), "l", AFRESH, 2),
            (long.as_str(), "ll", AFRESH, 3),
            (long.as_str(), "lll", SHARING, 3),
            (remembered.as_str(), counted.as_str(), COUNTED_ON, 0),
            (long.as_str(), long.as_str(), SHARING, 2 + 2 + 255 - 64),
        ] {
            assert_eq!(follows(before, after), (how, size), "{after:?} behind {before:?}");
        }
    }

    #[test]
    fn a_key_has_no_more_of_the_one_before_than_there_is() {
        let behind = |before: &str, how: u8, rest: &[u8]| {
            let mut read = KeyRead::default();
            let mut whole = Vec::new();
            varint::write(&mut whole, before.len() as u64);
            whole.extend_from_slice(before.as_bytes());
            read.read(AFRESH, &mut Input { rest: &whole }).expect("a key");
            read.read(how, &mut Input { rest }).is_ok()
        };
        for (before, how, rest) in [
            ("", COUNTED_ON, &[][..]),
            ("", 1 << 2 | 1, b"a"),
            ("ab", 3 << 2 | 1, b"a"),
            ("ab", SHARING, &[3, 1, b'a']),
            ("ab", SHARING, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, b'a']),
            ("\u{7f}", COUNTED_ON, &[]),
            ("ab", 2, b"\xff\xff"),
            ("ab", AFRESH, &[2, b'a']),
            (&"l".repeat(255), 1, b"l"),
        ] {
            assert!(!behind(before, how, rest), "{how} behind {before:?}");
        }
        assert!(behind("ab", 2 << 2 | 1, b"a") && behind("ab", SHARING, &[2, 1, b'a']));
        assert!(behind(&"l".repeat(254), 1, b"l"));
    }
}
