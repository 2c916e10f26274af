//! State over datagrams that always converges. PROTOCOL.md, section 9.
//!
//! A [`Sender`] packs the newest values of a session's channels into numbered packets, remembers what each carried until it is
//! acknowledged, and when one is lost looks its values up again: what is still the newest of its key is sent anew, what was
//! replaced costs nothing. A [`Receiver`] drops what is older than what it has, puts parts together, and says what to
//! acknowledge. Both are driven from outside: time, the path and the logs come in as arguments, packets go out as bytes.
//!
//! The driver of a [`Sender`] calls [`Sender::wake`] when a log has something new, hands acknowledgements to
//! [`Sender::acknowledge`], and calls [`Sender::flush`] when either says so and when [`Sender::next`] says that it is time.
//! Nothing is queued: a packet is made when the path has room for it, of what is the newest then.

mod acks;
mod buffers;
mod few;
mod lane;
mod packing;
mod parts;
mod receiver;
mod record;
mod sender;
mod streamed;

use std::time::Duration;

use bytes::Bytes;

pub use self::{
    buffers::Buffers,
    lane::LaneId,
    receiver::{Receiver, Taken},
    sender::Sender,
};
use crate::log::Log;

/// How a channel's values are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two flushes, in the long run.
    pub interval: Duration,
    /// What was sent is sent once more after this long, if it is still the newest and was not yet acknowledged.
    pub duplicate: Option<Duration>,
}

/// What there is to know of the path when packets are made.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    /// What every datagram begins with.
    pub prefix: &'a [u8],
    /// The largest datagram that the path takes, in bytes; 0 where it takes none.
    pub room: usize,
    /// How much may be under way, in bytes.
    pub window: usize,
    /// How much one flush makes at most, in bytes: what is made waits, and ages.
    pub burst: usize,
    /// The round-trip time, as far as it is known.
    pub rtt: Duration,
}

/// Where a sender finds the logs of its channels, by the tags that it was given for them.
pub trait Source {
    /// Lets `read` see a log. If it gives `true`, it has read to the log's head, and what is published from then on has to be told
    /// by [`Sender::wake`].
    fn news(&mut self, tag: usize, read: &mut dyn FnMut(&Log) -> bool);

    /// Lets `look` see a log.
    fn look(&mut self, tag: usize, look: &mut dyn FnMut(&Log));
}

/// What comes of a flush.
#[derive(Debug, Default)]
pub struct Effects {
    /// To be sent, in order.
    pub packets: Vec<Bytes>,
    /// Memory for them. What has left gives its own to the next, of this sender or of another that has these effects.
    pub buffers: Buffers,
    /// Tags of channels that have something for [`Sender::stream`].
    pub streams: Vec<usize>,
    /// Tags of channels that can only go on with a reset: a removal was forgotten before it had arrived. Each is to be closed.
    pub resets: Vec<usize>,
    /// What is counted.
    pub counts: Counts,
}

/// What a flush has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Values that were sent, parts apart; repairs included.
    pub values: u64,
    /// Packets that were lost.
    pub lost: u64,
    /// Values that were lost and sent anew.
    pub repaired: u64,
    /// Bytes that were sent twice ahead of any loss.
    pub duplicated: u64,
}
