//! How bytes become commands on a connection, and what a connection gives becomes bytes.
//!
//! WebSocket and every WebTransport stream are a [`duplex`]; SSE and polling only read. None knows of channels beyond
//! the names in messages, and none of another.

pub mod duplex;
mod lag;
pub mod outlet;
pub mod poll;
mod progress;
pub mod sse;
pub mod websocket;
pub mod webtransport;
