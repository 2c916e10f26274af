"""WebSocket over HTTP/2 (RFC 8441), by the h2 package over a plain TCP connection."""

import asyncio
import json

import fulmar_bin
import h2.config
import h2.connection
import h2.events
import h2.settings
from raw import ws_frame, ws_unframe
from server import DEADLINE, within

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class H2:
    """One HTTP/2 connection with prior knowledge."""

    def __init__(self, server):
        self.server = server
        self.authority = f"127.0.0.1:{server.port}"
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.streams = {}
        self.settings = asyncio.Event()

    async def __aenter__(self):
        async with within(DEADLINE, "a TCP connection for HTTP/2"):
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        self.h2.initiate_connection()
        self.flush()
        self.task = asyncio.create_task(self._read())
        async with within(DEADLINE, "the server's HTTP/2 SETTINGS"):
            await self.settings.wait()
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        self.writer.close()

    def flush(self):
        self.writer.write(self.h2.data_to_send())

    async def _read(self):
        while data := await self.reader.read(65536):
            for event in self.h2.receive_data(data):
                stream = self.streams.get(getattr(event, "stream_id", None))
                if isinstance(event, h2.events.RemoteSettingsChanged):
                    self.settings.set()
                elif isinstance(event, h2.events.ResponseReceived):
                    stream.head.set_result(dict(event.headers))
                elif isinstance(event, h2.events.DataReceived):
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    stream.inbox.put_nowait(event.data)
                elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
                    stream.inbox.put_nowait(None)
            self.flush()
        for stream in self.streams.values():
            stream.inbox.put_nowait(None)

    def enables_connect_protocol(self):
        return self.h2.remote_settings.get(h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL) == 1

    async def websocket(self, path="/ws", subprotocol="fulmar.v1.json", authority=None, headers=()):
        stream = H2Ws(self, self.h2.get_next_available_stream_id(), subprotocol == "fulmar.v1.bin")
        self.streams[stream.id] = stream
        request = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":path", path),
            (":authority", authority or self.authority),
            ("sec-websocket-version", "13"),
        ]
        if subprotocol:
            request.append(("sec-websocket-protocol", subprotocol))
        self.h2.send_headers(stream.id, request + list(headers))
        self.flush()
        async with within(DEADLINE, "the answer to an extended CONNECT"):
            stream.headers = await stream.head
        return stream


class H2Ws:
    """A stream that carries one WebSocket."""

    def __init__(self, connection, stream_id, binary):
        self.connection, self.id, self.binary = connection, stream_id, binary
        self.head = asyncio.get_running_loop().create_future()
        self.inbox = asyncio.Queue()
        self.buffer = b""
        self.codec = fulmar_bin.Connection()

    @property
    def status_code(self):
        return int(self.headers[":status"])

    def write(self, raw, end=False):
        self.connection.h2.send_data(self.id, raw, end_stream=end)
        self.connection.flush()

    def send(self, **message):
        if self.binary:
            self.write(ws_frame(BINARY, fulmar_bin.from_json(message)))
        else:
            self.write(ws_frame(TEXT, json.dumps(message).encode()))

    async def body(self):
        """What is left of the stream, for answers that are not a WebSocket."""
        content = b""
        async with within(DEADLINE, "the body of the answer"):
            while (data := await self.inbox.get()) is not None:
                content += data
        return content

    async def frame(self, awaited="a WebSocket frame"):
        """(opcode, payload) of the next message or control frame; None at the end of the stream."""
        message, kind = b"", None
        async with within(DEADLINE, f"{awaited} over HTTP/2"):
            while True:
                while (parsed := ws_unframe(self.buffer)) is None:
                    data = await self.inbox.get()
                    if data is None:
                        return None
                    self.buffer += data
                opcode, fin, payload, self.buffer = parsed
                if opcode & 8:
                    return opcode, payload
                kind, message = opcode or kind, message + payload
                if fin:
                    return kind, message

    async def recv(self, awaited="a message"):
        opcode, payload = await self.frame(awaited)
        assert opcode == (BINARY if self.binary else TEXT), (opcode, payload)
        return self.codec.to_json(payload) if self.binary else json.loads(payload)

    async def until(self, *types, **members):
        while True:
            message = await self.recv(f"{types} {members}")
            if message["type"] in types and all(message.get(k) == v for k, v in members.items()):
                return message

    async def ask(self, **message):
        message.setdefault("ref", 7)
        self.send(**message)
        return await self.until("subscribed", "unsubscribed", "published", "attached", "pong", "error", ref=message["ref"])
