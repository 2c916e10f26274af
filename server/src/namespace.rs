//! Namespaces: what a channel is, by the first part of its name.

use std::{collections::HashMap, sync::Arc, time::Duration};

use fulmar_core::{
    ChannelName, Code, Draft, Problem, limits,
    log::{Bounds, Class},
};
use serde::Deserialize;

/// What happens to a subscriber that falls off the history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// It is told of the gap and goes on with what is still held.
    #[default]
    Gap,
    /// It is disconnected with close code 4501.
    Disconnect,
}

/// The rules of a namespace's channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// The delivery class.
    pub class: Class,
    /// What a channel holds.
    pub bounds: Bounds,
    /// What happens to slow subscribers of events.
    pub overflow: Overflow,
    /// State: how often a second a channel's values are flushed to one WebTransport session, at most. At least 1.
    pub max_rate: u32,
    /// State: how long after a datagram its values are sent once more, if nothing was heard of it by then. `None`: they are
    /// not, before it is lost.
    pub duplicate: Option<Duration>,
    /// Largest payload, in bytes.
    pub payload_bytes: usize,
    /// Whether clients may subscribe.
    pub subscribe: bool,
    /// Whether clients may publish. Operators always may.
    pub publish: bool,
}

impl Namespace {
    /// The defaults of a class, with nothing allowed to clients.
    pub const fn closed(class: Class) -> Self {
        let (count, bytes) = match class {
            Class::Event => (10_000, 16 * 1024 * 1024),
            Class::State => (10_000, 16 * 1024 * 1024),
            Class::Signal => (1_000, 1024 * 1024),
        };
        let age = match class {
            Class::Signal => limits::SIGNAL_TTL_MAX,
            Class::Event | Class::State => Duration::from_secs(300),
        };
        Self {
            class,
            bounds: Bounds { count, bytes, age },
            overflow: Overflow::Gap,
            max_rate: limits::MAX_RATE,
            duplicate: None,
            payload_bytes: limits::PAYLOAD_BYTES,
            subscribe: false,
            publish: false,
        }
    }

    /// The defaults of a class, with everything allowed to clients.
    pub const fn open(class: Class) -> Self {
        Self { subscribe: true, publish: true, ..Self::closed(class) }
    }

    /// Whether a draft belongs here, and with what it is completed.
    ///
    /// # Errors
    /// `payload_too_large`, `bad_payload` for a removal outside state, `bad_ttl`, `bad_priority`.
    pub fn check(&self, mut draft: Draft) -> Result<Draft, Problem> {
        let length = draft.payload.as_ref().map_or(0, |payload| payload.bytes().len());
        if length > self.payload_bytes {
            let message = format!("the payload has {length} bytes; at most {} are taken", self.payload_bytes);
            return Err(Problem::new(Code::PayloadTooLarge, message));
        }
        if draft.payload.is_none() && self.class != Class::State {
            return Err(Problem::new(Code::BadPayload, "only a key of a state channel can be removed"));
        }
        draft.ttl = match (self.class, draft.ttl) {
            (Class::Signal, None) => Some(limits::SIGNAL_TTL),
            (Class::Signal, Some(ttl)) if !ttl.is_zero() && ttl <= limits::SIGNAL_TTL_MAX => Some(ttl),
            (Class::Signal, Some(_)) => {
                let max = limits::SIGNAL_TTL_MAX.as_millis();
                return Err(Problem::new(Code::BadTtl, format!("ttl_ms is from 1 to {max}")));
            }
            (Class::Event | Class::State, None) => None,
            (Class::Event | Class::State, Some(_)) => {
                return Err(Problem::new(Code::BadTtl, "only a signal has a ttl_ms"));
            }
        };
        if draft.priority.is_some() && self.class != Class::State {
            return Err(Problem::new(Code::BadPriority, "only a publication of state has a priority"));
        }
        Ok(draft)
    }
}

/// All namespaces of a node.
#[derive(Clone, Debug)]
pub struct Namespaces {
    named: HashMap<String, Arc<Namespace>>,
    other: Arc<Namespace>,
}

impl Namespaces {
    /// Nothing but what is named; other channels are events that clients may neither read nor write.
    pub fn new(named: impl IntoIterator<Item = (String, Namespace)>) -> Self {
        let named = named.into_iter().map(|(name, namespace)| (name, Arc::new(namespace))).collect();
        Self { named, other: Arc::new(Namespace::closed(Class::Event)) }
    }

    /// Development mode: `event`, `state` and `signal`, each of its class, `host` for this machine's figures, and any
    /// other as events; all open to clients but for publishing to `host`.
    pub fn development() -> Self {
        let mut it = Self::new([
            ("event".to_owned(), Namespace::open(Class::Event)),
            ("state".to_owned(), Namespace::open(Class::State)),
            ("signal".to_owned(), Namespace::open(Class::Signal)),
            ("host".to_owned(), Namespace { publish: false, ..Namespace::open(Class::State) }),
        ]);
        it.other = Arc::new(Namespace::open(Class::Event));
        it
    }

    /// The namespace of a channel.
    pub fn of(&self, channel: &ChannelName) -> Arc<Namespace> {
        self.named.get(channel.namespace()).unwrap_or(&self.other).clone()
    }
}
