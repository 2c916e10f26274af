"""The delivery class `state`, and the expiry of `signal` (PROTOCOL.md section 2)."""

import asyncio

import cursors
import pytest
from server import View, name, offsets, poll, poll_all, publish
from ws import open_ws

ENCODINGS = pytest.mark.parametrize("binary", [False, True], ids=["json", "bin"])


async def follow(ws, view, until, what):
    """Feeds what arrives to `view` until `until()`."""
    while not until():
        message = await ws.recv(f"{what}; held: {view.values()}, synced: {view.synced}")
        if message["type"] in ("publication", "reset", "synced"):
            view.take(message)


@ENCODINGS
async def test_a_late_joiner_gets_reset_values_synced(server, binary):
    channel = name("state")
    async with server.http() as http, open_ws(server, binary) as ws:
        await publish(http, channel, "a1", key="a")
        await publish(http, channel, "b1", key="b")
        await publish(http, channel, "none1")
        epoch, last = await publish(http, channel, "a2", key="a")
        await ws.subscribe(channel)
        messages = [await ws.recv() for _ in range(5)]
    assert [m["type"] for m in messages] == ["reset", "publication", "publication", "publication", "synced"], messages
    assert [(m.get("key", ""), m["data"]) for m in messages[1:4]] == [("b", "b1"), ("", "none1"), ("a", "a2")]
    assert offsets(messages[1:4]) == sorted(offsets(messages[1:4]))
    assert (messages[4]["epoch"], messages[4]["offset"] >= last) == (epoch, True)


@ENCODINGS
async def test_an_empty_channel_is_synced_at_once(server, binary):
    async with open_ws(server, binary) as ws:
        await ws.subscribe(name("state"))
        assert [(await ws.recv("the empty snapshot"))["type"] for _ in range(2)] == ["reset", "synced"]


@ENCODINGS
async def test_changes_follow_the_snapshot(server, binary):
    channel, view = name("state"), View()
    async with server.http() as http, open_ws(server, binary) as ws:
        await publish(http, channel, 1, key="a")
        await ws.subscribe(channel)
        await follow(ws, view, lambda: view.synced, "synced")
        await publish(http, channel, 2, key="a")
        await publish(http, channel, 3, key="b")
        await follow(ws, view, lambda: view.values() == {"a": 2, "b": 3}, "both changes")
        assert view.resets == 1


@ENCODINGS
async def test_removal(server, binary):
    channel, view = name("state"), View()
    async with server.http() as http, open_ws(server, binary) as ws, open_ws(server, binary) as late:
        await publish(http, channel, 1, key="stays")
        await publish(http, channel, 2, key="goes")
        await ws.subscribe(channel)
        await follow(ws, view, lambda: view.synced, "synced")
        epoch, offset = await publish(http, channel, removed=True, key="goes")
        removal = await ws.until("publication", key="goes", awaited="the removal")
        assert removal["removed"] is True and "data" not in removal and "b64" not in removal, removal
        assert (removal["epoch"], removal["offset"]) == (epoch, offset)
        # Who comes later does not see the key.
        view = View()
        await late.subscribe(channel)
        await follow(late, view, lambda: view.synced, "synced")
        assert view.values() == {"stays": 1}
        # And it can come back.
        await publish(http, channel, 3, key="goes")
        await follow(late, view, lambda: view.values() == {"stays": 1, "goes": 3}, "the key's return")


async def test_a_reader_behind_gets_each_key_once(server):
    channel = name("state")
    async with server.http() as http:
        await publish(http, channel, "old", key="a")
        cursor = (await poll(http, channel))["cursor"]
        for n in range(100):
            await publish(http, channel, n, key=f"k{n % 3}")
        answer = await poll(http, channel, after=cursor)
    assert [(p["key"], p["data"]) for p in answer["publications"]] == [("k1", 97), ("k2", 98), ("k0", 99)]
    assert answer["control"] == []


async def test_removals_reach_a_reader_behind(server):
    channel = name("state")
    async with server.http() as http:
        await publish(http, channel, 1, key="a")
        cursor = (await poll(http, channel))["cursor"]
        await publish(http, channel, removed=True, key="a")
        answer = await poll(http, channel, after=cursor)
    assert [(p["key"], p.get("removed")) for p in answer["publications"]] == [("a", True)]


