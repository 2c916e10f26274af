//! What went wrong, as a client is told: the same object over HTTP and in-band.

use std::{borrow::Cow, fmt};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal;)*) => {
        /// The machine-readable half of a [`Problem`]. PROTOCOL.md, section 6.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The snake_case text that travels.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The HTTP status that goes with it.
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }
        }
    };
}

codes! {
    /// The request cannot be understood.
    BadRequest = "bad_request", 400;
    /// Not JSON, or JSON of another shape.
    BadJson = "bad_json", 400;
    /// Not the name of a channel.
    BadChannel = "bad_channel", 400;
    /// Not a key.
    BadKey = "bad_key", 400;
    /// Not a publication id.
    BadId = "bad_id", 400;
    /// No payload, two payloads, or one that does not decode.
    BadPayload = "bad_payload", 400;
    /// Not a cursor or position that can be used here.
    BadCursor = "bad_cursor", 400;
    /// Not a time to live, or given where none belongs.
    BadTtl = "bad_ttl", 400;
    /// Not a priority, or given where none belongs.
    BadPriority = "bad_priority", 400;
    /// Not a waiting time.
    BadWait = "bad_wait", 400;
    /// Not a message of the protocol.
    BadMessage = "bad_message", 400;
    /// A channel must be named.
    MissingChannel = "missing_channel", 400;
    /// More channels than one request can span.
    TooManyChannels = "too_many_channels", 400;
    /// A WebSocket subprotocol that is not spoken here.
    UnknownSubprotocol = "unknown_subprotocol", 400;
    /// Credentials are missing or wrong.
    Unauthorized = "unauthorized", 401;
    /// No such session, or not this secret.
    UnknownSession = "unknown_session", 401;
    /// A ticket that was used, has expired, or never was.
    BadTicket = "bad_ticket", 401;
    /// The configuration does not allow it.
    Forbidden = "forbidden", 403;
    /// A page of another site called.
    ForbiddenOrigin = "forbidden_origin", 403;
    /// The API is closed until a key is configured.
    NoKeyConfigured = "no_key_configured", 403;
    /// Nothing is here.
    NotFound = "not_found", 404;
    /// Another method is meant.
    MethodNotAllowed = "method_not_allowed", 405;
    /// The session has this subscription.
    AlreadySubscribed = "already_subscribed", 409;
    /// The session has no such subscription.
    NotSubscribed = "not_subscribed", 409;
    /// A poll's session is read by another connection now.
    Replaced = "replaced", 409;
    /// A poll's session fell off the history of a channel whose policy is to disconnect it.
    FellBehind = "fell_behind", 409;
    /// The payload is above the bound.
    PayloadTooLarge = "payload_too_large", 413;
    /// The message is above the bound.
    MessageTooLarge = "message_too_large", 413;
    /// A POST must be JSON.
    BadContentType = "bad_content_type", 415;
    /// The Host is not one of this server's names.
    Misdirected = "misdirected", 421;
    /// The session has as many subscriptions as it may.
    TooManySubscriptions = "too_many_subscriptions", 429;
    /// The node has as many sessions as it may.
    TooManySessions = "too_many_sessions", 429;
    /// The channel holds as many keys or bytes as it may.
    TooManyKeys = "too_many_keys", 429;
    /// The node holds as many bytes or channels as it may.
    NodeFull = "node_full", 503;
    /// The server is stopping.
    ShuttingDown = "shutting_down", 503;
}

/// What happened and what to do, for the one whose message or request caused it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// For programs.
    pub code: Code,
    /// For people.
    pub message: Cow<'static, str>,
}

impl Problem {
    /// A problem.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)
    }
}

impl std::error::Error for Problem {}
