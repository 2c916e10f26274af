//! Channels, sessions and what flows between them.
//!
//! A transport opens a [`Connection`], turns its bytes into [`Connection::execute`], and turns what
//! [`Connection::read`] gives for a [`Feed`] into bytes. It knows nothing of channels.
//!
//! Locks, always taken in this order and never across an await: the registry; a session; the table of channels; a
//! channel; a ready queue.

mod channel;
mod connection;
mod feed;
mod lanes;
mod ready;
mod session;
mod spread;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::digest;

use fulmar_core::{
    ChannelName, CloseCode, Code, Draft, Epoch, Now, Position, Problem,
    registry::{Capacity, Ensured, Registry, Secret, SessionId, Ticket},
};

use tokio::time::Instant;

use self::{
    channel::{Channel, Publisher},
    session::Session,
    spread::Spread,
};
pub use self::{
    connection::{Answers, Connection, CursorRequest},
    feed::{DatagramBatch, Delivery, Feed, FeedEnd, FeedHandle, Order, ReadBudget},
};
use crate::{
    clock::{Clock, entropy},
    limits,
    namespace::{Namespace, Namespaces},
    telemetry::Counters,
};

/// The node's channels and its one session registry.
#[derive(Debug)]
pub struct Hub {
    clock: Clock,
    namespaces: Namespaces,
    channels: Mutex<Channels>,
    /// Bytes that all channels hold together.
    bytes: AtomicUsize,
    /// Until when there is no use in looking for room, in milliseconds of the monotonic clock.
    full_until: AtomicU64,
    registry: Mutex<Registry<Arc<Session>>>,
    counters: Arc<Counters>,
    /// The node is stopping: nobody new comes in.
    closing: AtomicBool,
    /// When clients come back, once it is.
    spread: OnceLock<Spread>,
}

#[derive(Debug, Default)]
struct Channels {
    by_name: HashMap<ChannelName, Arc<Channel>>,
    aliases: u64,
}

/// On whose behalf something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A client's session: what the namespace allows to clients.
    Client,
    /// The process that embeds the server, or a holder of an API key.
    Operator,
}

impl Hub {
    /// A hub without channels or sessions, which keeps a session for `grace` without a connection.
    pub fn new(namespaces: Namespaces, grace: Duration) -> Arc<Self> {
        let capacity =
            Capacity { sessions: limits::SESSIONS, detached_subscriptions: limits::DETACHED_SUBSCRIPTIONS };
        Self::with_capacity(namespaces, grace, capacity)
    }

    /// As [`Self::new`], with other bounds on sessions.
    fn with_capacity(namespaces: Namespaces, grace: Duration, capacity: Capacity) -> Arc<Self> {
        Arc::new(Self {
            clock: Clock::start(),
            namespaces,
            channels: Mutex::default(),
            bytes: AtomicUsize::new(0),
            full_until: AtomicU64::new(0),
            registry: Mutex::new(Registry::new(capacity, grace, sha256)),
            counters: Arc::default(),
            closing: AtomicBool::new(false),
            spread: OnceLock::new(),
        })
    }

    /// This moment, on the node's clock.
    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// A moment of the node's monotonic clock, for timers.
    pub fn instant(&self, monotonic: Duration) -> Instant {
        self.clock.instant(monotonic).into()
    }

    /// What the node has done.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// How many sessions, channels and bytes of channels there are.
    pub fn census(&self) -> (usize, usize, usize) {
        let sessions = lock(&self.registry).len();
        (sessions, lock(&self.channels).by_name.len(), self.bytes.load(Ordering::Relaxed))
    }

    /// Publishes as an operator. `publisher` scopes the draft's id. The position is where the publication stands, or
    /// the first one's, when the same id was published before.
    ///
    /// It is async because a backplane will give the position.
    ///
    /// # Errors
    /// A [`Problem`] that says what the draft or the node lacks.
    pub async fn publish(
        &self,
        publisher: &str,
        channel: ChannelName,
        draft: Draft,
    ) -> Result<Position, Problem> {
        self.publish_as(Caller::Operator, publisher, channel, draft).await
    }

    async fn publish_as(
        &self,
        caller: Caller,
        publisher: &str,
        name: ChannelName,
        draft: Draft,
    ) -> Result<Position, Problem> {
        let namespace = self.namespaces.of(&name);
        if caller == Caller::Client && !namespace.publish {
            return Err(forbidden("publish", &name));
        }
        let draft = namespace.check(draft)?;
        self.make_room(draft.cost())?;
        let publisher = Publisher { name: publisher, counters: &self.counters, bytes: &self.bytes };
        self.with_channel(&name, |channel| channel.publish(&publisher, draft.clone(), self.now()))
    }

