//! A server's frame as a client finds it: what bears only an alias is not resolved yet.

use std::{fmt, time::Duration};

use super::{
    ATTACHED, CLOSE, ERROR, GAP, HAS_ID, HAS_KEY, Input, KIND, MADE_AGAIN, NOT_RECOVERED, PING, PONG,
    PUBLICATION, PUBLISHED, RECOVERED, REMOVED, RESET, SUBSCRIBED, SYNCED, UNSUBSCRIBED, VALUES, Values, bad,
    values,
};
use crate::{
    message::{Mark, Ref},
    name::ChannelName,
    position::{Offset, Position},
    problem::Problem,
    publication::Draft,
};

/// A frame from the server. Its aliases stand for what `subscribed`, `gap` and `reset` said of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerFrame {
    /// A publication.
    Publication {
        /// Whose.
        alias: u64,
        /// Its place.
        offset: Offset,
        /// When it was accepted, in ms since 1970.
        time: u64,
        /// What was published.
        draft: Draft,
    },
    /// Publications were missed; reading goes on after this position.
    Gap(Mark),
    /// Forget the channel's keys.
    Reset(Mark),
    /// The snapshot is complete.
    Synced {
        /// Whose.
        alias: u64,
        /// The position.
        offset: Offset,
    },
    /// Answers `subscribe`, or tells of a subscription that came with a session.
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
    /// Something was wrong with a message. The code is text, since a later server knows more of them.
    Error {
        /// The message's, where it could be read.
        r#ref: Ref,
        /// For programs.
        code: String,
        /// For people.
        message: String,
        /// Of which channel that `attach` named, where it is about one.
        channel: Option<ChannelName>,
    },
    /// Values of state channels, and how far those have been read.
    Values(Values),
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
        /// How long this client is asked to stay away before it comes back.
        retry: Option<Duration>,
    },
}

/// A server's frame that cannot be read. Nothing after it on its stream can be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(Problem);

impl From<Problem> for Malformed {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server sent a frame that cannot be read: {}", self.0.message)
    }
}

impl std::error::Error for Malformed {}

/// Reads a server's frame.
///
/// # Errors
/// What is wrong with it.
pub fn decode_server(frame: &[u8]) -> Result<ServerFrame, Malformed> {
    let mut input = Input { rest: frame };
    let frame = match input.byte()? {
        PUBLICATION => {
            let (alias, offset, time) = (input.integer()?, input.offset()?, input.integer()?);
            let flags = input.flags(KIND | HAS_KEY | REMOVED | HAS_ID)?;
            ServerFrame::Publication { alias, offset, time, draft: input.draft(flags)? }
        }
        VALUES => ServerFrame::Values(values::decode(&mut input)?),
        SUBSCRIBED => ServerFrame::Subscribed {
            r#ref: input.reference()?,
            mark: mark(&mut input)?,
            recovered: match input.rest {
                [] => None,
                _ => match input.byte()? {
                    RECOVERED => Some(true),
                    NOT_RECOVERED => Some(false),
                    _ => return Err(bad("a position is recovered or it is not").into()),
                },
            },
        },
        UNSUBSCRIBED => {
            ServerFrame::Unsubscribed { r#ref: input.reference()?, channel: channel(&mut input)? }
        }
        GAP => ServerFrame::Gap(mark(&mut input)?),
        RESET => ServerFrame::Reset(mark(&mut input)?),
        SYNCED => ServerFrame::Synced { alias: input.integer()?, offset: input.offset()? },
        PUBLISHED => ServerFrame::Published {
            r#ref: input.reference()?,
            channel: channel(&mut input)?,
            position: input.position()?,
        },
        ERROR => ServerFrame::Error {
            r#ref: input.reference()?,
            code: input.string()?.to_owned(),
            message: input.string()?.to_owned(),
            channel: if input.rest.is_empty() { None } else { Some(channel(&mut input)?) },
        },
        PING => ServerFrame::Ping { r#ref: input.reference()? },
        PONG => ServerFrame::Pong { r#ref: input.reference()? },
        CLOSE => ServerFrame::Close {
            code: u32::try_from(input.integer()?).map_err(|_| bad("a close code is below 2^32"))?,
            reason: input.string()?.to_owned(),
            retry: match input.rest {
                [] => None,
                _ => Some(Duration::from_millis(input.integer()?)),
            },
        },
        ATTACHED => ServerFrame::Attached {
            r#ref: input.reference()?,
            session: input.string()?.to_owned(),
            resumed: match input.rest {
                [] => true,
                _ => match input.byte()? {
                    MADE_AGAIN => false,
                    _ => return Err(bad("a session is resumed or made again").into()),
                },
            },
        },
        _ => return Err(bad("no such frame").into()),
    };
    input.end()?;
    Ok(frame)
}

fn channel(input: &mut Input<'_>) -> Result<ChannelName, Problem> {
    ChannelName::parse(input.string()?)
}

fn mark(input: &mut Input<'_>) -> Result<Mark, Problem> {
    Ok(Mark { alias: input.integer()?, channel: channel(input)?, position: input.position()? })
}
