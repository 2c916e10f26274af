//! One channel that is being read.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use fulmar_core::{
    ChannelName, ClientMessage, Code, Position, StartRequest,
    codec::{
        binary::{self, ServerFrame},
        framing,
    },
    message::Mark,
};
use tokio::{sync::mpsc, task::JoinSet};
use wtransport::SendStream;

use crate::{
    error::{Ended, RequestError},
    event::Event,
    inbox::{Inbox, Item},
    limits,
    place::Place,
    reader::{Reader, Role},
    session::Session,
};

/// A subscription on a stream of its own. Dropping it ends the stream, and with it the subscription.
#[derive(Debug)]
pub struct Subscription {
    place: Place,
    begins: Position,
    recovered: Option<bool>,
    way: Way,
    joined: Joined,
    /// Pauses it when it is read too slowly.
    pauses: JoinSet<()>,
    /// What reads and writes its stream.
    _tasks: JoinSet<()>,
}

/// How messages about it travel.
#[derive(Debug)]
enum Way {
    Stream(mpsc::Sender<Bytes>),
    /// It came with a session, and has no stream until it is paused for the first time.
    Control(Arc<Leaving>),
}

/// Whether the server was told on the control stream that a subscription which came with a session ends there. Told twice, the
/// second could come late and end another.
#[derive(Debug, Default)]
struct Leaving(AtomicBool);

impl Leaving {
    /// Whether it has to be told: to the first who asks.
    fn claim(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// Its place among the subscriptions of the session, which it gives up when dropped.
#[derive(Debug)]
struct Joined {
    session: Arc<Session>,
    channel: ChannelName,
    inbox: Arc<Inbox>,
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.inbox.shut();
        self.session.routes().leave(&self.channel, &self.inbox);
    }
}

impl Subscription {
    pub(crate) async fn open(
        session: &Arc<Session>,
        channel: &ChannelName,
        start: StartRequest,
    ) -> Result<Self, RequestError> {
        let inbox = session.inbox();
        session.routes().join(channel, &inbox).map_err(|problem| RequestError::Refused(problem.into()))?;
        let joined = Joined { session: session.clone(), channel: channel.clone(), inbox };

        // A cursor that does not name the channel says nothing about it.
        let resume = start.resume(channel);
        let start = if resume.is_some() { start } else { StartRequest::Afresh };
        let in_snapshot = resume.is_some_and(|resume| resume.base.is_some());

        let (send, recv) = open_stream(session).await?;
        let (frames, outgoing) = mpsc::channel(limits::STREAM_QUEUE);
        let mut tasks = JoinSet::new();
        let role = Role::Channel(channel.clone(), joined.inbox.clone());
        tasks.spawn(Reader::new(session.clone(), role, recv, frames.clone()).run());
        tasks.spawn(write(send, outgoing));
        let subscribe =
            |r#ref| ClientMessage::Subscribe { r#ref, channel: channel.clone(), start: start.clone() };
        let answer = match joined.request(&frames, subscribe).await {
            // One before it was dropped, and the server has yet to see its stream end. It is ended on the control stream, behind what
            // was sent there when it was dropped: that must not come later and end this one.
            Err(RequestError::Refused(refusal)) if refusal.known() == Some(Code::AlreadySubscribed) => {
                joined.ended(session.request(joined.ending()).await)?;
                joined.request(&frames, subscribe).await?
            }
            answer => answer?,
        };
        match answer {
            ServerFrame::Subscribed { mark: Mark { position, .. }, recovered, .. } => {
                let mut pauses = JoinSet::new();
                let inbox = joined.inbox.clone();
                let pausing = pause(session.clone(), channel.clone(), inbox.clone(), frames.clone());
                pauses.spawn(until_ended(inbox, pausing));
                Ok(Self {
                    place: Place::new(position.clone(), !in_snapshot),
                    begins: position,
                    recovered,
                    way: Way::Stream(frames),
                    joined,
                    pauses,
                    _tasks: tasks,
                })
            }
            answer => Err(session.misanswered(&answer)),
        }
    }

    pub(crate) fn adopted(
        session: Arc<Session>,
        mark: Mark,
        recovered: Option<bool>,
        inbox: Arc<Inbox>,
    ) -> Self {
        let Mark { channel, position, .. } = mark;
        let leaving = Arc::<Leaving>::default();
        let mut pauses = JoinSet::new();
        pauses.spawn(until_ended(
            inbox.clone(),
            move_away(session.clone(), channel.clone(), inbox.clone(), leaving.clone()),
        ));
        let joined = Joined { session, channel, inbox };
        let place = Place::new(position.clone(), true);
        let way = Way::Control(leaving);
        Self { place, begins: position, recovered, way, joined, pauses, _tasks: JoinSet::new() }
    }

