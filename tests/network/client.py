"""A client by aioquic or `websockets` that is asked what tests/parity/agent.mjs documents, as far as it is needed here.

    client.py BASE CERTIFICATE

Besides: `discovery` serves the server's /connect over plain HTTP on loopback, for clients that do not speak TLS over TCP, and gives
its `base`; `responses` gives when a connection answered path challenges, by the monotonic clock.
"""

import asyncio
import contextlib
import itertools
import json
import pathlib
import ssl
import sys
import time

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1] / "contract")]

import cursors  # noqa: E402
import httpx  # noqa: E402
import websockets  # noqa: E402
import wt  # noqa: E402
from aioquic.quic.logger import QuicLogger, QuicLoggerTrace  # noqa: E402
from lines import Failure, serve  # noqa: E402
from server import View, within  # noqa: E402
from ws import open_ws  # noqa: E402

# A WebSocket's own signs of life, without which a client does not learn that its address is gone.
WEBSOCKET_PING, WEBSOCKET_PONG, WEBSOCKET_CLOSE = 1, 2, 0.1
CLOSE_DEADLINE = 3


class PathResponses(QuicLogger):
    """When one connection sent them."""

    def start_trace(self, is_client, odcid):
        self.times = times = []

        class Trace(QuicLoggerTrace):
            def log_event(self, *, category, event, data):
                # Of packets that are received, the frames are not known yet.
                if event == "packet_sent" and any(frame["frame_type"] == "path_response" for frame in data["frames"]):
                    times.append(time.monotonic())

        return Trace(is_client=is_client, odcid=odcid)

    def end_trace(self, trace):
        pass


class Channel:
    def __init__(self):
        self.count, self.first, self.last, self.ordered, self.controls = 0, None, None, True, []
        self.checksum = 0x811C9DC5
        self.view = View()

    def take(self, message):
        self.view.take(message)
        if message["type"] != "publication":
            self.controls.append(message["type"])
            return
        here = {"epoch": message["epoch"], "offset": message["offset"]}
        if self.last and (self.last["epoch"] != here["epoch"] or self.last["offset"] >= here["offset"]):
            self.ordered = False
        self.first, self.last = self.first or here, here
        self.count += 1
        data = message["data"]
        if not isinstance(data, str):
            for byte in json.dumps(data, separators=(",", ":")).encode() + b"\n":
                self.checksum = (self.checksum ^ byte) * 0x01000193 & 0xFFFFFFFF


class Held:
    """What was received over a connection, and those that it continues."""

    def __init__(self):
        self.channels, self.end = {}, None
        self.changed = asyncio.Event()

    def channel(self, name):
        return self.channels.setdefault(name, Channel())

    def look(self):
        self.changed.set()
        self.changed = asyncio.Event()

    def take(self, message):
        self.channel(message["channel"]).take(message)
        self.look()

    def ended(self, reason):
        self.end = self.end or reason
        self.look()

    def digest(self, name):
        return {k: v for k, v in vars(self.channel(name)).items() if k != "view"}

    def meets(self, name, wanted):
        channel = self.channel(name)
        if "publications" in wanted:
            return channel.count >= wanted["publications"]
        if "synced" in wanted:
            return channel.view.synced is not None
        return channel.view.values().get(wanted["key"]) == wanted["data"]

    async def wait(self, channel, wanted, timeout):
        try:
            async with asyncio.timeout(timeout / 1000):
                while not self.meets(channel, wanted):
                    if self.end:
                        raise Failure("closed", f"{self.end} while waiting for {wanted} of {channel}")
                    await self.changed.wait()
        except TimeoutError:
            raise Failure("timeout", f"waited {timeout} ms in vain for {wanted} of {channel}; so far {self.digest(channel)}") from None
        return {}


class Connection:
    """What both transports have in common: answers go to who asked, everything else to `held`."""

    def __init__(self, held):
        self.held, self.asked, self.tasks = held, {}, set()
        self.refs = itertools.count(1)

    def spawn(self, reading):
        task = asyncio.create_task(reading)
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task):
        self.tasks.discard(task)
        if not task.cancelled() and task.exception():
            self.held.ended(f"{type(task.exception()).__name__}: {task.exception()}")

    def take(self, message):
        if message["type"] in ("publication", "gap", "reset", "synced"):
            self.held.take(message)
        elif message["type"] != "ping" and message.get("ref") in self.asked:
            self.asked.pop(message["ref"]).set_result(message)

    def asking(self):
        ref = next(self.refs)
        self.asked[ref] = asyncio.get_running_loop().create_future()
        return ref, self.asked[ref]

    async def answer(self, waiting):
        answer = await waiting
        if answer["type"] == "error":
            raise Failure(answer["error"]["code"], answer["error"]["message"])
        return answer


