"""WebTransport from a stack that shares nothing with the server (PROTOCOL.md sections 5, 8 and 9)."""

import asyncio
import random

import cursors
import fulmar_bin
import pytest
import wt
from raw import EventStream
from server import View, b64, name, offsets, poll, publish, within
from test_sessions import attach, bearer, new_session
from ws import open_ws

SETTINGS_DRAFT02, SETTINGS_DATAGRAM, SETTINGS_CONNECT, SETTINGS_NEWER = 0x2B603742, 0x33, 0x08, 0x14E9CD29


async def test_settings_browsers_need(server):
    async with wt.quic(server) as client:
        await client.get("/healthz")
        settings = client.h3.received_settings
    assert settings.get(SETTINGS_DRAFT02) == 1 and settings.get(SETTINGS_CONNECT) == 1, settings
    assert settings.get(SETTINGS_DATAGRAM) == 1 or settings.get(0xFFD277) == 1, settings
    assert settings.get(SETTINGS_NEWER, 0) <= 1, "more than one session without flow control"


@pytest.mark.parametrize("path,status", [("/wt2", 404), ("/", 404), ("/healthz", None)])
async def test_connect_to_another_path(server, path, status):
    async with wt.quic(server) as client:
        session = await client.request("CONNECT", path, client.authority, "webtransport", [("sec-webtransport-http3-draft02", "1")], end=False)
        assert session.status() == status or (status is None and 400 <= session.status() < 500), session.status()
        # The connection is still good for a session.
        await (await client.session()).open_stream().barrier()


async def test_ping_on_the_control_stream(server):
    async with wt.open_wt(server) as session:
        control = session.open_stream()
        assert await control.ask(type="ping", ref=77) == {"type": "pong", "ref": 77}


async def test_events_on_a_stream(server):
    channel = name()
    async with server.http() as http, wt.open_wt(server) as session:
        session.open_stream()
        stream = session.open_stream()
        started = await stream.subscribe(channel)
        published = [await publish(http, channel, f"event {n}") for n in range(20)]
        got = await stream.publications(20, channel)
    assert [(p["epoch"], p["offset"]) for p in got] == published
    assert [p["data"] for p in got] == [f"event {n}" for n in range(20)]
    assert started["offset"] < got[0]["offset"] and session.datagrams.empty(), "events travel on their stream only"


async def test_publishing_on_a_stream(server):
    channel = name()
    async with server.http() as http, wt.open_wt(server) as session:
        stream = session.open_stream()
        await stream.subscribe(channel)
        for body in ({"data": "text"}, {"data": {"json": [1, None]}}, {"b64": b64(b"\0\xff")}):
            answer = await stream.ask(type="publish", channel=channel, **body)
            assert answer["type"] == "published", answer
            got = next((m for m in stream.kept if m.get("offset") == answer["offset"] and m["type"] == "publication"), None)
            got = got or await stream.until("publication")
            assert {k: got[k] for k in body} == body, got
        cursor = cursors.build((channel, answer["epoch"], answer["offset"] - 1))
        assert [p["b64"] for p in (await poll(http, channel, after=cursor))["publications"]] == [b64(b"\0\xff")]


async def test_a_stream_for_each_channel(server):
    channels = [name() for _ in range(20)]
    async with server.http() as http, wt.open_wt(server) as session:
        streams = [session.open_stream() for _ in channels]
        for stream, channel in zip(streams, channels):
            await stream.subscribe(channel)
        for n, channel in enumerate(channels):
            await publish(http, channel, n)
        for n, (stream, channel) in enumerate(zip(streams, channels)):
            assert [p["data"] for p in await stream.publications(1, channel)] == [n]


async def test_several_channels_on_one_stream(server):
    channels = [name() for _ in range(20)]
    async with server.http() as http, wt.open_wt(server) as session:
        stream = session.open_stream()
        for channel in channels:
            await stream.subscribe(channel)
        for n, channel in enumerate(channels):
            await publish(http, channel, n)
        got = await stream.publications(20)
    assert {p["channel"]: p["data"] for p in got} == {c: n for n, c in enumerate(channels)}


async def test_a_silent_stream_holds_nothing_up(server):
    async with wt.open_wt(server) as session:
        silent = [session.open_stream() for _ in range(5)]
        await session.open_stream().subscribe(name())
        for stream in silent:
            await stream.barrier()


