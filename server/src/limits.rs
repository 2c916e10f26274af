//! Every bound of the server's own buffers, queues and waits, in one place. The protocol's are in
//! [`fulmar_core::limits`].
//!
//! # What a connection can cost
//!
//! The worst case is a hostile client that fills whatever it may. Publications are not in these sums: they are shared by all
//! who read them, and bounded by [`NODE_BYTES`].
//!
//! A WebSocket over HTTP/1.1, in KiB:
//!
//! | what | bound |
//! |---|---|
//! | its task, session and subscriptions (6 idle, with all subscriptions and readers) | 64 |
//! | tungstenite: read buffer, and a message that is not whole | 1 + 128 |
//! | replies that wait ([`REPLIES`] of at most 1 KiB, and once what an `attach` could not read on: 128 of 0.6 KiB), a batch being written ([`BATCH_BYTES`] and one publication; a [`WEBSOCKET_BATCH`] of it in one message) | 32 + 77 + 96 + 16 |
//! | what tungstenite has encoded and not written ([`WEBSOCKET_WRITE_BUFFER`] and one message) | 132 |
//! | TLS: records to be sent and received ([`TLS_BUFFER`], and one record each way) | 32 + 36 |
//! | kernel: send buffer ([`TCP_SEND_BUFFER`]), receive buffer (the system's) | 256 + ~128 |
//! | **together** | **~1 MiB** |
//!
//! What of that can be *stale* when a client that had stopped reading reads on, besides what the client's own kernel holds: what is
//! read of a log waits until what was read before has left, and the kernel holds less than [`TCP_UNSENT`] unsent. So it is
//! [`TCP_UNSENT`] and one batch, and does not depend on what was published meanwhile. A WebSocket on a stream of HTTP/2 has what
//! waits for the stream's flow control besides: [`HTTP2_SEND_BUFFER`], and four writes of tungstenite.
//!
//! An HTTP/2 connection: header lists of all streams ([`HTTP2_STREAMS`] x [`HTTP2_HEADER_LIST`] = 1 MiB), what is
//! received and not read ([`HTTP2_CONNECTION_WINDOW`], 256 KiB), bodies under way ([`CONNECTION_BODY_BYTES`], 512 KiB),
//! what is to be sent ([`HTTP2_STREAMS`] x [`HTTP2_SEND_BUFFER`] = 2 MiB), answers to polls that are not yet taken
//! ([`CONNECTION_ANSWER_BYTES`], 2 MiB), and TLS and kernel as above. A WebSocket on one of its streams costs what stands
//! above, without TLS and kernel.
//!
//! A QUIC connection, in KiB:
//!
//! | what | bound |
//! |---|---|
//! | quinn, TLS, HTTP/3 and a session's tasks ([`QUIC_BIDI_STREAMS_MAX`] streams: 3 each) | 40 + 768 |
//! | received and not read ([`QUIC_RECEIVE_WINDOW`]; out-of-order pieces are copied when they waste more than half) | 2 x 512 |
//! | sent and not acknowledged ([`QUIC_SEND_WINDOW`]) | 512 |
//! | datagrams, both ways ([`DATAGRAM_RECEIVE_BUFFER`], [`DATAGRAM_SEND_BUFFER`]), and one flush of values | 16 + 16 + 16 |
//! | values that changed and wait (twice `PENDING_VALUES` of the core, and what was lost: 8 Ki, with keys of 255 bytes), for each session | 16 x 2800 |
//! | values under way on streams (`STREAM_VALUES_IN_FLIGHT`: their offsets), for each stream | 256 x 16 |
//! | what is known of packets under way (`PACKETS_IN_FLIGHT`, `VALUES_IN_FLIGHT`: 4 Ki of 32 bytes), and lists kept for later packets, for each session | 16 x 220 |
//! | handshake bytes ([`QUIC_CRYPTO_BUFFER`]) | 16 |
//! | HTTP/3 frames that are kept ([`HTTP3_REQUESTS`] and the control stream, 16 KiB each) | 1616 |
//! | bodies and answers under way ([`CONNECTION_BODY_BYTES`], [`CONNECTION_ANSWER_BYTES`]) | 512 + 2048 |
//! | frames of sessions that are not whole ([`SESSION_UNFINISHED_BYTES`] for each of [`SESSIONS_PER_CONNECTION`]) | 16 x 256 |
//! | what an `attach` could not read on, once for each session | 16 x 77 |
//! | small frames and chunks on [`QUIC_BIDI_STREAMS_MAX`] streams (5 KiB each) | 1280 |
//! | a batch being written on each stream (bounded by the send window, plus one batch each) | 256 x 96 |
//! | **together, for a client that does all of it at once** | **~90 MiB** |
//!
//! The last line needs a client with 16 sessions that subscribes on 256 streams to channels of large publications, of which thousands of
//! keys with names of 255 bytes change, and reads and acknowledges none of them. A client that only fills what it sends is bounded by ~9 MiB, one that only connects by 40 KiB.
//!
//! Before a handshake is complete: [`QUIC_INCOMING`] first flights of [`QUIC_INCOMING_BUFFER`] each,
//! [`QUIC_INCOMING_BUFFERS`] together; then [`HANDSHAKES`] at once on each listener.

