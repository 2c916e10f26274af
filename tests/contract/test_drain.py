"""A server that stops: nobody is cut off without a word, everybody comes back at a time of their own, and it ends in time."""

import asyncio
import contextlib
import json
import signal
import time
from urllib.parse import urlsplit

import cursors
import httpx
import pytest
import raw
import stalled
import wt
from raw import EventStream
from server import Server, check_error, name, poll, publish, within
from test_quic import DRAIN_SESSION, Watch
from slow import away
from ws import open_ws

#: The least delay and, for a few clients, the time over which they are spread: RETRY_LEAST and RETRY_WINDOW of limits.rs, in ms.
LEAST, WINDOW = 500, 1_000


@pytest.fixture
def own():
    running = Server()
    yield running
    running.stop()


@pytest.fixture
def configured(tmp_path):
    """Starts servers with these settings."""
    running = []

    def start(settings, **addresses):
        path = tmp_path / "fulmar.toml"
        path.write_text(settings)
        running.append(Server("--config", str(path), **addresses))
        return running[-1]

    yield start
    for one in running:
        one.stop()


def told_to_stop(server):
    return [line for line in server.output if line.startswith("Stopping")]


@contextlib.asynccontextmanager
async def draining(server):
    """A session of a server that has been told to stop and that drains: half a second from here."""
    async with wt.open_wt(server) as session:
        await session.open_stream().barrier()
        watch = Watch(session.client)
        server.process.send_signal(signal.SIGTERM)
        await watch.until(lambda: DRAIN_SESSION in session.capsule_kinds, "the DRAIN capsule")
        yield session


async def test_nobody_new_is_let_in_and_everybody_is_told_when_to_come_back(own):
    channel = name()
    session = {"authorization": "Bearer nothing"}
    async with own.http() as kept, draining(own):
        requests = {
            "/readyz": kept.get("/readyz"),
            "/sse": kept.get("/sse", params={"channel": channel}),
            "/poll": kept.get("/poll", params={"channel": channel}),
            "/session": kept.post("/session", json={}),
            "/ws": raw.request(own.port, "GET", "/ws", [("Host", f"127.0.0.1:{own.port}"), *raw.UPGRADE]),
        }
        answers = dict(zip(requests, await asyncio.gather(*requests.values()), strict=True))
        healthy = await kept.get("/healthz", headers=session)
    for route, answer in answers.items():
        check_error(answer, 503, "shutting_down", route)
        after = answer.header("retry-after") if isinstance(answer, raw.Answer) else answer.headers.get("retry-after")
        assert after in ("1", "2"), f"{route} is to be asked again after {after}"
    assert healthy.status_code == 200 and "retry-after" not in healthy.headers, healthy.headers
    assert await own.wait() == 0


async def test_each_client_has_a_delay_of_its_own(own):
    channel = name()
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(own.http())
        sockets = [await stack.enter_async_context(open_ws(own, binary)) for binary in (False, True, False, True)]
        sessions = [await stack.enter_async_context(wt.open_wt(own)) for _ in range(3)]
        controls = [session.open_stream() for session in sessions]
        streams = [await stack.enter_async_context(await EventStream.open(own, channel)) for _ in range(3)]
        for connection in (*sockets, *controls):
            await connection.barrier()
        cursor = (await poll(http, channel))["cursor"]
        waiting = asyncio.create_task(http.get("/poll", params={"channel": channel, "after": cursor, "wait": "30"}))
        stats = None
        async with within(15, "the poll to wait"):
            while stats is None or stats["sessions"] < 11:
                stats = (await http.get("/api/stats")).json()
        own.process.send_signal(signal.SIGTERM)
        closes = [await connection.until("close", awaited="the in-band close") for connection in (*sockets, *controls)]
        for ws in sockets:
            assert await ws.closed() == (4000, "going_away")
        for session in sessions:
            assert await session.closed() == (4000, "going_away")
        for stream in streams:
            event = None
            while event is None or event.get("event") != "close":
                event = raw.parse_block(await stream.any_block("the event close"))
            closes.append(json.loads(event["data"]))
            assert int(event["retry"]) == closes[-1]["retry_ms"], event
        answer = await waiting
    assert answer.status_code == 200 and answer.headers["retry-after"] in ("1", "2"), answer.headers
    assert answer.json() == {"cursor": cursor, "publications": [], "control": [], "more": False}
    delays = sorted(close["retry_ms"] for close in closes)
    assert len(set(delays)) == len(delays) == 10, delays
    assert LEAST <= delays[0] and delays[-1] < LEAST + WINDOW, delays
    # Not only different, but all over the time: each has an eleventh of it, and one is the poll's.
    steps = [after - before for before, after in zip(delays, delays[1:], strict=False)]
    assert max(steps) <= 3 * WINDOW / 11 + 1, delays
    assert await own.wait() == 0


