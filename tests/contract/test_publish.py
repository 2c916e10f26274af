"""POST /api/publish: answers, payloads and idempotency (PROTOCOL.md sections 1 and 7)."""

import asyncio
import time

import pytest
from server import b64, name, offsets, poll, publish
from ws import open_ws

PAYLOADS = {
    "text": {"data": "grüße, \U0001f426 and \"quotes\"\n\ttoo"},
    "empty text": {"data": ""},
    "text that looks like JSON": {"data": '{"a":1}'},
    "null": {"data": None},
    "false": {"data": False},
    "zero": {"data": 0},
    "numbers": {"data": [1, -1.5, 1e300, 9007199254740991]},
    "object": {"data": {"a": [1, {"b": None}], "ключ": "значение"}},
    "binary": {"b64": b64(bytes(range(256)))},
    "empty binary": {"b64": ""},
}


async def test_offsets_only_grow_within_an_epoch(server):
    channel = name()
    async with server.http() as http:
        answers = [await publish(http, channel, n) for n in range(20)]
    assert len({epoch for epoch, _ in answers}) == 1, answers
    numbers = [offset for _, offset in answers]
    assert numbers == sorted(set(numbers)) and numbers[0] >= 1, numbers
    assert 1 <= len(answers[0][0]) <= 32, answers[0]


async def test_concurrent_publishes_get_offsets_of_their_own(server):
    channel = name()
    async with server.http() as http:
        cursor = (await poll(http, channel))["cursor"]
        answers = await asyncio.gather(*(publish(http, channel, n) for n in range(50)))
        publications = (await poll(http, channel, after=cursor))["publications"]
    by_offset = {offset: n for n, (_, offset) in enumerate(answers)}
    assert len(by_offset) == 50
    assert offsets(publications) == sorted(by_offset)
    assert [p["data"] for p in publications] == [by_offset[o] for o in sorted(by_offset)]


@pytest.mark.parametrize("what", PAYLOADS)
async def test_payloads_come_back_as_they_were(server, what):
    """Published by HTTP, read by poll and over both encodings of WebSocket."""
    channel, body = name(), PAYLOADS[what]
    async with server.http() as http, open_ws(server) as text, open_ws(server, binary=True) as binary:
        cursor = (await poll(http, channel))["cursor"]
        await text.subscribe(channel)
        await binary.subscribe(channel)
        epoch, offset = await publish(http, channel, **body)
        got = (await poll(http, channel, after=cursor))["publications"]
        assert len(got) == 1, got
        for publication in (got[0], *await text.publications(1), *await binary.publications(1)):
            assert {k: publication[k] for k in ("data", "b64") if k in publication} == body, publication
            assert (publication["channel"], publication["epoch"], publication["offset"]) == (channel, epoch, offset)
            assert isinstance(publication["time"], int)
            assert not {"removed", "key", "id"} & set(publication), publication


@pytest.mark.parametrize("what", PAYLOADS)
@pytest.mark.parametrize("binary", [False, True], ids=["json", "bin"])
async def test_payloads_published_in_band(server, what, binary):
    channel, body = name(), PAYLOADS[what]
    async with server.http() as http, open_ws(server, binary) as ws:
        cursor = (await poll(http, channel))["cursor"]
        answer = await ws.ask(type="publish", channel=channel, **body)
        assert answer["type"] == "published" and answer["channel"] == channel, answer
        (publication,) = (await poll(http, channel, after=cursor))["publications"]
    assert {k: publication[k] for k in ("data", "b64") if k in publication} == body, publication
    assert (publication["epoch"], publication["offset"]) == (answer["epoch"], answer["offset"])


async def test_time_is_milliseconds_since_1970(server):
    channel = name()
    async with server.http() as http:
        cursor = (await poll(http, channel))["cursor"]
        before = time.time() * 1000
        await publish(http, channel, 1)
        after = time.time() * 1000
        (publication,) = (await poll(http, channel, after=cursor))["publications"]
    assert int(before) - 1 <= publication["time"] <= after + 1, (before, publication, after)


