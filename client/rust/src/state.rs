//! What a state channel holds, put together from its events. PROTOCOL.md, section 2.

use std::collections::{HashMap, VecDeque};

use fulmar_core::{Epoch, Key, Offset, Payload, Position};

use crate::{
    event::{Event, Publication},
    limits,
};

/// The newest publication of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Its place.
    pub offset: Offset,
    /// When the server accepted it, in ms since 1970.
    pub time: u64,
    /// What the key holds; `None` when it was removed.
    pub payload: Option<Payload>,
}

/// What one state channel holds. It can be carried over to another subscription of the channel.
#[derive(Clone, Debug, Default)]
pub struct StateView {
    epoch: Option<Epoch>,
    synced: bool,
    values: HashMap<Key, Value>,
    /// What a reset forgot: shown until the snapshot brings something newer or is complete, so that no key is missing for a moment.
    /// Of a key that stands in `values` too, that counts.
    forgotten: HashMap<Key, Value>,
    /// Removed keys in the order of their removals; one that has changed since stands here in vain.
    removed: VecDeque<(Key, Offset)>,
}

impl StateView {
    /// Takes an event. Whether it changed what is held.
    pub fn apply(&mut self, event: Event) -> bool {
        match event {
            Event::Publication(publication) => self.publication(publication),
            Event::Reset(position) => {
                self.reset(position);
                true
            }
            Event::Synced(_) => {
                self.synced = true;
                !std::mem::take(&mut self.forgotten).is_empty()
            }
            Event::Gap(_) => false,
        }
    }

    fn publication(&mut self, publication: Publication) -> bool {
        let Publication { epoch, offset, time, key, payload, .. } = publication;
        // A reset comes before anything of a new epoch, so what is of another is a straggler of an old one.
        if *self.epoch.get_or_insert_with(|| epoch.clone()) != epoch {
            return false;
        }
        if self.values.get(&key).is_some_and(|held| offset <= held.offset) {
            return false;
        }
        if payload.is_none() {
            self.removed.push_back((key.clone(), offset));
            if self.removed.len() > limits::REMOVED_KEYS
                && let Some((oldest, at)) = self.removed.pop_front()
                && self.values.get(&oldest).is_some_and(|held| held.payload.is_none() && held.offset == at)
            {
                self.values.remove(&oldest);
            }
        }
        self.forgotten.remove(&key);
        self.values.insert(key, Value { offset, time, payload });
        true
    }

    fn reset(&mut self, Position { epoch, offset }: Position) {
        let same = self.epoch.as_ref() == Some(&epoch);
        let forgotten = self.values.extract_if(|_, held| !same || held.offset <= offset);
        self.forgotten.extend(forgotten.filter(|(_, held)| held.payload.is_some()));
        self.removed.retain(|(_, at)| same && *at > offset);
        self.epoch = Some(epoch);
        self.synced = false;
    }

    /// What a key holds; nothing when it was removed or never was.
    pub fn get(&self, key: &Key) -> Option<&Payload> {
        self.values.get(key).or_else(|| self.forgotten.get(key))?.payload.as_ref()
    }

    /// The keys that hold something.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Value)> {
        let forgotten = self.forgotten.iter().filter(|(key, _)| !self.values.contains_key(*key));
        self.values.iter().filter(|(_, value)| value.payload.is_some()).chain(forgotten)
    }

    /// Whether a snapshot is complete.
    pub fn is_synced(&self) -> bool {
        self.synced
    }
}

#[cfg(test)]
mod tests {
    use fulmar_core::Draft;

    use super::*;
    use crate::event::Lane;

    fn key(name: &str) -> Key {
        Key::parse(name).expect("a key")
    }

    fn at(epoch: &str, offset: u64) -> Position {
        let epoch = Epoch::parse(epoch).expect("an epoch");
        Position { epoch, offset: Offset::new(offset).expect("an offset") }
    }

    fn put(epoch: &str, offset: u64, name: &str, text: Option<&str>) -> Event {
        let draft = Draft { payload: text.map(Payload::text), ..Draft::removal(key(name)) };
        let Position { epoch, offset } = at(epoch, offset);
        Event::Publication(Publication::new(epoch, offset, 0, draft, Lane::Datagram))
    }

