//! Values that went by stream, until they are acknowledged there.

use std::collections::VecDeque;

use super::lane::LaneId;
use crate::position::Offset;

/// One frame of values on a stream.
#[derive(Debug)]
pub(super) struct Frame {
    number: u64,
    stream: usize,
    bytes: usize,
    values: Vec<(LaneId, Offset)>,
}

impl Frame {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// What its values are taken to occupy.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn add(&mut self, lane: LaneId, offset: Offset, bytes: usize) {
        self.bytes += bytes;
        self.values.push((lane, offset));
    }
}

/// Frames of all streams, in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Streamed {
    frames: VecDeque<Frame>,
    sent: u64,
}

impl Streamed {
    /// The next frame of a stream, yet without values.
    pub(super) fn begin(&self, stream: usize) -> Frame {
        Frame { number: self.sent + 1, stream, bytes: 0, values: Vec::new() }
    }

    pub(super) fn push(&mut self, frame: Frame) {
        self.sent = frame.number;
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
        }
        self.frames.retain(|frame| !frame.values.is_empty());
    }

    /// The frames of a stream up to this number have arrived: the channels whose values they held.
    pub(super) fn acknowledge(&mut self, stream: usize, number: u64) -> Vec<LaneId> {
        let mut lanes = Vec::new();
        self.frames.retain(|frame| {
            let arrived = frame.stream == stream && frame.number <= number;
            if arrived {
                lanes.extend(frame.values.iter().map(|(lane, _)| *lane));
            }
            !arrived
        });
        lanes.sort_unstable();
        lanes.dedup();
        lanes
    }
}
