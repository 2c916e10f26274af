//! What the parts of a client share: the transport, who waits for what, and how it ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use fulmar_core::{
    ClientMessage, CloseCode,
    codec::{
        binary::{self, ServerFrame},
        framing,
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};
use wtransport::{Connection, VarInt, error::ConnectionError};

use crate::{
    close::Close,
    counters::Counters,
    early::Nameless,
    error::{Ended, Refusal, RequestError},
    inbox::Inbox,
    intake::Intake,
    limits,
    requests::{Request, Requests},
    routes::Routes,
};

/// One WebTransport session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: Connection,
    pub(crate) requests: Arc<Requests>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) intake: Intake,
    control: mpsc::Sender<Bytes>,
    pongs: mpsc::Sender<Bytes>,
    /// What the server said that it is about to close with.
    said: watch::Sender<Option<Close>>,
    closed: watch::Sender<Option<Close>>,
    complaint: Mutex<Option<Refusal>>,
}

/// What is to be written on the control stream.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) messages: mpsc::Receiver<Bytes>,
    /// Apart from the messages: a server that waits for us to read must not keep us from reading.
    pub(crate) pongs: mpsc::Receiver<Bytes>,
}

impl Session {
    pub(crate) fn new(connection: Connection) -> (Arc<Self>, Outgoing) {
        let (control, messages) = mpsc::channel(limits::CONTROL_QUEUE);
        let (pong_sender, pongs) = mpsc::channel(limits::PONGS);
        let session = Self {
            connection,
            requests: Requests::new(),
            counters: Arc::default(),
            intake: Intake::default(),
            control,
            pongs: pong_sender,
            said: watch::channel(None).0,
            closed: watch::channel(None).0,
            complaint: Mutex::default(),
        };
        (Arc::new(session), Outgoing { messages, pongs })
    }

