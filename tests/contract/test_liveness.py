"""Signs of life (PROTOCOL.md sections 4, 7 and 8). These wait as long as the protocol does, so they wait together."""

import asyncio
import json
import threading
import time

import pytest
import raw
import stalled
import wt
from h2ws import CLOSE, H2, PING, TEXT
from server import DEADLINE, Server, name, publish, start_configured, within
from test_sessions import bearer, new_session, send
from ws import open_ws

PATIENCE = 45
# Two heartbeats and the deadline: limits.rs.
FOUND = 2 * 20 + 10
# Between two comments of an event stream.
COMMENTS = 15
SESSION = [*raw.UPGRADE, ("Sec-WebSocket-Protocol", "fulmar.v1.json")]
CONFIGURATION = """
session_grace_seconds = 1

[api]
key_file = "{key_file}"

[namespaces.event]
class = "event"
subscribe = true
publish = true

[namespaces.short]
class = "event"
subscribe = true
publish = true
count = 10
"""
KEY = "a key that only its owner knows"


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory):
    """A server that keeps a session for a second without a connection."""
    running = start_configured(tmp_path_factory.mktemp("forgetful"), CONFIGURATION, KEY)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def others():
    """Servers that nobody else uses, so that what is left on them can be counted."""
    running = [Server() for _ in range(5)]
    yield running
    for one in running:
        one.stop()


async def sessions(http, **options):
    answer = await http.get("/api/stats", **options)
    assert answer.status_code == 200, answer.text
    return answer.json()["sessions"]


async def gone(http, patience, what, **options):
    """After how many seconds a server has no session any more."""
    began = time.monotonic()
    async with within(patience, what):
        while await sessions(http, **options):
            await asyncio.sleep(0.1)
    return time.monotonic() - began


async def flooded(http, channel):
    """Publishes until it is cancelled."""
    while True:
        await publish(http, channel, "x" * 60_000)


async def frames(connection):
    """The frames of a WebSocket that is read by hand, to its end."""
    buffer = b""
    while True:
        while (parsed := raw.ws_unframe(buffer)) is not None:
            opcode, _, payload, buffer = parsed
            yield opcode, payload
        data = await connection.reader.read(65536)
        if not data:
            return
        buffer += data


async def an_answering_session_stays(server):
    async with wt.open_wt(server) as session:
        control = session.open_stream()
        await control.barrier()
        for count in range(3):
            async with within(PATIENCE, f"ping {count + 1} on the control stream"):
                message = wt.take(await control.inbox.get())
            assert message is not wt.ENDED and message["type"] == "ping", message
            control.send(type="pong", **{k: v for k, v in message.items() if k == "ref" and v})
        await control.barrier()


async def an_answer_has_its_whole_deadline(server):
    """Also when something was sent shortly before the ping was due."""
    channel = name()
    async with server.http() as http, wt.open_wt(server) as session:
        control = session.open_stream()
        await control.subscribe(channel)
        # How late it comes is what is tested: shortly before the 20 s of silence, and well within the 10 s to answer.
        await asyncio.sleep(15)
        await publish(http, channel, "in between")
        await control.publications(1)
        ping = await control.until("ping")
        await asyncio.sleep(7)
        control.send(type="pong", **{k: v for k, v in ping.items() if k == "ref" and v})
        await control.barrier()


async def a_session_without_streams_is_closed(server):
    async with wt.open_wt(server) as session, within(PATIENCE, "the CLOSE capsule"):
        assert await asyncio.shield(session.close_capsule) == (4001, "no_heartbeat")


async def a_silent_websocket_is_asked_and_closed(server):
    async with await raw.Connection.open(server.port) as connection:
        await connection.request("GET", "/ws", [("Host", f"127.0.0.1:{server.port}"), *SESSION])
        assert (await connection.head()).status_code == 101
        seen = []
        async with within(PATIENCE, "the end of a WebSocket that answers no ping"):
            async for opcode, payload in frames(connection):
                seen.append((opcode, payload))
        assert [opcode for opcode, _ in seen] == [9, 1, 8], seen
        assert json.loads(seen[1][1]) == {"type": "close", "code": 4001, "reason": "no_heartbeat"}
        assert seen[2][1] == (4001).to_bytes(2, "big") + b"no_heartbeat"


async def a_slow_reader_that_always_lags_stays(server, enough):
    """It reads much less than is published, says nothing of its own, and lives."""
    channel = name()
    async with server.http() as http, await raw.Connection.open(server.port) as connection:
        await connection.request("GET", f"/ws?channel={channel}", [("Host", f"127.0.0.1:{server.port}"), *SESSION])
        assert (await connection.head()).status_code == 101

        flooding = asyncio.create_task(flooded(http, channel))
        pings = 0
        try:
            async with asyncio.timeout(enough):
                async for opcode, payload in frames(connection):
                    if opcode == 9:
                        pings += 1
                        connection.writer.write(raw.ws_frame(10, payload))
                    assert opcode != 8, f"closed with {payload!r} after {pings} pings"
                    # The pace of a slow network, not a wait for anything.
                    await asyncio.sleep(0.1)
                raise AssertionError(f"the connection ended without a close after {pings} pings")
        except TimeoutError:
            pass
        finally:
            flooding.cancel()
        assert pings > 0, "a reader that says nothing of its own is asked"


