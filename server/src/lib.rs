//! Fulmar: a WebTransport-first realtime server.
//!
//! The parts, each importing only those before it: `fulmar_core` (rules without IO), [`hub`] (channels and sessions),
//! [`transport`] and [`http`] (bytes), [`node`] (assembly), and `main.rs` (arguments). `server/ARCHITECTURE.md` has
//! the map.

pub mod access;
pub mod admission;
mod assets;
pub mod bench;
pub mod budget;
pub mod clock;
pub mod config;
mod development;
pub mod http;
pub mod hub;
pub mod limits;
pub mod namespace;
pub mod node;
pub mod telemetry;
pub mod tls;
pub mod transport;