class WebTransport(Connection):
    @contextlib.asynccontextmanager
    async def opened(self, target, after):
        self.responses = PathResponses()
        async with wt.quic(target, quic_logger=self.responses) as client:
            self.session = await client.session()
            self.control = self.session.open_stream()
            self.spawn(self._read(self.control))
            self.spawn(self._read_datagrams())
            yield

    async def _read(self, stream):
        while (message := wt.take(await stream.inbox.get())) is not wt.ENDED:
            if message["type"] == "ping":
                stream.send(**message | {"type": "pong"})
            self.take(message)
        ended = self.session.client.terminated
        self.held.ended(f"connection ended: {ended.error_code:#x} {ended.reason_phrase}" if ended else "stream ended")

    async def _read_datagrams(self):
        while True:
            self.take(wt.take(await self.session.datagrams.get()))

    async def request(self, **message):
        ref, waiting = self.asking()
        stream = self.control
        if message["type"] == "subscribe":
            stream = self.session.open_stream()
            self.spawn(self._read(stream))
        stream.send(ref=ref, **message)
        return await self.answer(waiting)


class WebSocket(Connection):
    @contextlib.asynccontextmanager
    async def opened(self, target, after):
        query = f"?{after}" if after else ""
        alive = {"ping_interval": WEBSOCKET_PING, "ping_timeout": WEBSOCKET_PONG, "close_timeout": WEBSOCKET_CLOSE}
        async with open_ws(target, query=query, ssl=target.trusted, **alive) as self.ws:
            self.spawn(self._read())
            yield

    async def _read(self):
        try:
            async for raw in self.ws.connection:
                self.take(json.loads(raw))
        except websockets.ConnectionClosed as error:
            self.held.ended(f"WebSocket closed: {error}")

    async def request(self, **message):
        ref, waiting = self.asking()
        await self.ws.send(ref=ref, **message)
        return await self.answer(waiting)


class Target:
    """As much of `server.Server` as the clients need."""

    def __init__(self, base, certificate):
        self.base, self.trusted = base, ssl.create_default_context(cafile=certificate)

    def http(self):
        return httpx.AsyncClient(base_url=self.base, verify=self.trusted, timeout=20, trust_env=False)


class Client:
    def __init__(self, target):
        self.target = target
        self.connections = {}
        self.stack = contextlib.AsyncExitStack()

    async def run(self, op, members):
        if op in ("open", "discovery"):
            return await getattr(self, op)(**members)
        connection = self.connections[members.pop("id")]
        held = connection.held
        if op == "subscribe":
            position = {"position": members["position"]} if members.get("position") else {}
            await connection.request(type="subscribe", channel=members["channel"], **position)
            return {}
        if op == "publish":
            answer = await connection.request(type="publish", **members)
            return {k: answer[k] for k in ("epoch", "offset")}
        if op == "wait":
            return await held.wait(members["channel"], members["for"], members["timeout"])
        if op == "digest":
            return held.digest(members["channel"])
        if op == "view":
            view = held.channel(members["channel"]).view
            return {"synced": view.synced is not None, "values": {k: {"data": v} for k, v in view.values().items()}}
        if op == "cursor":
            places = [(name, channel.last["epoch"], channel.last["offset"]) for name, channel in held.channels.items() if channel.last]
            return {"cursor": cursors.build(*places)}
        if op == "closed":
            async with within(members["timeout"] / 1000, "the end of the connection"):
                while not held.end:
                    await held.changed.wait()
            return {"reason": held.end}
        if op == "responses":
            return connection.responses.times
        raise Failure("bad_request", f"no op {op}")

    async def open(self, id, transport, continues=None, channels=(), after=None, base=None):
        held = self.connections[continues].held if continues else Held()
        held.end = None
        connection = {"webtransport": WebTransport, "websocket": WebSocket}[transport](held)
        query = "&".join([*(f"channel={name}" for name in channels), *([f"after={after}"] if after else [])])
        await self.stack.enter_async_context(connection.opened(self.target, query))
        self.connections[id] = connection
        return {}

    async def discovery(self):
        async def handle(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            async with self.target.http() as http:
                body = (await http.get("/connect")).raise_for_status().content
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body))
            await writer.drain()
            writer.close()

        listening = await self.stack.enter_async_context(await asyncio.start_server(handle, "127.0.0.1", 0))
        return {"base": "http://127.0.0.1:{1}".format(*listening.sockets[0].getsockname())}


async def main(base, certificate):
    client = Client(Target(base, certificate))
    await serve(client.run)
    # A connection whose path is gone has nobody to say farewell to.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_DEADLINE):
            await client.stack.aclose()


asyncio.run(main(*sys.argv[1:]))
