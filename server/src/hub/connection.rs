//! Connections: what a transport holds of the hub.

use std::{
    iter, option,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
    vec,
};

use fulmar_core::{
    Adopt, ChannelName, ClientMessage, CloseCode, Code, Cursor, Now, Positions, Problem, Ref, Rejection,
    Resume, ServerMessage, Start, StartRequest,
    codec::binary::Ack,
    datagrams::Path,
    log::Class,
    message::Mark,
    registry::{Attachment, Registry, Resumed, SessionId},
};

use tokio::time;

use super::{
    Caller, DatagramBatch, Delivery, Feed, FeedEnd, FeedHandle, Hub, Order, ReadBudget,
    channel::{Begins, Channel},
    forbidden, lock,
    ready::Ready,
    session::{CloseSignal, Session, Subscriber, Unsubscriber},
    shutting_down,
};
use crate::{clock::entropy, namespace::Namespace};

/// A transport's hold on a session. Dropping it detaches the session, which ends with it unless it can be resumed.
#[derive(Debug)]
pub struct Connection {
    hub: Arc<Hub>,
    attached: Mutex<Attached>,
    signal: Arc<CloseSignal>,
    /// Where the transport sends datagrams from, if it has them.
    datagrams: Option<Arc<Ready>>,
    /// It was attached as only a connection can be once: in a way that makes a session again.
    identified: AtomicBool,
    /// It was counted as closed because its client was too slow.
    fell_behind: AtomicBool,
    /// When its client was last heard, in milliseconds of the node's monotonic clock.
    heard: AtomicU64,
}

#[derive(Clone, Debug)]
struct Attached {
    session: Arc<Session>,
    attachment: Attachment,
}

impl Connection {
    /// A connection with a session of its own, which ends with it.
    ///
    /// # Errors
    /// `too_many_sessions`, `shutting_down`.
    pub fn open(hub: &Arc<Hub>) -> Result<Self, Problem> {
        let session = Session::new(SessionId::from_entropy(entropy()));
        let (attachment, ended) = lock(&hub.registry).insert_bare(session.id(), session.clone())?;
        hub.end_session(ended);
        Self::on(hub, session, attachment, &Arc::default()).unless_closing()
    }

    /// A connection that goes on with the session of a ticket, whose subscriptions are read through `feed`.
    ///
    /// # Errors
    /// `bad_ticket`, `shutting_down`.
    pub fn open_by_ticket(hub: &Arc<Hub>, ticket: &str, feed: &Feed) -> Result<Self, Problem> {
        // Held until the session knows too, so that both agree on who came last.
        let mut registry = lock(&hub.registry);
        let (_, session, attachment) = registry.redeem(ticket, hub.now())?;
        let it = Self::on(hub, session, attachment, &feed.ready);
        drop(registry);
        it.unless_closing()
    }

    /// Checked once it stands in the registry: from then on `close_all` sees it.
    fn unless_closing(self) -> Result<Self, Problem> {
        if self.hub.is_stopping() { Err(shutting_down()) } else { Ok(self) }
    }

    fn on(hub: &Arc<Hub>, session: Arc<Session>, attachment: Attachment, ready: &Arc<Ready>) -> Self {
        let signal = Arc::default();
        session.attach(&signal, ready, &Adopt::AsKnown);
        let it = Self {
            hub: hub.clone(),
            attached: Mutex::new(Attached { session, attachment }),
            signal,
            datagrams: None,
            identified: AtomicBool::new(false),
            fell_behind: AtomicBool::new(false),
            heard: AtomicU64::new(0),
        };
        it.hear();
        it
    }

    /// Its client gave a sign of life, on any of its streams.
    pub fn hear(&self) {
        self.hear_at(self.hub.now());
    }

    fn hear_at(&self, now: Now) {
        self.heard.store(now.monotonic.as_millis() as u64, Ordering::Relaxed);
    }

    /// When its client last gave a sign of life, on the node's monotonic clock.
    pub fn heard(&self) -> Duration {
        Duration::from_millis(self.heard.load(Ordering::Relaxed))
    }

    /// Waits until nothing was heard of its client for `patience`.
    pub async fn silence(&self, patience: Duration) {
        loop {
            let left = patience.saturating_sub(self.hub.now().since(self.heard()));
            if left.is_zero() {
                return;
            }
            time::sleep(left).await;
        }
    }

