//! What a client remembers in order to come back. Pure.

use fulmar_client::cursor_of;
use fulmar_core::{ChannelName, Cursor, Offset, Position, Positions, Problem, StartRequest};

/// An event, as a transport gives it.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) channel: usize,
    pub(super) number: u64,
    pub(super) position: Position,
    /// Of all channels, where the transport gave one with it.
    pub(super) cursor: Option<String>,
}

/// Where a client has got to: its own positions, and the last cursor that it was given, if that says the same.
#[derive(Clone, Debug)]
pub(super) struct Place {
    positions: Vec<Option<Position>>,
    cursor: Option<String>,
}

impl Place {
    pub(super) fn new(channels: usize) -> Self {
        Self { positions: vec![None; channels], cursor: None }
    }

    /// An event was taken. Its cursor counts unless the client is elsewhere in another channel.
    pub(super) fn note(&mut self, event: Event, channels: &[ChannelName], with_cursor: bool) {
        self.cursor = event.cursor.filter(|_| with_cursor);
        if self.positions.iter().any(Option::is_none) {
            let cursor = self.cursor.as_deref().and_then(|it| Cursor::parse(it).ok());
            self.learn(cursor.as_ref(), channels);
        }
        if let Some(position) = self.positions.get_mut(event.channel) {
            *position = Some(event.position);
        }
    }

    /// What a cursor says of channels of which nothing is known.
    pub(super) fn learn(&mut self, cursor: Option<&Cursor>, channels: &[ChannelName]) {
        for (position, channel) in self.positions.iter_mut().zip(channels) {
            if position.is_none() {
                *position = cursor.and_then(|it| it.get(channel)).map(|it| it.position.clone());
            }
        }
    }

    /// Reading a channel begins here. What is known already stays.
    pub(super) fn begin(&mut self, channel: usize, position: Position) {
        if let Some(known) = self.positions.get_mut(channel) {
            known.get_or_insert(position);
        }
    }

    /// What another place knows of channels of which nothing is known here.
    pub(super) fn adopt(&mut self, other: &Self) {
        for (channel, position) in other.positions.iter().enumerate() {
            if let Some(position) = position {
                self.begin(channel, position.clone());
            }
        }
    }

    /// Where to begin in a channel, in-band.
    pub(super) fn start(&self, channel: usize) -> StartRequest {
        if let Some(cursor) = self.cursor.as_deref().and_then(|it| Cursor::parse(it).ok()) {
            return StartRequest::Cursor(cursor);
        }
        self.positions.get(channel).cloned().flatten().map_or(StartRequest::Afresh, StartRequest::Position)
    }

    /// Where it has got to in the channels of which that is known.
    pub(super) fn positions(&self, channels: &[ChannelName]) -> Result<Positions, Problem> {
        let mut positions = Positions::default();
        for (channel, position) in channels.iter().zip(&self.positions) {
            if let Some(position) = position {
                positions.push(channel.clone(), position.clone())?;
            }
        }
        Ok(positions)
    }

    /// The cursor that it was given.
    pub(super) fn given_cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// A cursor, given or made.
    pub(super) fn cursor(&self, channels: &[ChannelName]) -> Option<String> {
        let known = channels.iter().zip(&self.positions).filter_map(|(name, it)| Some((name, it.as_ref()?)));
        self.cursor.clone().or_else(|| cursor_of(known))
    }

    /// One offset too late in the first channel.
    pub(super) fn skip_one(&mut self) {
        self.cursor = None;
        if let Some(Some(position)) = self.positions.first_mut() {
            position.offset = Offset::new(position.offset.get() + 1).unwrap_or(position.offset);
        }
    }

    fn offset(&self, channel: usize) -> Option<Offset> {
        Some(self.positions.get(channel)?.as_ref()?.offset)
    }
}

/// What comes over two transports, because a client took what came over the one that it left after it had asked the other to go
/// on. The other gives it again, and the client drops it: each once, so that what is repeated besides is seen.
#[derive(Clone, Debug)]
pub(super) struct Overlap(Vec<Option<(Offset, Offset)>>);

impl Overlap {
    /// What was taken after the place where the other began.
    pub(super) fn between(began: &Place, left: &Place) -> Self {
        let channels = 0..left.positions.len();
        let range =
            |channel| Some((began.offset(channel)?, left.offset(channel)?)).filter(|(from, to)| from < to);
        Self(channels.map(range).collect())
    }

    /// Whether an event is known, and to be dropped.
    pub(super) fn drops(&mut self, event: &Event) -> bool {
        let Some(range) = self.0.get_mut(event.channel) else { return false };
        let Some((dropped, last)) = range else { return false };
        let offset = event.position.offset;
        let drops = *dropped < offset && offset <= *last;
        *dropped = (*dropped).max(offset);
        if offset >= *last {
            *range = None;
        }
        drops
    }

    /// Whether nothing more is to be dropped.
    pub(super) fn is_over(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }
}

#[cfg(test)]
mod tests {
    use fulmar_core::Epoch;

    use super::*;

    fn event(channel: usize, offset: u64, cursor: Option<&str>) -> Event {
        let epoch = Epoch::parse("e").expect("an epoch");
        let position = Position { epoch, offset: Offset::new(offset).expect("an offset") };
        Event { channel, number: offset, position, cursor: cursor.map(str::to_owned) }
    }

    fn names() -> Vec<ChannelName> {
        ["event:a", "event:b"].map(|it| ChannelName::parse(it).expect("a name")).to_vec()
    }

    fn place(events: &[Event]) -> Place {
        let mut place = Place::new(2);
        events.iter().for_each(|event| place.note(event.clone(), &names(), true));
        place
    }

    #[test]
    fn what_came_twice_is_dropped_once() {
        let began = place(&[event(0, 3, None), event(1, 1, None)]);
        let left = place(&[event(0, 5, None), event(1, 1, None)]);
        let mut overlap = Overlap::between(&began, &left);
        let mut dropped = |channel, offset| overlap.drops(&event(channel, offset, None));
        assert!(!dropped(1, 2), "the other channel has none");
        assert!(!dropped(0, 3), "what had come before is repeated, and is seen");
        assert_eq!([4, 4, 5, 5, 6].map(|offset| dropped(0, offset)), [true, false, true, false, false]);
        assert!(overlap.is_over());
        assert!(Overlap::between(&left, &left).is_over());
    }

    #[test]
    fn a_cursor_counts_until_something_came_without() {
        let channels = names();
        let both = cursor_of([
            (&channels[0], &event(0, 7, None).position),
            (&channels[1], &event(1, 2, None).position),
        ]);
        let cursor = both.as_deref();
        let mut place = place(&[event(0, 7, cursor)]);
        assert_eq!(place.given_cursor(), cursor);
        assert_eq!(place.offset(1).map(Offset::get), Some(2), "it says where the other channel is");
        assert!(matches!(place.start(1), StartRequest::Cursor(_)));
        place.note(event(0, 8, cursor), &channels, false);
        assert_eq!(place.given_cursor(), None);
        assert_eq!(place.start(0), StartRequest::Position(event(0, 8, None).position));
        place.skip_one();
        let made = place.cursor(&channels).expect("positions make one");
        let made = Cursor::parse(&made).expect("a cursor");
        let offset = |channel: usize| made.get(&channels[channel]).map(|it| it.position.offset.get());
        assert_eq!((offset(0), offset(1)), (Some(9), Some(2)));
    }
}