    /// The channel.
    pub fn channel(&self) -> &ChannelName {
        &self.joined.channel
    }

    /// Where reading began, as the server answered.
    pub fn begins(&self) -> &Position {
        &self.begins
    }

    /// Where a position was asked from: whether everything after it follows; else a gap or a reset comes first.
    pub fn recovered(&self) -> Option<bool> {
        self.recovered
    }

    /// Where to read on: after the last event off the stream that [`next`](Self::next) gave; for state that is in sync, the
    /// low-water offset of what it gave. `None` within a snapshot, which has to be begun anew.
    pub fn position(&self) -> Option<&Position> {
        self.place.get()
    }

    /// Signals that were dropped because this was read too slowly.
    pub fn dropped(&self) -> u64 {
        self.joined.inbox.dropped()
    }

    /// The next event. Cancel safe.
    ///
    /// # Errors
    /// Why there is none, once everything that came before the end has been read.
    pub async fn next(&mut self) -> Result<Event, Ended> {
        loop {
            if let Some(event) = self.advance().await? {
                return Ok(event);
            }
        }
    }

    /// As [`next`](Self::next), and `None` when only the position has moved: for who keeps it as it goes. Cancel safe.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn advance(&mut self) -> Result<Option<Event>, Ended> {
        let item = self.joined.inbox.next().await?;
        Ok(self.take(item))
    }

    fn take(&mut self, item: Item) -> Option<Event> {
        match item {
            Item::Event(event) => {
                self.place.note(&event);
                Some(event)
            }
            Item::Settled(offset) => {
                self.place.settle(offset);
                None
            }
        }
    }

    /// The next event, if one is there already.
    pub fn try_next(&mut self) -> Option<Event> {
        loop {
            let item = self.joined.inbox.try_next()?;
            if let Some(event) = self.take(item) {
                return Some(event);
            }
        }
    }

    /// Ends the subscription, and waits until the server has. What waits to be read is forgotten.
    ///
    /// # Errors
    /// Where the server did not answer so. The subscription has ended all the same.
    pub async fn unsubscribe(mut self) -> Result<(), RequestError> {
        // What that has asked is asked before this.
        self.pauses.shutdown().await;
        // Who waits for room must not keep the answer from being read.
        self.joined.inbox.shut();
        let answer = match &self.way {
            Way::Stream(frames) => self.joined.request(frames, self.joined.ending()).await,
            // Wherever it has got to: a stream that it had has been given up.
            Way::Control(leaving) => {
                leaving.claim();
                self.joined.session.request(self.joined.ending()).await
            }
        };
        self.joined.inbox.end(Ended::Unsubscribed);
        self.joined.ended(answer)
    }
}

impl Joined {
    fn ending(&self) -> impl FnOnce(fulmar_core::Ref) -> ClientMessage {
        let channel = self.channel.clone();
        |r#ref| ClientMessage::Unsubscribe { r#ref, channel }
    }

    fn ended(&self, answer: Result<ServerFrame, RequestError>) -> Result<(), RequestError> {
        match answer {
            Ok(ServerFrame::Unsubscribed { .. }) => Ok(()),
            Ok(answer) => Err(self.session.misanswered(&answer)),
            // It was paused, or its stream's end has been seen.
            Err(RequestError::Refused(refusal)) if refusal.known() == Some(Code::NotSubscribed) => Ok(()),
            Err(why) => Err(why),
        }
    }

