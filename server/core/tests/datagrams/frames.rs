//! Frames of values, as the simulation looks at them.

use fulmar_core::{
    Offset,
    codec::{
        binary::{self, Content, ServerFrame, Values},
        framing,
    },
};

/// What a session's datagrams begin with.
pub const PREFIX: &[u8] = &[7];

/// The values of a packet, which has nothing else.
pub fn values_of(packet: &[u8]) -> Values {
    let frames = framing::split_datagram(&packet[PREFIX.len()..]).expect("whole frames");
    match binary::decode_server(frames[0]) {
        Ok(ServerFrame::Values(values)) => values,
        other => panic!("a packet holds {other:?}"),
    }
}

/// What of which publications a frame has: alias, offset, and the part's number.
pub fn contents(values: &Values) -> Vec<(u64, Offset, Option<usize>)> {
    let entries = values.entries.iter().filter_map(|entry| match &entry.content {
        Content::Position => None,
        Content::Whole(it) => Some((entry.alias, it.offset, None)),
        Content::Part(it) => Some((entry.alias, it.offset, Some(it.index))),
    });
    entries.collect()
}

/// A frame of values, in short: aliases, keys and offsets.
pub fn told(values: &Values) -> String {
    let entries = values.entries.iter().map(|entry| {
        let (alias, low) = (entry.alias, entry.low);
        match &entry.content {
            Content::Position => format!("{alias}>{low}"),
            Content::Part(it) => {
                format!("{alias}>{low}:{}@{}.{}", it.key.as_str(), it.offset, it.index)
            }
            Content::Whole(it) => {
                let kind = if it.draft.payload.is_some() { "" } else { "-" };
                format!("{alias}>{low}:{kind}{}@{}", it.draft.key.as_str(), it.offset)
            }
        }
    });
    entries.collect::<Vec<_>>().join(" ")
}