    /// Makes a session that can be resumed: its id and its secret, to be told to its owner once.
    ///
    /// # Errors
    /// `too_many_sessions`, `shutting_down`.
    pub fn create_session(&self) -> Result<(SessionId, String), Problem> {
        if self.is_stopping() {
            return Err(shutting_down());
        }
        let secret = Secret::from_entropy(entropy());
        let id = secret.session(sha256);
        let ended = lock(&self.registry).insert_resumable(id, Session::new(id), self.now())?;
        self.end_session(ended);
        Ok((id, secret.reveal(id)))
    }

    /// A session has another number of subscriptions, and perhaps no connection.
    fn weigh(&self, session: &Session) {
        let mut registry = lock(&self.registry);
        // Asked under the registry's lock, so that the last to say is right.
        let ended = registry.hold(session.id(), |session| session.subscriptions());
        drop(registry);
        self.end_session(ended);
    }

    /// How many subscriptions the sessions without a connection have together.
    pub fn detached_subscriptions(&self) -> usize {
        lock(&self.registry).detached_subscriptions()
    }

    /// Sees to it that there is the session of a secret, whoever made that up: one that is not known is made again, without
    /// subscriptions. Its id, and whether it was known.
    ///
    /// # Errors
    /// `unauthorized` for what is no secret, `too_many_sessions`, `shutting_down`.
    pub fn ensure_session(&self, secret: &str) -> Result<(SessionId, bool), Problem> {
        if self.is_stopping() {
            return Err(shutting_down());
        }
        let no_secret = |_| Problem::new(Code::Unauthorized, "that is not the secret of a session");
        let mut registry = lock(&self.registry);
        registry.identify(secret).map_err(no_secret)?;
        let Ensured { id, known, ended } = registry.ensure(secret, Session::new, self.now())?;
        drop(registry);
        self.end_session(ended);
        Ok((id, known))
    }

    /// A session had to give way to another.
    fn end_session(&self, gone: Option<Arc<Session>>) {
        if let Some(session) = gone {
            session.end(CloseCode::SessionExpired, self.now());
        }
    }

    /// A ticket that attaches the session of `secret` once. Asking for it is a sign of life.
    ///
    /// # Errors
    /// `unknown_session`, or too many tickets wait.
    pub fn issue_ticket(&self, secret: &str) -> Result<String, Problem> {
        let mut registry = lock(&self.registry);
        let (id, _) = registry.touch(secret, self.now())?;
        let ticket = Ticket::from_entropy(entropy());
        registry.issue(id, ticket, self.now())?;
        Ok(ticket.reveal())
    }

    /// What time does: forgets old history, ends sessions past their grace period, evicts channels above the node's
    /// bound. To be called about once a second.
    pub fn maintain(&self) {
        let now = self.now();
        let ended = lock(&self.registry).reap(now);
        for session in ended {
            session.end(CloseCode::SessionExpired, now);
        }
        let channels: Vec<_> = lock(&self.channels).by_name.values().cloned().collect();
        for channel in channels {
            channel.trim(&self.bytes, now);
        }
        if self.bytes.load(Ordering::Relaxed) > limits::NODE_BYTES {
            self.evict(0);
        }
    }

    /// Lets nobody new in. Those who are here go on, until [`Self::close_all`]. How many they are.
    pub fn drain(&self) -> usize {
        self.closing.store(true, Ordering::SeqCst);
        let sessions = lock(&self.registry).len();
        let _ = self.spread.set(Spread::over(sessions));
        sessions
    }