use std::time::Duration;

use fulmar_core::CloseCode;

/// Sessions of a node.
pub const SESSIONS: usize = 200_000;
/// Subscriptions of all sessions together that are without a transport. Each costs up to 200 bytes (what the session holds, its
/// place in the channel, its place in the queue of what is ready), so together 200 MB. Without this bound it would be
/// [`SESSIONS`] x `SUBSCRIPTIONS` = 25,600,000 of them, 5 GB, which costs a hostile client one connection and one `attach` with
/// 128 positions for each session, as many as it can make within the grace period. Those of sessions that have a transport are
/// bounded by what is let in at once: [`CONNECTIONS`].
pub const DETACHED_SUBSCRIPTIONS: usize = 1_000_000;
/// Longest that a session without a transport may be configured to be kept.
pub const SESSION_GRACE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Bytes that a node's channels hold together, by `Draft::cost` and [`CHANNEL_OVERHEAD`].
pub const NODE_BYTES: usize = 512 * 1024 * 1024;
/// Bytes that the larger encodings of publications hold together. Above it they are made anew for each reader.
pub const ENCODED_BYTES: u64 = 256 * 1024 * 1024;
/// What an empty channel is taken to occupy.
pub const CHANNEL_OVERHEAD: usize = 1024;

/// How long a node that found no room does not look for it again.
pub const FULL: Duration = Duration::from_millis(500);

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
/// The same when the server stops: it waits for clients that have vanished no longer than a bad path's round trip. Those that live
/// have been told before they are asked.
pub const STOP_CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// How long a closing handshake with this code may take.
pub fn close_deadline(code: CloseCode) -> Duration {
    if code == CloseCode::GoingAway { STOP_CLOSE_DEADLINE } else { CLOSE_DEADLINE }
}
/// How long a WebSocket whose peer broke the rules stays when the peer was told so: time to read the close before the
/// connection is gone. A peer waits for that, some no longer than half a second.
pub const CLOSE_LINGER: Duration = Duration::from_millis(250);

/// Connections of a listener at once, handshakes included, unless configured otherwise.
pub const CONNECTIONS: usize = 100_000;
/// Handshakes of a listener in progress, unless configured otherwise.
pub const HANDSHAKES: usize = 1_024;
/// Connections from one address, unless configured otherwise, on a listener that other machines reach: enough for an office
/// behind one address.
pub const CONNECTIONS_PER_ADDRESS: usize = 1_024;