async def test_a_stream_not_read_holds_nothing_up(server):
    """Frames cut anywhere, and half a frame left lying on another stream."""
    async with wt.open_wt(server) as session:
        control, half, stream = (session.open_stream() for _ in range(3))
        half.write(fulmar_bin.prefixed(fulmar_bin.from_json({"type": "ping", "ref": 1}))[:1])
        for byte in fulmar_bin.prefixed(fulmar_bin.from_json({"type": "ping", "ref": 2})):
            stream.write(bytes([byte]))
        assert await stream.recv("the pong") == {"type": "pong", "ref": 2}
        await control.barrier()


async def test_errors_leave_the_stream_open(server):
    channel = name()
    async with wt.open_wt(server) as session:
        stream = session.open_stream()
        await stream.subscribe(channel)
        for message, code in (
            ({"type": "subscribe", "channel": channel}, "already_subscribed"),
            ({"type": "subscribe", "channel": "a b"}, "bad_channel"),
            ({"type": "unsubscribe", "channel": name()}, "not_subscribed"),
            ({"type": "subscribe", "channel": name(), "after": "x"}, "bad_cursor"),
            ({"type": "publish", "channel": name(), "data": "t" * 65_537}, "payload_too_large"),
        ):
            answer = await stream.ask(**message)
            assert answer["type"] == "error" and answer["error"]["code"] == code, (message, answer)
        await stream.barrier()


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_ending_a_stream_ends_its_subscriptions(server, how):
    channel = name()
    async with server.http() as http, wt.open_wt(server) as session:
        control, stream = session.open_stream(), session.open_stream()
        await stream.subscribe(channel)
        getattr(stream, how)()
        await stream.ended()
        again = session.open_stream()
        await again.subscribe(channel)
        await publish(http, channel, "again")
        await again.publications(1, channel)
        await control.barrier()


async def test_streams_opened_and_closed_many_times(server):
    """More streams than any first limit, one after another."""
    async with wt.open_wt(server) as session:
        session.open_stream()
        for _ in range(200):
            stream = session.open_stream()
            await stream.barrier()
            stream.fin()


async def test_state_reaches_its_newest_value(server):
    channel, view = name("state"), View()
    async with server.http() as http, wt.open_wt(server) as session:
        await publish(http, channel, "a0", key="a")
        await publish(http, channel, "b0", key="b")
        session.open_stream()
        stream = session.open_stream()
        await stream.subscribe(channel)
        first = [await stream.recv("the snapshot") for _ in range(4)]
        assert [m["type"] for m in first] == ["reset", "publication", "publication", "synced"], first
        for message in first:
            view.take(message)
        assert view.values() == {"a": "a0", "b": "b0"}
        for n in range(1, 101):
            epoch, offset = await publish(http, channel, f"a{n}", key="a")
        async with within(15, "the newest value of the key, by datagram"):
            while view.values()["a"] != "a100":
                view.take(await session.datagram())
        # The low-water offset comes to it, and is a cursor: nothing is left after it.
        await session.position(channel, offset)
        after = cursors.build((channel, epoch, offset))
        assert (await poll(http, channel, after=after))["publications"] == []


async def test_state_of_all_sizes_converges_over_a_bad_path(server):
    """A third of the datagrams is lost: what comes is newer each time, and at the position nothing is missing."""
    channel, view, dice, lost = name("state"), View(), random.Random(9), []
    async with wt.open_wt(server) as session, open_ws(server, binary=True) as publisher:
        session.loses = lambda data: dice.random() < 1 / 3 and lost.append(data) is None
        stream = session.open_stream()
        await stream.subscribe(channel)
        await stream.until("synced")
        wanted = {}
        for round in range(10):
            # In one datagram, in parts, by stream, or removed.
            changes = [{"channel": channel, "key": f"k{n}", "data": f"{round} " + "x" * dice.choice([10, 700, 3_000, 15_000, 20_000])} for n in range(9)]
            changes[round % 9] = {"channel": channel, "key": f"k{round % 9}", "removed": True}
            head = (await publisher.publish_many(changes))[-1]["offset"]
            wanted |= {change["key"]: change.get("data") for change in changes}
        await session.position(channel, head)
        came = []
        while not session.datagrams.empty():
            came.append(await session.datagram())
        while not stream.inbox.empty():
            came.append(await stream.recv())
    assert lost, "no datagram was lost"
    for message in came:
        view.take(message)
    assert view.values() == {key: data for key, data in wanted.items() if data is not None}


