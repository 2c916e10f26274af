"""Signals: soon or not at all. Dropped when late, each of them counted, and never given again."""

import asyncio

import pytest
import wt
from raw import EventStream as Events
from server import DEADLINE, name, poll, publish, within
from stalled import VALUE, EventStream, Http2EventStream, WebSocket
from ws import open_ws

READERS = {"WebSocket": WebSocket, "SSE over HTTP/1.1": EventStream, "SSE over HTTP/2": Http2EventStream}
TTL = 300


async def drops(http):
    """(expired, forgotten, oversize) of the node."""
    stats = (await http.get("/api/stats")).json()
    return [stats[f"signals_{why}"] for why in ("expired", "forgotten", "oversize")]


async def dropped_since(http, before):
    return [now - then for now, then in zip(await drops(http), before)]


async def pass_by(ttl):
    """The passing of the time to live is what these tests are about."""
    await asyncio.sleep(ttl / 1_000 + 0.2)


async def publish_signals(ws, channel, count, size):
    padding = "x" * size
    await ws.publish_many([{"channel": channel, "data": [n, padding], "ttl_ms": TTL} for n in range(1, count + 1)])


@pytest.mark.parametrize("transport", READERS)
async def test_a_reader_that_stopped_gets_no_late_signal(server, transport):
    channel, count = name("signal"), 3_000
    async with server.http() as http, open_ws(server) as ws:
        before = await drops(http)
        reader = await asyncio.to_thread(READERS[transport], server, channel)
        try:
            await publish_signals(ws, channel, count, VALUE)
            await pass_by(TTL)
            await publish(http, channel, "fresh", ttl_ms=60_000)

            def read_on():
                got, start = [], reader.count
                while True:
                    message = reader.next()
                    if message["type"] != "publication":
                        continue
                    if message["data"] == "fresh":
                        return got, reader.count - start
                    got.append(message["data"][0])

            async with within(DEADLINE, "the fresh signal"):
                got, size = await asyncio.to_thread(read_on)
        finally:
            reader.close()
        # What had been sent when it stopped, in order, and nothing behind that.
        assert got == sorted(set(got)) and got[-1] < count // 2, got
        assert size <= reader.bound() + 512, f"{size} bytes, {got}"
        expired, forgotten, _ = await dropped_since(http, before)
        assert expired + forgotten == count - len(got), f"{expired} and {forgotten} of {count} dropped, {len(got)} given"
        # The channel holds fewer than were published, and all it holds is too old.
        assert expired > 100 and forgotten > count // 2, (expired, forgotten)


async def test_polls_drop_what_is_late(server):
    channel, count = name("signal"), 500
    async with server.http() as http, open_ws(server) as ws:
        cursor = (await poll(http, channel))["cursor"]
        await publish_signals(ws, channel, count, 10)
        await pass_by(TTL)
        before = await drops(http)
        answer = await poll(http, channel, after=cursor)
        assert (answer["publications"], answer["control"]) == ([], [])
        assert await dropped_since(http, before) == [count, 0, 0]
        # They are behind its cursor now.
        await publish(http, channel, "fresh", ttl_ms=60_000)
        again = await poll(http, channel, after=answer["cursor"])
        assert [p["data"] for p in again["publications"]] == ["fresh"]
        assert await dropped_since(http, before) == [count, 0, 0]


async def test_a_subscriber_that_reads_is_given_all(server):
    channel = name("signal")
    async with server.http() as http, open_ws(server) as ws, open_ws(server) as reader:
        before = await drops(http)
        await reader.subscribe(channel)
        for n in range(50):
            await publish(http, channel, n, ttl_ms=60_000)
        assert [p["data"] for p in await reader.publications(50)] == list(range(50))
        await ws.barrier()
        assert await dropped_since(http, before) == [0, 0, 0]


async def test_a_resume_gives_no_signal_again(server):
    channel = name("signal")
    async with server.http() as http:
        cursor = (await poll(http, channel))["cursor"]
        epoch, offset = await publish(http, channel, "given", ttl_ms=60_000)
        position = {"epoch": epoch, "offset": offset}
        after = (await poll(http, channel, after=cursor))["cursor"]
        assert (await poll(http, channel, after=after))["publications"] == []
        async with open_ws(server) as by_position, open_ws(server) as by_cursor:
            await by_position.subscribe(channel, position=position)
            await by_cursor.subscribe(channel, after=after)
            async with await Events.open(server, channel, headers=[("Last-Event-ID", after)]) as events:
                await publish(http, channel, "next", ttl_ms=60_000)
                for ws in (by_position, by_cursor):
                    assert (await ws.recv())["data"] == "next"
                assert (await events.message())["data"] == "next"
        assert [p["data"] for p in (await poll(http, channel, after=after))["publications"]] == ["next"]


async def test_a_cursor_of_another_history_brings_no_signal(server):
    channel = name("signal")
    async with server.http() as http:
        epoch, offset = await publish(http, channel, "before", ttl_ms=60_000)
        async with open_ws(server) as ws:
            for position in ({"epoch": "other", "offset": 0}, {"epoch": epoch, "offset": offset + 1_000}):
                await ws.subscribe(channel, position=position)
                _, offset = await publish(http, channel, "after", ttl_ms=60_000)
                assert (await ws.recv())["offset"] == offset
                await ws.ask(type="unsubscribe", channel=channel)


async def test_what_does_not_fit_a_datagram_is_dropped(server):
    channel = name("signal")
    async with server.http() as http, wt.open_wt(server) as session:
        before, stats = await drops(http), (await http.get("/api/stats")).json()
        stream = session.open_stream()
        await stream.subscribe(channel)
        await publish(http, channel, "x" * 2_000, ttl_ms=60_000)
        await publish(http, channel, "small", ttl_ms=60_000)
        assert (await session.datagram())["data"] == "small"
        await stream.barrier()
        assert await dropped_since(http, before) == [0, 0, 1]
        assert (await http.get("/api/stats")).json()["oversize"] == stats["oversize"]


async def test_a_webtransport_client_that_stopped_gets_few_late_signals(server):
    """What was sent is with the client's kernel, and what quinn holds will be sent; behind that nothing is late."""
    channel, count, size = name("signal"), 1_000, 800
    async with server.http() as http, open_ws(server) as ws, wt.open_wt(server) as session:
        stream = session.open_stream()
        await stream.subscribe(channel)
        before = await drops(http)
        loop, transport = asyncio.get_running_loop(), session.client._transport
        descriptor = transport.get_extra_info("socket").fileno()
        loop._remove_reader(descriptor)
        try:
            await publish_signals(ws, channel, count, size)
            await pass_by(TTL)
            await publish(http, channel, "fresh", ttl_ms=60_000)
        finally:
            loop._add_reader(descriptor, transport._read_ready)
        got = []
        while (message := await session.datagram())["data"] != "fresh":
            got.append(message["data"][0])
        assert len(got) < count // 2, f"{len(got)} of {count}"
        expired, forgotten, oversize = await dropped_since(http, before)
        assert expired + forgotten == count - len(got), f"{expired} and {forgotten} of {count} dropped, {len(got)} given"
        assert oversize == 0 and expired > 0
