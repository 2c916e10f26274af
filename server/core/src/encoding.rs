//! The names of the wire encodings.

/// How a session's messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `fulmar.v1.json`: one JSON object per message.
    Json,
    /// `fulmar.v1.bin`: one binary frame per message.
    Binary,
}

impl Encoding {
    /// How many there are.
    pub const COUNT: usize = 2;
}
