"""Clients that are gone from one moment to the next, without a FIN, a reset or a CLOSE: their packets and the server's are dropped.

Run in a network namespace that has nothing but a loopback. Each way of being connected has a server of its own, so that what is left of
it can be told apart. Prints one line of JSON: for each, after how many seconds its session, its tasks and its descriptors were gone, and
what there was before and at the end.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from urllib.parse import urlencode

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "contract")]

import h2.config  # noqa: E402
import h2.connection  # noqa: E402
import h2.events  # noqa: E402
import wt  # noqa: E402
from raw import UPGRADE  # noqa: E402
from server import DEADLINE, Server, publish, within  # noqa: E402

CLIENT = "127.0.0.2"
CHANNEL = "event:vanish"
# Every client's packets, both ways; those of the test itself come from another address.
RULES = f"""
table ip vanish {{
    chain arriving {{
        type filter hook input priority filter;
        ip saddr {CLIENT} drop
        ip daddr {CLIENT} drop
        meta l4proto udp drop
    }}
}}
"""
PATIENCE = 75
# Bytes of a publication, and seconds between two, where there are any.
SIZE, PACE = 1_000, 0.5


class Tcp:
    """A connection from the address that will be cut off."""

    def __init__(self, server):
        self.socket = socket.socket()
        self.socket.bind((CLIENT, 0))
        self.socket.settimeout(DEADLINE)
        self.socket.connect(("127.0.0.1", server.port))
        self.host = f"127.0.0.1:{server.port}"
        self.bytes = b""

    def until(self, wanted):
        while wanted not in self.bytes:
            data = self.socket.recv(65536)
            assert data, f"the server ended the connection before {wanted!r}: {self.bytes!r}"
            self.bytes += data

    def get(self, target, headers=()):
        lines = [f"GET {target} HTTP/1.1", f"Host: {self.host}", *(f"{k}: {v}" for k, v in headers), "", ""]
        self.socket.sendall("\r\n".join(lines).encode())
        return self


def reading(path, **query):
    return f"{path}?{urlencode({'channel': CHANNEL} | query)}"


async def websocket(server):
    client = Tcp(server).get(reading("/ws"), UPGRADE)
    client.until(b'"subscribed"')
    return client


async def event_stream(server):
    client = Tcp(server).get(reading("/sse"))
    client.until(b": fulmar\n\n")
    return client


async def waiting_poll(server):
    return Tcp(server).get(reading("/poll", wait=30))


async def idle_http(server):
    client = Tcp(server).get(reading("/poll"))
    client.until(b'"more":false}')
    return client


def http2(*head):
    """A stream of HTTP/2 on a connection of its own."""

    async def connected(server):
        client = Tcp(server)
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        connection.initiate_connection()
        client.socket.sendall(connection.data_to_send())
        settled = answered = False
        while not answered:
            for event in connection.receive_data(client.socket.recv(65536)):
                if isinstance(event, h2.events.RemoteSettingsChanged) and not settled:
                    settled = True
                    fields = [(":scheme", "http"), (":authority", client.host), *head]
                    stream = connection.get_next_available_stream_id()
                    connection.send_headers(stream, fields, end_stream=(":method", "GET") in head)
                # A poll that waits is not answered; that its settings are acknowledged shows that it has been read behind them.
                if isinstance(event, h2.events.SettingsAcknowledged):
                    answered = any("/poll" in value for _, value in head)
                if isinstance(event, h2.events.ResponseReceived):
                    answered = True
            client.socket.sendall(connection.data_to_send())
        return client

    return connected


async def webtransport(server):
    opened = wt.open_wt(server)
    session = await opened.__aenter__()
    await session.open_stream().subscribe(CHANNEL)
    return opened, session


CASES = {
    "websocket": websocket,
    "websocket, http/2": http2((":method", "CONNECT"), (":protocol", "websocket"), (":path", reading("/ws")), ("sec-websocket-version", "13")),
    "sse": event_stream,
    "sse, http/2": http2((":method", "GET"), (":path", reading("/sse"))),
    "poll": waiting_poll,
    "poll, http/2": http2((":method", "GET"), (":path", reading("/poll", wait=30))),
    "http, idle": idle_http,
    "webtransport": webtransport,
}


class Watched:
    """A server, and what it has when nobody is connected."""

    def __init__(self, name, busy):
        self.name, self.busy = name, busy
        self.server = Server()
        self.gone = {}

    async def holds(self):
        # A connection of its own each time, so that what it costs is the same each time.
        async with self.server.http() as http:
            stats = (await http.get("/api/stats")).json()
            return {"sessions": stats["sessions"], "tasks": stats["tasks"], "descriptors": len(os.listdir(f"/proc/{self.server.process.pid}/fd"))}

    async def settled(self):
        """Once two looks agree: the connection of the look before may not have ended when the next one comes."""
        before = None
        async with within(DEADLINE, "a quiet server"):
            while (now := await self.holds()) != before:
                before = now
                await asyncio.sleep(0.2)
        return now

    async def begin(self):
        self.empty = await self.settled()
        assert self.empty["sessions"] == 0, self.empty
        self.client = await CASES[self.name](self.server)
        async with within(DEADLINE, f"the client of {self.name}"):
            while (held := await self.holds())["descriptors"] <= self.empty["descriptors"] and held["tasks"] <= self.empty["tasks"]:
                await asyncio.sleep(0.05)

    async def watch(self, since):
        async with self.server.http() as http:
            while time.monotonic() < since + PATIENCE and len(self.gone) < len(self.empty):
                if self.busy:
                    await publish(http, CHANNEL, "x" * SIZE)
                holds = await self.holds()
                # The publisher's own connection counts.
                spare = {"sessions": 0, "tasks": 1, "descriptors": 1} if self.busy else dict.fromkeys(holds, 0)
                for what, count in holds.items():
                    if count <= self.empty[what] + spare[what]:
                        self.gone.setdefault(what, round(time.monotonic() - since, 1))
                    else:
                        # What came back was not gone.
                        self.gone.pop(what, None)
                await asyncio.sleep(PACE)
        self.last = holds


async def main():
    # Publications would answer a poll.
    cases = [(name, False) for name in CASES] + [(name, True) for name in CASES if not name.startswith(("poll", "http"))]
    watched = [Watched(*case) for case in cases]
    try:
        await asyncio.gather(*(one.begin() for one in watched))
        subprocess.run(["nft", "-f", "-"], input=RULES, text=True, check=True)
        since = time.monotonic()
        await asyncio.gather(*(one.watch(since) for one in watched))
    finally:
        for one in watched:
            one.server.stop()
    print(json.dumps({f"{one.name}{', busy' if one.busy else ''}": {"gone": one.gone, "empty": one.empty, "last": one.last} for one in watched}), flush=True)
    # A client that tidied up would wait for an answer over the path that is gone.
    os._exit(0)


asyncio.run(main())
