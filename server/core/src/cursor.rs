//! Cursors: a position in each of a set of channels, in one string. PROTOCOL.md, section 3.

use std::fmt::Write as _;

use crate::{
    limits,
    name::ChannelName,
    position::{Epoch, Offset, Position},
    problem::{Code, Problem},
};

/// Where to read on: a position, and for a state snapshot that was under way, what it began at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// What was read.
    pub position: Position,
    /// A snapshot that began when the log's head was this had been read as far as `position`.
    pub base: Option<Offset>,
}

impl From<Position> for Resume {
    fn from(position: Position) -> Self {
        Self { position, base: None }
    }
}

/// A parsed cursor. Look channels up in it by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    entries: Vec<(u64, Resume)>,
}

impl Cursor {
    /// Reads a cursor string.
    ///
    /// # Errors
    /// `bad_cursor` when it is longer than 2,048 bytes or not of the grammar.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let bad = || Problem::new(Code::BadCursor, "not a cursor; leave it out to begin from now");
        if text.is_empty() || text.len() > limits::CURSOR_BYTES {
            return Err(bad());
        }
        let mut entries = Vec::new();
        for entry in text.split('~') {
            let mut fields = entry.split('.');
            let hash = fields.next().filter(|hash| hash.len() == 16 && is_lower_hex(hash)).ok_or_else(bad)?;
            let hash = u64::from_str_radix(hash, 16).map_err(|_| bad())?;
            let epoch = Epoch::parse(fields.next().ok_or_else(bad)?)?;
            let offset = parse_base36(fields.next().ok_or_else(bad)?).ok_or_else(bad)?;
            let base = match fields.next() {
                None => None,
                Some(base) => Some(parse_base36(base).filter(|base| *base >= offset).ok_or_else(bad)?),
            };
            if fields.next().is_some() || entries.len() == limits::CURSOR_CHANNELS {
                return Err(bad());
            }
            entries.push((hash, Resume { position: Position { epoch, offset }, base }));
        }
        Ok(Self { entries })
    }

    /// Where to read on in `channel`, if the cursor says.
    pub fn get(&self, channel: &ChannelName) -> Option<&Resume> {
        let hash = fnv1a(channel.as_str().as_bytes());
        self.entries.iter().find(|(h, _)| *h == hash).map(|(_, resume)| resume)
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut writer = CursorWriter::default();
        for (hash, Resume { position, base }) in &self.entries {
            writer.push_hashed(*hash, &position.epoch, position.offset, *base);
        }
        f.write_str(&writer.text)
    }
}

/// Writes a cursor string, entry by entry.
#[derive(Debug, Default)]
pub struct CursorWriter {
    text: String,
}

impl CursorWriter {
    /// Adds a channel. At most 32, of which one may have a `base`, keep within the bound of a cursor.
    pub fn push(&mut self, channel: &ChannelName, epoch: &Epoch, offset: Offset, base: Option<Offset>) {
        self.push_hashed(fnv1a(channel.as_str().as_bytes()), epoch, offset, base);
    }

    fn push_hashed(&mut self, hash: u64, epoch: &Epoch, offset: Offset, base: Option<Offset>) {
        if !self.text.is_empty() {
            self.text.push('~');
        }
        // Writing to a String does not fail.
        let _ = write!(self.text, "{hash:016x}.{}.", epoch.as_str());
        push_base36(&mut self.text, offset.get());
        if let Some(base) = base {
            self.text.push('.');
            push_base36(&mut self.text, base.get());
        }
    }

    /// The string; empty when nothing was added.
    pub fn finish(self) -> String {
        self.text
    }
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn parse_base36(text: &str) -> Option<Offset> {
    // 2^53 has 11 digits in base 36.
    let canonical = (1..=11).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
        && (text.len() == 1 || !text.starts_with('0'));
    if !canonical {
        return None;
    }
    Offset::new(u64::from_str_radix(text, 36).ok()?)
}

fn push_base36(out: &mut String, mut n: u64) {
    let mut digits = [0u8; 13];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdefghijklmnopqrstuvwxyz"[(n % 36) as usize];
        n /= 36;
        if n == 0 {
            break;
        }
    }
    out.extend(digits[at..].iter().map(|digit| char::from(*digit)));
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_cursor_fits_the_bound() {
        let mut writer = CursorWriter::default();
        for n in 0..limits::CURSOR_CHANNELS {
            let name = ChannelName::parse(&format!("{}{n}", "c".repeat(253))).expect("a name");
            let epoch = Epoch::parse(&"e".repeat(32)).expect("an epoch");
            writer.push(&name, &epoch, Offset::MAX, (n == 0).then_some(Offset::MAX));
        }
        let text = writer.finish();
        assert!(text.len() <= limits::CURSOR_BYTES, "{} bytes", text.len());
        let cursor = Cursor::parse(&text).expect("its own writing");
        assert_eq!(cursor.entries.len(), limits::CURSOR_CHANNELS);
    }

    #[test]
    fn what_is_not_a_cursor_is_refused() {
        let long = "a".repeat(3000);
        let texts = [
            "",
            "x",
            "0123456789abcdef",
            "0123456789abcdef.e",
            "0123456789abcdef.e.",
            "0123456789abcdef.e.-1",
            "0123456789abcdef.e.01",
            "0123456789ABCDEF.e.1",
            "0123456789abcdef.e.1.0",
            "0123456789abcdef.e.1.2.3",
            "0123456789abcdef.e.zzzzzzzzzzzz",
            "0123456789abcdef.e!.1",
            "0123456789abcdef..1",
            "0123456789abcdef.e.1~",
            "+123456789abcdef.e.1",
            long.as_str(),
        ];
        for text in texts {
            assert!(Cursor::parse(text).is_err(), "{text:?}");
        }
    }
}
