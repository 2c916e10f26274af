//! Which subscription a frame is for: channels, aliases, and what came before its alias was named.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use fulmar_core::{
    ChannelName, Code, Epoch, Offset, Position, Problem,
    codec::binary::{Ack, Arrival, Values},
    datagrams::{Receiver, Taken},
    message::Mark,
};
use tokio::time::Instant;

use crate::{
    early::{Early, Nameless},
    error::Ended,
    event::{Event, Lane, Publication},
    inbox::Inbox,
    limits,
};

/// What an alias stands for.
#[derive(Debug)]
pub(crate) enum Found {
    /// A channel that is subscribed to, in an epoch.
    Channel(Arc<Inbox>, Epoch),
    /// A subscription that has ended, or an epoch that is over.
    Retired,
    /// Nothing that was said yet.
    Unknown,
}

/// What gives an alias its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// Reading begins, or goes on, at the mark's position.
    Begins,
    /// What lies up to the mark's position is to be forgotten.
    Reset,
}

/// The subscriptions of a session.
#[derive(Debug)]
pub(crate) struct Routes {
    channels: HashMap<ChannelName, Route>,
    aliases: HashMap<u64, ChannelName>,
    retired: VecDeque<u64>,
    early: Early,
    early_values: VecDeque<(Instant, Values)>,
    receiver: Receiver,
    started: Instant,
    /// Nothing is subscribed any more.
    ended: Option<Ended>,
}

#[derive(Debug)]
struct Route {
    inbox: Arc<Inbox>,
    /// The current one; a channel has one at a time.
    named: Option<(u64, Epoch)>,
}

impl Default for Routes {
    fn default() -> Self {
        let (channels, aliases, retired, early, early_values, receiver, ended) = Default::default();
        Self { channels, aliases, retired, early, early_values, receiver, started: Instant::now(), ended }
    }
}

impl Routes {
    /// Makes an inbox the one of a channel.
    pub(crate) fn join(&mut self, channel: &ChannelName, inbox: &Arc<Inbox>) -> Result<(), Problem> {
        if let Some(ended) = &self.ended {
            inbox.end(ended.clone());
        }
        if self.channels.contains_key(channel) {
            return Err(Problem::new(Code::AlreadySubscribed, "the session has this subscription already"));
        }
        if self.channels.len() >= limits::SUBSCRIPTIONS {
            return Err(Problem::new(
                Code::TooManySubscriptions,
                "the session has as many subscriptions as it may; open another session",
            ));
        }
        self.channels.insert(channel.clone(), Route { inbox: inbox.clone(), named: None });
        Ok(())
    }

    /// Forgets a channel, where it still has this inbox.
    pub(crate) fn leave(&mut self, channel: &ChannelName, inbox: &Arc<Inbox>) {
        if self.channels.get(channel).is_some_and(|route| Arc::ptr_eq(&route.inbox, inbox))
            && let Some(Route { named: Some((alias, _)), .. }) = self.channels.remove(channel)
        {
            self.retire(alias);
        }
    }

    /// The inbox of a channel.
    pub(crate) fn inbox(&self, channel: &ChannelName) -> Option<Arc<Inbox>> {
        Some(self.channels.get(channel)?.inbox.clone())
    }

    /// Learns what an alias stands for, and hands out what came too early for it. Whether the channel is subscribed to.
    pub(crate) fn name(&mut self, mark: &Mark, now: Instant) -> bool {
        let Position { epoch, .. } = &mark.position;
        let named = self.channels.get(&mark.channel).and_then(|route| route.named.as_ref());
        if named.is_some_and(|(alias, current)| (alias, current) == (&mark.alias, epoch)) {
            // It is begun again for the same inbox: what that has got of it still counts.
            return true;
        }
        self.mark(mark, Named::Begins, now)
    }

