//! Every bound of the protocol and of the core, in one place.
//!
//! Bounds on sockets, windows and tasks are the server's (`fulmar::limits`).

use std::time::Duration;

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
/// Ids that the idempotency window of a channel remembers.
pub const WINDOW_IDS: usize = 10_000;
/// How long the idempotency window remembers an id.
pub const WINDOW_AGE: Duration = Duration::from_secs(120);
/// How long a session without a transport is kept.
pub const SESSION_GRACE: Duration = Duration::from_secs(30);
/// How long a ticket can be redeemed.
pub const TICKET_AGE: Duration = Duration::from_secs(30);
/// Most tickets of one session that wait to be redeemed.
pub const TICKETS_PER_SESSION: usize = 8;
/// What a publication is taken to occupy besides the bytes of its key, id and payload: the structures of a log and
/// the encodings that are kept beside it while it is held.
pub const PUBLICATION_OVERHEAD: usize = 256;
/// Largest WebTransport capsule that is read; of a longer one only the length matters.
pub const CAPSULE_BYTES: usize = 2 * 1024;
/// HTTP/3 frame that has to be kept until it is whole (any but DATA), in bytes.
pub const HTTP3_FRAME: u64 = 16 * 1024;
