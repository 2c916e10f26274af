"""WebTransport sessions by aioquic: QUIC, HTTP/3 and the WebTransport parts share nothing with the server's."""

import asyncio
import contextlib
import ssl
from urllib.parse import urlsplit

import fulmar_bin
import receiver
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, DatagramReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StopSendingReceived, StreamDataReceived, StreamReset
from server import DEADLINE, within

CLOSE_SESSION = 0x2843
MAX_EARLY = 64
ENDED = object()


def take(item):
    if isinstance(item, Exception):
        raise item
    return item


class Stream:
    """A bidirectional stream of a session."""

    def __init__(self, session, stream_id):
        self.session, self.id = session, stream_id
        self.buffer = b""
        self.inbox = asyncio.Queue()
        self.kept = []
        self.number = 0

    def write(self, raw, end=False):
        self.session.quic.send_stream_data(self.id, raw, end)
        self.session.client.transmit()

    def send(self, **message):
        self.write(fulmar_bin.prefixed(fulmar_bin.from_json(message)))

    def fin(self):
        self.write(b"", end=True)

    def reset(self, code=0):
        self.session.quic.reset_stream(self.id, code)
        self.session.client.transmit()

    def _received(self, data, ended):
        frames, self.buffer = fulmar_bin.split(self.buffer + data)
        for frame in frames:
            for message in self._values(frame) if frame[:1] == receiver.VALUES else [self._message(frame)]:
                self.inbox.put_nowait(message)
        if frames:
            self.session._retry_datagrams()
        if ended:
            self.inbox.put_nowait(ENDED)

    def _message(self, frame):
        message = self.session.codec.to_json(frame)
        self.session.receiver.note(message)
        return message

    def _values(self, frame):
        came, ack = self.session.receiver.stream(frame, self.number)
        self.number += 1
        if self.session.acknowledges:
            self.write(fulmar_bin.prefixed(ack))
        return came

    async def recv(self, awaited="a frame"):
        """The next frame as JSON, or ENDED."""
        async with within(DEADLINE, f"{awaited} on stream {self.id}"):
            return take(await self.inbox.get())

    async def until(self, *types, awaited=None, **members):
        while True:
            message = await self.recv(awaited or f"{'/'.join(types)} {members}")
            assert message is not ENDED, f"stream {self.id} ended before {awaited or types}; before that: {self.kept[-5:]}"
            if message["type"] in types and all(message.get(k) == v for k, v in members.items()):
                return message
            self.kept.append(message)

    async def ask(self, **message):
        message.setdefault("ref", 7)
        self.send(**message)
        return await self.until(
            "subscribed", "unsubscribed", "published", "attached", "pong", "error", ref=message["ref"], awaited=f"the answer to {str(message)[:200]}"
        )

    async def subscribe(self, channel, **start):
        answer = await self.ask(type="subscribe", channel=channel, **start)
        assert answer["type"] == "subscribed" and answer["channel"] == channel, f"subscribe {channel} {start}: {answer}"
        return answer

    async def barrier(self):
        answer = await self.ask(type="ping", ref=4242)
        assert answer["type"] == "pong", answer

    async def publications(self, count, channel=None):
        got = []
        while len(got) < count:
            got.append(await self.until("publication", awaited=f"publication {len(got) + 1} of {count} on {channel}"))
            assert channel is None or got[-1]["channel"] == channel, got[-1]
        return got

    async def ended(self):
        while await self.recv("the end of the stream") is not ENDED:
            pass


