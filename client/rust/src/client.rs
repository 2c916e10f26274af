//! A session, as an application holds it.

use std::{future::pending, sync::Arc};

use fulmar_core::{
    Adopt, ChannelName, ClientMessage, Draft, Position, Positions, StartRequest, codec::binary::ServerFrame,
};
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use wtransport::{Connection, SendStream, quinn};

use crate::{
    close::Close,
    connector::Connector,
    counters::Counts,
    error::{ConnectError, Refusal, RequestError},
    limits,
    reader::{Reader, Role},
    session::{Outgoing, Session},
    subscription::Subscription,
    trust::Trust,
};

/// One WebTransport session of a Fulmar server. Dropping it closes the session.
#[derive(Debug)]
pub struct Client {
    session: Arc<Session>,
    adopted: Mutex<mpsc::Receiver<Subscription>>,
    /// Keeps the socket. Every task of the session but those of its subscriptions is here too.
    _connector: Connector,
    _tasks: JoinSet<()>,
}

impl Client {
    /// Opens a session on a UDP socket of its own. For many sessions, make them from one [`Connector`].
    ///
    /// # Errors
    /// Why there is none.
    pub async fn connect(url: &str, trust: Trust) -> Result<Self, ConnectError> {
        Connector::new(&trust)?.connect(url).await
    }

    /// Makes the first stream the control stream, and waits until it is.
    pub(crate) async fn open(connection: Connection, connector: Connector) -> Result<Self, ConnectError> {
        let unreachable = |why: &dyn std::fmt::Display| ConnectError::Unreachable(why.to_string());
        let opening = connection.open_bi().await.map_err(|why| unreachable(&why))?;
        let (send, recv) = opening.await.map_err(|why| unreachable(&why))?;

        let (session, outgoing) = Session::new(connection);
        let (adopt, adopted) = mpsc::channel(limits::SUBSCRIPTIONS);
        let mut tasks = JoinSet::new();
        tasks.spawn(write(send, outgoing));
        let answers = session.control();
        tasks.spawn(Reader::new(session.clone(), Role::Control(adopt), recv, answers).run());
        tasks.spawn(read_datagrams(session.clone()));
        let client = Self { session, adopted: Mutex::new(adopted), _connector: connector, _tasks: tasks };
        match client.ping().await {
            Ok(()) => Ok(client),
            Err(RequestError::Closed(close)) => Err(ConnectError::Closed(close)),
            Err(why) => Err(unreachable(&why)),
        }
    }

    /// Subscribes to a channel, on a stream of its own. A cursor that does not name the channel is as none.
    ///
    /// # Errors
    /// Where the server refused it, or the session was closed.
    pub async fn subscribe(
        &self,
        channel: &ChannelName,
        start: StartRequest,
    ) -> Result<Subscription, RequestError> {
        Subscription::open(&self.session, channel, start).await
    }

    /// Publishes; gives the place that it got.
    ///
    /// # Errors
    /// Where the server refused it, or the session was closed.
    pub async fn publish(&self, channel: &ChannelName, draft: Draft) -> Result<Position, RequestError> {
        let channel = channel.clone();
        match self.session.request(|r#ref| ClientMessage::Publish { r#ref, channel, draft }).await? {
            ServerFrame::Published { position, .. } => Ok(position),
            answer => Err(self.session.misanswered(&answer)),
        }
    }

    /// Goes on with a session that was made by `POST /session`. Its subscriptions come by [`adopted`](Self::adopted).
    ///
    /// # Errors
    /// Where the server refused it, or the session was closed.
    pub async fn attach(&self, id: &str, secret: &str) -> Result<(), RequestError> {
        self.resume(id, secret, None).await.map(|_| ())
    }

    /// As [`attach`](Self::attach), from where this client has got to in channels: each of them comes by
    /// [`adopted`](Self::adopted), read on from there, also when the server no longer knows the session. One that cannot be read
    /// is the [`complaint`](Self::complaint). Whether the session was still known.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub async fn resume(
        &self,
        id: &str,
        secret: &str,
        positions: Option<Positions>,
    ) -> Result<bool, RequestError> {
        Ok(self.take_over(id, secret, positions.into()).await?.1)
    }

    /// Takes over the identity of a session, which is made if the server does not know it. Its subscriptions end: this client
    /// makes those that it wants anew. The session's id, and whether it was known.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub async fn identify(&self, secret: &str) -> Result<(String, bool), RequestError> {
        self.take_over("", secret, Adopt::Fresh).await
    }

    async fn take_over(&self, id: &str, secret: &str, adopt: Adopt) -> Result<(String, bool), RequestError> {
        let (id, secret) = (id.to_owned(), secret.to_owned());
        match self.session.request(|r#ref| ClientMessage::Attach { r#ref, id, secret, adopt }).await? {
            ServerFrame::Attached { session, resumed, .. } => Ok((session, resumed)),
            answer => Err(self.session.misanswered(&answer)),
        }
    }

    /// Waits for a subscription that came with the attached session, or was made in its name by `POST /send`. Such a
    /// one comes by the control stream: while it is not read, nothing else is read there.
    ///
    /// # Errors
    /// Where the session was closed.
    pub async fn adopted(&self) -> Result<Subscription, Close> {
        let mut adopted = self.adopted.lock().await;
        tokio::select! {
            Some(subscription) = adopted.recv() => Ok(subscription),
            close = self.session.closed() => Err(close),
        }
    }

    /// Asks for a sign of life.
    ///
    /// # Errors
    /// Where the session was closed.
    pub async fn ping(&self) -> Result<(), RequestError> {
        match self.session.request(|r#ref| ClientMessage::Ping { r#ref }).await? {
            ServerFrame::Pong { .. } => Ok(()),
            answer => Err(self.session.misanswered(&answer)),
        }
    }

    /// Closes the session. The code travels as the QUIC connection's, so one of 4000 to 4999 is meant.
    pub fn close(&self, code: u32, reason: &str) {
        self.session.finish(Close::new(code, reason));
    }

    /// Waits until the session is closed, by whichever side.
    pub async fn closed(&self) -> Close {
        self.session.closed().await
    }

    /// What has been seen so far.
    pub fn counts(&self) -> Counts {
        self.session.counters.read()
    }

    /// The server's last error that answered no request.
    pub fn complaint(&self) -> Option<Refusal> {
        self.session.complaint()
    }

    /// The WebTransport session below.
    pub fn connection(&self) -> &Connection {
        &self.session.connection
    }

    /// The QUIC connection below that: path, round-trip time, statistics.
    pub fn quic(&self) -> &quinn::Connection {
        self.session.connection.quic_connection()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.close(Close::NORMAL, "");
    }
}

/// Writes what is to be said on the control stream.
async fn write(mut send: SendStream, mut outgoing: Outgoing) {
    loop {
        let frame = tokio::select! {
            biased;
            Some(pong) = outgoing.pongs.recv() => pong,
            Some(message) = outgoing.messages.recv() => message,
            else => return,
        };
        if send.write_all(&frame).await.is_err() {
            // The end of the stream's other side tells.
            return;
        }
    }
}

/// Reads datagrams to the end of the session.
async fn read_datagrams(session: Arc<Session>) {
    loop {
        let due = session.ack_due();
        if due.is_some_and(|due| due <= Instant::now()) {
            session.acknowledge();
            continue;
        }
        let acknowledging = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            datagram = session.connection.receive_datagram() => match datagram {
                Ok(datagram) => session.datagram(&datagram),
                Err(why) => {
                    session.lost(&why).await;
                    return;
                }
            },
            () = acknowledging => session.acknowledge(),
        }
    }
}
