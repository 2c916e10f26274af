"""QUIC connections by aioquic without an HTTP/3 layer of their own: every byte of every stream is the test's."""

import asyncio
import contextlib
import socket
import ssl
from urllib.parse import urlsplit

import httpx
import pylsqpack
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, DatagramFrameReceived, HandshakeCompleted, StopSendingReceived, StreamDataReceived, StreamReset
from fulmar_bin import Malformed, Reader, varint
from server import within

DATA, HEADERS, CANCEL_PUSH, SETTINGS, PUSH_PROMISE, GOAWAY, MAX_PUSH_ID = 0x0, 0x1, 0x3, 0x4, 0x5, 0x7, 0xD
CONTROL, PUSH, ENCODER, DECODER, WT_UNI = 0x0, 0x1, 0x2, 0x3, 0x54
WT_BIDI = 0x41


def frame(kind, payload=b"", length=None):
    """An HTTP/3 frame; `length` announces another one than it has."""
    return varint(kind) + varint(len(payload) if length is None else length) + payload


def settings(*pairs):
    return frame(SETTINGS, b"".join(varint(key) + varint(value) for key, value in pairs))


# Extended CONNECT, datagrams (final and as of the draft), WebTransport of draft 02.
BROWSER_SETTINGS = settings((0x08, 1), (0x33, 1), (0xFFD277, 1), (0x2B603742, 1))


def head(*fields):
    """A HEADERS frame."""
    encoder = pylsqpack.Encoder()
    return frame(HEADERS, encoder.encode(0, [(k.encode(), v.encode()) for k, v in fields])[1])


class Stream:
    def __init__(self, client, stream_id):
        self.client, self.id = client, stream_id
        self.data = b""
        self.ended = self.reset_code = self.stop_code = None
        self.changed = asyncio.Event()

    def write(self, data, end=False):
        self.client.quic.send_stream_data(self.id, data, end)
        self.client.transmit()
        return self

    def reset(self, code=0):
        self.client.quic.reset_stream(self.id, code)
        self.client.transmit()

    def stop(self, code=0):
        self.client.quic.stop_stream(self.id, code)
        self.client.transmit()

    def touch(self):
        self.changed.set()
        self.changed = asyncio.Event()

    async def until(self, fits, awaited, seconds=15):
        async with within(seconds, f"{awaited} on stream {self.id}"):
            while not fits(self) and self.client.terminated is None:
                await self.changed.wait()
        return self

    async def over(self, awaited="the end", seconds=15):
        """How the server ended its half: "end", "reset 0x..." or, with the connection, "closed 0x..."."""
        await self.until(lambda it: it.ended or it.reset_code is not None, awaited, seconds)
        return f"reset {self.reset_code:#x}" if self.reset_code is not None else "end" if self.ended else self.client.fate()

    def status(self):
        """The status of an answer whose HEADERS have come whole; None before."""
        reader = Reader(self.data)
        try:
            while reader.varint() != HEADERS:
                reader.take(reader.varint())
            block = reader.take(reader.varint())
        except Malformed:
            return None
        return int(dict(pylsqpack.Decoder(0, 0).feed_header(0, block)[1])[b":status"])


class Client(QuicConnectionProtocol):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.quic = self._quic
        self.streams = {}
        self.datagrams = 0
        self.terminated = None
        self.done = asyncio.Event()
        self.shaken = asyncio.Event()

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            self.terminated = event
            self.done.set()
            self.shaken.set()
            for stream in self.streams.values():
                stream.touch()
        elif isinstance(event, HandshakeCompleted):
            self.shaken.set()
        elif isinstance(event, DatagramFrameReceived):
            self.datagrams += 1
        elif isinstance(event, (StreamDataReceived, StreamReset, StopSendingReceived)):
            stream = self.streams.setdefault(event.stream_id, Stream(self, event.stream_id))
            if isinstance(event, StreamDataReceived):
                stream.data += event.data
                stream.ended = stream.ended or event.end_stream
            elif isinstance(event, StreamReset):
                stream.reset_code = event.error_code
            else:
                stream.stop_code = event.error_code
            stream.touch()

    def fate(self):
        return None if self.terminated is None else f"closed {self.terminated.error_code:#x}"

    def stream(self, data=b"", uni=False, end=False):
        stream_id = self.quic.get_next_available_stream_id(is_unidirectional=uni)
        stream = self.streams[stream_id] = Stream(self, stream_id)
        self.quic.send_stream_data(stream_id, data, end)
        self.transmit()
        return stream

    def greet(self, what=BROWSER_SETTINGS):
        """The control stream."""
        self.control = self.stream(varint(CONTROL) + what, uni=True)
        return self.control

    def request(self, method="GET", path="/healthz", *fields, body=None, end=True):
        data = head((":method", method), (":scheme", "https"), (":authority", self.authority), (":path", path), *fields)
        if body is not None:
            data += frame(DATA, body)
        return self.stream(data, end=end)

    def connect_request(self, path="/wt"):
        """An extended CONNECT for WebTransport; not awaited."""
        fields = [(":method", "CONNECT"), (":scheme", "https"), (":authority", self.authority), (":path", path), (":protocol", "webtransport")]
        return self.stream(head(*fields, ("sec-webtransport-http3-draft02", "1")))

    async def session(self, path="/wt"):
        stream = self.connect_request(path)
        await stream.until(lambda it: it.status() is not None, "the answer to CONNECT")
        assert stream.status() == 200, (stream.status(), self.fate())
        return stream

    def wt_stream(self, session, data=b"", end=False):
        session_id = session if isinstance(session, int) else session.id
        return self.stream(varint(WT_BIDI) + varint(session_id) + data, end=end)

    async def is_alive(self):
        """Whether a request is still answered on this connection."""
        stream = self.request()
        await stream.until(lambda it: it.status() is not None, "an answer that shows the connection to live")
        return stream.status() == 200

    async def credit(self, uni=False):
        """Waits until the server allows another stream; nothing tells of it but the limit itself."""
        async with within(6, f"credit for more streams than the {self.granted(uni)} granted so far"):
            while self.terminated is None and self.quic.get_next_available_stream_id(is_unidirectional=uni) // 4 >= self.granted(uni):
                await asyncio.sleep(0.002)

    def granted(self, uni=False):
        return self.quic._remote_max_streams_uni if uni else self.quic._remote_max_streams_bidi

    async def closed(self, seconds=15, awaited="the server to close the connection"):
        async with within(seconds, awaited):
            await self.done.wait()
        return self.fate()

    def abandon(self):
        """Leaves without a word."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport.close()


def address(server):
    with httpx.Client(base_url=server.base, timeout=15, trust_env=False) as http:
        return urlsplit(http.get("/connect").json()["webtransport"]["url"])


@contextlib.asynccontextmanager
async def dial(url, change=None, wait=True, **options):
    """A QUIC connection; `change` gets the `QuicConnection` before it says anything."""
    options = {"max_datagram_frame_size": 65536, "idle_timeout": 60} | options
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["h3"], server_name="localhost", **options)
    configuration.verify_mode = ssl.CERT_NONE
    connection = QuicConnection(configuration=configuration)
    if change:
        change(connection)
    transport, client = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Client(connection), local_addr=("127.0.0.1", 0), family=socket.AF_INET
    )
    client.authority = url.netloc
    client.connect((url.hostname, url.port))
    try:
        if wait:
            async with within(15, "the QUIC handshake"):
                await client.shaken.wait()
        yield client
    finally:
        if not transport.is_closing() and client.terminated is None:
            client.close()
            # The close goes out now; nobody waits for what may come back.
            client.transmit()
        client.abandon()
