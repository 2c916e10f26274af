//! WebSocket, in the binary encoding.

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroU32,
};

use fulmar_core::{
    ClientMessage, Epoch, Position, Ref, StartRequest,
    codec::binary::{self, ServerFrame},
    message::Mark,
};

use super::{Broken, Opening, Seen, number, tcp};
use crate::bench::{
    client::Client,
    trial::{place::Event, world::World},
};

/// Of requests to end what a session may have brought.
const UNSUBSCRIBE: u32 = 2;
/// The first request whose answer shows that a channel is subscribed; the others follow.
const SUBSCRIBE: u32 = 1_000;

#[derive(Debug)]
pub(in crate::bench::trial) struct Link {
    client: Client,
    /// What stands for channels and epochs.
    aliases: HashMap<u64, (usize, Epoch)>,
    /// What came before all channels were subscribed.
    waiting: VecDeque<Seen>,
}

impl Link {
    pub(super) async fn open(world: &World, opening: &mut Opening) -> Result<Self, Broken> {
        let stream = tcp(world, opening.from).await?;
        let url = format!("ws://{}/ws", world.http);
        let (query, messages) = match &opening.session {
            Some(session) => (String::new(), {
                let (id, secret) = (session.id.clone(), session.secret.clone());
                let positions = opening.place.positions(&world.channels).map_err(Broken::wrong)?;
                // Of the others it is not known whether the session has subscriptions to them.
                let unknown: Vec<_> = world
                    .channels
                    .iter()
                    .enumerate()
                    .filter(|(_, channel)| positions.get(channel).is_none())
                    .collect();
                let positions = Some(positions);
                let adopt = positions.into();
                let attach = ClientMessage::Attach { r#ref: NonZeroU32::new(1), id, secret, adopt };
                let mut messages = vec![attach];
                messages.extend(unknown.iter().map(|(_, channel)| ClientMessage::Unsubscribe {
                    r#ref: NonZeroU32::new(UNSUBSCRIBE),
                    channel: Clone::clone(channel),
                }));
                messages.extend(unknown.iter().map(|(index, channel)| ClientMessage::Subscribe {
                    r#ref: NonZeroU32::new(SUBSCRIBE + *index as u32),
                    channel: Clone::clone(channel),
                    start: StartRequest::Afresh,
                }));
                messages
            }),
            None => (super::query(world, opening.place.cursor(&world.channels).as_deref(), None), Vec::new()),
        };
        let mut client = Client::over(stream, &format!("{url}{query}")).await.map_err(Broken::ended)?;
        client.send_all(&messages).await.map_err(Broken::ended)?;
        let mut it = Self { client, aliases: HashMap::new(), waiting: VecDeque::new() };
        let mut subscribed = vec![false; world.channels.len()];
        while subscribed.contains(&false) {
            match it.frame().await? {
                ServerFrame::Subscribed { r#ref, mark, recovered } => {
                    let (channel, position) = (it.name(world, &mark)?, mark.position);
                    // One that the session brought without a position has neither.
                    if is_answer(r#ref, channel) || recovered.is_some() || opening.session.is_none() {
                        subscribed[channel] = true;
                        opening.place.begin(channel, position);
                    }
                }
                frame => {
                    // What a subscription that came with the session gave before it ended counts for nothing.
                    let mine =
                        |alias| it.aliases.get(&alias).is_some_and(|(channel, _)| subscribed[*channel]);
                    let counts = match &frame {
                        ServerFrame::Publication { alias, .. } => mine(*alias),
                        ServerFrame::Gap(mark) | ServerFrame::Reset(mark) => {
                            world.channel(mark.channel.as_str()).is_some_and(|channel| subscribed[channel])
                        }
                        _ => true,
                    };
                    if counts && let Some(seen) = it.seen(world, frame)? {
                        it.waiting.push_back(seen);
                    }
                }
            }
        }
        Ok(it)
    }

    pub(super) async fn next(&mut self, world: &World) -> Result<Seen, Broken> {
        loop {
            if let Some(seen) = self.waiting.pop_front() {
                return Ok(seen);
            }
            let frame = self.frame().await?;
            if let Some(seen) = self.seen(world, frame)? {
                return Ok(seen);
            }
        }
    }

    /// Says something, whose answer waits to be read.
    pub(super) async fn speak(&mut self) -> Result<(), Broken> {
        self.client.send(&ClientMessage::Ping { r#ref: None }).await.map_err(Broken::ended)
    }

    async fn frame(&mut self) -> Result<ServerFrame, Broken> {
        let frame = self.client.next().await.map_err(Broken::ended)?;
        binary::decode_server(&frame).map_err(Broken::wrong)
    }

    fn name(&mut self, world: &World, mark: &Mark) -> Result<usize, Broken> {
        let unknown = || Broken::wrong("the server told of a channel that nobody asked for");
        let channel = world.channel(mark.channel.as_str()).ok_or_else(unknown)?;
        self.aliases.insert(mark.alias, (channel, mark.position.epoch.clone()));
        Ok(channel)
    }

    /// What a frame means for the application.
    fn seen(&mut self, world: &World, frame: ServerFrame) -> Result<Option<Seen>, Broken> {
        Ok(match frame {
            ServerFrame::Publication { alias, offset, draft, .. } => {
                let unknown = || Broken::wrong("an event came by an alias that stands for nothing");
                let (channel, epoch) = self.aliases.get(&alias).cloned().ok_or_else(unknown)?;
                let number = number(draft.payload.as_ref().map_or(&[], |it| it.bytes()))?;
                Some(Seen::Event(Event {
                    channel,
                    number,
                    position: Position { epoch, offset },
                    cursor: None,
                }))
            }
            ServerFrame::Gap(mark) => {
                self.name(world, &mark)?;
                Some(Seen::Gap)
            }
            ServerFrame::Reset(mark) => {
                self.name(world, &mark)?;
                Some(Seen::Reset)
            }
            ServerFrame::Close { code, reason, .. } => {
                return Err(Broken::closed(code, format_args!("the server closed with {code} ({reason})")));
            }
            // The session brought nothing.
            ServerFrame::Error { r#ref: Some(it), .. } if it.get() == UNSUBSCRIBE => None,
            ServerFrame::Error { code, message, .. } => {
                return Err(Broken::refused(&code, format_args!("the server answered {code}: {message}")));
            }
            _ => None,
        })
    }
}

fn is_answer(r#ref: Ref, channel: usize) -> bool {
    r#ref.is_some_and(|it| it.get() == SUBSCRIBE + channel as u32)
}
