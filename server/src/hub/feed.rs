//! Feeds: subscriptions that are read together, in turn.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use fulmar_core::{Encoding, Epoch, Item, Position, ServerMessage, codec, datagrams::Effects, message::Mark};

use super::{
    channel::{Begins, Channel},
    ready::{Ready, Waiting},
};
use crate::{limits, telemetry::Counters};

/// What a transport reads from: the subscriptions of one connection, or of one of its streams.
#[derive(Debug)]
pub struct Feed {
    pub(super) ready: Arc<Ready>,
    pub(super) order: Order,
    pub(super) scope: Scope,
}

/// What messages that come with a feed may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Any subscription of the session.
    Session,
    /// Those that were made with it.
    Feed,
}

/// How a feed takes turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Subscriptions in turn, by bytes.
    Turns,
    /// As turns, but a snapshot that began is finished first: a cursor can describe one at most.
    SnapshotsWhole,
    /// As turns; state goes by datagram once it is in sync, and only what does not fit goes here.
    BesideDatagrams,
}

/// What a feed gives at most in one reading, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct ReadBudget(pub usize);

/// What a connection is to send by datagram.
#[derive(Debug, Default)]
pub struct DatagramBatch {
    /// Signals.
    pub signals: Vec<Delivery>,
    /// Packets with state.
    pub effects: Effects,
}

/// How a reading of a feed ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedEnd {
    /// Nothing is left until [`Feed::ready`].
    Drained,
    /// The budget was used up.
    More,
}

impl Feed {
    /// A feed without subscriptions.
    pub fn new(order: Order) -> Self {
        let by_cursor = order == Order::SnapshotsWhole;
        Self { ready: Arc::new(Ready::new(by_cursor)), order, scope: Scope::Session }
    }

    /// As one of several of a connection, whose messages come in no order with those of the others: a late one must not end what was
    /// subscribed to elsewhere since.
    pub fn apart(self) -> Self {
        Self { scope: Scope::Feed, ..self }
    }

    /// What [`super::Connection::execute`] needs of it, so that commands can run while the feed is read.
    pub fn handle(&self) -> FeedHandle {
        FeedHandle { ready: self.ready.clone(), scope: self.scope }
    }

    /// A wait that can be gone on with again and again: less work than [`Self::ready`] where something is always about to come.
    pub fn wait(&self) -> Waiting<'_> {
        self.ready.wait()
    }

    /// Waits until there is something to read. Cancel-safe.
    pub async fn ready(&self) {
        self.ready.filled().await;
    }
}

/// Names a feed.
#[derive(Clone, Debug)]
pub struct FeedHandle {
    pub(super) ready: Arc<Ready>,
    pub(super) scope: Scope,
}

/// Something to be sent to a subscriber.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub(super) channel: Arc<Channel>,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    /// The connection reads this channel from here on, though it did not ask in-band: `POST /send` did, or the session
    /// had the subscription when it was attached.
    Subscribed(Begins),
    Item(Item),
    /// A frame of low-water offsets, and of values that fit no datagram.
    Values(Bytes),
}

impl Delivery {
    /// The channel's name.
    pub fn channel(&self) -> &fulmar_core::ChannelName {
        self.channel.name()
    }

    /// The channel's epoch.
    pub fn epoch(&self) -> &Epoch {
        self.channel.epoch()
    }

    /// What was read of the channel's log; `None` for the news of a subscription and for frames of values, which only
    /// in-band transports get.
    pub fn item(&self) -> Option<&Item> {
        match &self.what {
            What::Subscribed(_) | What::Values(_) => None,
            What::Item(item) => Some(item),
        }
    }

    /// Whether it tells a client of what it was too slow for.
    pub(super) fn is_slow(&self) -> bool {
        matches!(self.item(), Some(Item::Gap(_, true)))
    }

    /// When it is no longer worth sending, on the node's monotonic clock.
    pub fn expires(&self) -> Option<Duration> {
        match self.item()? {
            Item::Publication(publication, _) => publication.expires(),
            Item::Gap(..) | Item::Reset(_) | Item::Synced(_) => None,
        }
    }

    /// The message in an encoding. A publication is encoded by the first who asks, for all.
    pub fn frame(&self, encoding: Encoding, counters: &Arc<Counters>) -> Bytes {
        let message = match &self.what {
            What::Subscribed(Begins { position, recovered }) => {
                let mark = self.mark(position);
                ServerMessage::Subscribed { r#ref: None, mark, recovered: *recovered }
            }
            What::Item(Item::Publication(publication, _)) => {
                return codec::publication(publication, encoding, |made| keep(made, encoding, counters));
            }
            What::Values(frame) => return frame.clone(),
            What::Item(Item::Gap(position, _)) => ServerMessage::Gap(self.mark(position)),
            What::Item(Item::Reset(position)) => ServerMessage::Reset(self.mark(position)),
            What::Item(Item::Synced(position)) => ServerMessage::Synced(self.mark(position)),
        };
        codec::encode(encoding, &message)
    }

    fn mark(&self, position: &Position) -> Mark {
        Mark { channel: self.channel.name().clone(), alias: self.channel.alias(), position: position.clone() }
    }
}

/// What is kept of an encoding. Small ones are part of what a publication is taken to occupy; the bytes of larger ones are
/// counted for as long as they are kept, and above the node's bound they are not.
fn keep(frame: Bytes, encoding: Encoding, counters: &Arc<Counters>) -> Option<Bytes> {
    match encoding {
        Encoding::Json => counters.encoded_json.increment(),
        Encoding::Binary => counters.encoded_binary.increment(),
    }
    if frame.len() <= fulmar_core::limits::PUBLICATION_OVERHEAD {
        return Some(frame);
    }
    let bytes = frame.len() as u64;
    if counters.encoded_bytes.add(bytes) + bytes > limits::ENCODED_BYTES {
        counters.encoded_bytes.subtract(bytes);
        return None;
    }
    Some(Bytes::from_owner(Encoded { frame, counters: counters.clone() }))
}

/// An encoding that is kept and counted.
struct Encoded {
    frame: Bytes,
    counters: Arc<Counters>,
}

impl AsRef<[u8]> for Encoded {
    fn as_ref(&self) -> &[u8] {
        &self.frame
    }
}

impl Drop for Encoded {
    fn drop(&mut self) {
        self.counters.encoded_bytes.subtract(self.frame.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_encodings_are_counted_while_they_are_kept_and_not_kept_above_the_bound() {
        let counters = Arc::new(Counters::default());
        let large = || Bytes::from(vec![0; 1000]);
        let kept = keep(large(), Encoding::Json, &counters).expect("there is room");
        let twice = kept.clone();
        assert_eq!((kept.len(), counters.encoded_bytes.get()), (1000, 1000));
        drop(kept);
        assert_eq!(counters.encoded_bytes.get(), 1000);
        drop(twice);
        assert_eq!(counters.encoded_bytes.get(), 0);
        counters.encoded_bytes.add(limits::ENCODED_BYTES - 999);
        assert!(keep(large(), Encoding::Json, &counters).is_none());
        assert_eq!(counters.encoded_bytes.get(), limits::ENCODED_BYTES - 999);
        assert!(
            keep(Bytes::from(vec![0; 10]), Encoding::Json, &counters).is_some(),
            "small ones are not counted"
        );
    }
}