class Session:
    """One WebTransport session: the CONNECT stream, its streams, datagrams and capsules."""

    def __init__(self, client, stream_id):
        self.client, self.id, self.quic = client, stream_id, client.quic
        self.codec = fulmar_bin.Connection()
        self.receiver = receiver.Receiver(self.codec.aliases)
        self.acknowledges = True
        # Says of the bytes of a datagram whether they are to be lost on their way.
        self.loses = lambda data: False
        self.came = asyncio.Event()
        self.streams = {}
        self.opened = asyncio.Queue()
        self.datagrams = asyncio.Queue()
        self.early = []
        self.capsules = b""
        self.capsule_kinds = []
        self.headers = asyncio.get_running_loop().create_future()
        self.body = b""
        self.body_ended = asyncio.Event()
        self.close_capsule = asyncio.get_running_loop().create_future()

    def status(self):
        return int(dict(self.headers.result())[b":status"])

    def open_stream(self):
        stream_id = self.client.h3.create_webtransport_stream(self.id)
        stream = self.streams[stream_id] = self.client.streams[stream_id] = Stream(self, stream_id)
        self.client.transmit()
        return stream

    async def stream_of_server(self):
        """The next stream that the server opens for this session."""
        async with within(DEADLINE, "a stream that the server opens"):
            return take(await self.opened.get())

    def send_datagram(self, payload, session_id=None):
        self.client.h3.send_datagram(self.id if session_id is None else session_id, payload)
        self.client.transmit()

    def close(self, code, reason=""):
        """The CLOSE capsule and FIN, as a browser's close() sends them."""
        value = code.to_bytes(4, "big") + reason.encode()
        capsule = fulmar_bin.varint(CLOSE_SESSION) + fulmar_bin.prefixed(value)
        self.client.h3.send_data(self.id, capsule, end_stream=True)
        self.client.transmit()

    async def closed(self):
        """(code, reason) of the server's CLOSE capsule."""
        async with within(DEADLINE, "the server's CLOSE_WEBTRANSPORT_SESSION capsule"):
            return await asyncio.shield(self.close_capsule)

    async def gone(self):
        """Returns once the server has ended the CONNECT stream or the QUIC connection."""
        async with within(DEADLINE, "the server to end the session"):
            await self.body_ended.wait()

    async def datagram(self, awaited="a publication in a datagram"):
        async with within(DEADLINE, awaited):
            return take(await self.datagrams.get())

    def _received(self, data, ended):
        self.body += data
        self.capsules += data
        while self.capsules:
            reader = fulmar_bin.Reader(self.capsules)
            try:
                kind, value = reader.varint(), reader.take(reader.varint())
            except fulmar_bin.Malformed:
                break
            self.capsules = self.capsules[reader.at :]
            self.capsule_kinds.append(kind)
            if kind == CLOSE_SESSION and not self.close_capsule.done():
                self.close_capsule.set_result((int.from_bytes(value[:4], "big"), value[4:].decode()))
        if ended:
            self._gone("the CONNECT stream ended")

    def _gone(self, why):
        self.body_ended.set()
        if not self.headers.done():
            self.headers.set_exception(AssertionError(f"{why} before an answer to CONNECT"))
        if not self.close_capsule.done():
            self.close_capsule.set_exception(AssertionError(f"{why} without a CLOSE capsule"))
            self.close_capsule.exception()

    async def position(self, channel, offset):
        """Returns once the channel's position has come to this offset."""
        async with within(DEADLINE, f"the position {offset} of {channel}; it is at {self.receiver.position(channel)}"):
            while (self.receiver.position(channel) or 0) < offset:
                await self.came.wait()

    def _datagram(self, data):
        if self.loses(data):
            return
        frames, rest = fulmar_bin.split(data)
        assert not rest, f"a datagram ends inside a frame: {data!r}"
        assert frames, "an empty datagram"
        for frame in frames:
            self._datagram_frame(frame)
        self._look()

    def _datagram_frame(self, frame):
        try:
            if frame[:1] == receiver.VALUES:
                for message in self.receiver.datagram(frame):
                    self.datagrams.put_nowait(message)
                if self.acknowledges:
                    self.send_datagram(fulmar_bin.prefixed(self.receiver.ack()))
            else:
                self.datagrams.put_nowait(self.codec.to_json(frame))
        except fulmar_bin.UnknownAlias:
            self.early = [*self.early, frame][-MAX_EARLY:]
        except receiver.Refused:
            pass  # What is not acknowledged comes again.

    def _retry_datagrams(self):
        early, self.early = self.early, []
        for frame in early:
            self._datagram_frame(frame)
        self._look()

    def _look(self):
        self.came.set()
        self.came = asyncio.Event()


