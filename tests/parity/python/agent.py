"""The Python agent: what agent.mjs documents, in an implementation that shares nothing with it.

One JSON text a line, as in lines.mjs. `http` of `open` names the version of HTTP: "1.1", "2" or "3".
"""

import asyncio
import base64
import json
import math
import pathlib
import sys
from collections import deque
from decimal import Decimal

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "contract"))

from carriers import Failure  # noqa: E402
from connections import NORMAL  # noqa: E402
from inband import WebSocket, WebTransport  # noqa: E402
from overhttp import Poll, Sse  # noqa: E402

TRANSPORTS = {"webtransport": WebTransport, "websocket": WebSocket, "sse": Sse, "poll": Poll}
KEPT = 200
MAX_REMOVED = 1024
MAX_LINE = 16 << 20
CONTENT = ("data", "b64", "removed", "key", "ttl_ms", "priority")


def number(value):
    """As JavaScript writes it, where every number is a double."""
    value = float(value)
    if not math.isfinite(value):
        return "null"
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    text = "".join(map(str, digits))
    point = len(text) + exponent  # of the digits, how many stand before the point
    if value == 0:
        return "0"
    if 0 < point <= 21:
        text = text.ljust(point, "0") if exponent >= 0 else f"{text[:point]}.{text[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{text}"
    else:
        text = f"{text[0]}{'.' if len(text) > 1 else ''}{text[1:]}e{'+' if point > 0 else '-'}{abs(point - 1)}"
    return f"-{text}" if sign else text


