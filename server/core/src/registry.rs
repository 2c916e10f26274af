//! Who is connected: sessions, what attaches to them, and when they end.
//!
//! Pure rules over ids and time. The server keeps a handle (its own session) in each entry and acts on what the
//! methods return. Every connection is a session: *bare* ones end with their connection; *resumable* ones, made by
//! `POST /session`, stay for a grace period without one.

mod detached;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq as _;

use self::detached::{Detached, Stay};
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

    /// The secret, and the session that it says it is of: whoever makes up a secret need not know how to find the id.
    fn parse(text: &str) -> Option<(Option<SessionId>, Self)> {
        let (id, secret) = match text.split_once('.') {
            Some((id, secret)) => (Some(SessionId::parse(id)?), secret),
            None => (None, text),
        };
        let secret = URL_SAFE_NO_PAD.decode(secret).ok()?.try_into().ok()?;
        Some((id, Self(secret)))
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
    /// Its stay without a connection.
    detached: Option<Stay>,
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

/// A session that is there, with or without a connection.
#[derive(Debug)]
pub struct Ensured<T> {
    /// The session's.
    pub id: SessionId,
    /// It was there; else it was made again.
    pub known: bool,
    /// The handle of the session that gave way to it, if one had to.
    pub ended: Option<T>,
}

/// What a registry holds at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Sessions.
    pub sessions: usize,
    /// Subscriptions of all sessions together that are without a connection.
    pub detached_subscriptions: usize,
}

/// All sessions of a node.
#[derive(Debug)]
pub struct Registry<T> {
    sessions: HashMap<SessionId, Entry<T>>,
    tickets: HashMap<Ticket, (SessionId, Duration)>,
    capacity: Capacity,
    /// How long a session without a connection is kept.
    grace: Duration,
    digest: Digest,
    detached: Detached,
    /// How many attachments there were.
    attachments: u64,
    /// Sessions that were made and never attached: at most a tenth, since making one costs its maker nothing.
    unattached: usize,
}