    /// Held for a moment, and never across an await.
    pub(crate) fn routes(&self) -> MutexGuard<'_, Routes> {
        self.intake.routes()
    }

    pub(crate) fn inbox(&self) -> Arc<Inbox> {
        Inbox::new(self.counters.clone())
    }

    /// What writes on the control stream.
    pub(crate) fn control(&self) -> mpsc::Sender<Bytes> {
        self.control.clone()
    }

    /// Begins a request, once there is room for one.
    pub(crate) async fn begin(&self) -> Result<Request, RequestError> {
        match self.requests.begin().await {
            Some(request) => Ok(request),
            None => Err(RequestError::Closed(self.closed().await)),
        }
    }

    /// Waits for the answer to a request.
    pub(crate) async fn answer(&self, request: &mut Request) -> Result<ServerFrame, RequestError> {
        match request.answer().await {
            Some(answer) => Ok(answer?),
            None => Err(RequestError::Closed(self.closed().await)),
        }
    }

    /// Does a request on the control stream.
    pub(crate) async fn request(
        &self,
        message: impl FnOnce(fulmar_core::Ref) -> ClientMessage,
    ) -> Result<ServerFrame, RequestError> {
        let mut request = self.begin().await?;
        self.send(&message(Some(request.r#ref))).await?;
        self.answer(&mut request).await
    }

    /// Sends a message on the control stream, once there is room for it.
    pub(crate) async fn send(&self, message: &ClientMessage) -> Result<(), RequestError> {
        // It travels in the packet of the message.
        self.acknowledge();
        let sent = self.control.send(framing::prefixed(&binary::encode_client(message))).await;
        if sent.is_err() { Err(RequestError::Closed(self.closed().await)) } else { Ok(()) }
    }

    /// Sends a message on the control stream, if there is room for it.
    pub(crate) fn try_send(&self, message: &ClientMessage) {
        let _ = self.control.try_send(framing::prefixed(&binary::encode_client(message)));
    }

    pub(crate) fn pong(&self, r#ref: fulmar_core::Ref) {
        let pong = binary::encode_client(&ClientMessage::Pong { r#ref });
        let _ = self.pongs.try_send(framing::prefixed(&pong));
    }

    /// An answer of another kind than the question has.
    pub(crate) fn misanswered(&self, answer: &ServerFrame) -> RequestError {
        RequestError::Closed(self.fail(&format!("the server answered a request with {answer:?}")))
    }

    pub(crate) fn complain(&self, complaint: Refusal) {
        self.counters.complaints.add(1);
        *self.complaint.lock().unwrap_or_else(PoisonError::into_inner) = Some(complaint);
    }

    pub(crate) fn complaint(&self) -> Option<Refusal> {
        self.complaint.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a datagram. One that cannot be read is passed over: what it held comes on a stream, or is of a later version.
    pub(crate) fn datagram(&self, datagram: &[u8]) {
        self.counters.datagrams.add(1);
        let frames = framing::split_datagram(datagram).unwrap_or_default();
        let decoded: Result<Vec<_>, _> = frames.into_iter().map(binary::decode_server).collect();
        let frames = decoded.unwrap_or_default();
        if frames.is_empty() {
            self.counters.unreadable.add(1);
            return;
        }
        let (now, mut lost) = (Instant::now(), 0);
        let mut routes = self.routes();
        for frame in frames {
            match frame {
                ServerFrame::Publication { alias, offset, time, draft } => {
                    let it = Nameless { alias, offset, time, draft };
                    lost += u64::from(routes.datagram(it, now));
                }
                ServerFrame::Values(values) => routes.values(values, now),
                _ => {}
            }
        }
        drop(routes);
        self.counters.dropped.add(lost);
    }

    /// When an acknowledgement has to be sent, if one has.
    pub(crate) fn ack_due(&self) -> Option<Instant> {
        self.routes().ack_due()
    }

    /// Sends the acknowledgement that is owed.
    pub(crate) fn acknowledge(&self) {
        let ack = self.routes().take_ack(Instant::now());
        if let Some(ack) = ack {
            self.counters.acks.add(1);
            // One that is lost is made good by the next, or by the values that come again.
            let _ = self.connection.send_datagram(framing::prefixed(&binary::encode_ack(ack)));
        }
    }

    /// The server said what it is about to close with.
    pub(crate) fn say(&self, close: Close) {
        self.said.send_if_modified(|said| {
            let first = said.is_none();
            said.get_or_insert(close);
            first
        });
    }

    /// The transport has ended. What was said in-band counts, and may be on its way through our own tasks.
    pub(crate) async fn lost(&self, why: &ConnectionError) {
        let close = Close::from_transport(why);
        let mut said = self.said.subscribe();
        // When to come back is said in-band alone.
        let going = u32::from(CloseCode::GoingAway.code());
        let said = if close.code == Close::LOST || close.code == going {
            timeout(limits::END_GRACE, said.wait_for(Option::is_some)).await.ok().and_then(Result::ok)
        } else {
            None
        };
        let close = said.and_then(|said| said.clone()).unwrap_or(close);
        self.finish(close);
    }

    /// Closes because the server cannot be followed any more.
    pub(crate) fn fail(&self, why: &impl std::fmt::Display) -> Close {
        self.finish(Close::broken(why))
    }

    /// Ends everything, with what the server said in-band where it did. The first end counts.
    pub(crate) fn finish(&self, close: Close) -> Close {
        let close = self.said.borrow().clone().unwrap_or(close);
        let mut first = false;
        self.closed.send_if_modified(|closed| {
            first = closed.is_none();
            closed.get_or_insert_with(|| close.clone());
            first
        });
        if first {
            self.connection.close(VarInt::from_u32(close.code), close.reason.as_bytes());
            self.requests.end();
            self.routes().end(&Ended::Closed(close.clone()));
        }
        close
    }

    /// Waits for the end.
    pub(crate) async fn closed(&self) -> Close {
        let mut closed = self.closed.subscribe();
        match closed.wait_for(Option::is_some).await.map(|closed| closed.clone()) {
            Ok(Some(close)) => close,
            // The sender is a field of this.
            _ => Close::lost("the session is gone"),
        }
    }
}
