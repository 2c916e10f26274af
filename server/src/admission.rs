//! Who may still connect: caps on connections, on handshakes in progress, and on connections from one address.
//!
//! Each listener has its own. The caps protect those who are in from those who come; what one connection can cost is
//! bounded in [`crate::limits`].

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{limits, telemetry::Counters};

/// The caps of one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Connections at once, handshakes included.
    pub connections: usize,
    /// Handshakes in progress: connections that have not made a first request.
    pub handshakes: usize,
    /// Connections at once from one IPv4 address or one IPv6 network of 64 bits. `None`: as many as there may be.
    pub connections_per_address: Option<usize>,
}

impl Caps {
    /// The defaults of a listener. One that is bound to loopback serves this machine only, often through a proxy, so all
    /// of its clients share an address.
    pub fn of_listener(bound: IpAddr) -> Self {
        Self {
            connections: limits::CONNECTIONS,
            handshakes: limits::HANDSHAKES,
            connections_per_address: (!bound.is_loopback()).then_some(limits::CONNECTIONS_PER_ADDRESS),
        }
    }
}

/// What enforces the caps of one listener.
#[derive(Debug)]
pub struct Admission {
    caps: Caps,
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    /// How many connections each address has. Bounded by the connections that there may be.
    addresses: Mutex<HashMap<Source, usize>>,
    counters: Arc<Counters>,
}

/// A connection that was let in, until it is dropped.
#[derive(Debug)]
pub struct Admitted {
    _connection: OwnedSemaphorePermit,
    handshake: Mutex<Option<OwnedSemaphorePermit>>,
    address: Option<(Arc<Admission>, Source)>,
}

/// What counts as one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    V4([u8; 4]),
    /// A network of 64 bits, which is what one subscriber gets.
    V6([u8; 8]),
}

impl Admission {
    /// Enforces `caps`; who is turned away is counted in `counters`.
    pub fn new(mut caps: Caps, counters: Arc<Counters>) -> Arc<Self> {
        // More than a semaphore can hold is more than will ever come.
        caps.connections = caps.connections.min(Semaphore::MAX_PERMITS);
        caps.handshakes = caps.handshakes.min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            caps,
            connections: Arc::new(Semaphore::new(caps.connections)),
            handshakes: Arc::new(Semaphore::new(caps.handshakes)),
            addresses: Mutex::default(),
            counters,
        })
    }

    /// Lets a connection in, in its handshake, or says `None`: there are too many.
    pub fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Admitted> {
        let admitted = self.try_admit(peer);
        if admitted.is_none() {
            self.counters.turned_away.increment();
        }
        admitted
    }

    fn try_admit(self: &Arc<Self>, peer: IpAddr) -> Option<Admitted> {
        let connection = self.connections.clone().try_acquire_owned().ok()?;
        let handshake = self.handshakes.clone().try_acquire_owned().ok()?;
        let mut address = None;
        if let Some(most) = self.caps.connections_per_address {
            let source = Source::of(peer);
            let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            let count = addresses.entry(source).or_default();
            if *count >= most {
                return None;
            }
            *count += 1;
            address = Some((self.clone(), source));
        }
        Some(Admitted { _connection: connection, handshake: Mutex::new(Some(handshake)), address })
    }

    /// Whether a connection from here should prove its address first: more than half of what there is has gone.
    pub fn is_pressed(&self, peer: IpAddr) -> bool {
        let half_gone = |left: &Semaphore, of: usize| left.available_permits() < of.div_ceil(2);
        half_gone(&self.connections, self.caps.connections)
            || half_gone(&self.handshakes, self.caps.handshakes)
            || self.caps.connections_per_address.is_some_and(|most| self.connections_of(peer) > most / 2)
    }

    fn connections_of(&self, peer: IpAddr) -> usize {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        addresses.get(&Source::of(peer)).copied().unwrap_or(0)
    }

    fn leave(&self, source: Source) {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = addresses.entry(source) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

impl Admitted {
    /// The handshake is over, and makes room for another.
    pub fn complete(&self) {
        *self.handshake.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether the handshake is over.
    pub fn is_complete(&self) -> bool {
        self.handshake.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some((admission, source)) = self.address.take() {
            admission.leave(source);
        }
    }
}

impl Source {
    fn of(peer: IpAddr) -> Self {
        match peer.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(connections: usize, handshakes: usize, per_address: Option<usize>) -> Arc<Admission> {
        let caps = Caps { connections, handshakes, connections_per_address: per_address };
        Admission::new(caps, Arc::default())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn connections_are_capped_until_one_leaves() {
        let admission = admission(2, 2, None);
        let first = admission.admit(ip("192.0.2.1")).expect("room");
        let _second = admission.admit(ip("192.0.2.1")).expect("room");
        assert!(admission.admit(ip("192.0.2.2")).is_none());
        assert_eq!(admission.counters.turned_away.get(), 1);
        drop(first);
        assert!(admission.admit(ip("192.0.2.2")).is_some());
    }

    #[test]
    fn no_cap_is_too_large() {
        let admission = admission(usize::MAX, usize::MAX, None);
        let _first = admission.admit(ip("192.0.2.1")).expect("room");
        assert!(!admission.is_pressed(ip("192.0.2.1")));
    }

    #[test]
    fn a_complete_handshake_makes_room_for_another() {
        let admission = admission(9, 1, None);
        let first = admission.admit(ip("192.0.2.1")).expect("room");
        assert!(admission.admit(ip("192.0.2.2")).is_none());
        first.complete();
        assert!(admission.admit(ip("192.0.2.2")).is_some());
    }

    #[test]
    fn one_address_cannot_take_all() {
        let admission = admission(9, 9, Some(1));
        let first = admission.admit(ip("192.0.2.1")).expect("room");
        for same in ["192.0.2.1", "::ffff:192.0.2.1"] {
            assert!(admission.admit(ip(same)).is_none(), "{same}");
        }
        let _other = admission.admit(ip("2001:db8:0:1::1")).expect("room");
        assert!(admission.admit(ip("2001:db8:0:1:ffff::2")).is_none(), "the same network");
        let _third = admission.admit(ip("2001:db8:0:2::1")).expect("another network");
        drop(first);
        assert!(admission.admit(ip("192.0.2.1")).is_some());
        assert_eq!(admission.addresses.lock().expect("no panic").len(), 2, "who has left is forgotten");
    }

    #[test]
    fn who_turns_up_under_pressure_has_to_prove_its_address() {
        let admission = admission(4, 9, Some(2));
        let here = ip("192.0.2.1");
        assert!(!admission.is_pressed(here));
        let _first = admission.admit(here).expect("room");
        assert!(!admission.is_pressed(here));
        let _second = admission.admit(here).expect("room");
        assert!(admission.is_pressed(here), "this address has many");
        assert!(!admission.is_pressed(ip("192.0.2.2")));
        let _third = admission.admit(ip("192.0.2.2")).expect("room");
        assert!(admission.is_pressed(ip("192.0.2.3")), "there are many");
    }
}
