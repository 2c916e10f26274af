//! Drives one QUIC connection: sessions, their streams, and other requests.

use std::{
    collections::HashMap,
    future::{Future, pending},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use fulmar_core::{Code as Why, Problem, codec::varint};
use futures_util::{FutureExt as _, future::poll_fn};
use h3::{
    error::Code,
    frame::FrameStream,
    quic::{BidiStream as _, SendStream as _},
    server,
    stream::BufRecvStream,
};
use http::Request;
use quinn::Incoming;
use tokio::{
    sync::oneshot,
    task::{AbortHandle, JoinSet},
    time,
};

use super::{
    Shared,
    backend::{Backend, BidiStream, SessionStream, quic_code},
    early,
    requests::{self, RequestStream, Stopped},
    session::{Connect, Sending, Session},
};
use crate::{budget::Budgets, hub::Connection, limits};

type Http3 = server::Connection<Backend, Bytes>;

/// Drives one QUIC connection.
pub(super) struct Driver {
    quic: quinn::Connection,
    shared: Shared,
    intake: Intake,
    tasks: JoinSet<Done>,
    /// The task that reads datagrams, while there are sessions.
    reading: Option<AbortHandle>,
    /// Streams of sessions that are open.
    streams: u32,
    /// Requests that are under way, sessions apart.
    requests: usize,
    /// What requests may hold together.
    budgets: Budgets,
    /// A session was here. When nothing is left after it, the connection is closed, since browsers would keep it; not at
    /// once, since that would overtake the session's own close.
    served: bool,
    /// Since when nothing is under way, on the node's monotonic clock.
    idle_since: Option<Duration>,
}

/// What the client opens: requests, and streams of the sessions that some of them make.
struct Intake {
    http: Http3,
    sessions: HashMap<u64, Arc<Session>>,
    /// The same, for the task that reads datagrams.
    routes: Arc<Routes>,
    /// Requests whose heads have yet to come, and the streams that say that they belong to the session that one of them may
    /// make. Bounded by the credit for streams.
    resolving: HashMap<u64, Vec<SessionStream>>,
}

/// What a task of a connection has come to.
enum Done {
    /// A request's head has come.
    Resolved(Box<Resolved>),
    /// A request's head has not come.
    Unresolved(u64),
    /// A session has ended.
    Session(u64),
    /// A session's stream has ended.
    Stream,
    /// What sent a session's datagrams has ended, or what read the connection's.
    Datagrams,
    /// A request was answered.
    Request,
}

struct Resolved {
    request: Request<()>,
    stream: RequestStream,
    /// The client wants no answer any more.
    stopped: Stopped,
}

enum Event {
    Request(Box<BidiStream<Bytes>>),
    Stream(Box<SessionStream>),
    Ended,
}

impl Driver {
    /// Begins HTTP/3, and waits for the handshake. `None` when the peer gives up.
    pub(super) async fn establish(incoming: Incoming, shared: Shared) -> Option<Box<Self>> {
        let mut connecting = incoming.accept().ok()?;
        // A stream that is opened before the client's parameters are known is never told of them; its first message may
        // come in more than one packet.
        connecting.handshake_data().await.ok()?;
        // The settings go out behind the server's part of the handshake: a browser sends no CONNECT before it has them, and
        // would wait a round trip more. What the client says is read after its own part only.
        let (quic, handshake) = connecting.into_0rtt().ok()?;
        let mut builder = server::builder();
        builder
            .enable_webtransport(true)
            .enable_extended_connect(true)
            .enable_datagram(true)
            .max_webtransport_sessions(limits::SESSIONS_PER_CONNECTION as u64)
            .max_field_section_size(limits::HTTP3_FIELD_SECTION)
            .send_grease(false);
        let http = builder.build(Backend::new(quic.clone())).await.ok()?;
        handshake.await;
        if quic.close_reason().is_some() {
            return None;
        }
        Some(Box::new(Self {
            quic,
            shared,
            intake: Intake {
                http,
                sessions: HashMap::new(),
                routes: Arc::default(),
                resolving: HashMap::new(),
            },
            tasks: JoinSet::new(),
            reading: None,
            streams: 0,
            requests: 0,
            budgets: Budgets::of_connection(),
            served: false,
            idle_since: None,
        }))
    }

    /// Serves the connection to its end.
    pub(super) async fn run(&mut self) {
        let stop = self.shared.stop.clone();
        let mut draining = false;
        loop {
            let patience = self.patience();
            tokio::select! {
                event = poll_fn(|cx| self.intake.poll_event(cx)) => match event {
                    Event::Request(stream) => self.resolve(*stream),
                    Event::Stream(stream) => self.serve_stream(*stream),
                    Event::Ended => break,
                },
                Some(done) = self.tasks.join_next() => self.finish(done),
                () = wait(patience) => break,
                () = stop.cancelled(), if !draining => {
                    draining = true;
                    Box::pin(self.go_away()).await;
                }
            }
        }
        // Dropping the driver ends its tasks, and with them the sessions.
        self.quic.close(quic_code(Code::H3_NO_ERROR.value()), b"");
    }

    /// Lets the client open more streams when it uses those that it has; idle connections need not pay for them.
    fn grant_streams(&self) {
        let used = self.streams + self.intake.sessions.len() as u32 + self.requests as u32;
        // The margin is for streams that have ended and are not yet forgotten, and those on their way.
        let granted = (used + limits::QUIC_BIDI_STREAMS / 2)
            .next_power_of_two()
            .clamp(limits::QUIC_BIDI_STREAMS, limits::QUIC_BIDI_STREAMS_MAX);
        self.quic.set_max_concurrent_bi_streams(granted.into());
    }

    /// How long the connection may still go on without a session or a request; `None` while there is one.
    fn patience(&mut self) -> Option<Duration> {
        if !self.tasks.is_empty() {
            self.idle_since = None;
            return None;
        }
        let now = self.shared.hub.now();
        let since = *self.idle_since.get_or_insert(now.monotonic);
        let patience = match self.served {
            _ if self.shared.stop.is_cancelled() => limits::STOP_LINGER,
            true => limits::QUIC_LINGER,
            false => limits::QUIC_UNUSED,
        };
        Some(patience.saturating_sub(now.since(since)))
    }

    /// Tells the client to make no more requests here. RFC 9114, section 5.2. The id must be above those of all sessions
    /// that live: Firefox ends the others at once.
    async fn go_away(&mut self) {
        let told = time::timeout(limits::CLOSE_DEADLINE / 4, self.intake.http.shutdown(1)).await;
        if !matches!(told, Ok(Ok(()))) {
            tracing::debug!("a client could not be told that the server goes away");
        }
    }

    /// Waits for a request's head apart from the driver, so that one which never comes holds up nothing.
    fn resolve(&mut self, stream: BidiStream<Bytes>) {
        if self.requests >= limits::HTTP3_REQUESTS {
            let (mut send, mut recv) = stream.split();
            send.reset(Code::H3_REQUEST_REJECTED.value());
            recv.stop(quic_code(Code::H3_REQUEST_REJECTED.value()));
            return;
        }
        self.requests += 1;
        self.grant_streams();
        let id = stream.send_id().into_inner();
        self.intake.resolving.insert(id, Vec::new());
        let stopped: Stopped = Box::pin(stream.stopped());
        let resolver = self.intake.http.create_resolver(FrameStream::new(BufRecvStream::new(stream)));
        self.tasks.spawn(async move {
            match time::timeout(limits::HEADER_DEADLINE, resolver.resolve_request()).await {
                Ok(Ok((request, stream))) => Done::Resolved(Box::new(Resolved { request, stream, stopped })),
                Ok(Err(_)) | Err(_) => Done::Unresolved(id),
            }
        });
    }

    fn finish(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Resolved(resolved)) => {
                let id = resolved.stream.send_id().into_inner();
                self.start(resolved);
                self.settle(id);
            }
            Ok(Done::Unresolved(id)) => {
                self.requests = self.requests.saturating_sub(1);
                self.settle(id);
            }
            Ok(Done::Session(id)) => {
                self.intake.sessions.remove(&id);
                self.intake.routes.lock().retain(|(of, _)| *of != id);
                if self.intake.sessions.is_empty()
                    && let Some(reading) = self.reading.take()
                {
                    reading.abort();
                }
                self.served = true;
            }
            Ok(Done::Datagrams) => {}
            Ok(Done::Stream) => self.streams = self.streams.saturating_sub(1),
            Ok(Done::Request) => self.requests = self.requests.saturating_sub(1),
            Err(error) if error.is_cancelled() => {}
            Err(error) => tracing::error!(%error, "a task of a connection failed"),
        }
    }

    fn start(&mut self, resolved: Box<Resolved>) {
        let Resolved { request, stream, stopped } = *resolved;
        if !requests::is_session(&request) {
            let (router, budgets) = (self.shared.router.clone(), self.budgets.clone());
            self.tasks.spawn(async move {
                requests::answer(request, stream, stopped, router, budgets).await;
                Done::Request
            });
            return;
        }
        let opened = requests::check(&request, &self.shared.access)
            .and_then(|()| early::subscriptions(request.uri().query()))
            .and_then(|early| self.has_room().map(|()| early))
            .and_then(|early| Ok((Connection::open(&self.shared.hub)?, early)));
        let (connection, early) = match opened {
            Ok(opened) => opened,
            Err(problem) => {
                self.tasks.spawn(async move {
                    requests::refuse(stream, &problem).await;
                    Done::Request
                });
                return;
            }
        };
        self.requests -= 1;
        // The id on the wire is the CONNECT stream's own; h3's conversion would take a quarter of it.
        let id = stream.send_id().into_inner();
        let attaches = requests::attaches(&request);
        let (session, datagrams) =
            Session::new(id, self.quic.clone(), connection, attaches, self.shared.stop.clone());
        self.intake.sessions.insert(id, session.clone());
        self.intake.routes.lock().push((id, session.clone()));
        if self.intake.sessions.len() == 1 {
            let reading = read_datagrams(self.quic.clone(), self.intake.routes.clone());
            self.reading = Some(self.tasks.spawn(reading));
        }
        let sending = session.clone().send_datagrams(datagrams);
        let sending = Sending(self.tasks.spawn(sending.map(|()| Done::Datagrams)));
        let (accepted, begins) = oneshot::channel();
        if let Some(frames) = early {
            self.streams += 1;
            let session = session.clone();
            self.tasks.spawn(async move {
                // Behind the answer to the CONNECT: nothing says what a browser makes of a stream before it.
                if begins.await.is_ok() {
                    session.serve_early(frames).await;
                }
                Done::Stream
            });
        }
        let mut connect = Connect::new(stream);
        self.tasks.spawn(async move {
            let _ended = session.ended.clone().drop_guard();
            if connect.accept().await {
                let _ = accepted.send(());
                session.run(connect, sending).await;
            }
            Done::Session(id)
        });
    }

    /// It is known what has become of a request, and so of the streams that waited for it.
    fn settle(&mut self, id: u64) {
        let mut waiting = self.intake.resolving.remove(&id).unwrap_or_default();
        waiting.sort_by_key(|stream| stream.send.id());
        for stream in waiting {
            self.serve_stream(stream);
        }
        if self.intake.resolving.is_empty() {
            self.intake.resolving = HashMap::new();
        }
    }

    fn has_room(&self) -> Result<(), Problem> {
        if self.intake.sessions.len() < limits::SESSIONS_PER_CONNECTION {
            return Ok(());
        }
        let message = "the connection has as many sessions as it may; open another connection";
        Err(Problem::new(Why::TooManySessions, message))
    }

    fn serve_stream(&mut self, mut stream: SessionStream) {
        let Some(session) = self.intake.sessions.get(&stream.session) else {
            match self.intake.resolving.get_mut(&stream.session) {
                Some(waiting) => waiting.push(stream),
                None => stream.refuse(),
            }
            return;
        };
        let session = session.clone();
        self.streams += 1;
        self.grant_streams();
        let control = session.claim_control();
        let stream = Box::new(stream);
        self.tasks.spawn(async move {
            session.serve(stream, control).await;
            Done::Stream
        });
    }
}

