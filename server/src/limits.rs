//! Every bound of the server's own buffers, queues and waits, in one place. The protocol's are in
//! [`fulmar_core::limits`].
//!
//! What a WebSocket connection can make the server hold beside its kernel buffers: a read buffer
//! ([`WEBSOCKET_READ_BUFFER`]), one message under way (`MESSAGE_BYTES`, 128 KiB), replies ([`REPLIES`] of at most a
//! few hundred bytes), one batch of frames being written ([`BATCH_BYTES`] plus one publication), and the state of at
//! most 128 subscriptions. Publications are shared by all who read them.

use std::time::Duration;

/// Sessions of a node.
pub const SESSIONS: usize = 200_000;
/// Bytes that a node's channels hold together, by `Draft::cost` and [`CHANNEL_OVERHEAD`].
pub const NODE_BYTES: usize = 512 * 1024 * 1024;
/// What an empty channel is taken to occupy.
pub const CHANNEL_OVERHEAD: usize = 1024;

/// One turn of a subscription, in bytes, before the next of the session is served.
pub const TURN_BYTES: usize = 8 * 1024;
/// What is read for a connection before it is written out, in bytes.
pub const BATCH_BYTES: usize = 32 * 1024;
/// Replies that wait to be written on a connection before no more of its messages are read.
pub const REPLIES: usize = 32;

/// Largest answer to a poll, in bytes.
pub const POLL_BYTES: usize = 1024 * 1024;
/// Longest wait of a poll.
pub const POLL_WAIT: Duration = Duration::from_secs(30);
/// Between two comments on a silent SSE stream.
pub const SSE_KEEP_ALIVE: Duration = Duration::from_secs(15);
/// What an SSE client is told to wait before it comes back.
pub const SSE_RETRY: Duration = Duration::from_millis(1_000);

/// Without a word from a client for this long, it is asked for one.
pub const HEARTBEAT: Duration = Duration::from_secs(20);
/// Without an answer for this long after that, it is gone.
pub const HEARTBEAT_DEADLINE: Duration = Duration::from_secs(10);
/// How long a closing handshake may take.
pub const CLOSE_DEADLINE: Duration = Duration::from_secs(3);

/// Largest request body.
pub const BODY_BYTES: usize = fulmar_core::limits::MESSAGE_BYTES;
/// hyper's read buffer of an HTTP/1.1 connection, which bounds a request's head.
pub const HTTP1_BUFFER: usize = 16 * 1024;
/// HTTP/2 streams at once on a connection.
pub const HTTP2_STREAMS: u32 = 128;
/// HTTP/2 receive window of a stream, in bytes.
pub const HTTP2_STREAM_WINDOW: u32 = 64 * 1024;
/// HTTP/2 receive window of a connection, in bytes.
pub const HTTP2_CONNECTION_WINDOW: u32 = 256 * 1024;
/// HTTP/2 header list, in bytes.
pub const HTTP2_HEADER_LIST: u32 = 16 * 1024;
/// What HTTP/2 buffers to be sent on a stream, in bytes.
pub const HTTP2_SEND_BUFFER: usize = 64 * 1024;
/// How long a request's head may take.
pub const HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// How long a TLS handshake may take.
pub const TLS_DEADLINE: Duration = Duration::from_secs(10);
/// TCP connections of the sidecar at once.
pub const TCP_CONNECTIONS: usize = 100_000;
/// The kernel's send buffer of a TCP connection, in bytes: what a client that stops reading costs there.
pub const TCP_SEND_BUFFER: usize = 256 * 1024;
/// tungstenite's read buffer, in bytes, allocated for the connection's life.
pub const WEBSOCKET_READ_BUFFER: usize = 1024;
/// What tungstenite collects before it writes to the socket, in bytes.
pub const WEBSOCKET_WRITE_BUFFER: usize = 4 * 1024;

/// QUIC connections at once, handshakes included.
pub const QUIC_CONNECTIONS: usize = 100_000;
/// Bidirectional streams that a client may have open: the CONNECT, the control stream and subscriptions.
pub const QUIC_BIDI_STREAMS: u32 = 16;
/// Unidirectional streams that a client may have open: HTTP/3 control, two of QPACK, one of grease, and spare.
pub const QUIC_UNI_STREAMS: u32 = 8;
/// Receive window of a QUIC stream, in bytes.
pub const QUIC_STREAM_WINDOW: u32 = 256 * 1024;
/// Receive window of a QUIC connection, in bytes.
pub const QUIC_RECEIVE_WINDOW: u32 = 512 * 1024;
/// What is sent and not yet acknowledged on a QUIC connection, in bytes.
pub const QUIC_SEND_WINDOW: u64 = 512 * 1024;
/// Datagrams that wait to be sent on a connection, in bytes. Small, because a waiting datagram is an ageing one.
pub const DATAGRAM_SEND_BUFFER: usize = 16 * 1024;
/// Datagrams received and not yet read, in bytes.
pub const DATAGRAM_RECEIVE_BUFFER: usize = 16 * 1024;
/// A QUIC connection without a packet for this long is gone.
pub const QUIC_IDLE: Duration = Duration::from_secs(30);
/// Between two packets that keep a QUIC connection's path open.
pub const QUIC_KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long a QUIC connection may be without a WebTransport session or a request under way.
pub const QUIC_UNUSED: Duration = Duration::from_secs(10);
/// How long a QUIC connection stays when its last session has ended, so that the session's close arrives before its own.
pub const QUIC_LINGER: Duration = Duration::from_secs(1);
/// How long a stream may take to say what it is.
pub const STREAM_HEADER_DEADLINE: Duration = Duration::from_secs(5);
/// Sessions on one QUIC connection.
pub const SESSIONS_PER_CONNECTION: usize = 16;
/// Largest capsule that is read; of a longer one only the length matters.
pub const CAPSULE_BYTES: usize = 2 * 1024;
/// HTTP/3 frame that has to be kept until it is whole (any but DATA), in bytes.
pub const HTTP3_FRAME: u64 = 16 * 1024;
/// HTTP/3 field section, in bytes.
pub const HTTP3_FIELD_SECTION: u64 = 16 * 1024;
/// A state value that did not change for this long is sent on a stream too, in case its datagram was lost.
pub const STATE_REST: Duration = Duration::from_millis(200);

/// How long the server takes to end its connections.
pub const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(8);
