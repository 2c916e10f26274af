//! How far a client of SSE or polling has read, for its cursor.

use fulmar_core::{
    ChannelName, Class, Epoch, Item, Offset, Position, Resume, ServerMessage, cursor::CursorWriter,
};

use crate::hub::{Connection, CursorRequest, Delivery};

/// A position per channel, moved on by what is delivered.
#[derive(Debug, Default)]
pub(super) struct Progress {
    channels: Vec<(ChannelName, Resume)>,
}

impl Progress {
    /// Takes in the channels that a connection reads, just now subscribed to or not. Until the first delivery the
    /// cursor says what the client asked for, so that a gap or reset which is lost on the way comes again.
    pub(super) fn begin(
        connection: &Connection,
        subscribed: &[ServerMessage],
        request: &CursorRequest,
    ) -> Self {
        let just_now = |name: &ChannelName| {
            subscribed.iter().any(
                |message| matches!(message, ServerMessage::Subscribed { mark, .. } if mark.channel == *name),
            )
        };
        let asked = |name: &ChannelName| match request {
            CursorRequest::After(cursor) if just_now(name) => cursor.get(name).cloned(),
            _ => None,
        };
        let positions = connection.positions().into_iter();
        let channels = positions.map(|(name, at)| {
            let at = asked(&name).or(at).unwrap_or_else(nowhere);
            (name, at)
        });
        Self { channels: channels.collect() }
    }

    /// Moves on.
    pub(super) fn deliver(&mut self, delivery: &Delivery) {
        let Some((offset, base)) = delivery.item().map(Item::resume) else { return };
        let resume = Resume { position: Position { epoch: delivery.epoch().clone(), offset }, base };
        match self.channels.iter_mut().find(|(channel, _)| channel == delivery.channel()) {
            Some((_, at)) => *at = resume,
            // Subscribed to meanwhile, by POST /send.
            None => self.channels.push((delivery.channel().clone(), resume)),
        }
    }

    /// Moves on behind the signals that were read and dropped, of which no delivery tells: they are not to be read, and counted,
    /// again.
    pub(super) fn pass_dropped(&mut self, connection: &Connection) {
        for (name, read) in connection.positions() {
            if connection.hub().namespace(&name).class == Class::Signal
                && let Some(read) = read
                && let Some((_, at)) = self.channels.iter_mut().find(|(channel, _)| *channel == name)
            {
                *at = read;
            }
        }
    }

    /// The cursor.
    pub(super) fn cursor(&self) -> String {
        let mut writer = CursorWriter::default();
        for (channel, Resume { position, base }) in &self.channels {
            writer.push(channel, &position.epoch, position.offset, *base);
        }
        writer.finish()
    }
}

/// A position of no epoch that a channel ever has: theirs have eleven characters.
fn nowhere() -> Resume {
    Position { epoch: Epoch::parse("none").expect("a valid epoch"), offset: Offset::ZERO }.into()
}