    /// Lets state and signals go by datagram: the feed that gives them.
    pub fn with_datagrams(mut self) -> (Self, Feed) {
        let feed = Feed::new(Order::Turns);
        self.datagrams = Some(feed.ready.clone());
        (self, feed)
    }

    /// The hub.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Waits until the server wants this connection closed.
    pub async fn closed(&self) -> CloseCode {
        self.signal.fired().await
    }

    /// What the server wants this connection closed with, if it does.
    pub fn close_code(&self) -> Option<CloseCode> {
        self.signal.code()
    }

    /// How long the client is asked to stay away, where it is.
    pub fn retry(&self) -> Option<Duration> {
        self.signal.retry()
    }

    /// What the client is told in-band before its transport is closed with `code`.
    pub fn close_message(&self, code: CloseCode) -> ServerMessage {
        ServerMessage::close(code, self.retry())
    }

    /// Asks this connection to close.
    pub fn close(&self, code: CloseCode) {
        self.signal.fire(code);
    }

    /// Does what a client's message asks, and gives the answers. Subscriptions that it makes are read through `feed`.
    pub async fn execute(&self, feed: &FeedHandle, message: ClientMessage) -> Answers {
        let mut refused = Vec::new();
        let (r#ref, result) = match message {
            ClientMessage::Subscribe { r#ref, channel, start } => {
                (r#ref, self.subscribe(feed, r#ref, &channel, &start))
            }
            ClientMessage::Unsubscribe { r#ref, channel } => {
                let by = Unsubscriber { signal: &self.signal, feed };
                let done = self.session().unsubscribe(Some(by), &channel, self.hub.now());
                (r#ref, done.map(|()| ServerMessage::Unsubscribed { r#ref, channel }))
            }
            ClientMessage::Publish { r#ref, channel, draft } => {
                let publisher = self.session().id().to_string();
                let done = self.hub.publish_as(Caller::Client, &publisher, channel.clone(), draft).await;
                (r#ref, done.map(|position| ServerMessage::Published { r#ref, channel, position }))
            }
            ClientMessage::Attach { r#ref, id, secret, adopt } => {
                let done = self.attach(feed, &id, &secret, &adopt);
                if let (Ok((session, _)), Some(positions)) = (&done, adopt.positions()) {
                    refused = self.read_on(session, feed, positions);
                }
                let attached = |(session, resumed): (Arc<Session>, bool)| {
                    let session = session.id().to_string();
                    ServerMessage::Attached { r#ref, session, resumed }
                };
                (r#ref, done.map(attached))
            }
            ClientMessage::Ping { r#ref } => (r#ref, Ok(ServerMessage::Pong { r#ref })),
            ClientMessage::Pong { .. } => return Answers::default(),
        };
        let answer = result.unwrap_or_else(|problem| ServerMessage::Error(Rejection { r#ref, problem }));
        Answers { answer: Some(answer), refused }
    }

    fn subscribe(
        &self,
        feed: &FeedHandle,
        r#ref: Ref,
        channel: &ChannelName,
        request: &StartRequest,
    ) -> Result<ServerMessage, Problem> {
        if let StartRequest::Cursor(cursor) = request
            && cursor.get(channel).is_none()
        {
            return Err(Problem::new(Code::BadCursor, "the cursor does not name this channel"));
        }
        let start = request.resume(channel).map_or(Start::Afresh, Start::After);
        self.subscribe_at(feed, r#ref, channel, &start)
    }

    fn subscribe_at(
        &self,
        feed: &FeedHandle,
        r#ref: Ref,
        name: &ChannelName,
        start: &Start,
    ) -> Result<ServerMessage, Problem> {
        let namespace = self.hub.readable(name)?;
        let ready = match &self.datagrams {
            Some(datagrams) if namespace.class == Class::Signal => datagrams,
            _ => &feed.ready,
        };
        let by = Subscriber {
            hub: &self.hub,
            signal: &self.signal,
            owner: &feed.ready,
            ready,
            unannounced: false,
        };
        let (channel, begins) = self.session().subscribe(by, name, start)?;
        Ok(subscribed(r#ref, &channel, begins))
    }

    /// Subscribes to the channels of a request, all with one cursor. A subscription that the session brought along goes on
    /// as it is.
    ///
    /// # Errors
    /// The first problem; what was subscribed before it stays.
    pub fn subscribe_all(
        &self,
        feed: &FeedHandle,
        channels: &[ChannelName],
        request: &CursorRequest,
    ) -> Result<Vec<ServerMessage>, Problem> {
        let start = |channel: &ChannelName| match request {
            CursorRequest::Afresh => Start::Afresh,
            CursorRequest::After(cursor) => cursor.get(channel).cloned().map_or(Start::Afresh, Start::After),
            CursorRequest::Unusable => Start::Unusable,
        };
        let subscribed =
            channels.iter().map(|channel| self.subscribe_at(feed, None, channel, &start(channel)));
        let new = |result: &Result<_, Problem>| !matches!(result, Err(problem) if problem.code == Code::AlreadySubscribed);
        subscribed.filter(new).collect()
    }

    /// Goes on with a session; one that is not known is made again, if nothing of it is needed. Whether it was
    /// known. What is refused changes nothing.
    fn attach(
        &self,
        feed: &FeedHandle,
        id: &str,
        secret: &str,
        adopt: &Adopt,
    ) -> Result<(Arc<Session>, bool), Problem> {
        // Held throughout, before the registry's: of two attaches at once on streams of a connection, that which the registry knows
        // as the last has to be the last here too.
        let mut attached = lock(&self.attached);
        let (now, known) = self.take_over(&attached, feed, id, secret, adopt)?;
        let session = now.session.clone();
        let before = std::mem::replace(&mut *attached, now);
        drop(attached);
        if !Arc::ptr_eq(&before.session, &session) {
            self.release(before);
        }
        Ok((session, known))
    }

    /// Makes this the session's connection, in the registry and in the session, which agree on who came last. Whether it was
    /// known.
    fn take_over(
        &self,
        before: &Attached,
        feed: &FeedHandle,
        id: &str,
        secret: &str,
        adopt: &Adopt,
    ) -> Result<(Attached, bool), Problem> {
        // Asked under the lock by which `close_all` learns of all sessions, so that it sees who is attached to each.
        let mut registry = lock(&self.hub.registry);
        if self.hub.is_stopping() {
            return Err(shutting_down());
        }
        let fresh = *adopt == Adopt::Fresh;
        // What this connection has subscribed to goes on under another name, but not with the subscriptions of another session.
        if self.signal.has_begun() && !(fresh && registry.is_bare(before.session.id())) {
            return Err(Problem::new(Code::BadMessage, "attach before you subscribe"));
        }
        let named = !id.is_empty() || !fresh;
        let proven = registry.identify(secret)?;
        if (proven.to_string() != id && named) || registry.is_bare(proven) {
            return Err(Problem::new(Code::UnknownSession, "no such session; make one with POST /session"));
        }
        if fresh {
            return self.assume(registry, before, feed, proven);
        }
        let Resumed { handle: session, attachment, known, ended } =
            self.claim(&mut registry, secret, adopt)?;
        session.attach(&self.signal, &feed.ready, adopt);
        drop(registry);
        self.hub.end_session(ended);
        Ok((Attached { session, attachment }, known))
    }

    /// Makes this connection's own session the one of `id`, with the subscriptions that it has. Whether there was one of that id,
    /// which ends.
    fn assume(
        &self,
        mut registry: MutexGuard<'_, Registry<Arc<Session>>>,
        attached: &Attached,
        feed: &FeedHandle,
        id: SessionId,
    ) -> Result<(Attached, bool), Problem> {
        self.once()?;
        let (mut own, mut ended) = (attached.clone(), None);
        if !registry.is_bare(own.session.id()) {
            // It has attached another before, and leaves it.
            let session = Session::new(SessionId::from_entropy(entropy()));
            let (attachment, gone) = registry.insert_bare(session.id(), session.clone())?;
            session.attach(&self.signal, &feed.ready, &Adopt::AsKnown);
            attached.session.detach(&self.signal);
            (own, ended) = (Attached { session, attachment }, gone);
        }
        let before = registry.assume(own.session.id(), id);
        own.session.assume(id, &feed.ready);
        self.identified.store(true, Ordering::Relaxed);
        drop(registry);
        self.hub.end_session(ended);
        if let Some(before) = &before {
            before.end(CloseCode::Replaced, self.hub.now());
        }
        Ok((own, before.is_some()))
    }

    /// Else one connection could fill the registry, and its replies.
    fn once(&self) -> Result<(), Problem> {
        if self.identified.load(Ordering::Relaxed) {
            let message = "this connection was attached with positions, or fresh, before; open another";
            return Err(Problem::new(Code::BadMessage, message));
        }
        Ok(())
    }

    /// Has the registry attach this connection to the session of a secret. Only a client that knows its positions can go on with one
    /// that is not known.
    fn claim(
        &self,
        registry: &mut Registry<Arc<Session>>,
        secret: &str,
        adopt: &Adopt,
    ) -> Result<Resumed<Arc<Session>>, Problem> {
        if *adopt == Adopt::AsKnown {
            let (_, handle, attachment) = registry.attach(secret)?;
            return Ok(Resumed { handle, attachment, known: true, ended: None });
        }
        self.once()?;
        let resumed = registry.resume(secret, Session::new)?;
        self.identified.store(true, Ordering::Relaxed);
        Ok(resumed)
    }

    /// Subscribes to the channels of these positions that the session does not have, and gives what keeps any from it.
    fn read_on(&self, session: &Session, feed: &FeedHandle, positions: &Positions) -> Vec<ServerMessage> {
        let ready = &feed.ready;
        let mut refused = Vec::new();
        for (name, position) in positions.iter() {
            let start = Start::After(position.clone().into());
            let by =
                Subscriber { hub: &self.hub, signal: &self.signal, owner: ready, ready, unannounced: true };
            let done = self.hub.readable(name).and_then(|_| session.subscribe(by, name, &start));
            match done {
                Ok(_) => {}
                Err(problem) if problem.code == Code::AlreadySubscribed => {}
                // It goes on elsewhere, where the same is asked.
                Err(problem) if problem.code == Code::UnknownSession => break,
                Err(problem) => refused.push(ServerMessage::Refused { channel: name.clone(), problem }),
            }
        }
        refused
    }

    /// Where the session's reading stands in each of its channels; `None` where a gap or a reset has yet to be told.
    pub fn positions(&self) -> Vec<(ChannelName, Option<Resume>)> {
        self.session().positions()
    }

    /// Moves the subscriptions that the session brought along to where its client says it has read to.
    pub fn seek(&self, request: &CursorRequest) {
        self.session().seek(|channel| match request {
            CursorRequest::Afresh => None,
            CursorRequest::After(cursor) => cursor.get(channel).cloned().map(Start::After),
            CursorRequest::Unusable => Some(Start::Unusable),
        });
    }

    /// Reads on for `feed`.
    pub fn read(&self, feed: &mut Feed, budget: ReadBudget, out: &mut Vec<Delivery>) -> FeedEnd {
        let (datagrams, now, counters) = (self.datagrams.as_ref(), self.hub.now(), &self.hub.counters);
        let before = out.len();
        let end = self.session().read(feed, datagrams, budget, now, counters, out);
        let read = out.get(before..).unwrap_or_default();
        counters.slow_gaps.add(read.iter().filter(|delivery| delivery.is_slow()).count() as u64);
        if self.close_code() == Some(CloseCode::FellBehind) && !self.fell_behind.swap(true, Ordering::Relaxed)
        {
            counters.slow_disconnects.increment();
        }
        end
    }

    /// Reads on for the feed of [`Self::with_datagrams`]: signals, and the packets with state that are due; `path` is asked
    /// only if there may be any, and told the time and how many bytes are under way. When the next are due, on the node's
    /// monotonic clock, if nothing happens before.
    pub fn read_datagrams<'a>(
        &self,
        feed: &Feed,
        path: impl FnOnce(Duration, usize) -> Path<'a>,
        budget: ReadBudget,
        out: &mut DatagramBatch,
    ) -> (FeedEnd, Option<Duration>) {
        let now = self.hub.now();
        self.session().read_datagrams(feed, path, budget, now, &self.hub.counters, out)
    }

    /// Takes in what the client acknowledges by datagram, which is a sign of life.
    pub fn acknowledge(&self, ack: Ack) {
        let now = self.hub.now();
        self.hear_at(now);
        if let Some(datagrams) = &self.datagrams
            && self.session().acknowledge(datagrams, ack, now)
        {
            datagrams.poke();
        }
    }

    /// Takes in what the client acknowledges on the stream that `feed` is read for: frames of values up to this number.
    pub fn acknowledge_stream(&self, feed: &FeedHandle, number: u64) {
        self.session().acknowledge_stream(&feed.ready, number);
    }

    /// The stream that `feed` was read for has ended, and its subscriptions with it.
    pub fn end_feed(&self, feed: &Feed) {
        self.session().end_feed(&feed.ready, self.hub.now());
    }

    fn session(&self) -> Arc<Session> {
        lock(&self.attached).session.clone()
    }

    fn release(&self, attached: Attached) {
        let now = self.hub.now();
        let Attached { session, attachment } = attached;
        session.detach(&self.signal);
        let mut registry = lock(&self.hub.registry);
        // Asked under the registry's lock, so that the last to say is right.
        let ended = registry.detach(session.id(), attachment, session.subscriptions(), now);
        drop(registry);
        self.hub.end_session(ended);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let attached = lock(&self.attached).clone();
        self.release(attached);
    }
}

/// What answers a message.
#[derive(Debug, Default)]
pub struct Answers {
    answer: Option<ServerMessage>,
    /// Channels that an `attach` named and that cannot be read.
    refused: Vec<ServerMessage>,
}

impl From<ServerMessage> for Answers {
    fn from(answer: ServerMessage) -> Self {
        Self { answer: Some(answer), refused: Vec::new() }
    }
}

impl IntoIterator for Answers {
    type Item = ServerMessage;
    type IntoIter = iter::Chain<option::IntoIter<ServerMessage>, vec::IntoIter<ServerMessage>>;

    fn into_iter(self) -> Self::IntoIter {
        self.answer.into_iter().chain(self.refused)
    }
}

fn subscribed(r#ref: Ref, channel: &Channel, begins: Begins) -> ServerMessage {
    let Begins { position, recovered } = begins;
    let mark = Mark { channel: channel.name().clone(), alias: channel.alias(), position };
    ServerMessage::Subscribed { r#ref, mark, recovered }
}

/// What a request over several channels says of where to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CursorRequest {
    /// Nothing.
    Afresh,
    /// After this cursor.
    After(Cursor),
    /// After something that cannot be used, to be answered with gap or reset.
    Unusable,
}

impl Hub {
    /// The namespace of a channel that clients may read.
    fn readable(&self, name: &ChannelName) -> Result<Arc<Namespace>, Problem> {
        let namespace = self.namespace(name);
        if namespace.subscribe { Ok(namespace) } else { Err(forbidden("subscribe", name)) }
    }

    /// Does what a message of a session's owner asks, whatever the session is attached to. A new subscription is read
    /// by the attached connection. It is a sign of life, whether it can be done or not.
    ///
    /// # Errors
    /// `unknown_session`, or the message's own problem.
    pub async fn execute_for(
        self: &Arc<Self>,
        secret: &str,
        message: ClientMessage,
    ) -> Result<ServerMessage, Problem> {
        let (_, session) = lock(&self.registry).touch(secret, self.now())?;
        match message {
            ClientMessage::Subscribe { r#ref, channel: name, start } => {
                self.readable(&name)?;
                let start = start.resume(&name).map_or(Start::Afresh, Start::After);
                let (channel, begins) = session.subscribe_where_attached(self, &name, &start)?;
                self.weigh(&session);
                Ok(subscribed(r#ref, &channel, begins))
            }
            ClientMessage::Unsubscribe { r#ref, channel } => {
                session.unsubscribe(None, &channel, self.now())?;
                self.weigh(&session);
                Ok(ServerMessage::Unsubscribed { r#ref, channel })
            }
            ClientMessage::Publish { r#ref, channel, draft } => {
                let publisher = session.id().to_string();
                let position = self.publish_as(Caller::Client, &publisher, channel.clone(), draft).await?;
                Ok(ServerMessage::Published { r#ref, channel, position })
            }
            ClientMessage::Attach { .. } | ClientMessage::Ping { .. } | ClientMessage::Pong { .. } => {
                Err(Problem::new(Code::BadMessage, "POST /send takes subscribe, unsubscribe and publish"))
            }
        }
    }
}