/// Largest request body.
pub const BODY_BYTES: usize = fulmar_core::limits::MESSAGE_BYTES;
/// What the bodies of the requests of one connection hold together, in bytes. Who finds that spent waits.
pub const CONNECTION_BODY_BYTES: usize = 512 * 1024;
/// What the answers to polls of one connection hold together that it has not taken yet, in bytes. Who finds that spent waits.
pub const CONNECTION_ANSWER_BYTES: usize = 2 * 1024 * 1024;
/// hyper's read buffer of an HTTP/1.1 connection, which bounds a request's head.
pub const HTTP1_BUFFER: usize = 16 * 1024;
/// HTTP/2 streams at once on a connection.
pub const HTTP2_STREAMS: u32 = 128;
/// HTTP/2 receive window of a stream, in bytes.
pub const HTTP2_STREAM_WINDOW: u32 = 64 * 1024;
/// HTTP/2 receive window of a connection, in bytes.
pub const HTTP2_CONNECTION_WINDOW: u32 = 256 * 1024;
/// Largest HTTP/2 frame that is taken, in bytes: the least that RFC 9113, section 4.2, allows.
pub const HTTP2_FRAME: u32 = 16 * 1024;
/// HTTP/2 streams that a client may have reset before they were served; who resets more is cut off. (CVE-2023-44487)
pub const HTTP2_RESETS: usize = 20;
/// HTTP/2 header list, in bytes.
pub const HTTP2_HEADER_LIST: u32 = 8 * 1024;
/// What HTTP/2 buffers to be sent on a stream, in bytes.
pub const HTTP2_SEND_BUFFER: usize = 16 * 1024;
/// How long a request's head may take.
pub const HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// How long a TLS handshake may take.
pub const TLS_DEADLINE: Duration = Duration::from_secs(10);
/// rustls's buffers of a TLS connection over TCP, in bytes: what is decrypted and not read, and what is encrypted and not sent.
pub const TLS_BUFFER: usize = 16 * 1024;
/// The kernel's send buffer of a TCP connection, in bytes: what is under way to a client, and what is not yet sent.
pub const TCP_SEND_BUFFER: usize = 256 * 1024;
/// What the kernel holds of a TCP connection that it has not yet sent before it takes no more, in bytes. (`TCP_NOTSENT_LOWAT`; it
/// says that it has room again at half of it.) What waits there ages, so it is little: a tenth of a second at 1.3 Mbit/s. It is not
/// less, since the half has to last until the server was woken to write more: 0.07 ms at 1 Gbit/s.
pub const TCP_UNSENT: u32 = 16 * 1024;
/// How long a TCP client may take nothing of what waits for it. (The kernel's `TCP_USER_TIMEOUT`.)
pub const TCP_STALLED: Duration = Duration::from_secs(30);
/// How often it is looked whether a TCP client that lags has taken something.
pub const TCP_LOOK: Duration = Duration::from_secs(5);
/// TLS sessions that can be resumed, on each listener; others begin anew.
pub const TLS_SESSIONS: usize = 256;
/// Tickets by which a client may resume a TLS session.
pub const TLS_TICKETS: usize = 2;
/// tungstenite's read buffer, in bytes, allocated for the connection's life.
pub const WEBSOCKET_READ_BUFFER: usize = 1024;
/// What tungstenite collects before it writes to the socket, in bytes.
pub const WEBSOCKET_WRITE_BUFFER: usize = 4 * 1024;
/// Bytes of a message with several frames, for clients that take them. A browser takes some tens of microseconds for each message,
/// which at thousands a second is all that it does.
pub const WEBSOCKET_BATCH: usize = 16 * 1024;

