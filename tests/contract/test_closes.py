"""Close codes: each that can occur on a transport is provoked there, as the table of PROTOCOL.md section 10 has it."""

import asyncio
import contextlib
import json
import pathlib
import signal

import fulmar_bin
import pytest
import raw
import slow
import wt
from raw import EventStream
from server import DEADLINE, ROOT, Server, check_error, name, poll, within
from test_sessions import attach, new_session, send, ticket
from ws import open_ws

TRANSPORTS = ["WebSocket", "WebTransport", "SSE", "poll"]
#: Longer than the 20 s of silence before a client is asked for a sign of life, and the 10 s it has to give one.
PATIENCE = 45
SCENARIOS = {}


def table():
    """{(code, transport): what the table says there}, and the names of the codes."""
    protocol = pathlib.Path(ROOT / "server/PROTOCOL.md").read_text()
    head, *rows = (line for line in protocol.split("## 10. Close codes")[1].splitlines() if line.startswith("| "))
    columns = [cell.strip() for cell in head.strip("|").split("|")]
    said, names = {}, {}
    for row in rows:
        cells = dict(zip(columns, (cell.strip() for cell in row.strip("|").split("|")), strict=True))
        code = int(cells["code"])
        names[code] = cells["name"]
        said |= {(code, transport): cells[transport] for transport in TRANSPORTS}
    return said, names


SAID, NAMES = table()
OCCURS = [where for where, said in SAID.items() if said != "no"]


def occurs(code, *transports):
    """Registers what provokes this code there."""

    def register(scenario):
        for transport in transports:
            assert (code, transport) not in SCENARIOS, (code, transport)
            SCENARIOS[code, transport] = scenario
        return scenario

    return register


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = slow.start(tmp_path_factory.mktemp("closes"))
    yield running
    running.stop()


def test_what_can_occur_is_provoked_and_nothing_else():
    assert sorted(SCENARIOS) == sorted(OCCURS)


@pytest.mark.parametrize("code", sorted({code for code, _ in OCCURS}))
async def test_a_close_arrives_as_the_table_says(server, code):
    """Each transport at once, since some of them take half a minute of silence."""
    transports = [transport for there, transport in OCCURS if there == code]
    ends = await asyncio.gather(*(SCENARIOS[code, transport](server, transport, code) for transport in transports), return_exceptions=True)
    failed = {transport: end for transport, end in zip(transports, ends, strict=True) if isinstance(end, BaseException)}
    assert not failed, "; ".join(f"{code} over {transport}: {type(end).__name__}: {end}" for transport, end in failed.items())


# ---- what arrives ---------------------------------------------------------------------------------------------------


def check(message, code):
    assert (message["type"], message["code"], message["reason"]) == ("close", code, NAMES[code]), message
    assert ("retry_ms" in message) == (code == 4000), message


async def websocket_ends(ws, code):
    check(await ws.until("close", awaited="the in-band close"), code)
    assert await ws.closed() == (code, NAMES[code])


async def webtransport_ends(session, control, code):
    check(await control.until("close", awaited="the in-band close"), code)
    assert await session.closed() == (code, NAMES[code])
    await session.gone()


async def sse_ends(events, code):
    """The last event, and the `retry` that it stands behind."""
    event = {}
    while event.get("event") != "close":
        block = await events.any_block("the event close")
        assert block, "the stream ended without a close"
        event = raw.parse_block(block)
    check({"type": "close"} | json.loads(event["data"]), code)
    assert "id" in event and event["retry"].isdigit(), event
    assert await events.any_block("the end of the stream") == b""
    hour = 3_600_000
    assert (int(event["retry"]) >= hour) == (code >= 4900), event
    return event


# ---- 4000 -----------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def stopping():
    """A server, and what tells it to stop."""
    own = Server()
    try:
        yield own, lambda: own.process.send_signal(signal.SIGTERM)
        assert await own.wait() == 0
    finally:
        own.stop()


@occurs(4000, "WebSocket")
async def stop_websockets(_, transport, code):
    async with stopping() as (own, stop), open_ws(own) as text, open_ws(own, binary=True) as binary:
        for ws in (text, binary):
            await ws.barrier()
        stop()
        await asyncio.gather(websocket_ends(text, code), websocket_ends(binary, code))


@occurs(4000, "WebTransport")
async def stop_webtransport(_, transport, code):
    async with stopping() as (own, stop), wt.open_wt(own) as session:
        control = session.open_stream()
        await control.barrier()
        stop()
        await webtransport_ends(session, control, code)


@occurs(4000, "SSE")
async def stop_event_streams(_, transport, code):
    async with stopping() as (own, stop), await EventStream.open(own, name()) as events:
        stop()
        event = await sse_ends(events, code)
        assert int(event["retry"]) == json.loads(event["data"])["retry_ms"], event


@occurs(4000, "poll")
async def stop_polls(_, transport, code):
    async with stopping() as (own, stop), own.http() as http:
        channel = name()
        cursor = (await poll(http, channel))["cursor"]
        waiting = asyncio.create_task(http.get("/poll", params={"channel": channel, "after": cursor, "wait": "30"}))
        async with within(DEADLINE, "the poll to wait"):
            while (await http.get("/api/stats")).json()["sessions"] == 0:
                pass
        stop()
        answer = await waiting
        assert answer.status_code == 200 and answer.json()["cursor"] == cursor, answer.text
        assert int(answer.headers["retry-after"]) > 0


# ---- 4001 -----------------------------------------------------------------------------------------------------------


