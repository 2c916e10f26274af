"""A client, a router and a server in network namespaces of their own.

    client  CLIENT_NET.x -- lan -- CLIENT_NET.1  router  SERVER_NET.1 -- wan -- SERVER_NET.2  server

The router passes everything on. It can stop doing so (`cut`), or put an address of its own before the client's (`translate`).
The server's namespace counts QUIC packets by the address and port of the other side: those are the paths as the server sees them.
"""

import json
import os
import shutil
import subprocess

CLIENT_NET, SERVER_NET = "10.77.1", "10.77.2"
SERVER, ROUTER, ROUTER_TOO = f"{SERVER_NET}.2", f"{SERVER_NET}.1", f"{SERVER_NET}.9"
QUIC_PORT = 8444
COMMAND_DEADLINE = 20

ROUTER_RULES = """
table ip path {
    chain cut { type filter hook forward priority filter; }
    chain outside { type filter hook input priority filter; iifname "wan" meta l4proto udp drop; }
    chain translation { type nat hook postrouting priority srcnat; }
}
"""
# Of a UDP datagram, bit 64 is the first of the payload: set in QUIC's long headers, with which connections begin.
SERVER_RULES = """
table ip paths {
    set arrived { type ipv4_addr . inet_service; flags dynamic; size 1024; counter; }
    set begun { type ipv4_addr . inet_service; flags dynamic; size 1024; counter; }
    set left { type ipv4_addr . inet_service; flags dynamic; size 1024; counter; }
    chain arriving {
        type filter hook input priority filter;
        udp dport QUIC update @arrived { ip saddr . udp sport }
        udp dport QUIC @th,64,1 1 update @begun { ip saddr . udp sport }
    }
    chain leaving {
        type filter hook output priority filter;
        udp sport QUIC update @left { ip daddr . udp dport }
    }
}
""".replace("QUIC", str(QUIC_PORT))


def run(*command, given=None):
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=COMMAND_DEADLINE, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: status {done.returncode}: {done.stderr.strip()}"
    return done.stdout


def lacking():
    """What stands against namespaces here; None if nothing does."""
    for tool, package in (("ip", "iproute2"), ("ss", "iproute2"), ("nft", "nftables"), ("conntrack", "conntrack")):
        if not shutil.which(tool):
            return f"there is no `{tool}` (Debian package {package})"
    if os.geteuid() != 0:
        return "network namespaces are made by root, and this is another user"
    probe = f"fulmar-{os.getpid()}-probe"
    try:
        run("ip", "netns", "add", probe)
    except AssertionError as error:
        return f"no network namespace can be made: {error}"
    try:
        run("ip", "netns", "exec", probe, "nft", "-f", "-", given=ROUTER_RULES + SERVER_RULES)
    except AssertionError as error:
        return f"nftables cannot do here what is needed: {error}"
    finally:
        run("ip", "netns", "del", probe)
    return None


class Network:
    def __init__(self):
        self.client, self.router, self.server = (f"fulmar-{os.getpid()}-{name}" for name in ("client", "router", "server"))
        self.host = 2

    def __enter__(self):
        try:
            self._build()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_):
        self.remove()

    def _build(self):
        for name in (self.client, self.router, self.server):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "link", "add", "lan", "netns", self.client, "type", "veth", "peer", "name", "lan", "netns", self.router)
        run("ip", "link", "add", "wan", "netns", self.server, "type", "veth", "peer", "name", "wan", "netns", self.router)
        run("ip", "-n", self.router, "-batch", "-", given=f"""
            address add {CLIENT_NET}.1/24 dev lan
            address add {ROUTER}/24 dev wan
            address add {ROUTER_TOO}/24 dev wan
            link set lan up
            link set wan up
        """)
        run("ip", "-n", self.server, "-batch", "-", given=f"""
            address add {SERVER}/24 dev wan
            link set wan up
            route add default via {ROUTER}
        """)
        run("ip", "-n", self.client, "-batch", "-", given=f"link set lan up\n{self._arrive()}")
        run(*self.inside(self.router), "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        self.nft(self.router, ROUTER_RULES)
        self.nft(self.server, SERVER_RULES)

    def remove(self):
        there = {line.split()[0] for line in run("ip", "netns", "list").splitlines()}
        for name in (self.client, self.router, self.server):
            if name in there:
                run("ip", "netns", "del", name)

    @staticmethod
    def inside(name):
        """What to put before a command that is to run in a namespace; it becomes that command, with the same process id."""
        return ["ip", "netns", "exec", name]

    def nft(self, name, rules):
        return run(*self.inside(name), "nft", "-f", "-", given=rules)

    @property
    def address(self):
        return f"{CLIENT_NET}.{self.host}"

    def _arrive(self):
        return f"address add {self.address}/24 dev lan\nroute add default via {CLIENT_NET}.1\n"

    def leave(self):
        """The client loses its address, and with it its routes."""
        run("ip", "-n", self.client, "address", "del", f"{self.address}/24", "dev", "lan")

    def move(self):
        """The client has another address from now on; gives it."""
        old, self.host = self.address, self.host + 1
        run("ip", "-n", self.client, "-batch", "-", given=f"address del {old}/24 dev lan\n{self._arrive()}")
        return self.address

    def translate(self, address, ports):
        """The router translates to this address and these ports from now on, and has forgotten how it did before.

        Nothing passes meanwhile: forgetting takes a while, and would take a mapping along that a packet made by the new rule just before.
        A packet that is dropped on its way leaves no mapping, so the first that passes makes the one that stays.
        """
        self.cut()
        self.nft(self.router, f"""
            flush chain ip path translation
            add rule ip path translation oifname "wan" meta l4proto {{ tcp, udp }} snat to {address}:{ports}
        """)
        run(*self.inside(self.router), "conntrack", "-F")
        self.mend()

    def cut(self):
        """The router passes nothing on."""
        self.nft(self.router, "add rule ip path cut drop")

    def mend(self):
        self.nft(self.router, "flush chain ip path cut")

    def _counted(self, name):
        listed = json.loads(run(*self.inside(self.server), "nft", "-j", "list", "set", "ip", "paths", name))
        elements = next(item["set"] for item in listed["nftables"] if "set" in item).get("elem", [])
        return {tuple(item["elem"]["val"]["concat"]): item["elem"]["counter"]["packets"] for item in elements}

    def paths(self):
        """By (address, port) of the client as the server sees it: packets (arrived, that begin a connection, left)."""
        counted = [self._counted(name) for name in ("arrived", "begun", "left")]
        return {path: tuple(one.get(path, 0) for one in counted) for path in set().union(*counted)}

    def sockets(self, pid):
        """Where the UDP sockets of a process in the client's namespace are bound."""
        lines = run(*self.inside(self.client), "ss", "-H", "-u", "-a", "-n", "-p").splitlines()
        return [line.split()[3] for line in lines if f"pid={pid}," in line]
