//! Memory of packets that have left, for those to come.

use bytes::Bytes;

/// Packets whose memory is kept: about what one flush makes.
const KEPT: usize = 12;

/// The latest packets that were made, for the sake of their memory: an allocation of such a size is dear, and memory that was just
/// in use is at hand for the processor.
#[derive(Debug, Default)]
pub struct Buffers(Vec<Bytes>);

impl Buffers {
    /// An empty buffer.
    pub(super) fn take(&mut self) -> Vec<u8> {
        // The latest that has left: nobody else has it any more.
        let left = self.0.iter().rposition(Bytes::is_unique);
        let mut buffer = left.map_or_else(Vec::new, |index| Vec::from(self.0.remove(index)));
        buffer.clear();
        buffer
    }

    /// Keeps a packet until it has left.
    pub(super) fn keep(&mut self, packet: &Bytes) {
        if self.0.len() == KEPT {
            self.0.remove(0);
        }
        self.0.push(packet.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_left_gives_its_memory_and_what_has_not_keeps_it() {
        let mut buffers = Buffers::default();
        let packet = Bytes::from(vec![7; 100]);
        let memory = packet.as_ptr();
        buffers.keep(&packet);
        assert_eq!(buffers.take().capacity(), 0, "it is still on its way");
        assert_eq!(&packet[..], [7; 100]);
        drop(packet);
        let buffer = buffers.take();
        assert!(buffer.is_empty() && buffer.capacity() >= 100);
        assert_eq!(buffer.as_ptr(), memory);
        assert_eq!(buffers.take().capacity(), 0, "it is given once");
    }

    #[test]
    fn no_more_is_kept_than_a_bound() {
        let mut buffers = Buffers::default();
        for n in 0..100 {
            buffers.keep(&Bytes::from(vec![n; 10]));
        }
        assert_eq!(buffers.0.len(), KEPT);
        assert_eq!(buffers.0.last().and_then(|it| it.first()), Some(&99));
    }
}