    /// From where a channel can be begun again: its inbox has got all before.
    pub(crate) fn position(&self, channel: &ChannelName) -> Option<Position> {
        let (alias, epoch) = self.channels.get(channel)?.named.as_ref()?;
        Some(Position { epoch: epoch.clone(), offset: self.receiver.position(*alias)? })
    }

    /// As [`name`](Self::name), by a gap or a reset.
    pub(crate) fn mark(&mut self, mark: &Mark, named: Named, now: Instant) -> bool {
        let Some(route) = self.channels.get_mut(&mark.channel) else {
            return false;
        };
        let epoch = &mark.position.epoch;
        let before = route.named.replace((mark.alias, epoch.clone()));
        let inbox = route.inbox.clone();
        if let Some((old, _)) = before
            && old != mark.alias
        {
            self.retire(old);
        }
        self.retired.retain(|alias| *alias != mark.alias);
        self.aliases.insert(mark.alias, mark.channel.clone());
        match named {
            Named::Begins => self.receiver.subscribed(mark.alias, mark.position.offset),
            Named::Reset => self.receiver.reset(mark.alias, mark.position.offset),
        }
        for Nameless { offset, time, draft, .. } in self.early.take(mark.alias, now) {
            let publication = Publication::new(epoch.clone(), offset, time, draft, Lane::Datagram);
            inbox.offer(Event::Publication(publication));
        }
        for (at, values) in std::mem::take(&mut self.early_values) {
            if now.duration_since(at) <= limits::EARLY_AGE {
                self.values(values, now);
            }
        }
        true
    }

    /// Puts a publication that came on a stream into its inbox, if that is the channel's still and it is news of its key.
    pub(crate) fn publication(&mut self, alias: u64, inbox: &Arc<Inbox>, event: Event) {
        if let (Found::Channel(current, _), Event::Publication(it)) = (self.find(alias), &event)
            && Arc::ptr_eq(&current, inbox)
            && self.receiver.publication(alias, &it.key, it.offset)
        {
            inbox.put(event);
        }
    }

    /// A channel is in sync.
    pub(crate) fn synced(&mut self, alias: u64, offset: Offset) {
        self.receiver.synced(alias, offset);
    }

    /// Takes values off a datagram. They are acknowledged unless there is no room for all of them, or not all of them are for a
    /// subscription that has begun: then they may still be, or come again. A subscription whose inbox is full is paused: those of
    /// others would have to come again with its own.
    pub(crate) fn values(&mut self, values: Values, now: Instant) {
        let mut aliases: Vec<_> = values.entries.iter().map(|entry| entry.alias).collect();
        aliases.sort_unstable();
        aliases.dedup();
        let full = |alias: &u64| match self.find(*alias) {
            Found::Channel(inbox, _) => {
                !inbox.has_room(values.entries.iter().filter(|it| it.alias == *alias).count())
            }
            Found::Retired | Found::Unknown => false,
        };
        let full: Vec<_> = aliases.iter().copied().filter(full).collect();
        for alias in &full {
            if let Found::Channel(inbox, _) = self.find(*alias) {
                inbox.fall_behind();
            }
        }
        let again = values.clone();
        let taken = match full.is_empty() {
            true => self.receiver.datagram(values, now.duration_since(self.started)),
            false => Taken::NoRoom,
        };
        let arrived = match taken {
            Taken::New(arrived) => arrived,
            Taken::Partly(arrived, _) => {
                if self.early_values.len() == limits::EARLY_VALUES {
                    self.early_values.pop_front();
                }
                self.early_values.push_back((now, again));
                arrived
            }
            Taken::NoRoom => self.receiver.datagram_in_part(again, |alias| full.contains(&alias)),
        };
        aliases.retain(|alias| !full.contains(alias));
        for (inbox, publications, settled) in self.sorted(&aliases, arrived, Lane::Datagram) {
            inbox.values(publications, settled);
        }
    }

