//! What streams bring. It waits for room in its inbox before it is looked at, so that nothing newer of its key can come between.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fulmar_core::{
    Epoch, Offset, Position,
    codec::binary::{Content, Values},
    message::Mark,
};
use tokio::time::Instant;

use crate::{
    event::{Event, Publication},
    inbox::Inbox,
    limits,
    routes::{Found, Named, Routes},
};

/// The subscriptions of a session, and what its streams bring them.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    routes: Mutex<Routes>,
}

impl Intake {
    /// Held for a moment, and never across an await.
    pub(crate) fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A publication of the subscription that has this inbox.
    pub(crate) async fn publication(&self, alias: u64, inbox: &Arc<Inbox>, publication: Publication) {
        let event = Event::Publication(publication);
        inbox.room_for(event.cost()).await;
        self.routes().publication(alias, inbox, event);
    }

    /// Values, and how far their channels have been read.
    pub(crate) async fn values(&self, values: Values) {
        let number = values.number;
        for entry in values.entries {
            let found = self.routes().find(entry.alias);
            if let (Found::Channel(inbox, _), Content::Whole(arrival)) = (found, &entry.content) {
                inbox.room_for(limits::EVENT_OVERHEAD + arrival.draft.cost()).await;
            }
            self.routes().stream_values(Values { number, entries: vec![entry] });
        }
    }

    /// A snapshot is complete.
    pub(crate) async fn synced(&self, alias: u64, inbox: &Inbox, epoch: Epoch, offset: Offset) {
        let event = Event::Synced(Position { epoch, offset });
        inbox.room_for(event.cost()).await;
        let mut routes = self.routes();
        inbox.put(event);
        routes.synced(alias, offset);
    }

    /// A gap or a reset. It is in the inbox before what came too early for its alias is.
    pub(crate) async fn mark(&self, mark: Mark, event: impl FnOnce(Position) -> Event, named: Named) {
        let Some(inbox) = self.routes().inbox(&mark.channel) else { return };
        let event = event(mark.position.clone());
        inbox.room_for(event.cost()).await;
        let mut routes = self.routes();
        inbox.put(event);
        routes.mark(&mark, named, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use fulmar_core::{
        ChannelName, Draft, Key, Payload,
        codec::binary::{Arrival, Entry},
    };

    use super::*;
    use crate::{event::Lane, inbox::Item};

    fn at(offset: u64) -> Offset {
        Offset::new(offset).expect("an offset")
    }

    fn draft(bytes: usize) -> Draft {
        Draft::value(Key::parse("k").expect("a key"), Payload::text("x".repeat(bytes)))
    }

    fn frame(number: u64, offset: u64, bytes: usize) -> Values {
        let content = Content::Whole(Arrival { offset: at(offset), time: 0, draft: draft(bytes) });
        Values { number, entries: vec![Entry { alias: 1, low: Offset::ZERO, content }] }
    }

    /// What comes off a stream while its inbox is full must not be read behind what is newer.
    #[tokio::test]
    async fn a_newer_value_that_comes_while_the_stream_waits_is_not_followed_by_the_older() {
        let epoch = Epoch::parse("e").expect("an epoch");
        let stream =
            |offset, bytes| Publication::new(epoch.clone(), at(offset), 0, draft(bytes), Lane::Stream);
        for by_values in [false, true] {
            let (intake, inbox) = (Intake::default(), Inbox::new(Arc::default()));
            let channel = ChannelName::parse("state:a").expect("a name");
            let position = Position { epoch: epoch.clone(), offset: Offset::ZERO };
            let mark = Mark { channel: channel.clone(), alias: 1, position };
            intake.routes().join(&channel, &inbox).expect("free");
            intake.routes().name(&mark, Instant::now());
            intake.publication(1, &inbox, stream(1, limits::INBOX_BYTES)).await;

            let waits = async {
                if by_values {
                    intake.values(frame(1, 2, 10)).await;
                } else {
                    intake.publication(1, &inbox, stream(2, 10)).await;
                }
            };
            let overtakes = async {
                intake.routes().values(frame(1, 3, 10), Instant::now());
                inbox.next().await
            };
            let ((), first) = tokio::join!(waits, overtakes);
            let rest = std::iter::from_fn(|| inbox.try_next());
            let offsets: Vec<_> = std::iter::once(first.expect("an event"))
                .chain(rest)
                .filter_map(|item| match item {
                    Item::Event(Event::Publication(it)) => Some(it.offset.get()),
                    _ => None,
                })
                .collect();
            assert_eq!(offsets, [1, 3], "by a frame of values: {by_values}");
        }
    }
}
