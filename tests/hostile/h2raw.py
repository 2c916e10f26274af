"""HTTP/2 by hand: frames that no library would send."""

import asyncio
import struct

import hpack
import raw
from server import within

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED = 0x1, 0x1, 0x4, 0x8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags=0, stream=0, payload=b"", length=None):
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def settings(*pairs):
    return frame(SETTINGS, payload=b"".join(struct.pack(">HI", *pair) for pair in pairs))


class H2:
    """One connection. What comes is kept; pings and settings are acknowledged."""

    def __init__(self, connection, authority, reading):
        self.connection, self.authority, self.reading = connection, authority, reading
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.statuses, self.resets, self.ended = {}, {}, set()
        self.goaway = None
        self.pongs = 0
        # What the server still takes: on the connection, on a new stream, on each.
        self.window, self.initial, self.windows = 65_535, 65_535, {}
        self.changed = asyncio.Event()
        self.over = asyncio.Event()
        self.task = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, server, *pairs, reading=False):
        connection = await raw.Connection.open(server.port)
        it = cls(connection, f"127.0.0.1:{server.port}", reading)
        it.write(PREFACE + settings(*pairs))
        return it

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        self.connection.writer.transport.abort()

    def write(self, data):
        self.connection.writer.write(data)

    async def drain(self):
        try:
            await self.connection.writer.drain()
        except ConnectionError:
            pass

    def head(self, method="GET", path="/healthz", *fields):
        pseudo = [(":method", method), (":scheme", "http"), (":authority", self.authority), (":path", path)]
        return self.encoder.encode(pseudo + list(fields))

    def request(self, stream, method="GET", path="/healthz", *fields, end=True):
        self.write(frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, self.head(method, path, *fields)))

    def data(self, stream, most):
        """As much of `most` bytes of a body as flow control allows; how many."""
        size = min(most, self.window, self.windows.get(stream, self.initial), 16_384)
        if size > 0:
            self.window -= size
            self.windows[stream] = self.windows.get(stream, self.initial) - size
            self.write(frame(DATA, 0, stream, b" " * size))
        return max(size, 0)

    async def send(self, stream, payload):
        """A body of its own bytes, as flow control lets them."""
        while payload:
            room = min(self.window, self.windows.get(stream, self.initial), 16_384)
            if room <= 0:
                await self.until(lambda it: min(it.window, it.windows.get(stream, it.initial)) > 0, "a window to open")
                assert not self.over.is_set(), self.goaway
                continue
            part, payload = payload[:room], payload[room:]
            self.window -= len(part)
            self.windows[stream] = self.windows.get(stream, self.initial) - len(part)
            self.write(frame(DATA, 0, stream, part))

    def websocket(self, stream, subprotocol):
        """An extended CONNECT (RFC 8441); not awaited."""
        fields = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":authority", self.authority), (":path", "/ws")]
        block = self.encoder.encode([*fields, ("sec-websocket-version", "13"), ("sec-websocket-protocol", subprotocol)])
        self.write(frame(HEADERS, END_HEADERS, stream, block))

    async def _read(self):
        reader = self.connection.reader
        try:
            while True:
                header = await reader.readexactly(9)
                kind, flags, stream = header[3], header[4], int.from_bytes(header[5:9], "big") & 0x7FFFFFFF
                payload = await reader.readexactly(int.from_bytes(header[:3], "big"))
                if kind == SETTINGS and not flags & ACK:
                    self.write(frame(SETTINGS, ACK))
                    for at in range(0, len(payload), 6):
                        key, value = struct.unpack(">HI", payload[at : at + 6])
                        self.initial = value if key == 4 else self.initial
                elif kind == WINDOW_UPDATE:
                    more = int.from_bytes(payload, "big")
                    if stream:
                        self.windows[stream] = self.windows.get(stream, self.initial) + more
                    else:
                        self.window += more
                elif kind == PING and not flags & ACK:
                    self.write(frame(PING, ACK, payload=payload))
                elif kind == PING:
                    self.pongs += 1
                elif kind == HEADERS:
                    self.statuses[stream] = int(dict(self.decoder.decode(payload))[":status"])
                elif kind == RST_STREAM:
                    self.resets[stream] = int.from_bytes(payload, "big")
                elif kind == GOAWAY:
                    self.goaway = int.from_bytes(payload[4:8], "big")
                if kind == DATA and payload and self.reading:
                    # Read, so that more may come.
                    self.write(b"".join(frame(WINDOW_UPDATE, 0, it, len(payload).to_bytes(4, "big")) for it in (0, stream)))
                if kind in (DATA, HEADERS) and flags & END_STREAM:
                    self.ended.add(stream)
                self._touch()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.over.set()
            self._touch()

    def _touch(self):
        self.changed.set()
        self.changed = asyncio.Event()

    async def until(self, fits, awaited, seconds=15):
        async with within(seconds, awaited):
            while not fits(self) and not self.over.is_set():
                await self.changed.wait()
        return self

    async def closed(self, awaited, seconds=15):
        """The code of GOAWAY, or "closed" without one."""
        async with within(seconds, awaited):
            await self.over.wait()
        return "closed" if self.goaway is None else f"GOAWAY {self.goaway}"

    async def is_alive(self, stream):
        self.request(stream)
        await self.until(lambda it: stream in it.statuses, "an answer that shows the connection to live")
        return self.statuses.get(stream) == 200
