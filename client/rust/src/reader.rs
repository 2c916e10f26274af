//! Reads the server's side of a stream.

use std::sync::Arc;

use bytes::Bytes;
use fulmar_core::{
    ChannelName,
    codec::{
        binary::{self, Ack, ServerFrame, Values},
        framing::{self, Splitter, TooLong},
    },
    message::Mark,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use wtransport::RecvStream;

use crate::{
    close::Close,
    error::{Ended, Refusal},
    event::{Event, Lane, Publication},
    inbox::Inbox,
    limits,
    routes::{Found, Named},
    session::Session,
    subscription::Subscription,
};

/// Which stream it is.
#[derive(Debug)]
pub(crate) enum Role {
    /// The first stream, and where subscriptions go that came with a session.
    Control(mpsc::Sender<Subscription>),
    /// That of a subscription.
    Channel(ChannelName, Arc<Inbox>),
}

/// Reads one stream to its end.
#[derive(Debug)]
pub(crate) struct Reader {
    session: Arc<Session>,
    role: Role,
    recv: RecvStream,
    /// Where frames are written on the same stream.
    answers: mpsc::Sender<Bytes>,
}

/// Nothing that comes on the stream makes sense any more.
struct Broken(String);

impl From<TooLong> for Broken {
    fn from(why: TooLong) -> Self {
        Self(format!("the server sent {why}"))
    }
}

impl Reader {
    pub(crate) fn new(
        session: Arc<Session>,
        role: Role,
        recv: RecvStream,
        answers: mpsc::Sender<Bytes>,
    ) -> Self {
        Self { session, role, recv, answers }
    }

    pub(crate) async fn run(mut self) {
        if let Err(Broken(why)) = self.read().await {
            self.session.fail(&why);
            return;
        }
        // The end of the session, which tells the reason, may come after those of its streams.
        let session = timeout(limits::END_GRACE, self.session.closed()).await;
        match (&self.role, session) {
            (Role::Channel(_, inbox), Err(_)) => inbox.end(Ended::StreamEnded),
            (Role::Control(_), Err(_)) => {
                self.session.finish(Close::lost("the server ended the control stream"));
            }
            (_, Ok(_)) => {}
        }
    }

    /// Reads until the stream ends, in whichever way.
    async fn read(&mut self) -> Result<(), Broken> {
        let mut splitter = Splitter::new(limits::FRAME_BYTES);
        while let Ok(Some(chunk)) = self.recv.quic_stream_mut().read_chunk(limits::READ_BYTES, true).await {
            self.session.counters.stream_bytes.add(chunk.bytes.len() as u64);
            splitter.push(&chunk.bytes);
            while let Some(frame) = splitter.take()? {
                let frame = binary::decode_server(&frame).map_err(|why| Broken(why.to_string()))?;
                self.take(frame).await?;
            }
        }
        Ok(())
    }

    async fn take(&self, frame: ServerFrame) -> Result<(), Broken> {
        let (requests, intake) = (&self.session.requests, &self.session.intake);
        match frame {
            ServerFrame::Publication { alias, offset, time, draft } => {
                if let Some((inbox, epoch)) = self.find(alias)? {
                    let publication = Publication::new(epoch, offset, time, draft, Lane::Stream);
                    intake.publication(alias, &inbox, publication).await;
                }
            }
            ServerFrame::Values(values) => self.values(values).await,
            ServerFrame::Synced { alias, offset } => {
                if let Some((inbox, epoch)) = self.find(alias)? {
                    intake.synced(alias, &inbox, epoch, offset).await;
                }
            }
            ServerFrame::Gap(mark) => intake.mark(mark, Event::Gap, Named::Begins).await,
            ServerFrame::Reset(mark) => intake.mark(mark, Event::Reset, Named::Reset).await,
            ServerFrame::Subscribed { r#ref: Some(r#ref), mark, recovered } => {
                if let Role::Channel(channel, _) = &self.role
                    && mark.channel != *channel
                {
                    return Err(Broken(format!("the server subscribed {}, not {channel}", mark.channel)));
                }
                self.session.routes().name(&mark, Instant::now());
                requests.answer(r#ref, Ok(ServerFrame::Subscribed { r#ref: Some(r#ref), mark, recovered }));
            }
            ServerFrame::Subscribed { r#ref: None, mark, recovered } => self.adopt(mark, recovered),
            ServerFrame::Error { r#ref, code, message, channel } => {
                let message = match channel {
                    Some(channel) => format!("{channel}: {message}"),
                    None => message,
                };
                let refusal = Refusal { code, message };
                match r#ref {
                    Some(r#ref) => requests.answer(r#ref, Err(refusal)),
                    None => self.session.complain(refusal),
                }
            }
            ServerFrame::Ping { r#ref } => self.session.pong(r#ref),
            ServerFrame::Close { code, reason, retry } => {
                self.session.say(Close { code, reason, retry });
            }
            ServerFrame::Unsubscribed { r#ref: Some(r#ref), .. }
            | ServerFrame::Published { r#ref: Some(r#ref), .. }
            | ServerFrame::Attached { r#ref: Some(r#ref), .. }
            | ServerFrame::Pong { r#ref: Some(r#ref) } => requests.answer(r#ref, Ok(frame)),
            // Nobody waits for it. What a subscription asked for when it was dropped is none of the next one's of its channel.
            ServerFrame::Unsubscribed { .. }
            | ServerFrame::Published { .. }
            | ServerFrame::Attached { .. }
            | ServerFrame::Pong { .. } => {}
        }
        Ok(())
    }

    /// Takes in values that fit no datagram, and acknowledges them.
    async fn values(&self, values: Values) {
        let ack = Ack { newest: values.number, bitmap: 0 };
        self.session.intake.values(values).await;
        // Where it cannot be written, the end of the stream's other side tells.
        let _ = self.answers.send(framing::prefixed(&binary::encode_ack(ack))).await;
    }

    /// The subscription of an alias; `None` where it has ended.
    fn find(&self, alias: u64) -> Result<Option<(Arc<Inbox>, fulmar_core::Epoch)>, Broken> {
        match self.session.routes().find(alias) {
            Found::Channel(inbox, epoch) => Ok(Some((inbox, epoch))),
            Found::Retired => Ok(None),
            Found::Unknown => {
                Err(Broken(format!("the server used the alias {alias}, which stands for nothing")))
            }
        }
    }

    /// Takes over a subscription that came with a session.
    fn adopt(&self, mark: Mark, recovered: Option<bool>) {
        let session = &self.session;
        if session.routes().name(&mark, Instant::now()) {
            // It is there already, and has moved.
            return;
        }
        if let Role::Control(adopted) = &self.role {
            let inbox = session.inbox();
            let joined = session.routes().join(&mark.channel, &inbox);
            if joined.is_ok() {
                session.routes().name(&mark, Instant::now());
                // Where nobody takes them, dropping the subscription ends it.
                let _ = adopted.try_send(Subscription::adopted(session.clone(), mark, recovered, inbox));
            }
        }
    }
}
