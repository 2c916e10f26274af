//! What stands at the front of every payload here.

/// Which publication of its key it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Its burst, from 1 on; 0 where publishing goes on and on.
    pub(super) burst: u32,
    /// Its place in the burst, from 0 on.
    pub(super) tick: u32,
    /// How many publications the burst has.
    pub(super) ticks: u32,
}

impl Stamp {
    /// How many bytes it takes.
    pub(super) const BYTES: usize = 12;

    pub(super) fn is_last(self) -> bool {
        self.tick + 1 == self.ticks
    }

    /// A payload of so many bytes.
    pub(super) fn payload(self, bytes: usize) -> Vec<u8> {
        let mut payload = [self.burst, self.tick, self.ticks].map(u32::to_be_bytes).concat();
        payload.resize(bytes.max(Self::BYTES), b'x');
        payload
    }

    /// The stamp of a payload.
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let (stamp, _) = payload.split_first_chunk::<{ Self::BYTES }>()?;
        let mut numbers =
            stamp.chunks_exact(4).filter_map(|it| Some(u32::from_be_bytes(it.try_into().ok()?)));
        Some(Self { burst: numbers.next()?, tick: numbers.next()?, ticks: numbers.next()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let stamp = Stamp { burst: 1, tick: 0x0203, ticks: 0x0204 };
        assert_eq!(Stamp::read(&stamp.payload(64)), Some(stamp));
        assert_eq!(stamp.payload(64).len(), 64);
        assert!(stamp.is_last());
        assert_eq!(Stamp::read(&[0; 11]), None);
    }
}
