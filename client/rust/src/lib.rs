//! A client of Fulmar over WebTransport. PROTOCOL.md has the wire.
//!
//! ```no_run
//! # async fn example(hashes: Vec<[u8; 32]>) -> Result<(), Box<dyn std::error::Error>> {
//! use fulmar_client::{ChannelName, Client, Start, StateView, Trust};
//!
//! let client = Client::connect("https://127.0.0.1:7400/wt", Trust::CertificateHashes(hashes)).await?;
//! let mut readings = client.subscribe(&ChannelName::parse("host:cpu")?, Start::Afresh).await?;
//! let mut view = StateView::default();
//! let ended = loop {
//!     match readings.next().await {
//!         Ok(event) => view.apply(event),
//!         Err(ended) => break ended,
//!     };
//! };
//! println!("{ended}; to be read on from {:?}", readings.position());
//! # Ok(())
//! # }
//! ```
//!
//! A [`Client`] is one session, a [`Subscription`] one stream of it. Neither reconnects by itself: a subscription gives
//! the position to come back with, and [`Close::advice`] says whether to come back. Many clients share a UDP socket
//! when they come from one [`Connector`].
//!
//! Whoever reads slowly stops the reading of its own stream, and of nothing else; datagrams beyond a bound are dropped
//! from the oldest on, and counted. The bounds are in [`limits`].

mod client;
mod close;
mod connector;
mod counters;
mod cursor;
mod early;
mod error;
mod event;
mod inbox;
mod intake;
pub mod limits;
mod place;
mod reader;
mod relay;
mod requests;
mod routes;
mod session;
mod state;
mod subscription;
mod trust;

pub use client::Client;
pub use close::Close;
pub use connector::Connector;
pub use counters::Counts;
pub use cursor::cursor_of;
pub use error::{ConnectError, Ended, Refusal, RequestError};
pub use event::{Event, Lane, Publication};
pub use relay::Relay;
pub use state::{StateView, Value};
pub use subscription::Subscription;
pub use trust::Trust;

pub use fulmar_core::{
    ChannelName, Cursor, Draft, Epoch, Key, Offset, Payload, Position, Positions, PublicationId,
    StartRequest as Start,
    close::{Advice, CloseCode},
};
pub use wtransport;