async def a_silent_websocket_on_http2_is_asked_and_closed(server):
    async with H2(server) as connection:
        stream = await connection.websocket()
        seen = []
        async with within(PATIENCE, "the end of a WebSocket that answers no ping, though its HTTP/2 connection does"):
            while True:
                while parsed := raw.ws_unframe(stream.buffer):
                    opcode, _, payload, stream.buffer = parsed
                    seen.append((opcode, payload))
                if (data := await stream.inbox.get()) is None:
                    break
                stream.buffer += data
        assert [opcode for opcode, _ in seen] == [PING, TEXT, CLOSE], seen
        assert json.loads(seen[1][1]) == {"type": "close", "code": 4001, "reason": "no_heartbeat"}


async def a_reader_that_answers_no_ping_is_closed(server):
    """Also when it takes all that it is sent."""
    channel = name()
    async with server.http() as http, await raw.Connection.open(server.port) as connection:
        await connection.request("GET", f"/ws?channel={channel}", [("Host", f"127.0.0.1:{server.port}"), *SESSION])
        assert (await connection.head()).status_code == 101

        async def trickle():
            while True:
                await publish(http, channel, "news")
                # The pace of a channel that is in use, and leaves its readers time.
                await asyncio.sleep(0.5)

        publishing = asyncio.create_task(trickle())
        opcode = None
        try:
            async with within(PATIENCE, "the end of a WebSocket that reads and answers no ping"):
                async for opcode, payload in frames(connection):
                    if opcode == 8:
                        assert payload == (4001).to_bytes(2, "big") + b"no_heartbeat"
        finally:
            publishing.cancel()
        assert opcode == 8


async def an_event_stream_is_never_silent(server):
    """A proxy that cuts what is silent for a minute hears of it several times."""
    async with await raw.EventStream.open(server, name()) as stream:
        assert await stream.any_block("the head of an event stream")
        for _ in range(3):
            async with within(COMMENTS + 2, "a comment"):
                while b"\n\n" not in stream.buffer:
                    stream.buffer += await stream.connection.some()
            block, stream.buffer = stream.buffer.split(b"\n\n", 1)
            assert block.startswith(b":"), block


async def an_event_stream_that_is_not_read_ends(server):
    """Its client's machine answers for it, and its window stays closed."""
    channel = name()
    reader = await asyncio.to_thread(stalled.EventStream, server, channel)
    try:
        async with server.http() as http:
            for _ in range(8):
                await publish(http, channel, "x" * 60_000)
            took = await gone(http, FOUND, "the end of an event stream that is not read")
    finally:
        reader.close()
    assert took > 20, f"a reader that stops for {took:.0f} s is not gone"


async def read_slowly(reader, seconds):
    """512 bytes a second; gives how many."""
    taken = 0
    reader.socket.setblocking(False)
    try:
        async with asyncio.timeout(seconds):
            while data := await asyncio.get_running_loop().sock_recv(reader.socket, 512):
                taken += len(data)
                # The pace of a slow network, not a wait for anything.
                await asyncio.sleep(1)
            raise AssertionError(f"the stream ended after {taken} bytes")
    except TimeoutError:
        return taken


async def one_that_is_read_slowly_stays(transport, server, enough):
    """Its window is closed nearly all the time, and a WebSocket's ping is far behind."""
    channel = name()
    reader = await asyncio.to_thread(transport, server, channel)
    try:
        async with server.http() as http:
            for _ in range(8):
                await publish(http, channel, "x" * 60_000)
            assert await read_slowly(reader, enough) < 8 * 60_000, "it was to lag all the time"
            assert await sessions(http) == 1
    finally:
        reader.close()


async def an_event_stream_that_is_read_slowly_and_no_more_ends(server):
    """What it was spared while it was read does not keep it."""
    channel = name()
    reader = await asyncio.to_thread(stalled.EventStream, server, channel)
    try:
        async with server.http() as http:
            for _ in range(8):
                await publish(http, channel, "x" * 60_000)
            await read_slowly(reader, 20)
            assert await sessions(http) == 1
            await gone(http, FOUND, "the end of an event stream that is not read any more")
    finally:
        reader.close()


async def an_event_stream_on_a_connection_that_answers_stays(server, enough):
    """A tab that is halted, in a browser that is not: its stream has no window left, and the connection answers pings."""
    channel, resumed = name(), threading.Event()
    reader = await asyncio.to_thread(stalled.Http2EventStreamWithoutWindow, server, channel)
    halted = asyncio.create_task(asyncio.to_thread(reader.stop, resumed))
    try:
        async with server.http() as http:
            for n in range(8):
                await publish(http, channel, [n, "x" * 60_000])
            # How long it is halted is what is tested.
            await asyncio.sleep(enough)
            assert await sessions(http) == 1
        resumed.set()
        await halted
        for n in range(8):
            message = await asyncio.to_thread(reader.next)
            assert message["data"][0] == n, str(message)[:200]
    finally:
        resumed.set()
        reader.close()


