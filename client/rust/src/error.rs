//! What can go wrong, and what to do then.

use std::{fmt, io};

use fulmar_core::{Code, Problem};
use wtransport::error::ConnectingError;

use crate::{close::Close, limits};

/// A session could not be opened.
#[derive(Debug)]
pub enum ConnectError {
    /// No UDP socket could be had.
    Socket(io::Error),
    /// Not the URL of a WebTransport server.
    Url(String),
    /// The server's name could not be resolved.
    Name(String),
    /// No QUIC connection came about, or it was lost before there was a session.
    Unreachable(String),
    /// The server answered, but not with a session.
    Rejected,
    /// Nothing came in time.
    TimedOut,
    /// The server closed the session at once.
    Closed(Close),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(why) => write!(f, "no UDP socket could be opened: {why}; look at the limit of open files"),
            Self::Url(why) => {
                write!(f, "not a URL to connect to: {why}; take `webtransport.url` of the server's GET /connect")
            }
            Self::Name(why) => write!(f, "the server's name is not known: {why}; check the URL"),
            Self::Unreachable(why) => write!(
                f,
                "no QUIC connection: {why}; check that UDP gets through, and that the certificate hashes are those of \
                 the server's GET /connect"
            ),
            Self::Rejected => f.write_str(
                "the server refused the session; check that the URL's host is one of its configured names and the \
                 path is /wt",
            ),
            Self::TimedOut => {
                write!(f, "no session within {:?}; check that UDP gets through", limits::CONNECT_DEADLINE)
            }
            Self::Closed(close) => write!(f, "the server did not keep the session: {close}"),
        }
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Socket(why) => Some(why),
            _ => None,
        }
    }
}

impl From<ConnectingError> for ConnectError {
    fn from(error: ConnectingError) -> Self {
        let text = error.to_string();
        match error {
            ConnectingError::InvalidUrl(_)
            | ConnectingError::InvalidServerName(_)
            | ConnectingError::InvalidRemoteAddress(_) => Self::Url(text),
            ConnectingError::DnsLookup(_) | ConnectingError::DnsNotFound => Self::Name(text),
            ConnectingError::SessionRejected => Self::Rejected,
            _ => Self::Unreachable(text),
        }
    }
}

/// The server's answer to a request that it did not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs: one of PROTOCOL.md, section 6.
    pub code: String,
    /// For people.
    pub message: String,
}

impl Refusal {
    /// The code, where this version knows it.
    pub fn known(&self) -> Option<Code> {
        Code::ALL.iter().copied().find(|code| code.as_str() == self.code)
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self { code: problem.code.as_str().to_owned(), message: problem.message.into_owned() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Refusal {}

/// A request came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The server refused it, or this side did where it knew that the server would. The session goes on.
    Refused(Refusal),
    /// The stream that the answer should have come on ended. The session goes on.
    StreamEnded,
    /// The session was closed before the answer. Whether the request was done is not known.
    Closed(Close),
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => fmt::Display::fmt(refusal, f),
            Self::StreamEnded => f.write_str("the stream ended before the answer; ask again"),
            Self::Closed(close) => {
                write!(f, "the session was {close} before the answer; open another one and ask again")
            }
        }
    }
}

impl std::error::Error for RequestError {}

impl From<Refusal> for RequestError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Why a subscription gives nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was unsubscribed.
    Unsubscribed,
    /// The server ended the stream. The session goes on; subscribe again from the position.
    StreamEnded,
    /// The session was closed.
    Closed(Close),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsubscribed => f.write_str("unsubscribed"),
            Self::StreamEnded => {
                f.write_str("the server ended the stream; subscribe again from the position")
            }
            Self::Closed(close) => write!(f, "the session was {close}"),
        }
    }
}

impl std::error::Error for Ended {}

impl From<Ended> for RequestError {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Closed(close) => Self::Closed(close),
            Ended::StreamEnded | Ended::Unsubscribed => Self::StreamEnded,
        }
    }
}
