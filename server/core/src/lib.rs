//! The rules of Fulmar, without any IO.
//!
//! Everything here is a function of its arguments: time comes in as [`Now`], entropy as bytes, and effects go out as
//! values. The crate `fulmar` drives it with real sockets and a real clock; tests drive it with none.
//!
//! The one idea: *the log is the queue*. A channel is a [`Log`] of [`Publication`]s, a subscription is a [`Reader`]
//! that holds a position in it, and live delivery, replay, conflation and catching up are one operation,
//! [`Log::read`].

pub mod close;
pub mod codec;
pub mod cursor;
pub mod datagrams;
pub mod encoding;
pub mod limits;
pub mod log;
pub mod message;
pub mod name;
pub mod payload;
pub mod position;
pub mod problem;
pub mod publication;
pub mod registry;
pub mod time;
pub mod webtransport;
pub mod window;

pub use close::CloseCode;
pub use cursor::{Cursor, Resume};
pub use encoding::Encoding;
pub use log::{Class, Item, Log, Reader, Start};
pub use message::{Adopt, ClientMessage, Positions, Ref, Rejection, ServerMessage, StartRequest};
pub use name::{ChannelName, Key, PublicationId};
pub use payload::Payload;
pub use position::{Epoch, Offset, Position};
pub use problem::{Code, Problem};
pub use publication::{Draft, Publication};
pub use time::Now;

/// Whether two secrets are the same, in a time that depends on their lengths only.
pub fn secrets_match(expected: &str, given: &str) -> bool {
    use subtle::ConstantTimeEq as _;
    expected.as_bytes().ct_eq(given.as_bytes()).into()
}
