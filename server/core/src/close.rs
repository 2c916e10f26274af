//! Close codes: one table for all transports.

/// Why a connection ends, and by its range what the client should do. PROTOCOL.md, section 10.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CloseCode {
    /// The server is stopping.
    GoingAway = 4000,
    /// Nothing was heard from the client in time.
    NoHeartbeat = 4001,
    /// The session is no longer known.
    SessionExpired = 4500,
    /// A slow client fell off the history of a channel whose policy is to disconnect it.
    FellBehind = 4501,
    /// The session was attached from another connection.
    Replaced = 4900,
    /// The client broke the protocol in a way that cannot be answered in-band.
    ProtocolError = 4901,
    /// The server does not want this client.
    Refused = 4902,
}

/// What a client should do after a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Come back and resume: 4000 to 4499.
    Resume,
    /// Come back, with a session of its own: 4500 to 4899.
    Afresh,
    /// Do not come back: 4900 to 4999.
    StayAway,
}

impl CloseCode {
    /// Every code.
    pub const ALL: [Self; 7] = [
        Self::GoingAway,
        Self::NoHeartbeat,
        Self::SessionExpired,
        Self::FellBehind,
        Self::Replaced,
        Self::ProtocolError,
        Self::Refused,
    ];

    /// The number that travels.
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The reason that travels beside it.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::GoingAway => "going_away",
            Self::NoHeartbeat => "no_heartbeat",
            Self::SessionExpired => "session_expired",
            Self::FellBehind => "fell_behind",
            Self::Replaced => "replaced",
            Self::ProtocolError => "protocol_error",
            Self::Refused => "refused",
        }
    }

    /// What the client should do.
    pub const fn advice(self) -> Advice {
        match self.code() {
            4000..=4499 => Advice::Resume,
            4500..=4899 => Advice::Afresh,
            _ => Advice::StayAway,
        }
    }
}