/// QUIC connections whose first packet has come and that are not yet looked at.
pub const QUIC_INCOMING: usize = 1024;
/// What is kept of such a connection's further packets, in bytes.
pub const QUIC_INCOMING_BUFFER: u64 = 16 * 1024;
/// What is kept of all such connections' further packets, in bytes.
pub const QUIC_INCOMING_BUFFERS: u64 = 8 * 1024 * 1024;
/// Bytes of a handshake that have come out of order.
pub const QUIC_CRYPTO_BUFFER: usize = 16 * 1024;
/// Bidirectional streams that a client may have open at first: the CONNECT, the control stream and subscriptions. Each of them
/// costs memory before it is used.
pub const QUIC_BIDI_STREAMS: u32 = 8;
/// Bidirectional streams that a client may have open when it uses them.
pub const QUIC_BIDI_STREAMS_MAX: u32 = fulmar_core::limits::SUBSCRIPTIONS as u32 * 2;
/// Unidirectional streams that a client may have open: HTTP/3 control, two of QPACK, one of grease, and two to spare.
pub const QUIC_UNI_STREAMS: u32 = 6;
/// Receive window of a QUIC stream, in bytes.
pub const QUIC_STREAM_WINDOW: u32 = 256 * 1024;
/// Receive window of a QUIC connection, in bytes.
pub const QUIC_RECEIVE_WINDOW: u32 = 512 * 1024;
/// What is sent and not yet acknowledged on a QUIC connection, in bytes.
pub const QUIC_SEND_WINDOW: u64 = 512 * 1024;
/// QUIC packets that a client may receive before it acknowledges them at once, where it can be told: quinn's default is 1.
/// (draft-ietf-quic-ack-frequency)
pub const QUIC_ACK_THRESHOLD: u32 = 9;
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
/// How long a browser may remember that HTTP/3 is spoken here.
pub const ALTERNATIVE_AGE: Duration = Duration::from_secs(24 * 3600);
/// HTTP/3 requests under way on one connection, sessions apart: as many as RFC 9114, section 6.1, would have at least.
pub const HTTP3_REQUESTS: usize = 100;
/// HTTP/3 field section, in bytes.
pub const HTTP3_FIELD_SECTION: u64 = 16 * 1024;
/// A frame of a session that is not longer than this needs nothing of the session's budget, in bytes.
pub const SMALL_FRAME: usize = 1024;
/// What a session's frames that have begun and are not whole hold together, in bytes. Who finds that spent waits.
pub const SESSION_UNFINISHED_BYTES: usize = 256 * 1024;
/// How long a frame that has begun may take to be whole.
pub const FRAME_DEADLINE: Duration = Duration::from_secs(10);
/// How long streams wait for the first frame of the control stream where the client has promised an `attach` there. What
/// comes on them meanwhile is not read, so that flow control bounds it.
pub const ATTACH_DEADLINE: Duration = Duration::from_secs(10);
/// For how long a path is taken to be as it was, while less than half of what may be under way is.
pub const PATH_KNOWN: Duration = Duration::from_millis(100);
/// Subscriptions that a client may ask for with its CONNECT.
pub const EARLY_SUBSCRIPTIONS: usize = 16;
/// What names them in its URL, in characters.
pub const EARLY_TEXT: usize = 4096;
/// How much of a congestion window datagrams may have, in eighths: streams have the rest at least.
pub const DATAGRAM_WINDOW_EIGHTHS: usize = 7;

/// How long sessions go on when the server is about to stop and has said so; a quarter of the time for the stop at most.
pub const DRAIN: Duration = Duration::from_millis(500);
/// How long a server that stops takes for it at most, unless configured otherwise.
pub const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// Longest that it may be configured to take.
pub const STOP_DEADLINE_MAX: Duration = Duration::from_secs(3_600);
/// A TCP connection that is to end when the server stops, and over which nothing came or went for this long, is not waited for.
pub const STOP_QUIET: Duration = Duration::from_secs(2);
/// How long a QUIC connection stays when its last session has ended because the server stops. The session's close has been waited
/// for.
pub const STOP_LINGER: Duration = Duration::from_millis(250);

/// What every client of a server that stops is asked to wait at least before it comes back.
pub const RETRY_LEAST: Duration = Duration::from_millis(500);
/// The time over which those clients are spread at least.
pub const RETRY_WINDOW: Duration = Duration::from_secs(1);
/// The time over which they are spread at most, however many there are.
pub const RETRY_WINDOW_MAX: Duration = Duration::from_secs(60);
/// How many sessions come back in a second, where the bounds allow it: a QUIC handshake costs a core about a millisecond.
pub const RETURNS_PER_SECOND: u64 = 500;