async def test_state_too_large_for_a_datagram(server):
    channel = name("state")
    async with server.http() as http, wt.open_wt(server) as session:
        stream = session.open_stream()
        await stream.subscribe(channel)
        await stream.until("synced")
        await publish(http, channel, "x" * 60_000, key="large")
        got = await stream.until("publication", awaited="the large value on the stream")
        assert (got["key"], len(got["data"])) == ("large", 60_000)


async def test_a_removal_that_is_lost_comes_again(server):
    channel, lost = name("state"), []
    async with server.http() as http, wt.open_wt(server) as session:
        await publish(http, channel, 1, key="k")
        stream = session.open_stream()
        await stream.subscribe(channel)
        await stream.until("synced")
        session.loses = lambda data: len(lost) < 2 and lost.append(data) is None
        _, offset = await publish(http, channel, removed=True, key="k")
        got = await session.datagram("the removal")
        assert got["removed"] is True and got["key"] == "k" and got["offset"] == offset, got
        assert len(lost) == 2
        await session.position(channel, offset)


async def test_state_that_is_not_acknowledged_comes_again_as_it_is_by_then(server):
    channel = name("state")
    async with server.http() as http, wt.open_wt(server) as session:
        stream = session.open_stream()
        await stream.subscribe(channel)
        await stream.until("synced")
        lost = []
        session.loses = lambda data: lost.append(data) is None
        for n in range(3):
            await publish(http, channel, n, key="k")
        async with within(15, "datagrams to lose"):
            while not lost:
                await asyncio.sleep(0.005)
            _, offset = await publish(http, channel, "last", key="k")
            # Of those before it, none can still be on its way then.
            while not any(b"last" in data for data in lost):
                await asyncio.sleep(0.005)
        session.loses = lambda data: False
        got = await session.datagram("the newest value")
        assert (got["data"], got["offset"]) == ("last", offset), got
        await session.position(channel, offset)


async def test_signals_travel_by_datagram(server):
    channel = name("signal")
    async with server.http() as http, wt.open_wt(server) as session:
        stream = session.open_stream()
        await stream.subscribe(channel)
        _, offset = await publish(http, channel, "small", ttl_ms=60_000)
        got = await session.datagram()
        assert (got["channel"], got["offset"], got["data"]) == (channel, offset, "small")


@pytest.mark.parametrize("session_ids", [1, 3])
async def test_a_session_whose_id_is_not_zero(server, session_ids):
    """Streams and datagrams carry the id of the CONNECT stream, which other clients do not open first."""
    channel = name("state")
    async with server.http() as http, wt.quic(server) as client:
        for _ in range(session_ids):
            await client.get("/healthz")
        session = await client.session()
        assert session.id == 4 * session_ids
        stream = session.open_stream()
        await stream.subscribe(channel)
        await stream.until("synced")
        _, offset = await publish(http, channel, "v", key="k")
        assert (await session.datagram())["offset"] == offset


async def test_datagrams_and_unidirectional_streams_of_a_client(server):
    async with wt.open_wt(server) as session:
        control = session.open_stream()
        for payload, session_id in ((b"", None), (b"\xff" * 1_000, None), (b"\x02\x09\x01", None), (b"x", 400)):
            session.send_datagram(payload, session_id)
        await control.barrier()
        # Refused: either the peer grants no such stream, or it asks to stop sending on it.
        stream_id = session.client.h3.create_webtransport_stream(session.id, is_unidirectional=True)
        session.quic.send_stream_data(stream_id, b"unwanted")
        stopped = session.client.stopped.setdefault(stream_id, asyncio.Event())
        session.client.transmit()
        if stream_id // 4 < session.quic._remote_max_streams_uni:
            async with within(15, "STOP_SENDING for a unidirectional stream"):
                await stopped.wait()
        await control.barrier()


@pytest.mark.parametrize("frame", [b"\x7f", b"\x21\x01\x05ev", b"\x09\x01\x00", b""], ids=["unknown type", "cut short", "bytes left over", "empty"])
async def test_malformed_frames_are_answered(server, frame):
    async with wt.open_wt(server) as session:
        control, stream = session.open_stream(), session.open_stream()
        stream.write(fulmar_bin.prefixed(frame))
        answer = await stream.recv("an error")
        assert answer is not wt.ENDED and answer["type"] == "error" and answer["error"]["code"], answer
        await stream.barrier()
        await control.barrier()