impl<T: Clone> Registry<T> {
    /// An empty registry, in which each session is kept for `grace` without a connection.
    pub fn new(capacity: Capacity, grace: Duration, digest: Digest) -> Self {
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

    /// The subscriptions of all sessions together that are without a connection.
    pub fn detached_subscriptions(&self) -> usize {
        self.detached.subscriptions()
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
        if self.unattached >= self.capacity.sessions.div_ceil(10) {
            return Err(Problem::new(
                Code::TooManySessions,
                "too many sessions wait to be attached; try again in half a minute or elsewhere",
            ));
        }
        let stay = Stay { since: now.monotonic, subscriptions: 0 };
        let entry = Entry { handle, resumable: true, attachment: None, detached: Some(stay), tickets: 0 };
        let ended = self.insert(id, entry)?;
        self.detached.insert(id, stay);
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
        if self.sessions.len() >= self.capacity.sessions {
            let full =
                || Problem::new(Code::TooManySessions, "this node is full; try again later or elsewhere");
            let oldest = self.detached.oldest();
            ended = Some(oldest.and_then(|(_, id)| self.end(id)).ok_or_else(full)?);
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

    /// As [`Self::authenticate`], which is a sign of life: a session without a connection is kept for another grace period.
    ///
    /// # Errors
    /// As [`Self::authenticate`].
    pub fn touch(&mut self, secret: &str, now: Now) -> Result<(SessionId, T), Problem> {
        let (id, handle) = self.authenticate(secret)?;
        if let Some(stay) = self.sessions.get_mut(&id).and_then(|entry| entry.detached.as_mut()) {
            self.detached.remove(id, *stay);
            stay.since = now.monotonic;
            self.detached.insert(id, *stay);
        }
        Ok((id, handle))
    }

    /// Sees to it that there is the session of a secret: one that is known is kept for another grace period without a
    /// connection, another is made again, as by [`Self::insert_resumable`], with the handle that `make` gives.
    ///
    /// # Errors
    /// `unknown_session` for what is no secret; else as [`Self::insert_resumable`].
    pub fn ensure(
        &mut self,
        secret: &str,
        make: impl FnOnce(SessionId) -> T,
        now: Now,
    ) -> Result<Ensured<T>, Problem> {
        let id = self.identify(secret)?;
        let known = self.sessions.contains_key(&id);
        let ended = if known {
            self.touch(secret, now)?;
            None
        } else {
            self.insert_resumable(id, make(id), now)?
        };
        Ok(Ensured { id, known, ended })
    }

    /// The id of the session that a secret proves, known or not.
    ///
    /// # Errors
    /// `unknown_session` when it is no secret, or names another session than its own.
    pub fn identify(&self, secret: &str) -> Result<SessionId, Problem> {
        let (id, secret) = Secret::parse(secret).ok_or_else(unknown)?;
        let proven = secret.session(self.digest);
        let is_its = id.is_none_or(|id| proven.0.ct_eq(&id.0).into());
        if is_its { Ok(proven) } else { Err(unknown()) }
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

    /// Whether this is the session of a connection alone, which nobody can resume.
    pub fn is_bare(&self, id: SessionId) -> bool {
        self.sessions.get(&id).is_some_and(|entry| !entry.resumable)
    }

    /// Makes a bare session, with its connection, the one of `id`, which a secret proves and which is no bare one. Gives back the
    /// handle of what had that id before, which ends; its tickets go on. There are never more sessions because of it.
    pub fn assume(&mut self, bare: SessionId, id: SessionId) -> Option<T> {
        let entry = self.sessions.remove(&bare)?;
        let before = self.sessions.remove(&id);
        if let Some(before) = &before {
            if let Some(stay) = before.detached {
                self.detached.remove(id, stay);
            }
            self.unattached -= usize::from(before.attachment.is_none());
        }
        let tickets = before.as_ref().map_or(0, |before| before.tickets);
        self.sessions.insert(id, Entry { resumable: true, tickets, ..entry });
        before.map(|before| before.handle)
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
        if let Some(stay) = entry.detached.take() {
            self.detached.remove(id, stay);
        }
        Ok((id, entry.handle.clone(), attachment))
    }

    /// A connection ended, and its session has so many subscriptions. Gives back the handle of the session that ends because of
    /// it: a bare one with its connection; else, where those without a connection have more subscriptions together than they
    /// may, that which has most.
    pub fn detach(
        &mut self,
        id: SessionId,
        attachment: Attachment,
        subscriptions: usize,
        now: Now,
    ) -> Option<T> {
        let entry = self.sessions.get_mut(&id)?;
        if entry.attachment != Some(attachment) {
            return None;
        }
        if !entry.resumable {
            return self.sessions.remove(&id).map(|entry| entry.handle);
        }
        self.stay(id, Stay { since: now.monotonic, subscriptions })
    }

    /// A session has another number of subscriptions by now, which counts while it is without a connection: `subscriptions` tells
    /// it of the handle that the session has now. Gives back the handle of the session that ends because of it, as
    /// [`Self::detach`] does.
    pub fn hold(&mut self, id: SessionId, subscriptions: impl FnOnce(&T) -> usize) -> Option<T> {
        let Entry { handle, detached, .. } = self.sessions.get(&id)?;
        let stay = Stay { subscriptions: subscriptions(handle), ..(*detached)? };
        self.stay(id, stay)
    }

    fn stay(&mut self, id: SessionId, stay: Stay) -> Option<T> {
        if let Some(before) = self.sessions.get_mut(&id)?.detached.replace(stay) {
            self.detached.remove(id, before);
        }
        self.detached.insert(id, stay);
        if self.detached.subscriptions() <= self.capacity.detached_subscriptions {
            return None;
        }
        // One is enough: it has no fewer than the one that came on top of what there was room for.
        self.detached.largest().and_then(|id| self.end(id))
    }

    /// Ends sessions that have been without a connection for the grace period, and gives back their handles.
    pub fn reap(&mut self, now: Now) -> Vec<T> {
        self.expire_tickets(now);
        let mut ended = Vec::new();
        while let Some((since, id)) = self.detached.oldest()
            && now.since(since) >= self.grace
        {
            ended.extend(self.end(id));
        }
        ended
    }

    /// Ends a session that is without a connection.
    fn end(&mut self, id: SessionId) -> Option<T> {
        let entry = self.sessions.remove(&id)?;
        if let Some(stay) = entry.detached {
            self.detached.remove(id, stay);
        }
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
