//! What waits to be read in a subscription: events off its stream, signals, and values off datagrams.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, watch};

use fulmar_core::{Key, Offset};

use crate::{
    counters::Counters,
    error::Ended,
    event::{Event, Publication},
    limits,
};

/// What comes out of an inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// For the application.
    Event(Event),
    /// What came before it makes this the channel's position, in its present epoch.
    Settled(Offset),
}

/// One producer off a stream, which waits for room; signals, which push out their oldest; values, which take the place of
/// older ones of their keys, until there are too many; one reader, who gets all in the order in which they came.
#[derive(Debug)]
pub(crate) struct Inbox {
    queues: Mutex<Queues>,
    readable: Notify,
    room: Notify,
    behind: Notify,
    drained: Notify,
    ended: watch::Sender<Option<Ended>>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Queues {
    arrivals: u64,
    stream: VecDeque<(u64, Event)>,
    stream_bytes: usize,
    datagrams: VecDeque<(u64, Item)>,
    /// Where the value of a key stands among the datagrams, by its arrival.
    keys: HashMap<Key, u64>,
    /// Likewise the last off the stream.
    streamed: HashMap<Key, u64>,
    dropped: u64,
    /// There was no room for values, so the subscription is paused.
    behind: bool,
    /// Nobody will read any more.
    shut: bool,
}

impl Queues {
    fn arrival(&mut self) -> u64 {
        self.arrivals += 1;
        self.arrivals
    }

    fn has_room(&self, cost: usize) -> bool {
        self.stream.is_empty()
            || (self.stream.len() < limits::INBOX_EVENTS && self.stream_bytes + cost <= limits::INBOX_BYTES)
    }

    fn is_drained(&self) -> bool {
        self.datagrams.len() <= limits::INBOX_DRAINED
    }

    fn pop(&mut self) -> Option<Item> {
        let datagram_first = match (self.stream.front(), self.datagrams.front()) {
            (Some((stream, _)), Some((datagram, _))) => datagram < stream,
            (stream, _) => stream.is_none(),
        };
        if datagram_first {
            let (arrival, item) = self.datagrams.pop_front()?;
            if let Item::Event(Event::Publication(publication)) = &item
                && self.keys.get(&publication.key) == Some(&arrival)
            {
                self.keys.remove(&publication.key);
            }
            return Some(item);
        }
        let (arrival, event) = self.stream.pop_front()?;
        self.stream_bytes -= event.cost();
        if let Event::Publication(publication) = &event
            && self.streamed.get(&publication.key) == Some(&arrival)
        {
            self.streamed.remove(&publication.key);
        }
        Some(Item::Event(event))
    }