    /// Takes values off a stream.
    pub(crate) fn stream_values(&mut self, values: Values) {
        let mut aliases: Vec<_> = values.entries.iter().map(|entry| entry.alias).collect();
        aliases.sort_unstable();
        aliases.dedup();
        let arrived = self.receiver.values(values);
        for (inbox, publications, settled) in self.sorted(&aliases, arrived, Lane::Stream) {
            publications.into_iter().for_each(|it| inbox.put(Event::Publication(it)));
            inbox.values([], settled);
        }
    }

    fn sorted(
        &self,
        aliases: &[u64],
        mut arrived: Vec<(u64, Arrival)>,
        lane: Lane,
    ) -> Vec<(Arc<Inbox>, Vec<Publication>, Option<Offset>)> {
        let mut sorted = Vec::new();
        for alias in aliases {
            if let Found::Channel(inbox, epoch) = self.find(*alias) {
                let of_it = arrived.extract_if(.., |(of, _)| of == alias);
                let publications = of_it
                    .map(|(_, it)| Publication::new(epoch.clone(), it.offset, it.time, it.draft, lane))
                    .collect();
                sorted.push((inbox, publications, self.receiver.position(*alias)));
            }
        }
        sorted
    }

    /// When an acknowledgement has to be sent, if one has.
    pub(crate) fn ack_due(&self) -> Option<Instant> {
        Some(self.started + self.receiver.ack_due()?)
    }

    /// The acknowledgement that is owed.
    pub(crate) fn take_ack(&mut self, now: Instant) -> Option<Ack> {
        self.receiver.take_ack(now.duration_since(self.started))
    }

    /// What an alias stands for.
    pub(crate) fn find(&self, alias: u64) -> Found {
        let route = self.aliases.get(&alias).and_then(|channel| self.channels.get(channel));
        match route {
            Some(Route { inbox, named: Some((_, epoch)) }) => Found::Channel(inbox.clone(), epoch.clone()),
            _ if self.retired.contains(&alias) => Found::Retired,
            _ => Found::Unknown,
        }
    }

    /// Takes a publication off a datagram. Whether another that had come too early had to go for it.
    pub(crate) fn datagram(&mut self, it: Nameless, now: Instant) -> bool {
        match self.find(it.alias) {
            Found::Channel(inbox, epoch) => {
                let publication = Publication::new(epoch, it.offset, it.time, it.draft, Lane::Datagram);
                inbox.offer(Event::Publication(publication));
                false
            }
            Found::Retired => false,
            Found::Unknown => self.early.keep(it, now),
        }
    }

    /// Ends every subscription, and those to come.
    pub(crate) fn end(&mut self, why: &Ended) {
        for route in self.channels.values() {
            route.inbox.end(why.clone());
        }
        self.ended.get_or_insert_with(|| why.clone());
    }

