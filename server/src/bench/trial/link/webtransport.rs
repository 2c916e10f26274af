//! WebTransport, by the native client, behind a relay of its own.

use std::{pin::pin, time::Duration};

use fulmar_client::{
    Client, ConnectError, Ended, Event as Given, Publication, Relay, RequestError, Subscription, Trust,
};
use fulmar_core::Position;
use futures_util::{StreamExt as _, future::select_all, stream::FuturesUnordered};
use tokio::time;

use super::{Broken, Opening, Seen, Session, number};
use crate::bench::trial::{place::Event, world::World};

/// A session, with a stream for each channel.
#[derive(Debug)]
pub(in crate::bench::trial) struct Link {
    subscriptions: Vec<Subscription>,
    /// Whose turn it is.
    turn: usize,
    client: Client,
    relay: Relay,
}

impl Link {
    pub(super) async fn open(world: &World, opening: &mut Opening) -> Result<Self, Broken> {
        let relay = Relay::to(world.quic).await?;
        let client = Client::connect(&format!("https://{}/wt", relay.address()), Trust::Insecure).await?;
        if let Some(session) = &opening.session {
            attach(&client, session).await?;
        }
        let mut subscriptions = Vec::new();
        for (index, channel) in world.channels.iter().enumerate() {
            let subscription = client.subscribe(channel, opening.place.start(index)).await?;
            opening.place.begin(index, subscription.begins().clone());
            subscriptions.push(subscription);
        }
        Ok(Self { subscriptions, turn: 0, client, relay })
    }

    pub(super) async fn next(&mut self) -> Result<Seen, Broken> {
        let count = self.subscriptions.len();
        self.turn = (self.turn + 1) % count.max(1);
        for index in (self.turn..count).chain(0..self.turn) {
            if let Some(given) = self.subscriptions.get_mut(index).and_then(Subscription::try_next) {
                return seen(index, given);
            }
        }
        if self.subscriptions.is_empty() {
            return Err(Broken::ended("it was let go"));
        }
        let waiting = self.subscriptions.iter_mut().map(|it| Box::pin(it.next()));
        let (given, index, _) = select_all(waiting).await;
        seen(index, given?)
    }

    /// Ends the streams of its subscriptions.
    pub(super) fn let_go(&mut self) {
        self.subscriptions.clear();
    }

    pub(super) async fn kill(self) -> Result<(), Broken> {
        // Else the client would say that it closes.
        self.relay.hold(true).await?;
        drop(self.client);
        Ok(())
    }

    pub(super) async fn freeze(&mut self, pause: Duration) -> Result<(), Broken> {
        self.relay.hold(true).await?;
        time::sleep(pause).await;
        Ok(self.relay.hold(false).await?)
    }

    pub(super) async fn readdress(&mut self) -> Result<(), Broken> {
        self.relay.rebind().await?;
        Ok(())
    }
}

/// Goes on with a session. The subscriptions that it brings end, since this client has positions of its own.
async fn attach(client: &Client, session: &Session) -> Result<(), Broken> {
    client.attach(&session.id, &session.secret).await?;
    // What is brought is announced in one batch, before the answer to what is asked after that. A subscription that is not read
    // stops the answers too, so each is ended as it comes.
    let (mut announced, mut ending) = (false, FuturesUnordered::new());
    let mut all = pin!(client.ping());
    while !announced || !ending.is_empty() {
        tokio::select! {
            biased;
            brought = client.adopted(), if !announced => ending.push(brought.map_err(Ended::Closed)?.unsubscribe()),
            Some(ended) = ending.next() => ended?,
            done = &mut all, if !announced => {
                done?;
                announced = true;
            }
        }
    }
    Ok(())
}

fn seen(channel: usize, given: Given) -> Result<Seen, Broken> {
    Ok(match given {
        Given::Publication(Publication { epoch, offset, payload, .. }) => {
            let number = number(payload.as_ref().map_or(&[], |it| it.bytes()))?;
            Seen::Event(Event { channel, number, position: Position { epoch, offset }, cursor: None })
        }
        Given::Gap(_) => Seen::Gap,
        Given::Reset(_) => Seen::Reset,
        Given::Synced(_) => return Err(Broken::wrong("a channel of events was synced")),
    })
}

impl From<ConnectError> for Broken {
    fn from(error: ConnectError) -> Self {
        match &error {
            ConnectError::Rejected => Self::wrong(error),
            ConnectError::Closed(close) => Self::closed(close.code, &error),
            _ => Self::ended(error),
        }
    }
}

impl From<RequestError> for Broken {
    fn from(error: RequestError) -> Self {
        match &error {
            RequestError::Refused(refusal) => Self::refused(&refusal.code, &error),
            RequestError::Closed(close) => Self::closed(close.code, &error),
            RequestError::StreamEnded => Self::ended(error),
        }
    }
}

impl From<Ended> for Broken {
    fn from(ended: Ended) -> Self {
        match &ended {
            Ended::Closed(close) => Self::closed(close.code, &ended),
            Ended::StreamEnded | Ended::Unsubscribed => Self::ended(ended),
        }
    }
}
