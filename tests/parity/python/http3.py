"""QUIC and HTTP/3, by aioquic."""

import base64
import contextlib
import hashlib
import ssl
from urllib.parse import urlsplit

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, DatagramReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamDataReceived, StreamReset
from carriers import Carrier, Failure, Http1, limit, spawn
from cryptography.hazmat.primitives.serialization import Encoding

REQUEST_CANCELLED = 0x10C


class Quic(QuicConnectionProtocol):
    """A QUIC connection with HTTP/3; `streams` are those of WebTransport, which carry frames of our own."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.quic = self._quic
        self.h3 = H3Connection(self._quic, enable_webtransport=True)
        self.exchanges = {}
        self.streams = {}
        self.datagram = None
        self.lost = False

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            self.lost = True
            why = Failure("lost", f"the QUIC connection ended: {event.error_code:#x} {event.reason_phrase}")
            for exchange in list(self.exchanges.values()):
                exchange.end(why)
            return
        stream_id = getattr(event, "stream_id", None)
        if stream_id in self.streams:
            # The server's half of a stream that this client opened has no header of its own.
            if isinstance(event, StreamDataReceived):
                self.streams[stream_id](event.data, event.end_stream)
            elif isinstance(event, StreamReset):
                self.streams[stream_id](b"", True)
            return
        if isinstance(event, StreamReset) and stream_id in self.exchanges:
            self.exchanges.pop(stream_id).end(Failure("lost", f"the stream was reset with {event.error_code:#x}"))
            return
        for event in self.h3.handle_event(event):
            if isinstance(event, DatagramReceived):
                if self.datagram:
                    self.datagram(event.data)
                continue
            exchange = self.exchanges.get(event.stream_id)
            if not exchange:
                continue
            if isinstance(event, HeadersReceived):
                exchange.answered(int(dict(event.headers)[b":status"]))
            elif isinstance(event, DataReceived):
                exchange.data(event.data)
            if event.stream_ended:
                self.exchanges.pop(event.stream_id, None)
                exchange.end()

    def request(self, exchange, method, authority, path, headers=(), body=None, protocol=None):
        """Sends a request; its stream's id."""
        stream_id = self.quic.get_next_available_stream_id()
        pseudo = [(":method", method), (":scheme", "https"), (":authority", authority), (":path", path)]
        if protocol:
            pseudo.append((":protocol", protocol))
        ends = body is None and not protocol
        self.h3.send_headers(stream_id, [(k.encode(), v.encode()) for k, v in [*pseudo, *headers]], end_stream=ends)
        if body is not None:
            self.h3.send_data(stream_id, body, end_stream=True)
        self.exchanges[stream_id] = exchange
        exchange.drop = lambda: self._drop(stream_id)
        self.transmit()
        return stream_id

    def _drop(self, stream_id):
        if self.exchanges.pop(stream_id, None) and not self.lost:
            self.quic.stop_stream(stream_id, REQUEST_CANCELLED)
            self.quic.reset_stream(stream_id, REQUEST_CANCELLED)
            self.transmit()


async def open_quic(base):
    """A connection to where /connect says, to a certificate whose hash it gives: (Quic, URL, how to close it)."""
    found = (await Http1(base).fetch("GET", "/connect"))["webtransport"]
    url = urlsplit(found["url"])
    # What checks the certificate is its hash.
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=H3_ALPN, max_datagram_frame_size=65536, idle_timeout=60, verify_mode=ssl.CERT_NONE
    )
    async with contextlib.AsyncExitStack() as stack:
        async with limit("the QUIC handshake"):
            client = await stack.enter_async_context(connect(url.hostname, url.port, configuration=configuration, create_protocol=Quic))
        digest = hashlib.sha256(client.quic.tls._peer_certificate.public_bytes(Encoding.DER)).digest()
        assert any(base64.b64decode(h["value"]) == digest for h in found["certificate_hashes"]), "a certificate /connect does not name"
        held = stack.pop_all()
    return client, url, lambda: spawn(held.aclose())


class Http3(Carrier):
    def __init__(self, base):
        self.base = base

    async def open(self):
        self.quic, self.url, self.close = await open_quic(self.base)
        self.streams = self.quic.quic._remote_max_streams_bidi
        return self

    @property
    def alive(self):
        return not self.quic.lost

    def full(self):
        # Each may need a stream to read and one to send, and one stream too many waits in silence.
        return self.users >= self.streams // 2

    async def start(self, exchange, method, path, headers, body):
        if self.quic.lost:
            raise Failure("lost", "the QUIC connection ended")
        self.quic.request(exchange, method, self.url.netloc, path, headers, body)