    /// Whether the node is stopping.
    pub fn is_stopping(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// For how many seconds a client that is not let in, or that polls, is asked to stay away: each for others. `None` while
    /// the node is not stopping.
    pub fn retry_after(&self) -> Option<u64> {
        self.spread.get().map(|spread| spread.any().as_millis().div_ceil(1_000) as u64)
    }

    /// Lets nobody new in, and tells every connection to close, and its client when to come back.
    pub fn close_all(&self, code: CloseCode) {
        self.drain();
        let sessions: Vec<_> = lock(&self.registry).handles().cloned().collect();
        for (place, session) in sessions.iter().enumerate() {
            let retry = self.spread.get().map(|spread| spread.share(place, sessions.len()));
            session.close(code, retry);
        }
    }

    /// The rules of a channel.
    pub fn namespace(&self, name: &ChannelName) -> Arc<Namespace> {
        self.namespaces.of(name)
    }

    /// As [`Self::with_channel`], for a subscriber. Channels that subscribers make, which hold nothing yet, may take half of
    /// the node's bound at most, and so cannot keep others from publishing.
    fn with_channel_to_read<T>(
        &self,
        name: &ChannelName,
        act: impl FnMut(&Arc<Channel>) -> Result<Option<T>, Problem>,
    ) -> Result<T, Problem> {
        let channels = lock(&self.channels);
        let empty = channels.by_name.len() * limits::CHANNEL_OVERHEAD;
        let full = empty > limits::NODE_BYTES / 2 && !channels.by_name.contains_key(name);
        drop(channels);
        if full {
            return Err(node_full());
        }
        self.with_channel(name, act)
    }

    /// Runs `act` on the channel of this name, which is made if need be. `act` gives `None` on a channel that was
    /// evicted meanwhile, and is run again.
    fn with_channel<T>(
        &self,
        name: &ChannelName,
        mut act: impl FnMut(&Arc<Channel>) -> Result<Option<T>, Problem>,
    ) -> Result<T, Problem> {
        loop {
            let channel = {
                let mut channels = lock(&self.channels);
                match channels.by_name.get(name) {
                    Some(channel) => channel.clone(),
                    None => {
                        channels.aliases = channels.aliases.wrapping_add(1);
                        let epoch = Epoch::from_entropy(u64::from_be_bytes(entropy()));
                        let (namespace, counters) = (self.namespaces.of(name), self.counters.clone());
                        let channel =
                            Channel::new(name.clone(), channels.aliases, epoch, namespace, counters);
                        self.bytes.fetch_add(limits::CHANNEL_OVERHEAD, Ordering::Relaxed);
                        channels.by_name.insert(name.clone(), channel.clone());
                        channel
                    }
                }
            };
            if let Some(done) = act(&channel)? {
                return Ok(done);
            }
        }
    }

    /// Sees to it that `bytes` more can be held.
    fn make_room(&self, bytes: usize) -> Result<(), Problem> {
        let fits =
            || self.bytes.load(Ordering::Relaxed) + bytes + limits::CHANNEL_OVERHEAD <= limits::NODE_BYTES;
        if fits() {
            return Ok(());
        }
        // Looking through all channels in vain takes a while, and is not done again at once.
        let now = self.now().monotonic.as_millis() as u64;
        if now < self.full_until.load(Ordering::Relaxed) {
            return Err(node_full());
        }
        self.evict(bytes);
        self.shrink(fits);
        if fits() {
            return Ok(());
        }
        self.full_until.store(now + limits::FULL.as_millis() as u64, Ordering::Relaxed);
        Err(node_full())
    }

    /// Halves the longest histories until there is room.
    fn shrink(&self, fits: impl Fn() -> bool) {
        if fits() {
            return;
        }
        let mut channels: Vec<_> = lock(&self.channels).by_name.values().cloned().collect();
        channels.sort_by_cached_key(|channel| std::cmp::Reverse(channel.log_bytes()));
        for channel in channels {
            channel.halve(&self.bytes);
            if fits() {
                return;
            }
        }
    }

    /// Evicts the channels that nobody subscribes to, those unused longest first, until there is room to spare. Their
    /// next life has another epoch, so whoever comes back is told of the loss.
    fn evict(&self, bytes: usize) {
        let target = (limits::NODE_BYTES / 10 * 9).saturating_sub(bytes);
        let mut channels = lock(&self.channels);
        let mut idle: Vec<_> = channels
            .by_name
            .values()
            .filter_map(|channel| Some((channel.idle_since()?, channel.clone())))
            .collect();
        idle.sort_by_key(|(since, _)| *since);
        for (_, channel) in idle {
            if self.bytes.load(Ordering::Relaxed) <= target {
                break;
            }
            if let Some(freed) = channel.retire() {
                channels.by_name.remove(channel.name());
                self.bytes.fetch_sub(freed + limits::CHANNEL_OVERHEAD, Ordering::Relaxed);
                self.counters.evictions.increment();
            }
        }
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

fn shutting_down() -> Problem {
    Problem::new(Code::ShuttingDown, "the server is stopping; come back to another")
}

fn node_full() -> Problem {
    Problem::new(Code::NodeFull, "the node holds as much history as it may; try again later")
}

fn forbidden(what: &str, name: &ChannelName) -> Problem {
    let namespace = name.namespace();
    Problem::new(Code::Forbidden, format!("clients may not {what} in the namespace {namespace}"))
}

/// Locks, also after a panic elsewhere: every change under these locks leaves what they guard whole.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
