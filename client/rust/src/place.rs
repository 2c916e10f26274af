//! Where a subscription has got to.

use fulmar_core::Position;

use crate::event::{Event, Lane, Publication};

/// The position of the last thing on a subscription's stream.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    position: Position,
    /// Not within a snapshot, where a position means nothing.
    usable: bool,
}

impl Place {
    pub(crate) fn new(position: Position, usable: bool) -> Self {
        Self { position, usable }
    }

    /// Takes note of what the application was given.
    pub(crate) fn note(&mut self, event: &Event) {
        match event {
            Event::Publication(Publication { lane: Lane::Datagram, .. }) => {}
            Event::Publication(Publication { epoch, offset, .. }) => {
                if *epoch == self.position.epoch && *offset > self.position.offset {
                    self.position.offset = *offset;
                }
            }
            Event::Gap(position) | Event::Synced(position) => *self = Self::new(position.clone(), true),
            Event::Reset(position) => *self = Self::new(position.clone(), false),
        }
    }

    pub(crate) fn get(&self) -> Option<&Position> {
        self.usable.then_some(&self.position)
    }
}
