//! How messages travel: `fulmar.v1.json` and `fulmar.v1.bin`.

pub mod binary;
pub mod json;
pub mod varint;

/// How a session's messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// One JSON object per message.
    Json,
    /// One binary frame per message.
    Binary,
}

impl Encoding {
    /// How many there are.
    pub const COUNT: usize = 2;
}
