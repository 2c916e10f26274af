//! Who is connected: sessions, what attaches to them, and when they end.
//!
//! Pure rules over ids and time. The server keeps a handle (its own session) in each entry and acts on what the
//! methods return. Every connection is a session: *bare* ones end with their connection; *resumable* ones, made by
//! `POST /session`, stay for a grace period without one.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq as _;

use crate::{
    limits,
    problem::{Code, Problem},
    time::Now,
};

/// A one-way hash of 256 bits, which whoever has a registry brings along.
pub type Digest = fn(&[u8]) -> [u8; 32];

/// Names a session: 128 bits, random or out of its secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// An id from entropy.
    pub const fn from_entropy(bits: [u8; 16]) -> Self {
        Self(bits)
    }

    fn parse(text: &str) -> Option<Self> {
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Proves that a caller owns a session. As text it names the session too: `ID.SECRET`. Never printed by `Debug`, and kept
/// nowhere: the id follows from it, so that a session can be made again when nobody knows it any more.
#[derive(Clone)]
pub struct Secret([u8; 24]);

impl Secret {
    /// A secret from entropy.
    pub const fn from_entropy(bits: [u8; 24]) -> Self {
        Self(bits)
    }

    /// The id of the session that it proves.
    pub fn session(&self, digest: Digest) -> SessionId {
        let digest = digest(&[b"fulmar session:", self.0.as_slice()].concat());
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        SessionId(id)
    }

    /// The text that the session's owner gets, once.
    pub fn reveal(&self, id: SessionId) -> String {
        format!("{id}.{}", URL_SAFE_NO_PAD.encode(self.0))
    }

    fn parse(text: &str) -> Option<(SessionId, Self)> {
        let (id, secret) = text.split_once('.')?;
        let secret = URL_SAFE_NO_PAD.decode(secret).ok()?.try_into().ok()?;
        Some((SessionId::parse(id)?, Self(secret)))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Attaches a session once, where a secret must not stand: in a URL.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket([u8; 16]);

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket(..)")
    }
}

impl Ticket {
    /// A ticket from entropy.
    pub const fn from_entropy(bits: [u8; 16]) -> Self {
        Self(bits)
    }

    /// The text that goes into the URL.
    pub fn reveal(self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    fn parse(text: &str) -> Option<Self> {
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
    }
}

/// Tells one attachment from all others of the registry, so that the end of an old connection does not detach a new one, be it
/// of a session that was made again meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment(u64);

#[derive(Debug)]
struct Entry<T> {
    handle: T,
    /// It has a secret, and outlives its connections.
    resumable: bool,
    /// The last one; `None`: it was never attached.
    attachment: Option<Attachment>,
    /// Since when no connection is attached.
    detached: Option<Duration>,
    tickets: usize,
}

/// A session that goes on with a connection.
#[derive(Debug)]
pub struct Resumed<T> {
    /// The session's.
    pub handle: T,
    /// The connection's.
    pub attachment: Attachment,
    /// It was there; else it was made again.
    pub known: bool,
    /// The handle of the session that gave way to it, if one had to.
    pub ended: Option<T>,
}

/// All sessions of a node.
#[derive(Debug)]
pub struct Registry<T> {
    sessions: HashMap<SessionId, Entry<T>>,
    tickets: HashMap<Ticket, (SessionId, Duration)>,
    capacity: usize,
    /// How long a session without a connection is kept.
    grace: Duration,
    digest: Digest,
    /// The sessions without a connection, those first that have been for longest.
    detached: BTreeSet<(Duration, SessionId)>,
    /// How many attachments there were.
    attachments: u64,
    /// Sessions that were made and never attached: at most a tenth, since making one costs its maker nothing.
    unattached: usize,
}

impl<T: Clone> Registry<T> {
    /// An empty registry for at most `capacity` sessions, each of which is kept for `grace` without a connection.
    pub fn new(capacity: usize, grace: Duration, digest: Digest) -> Self {
        let (sessions, tickets, detached) = Default::default();
        Self { sessions, tickets, capacity, grace, digest, detached, attachments: 0, unattached: 0 }
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Every session's handle.
    pub fn handles(&self) -> impl Iterator<Item = &T> {
        self.sessions.values().map(|entry| &entry.handle)
    }

    /// Enters a bare session, attached, which [`Self::detach`] ends. Gives back the handle of the session that gave way to it,
    /// if one had to.
    ///
    /// # Errors
    /// `too_many_sessions` when the node is full of sessions that have connections.
    pub fn insert_bare(&mut self, id: SessionId, handle: T) -> Result<(Attachment, Option<T>), Problem> {
        self.insert_attached(id, false, handle)
    }

    /// Enters a resumable session, detached. Its id is that of its secret. Gives back the handle of the session that gave way to
    /// it, if one had to.
    ///
    /// # Errors
    /// `too_many_sessions` when the node is full of sessions that have connections, or too many wait for their first attachment.
    pub fn insert_resumable(&mut self, id: SessionId, handle: T, now: Now) -> Result<Option<T>, Problem> {
        if self.unattached >= self.capacity.div_ceil(10) {
            return Err(Problem::new(
                Code::TooManySessions,
                "too many sessions wait to be attached; try again in half a minute or elsewhere",
            ));
        }
        let detached = Some(now.monotonic);
        let entry = Entry { handle, resumable: true, attachment: None, detached, tickets: 0 };
        let ended = self.insert(id, entry)?;
        self.detached.insert((now.monotonic, id));
        self.unattached += 1;
        Ok(ended)
    }

    fn insert_attached(
        &mut self,
        id: SessionId,
        resumable: bool,
        handle: T,
    ) -> Result<(Attachment, Option<T>), Problem> {
        let attachment = self.next_attachment();
        let entry = Entry { handle, resumable, attachment: Some(attachment), detached: None, tickets: 0 };
        let ended = self.insert(id, entry)?;
        Ok((attachment, ended))
    }

    fn next_attachment(&mut self) -> Attachment {
        self.attachments += 1;
        Attachment(self.attachments)
    }

    /// The last step of entering a session, when nothing else can refuse it. Where the node is full, the session that has been
    /// without a connection for longest ends, and its handle is given back: one that was there before keeps nobody out who comes
    /// now.
    fn insert(&mut self, id: SessionId, entry: Entry<T>) -> Result<Option<T>, Problem> {
        let mut ended = None;
        if self.sessions.len() >= self.capacity {
            let full =
                || Problem::new(Code::TooManySessions, "this node is full; try again later or elsewhere");
            ended = Some(self.end_first().ok_or_else(full)?);
        }
        self.sessions.insert(id, entry);
        Ok(ended)
    }

    /// The session that a secret proves, without attaching.
    ///
    /// # Errors
    /// `unknown_session` when there is none or the secret is another; which of both is not told.
    pub fn authenticate(&self, secret: &str) -> Result<(SessionId, T), Problem> {
        let id = self.identify(secret)?;
        let entry = self.sessions.get(&id).filter(|entry| entry.resumable).ok_or_else(unknown)?;
        Ok((id, entry.handle.clone()))
    }

    /// The id of the session that a secret proves, known or not.
    ///
    /// # Errors
    /// `unknown_session` when it is no secret, or names another session than its own.
    pub fn identify(&self, secret: &str) -> Result<SessionId, Problem> {
        let (id, secret) = Secret::parse(secret).ok_or_else(unknown)?;
        let proven = secret.session(self.digest);
        if bool::from(proven.0.ct_eq(&id.0)) { Ok(id) } else { Err(unknown()) }
    }

    /// Attaches a connection to the session that a secret proves. The last one wins: what was attached before has
    /// been replaced.
    ///
    /// # Errors
    /// As [`Self::authenticate`].
    pub fn attach(&mut self, secret: &str) -> Result<(SessionId, T, Attachment), Problem> {
        let (id, _) = self.authenticate(secret)?;
        self.attach_known(id)
    }

    /// As [`Self::attach`]; a session that is not known is made again, with the handle that `make` gives.
    ///
    /// # Errors
    /// `unknown_session` for what is no secret; `too_many_sessions` when the node is full of sessions that have connections.
    pub fn resume(&mut self, secret: &str, make: impl FnOnce(SessionId) -> T) -> Result<Resumed<T>, Problem> {
        let id = self.identify(secret)?;
        if self.sessions.contains_key(&id) {
            let (_, handle, attachment) = self.attach(secret)?;
            return Ok(Resumed { handle, attachment, known: true, ended: None });
        }
        let handle = make(id);
        let (attachment, ended) = self.insert_attached(id, true, handle.clone())?;
        Ok(Resumed { handle, attachment, known: false, ended })
    }

    /// A ticket for the session.
    ///
    /// # Errors
    /// `too_many_sessions` when 8 tickets of the session wait to be redeemed.
    pub fn issue(&mut self, id: SessionId, ticket: Ticket, now: Now) -> Result<(), Problem> {
        self.expire_tickets(now);
        if let Some(entry) = self.sessions.get_mut(&id) {
            if entry.tickets >= limits::TICKETS_PER_SESSION {
                return Err(Problem::new(Code::TooManySessions, "too many tickets wait; use one of them"));
            }
            entry.tickets += 1;
            self.tickets.insert(ticket, (id, now.monotonic));
        }
        Ok(())
    }

    /// Redeems a ticket: attaches a connection to its session.
    ///
    /// # Errors
    /// `bad_ticket` when it was used, has expired, never was, or its session ended.
    pub fn redeem(&mut self, ticket: &str, now: Now) -> Result<(SessionId, T, Attachment), Problem> {
        self.expire_tickets(now);
        let bad = || Problem::new(Code::BadTicket, "the ticket was used or has expired; get another");
        let ticket = Ticket::parse(ticket).ok_or_else(bad)?;
        let (id, _) = self.tickets.remove(&ticket).ok_or_else(bad)?;
        if let Some(entry) = self.sessions.get_mut(&id) {
            entry.tickets -= 1;
        }
        self.attach_known(id).map_err(|_| bad())
    }

    fn attach_known(&mut self, id: SessionId) -> Result<(SessionId, T, Attachment), Problem> {
        let attachment = self.next_attachment();
        let entry = self
            .sessions
            .get_mut(&id)
            .ok_or_else(|| Problem::new(Code::UnknownSession, "the session has ended"))?;
        if entry.attachment.replace(attachment).is_none() {
            self.unattached -= 1;
        }
        if let Some(at) = entry.detached.take() {
            self.detached.remove(&(at, id));
        }
        Ok((id, entry.handle.clone(), attachment))
    }

    /// A connection ended. Gives back the handle of a session that ended with it.
    pub fn detach(&mut self, id: SessionId, attachment: Attachment, now: Now) -> Option<T> {
        let entry = self.sessions.get_mut(&id)?;
        if entry.attachment != Some(attachment) {
            return None;
        }
        if entry.resumable {
            if let Some(before) = entry.detached.replace(now.monotonic) {
                self.detached.remove(&(before, id));
            }
            self.detached.insert((now.monotonic, id));
            return None;
        }
        self.sessions.remove(&id).map(|entry| entry.handle)
    }

    /// Ends sessions that have been without a connection for the grace period, and gives back their handles.
    pub fn reap(&mut self, now: Now) -> Vec<T> {
        self.expire_tickets(now);
        let mut ended = Vec::new();
        while let Some((at, _)) = self.detached.first()
            && now.since(*at) >= self.grace
        {
            ended.extend(self.end_first());
        }
        ended
    }

    fn end_first(&mut self) -> Option<T> {
        let (_, id) = self.detached.pop_first()?;
        let entry = self.sessions.remove(&id)?;
        self.unattached -= usize::from(entry.attachment.is_none());
        if entry.tickets > 0 {
            // A session that is made again under the same id has none of them.
            self.tickets.retain(|_, (of, _)| *of != id);
        }
        Some(entry.handle)
    }

    fn expire_tickets(&mut self, now: Now) {
        for (_, (id, _)) in self.tickets.extract_if(|_, (_, at)| now.since(*at) >= limits::TICKET_AGE) {
            if let Some(entry) = self.sessions.get_mut(&id) {
                entry.tickets -= 1;
            }
        }
    }
}

fn unknown() -> Problem {
    Problem::new(Code::UnknownSession, "no such session; make one with POST /session")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: SessionId = SessionId::from_entropy([7; 16]);
    const GRACE: Duration = Duration::from_secs(30);

    /// Tells the secrets of these tests from each other, each of which is one byte again and again.
    fn digest(bytes: &[u8]) -> [u8; 32] {
        [*bytes.last().expect("a secret"); 32]
    }

    fn resumable() -> (Registry<&'static str>, String) {
        let mut registry = Registry::new(2, GRACE, digest);
        let text = Secret::from_entropy([7; 24]).reveal(ID);
        registry.insert_resumable(ID, "it", Now::from_millis(0)).expect("room");
        (registry, text)
    }

    #[test]
    fn sessions_that_nobody_attaches_leave_room_for_others() {
        let mut registry = Registry::new(20, GRACE, digest);
        let make = |registry: &mut Registry<&str>, n: u8, at: u64| {
            let (id, secret) = (SessionId::from_entropy([n; 16]), Secret::from_entropy([n; 24]));
            let text = secret.reveal(id);
            registry.insert_resumable(id, "it", Now::from_millis(at)).map(|_| text)
        };
        let first = make(&mut registry, 1, 0).expect("room");
        make(&mut registry, 2, 0).expect("room");
        assert_eq!(make(&mut registry, 3, 0).expect_err("two wait").code, Code::TooManySessions);
        registry.insert_bare(SessionId::from_entropy([9; 16]), "bare").expect("room for others");
        registry.attach(&first).expect("known");
        make(&mut registry, 3, 0).expect("one was attached");
        assert!(make(&mut registry, 4, 0).is_err());
        assert_eq!(registry.reap(Now::from_millis(40_000)).len(), 2, "those that were not");
        make(&mut registry, 4, 40_000).expect("room");
        make(&mut registry, 5, 40_000).expect("room");
        assert!(make(&mut registry, 6, 40_000).is_err());
    }

    #[test]
    fn only_the_secret_attaches() {
        let (mut registry, secret) = resumable();
        assert!(registry.attach(&secret).is_ok());
        let other = Secret::from_entropy([8; 24]).reveal(ID);
        let missing = Secret::from_entropy([6; 24]).reveal(SessionId::from_entropy([6; 16]));
        for wrong in [other.as_str(), missing.as_str(), "", ".", "x", &ID.to_string()] {
            let problem = registry.attach(wrong).expect_err("not the secret");
            assert_eq!(problem.code, Code::UnknownSession);
        }
        registry.insert_bare(SessionId::from_entropy([1; 16]), "bare").expect("room");
        let of_bare = Secret::from_entropy([1; 24]).reveal(SessionId::from_entropy([1; 16]));
        assert!(registry.attach(&of_bare).is_err());
        assert!(registry.resume(&of_bare, |_| "again").is_err());
        assert_eq!(
            registry.insert_bare(SessionId::from_entropy([2; 16]), "third").expect_err("full").code,
            Code::TooManySessions
        );
    }

    #[test]
    fn the_last_attachment_wins_and_the_grace_period_runs_from_its_end() {
        let (mut registry, secret) = resumable();
        let (_, _, first) = registry.attach(&secret).expect("attached");
        let (_, _, second) = registry.attach(&secret).expect("attached");
        assert_eq!(registry.detach(ID, first, Now::from_millis(10)), None);
        assert!(registry.reap(Now::from_millis(100_000)).is_empty(), "still attached");
        assert_eq!(registry.detach(ID, second, Now::from_millis(100_000)), None);
        assert!(registry.reap(Now::from_millis(129_999)).is_empty());
        assert_eq!(registry.reap(Now::from_millis(130_000)), ["it"]);
        assert!(registry.attach(&secret).is_err());
    }

    #[test]
    fn a_session_that_is_not_known_is_made_again_by_its_secret_alone() {
        let (mut registry, secret) = resumable();
        let resumed = registry.resume(&secret, |_| "again").expect("known");
        assert_eq!((resumed.handle, resumed.known), ("it", true));
        let first = resumed.attachment;
        registry.detach(ID, first, Now::from_millis(0));
        assert_eq!(registry.reap(Now::from_millis(30_000)), ["it"]);
        assert!(registry.attach(&secret).is_err());

        let other = Secret::from_entropy([8; 24]).reveal(ID);
        let code = |registry: &mut Registry<&'static str>, secret: &str| {
            registry.resume(secret, |_| "again").expect_err("refused").code
        };
        for wrong in [other.as_str(), "", ".", &ID.to_string()] {
            assert_eq!(code(&mut registry, wrong), Code::UnknownSession);
        }
        let resumed = registry.resume(&secret, |_| "again").expect("made");
        assert_eq!((resumed.handle, resumed.known), ("again", false));
        let again = resumed.attachment;
        assert!(registry.reap(Now::from_millis(90_000)).is_empty(), "it is attached");
        assert_eq!(registry.authenticate(&secret).expect("known"), (ID, "again"));
        registry.detach(ID, first, Now::from_millis(90_000));
        assert!(
            registry.reap(Now::from_millis(150_000)).is_empty(),
            "another life's connection is none of its own"
        );
        registry.detach(ID, again, Now::from_millis(90_000));
        assert_eq!(registry.reap(Now::from_millis(120_000)), ["again"], "it can be resumed");

        for n in 1..=2 {
            registry.insert_bare(SessionId::from_entropy([n; 16]), "bare").expect("room");
        }
        assert_eq!(code(&mut registry, &secret), Code::TooManySessions);
        assert!(!format!("{:?}", Secret::from_entropy([7; 24])).contains('7'));
    }

    #[test]
    fn a_bare_session_ends_with_its_connection() {
        let mut registry = Registry::new(1, GRACE, digest);
        let (attachment, _) = registry.insert_bare(ID, "bare").expect("room");
        assert_eq!(registry.detach(ID, attachment, Now::from_millis(0)), Some("bare"));
        assert!(registry.is_empty());
    }

    #[test]
    fn a_ticket_is_good_once_and_for_thirty_seconds() {
        let (mut registry, _) = resumable();
        let ticket = |n| Ticket::from_entropy([n; 16]);
        registry.issue(ID, ticket(1), Now::from_millis(0)).expect("issued");
        let code = |result: Result<(SessionId, &str, Attachment), Problem>| result.expect_err("refused").code;
        assert_eq!(code(registry.redeem("nonsense", Now::from_millis(0))), Code::BadTicket);
        assert!(registry.redeem(&ticket(1).reveal(), Now::from_millis(29_999)).is_ok());
        assert_eq!(code(registry.redeem(&ticket(1).reveal(), Now::from_millis(29_999))), Code::BadTicket);
        registry.issue(ID, ticket(2), Now::from_millis(0)).expect("issued");
        assert_eq!(code(registry.redeem(&ticket(2).reveal(), Now::from_millis(30_000))), Code::BadTicket);
        for n in 0..limits::TICKETS_PER_SESSION as u8 {
            registry.issue(ID, ticket(10 + n), Now::from_millis(30_000)).expect("issued");
        }
        assert!(registry.issue(ID, ticket(99), Now::from_millis(30_000)).is_err(), "bounded");
        registry.issue(ID, ticket(99), Now::from_millis(60_000)).expect("the old ones expired");
    }

    #[test]
    fn tickets_end_with_their_session() {
        let (mut registry, secret) = resumable();
        let (ticket, later) = (Ticket::from_entropy([1; 16]), Ticket::from_entropy([2; 16]));
        registry.issue(ID, ticket, Now::from_millis(25_000)).expect("room");
        assert_eq!(registry.reap(Now::from_millis(30_000)), ["it"]);
        registry.resume(&secret, |_| "again").expect("made again");
        let problem =
            registry.redeem(&ticket.reveal(), Now::from_millis(30_000)).expect_err("of another life");
        assert_eq!(problem.code, Code::BadTicket);
        registry.reap(Now::from_millis(60_000));
        registry.issue(ID, later, Now::from_millis(60_000)).expect("room");
    }

    #[test]
    fn where_the_node_is_full_those_without_a_connection_give_way() {
        let mut registry = Registry::new(3, GRACE, digest);
        let id = |n| SessionId::from_entropy([n; 16]);
        let secrets = [1, 2].map(|n| Secret::from_entropy([n; 24]).reveal(id(n)));
        let attach = |registry: &mut Registry<_>, n: usize, handle| {
            let resumed = registry.resume(&secrets[n], |_| handle).expect("room");
            assert_eq!(resumed.ended, None, "there is room");
            (id(n as u8 + 1), resumed.attachment)
        };
        let (first, second) = (attach(&mut registry, 0, "first"), attach(&mut registry, 1, "second"));
        let (_, ended) = registry.insert_bare(id(9), "bare").expect("room");
        assert_eq!(ended, None, "there is room");
        assert!(registry.insert_bare(id(8), "late").is_err(), "all have connections");
        registry.detach(second.0, second.1, Now::from_millis(1));
        registry.detach(first.0, first.1, Now::from_millis(2));
        let (_, again) = attach(&mut registry, 1, "unused");
        registry.detach(second.0, again, Now::from_millis(3));
        let (late, ended) = registry.insert_bare(id(8), "late").expect("room is made");
        assert_eq!(ended, Some("first"), "the other was attached meanwhile");
        registry.detach(id(8), late, Now::from_millis(4));
        assert_eq!(registry.reap(Now::from_millis(30_002)), [""; 0]);
        assert_eq!(registry.reap(Now::from_millis(30_003)), ["second"]);
    }

    #[test]
    fn a_session_that_is_refused_ends_no_other() {
        let mut registry = Registry::new(20, GRACE, digest);
        let id = |n| SessionId::from_entropy([n; 16]);
        let first = Secret::from_entropy([1; 24]).reveal(id(1));
        let attachment = registry.resume(&first, |_| "first").expect("room").attachment;
        registry.detach(id(1), attachment, Now::from_millis(0));
        for n in 2..=3 {
            registry.insert_resumable(id(n), "waits", Now::from_millis(1)).expect("room");
        }
        for n in 4..=20 {
            registry.insert_bare(id(n), "bare").expect("room");
        }
        let refused = registry.insert_resumable(id(21), "third", Now::from_millis(2));
        assert_eq!(refused.expect_err("two wait").code, Code::TooManySessions);
        let wrong = Secret::from_entropy([21; 24]).reveal(id(22));
        assert_eq!(registry.resume(&wrong, |_| "wrong").expect_err("no secret").code, Code::UnknownSession);
        assert_eq!(registry.authenticate(&first).expect("known").1, "first");
        assert_eq!(registry.len(), 20);

        let (_, ended) = registry.insert_bare(id(21), "bare").expect("room is made");
        assert_eq!(ended, Some("first"));
    }
}
