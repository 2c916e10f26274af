//! Watches the HTTP/3 frames of a stream on their way to h3, which keeps a frame until it is whole. RFC 9114, section 7.1.

use crate::{codec::varint, limits};

/// The one type of frame that h3 hands on piece by piece.
const DATA: u64 = 0x0;
/// Two integers: type and length.
const HEADER: usize = 16;

/// Follows the frames of one stream.
#[derive(Debug, Default)]
pub struct Gauge {
    header: [u8; HEADER],
    length: usize,
    /// What is still to come of the present frame.
    left: u64,
}

/// A frame is longer than anything that is kept.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong;

impl Gauge {
    /// Takes note of the next bytes of the stream.
    ///
    /// # Errors
    /// [`TooLong`] at the header of a frame that h3 would have to keep beyond the bound.
    pub fn pass(&mut self, mut bytes: &[u8]) -> Result<(), TooLong> {
        while let Some(first) = bytes.first() {
            if self.left > 0 {
                let here = self.left.min(bytes.len() as u64);
                self.left -= here;
                bytes = &bytes[here as usize..];
                continue;
            }
            self.header[self.length] = *first;
            self.length += 1;
            bytes = &bytes[1..];
            let header = &self.header[..self.length];
            let Some((kind, after)) = varint::read(header) else { continue };
            let Some((length, _)) = varint::read(&header[after..]) else { continue };
            if kind != DATA && length > limits::HTTP3_FRAME {
                return Err(TooLong);
            }
            self.left = length;
            self.length = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u64, length: u64) -> Vec<u8> {
        let mut out = Vec::new();
        varint::write(&mut out, kind);
        varint::write(&mut out, length);
        out
    }

    #[test]
    fn a_frame_that_would_be_kept_is_refused_at_its_header() {
        for kind in [0x1, 0x4, 0x21, 0x3fff_ffff] {
            let mut whole = frame(DATA, 3);
            whole.extend([1, 2, 3]);
            whole.extend(frame(kind, limits::HTTP3_FRAME));
            whole.extend(vec![0; limits::HTTP3_FRAME as usize]);
            whole.extend(frame(DATA, 1 << 40));
            let mut endless = Gauge::default();
            assert_eq!(endless.pass(&whole), Ok(()));
            assert_eq!(endless.pass(&[0; 5000]), Ok(()));
            let long = frame(kind, 1 << 40);
            for cut in 0..long.len() {
                let mut gauge = Gauge::default();
                assert_eq!(gauge.pass(&long[..cut]), Ok(()), "cut at {cut}");
                assert_eq!(gauge.pass(&long[cut..]), Err(TooLong), "cut at {cut}");
            }
        }
    }
}
