"""Cursors and positions: built by a client, evicted, from another epoch, ahead of the head (PROTOCOL.md 2 and 3)."""

import cursors
import pytest
import wt
from raw import EventStream
from server import View, name, offsets, poll, poll_all, publish
from ws import open_ws


def test_fnv1a():
    assert cursors.fnv1a("") == "cbf29ce484222325"
    assert cursors.fnv1a("a") == "af63dc4c8601ec8c"
    assert cursors.fnv1a("foobar") == "85944171f73967e8"


def test_base36():
    for number in (0, 1, 35, 36, 2**53 - 1):
        assert int(cursors.base36(number), 36) == number
    assert cursors.base36(0) == "0" and cursors.base36(36) == "10"


async def read(server, transport, channel, cursor, enough):
    """What `transport` delivers for `channel` from `cursor`, until `enough(messages)`."""
    messages = []
    if transport == "poll":
        async with server.http() as http:
            while not enough(messages):
                answer = await poll(http, channel, after=cursor, wait="10")
                cursor = answer["cursor"]
                messages += [c for c in answer["control"] if c["type"] != "synced"]
                messages += [{"type": "publication"} | p for p in answer["publications"]]
                messages += [c for c in answer["control"] if c["type"] == "synced"]
    elif transport == "sse":
        async with await EventStream.open(server, channel, after=cursor) as stream:
            while not enough(messages):
                messages.append(await stream.message(f"more than {messages[-3:]}"))
    elif transport == "webtransport":
        async with wt.open_wt(server) as session:
            stream = session.open_stream()
            stream.send(type="subscribe", ref=1, channel=channel, after=cursor)
            while not enough(messages):
                messages.append(await stream.recv(f"more than {messages[-3:]}"))
    else:
        async with open_ws(server, transport == "websocket bin") as ws:
            await ws.send(type="subscribe", ref=1, channel=channel, after=cursor)
            while not enough(messages):
                messages.append(await ws.recv(f"more than {messages[-3:]}"))
    return [m for m in messages if m["type"] != "subscribed"]


TRANSPORTS = pytest.mark.parametrize("transport", ["poll", "sse", "websocket json", "websocket bin", "webtransport"])


async def test_the_grammar_of_the_servers_cursors(server):
    channels = [name(), name("state"), name("signal")]
    async with server.http() as http:
        cursor = (await poll(http, *channels))["cursor"]
        ends = [await publish(http, c, 1) for c in channels[:2]]
        cursor = (await poll(http, *channels, after=cursor))["cursor"]
    entries = cursors.parse(cursor)
    assert set(entries) == {cursors.fnv1a(c) for c in channels}
    for channel, (epoch, offset) in zip(channels, ends):
        assert entries[cursors.fnv1a(channel)][:2] == (epoch, offset), (channel, cursor)


@TRANSPORTS
async def test_a_cursor_of_ones_own(server, transport):
    channel = name()
    async with server.http() as http:
        published = [await publish(http, channel, n) for n in range(6)]
    epoch, offset = published[2]
    elsewhere = (name(), epoch, 17)
    cursor = cursors.build(elsewhere, (channel, epoch, offset))
    got = await read(server, transport, channel, cursor, lambda m: m and m[-1].get("data") == 5)
    assert [(m["type"], m["offset"]) for m in got] == [("publication", o) for _, o in published[3:]]


@TRANSPORTS
async def test_offset_zero_is_before_the_first(server, transport):
    channel = name()
    async with server.http() as http:
        published = [await publish(http, channel, n) for n in range(3)]
    cursor = cursors.build((channel, published[0][0], 0))
    got = await read(server, transport, channel, cursor, lambda m: m and m[-1].get("data") == 2)
    assert [(m["type"], m["offset"]) for m in got] == [("publication", o) for _, o in published]


@TRANSPORTS
@pytest.mark.parametrize("what", ["another epoch", "ahead of the head"])
async def test_positions_that_are_not_covered_are_a_gap(server, transport, what):
    """The gap, then all that is held."""
    channel = name()
    async with server.http() as http:
        published = [await publish(http, channel, n) for n in range(3)]
    epoch, head = published[-1]
    cursor = cursors.build((channel, "another", 1) if what == "another epoch" else (channel, epoch, head + 1))
    got = await read(server, transport, channel, cursor, lambda m: m and m[-1].get("data") == 2)
    assert got[0]["type"] == "gap" and got[0]["epoch"] == epoch and got[0]["offset"] < published[0][1], got
    assert [(m["type"], m["offset"]) for m in got[1:]] == [("publication", o) for _, o in published]


@TRANSPORTS
@pytest.mark.parametrize("what", ["another epoch", "ahead of the head"])
async def test_state_that_is_not_covered_is_reset(server, transport, what):
    channel, view = name("state"), View()
    async with server.http() as http:
        for key in "abc":
            epoch, head = await publish(http, channel, key, key=key)
    cursor = cursors.build((channel, "another", 1) if what == "another epoch" else (channel, epoch, head + 1))
    got = await read(server, transport, channel, cursor, lambda m: m and m[-1]["type"] == "synced")
    assert [m["type"] for m in got] == ["reset", "publication", "publication", "publication", "synced"], got
    for message in got:
        view.take(message)
    assert view.values() == {"a": "a", "b": "b", "c": "c"} and view.synced[1] >= head


@TRANSPORTS
async def test_a_state_cursor_goes_on_without_a_reset(server, transport):
    channel = name("state")
    async with server.http() as http:
        await publish(http, channel, "a", key="a")
        cursor = (await poll(http, channel))["cursor"]
        await publish(http, channel, "b", key="b")
    got = await read(server, transport, channel, cursor, lambda m: m and m[-1].get("data") == "b")
    assert [(m["type"], m.get("key")) for m in got] == [("publication", "b")], got


async def test_history_that_was_evicted_is_a_gap_everywhere(server):
    """An event channel holds 10,000: a cursor from before them meets a gap and then all that is held."""
    channel, count = name(), 10_100
    async with server.http() as http:
        start = (await poll(http, channel))["cursor"]
        async with open_ws(server, binary=True) as publisher:
            answers = await publisher.publish_many([{"channel": channel, "data": n} for n in range(count)])
        published = offsets(answers)
        assert published == sorted(set(published)), "offsets of one publisher's pipeline are not in order"
        first = cursors.build((channel, answers[0]["epoch"], published[0]))
        held = await poll_all(http, channel, after=start)
    assert [c["type"] for c in held["control"]] == ["gap"], held["control"]
    tail = offsets(held["publications"])
    assert tail == published[-len(tail) :] and 10_000 <= len(tail) < count - 1, len(tail)
    assert held["control"][0]["offset"] < tail[0]
    for transport in ("sse", "websocket json", "websocket bin", "webtransport"):
        got = await read(server, transport, channel, first, lambda m: m and m[-1].get("data") == count - 1)
        assert got[0]["type"] == "gap", (transport, got[0])
        assert offsets(got[1:]) == published[-len(got[1:]) :] and len(got) > 9_000, (transport, len(got))
