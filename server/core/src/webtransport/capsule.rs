//! Capsules on a session's CONNECT stream. RFC 9297, section 3.2; draft-ietf-webtrans-http3-02, section 5.

use bytes::{Buf as _, Bytes, BytesMut};

use crate::{codec::varint, limits};

const CLOSE_WEBTRANSPORT_SESSION: u64 = 0x2843;
/// draft-ietf-webtrans-http3-04, section 4.6.
const DRAIN_WEBTRANSPORT_SESSION: u64 = 0x78ae;
/// The longest reason that the draft lets a CLOSE capsule carry, in bytes.
const REASON_BYTES: usize = 1024;

/// The CLOSE_WEBTRANSPORT_SESSION capsule.
pub fn close(code: u32, reason: &str) -> Bytes {
    let mut out = Vec::with_capacity(16 + reason.len());
    varint::write(&mut out, CLOSE_WEBTRANSPORT_SESSION);
    varint::write(&mut out, 4 + reason.len() as u64);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
    out.into()
}

/// The DRAIN_WEBTRANSPORT_SESSION capsule: the session will end soon, and goes on until then. Clients that do not know it pass
/// over it.
pub fn drain() -> Bytes {
    let mut out = Vec::with_capacity(5);
    varint::write(&mut out, DRAIN_WEBTRANSPORT_SESSION);
    varint::write(&mut out, 0);
    out.into()
}

/// What a client's capsules ask.
#[derive(Debug, PartialEq, Eq)]
pub enum Capsule {
    /// The client closes the session.
    Close {
        /// Its code.
        code: u32,
        /// Its reason.
        reason: String,
    },
}

/// A capsule that breaks the rules.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads capsules out of the bytes of a CONNECT stream. Those of unknown types are passed over, whatever their length.
#[derive(Debug, Default)]
pub struct Capsules {
    buffer: BytesMut,
    /// What is still to come of a capsule that is passed over.
    skip: u64,
}

impl Capsules {
    /// Takes in bytes.
    pub fn push(&mut self, mut bytes: impl bytes::Buf) {
        while bytes.has_remaining() {
            let mut chunk = bytes.copy_to_bytes(bytes.chunk().len());
            let skipped = self.skip.min(chunk.len() as u64);
            self.skip -= skipped;
            chunk.advance(skipped as usize);
            self.buffer.extend_from_slice(&chunk);
        }
    }

    /// The next capsule that means something here, as far as it has come. To be called until it gives `None`.
    ///
    /// # Errors
    /// [`Malformed`], for a CLOSE that is too long, too short or not UTF-8.
    pub fn take(&mut self) -> Result<Option<Capsule>, Malformed> {
        loop {
            let Some((kind, after)) = varint::read(&self.buffer) else { return Ok(None) };
            let Some((length, more)) = varint::read(&self.buffer[after..]) else { return Ok(None) };
            let start = after + more;
            if kind != CLOSE_WEBTRANSPORT_SESSION {
                let here = length.min((self.buffer.len() - start) as u64);
                self.buffer.advance(start + here as usize);
                self.skip = length - here;
                continue;
            }
            let length = usize::try_from(length).map_err(|_| Malformed)?;
            if !(4..=4 + REASON_BYTES).contains(&length) || length > limits::CAPSULE_BYTES {
                return Err(Malformed);
            }
            if self.buffer.len() < start + length {
                return Ok(None);
            }
            self.buffer.advance(start);
            let mut body = self.buffer.split_to(length);
            let code = body.get_u32();
            let reason = String::from_utf8(body.to_vec()).map_err(|_| Malformed)?;
            return Ok(Some(Capsule::Close { code, reason }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_is_read_however_it_is_cut() {
        let mut bytes = vec![0x40, 0x52, 0x05, 1, 2, 3, 4, 5];
        bytes.extend_from_slice(&close(u32::MAX, "bye"));
        for cut in 0..bytes.len() {
            let mut capsules = Capsules::default();
            capsules.push(&bytes[..cut]);
            assert_eq!(capsules.take(), Ok(None), "cut at {cut}");
            capsules.push(&bytes[cut..]);
            let close = Capsule::Close { code: u32::MAX, reason: "bye".to_owned() };
            assert_eq!(capsules.take(), Ok(Some(close)), "cut at {cut}");
            assert_eq!(capsules.take(), Ok(None));
        }
    }

    #[test]
    fn a_huge_capsule_is_passed_over_without_being_kept() {
        let mut capsules = Capsules::default();
        let mut head = Vec::new();
        varint::write(&mut head, 0x1234);
        varint::write(&mut head, 1 << 40);
        capsules.push(&head[..]);
        for _ in 0..1000 {
            capsules.push(&[0u8; 1000][..]);
            assert_eq!(capsules.take(), Ok(None));
        }
        assert!(capsules.buffer.len() < 2000, "{} bytes kept", capsules.buffer.len());
    }

    #[test]
    fn a_close_that_breaks_the_rules_is_refused() {
        for (length, body) in [(3u64, vec![0; 3]), (5, vec![0, 0, 0, 0, 0xff]), (1 << 40, vec![])] {
            let mut bytes = Vec::new();
            varint::write(&mut bytes, CLOSE_WEBTRANSPORT_SESSION);
            varint::write(&mut bytes, length);
            bytes.extend(body);
            let mut capsules = Capsules::default();
            capsules.push(&bytes[..]);
            assert_eq!(capsules.take(), Err(Malformed), "length {length}");
        }
    }
}
