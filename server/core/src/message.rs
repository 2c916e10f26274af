//! What travels in-band on a session, whatever the encoding. PROTOCOL.md, section 4.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use crate::{
    close::CloseCode,
    cursor::{Cursor, Resume},
    limits,
    name::ChannelName,
    position::Position,
    problem::{Code, Problem},
    publication::{Draft, Publication},
};

/// A client's own number for a message, which comes back in the answer.
pub type Ref = Option<NonZeroU32>;

/// Where a client asks a subscription to begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StartRequest {
    /// Events and signals from now on, state as a snapshot.
    #[default]
    Afresh,
    /// After what a cursor says of the channel.
    Cursor(Cursor),
    /// After a position.
    Position(Position),
}

impl StartRequest {
    /// Where to resume in `channel`: `None` is afresh.
    pub fn resume(&self, channel: &ChannelName) -> Option<Resume> {
        match self {
            Self::Afresh => None,
            Self::Cursor(cursor) => cursor.get(channel).cloned(),
            Self::Position(position) => Some(position.clone().into()),
        }
    }
}

/// Where a client has got to in channels, each of which is named once. At most as many as a session has subscriptions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions(Vec<(ChannelName, Position)>);

impl Positions {
    /// Adds a channel.
    ///
    /// # Errors
    /// `too_many_subscriptions`; `bad_message` for a channel that is named already.
    pub fn push(&mut self, channel: ChannelName, position: Position) -> Result<(), Problem> {
        if self.0.len() >= limits::SUBSCRIPTIONS {
            let message = format!("at most {} positions are taken", limits::SUBSCRIPTIONS);
            return Err(Problem::new(Code::TooManySubscriptions, message));
        }
        if self.get(&channel).is_some() {
            return Err(Problem::new(Code::BadMessage, format!("{channel} has two positions")));
        }
        self.0.push((channel, position));
        Ok(())
    }

    /// The position in a channel, if it is named.
    pub fn get(&self, channel: &ChannelName) -> Option<&Position> {
        self.0.iter().find(|(name, _)| name == channel).map(|(_, position)| position)
    }

    /// Every channel and its position, in the order in which they were named.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&ChannelName, &Position)> {
        self.0.iter().map(|(channel, position)| (channel, position))
    }
}

/// What becomes of the subscriptions of a session that is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adopt {
    /// They go on from where the server knows them to stand. The session has to be known.
    AsKnown,
    /// Channels are read on from where the client has got to, whether the session is still known or not.
    After(Positions),
    /// They end, and those that the connection has go on in their stead. Only the session's identity is taken over, whether it is
    /// still known or not.
    Fresh,
}

impl Adopt {
    /// Where the client has got to, if it says.
    pub fn positions(&self) -> Option<&Positions> {
        match self {
            Self::After(positions) => Some(positions),
            Self::AsKnown | Self::Fresh => None,
        }
    }
}

impl From<Option<Positions>> for Adopt {
    fn from(positions: Option<Positions>) -> Self {
        positions.map_or(Self::AsKnown, Self::After)
    }
}

/// From the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// Begin to read a channel.
    Subscribe {
        /// Comes back in the answer.
        r#ref: Ref,
        /// What to read.
        channel: ChannelName,
        /// From where on.
        start: StartRequest,
    },
    /// End a subscription.
    Unsubscribe {
        /// Comes back in the answer.
        r#ref: Ref,
        /// Whose.
        channel: ChannelName,
    },
    /// Publish.
    Publish {
        /// Comes back in the answer.
        r#ref: Ref,
        /// Where to.
        channel: ChannelName,
        /// What.
        draft: Draft,
    },
    /// Go on with a session that was made before.
    Attach {
        /// Comes back in the answer.
        r#ref: Ref,
        /// Which session. May be empty where it is fresh: the secret names it too.
        id: String,
        /// The proof.
        secret: String,
        /// What becomes of its subscriptions.
        adopt: Adopt,
    },
    /// Asks for a pong.
    Ping {
        /// Comes back in the answer.
        r#ref: Ref,
    },
    /// Answers a ping of the server's.
    Pong {
        /// The ping's.
        r#ref: Ref,
    },
}

