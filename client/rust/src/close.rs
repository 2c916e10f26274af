//! How a session ended.

use std::{fmt, time::Duration};

use fulmar_core::{CloseCode, close::Advice};
use wtransport::error::ConnectionError;

/// With what a session was closed, by whichever side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// From the table of close codes, the client's own, or [`Close::LOST`].
    pub code: u32,
    /// For people.
    pub reason: String,
    /// How long the server asked this client to stay away before it comes back: its own share of a time over which all
    /// clients of a server that stops are spread.
    pub retry: Option<Duration>,
}

impl Close {
    /// The code of a client that has no reason to give.
    pub const NORMAL: u32 = 1000;
    /// Never sent: the session was lost without a close.
    pub const LOST: u32 = 1006;

    pub(crate) fn new(code: u32, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), retry: None }
    }

    pub(crate) fn lost(reason: impl Into<String>) -> Self {
        Self::new(Self::LOST, reason)
    }

    pub(crate) fn broken(why: &impl fmt::Display) -> Self {
        Self::new(u32::from(CloseCode::ProtocolError.code()), why.to_string())
    }

    /// What the transport's end says. A code outside of the protocol's ranges is HTTP/3's or QUIC's own.
    pub(crate) fn from_transport(error: &ConnectionError) -> Self {
        if let ConnectionError::ApplicationClosed(close) = error
            && let Ok(code @ 1000..5000) = u32::try_from(close.code().into_inner())
        {
            return Self::new(code, String::from_utf8_lossy(close.reason()));
        }
        Self::lost(error.to_string())
    }

    /// What to do now. `None` after a close of the client's own, which knows that itself.
    pub fn advice(&self) -> Option<Advice> {
        match self.code {
            Self::LOST | 4000..4500 => Some(Advice::Resume),
            4500..4900 => Some(Advice::Afresh),
            4900..5000 => Some(Advice::StayAway),
            _ => None,
        }
    }
}

impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "closed with {}", self.code)?;
        if !self.reason.is_empty() {
            write!(f, " ({})", self.reason)?;
        }
        Ok(())
    }
}
