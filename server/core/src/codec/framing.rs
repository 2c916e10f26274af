//! Frames behind their lengths: on streams and inside datagrams. PROTOCOL.md, section 5.

use std::fmt;

use super::varint;
use bytes::{Buf as _, Bytes, BytesMut};

/// A frame with its length before it.
pub fn prefixed(frame: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(frame.len() + 8);
    varint::write(&mut out, frame.len() as u64);
    out.extend_from_slice(frame);
    out.into()
}

/// A frame says that it is longer than any may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    /// What it says, in bytes.
    pub length: u64,
    /// What is allowed, in bytes.
    pub most: usize,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a frame of {} bytes; {} is the most", self.length, self.most)
    }
}

impl std::error::Error for TooLong {}

/// Cuts a stream into frames, and holds no more of it than one frame and one chunk.
#[derive(Debug)]
pub struct Splitter {
    buffer: BytesMut,
    most: usize,
}

impl Splitter {
    /// For a stream whose frames have at most `most` bytes.
    pub fn new(most: usize) -> Self {
        Self { buffer: BytesMut::new(), most }
    }

    /// Takes in bytes.
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// Whether nothing waits here, not even the beginning of a frame.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// How long the frame at the front is, if that much of it has come.
    pub fn begun(&self) -> Option<usize> {
        let (length, _) = varint::read(&self.buffer)?;
        Some(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// The next frame that is complete.
    ///
    /// # Errors
    /// [`TooLong`] at the length of a frame above the bound, now and from then on.
    pub fn take(&mut self) -> Result<Option<Bytes>, TooLong> {
        let Some((length, after)) = varint::read(&self.buffer) else {
            if self.buffer.is_empty() {
                // An idle stream keeps no buffer.
                self.buffer = BytesMut::new();
            }
            return Ok(None);
        };
        let end = match usize::try_from(length) {
            Ok(length) if length <= self.most => after + length,
            _ => return Err(TooLong { length, most: self.most }),
        };
        if self.buffer.len() < end {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(end);
        frame.advance(after);
        Ok(Some(frame.freeze()))
    }
}

/// The frames of a datagram, which holds whole ones only; `None` when it does not.
pub fn split_datagram(mut datagram: &[u8]) -> Option<Vec<&[u8]>> {
    let mut frames = Vec::new();
    while !datagram.is_empty() {
        let (length, after) = varint::read(datagram)?;
        let end = after.checked_add(usize::try_from(length).ok()?)?;
        frames.push(datagram.get(after..end)?);
        datagram = &datagram[end..];
    }
    Some(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_comes_in_pieces_of_any_size() {
        let frames = [vec![], vec![1; 63], vec![2; 64], vec![3; 20_000]];
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| prefixed(frame)).collect();
        for size in [1, 2, 7, 1000, bytes.len()] {
            let (mut splitter, mut found) = (Splitter::new(20_000), Vec::new());
            for piece in bytes.chunks(size) {
                splitter.push(piece);
                while let Some(frame) = splitter.take().expect("short enough") {
                    found.push(frame.to_vec());
                }
            }
            assert_eq!(found, frames, "in pieces of {size}");
        }
        assert_eq!(split_datagram(&bytes).expect("whole frames"), frames);
        assert_eq!(split_datagram(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn a_frame_above_the_bound_is_refused_by_its_length() {
        for length in [101, varint::MAX] {
            let mut splitter = Splitter::new(100);
            let mut head = Vec::new();
            varint::write(&mut head, length);
            splitter.push(&head);
            assert_eq!(splitter.take(), Err(TooLong { length, most: 100 }));
            assert_eq!(split_datagram(&head), None);
        }
    }
}