/// A message that could not be read: whom to answer, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The message's, as far as it could be read.
    pub r#ref: Ref,
    /// What was wrong with it.
    pub problem: Problem,
}

impl From<Problem> for Rejection {
    fn from(problem: Problem) -> Self {
        Self { r#ref: None, problem }
    }
}

/// A control item of a channel, at a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Whose.
    pub channel: ChannelName,
    /// What stands for channel and epoch.
    pub alias: u64,
    /// The position that the control gives.
    pub position: Position,
}

/// From the server.
#[derive(Clone, Debug)]
pub enum ServerMessage {
    /// A publication.
    Publication(Arc<Publication>),
    /// Publications were missed; reading goes on after this position.
    Gap(Mark),
    /// Forget the channel's keys.
    Reset(Mark),
    /// The snapshot is complete.
    Synced(Mark),
    /// Answers `subscribe`; the position is where reading begins.
    Subscribed {
        /// The message's.
        r#ref: Ref,
        /// The channel, its alias, and where reading begins.
        mark: Mark,
        /// Where the client gave a position: whether everything after it follows, or a gap or reset.
        recovered: Option<bool>,
    },
    /// Answers `unsubscribe`.
    Unsubscribed {
        /// The message's.
        r#ref: Ref,
        /// Whose.
        channel: ChannelName,
    },
    /// Answers `publish`.
    Published {
        /// The message's.
        r#ref: Ref,
        /// Where to.
        channel: ChannelName,
        /// Which place it got.
        position: Position,
    },
    /// Answers `attach`.
    Attached {
        /// The message's.
        r#ref: Ref,
        /// Which session.
        session: String,
        /// Whether it was known; else it was made again.
        resumed: bool,
    },
    /// Something was wrong with a message.
    Error(Rejection),
    /// A channel of which `attach` gave a position cannot be read.
    Refused {
        /// Which channel.
        channel: ChannelName,
        /// Why not.
        problem: Problem,
    },
    /// To be answered with a pong.
    Ping {
        /// Comes back in the answer.
        r#ref: Ref,
    },
    /// Answers `ping`.
    Pong {
        /// The message's.
        r#ref: Ref,
    },
    /// What the transport is about to be closed with.
    Close {
        /// From the table of close codes, or the client's own.
        code: u32,
        /// For people.
        reason: String,
        /// How long this client is asked to stay away before it comes back, where the server cares.
        retry: Option<Duration>,
    },
}

impl ServerMessage {
    /// What a connection is told that the server closes.
    pub fn close(code: CloseCode, retry: Option<Duration>) -> Self {
        Self::Close { code: u32::from(code.code()), reason: code.reason().to_owned(), retry }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Epoch, Offset};

    #[test]
    fn positions_name_so_many_channels_once_each() {
        let channel = |n: usize| ChannelName::parse(&format!("event:{n}")).expect("a name");
        let position = Position { epoch: Epoch::from_entropy(1), offset: Offset::ZERO };
        let mut positions = Positions::default();
        for n in 0..limits::SUBSCRIPTIONS {
            positions.push(channel(n), position.clone()).expect("room");
            if n == 0 {
                let again = positions.push(channel(0), position.clone()).expect_err("twice");
                assert_eq!(again.code, Code::BadMessage);
            }
        }
        assert_eq!(positions.get(&channel(7)), Some(&position));
        let problem = positions.push(channel(limits::SUBSCRIPTIONS), position).expect_err("too many");
        assert_eq!(
            (problem.code, positions.iter().len()),
            (Code::TooManySubscriptions, limits::SUBSCRIPTIONS)
        );
    }
}
