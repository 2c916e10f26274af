//! Every bound of the protocol and of the core, in one place.
//!
//! Bounds on sockets, windows and tasks are the server's (`fulmar::limits`).

use std::{num::NonZeroU8, time::Duration};

/// Longest channel name, in bytes.
pub const CHANNEL_NAME_BYTES: usize = 255;
/// Longest state key, in bytes.
pub const KEY_BYTES: usize = 255;
/// Longest publication id, in bytes.
pub const PUBLICATION_ID_BYTES: usize = 64;
/// Longest epoch, in bytes.
pub const EPOCH_BYTES: usize = 32;
/// Largest payload, in bytes, unless configured otherwise.
pub const PAYLOAD_BYTES: usize = 64 * 1024;
/// Largest message from a client, in bytes, in either encoding: a full payload in base64 and its names.
pub const MESSAGE_BYTES: usize = 128 * 1024;
/// Longest cursor string, in bytes.
pub const CURSOR_BYTES: usize = 2048;
/// Most channels that one cursor, one SSE stream or one poll can span.
pub const CURSOR_CHANNELS: usize = 32;
/// Most subscriptions of one session.
pub const SUBSCRIPTIONS: usize = 128;
/// Default life of a signal that names none.
pub const SIGNAL_TTL: Duration = Duration::from_millis(1_000);
/// Longest life that a signal may ask for.
pub const SIGNAL_TTL_MAX: Duration = Duration::from_millis(60_000);
/// Priority of a publication of state that names none.
pub const PRIORITY: NonZeroU8 = NonZeroU8::new(16).expect("not 0");
/// How often a second a channel of state is flushed to one WebTransport session, unless configured otherwise.
pub const MAX_RATE: u32 = 200;
/// Longest that duplication of values may be configured to wait, in milliseconds.
pub const DUPLICATE_MS_MAX: u64 = 1_000;
/// Ids that the idempotency window of a channel remembers.
pub const WINDOW_IDS: usize = 10_000;
/// How long the idempotency window remembers an id.
pub const WINDOW_AGE: Duration = Duration::from_secs(120);
/// How long a session without a transport is kept, unless configured otherwise.
pub const SESSION_GRACE: Duration = Duration::from_secs(30);
/// How long a ticket can be redeemed.
pub const TICKET_AGE: Duration = Duration::from_secs(30);
/// Most tickets of one session that wait to be redeemed.
pub const TICKETS_PER_SESSION: usize = 8;
/// What a publication is taken to occupy besides the bytes of its key, id and payload: the structures of a log and
/// the encodings that are kept beside it while it is held.
pub const PUBLICATION_OVERHEAD: usize = 256;
/// A value that does not fit a datagram is sent in parts of this many bytes, the last with what is left.
pub const PART_BYTES: usize = 1_000;
/// Most parts of a value. What is larger goes by stream.
pub const PARTS: usize = 16;
/// Packets of values that are under way and not acknowledged. At this bound a sender waits.
pub const PACKETS_IN_FLIGHT: usize = 512;
/// Values in them.
pub const VALUES_IN_FLIGHT: usize = 4 * 1024;
/// Values of a session that have changed and for which its path had no room: what is beyond stays in the logs.
pub const PENDING_VALUES: usize = 2 * 1024;
/// Values that are under way on streams and not acknowledged, in bytes. At this bound a sender waits; one more may be larger.
pub const STREAM_VALUES_IN_FLIGHT: usize = 256 * 1024;
/// How long a receiver keeps an acknowledgement back for others to join it, from the latest packet that it is for.
pub const ACK_DELAY: Duration = Duration::from_millis(20);
/// Packets that are acknowledged together without waiting for another, if the first has waited for [`ACK_DELAY`].
pub const ACK_FRAMES: u32 = 4;
/// What was lost and is sent anew is sent once more after this long, whatever its namespace says of early duplication.
pub const REPAIR_AGAIN: Duration = Duration::from_millis(4);
/// Between two acknowledgements, at least.
pub const ACK_GAP: Duration = Duration::from_millis(4);
/// Parts of values that are not whole, in bytes of the whole values; for a receiver's session.
pub const PARTIAL_BYTES: usize = 256 * 1024;
/// How long a channel is quiet before its low-water offset is sent by itself.
pub const POSITION_DELAY: Duration = Duration::from_millis(200);
/// Between two flushes of a channel's values to a session, whatever its rate.
pub const FLUSH_GAP: Duration = Duration::from_millis(1);
/// Flushes that a channel may make in a row before its rate holds.
pub const FLUSH_BURST: u32 = 4;
/// Largest WebTransport capsule that is read; of a longer one only the length matters.
pub const CAPSULE_BYTES: usize = 2 * 1024;
/// HTTP/3 frame that has to be kept until it is whole (any but DATA), in bytes.
pub const HTTP3_FRAME: u64 = 16 * 1024;
