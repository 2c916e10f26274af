//! What went over the wire, by whose it was.

use std::collections::HashMap;

/// A direction of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To the clients.
    Down,
    /// To the server.
    Up,
}

/// What one side sent, whether it arrived or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub(super) struct Sent {
    pub(super) packets: u64,
    /// With the IP headers.
    pub(super) bytes: u64,
    pub(super) lost: u64,
}

/// A connection, or many together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub(super) struct Flow {
    pub(super) down: Sent,
    pub(super) up: Sent,
}

/// All connections, by protocol and the client's port.
#[derive(Clone, Debug, Default, serde::Deserialize, serde::Serialize)]
#[serde(transparent)]
pub(super) struct Flows(HashMap<String, Flow>);

impl Flows {
    /// Notes a frame.
    pub(super) fn note(&mut self, way: Way, frame: &[u8], lost: bool) {
        let Some((name, bytes)) = read(way, frame) else { return };
        let flow = self.0.entry(name).or_default();
        let sent = match way {
            Way::Down => &mut flow.down,
            Way::Up => &mut flow.up,
        };
        *sent += Sent { packets: 1, bytes, lost: u64::from(lost) };
    }

    /// What those flows had together.
    pub(super) fn sum<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> Flow {
        let mut sum = Flow::default();
        for flow in names.into_iter().filter_map(|name| self.0.get(name)) {
            sum.down += flow.down;
            sum.up += flow.up;
        }
        sum
    }
}

impl std::ops::AddAssign for Sent {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.lost += other.lost;
    }
}

/// The name of a flow of UDP.
pub(super) fn udp(port: u16) -> String {
    format!("udp {port}")
}

/// The name of a flow of TCP.
pub(super) fn tcp(port: u16) -> String {
    format!("tcp {port}")
}

/// To which flow an Ethernet frame belongs, and how long its IP packet is. `None` for what is neither TCP nor UDP.
fn read(way: Way, frame: &[u8]) -> Option<(String, u64)> {
    let packet = frame.get(14..)?;
    if frame[12..14] != [0x08, 0x00] || packet.first()? >> 4 != 4 {
        return None;
    }
    let header = usize::from(packet[0] & 0x0f) * 4;
    let bytes = u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?);
    let at = match way {
        Way::Down => header + 2,
        Way::Up => header,
    };
    let port = u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?);
    let name = match packet.get(9)? {
        6 => tcp(port),
        17 => udp(port),
        _ => return None,
    };
    Some((name, u64::from(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ethernet, IPv4 with a header of `words` words, and the ports.
    fn frame(protocol: u8, words: u8, length: u16, from: u16, to: u16) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([0x08, 0x00]);
        let mut packet = vec![0; usize::from(words) * 4];
        packet[0] = 0x40 | words;
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet[9] = protocol;
        packet.extend(from.to_be_bytes());
        packet.extend(to.to_be_bytes());
        frame.extend(packet);
        // Short frames are padded: what counts is what the packet says.
        frame.resize(60, 0);
        frame
    }

    #[test]
    fn a_flow_is_named_by_the_clients_port_in_both_directions() {
        let mut flows = Flows::default();
        flows.note(Way::Up, &frame(17, 5, 100, 50_000, 4433), false);
        flows.note(Way::Down, &frame(17, 6, 1300, 4433, 50_000), true);
        flows.note(Way::Down, &frame(17, 5, 40, 4433, 50_000), false);
        flows.note(Way::Down, &frame(6, 5, 52, 443, 50_000), false);
        let one = |bytes, lost| Sent { packets: 1, bytes, lost };
        let udp = flows.sum(&[udp(50_000)]);
        assert_eq!(udp, Flow { down: Sent { packets: 2, bytes: 1340, lost: 1 }, up: one(100, 0) });
        assert_eq!(flows.sum(&[tcp(50_000)]).down, one(52, 0));
        assert_eq!(flows.sum(&[tcp(4433)]), Flow::default());
    }

    #[test]
    fn other_frames_are_nobodys() {
        let mut flows = Flows::default();
        for frame in [&[0; 60][..], &[], &frame(17, 5, 28, 1, 2)[..33], &frame(1, 5, 28, 1, 2)] {
            flows.note(Way::Down, frame, false);
        }
        assert!(flows.0.is_empty());
    }
}
