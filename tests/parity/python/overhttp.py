"""The Python agent's connections by requests of their own: server-sent events and long polling, over any HTTP."""

import asyncio
import json
from urllib.parse import urlencode

import cursors
import raw
from carriers import Failure, error_of, future
from connections import LOST, NORMAL, Connection

MAX_EVENT = 1 << 20
AFRESH, REFUSED = 4500, 4902


class OverHttp(Connection):
    """One request for all channels, made anew from the server's cursor when they change."""

    def __init__(self, take):
        super().__init__(take)
        self.cursor = None
        self.channels = []
        self.joining = []
        self.reading = None
        self.session = None

    async def start(self, base, version, wait=None, interval=0, ticket=None):
        self.wait, self.interval, self.ticket = wait, interval, ticket
        self.carrier = await self.lease(base, version)

    async def subscribe_all(self, channels, after):
        if channels:
            self.cursor = after
            self.channels = list(channels)
            await self.restart()

    async def subscribe(self, channel, after=None, position=None):
        if position:
            after = cursors.build((channel, position["epoch"], position["offset"]))
        if after:
            self.cursor = merge(after, self.cursor)
        self.channels.append(channel)
        await self.restart()

    async def unsubscribe(self, channel):
        self.channels.remove(channel)
        await self.restart()

    def restart(self):
        """Done when the server has taken the channels as they are now."""
        if not self.open:
            raise Failure("closed", "the connection is closed")
        if self.reading:
            self.reading.cancel()
        joined = future()
        self.joining.append(joined)
        if self.channels:
            self.reading = asyncio.create_task(self.run())
        else:
            self.joined()
        return joined

    def joined(self):
        for waiting in self.joining:
            waiting.done() or waiting.set_result(None)
        self.joining = []

    async def run(self):
        try:
            code, reason = await self.read()
        except Failure as failure:
            code, reason = (AFRESH if failure.code == "bad_cursor" else LOST), f"{failure.code}: {failure}"
        except Exception as error:
            code, reason = LOST, f"{type(error).__name__}: {error}"
        self.finish(code, reason)

    def target(self, path, **query):
        query = [("channel", channel) for channel in self.channels] + list(query.items())
        named = cursors.parse(self.cursor) if self.cursor else {}
        # One that names none of the channels would be refused.
        if any(cursors.fnv1a(channel) in named for channel in self.channels):
            query.append(("after", self.cursor))
        if self.ticket:
            query.append(("ticket", self.ticket))
            self.ticket = None
        return f"{path}?{urlencode(query)}"

    async def publish(self, channel, content):
        self.session = self.session or await self.carrier.post("/session", {})
        return await self.carrier.post("/send", {"type": "publish", "channel": channel} | content, self.session["secret"])

    async def attach(self, session, secret, positions=None):
        raise Failure("unsupported", "attached by a ticket")

    def close(self, code=NORMAL, reason=""):
        self.finish(code, reason)

    def release(self):
        if self.reading and self.reading is not asyncio.current_task():
            self.reading.cancel()
        for waiting in self.joining:
            waiting.done() or waiting.set_exception(Failure("closed", f"closed before the server took it: {self.closed.result()}"))


def merge(newer, older):
    """The entries of both, of one channel the newer's."""
    if not older:
        return newer
    named = cursors.parse(newer)
    return "~".join([newer] + [entry for entry in older.split("~") if entry.split(".")[0] not in named])


class Sse(OverHttp):
    async def read(self):
        self.rest, self.told = b"", None
        exchange = await self.carrier.exchange("GET", self.target("/sse"), [("accept", "text/event-stream")], take=self.received)
        try:
            if exchange.status == 204:
                return REFUSED, "the server asks not to come back"
            if exchange.status == 200:
                self.joined()
            failure = await asyncio.shield(exchange.ended)
        finally:
            exchange.abort()
        if exchange.status != 200:
            raise error_of(exchange)
        return self.told or (LOST, str(failure or "the event stream ended"))

    def received(self, data):
        *blocks, self.rest = (self.rest + data).split(b"\n\n")
        if len(self.rest) > MAX_EVENT:
            raise Failure("malformed", "an event is too long")
        for block in blocks:
            event = raw.parse_block(block)
            if "data" not in event:
                continue
            message = {"type": event.get("event", "publication")} | json.loads(event["data"])
            if message["type"] == "close":
                self.told = (message["code"], message["reason"])
            else:
                self.deliver(message)
            self.cursor = event.get("id", self.cursor)


class Poll(OverHttp):
    async def read(self):
        # The first does not wait: its answer tells where reading begins.
        wait = 0
        while True:
            answer = await self.carrier.fetch("GET", self.target("/poll", wait=wait), seconds=wait + 15)
            for message in answer["control"]:
                if message["type"] != "synced":
                    self.deliver(message)
            for message in answer["publications"]:
                self.deliver({"type": "publication"} | message)
            for message in answer["control"]:
                if message["type"] == "synced":
                    self.deliver(message)
            self.cursor = answer["cursor"]
            self.joined()
            wait = self.wait
            if self.interval and not answer["more"]:
                await asyncio.sleep(self.interval / 1000)