    /// The value of the same key that waits, if one does and the stream has brought none since: that is read in between.
    fn waiting(&mut self, key: &Key) -> Option<&mut Publication> {
        let arrival = self.keys.get(key)?;
        if self.streamed.get(key).is_some_and(|streamed| streamed > arrival) {
            return None;
        }
        let index = self.datagrams.binary_search_by_key(arrival, |(arrival, _)| *arrival).ok()?;
        match &mut self.datagrams.get_mut(index)?.1 {
            Item::Event(Event::Publication(publication)) => Some(publication),
            Item::Event(_) | Item::Settled(_) => None,
        }
    }
}

impl Inbox {
    pub(crate) fn new(counters: Arc<Counters>) -> Arc<Self> {
        let (ended, _) = watch::channel(None);
        let (queues, readable, room, behind, drained) = Default::default();
        Arc::new(Self { queues, readable, room, behind, drained, ended, counters })
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        // Nothing that holds the lock can panic half-way through a change.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room for an event off the stream; only its producer takes any.
    pub(crate) async fn room_for(&self, cost: usize) {
        loop {
            {
                let queues = self.queues();
                if queues.shut || queues.has_room(cost) {
                    return;
                }
            }
            self.room.notified().await;
        }
    }

    /// Puts in an event off the stream, for which there is room.
    pub(crate) fn put(&self, event: Event) {
        {
            let mut queues = self.queues();
            if queues.shut {
                return;
            }
            let arrival = queues.arrival();
            if let Event::Publication(publication) = &event {
                self.counters.publications.add(1);
                queues.streamed.insert(publication.key.clone(), arrival);
            }
            queues.stream_bytes += event.cost();
            queues.stream.push_back((arrival, event));
        }
        self.readable.notify_one();
    }

    /// Puts in a signal off a datagram, in the place of the oldest where there are too many.
    pub(crate) fn offer(&self, event: Event) {
        {
            let mut queues = self.queues();
            if queues.shut {
                return;
            }
            self.counters.publications.add(1);
            if queues.datagrams.len() == limits::INBOX_DATAGRAMS {
                queues.datagrams.pop_front();
                queues.dropped += 1;
                self.counters.dropped.add(1);
            }
            let arrival = queues.arrival();
            queues.datagrams.push_back((arrival, Item::Event(event)));
        }
        self.readable.notify_one();
    }

    /// Whether so many values more, and a position, may wait.
    pub(crate) fn has_room(&self, values: usize) -> bool {
        let queues = self.queues();
        queues.shut || queues.datagrams.len() + values < limits::INBOX_DATAGRAMS
    }

    /// There is no room for values: the subscription has to pause.
    pub(crate) fn fall_behind(&self) {
        if !std::mem::replace(&mut self.queues().behind, true) {
            self.behind.notify_one();
        }
    }

    /// Waits until there was no room for values.
    pub(crate) async fn behind(&self) {
        self.behind.notified().await;
    }

    /// Waits until most of the values have been read.
    pub(crate) async fn drained(&self) {
        loop {
            if self.queues().is_drained() {
                return;
            }
            self.drained.notified().await;
        }
    }

    /// The subscription goes on.
    pub(crate) fn begun_again(&self) {
        self.queues().behind = false;
    }

    /// Puts in values, and the position that they make. An older value of a key that waits is replaced.
    pub(crate) fn values(&self, values: impl IntoIterator<Item = Publication>, settled: Option<Offset>) {
        {
            let mut queues = self.queues();
            if queues.shut {
                return;
            }
            for publication in values {
                self.counters.publications.add(1);
                if let Some(waiting) = queues.waiting(&publication.key)
                    && waiting.epoch == publication.epoch
                {
                    if waiting.offset < publication.offset {
                        *waiting = publication;
                    }
                    continue;
                }
                let arrival = queues.arrival();
                queues.keys.insert(publication.key.clone(), arrival);
                queues.datagrams.push_back((arrival, Item::Event(Event::Publication(publication))));
            }
            let latest = queues.arrivals;
            match (settled, queues.datagrams.back_mut()) {
                (None, _) => {}
                // Else it would be read before what the stream has brought since, which may be what makes it.
                (Some(settled), Some((arrival, Item::Settled(before)))) if *arrival == latest => {
                    *before = settled.max(*before);
                }
                (Some(settled), _) => {
                    let arrival = queues.arrival();
                    queues.datagrams.push_back((arrival, Item::Settled(settled)));
                }
            }
        }
        self.readable.notify_one();
    }

    /// The next event; why there is none, once what came before the end has been read. Cancel safe.
    pub(crate) async fn next(&self) -> Result<Item, Ended> {
        loop {
            if let Some(event) = self.try_next() {
                return Ok(event);
            }
            if let Some(ended) = &*self.ended.borrow() {
                return Err(ended.clone());
            }
            self.readable.notified().await;
        }
    }

    /// The next event, if one is there.
    pub(crate) fn try_next(&self) -> Option<Item> {
        let mut queues = self.queues();
        let item = queues.pop()?;
        let drained = queues.behind && queues.is_drained();
        drop(queues);
        self.room.notify_one();
        if drained {
            self.drained.notify_one();
        }
        Some(item)
    }

    /// Publications off datagrams that were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.queues().dropped
    }

