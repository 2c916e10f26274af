//! WebTransport over HTTP/3: draft-ietf-webtrans-http3-02, as browsers speak it, on quinn, h3 and h3-webtransport.
//!
//! One task drives each QUIC connection and polls all accepting on it; a task serves each session's CONNECT stream, and
//! one each stream. They all belong to the driver, and end with it.

mod backend;
mod capsule;
mod gauge;
mod requests;
mod session;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::Router;
use bytes::Bytes;
use futures_util::future::poll_fn;
use h3::{error::Code, frame::FrameStream, server, stream::BufRecvStream};
use http::Request;
use quinn::{
    Endpoint, EndpointConfig, IdleTimeout, Incoming, ServerConfig, TokioRuntime, TransportConfig, VarInt,
    crypto::rustls::QuicServerConfig,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{sync::Semaphore, task::JoinSet, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    backend::{Backend, BidiStream, SessionStream},
    session::{ConnectStream, Session},
};
use crate::{
    access::Access,
    hub::{Connection, Hub},
    limits,
    tls::Certificates,
};

type Http3 = server::Connection<Backend, Bytes>;

/// A bound QUIC endpoint.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
}

/// What every connection of a listener shares.
#[derive(Clone, Debug)]
struct Shared {
    hub: Arc<Hub>,
    access: Arc<Access>,
    router: Router,
    stop: CancellationToken,
}

impl Listener {
    /// Binds `address`. Accepts nothing yet.
    ///
    /// # Errors
    /// The system's, or an unusable certificate.
    pub fn bind(address: SocketAddr, certificates: &Arc<Certificates>) -> io::Result<Self> {
        let mut tls = certificates.server_config(&[b"h3"]).map_err(io::Error::other)?;
        tls.max_early_data_size = 0;
        let crypto = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(Arc::new(transport_config()));
        config.max_incoming(1024).incoming_buffer_size_total(8 * 1024 * 1024);
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind(&address.into())?;
        let endpoint =
            Endpoint::new(EndpointConfig::default(), Some(config), socket.into(), Arc::new(TokioRuntime))?;
        Ok(Self { endpoint })
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Serves until `stop`; `tasks` owns the connections.
    pub async fn serve(
        self,
        hub: Arc<Hub>,
        access: Arc<Access>,
        router: Router,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) {
        let connections = Arc::new(Semaphore::new(limits::QUIC_CONNECTIONS));
        let shared = Shared { hub, access, router, stop: stop.clone() };
        loop {
            let incoming = tokio::select! {
                () = stop.cancelled() => break,
                incoming = self.endpoint.accept() => match incoming {
                    Some(incoming) => incoming,
                    None => break,
                },
            };
            let Ok(permit) = connections.clone().try_acquire_owned() else {
                incoming.refuse();
                continue;
            };
            // Under pressure an address has to prove itself before it costs anything.
            let pressed = connections.available_permits() < limits::QUIC_CONNECTIONS / 2;
            if pressed && incoming.may_retry() && !incoming.remote_address_validated() {
                let _ = incoming.retry();
                continue;
            }
            let shared = shared.clone();
            tasks.spawn(async move {
                handle(incoming, shared).await;
                drop(permit);
            });
        }
        // The endpoint lives on until its last connection is gone.
        self.endpoint.set_server_config(None);
        tasks.wait().await;
        self.endpoint.wait_idle().await;
    }
}

fn transport_config() -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(limits::QUIC_BIDI_STREAMS.into())
        .max_concurrent_uni_streams(limits::QUIC_UNI_STREAMS.into())
        .stream_receive_window(limits::QUIC_STREAM_WINDOW.into())
        .receive_window(limits::QUIC_RECEIVE_WINDOW.into())
        .send_window(limits::QUIC_SEND_WINDOW)
        .datagram_send_buffer_size(limits::DATAGRAM_SEND_BUFFER)
        .datagram_receive_buffer_size(Some(limits::DATAGRAM_RECEIVE_BUFFER))
        .keep_alive_interval(Some(limits::QUIC_KEEP_ALIVE))
        .max_idle_timeout(IdleTimeout::try_from(limits::QUIC_IDLE).ok());
    config
}

async fn handle(incoming: Incoming, shared: Shared) {
    let Ok(connecting) = incoming.accept() else { return };
    let Ok(Ok(quic)) = time::timeout(limits::TLS_DEADLINE, connecting).await else { return };
    let mut builder = server::builder();
    builder
        .enable_webtransport(true)
        .enable_extended_connect(true)
        .enable_datagram(true)
        .max_webtransport_sessions(limits::SESSIONS_PER_CONNECTION as u64)
        .max_field_section_size(limits::HTTP3_FIELD_SECTION)
        .send_grease(false);
    let built = builder.build(Backend::new(quic.clone()));
    let Ok(Ok(http)) = time::timeout(limits::TLS_DEADLINE, built).await else { return };
    let driver = Driver {
        quic,
        http,
        shared,
        sessions: HashMap::new(),
        tasks: JoinSet::new(),
        streams: 0,
        served: false,
    };
    driver.run().await;
}

/// Drives one QUIC connection.
struct Driver {
    quic: quinn::Connection,
    http: Http3,
    shared: Shared,
    sessions: HashMap<u64, Arc<Session>>,
    tasks: JoinSet<Done>,
    /// Streams of sessions that are open.
    streams: u32,
    /// A session was here. When nothing is left after it, the connection is closed, since browsers would keep it; not at
    /// once, since that would overtake the session's own close.
    served: bool,
}

