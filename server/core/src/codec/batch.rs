//! Several frames in one message, where a message costs its receiver more than its bytes do. PROTOCOL.md, section 5.

use std::collections::VecDeque;

use bytes::Bytes;

use super::varint;

/// What a message with several frames begins with. No frame does.
const BATCH: u8 = 0x0e;

/// The next message of `frames`, which are taken off the front: as many as fit into `most` bytes together, or one alone, as
/// it is and however long. `None` where there are none.
pub fn next(frames: &mut VecDeque<Bytes>, most: usize) -> Option<Bytes> {
    let first = frames.pop_front()?;
    let mut length = 1 + prefixed_len(&first);
    let others = frames.iter().take_while(|frame| {
        length += prefixed_len(frame);
        length <= most
    });
    let others = others.count();
    if others == 0 {
        return Some(first);
    }
    let mut out = Vec::with_capacity(most.min(length));
    out.push(BATCH);
    for frame in std::iter::once(first).chain(frames.drain(..others)) {
        varint::write(&mut out, frame.len() as u64);
        out.extend_from_slice(&frame);
    }
    Some(out.into())
}

fn prefixed_len(frame: &Bytes) -> usize {
    varint::size(frame.len() as u64) + frame.len()
}
