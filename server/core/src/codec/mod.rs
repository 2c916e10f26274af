//! How messages travel: `fulmar.v1.json` and `fulmar.v1.bin`.

pub mod batch;
pub mod binary;
pub mod framing;
pub mod json;
pub mod varint;

use bytes::Bytes;

use crate::{encoding::Encoding, message::ServerMessage, publication::Publication};

/// The frame of a server's message.
pub fn encode(encoding: Encoding, message: &ServerMessage) -> Bytes {
    match (message, encoding) {
        (ServerMessage::Publication(it), encoding) => publication(it, encoding, Some),
        (message, Encoding::Json) => json::encode(message),
        (message, Encoding::Binary) => binary::encode(message),
    }
}

/// The frame of a publication, made by the first who asks and kept for all others. When it had to be made, `keep` is given it
/// and gives what is to be kept, or `None`: the next who asks makes it again.
pub fn publication(
    publication: &Publication,
    encoding: Encoding,
    keep: impl FnOnce(Bytes) -> Option<Bytes>,
) -> Bytes {
    match encoding {
        Encoding::Json => publication.encoded(encoding, keep, json::publication),
        Encoding::Binary => publication.encoded(encoding, keep, binary::publication),
    }
}