/// What a task of a connection has come to.
enum Done {
    /// A request's head has come.
    Resolved(Box<(Request<()>, ConnectStream)>),
    /// A session has ended.
    Session(u64),
    /// A session's stream has ended.
    Stream,
    /// A request was answered, or came to nothing.
    Request,
}

enum Event {
    Request(Box<BidiStream<Bytes>>),
    Stream(SessionStream),
    Ended,
}

impl Driver {
    async fn run(mut self) {
        let quic = self.quic.clone();
        let start = self.shared.hub.now().monotonic;
        let mut ticks = time::interval(Duration::from_secs(1));
        let mut unused = Duration::ZERO;
        loop {
            tokio::select! {
                event = poll_fn(|cx| poll_event(&mut self.http, cx)) => match event {
                    Event::Request(stream) => self.resolve(*stream),
                    Event::Stream(stream) => self.serve_stream(stream),
                    Event::Ended => break,
                },
                Some(done) = self.tasks.join_next() => self.finish(done),
                _ = ticks.tick() => {
                    let age = self.shared.hub.now().monotonic.saturating_sub(start);
                    self.http.inner.conn.expire(age);
                    if !self.tasks.is_empty() {
                        unused = age;
                    } else if age.saturating_sub(unused) >= self.patience() {
                        break;
                    }
                }
            }
        }
        // Dropping the driver ends its tasks, and with them the sessions.
        quic.close(VarInt::from_u32(Code::H3_NO_ERROR.value() as u32), b"");
    }

    /// How long the connection may be without a session or a request.
    fn patience(&self) -> Duration {
        if self.served || self.shared.stop.is_cancelled() { limits::QUIC_LINGER } else { limits::QUIC_UNUSED }
    }

    /// Waits for a request's head apart from the driver, so that one which never comes holds up nothing.
    fn resolve(&mut self, stream: BidiStream<Bytes>) {
        let resolver = self.http.create_resolver(FrameStream::new(BufRecvStream::new(stream)));
        self.tasks.spawn(async move {
            match time::timeout(limits::HEADER_DEADLINE, resolver.resolve_request()).await {
                Ok(Ok(resolved)) => Done::Resolved(Box::new(resolved)),
                Ok(Err(_)) | Err(_) => Done::Request,
            }
        });
    }

    fn finish(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Resolved(resolved)) => self.start(resolved),
            Ok(Done::Session(id)) => {
                self.sessions.remove(&id);
                self.served = true;
            }
            Ok(Done::Stream) => self.streams = self.streams.saturating_sub(1),
            Ok(Done::Request) => {}
            Err(error) => tracing::error!(%error, "a task of a connection failed"),
        }
    }

    fn start(&mut self, resolved: Box<(Request<()>, ConnectStream)>) {
        let (request, mut stream) = *resolved;
        if !requests::is_session(&request) {
            let router = self.shared.router.clone();
            self.tasks.spawn(async move {
                requests::answer(request, stream, router).await;
                Done::Request
            });
            return;
        }
        let opened = requests::check(&request, &self.shared.access)
            .and_then(|()| self.has_room())
            .and_then(|()| Connection::open(&self.shared.hub));
        let connection = match opened {
            Ok(connection) => connection,
            Err(problem) => {
                self.tasks.spawn(async move {
                    requests::refuse(stream, &problem).await;
                    Done::Request
                });
                return;
            }
        };
        // The id on the wire is the CONNECT stream's own; h3's conversion would take a quarter of it.
        let id = stream.send_id().into_inner();
        let (session, datagrams) = Session::new(id, self.quic.clone(), connection);
        self.sessions.insert(id, session.clone());
        self.tasks.spawn(async move {
            if requests::accept(&mut stream).await {
                session.run(stream, datagrams).await;
            }
            Done::Session(id)
        });
    }

    fn has_room(&self) -> Result<(), fulmar_core::Problem> {
        if self.sessions.len() < limits::SESSIONS_PER_CONNECTION {
            return Ok(());
        }
        let message = "the connection has as many sessions as it may; open another connection";
        Err(fulmar_core::Problem::new(fulmar_core::Code::TooManySessions, message))
    }

    fn serve_stream(&mut self, mut stream: SessionStream) {
        let Some(session) = self.sessions.get(&stream.session) else {
            stream.refuse();
            return;
        };
        let session = session.clone();
        self.streams += 1;
        // A subscription has a stream, so a session with many of them needs more; idle ones need not pay for it.
        // The margin is for the CONNECT stream, streams that have ended and are not yet forgotten, and those on their way.
        let wanted = (self.streams + 8)
            .next_power_of_two()
            .clamp(limits::QUIC_BIDI_STREAMS, fulmar_core::limits::SUBSCRIPTIONS as u32 * 2);
        self.quic.set_max_concurrent_bi_streams(wanted.into());
        self.tasks.spawn(async move {
            session.serve(stream).await;
            Done::Stream
        });
    }
}

/// The next stream of either kind. What the backend finds beside the one that is given comes in the next turns.
fn poll_event(http: &mut Http3, cx: &mut Context<'_>) -> Poll<Event> {
    if let Some(stream) = http.inner.conn.next_session_stream() {
        return Poll::Ready(Event::Stream(stream));
    }
    match http.poll_accept_request_stream(cx) {
        Poll::Ready(Ok(Some(stream))) => Poll::Ready(Event::Request(Box::new(stream))),
        Poll::Ready(Ok(None) | Err(_)) => Poll::Ready(Event::Ended),
        Poll::Pending => match http.inner.conn.next_session_stream() {
            Some(stream) => Poll::Ready(Event::Stream(stream)),
            None => Poll::Pending,
        },
    }
}