@occurs(4001, "WebSocket")
async def a_silent_websocket(server, transport, code):
    async with await raw.Connection.open(server.port) as connection:
        await connection.request("GET", "/ws", [("Host", f"127.0.0.1:{server.port}"), *raw.UPGRADE])
        assert (await connection.head()).status_code == 101
        buffer, seen = b"", []
        async with within(PATIENCE, "the end of a WebSocket that answers no ping"):
            while data := await connection.reader.read(65536):
                buffer += data
                while parsed := raw.ws_unframe(buffer):
                    opcode, _, payload, buffer = parsed
                    seen.append((opcode, payload))
        (ping, _), (text, message), (end, payload) = seen
        assert (ping, text, end) == (9, 1, 8), seen
        check(json.loads(message), code)
        assert payload == code.to_bytes(2, "big") + NAMES[code].encode()


@occurs(4001, "WebTransport")
async def a_silent_session(server, transport, code):
    async with wt.open_wt(server) as session:
        control = session.open_stream()
        await control.barrier()
        messages = []
        async with within(PATIENCE, "the in-band close"):
            while not messages or messages[-1]["type"] != "close":
                messages.append(wt.take(await control.inbox.get()))
        assert [message["type"] for message in messages] == ["ping", "close"], messages
        check(messages[-1], code)
        assert await session.closed() == (code, NAMES[code])


# ---- 4501 -----------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def witness(server, channel):
    async with open_ws(server, binary=True, max_queue=None) as ws:
        await ws.subscribe(channel)
        yield [ws]


@occurs(4501, "WebSocket")
async def a_slow_websocket(server, transport, code):
    channel = name("strict")
    async with witness(server, channel) as watching, open_ws(server, max_queue=None) as ws:
        await ws.subscribe(channel)
        with slow.stopped(ws.connection.transport):
            await slow.flood(server, channel, watching)
        await websocket_ends(ws, code)


@occurs(4501, "WebTransport")
async def a_slow_session(server, transport, code):
    channel = name("strict")
    async with witness(server, channel) as watching, wt.open_wt(server) as session:
        control, stream = session.open_stream(), session.open_stream()
        await control.barrier()
        await stream.subscribe(channel)
        with slow.away(session.client):
            await slow.flood(server, channel, watching, count=100)
        await webtransport_ends(session, control, code)


@occurs(4501, "SSE")
async def a_slow_event_stream(server, transport, code):
    channel = name("strict")
    async with witness(server, channel) as watching, await EventStream.open(server, channel) as events:
        with slow.stopped(events.connection.writer.transport):
            await slow.flood(server, channel, watching)
        await sse_ends(events, code)


@occurs(4501, "poll")
async def a_session_that_was_not_polled(server, transport, code):
    channel = name("strict")
    async with slow.api(server) as http, witness(server, channel) as watching:
        session = await new_session(http)
        assert (await send(http, session, type="subscribe", channel=channel)).status_code == 200
        await slow.flood(server, channel, watching, count=2 * slow.HELD)
        check_error(await http.get("/poll", params={"ticket": await ticket(http, session), "wait": "30"}), 409, SAID[code, transport].strip("`"))


# ---- 4900 -----------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def resumable(server):
    """A session, and what attaches it elsewhere."""
    async with server.http() as http, open_ws(server) as other:
        session = await new_session(http)
        yield http, session, lambda: attach(other, session)


@occurs(4900, "WebSocket")
async def a_replaced_websocket(server, transport, code):
    async with resumable(server) as (_, session, replace), open_ws(server) as ws:
        await attach(ws, session)
        await replace()
        await websocket_ends(ws, code)


@occurs(4900, "WebTransport")
async def a_replaced_session(server, transport, code):
    async with resumable(server) as (_, session, replace), wt.open_wt(server) as connection:
        control = connection.open_stream()
        await attach(control, session)
        await replace()
        await webtransport_ends(connection, control, code)


@occurs(4900, "SSE")
async def a_replaced_event_stream(server, transport, code):
    channel = name()
    async with resumable(server) as (http, session, replace):
        once = await ticket(http, session)
        async with await EventStream.open(server, channel, ticket=once) as events:
            await replace()
            event = await sse_ends(events, code)
        # An EventSource would come back after all, with its URL and the last id that it saw.
        again = await http.get("/sse", params={"channel": channel, "ticket": once}, headers={"last-event-id": event["id"]})
        assert (again.status_code, again.content) == (204, b"")


@occurs(4900, "poll")
async def a_replaced_poll(server, transport, code):
    channel = name()
    async with server.http() as http:
        session = await new_session(http)
        assert (await send(http, session, type="subscribe", channel=channel)).status_code == 200
        tickets = [await ticket(http, session) for _ in range(2)]
        # Whichever comes first is replaced by the other.
        waiting = [asyncio.create_task(http.get("/poll", params={"ticket": once, "wait": "30"})) for once in tickets]
        [ended], [waits] = await asyncio.wait(waiting, timeout=DEADLINE, return_when=asyncio.FIRST_COMPLETED)
        check_error(await ended, 409, SAID[code, transport].strip("`"))
        waits.cancel()


# ---- 4901 -----------------------------------------------------------------------------------------------------------


@occurs(4901, "WebTransport")
async def a_frame_above_the_bound(server, transport, code):
    async with wt.open_wt(server) as session:
        control = session.open_stream()
        await control.barrier()
        session.open_stream().write(fulmar_bin.varint(131_073) + bytes(100))
        await webtransport_ends(session, control, code)