    /// Does a request on the subscription's stream.
    async fn request(
        &self,
        frames: &mpsc::Sender<Bytes>,
        message: impl FnOnce(fulmar_core::Ref) -> ClientMessage,
    ) -> Result<ServerFrame, RequestError> {
        tokio::select! {
            biased;
            answer = ask(&self.session, frames, message) => answer,
            ended = self.inbox.ended() => Err(ended.into()),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let Joined { session, channel, inbox } = &self.joined;
        // The end of a stream says so by itself.
        if let Way::Control(leaving) = &self.way
            && !inbox.has_ended()
            && leaving.claim()
        {
            session.try_send(&ClientMessage::Unsubscribe { r#ref: None, channel: channel.clone() });
        }
    }
}

/// Ends a subscription on the server whenever its inbox had no room for values, and begins it again when there is room: from what
/// the inbox has got, so that what has changed since comes on the stream.
async fn pause(session: Arc<Session>, channel: ChannelName, inbox: Arc<Inbox>, frames: mpsc::Sender<Bytes>) {
    loop {
        inbox.behind().await;
        let name = channel.clone();
        let ended = ask(&session, &frames, |r#ref| ClientMessage::Unsubscribe { r#ref, channel: name });
        if matches!(ended.await, Err(RequestError::Closed(_))) {
            return;
        }
        if !go_on(&session, &channel, &inbox, &frames).await {
            return;
        }
    }
}

/// Begins a paused subscription again on a stream when there is room. Whether it has begun.
async fn go_on(
    session: &Session,
    channel: &ChannelName,
    inbox: &Inbox,
    frames: &mpsc::Sender<Bytes>,
) -> bool {
    inbox.drained().await;
    let start = session.routes().position(channel).map_or(StartRequest::Afresh, StartRequest::Position);
    let name = channel.clone();
    let begun = ask(session, frames, |r#ref| ClientMessage::Subscribe { r#ref, channel: name, start }).await;
    match begun {
        Ok(_) => inbox.begun_again(),
        Err(RequestError::Refused(refusal)) => {
            session.complain(refusal);
            inbox.end(Ended::StreamEnded);
            return false;
        }
        Err(_) => return false,
    }
    true
}

/// As [`pause`], for a subscription that came with a session. It goes on with a stream of its own, since what it comes back to has to
/// wait for its reader, and the control stream must not.
async fn move_away(session: Arc<Session>, channel: ChannelName, inbox: Arc<Inbox>, leaving: Arc<Leaving>) {
    inbox.behind().await;
    let Ok(mut request) = session.begin().await else { return };
    let Ok(room) = session.control().reserve_owned().await else { return };
    if !leaving.claim() {
        return;
    }
    let ending = ClientMessage::Unsubscribe { r#ref: Some(request.r#ref), channel: channel.clone() };
    room.send(framing::prefixed(&binary::encode_client(&ending)));
    if matches!(session.answer(&mut request).await, Err(RequestError::Closed(_))) {
        return;
    }
    drop(request);
    inbox.drained().await;
    let Ok((send, recv)) = open_stream(&session).await else { return };
    let (frames, outgoing) = mpsc::channel(limits::STREAM_QUEUE);
    let role = Role::Channel(channel.clone(), inbox.clone());
    let reads = Reader::new(session.clone(), role, recv, frames.clone()).run();
    let pauses = async move {
        if go_on(&session, &channel, &inbox, &frames).await {
            pause(session, channel, inbox, frames).await;
        }
    };
    tokio::join!(reads, write(send, outgoing), pauses);
}

/// Runs what looks after a subscription for as long as that lasts.
async fn until_ended(inbox: Arc<Inbox>, looks_after: impl Future<Output = ()>) {
    tokio::select! {
        () = looks_after => {}
        _ = inbox.ended() => {}
    }
}

/// Asks on a subscription's stream.
async fn ask(
    session: &Session,
    frames: &mpsc::Sender<Bytes>,
    message: impl FnOnce(fulmar_core::Ref) -> ClientMessage,
) -> Result<ServerFrame, RequestError> {
    let mut request = session.begin().await?;
    let frame = framing::prefixed(&binary::encode_client(&message(Some(request.r#ref))));
    // Where it cannot be written, the end of the stream tells.
    let _ = frames.send(frame).await;
    session.answer(&mut request).await
}

/// Writes frames to a subscription's stream, which ends with this.
async fn write(mut send: SendStream, mut frames: mpsc::Receiver<Bytes>) {
    while let Some(frame) = frames.recv().await {
        if send.write_all(&frame).await.is_err() {
            // The end of the stream's other side tells.
            return;
        }
    }
}

async fn open_stream(session: &Session) -> Result<(SendStream, wtransport::RecvStream), RequestError> {
    let opening = async {
        let opening = session.connection.open_bi().await.ok()?;
        opening.await.ok()
    };
    tokio::select! {
        stream = opening => match stream {
            Some(stream) => Ok(stream),
            None => Err(RequestError::Closed(session.closed().await)),
        },
        close = session.closed() => Err(RequestError::Closed(close)),
    }
}
