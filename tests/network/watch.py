"""A client that watches a channel of events and one of state, while both are published to all the time."""

import asyncio
import contextlib
import pathlib
import sys
import time

from conftest import AGENT, KEY
from lines import Peer
from server import name

HERE = pathlib.Path(__file__).resolve().parent
WAIT = 15
INTERVAL = 0.01


def checksum(count):
    """Of the events from the first to this one, as agents compute it."""
    value = 0x811C9DC5
    for byte in "".join(f'{{"n":{n}}}\n' for n in range(1, count + 1)).encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


class Watch:
    def __init__(self, network, server, publisher, peer):
        self.network, self.server, self.publisher, self.peer = network, server, publisher, peer
        self.events, self.state, self.said = name("event"), name("state"), name("event")
        self.id = "first"
        self.burst = 0

    def ask(self, op, **members):
        return self.peer.ask(op, id=self.id, **members)

    def until(self, seconds=WAIT, channel=None, **wanted):
        return self.ask("wait", channel=channel or self.events, timeout=seconds * 1000, **{"for": wanted})

    async def digest(self, channel=None):
        return await self.ask("digest", channel=channel or self.events)

    async def last(self):
        return (await self.publisher.ask("last"))["n"]

    async def begin(self, position=None):
        """Subscribes, to events from `position` on if there is one, and begins to publish."""
        await self.ask("subscribe", channel=self.events, **({"position": position} if position else {}))
        await self.ask("subscribe", channel=self.state)
        await self.until(channel=self.state, synced=True)
        await self.publish()

    async def publish(self):
        await self.publisher.ask("start", events=self.events, state=self.state, interval=INTERVAL)

    async def flowing(self, count=20):
        """So many more events than there were have come."""
        await self.until(publications=(await self.last()) + count)

    async def next_event(self, since):
        """Awaits an event that was published after now; gives the time since `since`."""
        await self.until(publications=(await self.last()) + 1)
        return time.monotonic() - since

    @contextlib.asynccontextmanager
    async def speaking(self):
        """Meanwhile the client sends something of its own: the server cannot learn of the new path of one that only listens."""
        task = asyncio.create_task(self.ask("publish", channel=self.said, data="here"))
        try:
            yield
            await task
        finally:
            task.cancel()

    async def settled(self, controls=(), sessions=(1,)):
        """Publishing ends: every event has come once and in order, and the state is what was published last."""
        published = await self.publisher.ask("stop")
        await self.until(publications=published["n"])
        for key, value in published["values"].items():
            await self.until(channel=self.state, key=key, data=value)
        view = await self.ask("view", channel=self.state)
        assert view == {"synced": True, "values": {key: {"data": value} for key, value in published["values"].items()}}, view
        digest = await self.digest()
        first, last = digest["first"], digest["last"]
        assert digest["ordered"] and digest["controls"] == list(controls), digest
        assert first["epoch"] == last["epoch"] and digest["count"] == published["n"] == last["offset"] - first["offset"] + 1, (digest, published["n"])
        assert self.burst or digest["checksum"] == checksum(published["n"]), digest
        stats = await self.publisher.ask("stats")
        assert stats["sessions"] in sessions and stats["gaps"] == 0, stats
        return published["n"]


@contextlib.asynccontextmanager
async def watching(network, server, stack, transport="webtransport"):
    """A connection of a client called aioquic, quinn or websockets."""
    inside = network.inside(network.client)
    python = [sys.executable, "-u"]
    async with contextlib.AsyncExitStack() as stacked:
        publishing = [*network.inside(network.server), *python, str(HERE / "publisher.py"), server.base, server.certificate, KEY]
        publisher = await stacked.enter_async_context(await Peer.start("the publisher", *publishing))
        client = await stacked.enter_async_context(await Peer.start("the client", *inside, *python, str(HERE / "client.py"), server.base, server.certificate))
        peer, base = client, None
        if stack == "quinn":
            base = (await client.ask("discovery"))["base"]
            peer = await stacked.enter_async_context(await Peer.start("the native agent", *inside, AGENT))
        watch = Watch(network, server, publisher, peer)
        if transport == "webtransport":
            await watch.ask("open", transport=transport, base=base)
        yield watch
        if stack == "quinn":
            # The agent does not say farewell by itself, and the server would wait for it when it stops.
            await watch.ask("close")
