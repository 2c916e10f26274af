//! A server, clients and the wire between them in network namespaces of their own.
//!
//! ```text
//! server  10.78.0.1 -- wire -- server  wire  client -- wire -- 10.78.0.2  client
//! ```
//!
//! The middle one has no address: `fulmar bench wire` joins its links.

use std::{
    env,
    error::Error,
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::MetadataExt as _,
    process::{Command, Output, Stdio},
};

use crate::bench::Outcome;

/// Where the server is.
pub(super) const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 78, 0, 1));
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 78, 0, 2));
const SERVER_LINK: &str = "02:00:00:00:00:01";
const CLIENT_LINK: &str = "02:00:00:00:00:02";

/// Who lives in a namespace.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Server,
    Wire,
    Client,
}

impl Place {
    const ALL: [Self; 3] = [Self::Server, Self::Wire, Self::Client];

    /// The name of the namespace, which nothing but this process has.
    fn name(self) -> String {
        format!("fulmar-{}-{}", std::process::id(), format!("{self:?}").to_lowercase())
    }

    /// A program of this namespace. Where that can be had, it goes before all else on the machine, whose other load would
    /// be measured too; the wire goes first.
    pub(super) fn command(self, program: &str) -> tokio::process::Command {
        let mut words = vec!["ip".to_owned(), "netns".to_owned(), "exec".to_owned(), self.name()];
        if find("chrt") {
            let first = matches!(self, Self::Wire);
            let order = if first { ["chrt", "--fifo", "10"] } else { ["chrt", "--rr", "5"] };
            words.extend(order.map(str::to_owned));
        }
        words.push(program.to_owned());
        let mut command = tokio::process::Command::new(&words[0]);
        command.args(&words[1..]).kill_on_drop(true);
        command
    }
}

/// The namespaces. Dropping it removes them.
#[derive(Debug)]
pub(super) struct Network;

impl Network {
    /// Makes them; `tcp` is TCP's congestion control.
    pub(super) fn build(tcp: &str) -> Result<Self, Box<dyn Error>> {
        for (tool, package) in [("ip", "iproute2"), ("ethtool", "ethtool")] {
            if !find(tool) {
                return Err(format!("there is no `{tool}`: install {package}").into());
            }
        }
        if fs::metadata("/proc/self")?.uid() != 0 {
            return Err("network namespaces are made by root: run this as root".into());
        }
        // Whatever is there already goes when the rest cannot be made.
        let it = Self;
        for place in Place::ALL {
            run(&format!("ip netns add {}", place.name()))?;
        }
        let [server, wire, client] = Place::ALL.map(Place::name);
        for (inner, outer) in [(&server, "server"), (&client, "client")] {
            run(&format!("ip link add wire netns {inner} type veth peer name {outer} netns {wire}"))?;
        }
        for place in Place::ALL {
            // What IPv6 says by itself is not to be measured, and nothing of one run may be remembered in the next.
            for (setting, value) in [
                ("ipv6/conf/all/disable_ipv6", "1"),
                ("ipv6/conf/default/disable_ipv6", "1"),
                ("ipv4/tcp_no_metrics_save", "1"),
            ] {
                inside(place, &["sh", "-c", &format!("echo {value} > /proc/sys/net/{setting}")])?;
            }
        }
        for link in ["server", "client"] {
            plain(Place::Wire, link)?;
        }
        for (place, ours, own, other, others) in [
            (Place::Server, SERVER, SERVER_LINK, CLIENT, CLIENT_LINK),
            (Place::Client, CLIENT, CLIENT_LINK, SERVER, SERVER_LINK),
        ] {
            let name = place.name();
            run(&format!("ip -n {name} link set lo up"))?;
            run(&format!("ip -n {name} link set wire address {own}"))?;
            run(&format!("ip -n {name} address add {ours}/32 dev wire"))?;
            plain(place, "wire")?;
            // By route: the setting of a namespace takes none but those that the machine lets everybody have.
            run(&format!("ip -n {name} route add {other}/32 dev wire src {ours} congctl {tcp}"))?;
            run(&format!("ip -n {name} neighbour replace {other} lladdr {others} dev wire nud permanent"))?;
        }
        Ok(it)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for place in Place::ALL {
            let _ = Command::new("ip")
                .args(["netns", "del", &place.name()])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// Brings a link up on which every packet is what would be on a cable: none is joined or split, and checksums are there.
fn plain(place: Place, link: &str) -> Outcome {
    const OFF: [&str; 5] = ["tx", "gso", "tso", "gro", "tx-udp-segmentation"];
    let mut words = vec!["ethtool", "-K", link];
    words.extend(OFF.iter().flat_map(|feature| [*feature, "off"]));
    inside(place, &words)?;
    run(&format!("ip -n {} link set {link} up", place.name()))
}

fn inside(place: Place, words: &[&str]) -> Outcome {
    let name = place.name();
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &name]).args(words);
    check(&words.join(" "), &command.output()?)
}

fn run(words: &str) -> Outcome {
    let mut split = words.split(' ');
    let output = Command::new(split.next().unwrap_or_default()).args(split).output()?;
    check(words, &output)
}

fn check(words: &str, output: &Output) -> Outcome {
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("`{words}` failed: {}", why.trim()).into())
}

/// Whether there is such a program.
fn find(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