    /// Nobody will read any more: forgets what waits, and what is to come.
    pub(crate) fn shut(&self) {
        {
            let mut queues = self.queues();
            *queues = Queues { shut: true, dropped: queues.dropped, ..Queues::default() };
        }
        self.room.notify_one();
    }

    /// Nothing more comes. The first reason counts.
    pub(crate) fn end(&self, why: Ended) {
        self.queues().shut = true;
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(why);
            first
        });
        self.room.notify_one();
        self.readable.notify_one();
    }

    /// Whether nothing more comes.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Waits until nothing more comes.
    pub(crate) async fn ended(&self) -> Ended {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await.map(|ended| ended.clone()) {
            Ok(Some(ended)) => ended,
            // The sender is a field of this.
            _ => Ended::StreamEnded,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fulmar_core::{Draft, Epoch, Offset, Payload};
    use tokio::time::timeout;

    use super::*;
    use crate::event::{Lane, Publication};

    fn publication(offset: u64, bytes: usize, lane: Lane) -> Event {
        let draft = Draft::new(Payload::Binary(vec![0; bytes].into()));
        let (epoch, offset) = (Epoch::parse("e").expect("an epoch"), Offset::new(offset).expect("an offset"));
        Event::Publication(Publication::new(epoch, offset, 0, draft, lane))
    }

    async fn push(inbox: &Inbox, event: Event) {
        inbox.room_for(event.cost()).await;
        inbox.put(event);
    }

    fn offset(item: &Item) -> (u64, Lane) {
        match item {
            Item::Event(Event::Publication(it)) => (it.offset.get(), it.lane),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_value_that_waits_is_replaced_and_too_many_keys_are_refused() {
        let inbox = Inbox::new(Arc::default());
        let value = |key: &str, offset| match publication(offset, 10, Lane::Datagram) {
            Event::Publication(it) => Publication { key: Key::parse(key).expect("a key"), ..it },
            other => panic!("{other:?}"),
        };
        let at = |offset| Offset::new(offset);
        inbox.values([value("a", 1), value("b", 2)], at(0));
        inbox.values([value("a", 4)], at(2));
        inbox.values([value("b", 1)], at(3));
        let read: Vec<_> = std::iter::from_fn(|| inbox.try_next()).collect();
        assert_eq!(read.len(), 3);
        assert_eq!(offset(&read[0]).0, 4, "the newer value, in the place of the older");
        assert_eq!(offset(&read[1]).0, 2);
        assert_eq!(
            read[2],
            Item::Settled(at(3).expect("an offset")),
            "a position is read after what makes it"
        );
        inbox.values([value("a", 5)], None);
        assert_eq!(offset(&inbox.try_next().expect("a value")).0, 5, "what was read is not replaced");
        let mut keys = 0;
        while inbox.has_room(1) {
            inbox.values([value(&format!("k{keys}"), 10 + keys)], None);
            keys += 1;
        }
        assert_eq!(keys as usize, limits::INBOX_DATAGRAMS - 1);
    }

    #[test]
    fn a_value_off_a_datagram_stays_behind_what_the_stream_brought_of_its_key() {
        let inbox = Inbox::new(Arc::default());
        let value = |offset, lane| publication(offset, 10, lane);
        let datagram = |offset| match value(offset, Lane::Datagram) {
            Event::Publication(it) => inbox.values([it], None),
            other => panic!("{other:?}"),
        };
        datagram(1);
        inbox.put(value(2, Lane::Stream));
        datagram(3);
        datagram(4);
        let read: Vec<_> = std::iter::from_fn(|| inbox.try_next()).map(|item| offset(&item).0).collect();
        assert_eq!(read, [1, 2, 4], "in the order of the offsets");
        inbox.put(value(5, Lane::Stream));
        assert_eq!(offset(&inbox.try_next().expect("a value")).0, 5);
        datagram(6);
        datagram(7);
        assert_eq!(offset(&inbox.try_next().expect("a value")).0, 7, "what was read is in nobody's way");
        let Queues { keys, streamed, .. } = &*inbox.queues();
        assert!(keys.is_empty() && streamed.is_empty(), "nothing is remembered of what was read");
    }

    #[test]
    fn a_position_is_read_after_all_that_makes_it() {
        let inbox = Inbox::new(Arc::default());
        inbox.values([], Offset::new(4));
        inbox.values([], Offset::new(5));
        inbox.put(publication(6, 10, Lane::Stream));
        inbox.values([], Offset::new(6));
        let read = std::iter::from_fn(|| inbox.try_next()).map(|item| match item {
            Item::Settled(at) => format!("position {at}"),
            event @ Item::Event(_) => format!("event {}", offset(&event).0),
        });
        assert_eq!(read.collect::<Vec<_>>(), ["position 5", "event 6", "position 6"]);
    }

    #[tokio::test]
    async fn both_lanes_are_read_in_the_order_of_arrival() {
        let inbox = Inbox::new(Arc::default());
        let order = [Lane::Stream, Lane::Datagram, Lane::Datagram, Lane::Stream, Lane::Datagram];
        for (n, lane) in order.into_iter().enumerate() {
            let event = publication(n as u64, 10, lane);
            if lane == Lane::Stream { push(&inbox, event).await } else { inbox.offer(event) }
        }
        inbox.end(Ended::StreamEnded);
        for (n, lane) in order.into_iter().enumerate() {
            assert_eq!(offset(&inbox.next().await.expect("an event")), (n as u64, lane));
        }
        assert_eq!(inbox.next().await, Err(Ended::StreamEnded));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_stops_its_stream_and_drops_the_oldest_datagrams() {
        let inbox = Inbox::new(Arc::default());
        let mut pushed = 0;
        let moment = Duration::from_millis(10);
        while pushed < 10_000
            && timeout(moment, push(&inbox, publication(pushed, 1000, Lane::Stream))).await.is_ok()
        {
            pushed += 1;
        }
        assert!((100..=limits::INBOX_EVENTS as u64).contains(&pushed), "{pushed} of a kilobyte");
        let sent = limits::INBOX_DATAGRAMS as u64 + 5;
        for n in 0..sent {
            inbox.offer(publication(n, 1000, Lane::Datagram));
        }
        assert_eq!(inbox.dropped(), 5);
        assert_eq!(inbox.counters.dropped.get(), 5);
        for n in 0..pushed {
            assert_eq!(offset(&inbox.next().await.expect("an event")), (n, Lane::Stream), "nothing was lost");
        }
        for n in 5..sent {
            assert_eq!(offset(&inbox.next().await.expect("an event")), (n, Lane::Datagram));
        }
        // There is room again.
        timeout(moment, push(&inbox, publication(0, 1000, Lane::Stream))).await.expect("room");
        // One event may be larger than the bound, when it is alone.
        inbox.next().await.expect("an event");
        let large = publication(0, limits::INBOX_BYTES * 2, Lane::Stream);
        timeout(moment, push(&inbox, large)).await.expect("room");
        assert!(timeout(moment, push(&inbox, publication(0, 1, Lane::Stream))).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_frees_who_waits() {
        let inbox = Inbox::new(Arc::default());
        push(&inbox, publication(0, limits::INBOX_BYTES, Lane::Stream)).await;
        let waits = async {
            push(&inbox, publication(1, 1, Lane::Stream)).await;
            push(&inbox, publication(2, 1, Lane::Stream)).await;
        };
        tokio::join!(waits, async { inbox.end(Ended::Unsubscribed) });
        assert!(inbox.next().await.is_ok());
        assert_eq!(inbox.next().await, Err(Ended::Unsubscribed));
        assert_eq!(inbox.ended().await, Ended::Unsubscribed);
    }
}
