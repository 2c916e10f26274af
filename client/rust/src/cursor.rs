//! Cursors out of positions. PROTOCOL.md, section 3.

use fulmar_core::{ChannelName, Position, cursor::CursorWriter, limits};

/// The cursor of these positions, which is good on any transport. `None` where no cursor can hold them: there are
/// none, or more than 32.
pub fn cursor_of<'a>(positions: impl IntoIterator<Item = (&'a ChannelName, &'a Position)>) -> Option<String> {
    let mut writer = CursorWriter::default();
    let mut entries = 0;
    for (channel, Position { epoch, offset }) in positions {
        entries += 1;
        if entries > limits::CURSOR_CHANNELS {
            return None;
        }
        writer.push(channel, epoch, *offset, None);
    }
    Some(writer.finish()).filter(|cursor| !cursor.is_empty())
}