def stringify(value):
    """As JSON.stringify writes it; the keys of objects must not look like integers, which come first there."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, (int, float)):
        return number(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return f"[{','.join(map(stringify, value))}]"
    return f"{{{','.join(f'{stringify(key)}:{stringify(item)}' for key, item in value.items())}}}"


def content(message):
    return {name: message[name] for name in ("data", "b64") if name in message}


def payload(message):
    if "b64" in message:
        return base64.b64decode(message["b64"], validate=True)
    data = message["data"]
    return (data if isinstance(data, str) else stringify(data)).encode()


class Digest:
    """What came in one channel."""

    def __init__(self):
        self.count = 0
        self.first = self.last = None
        self.ordered = True
        self.checksum = 0x811C9DC5
        self.controls = []
        self.removals = set()
        self.kept = deque(maxlen=KEPT)

    def publication(self, message):
        position = {"epoch": message["epoch"], "offset": message["offset"]}
        if self.last and (self.last["epoch"] != position["epoch"] or self.last["offset"] >= position["offset"]):
            self.ordered = False
        self.last = position
        self.first = self.first or position
        self.count += 1
        key = message.get("key", "")
        removed = message.get("removed", False)
        if removed:
            self.removals.add(key)
        checksum = self.checksum
        for byte in (b"" if removed else payload(message)) + b"\n":
            checksum = (checksum ^ byte) * 0x01000193 & 0xFFFFFFFF
        self.checksum = checksum
        self.kept.append(position | {"key": key} | ({"removed": True} if removed else content(message)))


class View:
    """What one channel of state holds (PROTOCOL.md, section 2)."""

    def __init__(self):
        self.epoch = None
        self.synced = False
        self.keys = {}  # publications, those of removed keys too
        self.removed = deque()

    def take(self, message):
        kind, epoch, offset = message["type"], message["epoch"], message["offset"]
        if kind == "synced":
            self.synced = True
        elif kind == "reset":
            same = epoch == self.epoch
            self.keys = {key: held for key, held in self.keys.items() if same and held["offset"] > offset}
            self.epoch, self.synced = epoch, False
        elif kind == "publication":
            self.epoch = self.epoch or epoch
            key = message.get("key", "")
            held = self.keys.get(key)
            # Of another epoch is what a reset has overtaken.
            if epoch == self.epoch and not (held and offset <= held["offset"]):
                self.keys[key] = message
                if message.get("removed"):
                    self.remember(key, offset)

    def remember(self, key, offset):
        """A removal, so that an older value does not bring the key back. The oldest are forgotten."""
        self.removed.append((key, offset))
        if len(self.removed) > MAX_REMOVED:
            key, offset = self.removed.popleft()
            if self.keys.get(key, {}).get("offset") == offset:
                del self.keys[key]

    def get(self, key):
        """The publication of a key that holds something."""
        held = self.keys.get(key)
        return None if held is None or held.get("removed") else held

    def values(self):
        return {key: content(held) for key, held in self.keys.items() if not held.get("removed")}


class Held:
    """What was received by one connection, or by several of which each continues another."""

    def __init__(self):
        self.digests = {}
        self.views = {}
        self.waiting = {}
        self.end = None

    def digest(self, channel):
        return self.digests.setdefault(channel, Digest())

    def view(self, channel):
        return self.views.setdefault(channel, View())

    def take(self, message):
        channel = message["channel"]
        if message["type"] == "publication":
            self.digest(channel).publication(message)
        else:
            self.digest(channel).controls.append(message["type"])
        self.view(channel).take(message)
        if self.waiting:
            self.look()

    def look(self):
        for waiter, (met, what) in self.waiting.items():
            if waiter.done():
                continue
            if met():
                waiter.set_result({})
            elif self.end:
                waiter.set_exception(Failure("closed", f"closed with {self.end['code']} {self.end['reason']} while waiting for {what}"))

    def condition(self, channel, wanted):
        digest, view = self.digest(channel), self.view(channel)
        if "publications" in wanted:
            return lambda: digest.count >= wanted["publications"]
        if "control" in wanted:
            return lambda: wanted["control"] in digest.controls
        if "synced" in wanted:
            return lambda: view.synced
        if "key" in wanted:
            text = stringify(wanted["data"])
            return lambda: "data" in (held := view.get(wanted["key"]) or {}) and stringify(held["data"]) == text
        if "removal" in wanted:
            return lambda: wanted["removal"] in digest.removals
        if "gone" in wanted:
            return lambda: view.get(wanted["gone"]) is None
        raise Failure("bad_request", f"nothing can be waited for by {wanted}")

    async def wait(self, channel, wanted, timeout):
        waiter = asyncio.get_running_loop().create_future()
        self.waiting[waiter] = (self.condition(channel, wanted), f"{wanted} of {channel}")
        try:
            self.look()
            async with asyncio.timeout(timeout / 1000):
                return await waiter
        except TimeoutError:
            digest, view = self.digest(channel), self.view(channel)
            so = {"count": digest.count, "last": digest.last, "controls": digest.controls, "synced": view.synced, "values": view.values()}
            raise Failure("timeout", f"waited {timeout} ms in vain for {wanted} of {channel}; so far {str(so)[:500]}") from None
        finally:
            del self.waiting[waiter]


class Agent:
    def __init__(self):
        self.connections = {}
        self.helds = {}

    def connection(self, members):
        try:
            return self.connections[members["id"]]
        except KeyError:
            raise Failure("bad_request", f"no connection {members.get('id')}") from None

    def held(self, members):
        self.connection(members)
        return self.helds[members["id"]]

    async def all(self, ops, **_):
        return await asyncio.gather(*map(self.run, ops))

    async def open(self, id, transport, base, http="1.1", channels=(), after=None, continues=None, **options):
        held = self.helds[continues] if continues else Held()
        held.end = None
        connection = TRANSPORTS[transport](held.take)
        try:
            await connection.start(base, http, **options)
            await connection.subscribe_all(channels, after)
        except BaseException:
            connection.finish(NORMAL)
            raise
        self.connections[id], self.helds[id] = connection, held

        def closed(future):
            held.end = future.result()
            held.look()

        connection.closed.add_done_callback(closed)
        return {}

    async def subscribe(self, channel, after=None, position=None, **members):
        await self.connection(members).subscribe(channel, after, position)
        return {}

    async def unsubscribe(self, channel, **members):
        await self.connection(members).unsubscribe(channel)
        return {}

    async def publish(self, channel, **members):
        sent = {name: members[name] for name in CONTENT if name in members}
        answer = await self.connection(members).publish(channel, sent)
        return {"epoch": answer["epoch"], "offset": answer["offset"]}

    async def attach(self, session, secret, positions=None, **members):
        await self.connection(members).attach(session, secret, positions)
        return {}

    async def wait(self, channel, timeout, **members):
        return await self.held(members).wait(channel, members["for"], timeout)

    async def digest(self, channel, **members):
        digest = self.held(members).digest(channel)
        return {name: getattr(digest, name) for name in ("count", "first", "last", "ordered", "checksum", "controls")}

    async def kept(self, channel, **members):
        return list(self.held(members).digest(channel).kept)

    async def view(self, channel, **members):
        view = self.held(members).view(channel)
        return {"synced": view.synced, "values": view.values()}

    async def cursor(self, **members):
        return {"cursor": self.connection(members).cursor}

    async def close(self, code=NORMAL, reason="", **members):
        self.connection(members).close(code, reason)
        return {}

    async def closed(self, timeout, **members):
        try:
            async with asyncio.timeout(timeout / 1000):
                return await asyncio.shield(self.connection(members).closed)
        except TimeoutError:
            raise Failure("timeout", f"waited {timeout} ms in vain for {members['id']} to close") from None

    OPS = {"all", "open", "subscribe", "unsubscribe", "publish", "attach", "wait", "digest", "kept", "view", "cursor", "close", "closed"}

    async def run(self, request):
        op = request.pop("op")
        if op not in self.OPS:
            raise Failure("bad_request", f"no op {op}")
        return await getattr(self, op)(**request)

    async def handle(self, request):
        try:
            return {"ok": await self.run(request)}
        except Failure as failure:
            return {"error": {"code": failure.code, "message": str(failure)}}
        except Exception as error:
            return {"error": {"code": "failed", "message": f"{type(error).__name__}: {error}"}}


async def main():
    agent, answering = Agent(), set()
    lines = asyncio.StreamReader(limit=MAX_LINE)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)

    async def answer(n, request):
        text = json.dumps({"n": n, "answer": await agent.handle(request)})
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    while line := await lines.readline():
        task = asyncio.create_task(answer(**json.loads(line)))
        answering.add(task)
        task.add_done_callback(answering.discard)
    for connection in agent.connections.values():
        connection.finish(NORMAL)


asyncio.run(main())
