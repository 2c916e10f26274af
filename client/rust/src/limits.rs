//! Every bound of the client's buffers, queues and waits, in one place.
//!
//! What a server can make a session hold: for each subscription a queue ([`INBOX_EVENTS`] events of [`INBOX_BYTES`]
//! together, or one that is larger), its datagrams ([`INBOX_DATAGRAMS`]), one frame under way ([`FRAME_BYTES`]) and one
//! stream window ([`STREAM_WINDOW`]); and for the session [`EARLY_FRAMES`], [`DATAGRAM_BUFFER`] and [`RETIRED_ALIASES`].
//! What a [`StateView`](crate::StateView) holds is bounded by the keys that the server lets a channel have.

use std::time::Duration;

/// Longest frame of a server, in bytes. A longer one closes the session with 4901.
pub const FRAME_BYTES: usize = 1024 * 1024;
/// Most that is taken off a stream at once, in bytes.
pub const READ_BYTES: usize = 32 * 1024;
/// Events off its stream that wait in a subscription before no more of the stream is read.
pub const INBOX_EVENTS: usize = 512;
/// Likewise in bytes, each event counted with [`EVENT_OVERHEAD`]. A single event may be larger.
pub const INBOX_BYTES: usize = 256 * 1024;
/// What an event is taken to occupy besides its payload, key and id.
pub const EVENT_OVERHEAD: usize = 128;
/// Values and signals off datagrams that wait in a subscription. Beyond that it pauses: its values wait on the server, and then come
/// on its stream. Of signals the oldest is dropped.
pub const INBOX_DATAGRAMS: usize = 1024;
/// How many of them wait at most when it goes on.
pub const INBOX_DRAINED: usize = INBOX_DATAGRAMS / 4;
/// Datagrams of values that came before their aliases were named.
pub const EARLY_VALUES: usize = 16;
/// Acknowledgements that wait to be written on a stream.
pub const STREAM_QUEUE: usize = 16;
/// Signals off datagrams that came before the `subscribed`, `gap` or `reset` that names their alias.
pub const EARLY_FRAMES: usize = 64;
/// How long such a publication is kept.
pub const EARLY_AGE: Duration = Duration::from_secs(3);
/// Aliases that stand for nothing any more and are remembered, so that stragglers are known for what they are.
pub const RETIRED_ALIASES: usize = 256;
/// Requests that wait for their answer; another one waits for its turn.
pub const REQUESTS: usize = 1024;
/// Messages that wait to be written on the control stream; another one waits for its turn.
pub const CONTROL_QUEUE: usize = 64;
/// Pongs that wait to be written; beyond that, pings of the server's are not answered.
pub const PONGS: usize = 8;
/// Subscriptions of a session.
pub const SUBSCRIPTIONS: usize = fulmar_core::limits::SUBSCRIPTIONS;
/// Removed keys that a view remembers, so that an older value which was overtaken does not bring them back.
pub const REMOVED_KEYS: usize = 1024;

/// How long a session may take to be opened, its control stream included.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(8);
/// How long a stream's end waits for the session's own, which tells the reason.
pub const END_GRACE: Duration = Duration::from_secs(1);

/// Receive window of a stream, in bytes.
pub const STREAM_WINDOW: u32 = 128 * 1024;
/// Receive window of a session, in bytes: that of every stream it may have, so that an unread one stops no other.
pub const SESSION_WINDOW: u32 = STREAM_WINDOW * (SUBSCRIPTIONS as u32 + 2);
/// Datagrams received and not yet read, in bytes; the oldest are dropped.
pub const DATAGRAM_BUFFER: usize = 64 * 1024;
/// Largest UDP packet, in bytes.
pub const PACKET_BYTES: usize = 64 * 1024;
/// Unidirectional streams that the server may open: HTTP/3 control, two of QPACK, one of grease, and spare.
pub const SERVER_STREAMS: u32 = 8;
/// Length of the client's QUIC connection ids.
pub const CONNECTION_ID_BYTES: usize = 4;
/// QUIC packets that the server may receive before it acknowledges them at once: most of what it is sent are acknowledgements, and
/// it sends enough for its own to travel in.
pub const ACK_THRESHOLD: u32 = 9;
/// Between two packets of a client that has nothing to say, so that a change of its address is noticed.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);