async def sessions_that_nobody_goes_on_with_are_reaped(server):
    """Made and not used; and polled, until its client asks no more."""
    key = {"headers": {"Authorization": f"Bearer {KEY}"}}
    async with server.http() as http:
        for polled in (False, True):
            assert await sessions(http, **key) == 0
            session = await new_session(http)
            if polled:
                ticket = (await http.post("/session/ticket", headers=bearer(session), json={})).json()["ticket"]
                await poll_by(http, ticket)
            assert await sessions(http, **key) == 1
            await gone(http, 1 + 1 + 2, f"the end of a session, {polled=}", **key)
            assert (await send(http, session, type="ping")).status_code == 401


async def poll_by(http, ticket):
    answer = await http.get("/poll", params={"channel": name(), "ticket": ticket})
    assert answer.status_code == 200, answer.text


async def a_sleeper_goes_on_or_is_told_why_not(server):
    """A machine that sleeps until its connection was ended, its session reaped, and a history has run over."""
    kept, lost = name(), name("short")
    key = {"Authorization": f"Bearer {KEY}"}
    async with server.http() as http, await raw.Connection.open(server.port) as connection:
        session = await new_session(http)
        await connection.request("GET", "/ws", [("Host", f"127.0.0.1:{server.port}"), *SESSION])
        assert (await connection.head()).status_code == 101
        for message in (
            {"type": "attach", "id": session["id"], "secret": session["secret"]},
            {"type": "subscribe", "channel": kept},
            {"type": "subscribe", "channel": lost},
        ):
            connection.writer.write(raw.ws_frame(TEXT, json.dumps(message).encode()))
        came = frames(connection)
        positions = []
        async with within(DEADLINE, "two subscriptions"):
            while len(positions) < 2:
                message = json.loads((await anext(came))[1])
                if message["type"] == "subscribed":
                    positions.append({member: message[member] for member in ("channel", "epoch", "offset")})

        # It sleeps: nothing is read or answered.
        await gone(http, FOUND, "the end of a sleeper's session", headers=key)
        for n in range(12):
            for channel in (kept, lost):
                await http.post("/api/publish", json={"channel": channel, "data": n}, headers=key)

        # It wakes.
        async with within(DEADLINE, "what a sleeper was told"):
            told = [payload async for opcode, payload in came if opcode == TEXT]
        assert json.loads(told[-1]) == {"type": "close", "code": 4001, "reason": "no_heartbeat"}
        async with open_ws(server) as ws:
            refused = await ws.ask(type="attach", id=session["id"], secret=session["secret"])
            assert refused["type"] == "error" and refused["error"]["code"] == "unknown_session", refused
            answer = await ws.ask(type="attach", id=session["id"], secret=session["secret"], positions=positions)
            assert answer["type"] == "attached" and answer["resumed"] is False, answer
            gaps, data, recovered = [], {kept: [], lost: []}, {}
            while len(data[kept]) < 12 or len(data[lost]) < 10:
                message = await ws.until("subscribed", "gap", "publication")
                if message["type"] == "subscribed":
                    recovered[message["channel"]] = message["recovered"]
                elif message["type"] == "gap":
                    gaps.append(message["channel"])
                else:
                    data[message["channel"]].append(message["data"])
            assert recovered == {kept: True, lost: False} and gaps == [lost]
            assert data == {kept: list(range(12)), lost: list(range(2, 12))}


async def one_after_the_other(*steps):
    for step in steps:
        await step


async def test_who_lives_stays_and_who_is_gone_is_closed(server, forgetful, others):
    await asyncio.gather(
        an_answering_session_stays(server),
        an_answer_has_its_whole_deadline(server),
        a_session_without_streams_is_closed(server),
        a_silent_websocket_is_asked_and_closed(server),
        a_silent_websocket_on_http2_is_asked_and_closed(server),
        a_reader_that_answers_no_ping_is_closed(server),
        a_slow_reader_that_always_lags_stays(server, enough=60),
        an_event_stream_is_never_silent(server),
        an_event_stream_that_is_not_read_ends(others[0]),
        one_that_is_read_slowly_stays(stalled.EventStream, others[1], enough=60),
        one_that_is_read_slowly_stays(stalled.WebSocket, others[4], enough=60),
        an_event_stream_that_is_read_slowly_and_no_more_ends(others[2]),
        an_event_stream_on_a_connection_that_answers_stays(others[3], enough=50),
        one_after_the_other(
            sessions_that_nobody_goes_on_with_are_reaped(forgetful),
            a_sleeper_goes_on_or_is_told_why_not(forgetful),
        ),
    )
