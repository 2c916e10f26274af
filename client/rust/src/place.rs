//! Where a subscription has got to.

use fulmar_core::{Offset, Position};

use crate::event::{Event, Lane, Publication};

/// The position of the last thing on a subscription's stream; of state that is in sync, its low-water offset.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    position: Position,
    /// Not within a snapshot, where a position means nothing.
    usable: bool,
    /// State that is in sync: what comes is in no order, and only the low-water offset counts.
    synced: bool,
}

impl Place {
    pub(crate) fn new(position: Position, usable: bool) -> Self {
        Self { position, usable, synced: false }
    }

    /// Takes note of what the application was given.
    pub(crate) fn note(&mut self, event: &Event) {
        match event {
            Event::Publication(Publication { lane: Lane::Datagram, .. }) => {}
            Event::Publication(_) if self.synced => {}
            Event::Publication(Publication { epoch, offset, .. }) => {
                if *epoch == self.position.epoch && *offset > self.position.offset {
                    self.position.offset = *offset;
                }
            }
            Event::Gap(position) => *self = Self::new(position.clone(), true),
            Event::Synced(position) => *self = Self { synced: true, ..Self::new(position.clone(), true) },
            Event::Reset(position) => *self = Self::new(position.clone(), false),
        }
    }

    /// Takes note of the low-water offset.
    pub(crate) fn settle(&mut self, offset: Offset) {
        if self.usable {
            self.synced = true;
            self.position.offset = self.position.offset.max(offset);
        }
    }

    pub(crate) fn get(&self) -> Option<&Position> {
        self.usable.then_some(&self.position)
    }
}

#[cfg(test)]
mod tests {
    use fulmar_core::{Draft, Epoch, Key, Offset};

    use super::*;

    fn at(epoch: &str, offset: u64) -> Position {
        let epoch = Epoch::parse(epoch).expect("an epoch");
        Position { epoch, offset: Offset::new(offset).expect("an offset") }
    }

    fn publication(position: Position, lane: Lane) -> Event {
        let Position { epoch, offset } = position;
        Event::Publication(Publication::new(epoch, offset, 0, Draft::removal(Key::default()), lane))
    }

    #[test]
    fn only_the_stream_moves_it_and_a_snapshot_has_none() {
        let mut place = Place::new(at("e1", 3), true);
        let steps = [
            (publication(at("e1", 9), Lane::Datagram), Some(at("e1", 3))),
            (publication(at("e1", 5), Lane::Stream), Some(at("e1", 5))),
            (publication(at("e0", 8), Lane::Stream), Some(at("e1", 5))),
            (Event::Gap(at("e2", 1)), Some(at("e2", 1))),
            (Event::Reset(at("e3", 0)), None),
            (publication(at("e3", 1), Lane::Stream), None),
            (Event::Synced(at("e3", 4)), Some(at("e3", 4))),
        ];
        for (event, expected) in steps {
            place.note(&event);
            assert_eq!(place.get(), expected.as_ref(), "after {event:?}");
        }
        place.note(&publication(at("e3", 9), Lane::Stream));
        place.settle(Offset::new(6).expect("an offset"));
        place.settle(Offset::new(5).expect("an offset"));
        assert_eq!(place.get(), Some(&at("e3", 6)), "values come in no order");
        assert_eq!(Place::new(at("e", 1), false).get(), None);
    }
}
