"""GET /sse, byte by byte (PROTOCOL.md section 7 and the HTML standard's event stream format)."""

import json
import re

import cursors
import pytest
import raw
from raw import EventStream
from server import View, check_error, name, offsets, poll, publish

BLOCK = re.compile(rb"(?:(?:id|data|event|retry): ?[^\r\n]*\n|data\n|:[^\r\n]*\n)+\n")


async def published_json(server, channel, raw_data):
    """Publishes `raw_data` as it stands inside the body."""
    body = b'{"channel":"%s","data":%s}' % (channel.encode(), raw_data)
    async with server.http() as http:
        response = await http.post("/api/publish", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 200, response.text


async def test_headers(server):
    async with await EventStream.open(server, name()) as stream:
        head = stream.head
    assert head.header("content-type").startswith("text/event-stream"), head.headers
    assert "no-cache" in head.header("cache-control"), head.headers
    assert head.header("x-accel-buffering") == "no", head.headers
    assert head.header("content-encoding") is None and head.header("content-length") is None, head.headers


async def test_a_publication_is_an_unnamed_event_with_an_id(server):
    channel = name()
    async with server.http() as http, await EventStream.open(server, channel) as stream:
        epoch, offset = await publish(http, channel, {"n": 1}, id="one")
        block = await stream.block()
    assert BLOCK.fullmatch(block), block
    lines = block.split(b"\n")
    assert len([line for line in lines if line.startswith(b"id:")]) == 1, block
    assert not [line for line in lines if line.startswith((b"event", b"retry"))], block
    event = raw.parse_block(block)
    publication = json.loads(event["data"])
    assert isinstance(publication.pop("time"), int)
    assert publication == {"channel": channel, "epoch": epoch, "offset": offset, "data": {"n": 1}, "id": "one"}
    assert cursors.parse(event["id"]) == {cursors.fnv1a(channel): (epoch, offset, None)}


@pytest.mark.parametrize(
    "data",
    [b'{\n "a": 1,\n "b": [\n\n 2]\n}', b'{\r\n"a":\r\n1}', b'{\r"a":\r1}', b'"line\\nline\\r\\nline\\u2028\\u0085"', b'"\xe2\x80\xa8"', b'"data: x\\n\\nid: 7\\n\\n"', b'":"'],
    ids=["LF", "CRLF", "CR", "escaped", "line separator", "looks like fields", "colon"],
)
async def test_line_ends_inside_a_payload_do_not_break_the_stream(server, data):
    channel = name()
    async with await EventStream.open(server, channel) as stream:
        await published_json(server, channel, data)
        await published_json(server, channel, b'"next"')
        first, second = await stream.block(), await stream.block()
    for block in (first, second):
        assert BLOCK.fullmatch(block), block
    assert json.loads(raw.parse_block(first)["data"])["data"] == json.loads(data)
    assert json.loads(raw.parse_block(second)["data"])["data"] == "next"


async def test_every_id_is_a_cursor_over_all_channels(server):
    here, there = name(), name()
    async with server.http() as http, await EventStream.open(server, here, there) as stream:
        await publish(http, here, 1)
        first = await stream.message()
        await publish(http, there, 2)
        second = await stream.message()
        await publish(http, here, 3)
        third = await stream.message()
    assert set(cursors.parse(second["cursor"])) == {cursors.fnv1a(here), cursors.fnv1a(there)}
    async with await EventStream.open(server, there, here, headers=[("Last-Event-ID", first["cursor"])]) as stream:
        replayed = [await stream.message(), await stream.message()]
    assert sorted(m["data"] for m in replayed) == [2, 3], replayed
    assert third["cursor"] != second["cursor"] != first["cursor"]


async def test_last_event_id_replays_what_was_missed(server):
    channel = name()
    async with server.http() as http:
        async with await EventStream.open(server, channel) as stream:
            published = [await publish(http, channel, n) for n in range(5)]
            seen = [await stream.message() for _ in range(5)]
        assert offsets(seen) == [offset for _, offset in published]
        async with await EventStream.open(server, channel, headers=[("Last-Event-ID", seen[1]["cursor"])]) as stream:
            again = [await stream.message() for _ in range(3)]
            assert [(m["offset"], m["cursor"]) for m in again] == [(m["offset"], m["cursor"]) for m in seen[2:]]
            await publish(http, channel, "live")
            assert (await stream.message())["data"] == "live"


async def test_a_stream_that_is_lost_before_its_first_event_goes_on_where_it_began(server):
    channel = name()
    async with server.http() as http:
        await publish(http, channel, "before")
        async with await EventStream.open(server, channel) as stream:
            begun = raw.parse_block(await stream.any_block("the stream's beginning"))["id"]
        _, missed = await publish(http, channel, "missed")
        async with await EventStream.open(server, channel, headers=[("Last-Event-ID", begun)]) as stream:
            message = await stream.message()
    assert (message["type"], message["offset"], message["data"]) == ("publication", missed, "missed")


async def test_last_event_id_wins_over_after(server):
    channel = name()
    async with server.http() as http:
        epoch, first = await publish(http, channel, "a")
        _, second = await publish(http, channel, "b")
        await publish(http, channel, "c")
    after, last = (cursors.build((channel, epoch, offset)) for offset in (first, second))
    async with await EventStream.open(server, channel, after=after) as stream:
        assert (await stream.message())["data"] == "b"
    async with await EventStream.open(server, channel, headers=[("Last-Event-ID", last)], after=after) as stream:
        assert (await stream.message())["data"] == "c"


def unusable(channel, epoch):
    return {
        "garbage": "garbage",
        "number": "17",
        "too long": "c" * 2_049,
        "another channel's": cursors.build((channel + "-other", epoch, 1)),
        "another epoch's": cursors.build((channel, "another-epoch", 1)),
        "ahead of the head": cursors.build((channel, epoch, 2**40)),
    }


@pytest.mark.parametrize("what", unusable("x", "x"))
async def test_unusable_last_event_id_on_events_is_a_gap(server, what):
    channel = name()
    async with server.http() as http:
        epoch, offset = await publish(http, channel, "held")
        async with await EventStream.open(server, channel, headers=[("Last-Event-ID", unusable(channel, epoch)[what])]) as stream:
            gap = await stream.message("a gap")
            assert (gap["type"], gap["channel"], gap["epoch"]) == ("gap", channel, epoch), gap
            assert gap["offset"] <= offset and cursors.parse(gap["cursor"]), gap
            await publish(http, channel, "live")
            rest = [await stream.message()]
            while rest[-1]["data"] != "live":
                rest.append(await stream.message())
    assert all(m["offset"] > gap["offset"] for m in rest), (gap, rest)


@pytest.mark.parametrize("what", unusable("x", "x"))
async def test_unusable_last_event_id_on_state_is_a_reset(server, what):
    channel, view = name("state"), View()
    async with server.http() as http:
        epoch, _ = await publish(http, channel, 1, key="a")
        await publish(http, channel, 2, key="b")
        async with await EventStream.open(server, channel, headers=[("Last-Event-ID", unusable(channel, epoch)[what])]) as stream:
            first = await stream.message("a reset")
            assert (first["type"], first["channel"]) == ("reset", channel), first
            view.take(first)
            while not view.synced:
                view.take(await stream.message("the snapshot"))
    assert view.values() == {"a": 1, "b": 2}


async def test_unusable_after_is_refused(server):
    channel = name()
    async with server.http() as http:
        epoch, _ = await publish(http, channel, 1)
        for what, after in unusable(channel, epoch).items():
            if what in ("another epoch's", "ahead of the head"):
                continue  # well formed: answered with a gap, in test_cursors.py
            check_error(await http.get("/sse", params={"channel": channel, "after": after}), 400, "bad_cursor", what)


async def test_state_controls_are_named_events_with_ids(server):
    channel = name("state")
    async with server.http() as http:
        await publish(http, channel, "a1", key="a")
        await publish(http, channel, "b1", key="b")
        epoch, last = await publish(http, channel, "a2", key="a")
        async with await EventStream.open(server, channel) as stream:
            blocks = [await stream.block() for _ in range(4)]
    for block in blocks:
        assert BLOCK.fullmatch(block), block
    events = [raw.parse_block(block) for block in blocks]
    assert [e.get("event") for e in events] == ["reset", None, None, "synced"], blocks
    assert all(e.get("id") for e in events), blocks
    data = [json.loads(e["data"]) for e in events]
    assert [d.get("data") for d in data[1:3]] == ["b1", "a2"]
    assert {(d["channel"], d["epoch"]) for d in data} == {(channel, epoch)}
    assert data[3]["offset"] >= last, data


async def test_an_id_inside_a_snapshot_can_be_used(server):
    """Broken off in the middle of a snapshot, the stream goes on to a complete one."""
    channel = name("state")
    async with server.http() as http:
        for n in range(6):
            await publish(http, channel, n, key=f"k{n}")
        view = View()
        async with await EventStream.open(server, channel) as stream:
            for _ in range(4):
                message = await stream.message()
                view.take(message)
        await publish(http, channel, "changed", key="k0")
        await publish(http, channel, removed=True, key="k5")
        async with await EventStream.open(server, channel, headers=[("Last-Event-ID", message["cursor"])]) as stream:
            wanted = {"k0": "changed"} | {f"k{n}": n for n in range(1, 5)}
            while not view.synced or view.values() != wanted:
                view.take(await stream.message(f"the rest of the snapshot; held: {view.keys}"))


async def test_over_http2(server):
    channel = name()
    async with server.http(http1=False, http2=True) as http:
        async with http.stream("GET", "/sse", params={"channel": channel}) as stream:
            assert stream.http_version == "HTTP/2" and stream.status_code == 200
            await publish(http, channel, "over h2")
            text = ""
            async for part in stream.aiter_text():
                text += part
                if "over h2" in text and text.endswith("\n\n"):
                    break
    (data,) = [line for line in text.split("\n") if line.startswith("data:")]
    assert json.loads(data.removeprefix("data:"))["data"] == "over h2"


async def test_what_poll_left_off_goes_on_here(server):
    channel = name()
    async with server.http() as http:
        cursor = (await poll(http, channel))["cursor"]
        _, offset = await publish(http, channel, 1)
        async with await EventStream.open(server, channel, after=cursor) as stream:
            assert (await stream.message())["offset"] == offset