    fn held(view: &StateView) -> Vec<(&str, &[u8])> {
        let mut held: Vec<_> = view
            .iter()
            .filter_map(|(key, value)| Some((key.as_str(), value.payload.as_ref()?.bytes().as_ref())))
            .collect();
        held.sort_unstable();
        held
    }

    #[test]
    fn an_older_value_does_not_replace_a_newer_one() {
        let mut view = StateView::default();
        assert!(view.apply(put("e", 5, "k", Some("new"))));
        assert!(!view.apply(put("e", 4, "k", Some("old"))));
        assert!(!view.apply(put("e", 5, "k", Some("again"))));
        assert!(view.apply(put("e", 3, "other", Some("its own order"))));
        assert_eq!(held(&view), [("k", &b"new"[..]), ("other", b"its own order")]);
    }

    #[test]
    fn a_removed_key_is_not_brought_back_by_an_older_value() {
        let mut view = StateView::default();
        view.apply(put("e", 1, "k", Some("1")));
        assert!(view.apply(put("e", 3, "k", None)));
        assert_eq!(view.get(&key("k")), None);
        assert!(!view.apply(put("e", 2, "k", Some("2"))));
        assert_eq!(held(&view), []);
        assert!(view.apply(put("e", 4, "k", Some("4"))));
        assert_eq!(view.get(&key("k")), Some(&Payload::text("4")));
    }

    #[test]
    fn a_reset_spares_what_has_overtaken_it() {
        let mut view = StateView::default();
        view.apply(Event::Reset(at("e1", 0)));
        view.apply(put("e1", 3, "gone", Some("3")));
        view.apply(put("e1", 9, "overtook", Some("9")));
        view.apply(put("e1", 4, "removed", None));
        view.apply(Event::Synced(at("e1", 9)));
        assert!(view.is_synced());
        view.apply(Event::Reset(at("e1", 8)));
        assert!(!view.is_synced());
        assert_eq!(
            held(&view),
            [("gone", &b"3"[..]), ("overtook", b"9")],
            "what it forgets is shown until then"
        );
        assert!(
            view.apply(put("e1", 4, "removed", Some("of the snapshot"))),
            "its removal was forgotten too"
        );
        // Of another epoch nothing is spared, whatever its offset; and the old one says nothing any more.
        assert!(view.apply(Event::Synced(at("e1", 9))));
        assert_eq!(held(&view), [("overtook", &b"9"[..]), ("removed", b"of the snapshot")]);
        assert!(!view.apply(Event::Synced(at("e1", 9))));
        view.apply(Event::Reset(at("e2", 1)));
        assert_eq!(held(&view).len(), 2);
        assert!(view.apply(put("e2", 1, "overtook", None)), "its offset is of another count");
        assert_eq!(held(&view), [("removed", &b"of the snapshot"[..])]);
        view.apply(Event::Synced(at("e2", 1)));
        assert_eq!(held(&view), []);
        assert!(!view.apply(put("e1", 20, "straggler", Some("20"))));
        assert!(view.apply(put("e2", 2, "k", Some("2"))));
        assert_eq!(held(&view), [("k", &b"2"[..])]);
    }

    #[test]
    fn removals_are_bounded() {
        let mut view = StateView::default();
        let total = limits::REMOVED_KEYS as u64 + 10;
        for n in 1..=total {
            view.apply(put("e", n, &format!("k{n}"), None));
        }
        assert_eq!((view.removed.len(), view.values.len()), (limits::REMOVED_KEYS, limits::REMOVED_KEYS));
        // A key that holds something again is no removal, however often it was one.
        for n in 0..5_000 {
            view.apply(put("e", total + 2 * n + 1, "blinks", None));
            view.apply(put("e", total + 2 * n + 2, "blinks", Some("there")));
        }
        assert_eq!(held(&view), [("blinks", &b"there"[..])]);
        assert!(view.removed.len() <= limits::REMOVED_KEYS);
    }
}