impl Intake {
    /// The next stream of either kind. What the backend finds beside the one that is given comes in the next turns.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Some(stream) = self.next_session_stream() {
            return Poll::Ready(Event::Stream(Box::new(stream)));
        }
        match self.http.poll_accept_request_stream(cx) {
            Poll::Ready(Ok(Some(stream))) => Poll::Ready(Event::Request(Box::new(stream))),
            Poll::Ready(Ok(None) | Err(_)) => Poll::Ready(Event::Ended),
            Poll::Pending => match self.next_session_stream() {
                Some(stream) => Poll::Ready(Event::Stream(Box::new(stream))),
                None => Poll::Pending,
            },
        }
    }

    fn next_session_stream(&mut self) -> Option<SessionStream> {
        let (sessions, resolving) = (&self.sessions, &self.resolving);
        // Streams of no session are refused at once.
        let begun = |id| match sessions.get(&id) {
            Some(session) => session.has_control(),
            None => !resolving.contains_key(&id),
        };
        self.http.inner.conn.next_session_stream(begun)
    }
}

/// The sessions of a connection and their ids. There is mostly one.
#[derive(Debug, Default)]
struct Routes(Mutex<Vec<(u64, Arc<Session>)>>);

impl Routes {
    fn lock(&self) -> MutexGuard<'_, Vec<(u64, Arc<Session>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives datagrams to their sessions while there are any. RFC 9297, section 2.1. One of no session is dropped, as it may be on its
/// way anyhow.
async fn read_datagrams(quic: quinn::Connection, routes: Arc<Routes>) -> Done {
    while let Ok(datagram) = quic.read_datagram().await {
        let Some((quarter, after)) = varint::read(&datagram) else { continue };
        let session = routes.lock().iter().find(|(id, _)| *id == quarter * 4).map(|(_, it)| it.clone());
        if let Some(session) = session {
            session.take_datagram(datagram.get(after..).unwrap_or_default());
        }
    }
    Done::Datagrams
}

/// Waits so long, or for ever. Boxed, since most connections are in use most of the time.
fn wait(patience: Option<Duration>) -> impl Future<Output = ()> {
    let sleep = patience.map(|patience| Box::pin(time::sleep(patience)));
    async move {
        match sleep {
            Some(sleep) => sleep.await,
            None => pending().await,
        }
    }
}
