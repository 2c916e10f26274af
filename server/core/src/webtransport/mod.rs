//! The pure parts of WebTransport over HTTP/3: what can be told of bytes alone. Driven by the transport of the crate
//! `fulmar`.

pub mod capsule;
pub mod error_code;
pub mod gauge;
pub mod settings;
