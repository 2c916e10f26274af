//! A wire between two network links: every frame comes out of the other end after a delay, or is lost.

use std::{
    collections::VecDeque,
    error::Error,
    io::{IoSlice, IoSliceMut},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    poll::{PollFd, PollFlags, ppoll},
    sys::{
        prctl,
        socket::{
            AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind,
            recvmsg, sendmsg, setsockopt, socket, sockopt,
        },
        time::TimeSpec,
    },
};

use super::{
    figures::{Histogram, Summary},
    flows::{Flows, Way},
};
use crate::{
    bench::{Outcome, random::Random},
    clock::Clock,
};

/// Longer than any frame of a link whose offloads are off.
const FRAME: usize = 2048;
/// Frames that are under way in one direction. Beyond that they are dropped, and counted apart from those that are lost.
const UNDER_WAY: usize = 16 * 1024;
/// The kernel's buffer of frames that are not yet read, in bytes.
const UNREAD: usize = 8 * 1024 * 1024;
/// Frames that are read in a row before those that are due are sent.
const BATCH: usize = 64;

/// Joins two links of its namespace. Reads `loss PERCENT`, `reset` and `counts`, a line each, and answers with one.
#[derive(Debug, clap::Args)]
pub(in crate::bench) struct Wire {
    /// The link behind which the server is
    server: String,
    /// The link behind which the clients are
    client: String,
    /// What a frame takes in either direction, in microseconds
    delay: u64,
    /// What decides which frames are lost
    seed: u64,
}

/// Frames on their way in one direction.
struct Direction {
    way: Way,
    from: OwnedFd,
    random: Random,
    under_way: VecDeque<(Duration, Box<[u8]>)>,
}

/// What was noted since the last reset.
#[derive(Default)]
struct Notes {
    flows: Flows,
    lateness: Histogram,
    overflowed: u64,
}

impl Wire {
    pub(in crate::bench) fn run(&self) -> Outcome {
        // A timer may come no later than it must.
        prctl::set_timerslack(1)?;
        let delay = Duration::from_micros(self.delay);
        let mut directions = [
            Direction::new(Way::Down, &self.server, self.seed)?,
            Direction::new(Way::Up, &self.client, self.seed + 1)?,
        ];
        let (mut loss, mut notes) = (0.0, Notes::default());
        let stdin = std::io::stdin();
        println!("ready");
        loop {
            let [down, up] = &mut directions;
            down.deliver(&up.from, delay, &mut notes)?;
            up.deliver(&down.from, delay, &mut notes)?;
            let due =
                [&*down, &*up].into_iter().filter_map(|it| it.under_way.front()).map(|(at, _)| *at + delay);
            let wait = due.min().map(|at| TimeSpec::from(at.saturating_sub(Clock::unix())));
            let mut readable = [down.from.as_fd(), up.from.as_fd(), stdin.as_fd()]
                .map(|it| PollFd::new(it, PollFlags::POLLIN));
            match ppoll(&mut readable, wait, None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(why) => return Err(why.into()),
            }
            let readable = readable.map(|it| it.any().unwrap_or(false));
            for (direction, _) in directions.iter_mut().zip(readable).filter(|(_, readable)| *readable) {
                direction.take(loss, &mut notes)?;
            }
            if readable[2] {
                let mut line = String::new();
                if stdin.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                match line.trim().split_once(' ').unwrap_or((line.trim(), "")) {
                    ("loss", percent) => loss = percent.parse::<f64>()? / 100.0,
                    ("reset", _) => notes = Notes::default(),
                    ("counts", _) => {}
                    _ => return Err(format!("the wire does not understand {line:?}").into()),
                }
                println!("{}", serde_json::to_string(&notes.counts())?);
            }
        }
    }
}

impl Notes {
    fn counts(&self) -> Counts {
        Counts { flows: self.flows.clone(), lateness: self.lateness.summary(), overflowed: self.overflowed }
    }
}

/// What a wire has seen.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub(super) struct Counts {
    pub(super) flows: Flows,
    /// By how much frames came out later than they should have.
    pub(super) lateness: Summary,
    /// Frames for which there was no room: they should be none.
    pub(super) overflowed: u64,
}

impl Direction {
    fn new(way: Way, link: &str, seed: u64) -> Result<Self, Box<dyn Error>> {
        let from =
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
        setsockopt(&from, sockopt::RcvBufForce, &UNREAD)?;
        setsockopt(&from, sockopt::ReceiveTimestampns, &true)?;
        let address = getifaddrs()?
            .filter(|it| it.interface_name == link)
            .find_map(|it| it.address?.as_link_addr().copied())
            .ok_or_else(|| format!("there is no link {link}"))?;
        bind(from.as_raw_fd(), &address)?;
        Ok(Self { way, from, random: Random(seed), under_way: VecDeque::new() })
    }

    /// Takes frames in. The kernel says when they came, so that a wire which was slow to look makes up for it.
    fn take(&mut self, loss: f64, notes: &mut Notes) -> Outcome {
        let mut frame = [0; FRAME];
        for _ in 0..BATCH {
            let mut parts = [IoSliceMut::new(&mut frame)];
            let mut control = nix::cmsg_space!(TimeSpec);
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
            let (length, at) =
                match recvmsg::<LinkAddr>(self.from.as_raw_fd(), &mut parts, Some(&mut control), flags) {
                    Ok(message) => {
                        let at = message.cmsgs()?.find_map(|it| match it {
                            ControlMessageOwned::ScmTimestampns(at) => Some(Duration::from(at)),
                            _ => None,
                        });
                        (message.bytes, at.unwrap_or_else(Clock::unix))
                    }
                    Err(Errno::EAGAIN) => return Ok(()),
                    Err(Errno::EINTR) => continue,
                    Err(why) => return Err(why.into()),
                };
            let frame = frame.get(..length).ok_or("a frame is too long: are the link's offloads off?")?;
            let lost = self.random.chance() < loss;
            notes.flows.note(self.way, frame, lost);
            if lost {
                continue;
            }
            if self.under_way.len() == UNDER_WAY {
                notes.overflowed += 1;
                continue;
            }
            self.under_way.push_back((at, frame.into()));
        }
        Ok(())
    }

    /// Puts out the frames that are due.
    fn deliver(&mut self, to: &OwnedFd, delay: Duration, notes: &mut Notes) -> Outcome {
        while let Some((at, frame)) = self.under_way.front() {
            let late = match Clock::unix().checked_sub(*at + delay) {
                Some(late) => late,
                None => return Ok(()),
            };
            match sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(frame)], &[], MsgFlags::MSG_DONTWAIT, None) {
                Ok(_) => notes.lateness.add(late.as_secs_f64() * 1e3),
                Err(Errno::EAGAIN | Errno::ENOBUFS) => notes.overflowed += 1,
                Err(why) => return Err(why.into()),
            }
            self.under_way.pop_front();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_frames_is_lost() {
        let (mut random, mut other) = (Random(7), Random(8));
        let draws: Vec<f64> = (0..100_000).map(|_| random.chance()).collect();
        let share = draws.iter().filter(|it| **it < 0.05).count() as f64 / draws.len() as f64;
        assert!((0.048..0.052).contains(&share), "{share}");
        // Losses come as they may: two in a row as often as chance has it.
        let pairs = draws.windows(2).filter(|pair| pair[0] < 0.05 && pair[1] < 0.05).count();
        assert!((200..300).contains(&pairs), "{pairs}");
        let same = draws.iter().filter(|it| (**it < 0.05) == (other.chance() < 0.05)).count();
        assert!(same < 92_000, "another seed loses others: {same}");
    }
}
