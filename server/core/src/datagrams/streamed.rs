//! Values that went by stream, until they are acknowledged there.

use std::collections::{BTreeMap, VecDeque};

use super::lane::LaneId;
use crate::position::Offset;

/// What a frame is taken to occupy besides its values, and each low-water offset that it tells, in bytes.
const FRAME_COST: usize = 128;
const LOW_COST: usize = 32;

/// One frame of values on a stream.
#[derive(Debug)]
pub(super) struct Frame {
    number: u64,
    stream: usize,
    bytes: usize,
    values: Vec<(LaneId, Offset)>,
    /// The low-water offsets that it tells.
    lows: Vec<(LaneId, Offset)>,
}

impl Frame {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// What its values are taken to occupy.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many values it has.
    pub(super) fn values(&self) -> usize {
        self.values.len()
    }

    pub(super) fn add(&mut self, lane: LaneId, offset: Offset, bytes: usize) {
        self.bytes += bytes;
        self.values.push((lane, offset));
    }

    pub(super) fn tell(&mut self, lane: LaneId, low: Offset) {
        self.bytes += LOW_COST;
        self.lows.push((lane, low));
    }
}

/// Frames of all streams, those of each in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Streamed {
    frames: VecDeque<Frame>,
    /// The number of the last frame of each stream that had any.
    sent: BTreeMap<usize, u64>,
}

impl Streamed {
    /// The next frame of a stream, yet without values.
    pub(super) fn begin(&self, stream: usize) -> Frame {
        let sent = self.sent.get(&stream).copied().unwrap_or_default();
        Frame { number: sent + 1, stream, bytes: FRAME_COST, values: Vec::new(), lows: Vec::new() }
    }

    pub(super) fn push(&mut self, frame: Frame) {
        self.sent.insert(frame.stream, frame.number);
        self.frames.push_back(frame);
    }

    /// What is under way on a stream, in bytes.
    pub(super) fn under_way(&self, stream: usize) -> usize {
        self.frames.iter().filter(|frame| frame.stream == stream).map(|frame| frame.bytes).sum()
    }

    /// The least offset of a channel that is under way.
    pub(super) fn least(&self, lane: LaneId) -> Option<Offset> {
        let values = self.frames.iter().flat_map(|frame| &frame.values);
        values.filter(|(of, _)| *of == lane).map(|(_, offset)| *offset).min()
    }

    /// Forgets a channel.
    pub(super) fn forget(&mut self, lane: LaneId) {
        for frame in &mut self.frames {
            frame.values.retain(|(of, _)| *of != lane);
            frame.lows.retain(|(of, _)| *of != lane);
        }
        self.frames.retain(|frame| !frame.lows.is_empty());
    }

    /// Forgets a stream.
    pub(super) fn end(&mut self, stream: usize) {
        self.sent.remove(&stream);
        self.frames.retain(|frame| frame.stream != stream);
    }

    /// The frames of a stream up to this number have arrived: the low-water offsets that they told.
    pub(super) fn acknowledge(&mut self, stream: usize, number: u64) -> Vec<(LaneId, Offset)> {
        let mut lows = Vec::new();
        self.frames.retain_mut(|frame| {
            let arrived = frame.stream == stream && frame.number <= number;
            if arrived {
                lows.append(&mut frame.lows);
            }
            !arrived
        });
        lows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stream_counts_its_own_frames() {
        let mut streamed = Streamed::default();
        let lane = |stream| LaneId(stream as u32);
        for (stream, number) in [(3, 1), (3, 2), (5, 1), (3, 3), (5, 2)] {
            let mut frame = streamed.begin(stream);
            assert_eq!(frame.number(), number, "on {stream}");
            frame.add(lane(stream), Offset::MAX, 10);
            frame.tell(lane(stream), Offset::ZERO);
            streamed.push(frame);
        }
        assert_eq!(streamed.acknowledge(3, 2), [(lane(3), Offset::ZERO); 2]);
        let cost = 10 + FRAME_COST + LOW_COST;
        assert_eq!((streamed.under_way(3), streamed.under_way(5)), (cost, 2 * cost));
        streamed.end(3);
        assert_eq!(
            (streamed.under_way(3), streamed.begin(3).number(), streamed.begin(5).number()),
            (0, 1, 3)
        );
    }
}
