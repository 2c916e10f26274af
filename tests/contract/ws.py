"""A session over WebSocket, by the `websockets` package, with messages in either encoding read as JSON."""

import asyncio
import contextlib
import json

import fulmar_bin
import websockets
from server import DEADLINE, within


class Ws:
    def __init__(self, connection, binary):
        self.connection, self.binary = connection, binary
        self.codec = fulmar_bin.Connection()
        self.kept = []
        #: Frames of a batch that were not asked for yet, and how many each binary message had.
        self.frames, self.sizes = [], []

    async def send(self, **message):
        if self.binary:
            await self.connection.send(fulmar_bin.from_json(message))
        else:
            await self.connection.send(json.dumps(message))

    async def recv(self, awaited="a message"):
        if not self.frames:
            async with within(DEADLINE, awaited):
                raw = await self.connection.recv()
            assert isinstance(raw, bytes if self.binary else str), f"a message of the other kind: {raw!r}"
            if not self.binary:
                return json.loads(raw)
            self.frames = fulmar_bin.messages(raw)
            self.sizes.append(len(self.frames))
        return self.codec.to_json(self.frames.pop(0))

    async def until(self, *types, awaited=None, **members):
        """The next message of one of `types` with these members; what came before it is in `kept`."""
        while True:
            message = await self.recv(awaited or f"{'/'.join(types)} {members}")
            if message["type"] in types and all(message.get(k) == v for k, v in members.items()):
                return message
            self.kept.append(message)

    async def ask(self, **message):
        """Sends with a `ref`; the answer to it, an error included."""
        message.setdefault("ref", 7)
        await self.send(**message)
        return await self.until(
            "subscribed", "unsubscribed", "published", "attached", "pong", "error", ref=message["ref"], awaited=f"the answer to {str(message)[:200]}"
        )

    async def publish_many(self, messages):
        """Publishes all without waiting for each; their answers in order."""

        async def write():
            for ref, message in enumerate(messages, 1):
                await self.send(type="publish", ref=ref, **message)

        writing = asyncio.create_task(write())
        answers = [await self.until("published", ref=ref) for ref in range(1, len(messages) + 1)]
        await writing
        return answers

    async def barrier(self):
        """Everything sent before has been handled once this returns."""
        answer = await self.ask(type="ping", ref=4242)
        assert answer["type"] == "pong", answer

    async def subscribe(self, channel, **start):
        answer = await self.ask(type="subscribe", channel=channel, **start)
        assert answer["type"] == "subscribed", f"subscribe {channel} {start}: {answer}"
        assert answer["channel"] == channel and isinstance(answer["epoch"], str) and isinstance(answer["offset"], int), answer
        return answer

    async def publications(self, count, channel=None):
        got = []
        while len(got) < count:
            got.append(await self.until("publication", awaited=f"publication {len(got) + 1} of {count} on {channel}"))
            assert channel is None or got[-1]["channel"] == channel, got[-1]
        return got

    async def closed(self):
        """The code and reason the server closed with."""
        async with within(DEADLINE, "the server to close the WebSocket"):
            await self.connection.wait_closed()
        frame = self.connection.protocol.close_rcvd
        return (frame.code, frame.reason) if frame else (None, None)


@contextlib.asynccontextmanager
async def open_ws(server, binary=False, query="", subprotocols=None, **options):
    if subprotocols is None:
        subprotocols = ["fulmar.v1.bin" if binary else "fulmar.v1.json"]
    options = {"compression": None, "proxy": None, "max_size": 1 << 21, "open_timeout": DEADLINE, "close_timeout": 5} | options
    url = f"{server.base.replace('http', 'ws', 1)}/ws{query}"
    async with websockets.connect(url, subprotocols=subprotocols or None, **options) as connection:
        yield Ws(connection, binary)