class Client(QuicConnectionProtocol):
    """A QUIC connection to the server."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.quic = self._quic
        self.h3 = H3Connection(self._quic, enable_webtransport=True)
        self.streams, self.sessions = {}, {}
        self.heads = {}
        self.stopped = {}
        self.terminated = None
        self.failure = None

    def quic_event_received(self, event):
        try:
            self._handle(event)
        except Exception as error:  # a failed check must reach the test, not the event loop's log
            self.failure = self.failure or error
            for inbox in [s.inbox for s in self.streams.values()] + [q for s in self.sessions.values() for q in (s.datagrams, s.opened)]:
                inbox.put_nowait(error)

    def _handle(self, event):
        if isinstance(event, ConnectionTerminated):
            self.terminated = event
            for stream in self.streams.values():
                stream._received(b"", True)
            for session in self.sessions.values():
                session._gone(f"the connection ended ({event.error_code:#x} {event.reason_phrase})")
            return
        if isinstance(event, StopSendingReceived):
            self.stopped.setdefault(event.stream_id, asyncio.Event()).set()
        stream = self.streams.get(getattr(event, "stream_id", None))
        if stream is not None:
            # The server's half of a stream that this client opened carries no header of its own.
            if isinstance(event, StreamDataReceived):
                stream._received(event.data, event.end_stream)
            elif isinstance(event, StreamReset):
                stream._received(b"", True)
            return
        if isinstance(event, StreamDataReceived) and event.stream_id % 4 == 1:
            self._opened(event)
            return
        if isinstance(event, StreamReset) and event.stream_id in self.sessions:
            self.sessions[event.stream_id]._gone("the CONNECT stream was reset")
        for event in self.h3.handle_event(event):
            session = self.sessions.get(event.stream_id)
            assert session is not None, f"the server opened something of its own: {event}"
            if isinstance(event, HeadersReceived):
                if not session.headers.done():
                    session.headers.set_result(event.headers)
                if event.stream_ended:
                    session._received(b"", True)
            elif isinstance(event, DataReceived):
                session._received(event.data, event.stream_ended)
            elif isinstance(event, DatagramReceived):
                session._datagram(event.data)

    def _opened(self, event):
        """A stream of the server's own says first whose it is."""
        head = fulmar_bin.Reader(self.heads.pop(event.stream_id, b"") + event.data)
        try:
            kind, of = head.varint(), head.varint()
        except fulmar_bin.Malformed:
            self.heads[event.stream_id] = head.raw
            return
        session = self.sessions[of]
        assert kind == 0x41 and session.headers.done() and session.status() == 200, f"a stream of {kind:#x} before the session"
        stream = session.streams[event.stream_id] = self.streams[event.stream_id] = Stream(session, event.stream_id)
        session.opened.put_nowait(stream)
        stream._received(head.rest(), event.end_stream)

    async def request(self, method, path, authority, protocol=None, headers=(), end=True):
        """Sends a request; returns the Session that collects what comes back on it."""
        session = Session(self, self.quic.get_next_available_stream_id())
        self.sessions[session.id] = session
        pseudo = [(b":method", method.encode()), (b":scheme", b"https"), (b":authority", authority.encode()), (b":path", path.encode())]
        if protocol:
            pseudo.append((b":protocol", protocol.encode()))
        self.h3.send_headers(session.id, pseudo + [(k.encode(), v.encode()) for k, v in headers], end_stream=end)
        self.transmit()
        async with within(DEADLINE, f"the answer to {method} {path} over HTTP/3"):
            await asyncio.shield(session.headers)
        return session

    async def session(self, path="/wt", authority=None, headers=(), expect=200):
        """An extended CONNECT for WebTransport."""
        headers = [("sec-webtransport-http3-draft02", "1"), *headers]
        session = await self.request("CONNECT", path, authority or self.authority, "webtransport", headers, end=False)
        assert session.status() == expect, f"CONNECT {path} ({authority}, {headers}): {session.status()} {session.body!r}"
        return session

    async def get(self, path, authority=None, method="GET", headers=()):
        session = await self.request(method, path, authority or self.authority, headers=headers)
        await session.gone()
        return session


@contextlib.asynccontextmanager
async def quic(server, protocol=Client, **options):
    """A QUIC connection to the address that /connect names; `options` are of its configuration."""
    async with server.http() as http:
        url = urlsplit((await http.get("/connect")).json()["webtransport"]["url"])
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, max_datagram_frame_size=65536, idle_timeout=30, **options)
    # The certificate is checked by its hash, in test_connect.py; chains are of no use for a self-signed one.
    configuration.verify_mode = ssl.CERT_NONE
    async with contextlib.AsyncExitStack() as stack:
        async with within(DEADLINE, "the QUIC handshake"):
            connecting = connect(url.hostname, url.port, configuration=configuration, create_protocol=protocol)
            client = await stack.enter_async_context(connecting)
        client.authority = url.netloc
        client.certificate = client.quic.tls._peer_certificate
        yield client
        if client.failure:
            raise client.failure


@contextlib.asynccontextmanager
async def open_wt(server, **options):
    async with quic(server) as client:
        yield await client.session(**options)
