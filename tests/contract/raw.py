"""Plain sockets: requests whose every byte a test decides, and streams read byte by byte."""

import asyncio
import base64
import json
import os
import re
from dataclasses import dataclass
from urllib.parse import urlencode

from server import DEADLINE, within


@dataclass
class Answer:
    status_code: int
    headers: list
    content: bytes

    @property
    def text(self):
        return self.content.decode(errors="replace")

    def json(self):
        return json.loads(self.content)

    def header(self, name):
        """The header's values, joined as HTTP allows; None when absent."""
        values = [v for k, v in self.headers if k == name.lower()]
        return ", ".join(values) if values else None


class Connection:
    """One HTTP/1.1 connection."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.chunked = False
        self.length = None

    @classmethod
    async def open(cls, port, host="127.0.0.1"):
        async with within(DEADLINE, f"a TCP connection to {host}:{port}"):
            return cls(*await asyncio.open_connection(host, port))

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.writer.close()

    async def request(self, method, target, headers, body=b"", head_only=False):
        """`headers` is a list of pairs and is sent as it is; with `head_only` the caller sees to Content-Length too."""
        lines = [f"{method} {target} HTTP/1.1"] + [f"{k}: {v}" for k, v in headers]
        if not head_only and (body or method == "POST"):
            lines.append(f"Content-Length: {len(body)}")
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await self.writer.drain()

    async def head(self):
        """Status and headers; the body is still to be read."""
        async with within(DEADLINE, "the head of an HTTP answer"):
            raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").split("\r\n")
        headers = [(k.strip().lower(), v.strip()) for k, _, v in (line.partition(":") for line in lines if line)]
        self.chunked = any(k == "transfer-encoding" and "chunked" in v.lower() for k, v in headers)
        self.length = next((int(v) for k, v in headers if k == "content-length"), None)
        return Answer(int(first.split()[1]), headers, b"")

    async def some(self):
        """The next bytes of the body, whatever its framing; b"" at its end."""
        if not self.chunked:
            return await self.reader.read(65536)
        size = int((await self.reader.readline()).split(b";")[0] or b"0", 16)
        data = await self.reader.readexactly(size + 2)
        return data[:size]

    async def answer(self):
        answer = await self.head()
        if answer.status_code in (101, 204, 304):
            return answer
        async with within(DEADLINE, f"the body of a {answer.status_code}"):
            if self.length is not None:
                answer.content = await self.reader.readexactly(self.length)
            else:
                while data := await self.some():
                    answer.content += data
        return answer


async def request(port, method, target, headers, body=b""):
    async with await Connection.open(port) as connection:
        await connection.request(method, target, headers, body)
        return await connection.answer()


# A block of comments and at most one `retry`.
QUIET = re.compile(rb"(?:(?::[^\r\n]*|retry: ?\d+|id: ?[^\r\n]*)\n)*\n")

UPGRADE = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", base64.b64encode(bytes(16)).decode()),
]


def ws_frame(opcode, payload, fin=True, mask=True, rsv=0):
    """One WebSocket frame as a client sends it; `mask=False` and `rsv` break RFC 6455 on purpose."""
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    bit = 0x80 if mask else 0
    if len(payload) < 126:
        head += bytes([bit | len(payload)])
    elif len(payload) < 1 << 16:
        head += bytes([bit | 126]) + len(payload).to_bytes(2, "big")
    else:
        head += bytes([bit | 127]) + len(payload).to_bytes(8, "big")
    if not mask:
        return head + payload
    key = os.urandom(4)
    return head + key + bytes(b ^ key[i % 4] for i, b in enumerate(payload))


def ws_unframe(buffer):
    """(opcode, fin, payload, rest) of a server's first complete frame in `buffer`, or None."""
    if len(buffer) < 2:
        return None
    assert not buffer[1] & 0x80, "the server masked a frame"
    length, at = buffer[1] & 0x7F, 2
    if length >= 126:
        size = 2 if length == 126 else 8
        if len(buffer) < 2 + size:
            return None
        length, at = int.from_bytes(buffer[2 : 2 + size], "big"), 2 + size
    if len(buffer) < at + length:
        return None
    return buffer[0] & 0x0F, bool(buffer[0] & 0x80), buffer[at : at + length], buffer[at + length :]


class EventStream:
    """GET /sse, read block by block with its bytes kept."""

    def __init__(self, connection, head):
        self.connection, self.head = connection, head
        self.buffer = b""

    @classmethod
    async def open(cls, server, *channels, headers=(), **query):
        connection = await Connection.open(server.port)
        target = "/sse?" + urlencode([("channel", c) for c in channels] + list(query.items()))
        wanted = [("Host", f"127.0.0.1:{server.port}"), ("Accept", "text/event-stream"), *headers]
        await connection.request("GET", target, wanted)
        return cls(connection, await connection.head())

    async def __aenter__(self):
        assert self.head.status_code == 200, f"/sse answered {self.head.status_code}"
        return self

    async def __aexit__(self, *_):
        self.connection.writer.close()

    async def any_block(self, awaited):
        """The bytes of the next block with its blank line, or b"" at the stream's end."""
        async with within(DEADLINE, awaited):
            while b"\n\n" not in self.buffer:
                data = await self.connection.some()
                if not data:
                    assert not self.buffer.strip(), f"the stream ended inside a block: {self.buffer!r}"
                    return b""
                self.buffer += data
        block, self.buffer = self.buffer.split(b"\n\n", 1)
        return block + b"\n\n"

    async def block(self, awaited="a block of the event stream"):
        """The next block that dispatches an event; comments and `retry` may stand between."""
        while block := await self.any_block(awaited):
            if "data" in parse_block(block):
                return block
            assert QUIET.fullmatch(block), f"a block that dispatches nothing, and is neither comment nor retry nor id: {block!r}"
        return b""

    async def event(self, awaited="an event"):
        """The next event as the HTML standard dispatches it: {event, id, data}; None at the end."""
        block = await self.block(awaited)
        return parse_block(block) if block else None

    async def message(self, awaited="an event"):
        """The next event's JSON with its type, and its id as `cursor`; None at the end."""
        event = await self.event(awaited)
        if event is None:
            return None
        return {"type": event.get("event", "publication")} | json.loads(event["data"]) | {"cursor": event.get("id")}


def parse_block(block):
    """A block's fields by the HTML standard's rules, where CR alone ends a line as well."""
    event = {}
    for line in block.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if not line or line.startswith(":"):
            continue
        field, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if field == "data":
            event["data"] = event["data"] + "\n" + value if "data" in event else value
        elif field in ("event", "id", "retry"):
            event[field] = value
    return event