async def test_many_more_removals_than_are_kept_never_hide_one(server):
    """However many removals came in between: either each is told, or a reset makes up for them."""
    channel, view = name("state"), View()
    async with server.http() as http, open_ws(server) as publisher:
        await publisher.publish_many([{"channel": channel, "key": f"k{n}", "data": n} for n in range(3_000)])
        await publish(http, channel, "yes", key="stays")
        view.poll(first := await poll_all(http, channel))
        assert len(view.values()) == 3_001
        await publisher.publish_many([{"channel": channel, "key": f"k{n}", "removed": True} for n in range(3_000)])
        await publish(http, channel, "still", key="stays")
        view.poll(await poll_all(http, channel, after=first["cursor"]))
    assert view.values() == {"stays": "still"}


@ENCODINGS
async def test_a_position_goes_on_without_a_reset(server, binary):
    channel = name("state")
    async with server.http() as http, open_ws(server, binary) as ws:
        epoch, offset = await publish(http, channel, 1, key="a")
        await publish(http, channel, 2, key="b")
        answer = await ws.subscribe(channel, position={"epoch": epoch, "offset": offset})
        assert (answer["epoch"], answer["offset"]) == (epoch, offset)
        first = await ws.recv()
        assert (first["type"], first.get("key"), first.get("data")) == ("publication", "b", 2)


@ENCODINGS
async def test_a_position_that_is_not_covered_is_reset(server, binary):
    channel = name("state")
    async with server.http() as http:
        epoch, offset = await publish(http, channel, 1, key="a")
        for position in ({"epoch": "other", "offset": offset}, {"epoch": epoch, "offset": offset + 1_000_000}):
            async with open_ws(server, binary) as ws:
                await ws.subscribe(channel, position=position)
                assert [(await ws.recv())["type"] for _ in range(3)] == ["reset", "publication", "synced"], position


async def test_signals_reach_who_is_there(server):
    channel = name("signal")
    async with server.http() as http, open_ws(server) as text, open_ws(server, binary=True) as binary:
        cursor = (await poll(http, channel))["cursor"]
        await text.subscribe(channel)
        await binary.subscribe(channel)
        waiting = asyncio.create_task(poll(http, channel, after=cursor, wait="30"))
        await publish(http, channel, "now", ttl_ms=60_000)
        for ws in (text, binary):
            assert (await ws.publications(1))[0]["data"] == "now"
        assert [p["data"] for p in (await waiting)["publications"]] == ["now"]


@pytest.mark.parametrize("ttl", [{"ttl_ms": 50}, {}], ids=["50 ms", "the default of 1 s"])
async def test_a_signal_past_its_ttl_is_never_delivered(server, ttl):
    channel = name("signal")
    async with server.http() as http:
        cursor = (await poll(http, channel))["cursor"]
        epoch, offset = await publish(http, channel, "late", **ttl)
        # The passing of the ttl is what this test is about.
        await asyncio.sleep(ttl.get("ttl_ms", 1_000) / 1_000 + 0.2)
        own = cursors.build((channel, epoch, offset - 1))
        for after in (cursor, own):
            assert "late" not in [p["data"] for p in (await poll(http, channel, after=after))["publications"]]
        async with open_ws(server) as ws:
            await ws.subscribe(channel, after=cursor)
            await publish(http, channel, "fresh", ttl_ms=60_000)
            fresh = await ws.until("publication")
            assert fresh["data"] == "fresh", fresh
        # The channel itself goes on.
        assert [p["data"] for p in (await poll(http, channel, after=cursor))["publications"]] == ["fresh"]


async def test_signals_are_not_given_to_who_comes_without_a_cursor(server):
    channel = name("signal")
    async with server.http() as http, open_ws(server) as ws:
        await publish(http, channel, "before", ttl_ms=60_000)
        assert (await poll(http, channel))["publications"] == []
        await ws.subscribe(channel)
        await publish(http, channel, "after", ttl_ms=60_000)
        assert (await ws.until("publication"))["data"] == "after"
