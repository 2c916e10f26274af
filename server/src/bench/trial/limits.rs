//! Every bound of the trial's buffers and waits.

use std::time::Duration;

/// Events that are published and not yet answered.
pub(super) const IN_FLIGHT: usize = 256;
/// Events that are sent in one go.
pub(super) const BURST: usize = 64;
/// Clients that connect at once before the events begin.
pub(super) const AT_ONCE: usize = 16;
/// How long it may take to connect, and to be subscribed.
pub(super) const OPENING: Duration = Duration::from_secs(20);
/// How often a client tries to come back before it gives up.
pub(super) const ATTEMPTS: usize = 5;
/// What it waits before it tries again.
pub(super) const AGAIN: Duration = Duration::from_millis(200);
/// Without an event for this long, while some are to come, a client gives up.
pub(super) const PATIENCE: Duration = Duration::from_secs(40);
/// How long a client that has everything waits for what should not come.
pub(super) const LINGER: Duration = Duration::from_millis(500);
/// How long a poll waits, in seconds.
pub(super) const POLL_WAIT: u64 = 10;
/// A client's receive buffer, in bytes: little, so that one that stops reading stops the server's writing.
pub(super) const RECEIVE_BUFFER: u32 = 64 * 1024;
/// Head of an HTTP answer, in bytes.
pub(super) const HEAD_BYTES: usize = 16 * 1024;
/// Body of an HTTP answer, chunk of one, and event of an event stream, in bytes.
pub(super) const BODY_BYTES: usize = 2 * 1024 * 1024;
/// How long a client may take to connect and catch up, by which the rate is judged.
pub(super) const CATCHING_UP: Duration = Duration::from_secs(10);
/// Longest pause that can be asked for: sessions without a connection are kept for 30 s.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// Pauses that a client may have before it has recovered.
pub(super) const PAUSES: u32 = 2;
/// What may be missed of a channel: four fifths of what its default history holds.
pub(super) const MISSED: f64 = 8_000.0;
/// Channels at most: as many as the server announces in one batch when it goes on with a session.
pub(super) const CHANNELS: usize = crate::limits::BATCH_BYTES / crate::limits::TURN_BYTES;
/// Payload of an event at most, in bytes.
pub(super) const PAYLOAD_BYTES: usize = 1024;
/// Reasons of broken connections and failures that are printed.
pub(super) const REASONS: usize = 10;