@pytest.mark.parametrize("length", [131_073, 2**30, 2**62 - 1])
async def test_a_length_above_the_bound(server, length):
    """It cannot be answered in-band, since the next frame cannot be found: 4901."""
    async with wt.open_wt(server) as session:
        control = session.open_stream()
        await control.barrier()
        session.open_stream().write(fulmar_bin.varint(length) + bytes(100))
        close = await control.until("close", awaited="the in-band close")
        assert close["code"] == 4901, close
        assert (await session.closed())[0] == 4901
        await session.gone()


@pytest.mark.parametrize("code,reason", [(0, ""), (1000, "done"), (4123, "eigener Gruß"), (2**32 - 1, "r" * 1_024)])
async def test_the_client_closes(server, code, reason):
    channel = name()
    async with server.http() as http, wt.open_wt(server) as session:
        stream = session.open_stream()
        await stream.subscribe(channel)
        session.close(code, reason)
        await session.gone()
        await publish(http, channel, "to nobody")


async def test_the_client_ends_the_connect_stream(server):
    async with wt.open_wt(server) as session:
        await session.open_stream().barrier()
        session.client.h3.send_data(session.id, b"", end_stream=True)
        session.client.transmit()
        await session.gone()


async def test_the_server_closes_by_capsule(server):
    """Replaced by another connection: in-band close, then the capsule with the same code and reason, then FIN."""
    channel = name()
    async with server.http() as http, wt.open_wt(server) as session, open_ws(server) as ws:
        resumable = await new_session(http)
        control = session.open_stream()
        await attach(control, resumable)
        stream = session.open_stream()
        await stream.subscribe(channel)
        _, first = await publish(http, channel, "to WebTransport")
        assert offsets(await stream.publications(1)) == [first]
        await attach(ws, resumable)
        close = await control.until("close", awaited="the in-band close")
        assert close["code"] == 4900 and isinstance(close["reason"], str), close
        assert await session.closed() == (4900, close["reason"])
        await session.gone()
        _, second = await publish(http, channel, "to WebSocket")
        await ws.until("publication", offset=second)
        assert not [m for m in ws.kept if m["type"] == "publication"], ws.kept


async def test_attach_moves_a_session_here(server):
    channel, state = name(), name("state")
    async with server.http() as http, wt.open_wt(server) as session, open_ws(server) as ws:
        resumable = await new_session(http)
        await attach(ws, resumable)
        await ws.subscribe(channel)
        await ws.subscribe(state)
        await ws.until("synced")
        control = session.open_stream()
        await attach(control, resumable)
        assert (await ws.closed())[0] == 4900
        _, offset = await publish(http, channel, "here now")
        assert (await control.until("publication", channel=channel))["offset"] == offset


async def test_send_reaches_a_session_over_webtransport(server):
    channel = name()
    async with server.http() as http, wt.open_wt(server) as session:
        resumable = await new_session(http)
        control = session.open_stream()
        await attach(control, resumable)
        response = await http.post("/send", json={"type": "subscribe", "channel": channel}, headers=bearer(resumable))
        assert response.status_code == 200 and response.json()["type"] == "subscribed", response.text
        await publish(http, channel, "by way of POST")
        assert (await control.until("publication"))["data"] == "by way of POST"


async def test_a_cursor_from_poll(server):
    channel = name()
    async with server.http() as http, wt.open_wt(server) as session:
        cursor = (await poll(http, channel))["cursor"]
        published = [(await publish(http, channel, n))[1] for n in range(5)]
        stream = session.open_stream()
        await stream.subscribe(channel, after=cursor)
        assert offsets(await stream.publications(5, channel)) == published


async def test_a_position_from_here_on_poll_and_sse(server):
    channel = name()
    async with server.http() as http, wt.open_wt(server) as session:
        stream = session.open_stream()
        await stream.subscribe(channel)
        published = [(await publish(http, channel, n))[1] for n in range(5)]
        third = (await stream.publications(3, channel))[-1]
        cursor = cursors.build((channel, third["epoch"], third["offset"]))
        assert offsets((await poll(http, channel, after=cursor))["publications"]) == published[3:]
        async with await EventStream.open(server, channel, after=cursor) as events:
            assert [(await events.message())["offset"] for _ in range(2)] == published[3:]


async def test_a_vanished_client_is_no_harm(server):
    channel = name()
    async with server.http() as http:
        async with wt.open_wt(server) as session:
            await session.open_stream().subscribe(channel)
            session.client._transport.abort()
            session.client._closed.set()
        async with wt.open_wt(server) as session:
            stream = session.open_stream()
            await stream.subscribe(channel)
            await publish(http, channel, 1)
            await stream.publications(1)
