"""Slow clients get what their namespace has for them, on every transport, and nobody else notices."""

import asyncio
import contextlib

import pytest
import slow
import wt
from raw import EventStream
from server import DEADLINE, name, offsets, within
from ws import open_ws


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = slow.start(tmp_path_factory.mktemp("slow"))
    yield running
    running.stop()


class Follower:
    """A subscriber to one channel, over one of the transports, that can be made to stop for a while."""

    def __init__(self, messages, pause):
        self.take, self.pause = messages, pause

    async def messages(self):
        # On a slow machine a stalled client is asked for a sign of life meanwhile.
        while (message := await self.take()) is not None and message["type"] == "ping":
            pass
        return message

    async def until(self, *types):
        """All that comes until one of these types does, that one last."""
        got = []
        while not got or got[-1]["type"] not in types:
            got.append(await self.messages())
        return got

    async def through(self, offset):
        """All that comes until this offset, or until the end."""
        got = []
        while not got or got[-1]["type"] != "close" and got[-1].get("offset", 0) < offset:
            message = await self.messages()
            assert message is not None, f"the end, after {got[-3:]}"
            got.append(message)
        return got


@contextlib.asynccontextmanager
async def followers(server, channel):
    """One of each transport, that have subscribed."""
    async with contextlib.AsyncExitStack() as stack:
        found = {}
        for binary in (False, True):
            ws = await stack.enter_async_context(open_ws(server, binary, max_queue=None))
            await ws.subscribe(channel)
            transport = ws.connection.transport
            found[f"websocket {'bin' if binary else 'json'}"] = Follower(ws.recv, lambda transport=transport: slow.stopped(transport))
        events = await stack.enter_async_context(await EventStream.open(server, channel))
        found["sse"] = Follower(events.message, lambda: slow.stopped(events.connection.writer.transport))
        session = await stack.enter_async_context(wt.open_wt(server))
        stream = session.open_stream()
        await stream.subscribe(channel)
        found["webtransport"] = Follower(stream.recv, lambda: slow.away(session.client))
        yield found


@contextlib.asynccontextmanager
async def witnesses(server, channel):
    async with open_ws(server, binary=True, max_queue=None) as ws, wt.open_wt(server) as session:
        stream = session.open_stream()
        for witness in (ws, stream):
            await witness.subscribe(channel)
        yield ws, stream


async def fall_behind(server, channel, found, watching):
    """All of them stop while far more is published than is held; the witnesses get all of it, at once and in order."""
    before = [len(witness.kept) for witness in watching]
    with contextlib.ExitStack() as stack:
        for follower in found.values():
            stack.enter_context(follower.pause())
        published = await slow.flood(server, channel, watching)
    for witness, count in zip(watching, before, strict=True):
        told = {message["type"] for message in witness.kept[count:]}
        assert told <= {"publication", "ping"}, f"a witness was told of more than publications: {told}"
    return published


async def test_a_gap_where_the_policy_is_to_skip(server):
    channel = name("short")
    async with witnesses(server, channel) as watching, followers(server, channel) as found:
        before = await slow.stats(server)
        published = await fall_behind(server, channel, found, watching)
        got = dict(zip(found, await asyncio.gather(*(follower.through(published[-1]) for follower in found.values())), strict=True))
        after = await slow.stats(server)
    gaps = 0
    for transport, messages in got.items():
        at, told = 0, [message for message in messages if message["type"] == "gap"]
        assert told, f"{transport}: {len(messages)} of {len(published)} without a gap"
        gaps += len(told)
        for message in messages:
            if message["type"] == "gap":
                at = next(n for n, offset in enumerate(published) if offset > message["offset"])
            else:
                assert message["offset"] == published[at], f"{transport}: publication {at} is missing without a word"
                at += 1
        assert at == len(published), transport
    assert after["slow_gaps"] - before["slow_gaps"] == gaps, "the gaps that were told are those that are counted"
    assert after["slow_disconnects"] == before["slow_disconnects"]


async def test_a_close_where_the_policy_is_to_disconnect(server):
    channel = name("strict")
    async with witnesses(server, channel) as watching, followers(server, channel) as found:
        before = await slow.stats(server)
        # The session's control stream is the one that is subscribed on, so the close comes there too.
        published = await fall_behind(server, channel, found, watching)
        got = dict(zip(found, await asyncio.gather(*(follower.until("close") for follower in found.values())), strict=True))
        after = await slow.stats(server)
        # The witnesses go on.
        await slow.flood(server, channel, watching, count=slow.HELD)
    for transport, messages in got.items():
        assert messages[-1]["code"] == 4501, (transport, messages[-1])
        came = messages[:-1]
        assert {message["type"] for message in came} <= {"publication"}, transport
        assert offsets(came) == published[: len(came)], f"{transport}: what came before the close is not what was published"
        assert len(came) < len(published), transport
    assert after["slow_disconnects"] - before["slow_disconnects"] == len(found)
    assert after["slow_gaps"] == before["slow_gaps"]


async def test_the_newest_where_values_are_conflated(server):
    """State: what lies between is skipped, without a gap."""
    channel = name("value")
    async with open_ws(server, binary=True, max_queue=None) as witness, followers(server, channel) as found:
        await witness.subscribe(channel)
        await witness.until("synced")
        for transport, follower in found.items():
            if transport != "webtransport":
                await follower.until("synced")
        before = await slow.stats(server)
        kept = len(witness.kept)
        published = await fall_behind(server, channel, found, [witness])
        # The flood awaits some of them itself.
        watched = len(published) // (slow.HELD // 2) + sum(message["type"] == "publication" for message in witness.kept[kept:])
        skipped = await asyncio.gather(
            *(follower.through(published[-1]) for transport, follower in found.items() if transport != "webtransport")
        )
        after = await slow.stats(server)
        for messages in skipped:
            assert {message["type"] for message in messages} == {"publication"}, [m["type"] for m in messages]
            assert len(messages) < len(published), "nothing was skipped"
        # Over WebTransport it may come by stream or by datagram: what it holds in the end is the newest.
        async with within(DEADLINE, "the newest over WebTransport"):
            while (message := await found["webtransport"].messages())["type"] != "publication" or message["offset"] != published[-1]:
                assert message["type"] in ("publication", "reset", "synced"), message
    # Over WebTransport it is the channel's rate that replaces values too, and that is not counted.
    missing = len(published) - watched + sum(len(published) - len(messages) for messages in skipped)
    assert after["conflated"] - before["conflated"] == missing
    for counter in ("slow_gaps", "slow_disconnects", "gaps"):
        assert after[counter] == before[counter], counter