async def test_key_and_id_come_back(server):
    channel = name("state")
    async with server.http() as http:
        cursor = (await poll(http, channel))["cursor"]
        await publish(http, channel, 1, key="ключ", id="одно")
        (publication,) = (await poll(http, channel, after=cursor))["publications"]
    assert (publication["key"], publication["id"]) == ("ключ", "одно")


async def test_the_same_id_again_gets_the_first_answer(server):
    channel = name()
    async with server.http() as http:
        cursor = (await poll(http, channel))["cursor"]
        first = await publish(http, channel, "first", id="a")
        other = await publish(http, channel, "other", id="b")
        assert await publish(http, channel, "again", id="a") == first
        assert await publish(http, channel, "again", id="b") == other
        publications = (await poll(http, channel, after=cursor))["publications"]
    assert [(p["data"], p["id"]) for p in publications] == [("first", "a"), ("other", "b")]


async def test_an_id_is_scoped_to_its_channel(server):
    here, there = name(), name()
    async with server.http() as http:
        cursors = [(await poll(http, c))["cursor"] for c in (here, there)]
        await publish(http, here, "here", id="a")
        await publish(http, there, "there", id="a")
        for channel, cursor, data in zip((here, there), cursors, ("here", "there")):
            assert [p["data"] for p in (await poll(http, channel, after=cursor))["publications"]] == [data]


async def test_concurrent_repeats_are_one_publication(server):
    channel = name()
    async with server.http() as http:
        cursor = (await poll(http, channel))["cursor"]
        for attempt in range(10):
            answers = await asyncio.gather(*(publish(http, channel, n, id=f"id-{attempt}") for n in range(20)))
            assert len(set(answers)) == 1, answers
        publications = (await poll(http, channel, after=cursor))["publications"]
    assert [p["id"] for p in publications] == [f"id-{attempt}" for attempt in range(10)]


async def test_repeats_on_one_websocket_are_one_publication(server):
    channel = name()
    async with open_ws(server) as ws:
        await ws.subscribe(channel)
        for ref in range(1, 11):
            await ws.send(type="publish", ref=ref, channel=channel, data=ref, id="same")
        answers = [await ws.until("published", ref=ref) for ref in range(1, 11)]
        assert len({(a["epoch"], a["offset"]) for a in answers}) == 1, answers
        await ws.ask(type="publish", channel=channel, data="last", id="another")
        await ws.barrier()
        await ws.send(type="publish", channel=channel, data="end")
        last = await ws.until("publication", data="end")
        seen = [m["data"] for m in ws.kept if m["type"] == "publication"] + [last["data"]]
    assert seen == [1, "last", "end"], seen


async def test_no_namespace_is_an_event_channel(server):
    channel = name().replace("event:", "plain-")
    async with server.http() as http:
        cursor = (await poll(http, channel))["cursor"]
        for n in range(3):
            await publish(http, channel, n, key="same")
        assert [p["data"] for p in (await poll(http, channel, after=cursor))["publications"]] == [0, 1, 2]


@pytest.mark.parametrize("binary", [False, True], ids=["json", "bin"])
async def test_a_priority_is_the_servers_alone(server, binary):
    channel = name("state")
    async with server.http() as http, open_ws(server, binary) as publisher, open_ws(server, binary) as ws:
        await ws.subscribe(channel)
        await publish(http, channel, 1, key="a", priority=255)
        answer = await publisher.ask(type="publish", channel=channel, key="b", data=2, priority=1)
        assert answer["type"] == "published", answer
        got = await ws.publications(2)
        assert [(p["key"], p["data"]) for p in got] == [("a", 1), ("b", 2)], got
        assert not any("priority" in p for p in got), got
        assert not any("priority" in p for p in (await poll(http, channel))["publications"])
