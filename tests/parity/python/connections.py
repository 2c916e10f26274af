"""What the Python agent's connections have in common, and what those do that carry requests in-band."""

import asyncio
import sys
from functools import partial

import cursors
from carriers import Failure, Http1, future, limit
from http2 import Http2
from http3 import Http3

ANSWERS = {"subscribed", "unsubscribed", "published", "attached", "pong"}
NORMAL, LOST, PROTOCOL_ERROR = 1000, 1006, 4901
MAX_WAITING = 4096

VERSIONS = {"1.1": Http1, "2": Http2, "3": Http3}
_open = {}
_opening = asyncio.Lock()


async def lease(base, version):
    """A carrier to use until `leave`."""
    held = _open.setdefault((base, version), [])
    async with _opening:
        found = next((c for c in held if c.shared and c.alive and not c.full()), None)
        if not found:
            found = await VERSIONS[version](base).open()
            held.append(found)
        found.users += 1
    return found


def leave(base, version, found):
    """The last to leave closes it."""
    found.users -= 1
    if not found.users:
        _open[base, version].remove(found)
        found.close()


class Connection:
    """`take` is called with each publication, gap, reset and synced until it is closed."""

    def __init__(self, take):
        self.take = take
        self.closed = future()
        self.leave = None

    @property
    def open(self):
        return not self.closed.done()

    async def lease(self, base, version):
        found = await lease(base, version)
        self.leave = partial(leave, base, version, found)
        return found

    def finish(self, code, reason=""):
        if self.open:
            self.closed.set_result({"code": code, "reason": reason})
            self.release()
            if self.leave:
                self.leave()

    def release(self):
        pass

    def deliver(self, message):
        if self.open:
            self.take(message)


class Positions:
    """Where a connection has got to in each of its channels; None within a snapshot, where a position means nothing."""

    def __init__(self):
        self.places = {}

    def seed(self, channel, epoch, offset, base=None):
        self.places[channel] = (epoch, offset, base)

    def forget(self, channel):
        self.places.pop(channel, None)

    def note(self, message, datagram=False):
        kind, channel = message["type"], message["channel"]
        if kind == "subscribed":
            place = self.places.get(channel)
            # One that goes on within a snapshot has no position that could be written down before `synced`.
            within = place is not None and place[2] is not None
            self.places[channel] = None if within else (message["epoch"], message["offset"], None)
        elif channel not in self.places:
            return
        elif kind == "reset":
            self.places[channel] = None
        elif kind in ("gap", "synced"):
            self.places[channel] = (message["epoch"], message["offset"], None)
        elif not datagram and (place := self.places[channel]):
            if place[0] == message["epoch"] and place[1] < message["offset"]:
                self.places[channel] = (message["epoch"], message["offset"], None)

    def settle(self, channel, offset):
        """A position that only moves on."""
        if (place := self.places.get(channel)) and place[1] < offset:
            self.places[channel] = (place[0], offset, None)

    def cursor(self):
        entries = []
        for channel, place in self.places.items():
            if place:
                epoch, offset, base = place
                entries.append(cursors.build((channel, epoch, offset)) + ("" if base is None else f".{cursors.base36(base)}"))
        return "~".join(entries) or None


class Inband(Connection):
    announced = None

    def __init__(self, take):
        super().__init__(take)
        self.positions = Positions()
        self.channels = set()
        self.answers = {}
        self.ref = 0

    @property
    def cursor(self):
        return self.positions.cursor()

    async def subscribe_all(self, channels, after):
        await asyncio.gather(*(self.subscribe(channel, after) for channel in channels))

    async def subscribe(self, channel, after=None, position=None):
        message = {"type": "subscribe", "channel": channel}
        self.channels.add(channel)
        if position:
            self.positions.seed(channel, position["epoch"], position["offset"])
            message["position"] = position
        elif after and (entry := cursors.parse(after).get(cursors.fnv1a(channel))):
            self.positions.seed(channel, *entry)
            message["after"] = after
        await self.ask_for(channel, message)

    async def unsubscribe(self, channel):
        await self.ask_for(channel, {"type": "unsubscribe", "channel": channel})
        self.channels.discard(channel)
        self.positions.forget(channel)

    async def ask_for(self, channel, message):
        """A request about this channel."""
        await self.request(message)

    async def publish(self, channel, content):
        return await self.request({"type": "publish", "channel": channel} | content)

    async def attach(self, session, secret, positions=None):
        named = {} if positions is None else {"positions": positions}
        await self.request({"type": "attach", "id": session, "secret": secret} | named)

    async def request(self, message, send=None):
        if not self.open:
            raise Failure("closed", "the connection is closed")
        if len(self.answers) >= MAX_WAITING:
            raise Failure("failed", "too many requests are unanswered")
        self.ref += 1
        ref, answer = self.ref, future()
        self.answers[ref] = answer
        try:
            (send or self.send)(message | {"ref": ref})
            async with limit(f"the answer to {str(message)[:200]}"):
                return await answer
        finally:
            self.answers.pop(ref, None)

    def receive(self, message, datagram=False):
        kind = message["type"]
        if kind in ("publication", "gap", "reset", "synced"):
            self.deliver(message)
            self.positions.note(message, datagram)
        elif kind in ANSWERS:
            if kind == "subscribed":
                self.channels.add(message["channel"])
                self.positions.note(message)
            answer = self.answers.get(message.get("ref"))
            if answer and not answer.done():
                answer.set_result(message)
        elif kind == "error":
            error = Failure(message["error"]["code"], message["error"]["message"])
            answer = self.answers.get(message.get("ref"))
            if answer and not answer.done():
                answer.set_exception(error)
            else:
                print(f"an error that answers nothing: {message}", file=sys.stderr)
        elif kind == "ping":
            self.send({"type": "pong"} | ({"ref": message["ref"]} if "ref" in message else {}))
        elif kind == "close":
            self.announced = (message["code"], message["reason"])

    def release(self):
        for answer in list(self.answers.values()):
            if not answer.done():
                answer.set_exception(Failure("closed", "the connection was closed before the answer"))

    def finish_as_announced(self, code, reason):
        """The server tells the code in a message, and then the transport tells the same."""
        if self.announced and self.announced != (code, reason):
            code, reason = PROTOCOL_ERROR, f"closed with {code} {reason} after {self.announced} was announced"
        self.finish(code, reason)