async def test_what_is_in_flight_is_finished(own):
    """A publish whose body has begun is answered, though its end comes behind the closes."""
    channel = name()
    body = json.dumps({"channel": channel, "data": "in flight"}).encode()
    async with open_ws(own) as ws, await raw.Connection.open(own.port) as connection:
        await ws.subscribe(channel)
        headers = [("Host", f"127.0.0.1:{own.port}"), ("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        await connection.request("POST", "/api/publish", headers, body[:10], head_only=True)
        async with own.http() as http:
            await http.get("/healthz")
        own.process.send_signal(signal.SIGTERM)
        assert (await ws.until("close"))["code"] == 4000
        connection.writer.write(body[10:])
        answer = await connection.answer()
        assert answer.status_code == 200 and answer.json()["offset"] == 1, answer
    assert await own.wait() == 0


@pytest.mark.parametrize("first,second", [(signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)])
async def test_a_second_signal_ends_it_at_once(own, first, second):
    async with await raw.Connection.open(own.port) as silent:
        await silent.request("GET", "/ws", [("Host", f"127.0.0.1:{own.port}"), *raw.UPGRADE])
        assert (await silent.head()).status_code == 101
        async with wt.open_wt(own) as session:
            await session.open_stream().barrier()
            watch = Watch(session.client)
            own.process.send_signal(first)
            await watch.until(lambda: DRAIN_SESSION in session.capsule_kinds, "the DRAIN capsule")
            own.process.send_signal(second)
            assert await own.wait() == 128 + second
    own.reader.join()
    [said] = told_to_stop(own)
    assert "2 sessions" in said and "10 s" in said and "second signal" in said, said



async def test_clients_that_have_vanished_do_not_hold_up_the_stop(own):
    """On each transport, idle, and with more on its way than its path takes; well within the 10 s."""
    channel = name()
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(own.http())
        idle = await stack.enter_async_context(await raw.Connection.open(own.port))
        await idle.request("GET", "/ws", [("Host", f"127.0.0.1:{own.port}"), *raw.UPGRADE])
        assert (await idle.head()).status_code == 101
        kinds = (stalled.WebSocket, stalled.EventStream, stalled.Http2EventStream)
        readers = [await loop.run_in_executor(None, kind, own, channel) for kind in kinds]
        client = await stack.enter_async_context(wt.quic(own))
        session = await client.session()
        await session.open_stream().subscribe(channel)
        silent = await stack.enter_async_context(wt.quic(own))
        await (await silent.session()).open_stream().barrier()
        stack.enter_context(away(client))
        stack.enter_context(away(silent))
        for _ in range(100):
            await publish(http, channel, "x" * 60_000)
        before = time.monotonic()
        own.process.send_signal(signal.SIGTERM)
        assert await own.wait() == 0
        took = time.monotonic() - before
        for reader in readers:
            reader.close()
    # Half a second of drain; then two and a half until HTTP is taken for gone, or the steps of a WebTransport close.
    assert took < 5, f"{took:.2f} s"


async def test_the_configured_time_holds_whoever_is_there(configured):
    """A request whose body never ends, byte by byte, is cut off by then."""
    server = configured("drain_seconds = 2\n[namespaces.event]\nclass = 'event'\nsubscribe = true\n")
    headers = [("Host", f"127.0.0.1:{server.port}"), ("Content-Type", "application/json"), ("Content-Length", "1000")]
    async with await raw.Connection.open(server.port) as connection:
        await connection.request("POST", "/send", headers, b"{", head_only=True)
        async with server.http() as http:
            await http.get("/healthz")

        async def drip():
            while True:
                connection.writer.write(b" ")
                # The pace of a slow client, not a wait for anything.
                await asyncio.sleep(0.1)

        dripping = asyncio.create_task(drip())
        before = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert await server.wait() == 0
        took = time.monotonic() - before
        dripping.cancel()
    assert 1.9 < took < 3.5, f"{took:.2f} s"
    assert "did not end in time" in "".join(server.output)


@pytest.mark.parametrize("text", ["drain_seconds = 0", "drain_seconds = 3601"])
def test_a_time_out_of_bounds_is_refused(configured, text):
    with pytest.raises(AssertionError, match="drain_seconds is from 1 to 3600"):
        configured(text + "\n")


# ---- a restart under load -------------------------------------------------------------------------------------------


class Load:
    """Publishes as fast as it is answered, and goes on when the server is gone for a while. Each publication is its number."""

    def __init__(self, http, channels):
        self.http, self.channels = http, channels
        self.number = 0
        self.refused = 0
        self.changed = asyncio.Event()
        self.task = asyncio.create_task(self.run())

    async def run(self):
        while True:
            for channel in self.channels:
                self.number += 1
                body = {"channel": channel, "data": self.number, "key": "k"} if channel.startswith("state") else {"channel": channel, "data": self.number}
                try:
                    answer = await self.http.post("/api/publish", json=body)
                    if answer.status_code != 200:
                        self.refused += 1
                except httpx.TransportError:
                    self.refused += 1
                    # Gone: the pace of knocking, not a wait for anything.
                    await asyncio.sleep(0.01)
            self.changed.set()
            self.changed = asyncio.Event()

    async def beyond(self, number):
        async with within(15, f"publication {number}"):
            while self.number <= number:
                await self.changed.wait()


def contiguous(publications):
    offsets = [publication["offset"] for publication in publications]
    assert offsets == list(range(offsets[0], offsets[0] + len(offsets))), "a hole without a word"
    return publications[-1]


async def test_a_restart_under_load_is_told_to_everybody(own):
    """Readers of every kind come back with where they were, and each is told that there is another epoch."""
    events, state = name(), name("state")
    async with own.http() as http:
        quic = urlsplit((await http.get("/connect")).json()["webtransport"]["url"]).netloc
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(own.http())
        sockets = [await stack.enter_async_context(open_ws(own, binary)) for binary in (False, True)]
        session = await stack.enter_async_context(wt.open_wt(own))
        control = session.open_stream()
        held = {}
        for connection in (*sockets, control):
            await connection.subscribe(events)
            held[connection] = []
        values = sockets[0]
        await values.subscribe(state)
        stream = await stack.enter_async_context(await EventStream.open(own, events, state))
        answer = await poll(http, events, state)
        load = Load(http, [events, state])
        await load.beyond(20)
        own.process.send_signal(signal.SIGTERM)
        for connection in held:
            assert (await connection.until("close"))["retry_ms"] >= LEAST
            held[connection] = contiguous([m for m in connection.kept if m["type"] == "publication" and m["channel"] == events])
        position = [m for m in values.kept if m.get("channel") == state and m["type"] in ("publication", "synced")][-1]
        seen = []
        while (message := await stream.message("the end of the stream")) is not None:
            seen.append(message)
        contiguous([m for m in seen if m["type"] == "publication" and m["channel"] == events])
        assert seen[-1]["type"] == "close" and seen[-1]["code"] == 4000, seen[-1]
        assert await own.wait() == 0
        again = Server(http=f"127.0.0.1:{own.port}", quic=quic)
        stack.callback(again.stop)
        await load.beyond(load.number + 20)
        assert load.refused, "the server was never away"

        for binary, old in ((False, sockets[0]), (True, sockets[1])):
            async with open_ws(again, binary) as ws:
                last = held[old]
                answered = await ws.subscribe(events, position={"epoch": last["epoch"], "offset": last["offset"]})
                assert answered["recovered"] is False and answered["epoch"] != last["epoch"], answered
                first = await ws.until("gap", "publication", channel=events)
                assert first["type"] == "gap" and first["epoch"] != last["epoch"], first
                answered = await ws.subscribe(state, position={"epoch": position["epoch"], "offset": position["offset"]})
                assert answered["recovered"] is False, answered
                first = await ws.until("reset", "publication", channel=state)
                assert first["type"] == "reset" and first["epoch"] != position["epoch"], first
        async with wt.open_wt(again) as session:
            fresh, last = session.open_stream(), held[control]
            answered = await fresh.subscribe(events, after=cursors.build((events, last["epoch"], last["offset"])))
            assert answered["recovered"] is False, answered
            first = await fresh.until("gap", "publication")
            assert first["type"] == "gap" and first["epoch"] != last["epoch"], first
            on_state = session.open_stream()
            await on_state.subscribe(state, position={"epoch": position["epoch"], "offset": position["offset"]})
            assert (await on_state.until("reset", "publication"))["type"] == "reset"
        async with await EventStream.open(again, events, state, headers=[("Last-Event-ID", seen[-1]["cursor"])]) as stream:
            told = {}
            while len(told) < 2:
                message = await stream.message("what was missed")
                told.setdefault(message["channel"], message["type"])
            assert told == {events: "gap", state: "reset"}, told
        async with again.http() as http:
            behind = await poll(http, events, state, after=answer["cursor"])
        told = {c["channel"]: c["type"] for c in behind["control"] if c["type"] != "synced"}
        assert told == {events: "gap", state: "reset"}, behind["control"]
        load.task.cancel()