    fn retire(&mut self, alias: u64) {
        self.aliases.remove(&alias);
        self.receiver.forget(alias);
        if self.retired.len() == limits::RETIRED_ALIASES {
            self.retired.pop_front();
        }
        self.retired.push_back(alias);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fulmar_core::{
        Draft, Offset, Payload, Position,
        codec::binary::{Arrival, Content, Entry},
    };

    use super::*;
    use crate::{counters::Counters, inbox::Item};

    fn channel(name: &str) -> ChannelName {
        ChannelName::parse(name).expect("a name")
    }

    fn mark(name: &str, alias: u64, epoch: &str) -> Mark {
        let position = Position { epoch: Epoch::parse(epoch).expect("an epoch"), offset: Offset::ZERO };
        Mark { channel: channel(name), alias, position }
    }

    fn nameless(alias: u64, offset: u64) -> Nameless {
        let offset = Offset::new(offset).expect("an offset");
        Nameless { alias, offset, time: 0, draft: Draft::new(Payload::text("x")) }
    }

    fn joined(routes: &mut Routes, name: &str) -> Arc<Inbox> {
        let inbox = Inbox::new(Arc::new(Counters::default()));
        routes.join(&channel(name), &inbox).expect("free");
        inbox
    }

    /// Epoch and offset of what waits.
    fn waiting(inbox: &Inbox) -> Vec<(String, u64)> {
        std::iter::from_fn(|| inbox.try_next())
            .filter_map(|item| match item {
                Item::Event(Event::Publication(it)) => Some((it.epoch.as_str().to_owned(), it.offset.get())),
                Item::Settled(_) => None,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn of(epoch: &str, offsets: impl IntoIterator<Item = u64>) -> Vec<(String, u64)> {
        offsets.into_iter().map(|offset| (epoch.to_owned(), offset)).collect()
    }

    #[test]
    fn a_datagram_goes_to_the_subscription_of_its_alias() {
        let (mut routes, now) = (Routes::default(), Instant::now());
        let (a, b) = (joined(&mut routes, "state:a"), joined(&mut routes, "state:b"));
        assert!(routes.name(&mark("state:a", 1, "ea"), now) && routes.name(&mark("state:b", 2, "eb"), now));
        for (alias, offset) in [(1, 10), (2, 20), (1, 11)] {
            routes.datagram(nameless(alias, offset), now);
        }
        assert_eq!((waiting(&a), waiting(&b)), (of("ea", [10, 11]), of("eb", [20])));
    }

    #[test]
    fn a_datagram_may_come_before_its_alias_is_named() {
        let (mut routes, now) = (Routes::default(), Instant::now());
        let inbox = joined(&mut routes, "state:a");
        for offset in 1..=3 {
            routes.datagram(nameless(7, offset), now);
        }
        routes.datagram(nameless(8, 9), now);
        assert_eq!(waiting(&inbox), []);
        routes.name(&mark("state:a", 7, "e1"), now);
        assert_eq!(waiting(&inbox), of("e1", 1..=3), "in their order, and only those of the alias");
        // The same when a gap or reset gives the channel another alias.
        routes.name(&mark("state:a", 8, "e2"), now);
        assert_eq!(waiting(&inbox), of("e2", [9]));
    }

    #[test]
    fn early_datagrams_are_bounded_in_number_and_time() {
        let (mut routes, now) = (Routes::default(), Instant::now());
        let inbox = joined(&mut routes, "state:a");
        let sent = limits::EARLY_FRAMES as u64 + 3;
        let lost = (1..=sent).filter(|offset| routes.datagram(nameless(1, *offset), now)).count();
        assert_eq!(lost, 3);
        routes.name(&mark("state:a", 1, "e"), now);
        assert_eq!(waiting(&inbox), of("e", 4..=sent), "the oldest went");

        routes.datagram(nameless(2, 1), now);
        let later = now + limits::EARLY_AGE - Duration::from_millis(1);
        routes.datagram(nameless(2, 2), later);
        routes.name(&mark("state:a", 2, "f"), later + Duration::from_millis(2));
        assert_eq!(waiting(&inbox), of("f", [2]), "what came too long ago is not given");
    }

    /// Whether it has since this was asked last.
    fn fell_behind(inbox: &Inbox) -> bool {
        let mut waiting = std::pin::pin!(inbox.behind());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        waiting.as_mut().poll(&mut context).is_ready()
    }

    /// A frame with one value for each of these aliases.
    fn values(number: u64, aliases: &[u64], offset: u64) -> Values {
        let entry = |alias: &u64| {
            let key = fulmar_core::Key::parse(&offset.to_string()).expect("a key");
            let (draft, offset) =
                (Draft::value(key, Payload::text("x")), Offset::new(offset).expect("an offset"));
            let content = Content::Whole(Arrival { offset, time: 0, draft });
            Entry { alias: *alias, low: Offset::ZERO, content }
        };
        Values { number, entries: aliases.iter().map(entry).collect() }
    }

    #[test]
    fn an_inbox_that_is_full_keeps_nothing_from_others() {
        let (mut routes, now) = (Routes::default(), Instant::now());
        let (unread, other) = (joined(&mut routes, "state:unread"), joined(&mut routes, "state:other"));
        for (name, alias) in [("state:unread", 1), ("state:other", 2)] {
            routes.name(&mark(name, alias, "e"), now);
            routes.synced(alias, Offset::ZERO);
        }
        let mut sent = 0;
        while unread.has_room(1) {
            sent += 1;
            routes.values(values(sent, &[1], sent), now);
        }
        let taken = routes.take_ack(now).expect("all of it");
        assert_eq!(taken.newest, sent);
        assert!(!fell_behind(&unread));

        routes.values(values(sent + 1, &[1, 2], sent + 1), now);
        assert_eq!(waiting(&other), of("e", [sent + 1]), "what there is room for is taken");
        assert_eq!(routes.ack_due(), None, "but not acknowledged");
        assert!(fell_behind(&unread));
        // It is paused once, and begun again from what the inbox has got.
        routes.values(values(sent + 2, &[1], sent + 2), now);
        assert!(!fell_behind(&unread));
        unread.begun_again();
        routes.values(values(sent + 3, &[1], sent + 3), now);
        assert!(fell_behind(&unread));
        assert_eq!(routes.position(&channel("state:unread")), Some(mark("state:unread", 1, "e").position));
        // What it has got already does not count as new then.
        assert!(routes.name(&mark("state:unread", 1, "e"), now));
        while unread.try_next().is_some() {}
        routes.values(values(sent + 4, &[1], sent), now);
        routes.values(values(sent + 5, &[1], sent + 5), now);
        assert_eq!(waiting(&unread), of("e", [sent + 5]));
        assert_eq!(routes.take_ack(now).map(|ack| ack.newest), Some(sent + 5), "there is room again");
    }

    #[test]
    fn stragglers_of_what_is_over_are_dropped() {
        let (mut routes, now) = (Routes::default(), Instant::now());
        let first = joined(&mut routes, "state:a");
        routes.name(&mark("state:a", 1, "e1"), now);
        routes.name(&mark("state:a", 2, "e2"), now);
        routes.datagram(nameless(1, 5), now);
        assert_eq!(waiting(&first), [], "of an epoch that is over");
        routes.leave(&channel("state:a"), &first);
        routes.datagram(nameless(2, 6), now);
        assert!(matches!(routes.find(2), Found::Retired));

        // Subscribed to again: the alias is the same, what came in between is not given.
        let second = joined(&mut routes, "state:a");
        routes.name(&mark("state:a", 2, "e2"), now);
        assert_eq!((waiting(&first), waiting(&second)), (vec![], vec![]));
        routes.datagram(nameless(2, 7), now);
        assert_eq!(waiting(&second), of("e2", [7]));
        // One that is long gone takes nothing from the one that is there.
        routes.leave(&channel("state:a"), &first);
        assert!(routes.inbox(&channel("state:a")).is_some());
    }

    #[test]
    fn aliases_do_not_pile_up() {
        let (mut routes, now) = (Routes::default(), Instant::now());
        let _inbox = joined(&mut routes, "state:a");
        for alias in 0..10_000 {
            routes.name(&mark("state:a", alias, "e"), now);
        }
        assert_eq!((routes.aliases.len(), routes.retired.len()), (1, limits::RETIRED_ALIASES));
    }

    #[tokio::test]
    async fn names_are_taken_once_and_only_so_many() {
        let mut routes = Routes::default();
        for n in 0..limits::SUBSCRIPTIONS {
            joined(&mut routes, &format!("event:{n}"));
        }
        let inbox = Inbox::new(Arc::default());
        let refused = |routes: &mut Routes, name| routes.join(&channel(name), &inbox).map_err(|it| it.code);
        assert_eq!(refused(&mut routes, "event:0"), Err(Code::AlreadySubscribed));
        assert_eq!(refused(&mut routes, "event:more"), Err(Code::TooManySubscriptions));
        routes.end(&Ended::StreamEnded);
        let there = routes.inbox(&channel("event:0")).expect("it is there");
        assert_eq!(there.ended().await, Ended::StreamEnded);
    }
}
