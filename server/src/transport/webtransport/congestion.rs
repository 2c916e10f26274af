//! Congestion control that loss alone does not starve.
//!
//! On a radio link a few packets in a hundred are lost whatever is sent. Cubic takes each of them for congestion, and ends at two
//! packets under way, where the state of a game needs ten. So here Cubic's window has a floor, which a path comes to as it
//! shows that packets arrive. The floor is low enough to do no harm: behind a bottleneck so few packets make a queue, and
//! with it the round trip that slows them down. It gives way to what can only be congestion, when nothing arrived for a
//! while or a router said so, and then comes back in the same way.

use std::{any::Any, sync::Arc, time::Instant};

use quinn::congestion::{Controller, ControllerFactory, Cubic, CubicConfig};
use quinn_proto::RttEstimator;

/// Packets that may be under way whatever was lost. `fulmar bench age`: with 10, 3 of 10 lost packets still make 200 a second wait.
const FLOOR: u64 = 16;

/// Makes a [`Floored`] for each path.
#[derive(Debug, Default)]
pub(super) struct FlooredConfig {
    cubic: Arc<CubicConfig>,
}

/// Cubic above a floor.
#[derive(Clone, Debug)]
struct Floored {
    cubic: Cubic,
    mtu: u64,
    /// While the path comes to its floor: since when, and what the floor is by now, in bytes.
    rising: Option<(Instant, u64)>,
}

impl ControllerFactory for FlooredConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let cubic = Cubic::new(self.cubic.clone(), now, current_mtu);
        Box::new(Floored::new(cubic, now, current_mtu))
    }
}

impl Floored {
    fn new(cubic: Cubic, now: Instant, mtu: u16) -> Self {
        let rising = Some((now, cubic.window()));
        Self { cubic, mtu: mtu.into(), rising }
    }

    fn floor(&self) -> u64 {
        let whole = FLOOR * self.mtu;
        self.rising.map_or(whole, |(_, floor)| floor.min(whole))
    }

    /// Bytes that were sent at `sent` have arrived.
    fn arrived(&mut self, sent: Instant, bytes: u64) {
        let whole = FLOOR * self.mtu;
        if let Some((since, floor)) = &mut self.rising
            && sent >= *since
        {
            *floor += bytes;
            if *floor >= whole {
                self.rising = None;
            }
        }
    }
}

impl Controller for Floored {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.arrived(sent, bytes);
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.cubic.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        self.cubic.on_congestion_event(now, sent, persistent, lost_bytes);
        // Nothing lost: a router has marked packets.
        if persistent || lost_bytes == 0 {
            self.rising = Some((now, self.cubic.window()));
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu.into();
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.cubic.window().max(self.floor())
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MTU: u16 = 1_400;
    const WHOLE: u64 = FLOOR * MTU as u64;

    struct Path {
        controller: Floored,
        now: Instant,
    }

    impl Path {
        /// One that has come to its floor.
        fn new() -> Self {
            let now = tokio::time::Instant::now().into_std();
            let mut it =
                Self { controller: Floored::new(Cubic::new(Arc::default(), now, MTU), now, MTU), now };
            assert_eq!(it.controller.window(), it.controller.initial_window(), "it begins as any other");
            it.arrive(FLOOR);
            it
        }

        /// Packets arrive that were sent a moment ago.
        fn arrive(&mut self, packets: u64) {
            self.now += Duration::from_millis(50);
            for _ in 0..packets {
                self.controller.arrived(self.now - Duration::from_millis(1), MTU.into());
            }
        }

        /// What was sent a moment ago is lost.
        fn lose(&mut self, persistent: bool, bytes: u64) {
            self.now += Duration::from_millis(50);
            let sent = self.now - Duration::from_millis(1);
            self.controller.on_congestion_event(self.now, sent, persistent, bytes);
        }
    }

    #[test]
    fn loss_alone_does_not_take_the_window_below_the_floor() {
        let mut path = Path::new();
        for _ in 0..100 {
            path.lose(false, MTU.into());
        }
        assert_eq!(path.controller.cubic.window(), 2 * u64::from(MTU), "Cubic alone is starved");
        assert_eq!(path.controller.window(), WHOLE);
        // It is counted in packets of the path.
        path.controller.on_mtu_update(1_200);
        assert_eq!(path.controller.window(), FLOOR * 1_200);
    }

    #[test]
    fn above_the_floor_it_is_cubic() {
        let now = tokio::time::Instant::now().into_std();
        let mut config = CubicConfig::default();
        let config =
            Arc::new(FlooredConfig { cubic: Arc::new(config.initial_window(100 * u64::from(MTU)).clone()) });
        let mut ours = config.clone().build(now, MTU);
        let mut cubic = config.cubic.clone().build(now, MTU);
        for n in 1..=3 {
            let now = now + Duration::from_millis(50 * n);
            let sent = now - Duration::from_millis(1);
            ours.on_congestion_event(now, sent, false, 1);
            cubic.on_congestion_event(now, sent, false, 1);
            assert_eq!(ours.window(), cubic.window());
        }
        assert!(ours.window() > WHOLE);
        assert_eq!(ours.initial_window(), cubic.initial_window());
    }

    #[test]
    fn the_floor_gives_way_to_persistent_congestion_and_comes_back_with_what_arrives() {
        let mut path = Path::new();
        path.lose(true, 20 * u64::from(MTU));
        let low = 2 * u64::from(MTU);
        assert_eq!(path.controller.window(), low);
        // What was sent before says nothing of the path as it is now; nor does more loss.
        path.controller.arrived(path.now - Duration::from_millis(1), 5 * u64::from(MTU));
        path.lose(false, MTU.into());
        assert_eq!(path.controller.window(), low);
        path.arrive(1);
        assert_eq!(path.controller.window(), low + u64::from(MTU));
        path.arrive(FLOOR);
        assert_eq!(path.controller.window(), WHOLE);
        path.lose(false, MTU.into());
        assert_eq!(path.controller.window(), WHOLE);
    }

    #[test]
    fn the_floor_gives_way_to_a_routers_mark() {
        let mut path = Path::new();
        for _ in 0..10 {
            path.lose(false, 0);
        }
        assert_eq!(path.controller.window(), 2 * u64::from(MTU));
    }
}
