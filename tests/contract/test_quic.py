"""What a WebTransport server says on QUIC and HTTP/3 beside the protocol itself: SETTINGS, GOAWAY, capsules, codes of streams."""

import asyncio
import signal

import fulmar_bin
import pytest
import wt
from aioquic.h3.connection import FrameType, H3Connection, StreamType, encode_frame, encode_settings
from aioquic.quic.events import StopSendingReceived, StreamDataReceived, StreamReset
from server import DEADLINE, Server, name, publish, within

SESSION_GONE, BUFFERED_STREAM_REJECTED = 0x170D7B68, 0x3994BD84
DRAIN_SESSION = 0x78AE


def carried(code):
    """An application's code as QUIC carries it: draft-ietf-webtrans-http3-02, section 4.3."""
    return 0x52E4A40FA8DB + code + code // 0x1E


@pytest.fixture
def own():
    running = Server()
    yield running
    running.stop()


class Watch:
    """Resets, stops and GOAWAY of a connection, as QUIC brings them."""

    def __init__(self, client):
        self.resets, self.stops, self.control = {}, {}, b""
        self.changed = asyncio.Event()
        self.handle, client._handle = client._handle, self._handle
    def _handle(self, event):
        if isinstance(event, StreamReset):
            self.resets[event.stream_id] = event.error_code
        if isinstance(event, StopSendingReceived):
            self.stops[event.stream_id] = event.error_code
        # aioquic keeps nothing of GOAWAY, so the server's control stream is read here; it is the first that the server opens.
        if isinstance(event, StreamDataReceived) and event.stream_id == 3:
            self.control += event.data
        self.changed.set()
        self.handle(event)

    def goaways(self):
        """The ids of the GOAWAY frames so far. The control stream's first frames may have come before this watch."""
        reader, ids = fulmar_bin.Reader(self.control), []
        if self.control[:1] == b"\0":
            reader.varint()
        while reader.at < len(self.control):
            kind, frame = reader.varint(), reader.take(reader.varint())
            if kind == FrameType.GOAWAY:
                ids.append(fulmar_bin.Reader(frame).varint())
        return ids

    async def until(self, met, awaited):
        async with within(DEADLINE, awaited):
            while not met():
                self.changed.clear()
                await self.changed.wait()


async def test_settings_of_every_draft(server):
    """draft-02 for Chromium and Firefox, draft-07 for Safari, draft-13; never more than one session without flow control."""
    async with wt.quic(server) as client:
        await client.get("/healthz")
        settings = client.h3.received_settings
    assert {k: settings.get(k) for k in (0x2B603742, 0xC671706A, 0x14E9CD29, 0x33, 0x08)} == {
        0x2B603742: 1, 0xC671706A: 1, 0x14E9CD29: 1, 0x33: 1, 0x08: 1,
    }  # fmt: skip


async def test_connect_before_settings(server, monkeypatch):
    """Packets come in any order: a CONNECT may be here before the client's SETTINGS."""
    def without_control_stream(h3):
        h3._local_encoder_stream_id = h3._create_uni_stream(StreamType.QPACK_ENCODER)
        h3._local_decoder_stream_id = h3._create_uni_stream(StreamType.QPACK_DECODER)

    monkeypatch.setattr(H3Connection, "_init_connection", without_control_stream)
    async with wt.quic(server) as client:
        session = await client.session()
        await session.open_stream().barrier()
        client.h3._local_control_stream_id = client.h3._create_uni_stream(StreamType.CONTROL)
        settings = encode_frame(FrameType.SETTINGS, encode_settings(client.h3._get_local_settings()))
        client.quic.send_stream_data(client.h3._local_control_stream_id, settings)
        client.transmit()
        await session.open_stream().barrier()


async def test_the_server_drains(own):
    """On SIGTERM: GOAWAY above the live session, the DRAIN capsule, and the session goes on until its close."""
    channel = name()
    async with wt.quic(own) as client:
        watch = Watch(client)
        session = await client.session()
        control = session.open_stream()
        await control.subscribe(channel)
        own.process.send_signal(signal.SIGTERM)
        await watch.until(watch.goaways, "GOAWAY")
        assert watch.goaways() == [session.id + 4], "an id above the live session's"
        answer = await control.ask(type="publish", channel=channel, data="while it drains")
        assert answer["type"] == "published", answer
        await control.publications(1, channel)
        assert session.capsule_kinds[:1] == [DRAIN_SESSION], session.capsule_kinds
        close = await control.until("close", awaited="the in-band close")
        assert close["code"] == 4000
        assert (await session.closed())[0] == 4000
    assert await own.wait() == 0


async def test_streams_of_a_closed_session_are_told_so(server):
    """SESSION_GONE on each stream but the control stream, whose last words must arrive."""
    async with wt.open_wt(server) as session:
        watch = Watch(session.client)
        control, stream = session.open_stream(), session.open_stream()
        await stream.subscribe(name())
        session.close(0, "")
        await watch.until(lambda: stream.id in watch.resets and stream.id in watch.stops, "the stream's reset")
        assert watch.resets[stream.id] == watch.stops[stream.id] == SESSION_GONE
        await control.ended()
        assert control.id not in watch.resets


async def test_a_stream_of_no_session_is_refused(server):
    async with wt.open_wt(server) as session:
        watch = Watch(session.client)
        await session.open_stream().barrier()
        stream_id = session.quic.get_next_available_stream_id()
        session.quic.send_stream_data(stream_id, fulmar_bin.varint(0x41) + fulmar_bin.varint(400) + b"data")
        session.client.transmit()
        await watch.until(lambda: stream_id in watch.resets and stream_id in watch.stops, "the stream's reset")
        assert watch.resets[stream_id] == watch.stops[stream_id] == BUFFERED_STREAM_REJECTED


async def test_a_frame_that_is_not_finished(server):
    """After 10 s its stream ends with an application's code, and the session goes on."""
    async with wt.open_wt(server) as session:
        watch = Watch(session.client)
        control, stream, small = session.open_stream(), session.open_stream(), session.open_stream()
        await control.barrier()
        stream.write(fulmar_bin.varint(100_000) + bytes(5_000))
        small.write(fulmar_bin.varint(100) + b"\x09")
        for begun in (stream, small):
            await watch.until(lambda begun=begun: begun.id in watch.resets and begun.id in watch.stops, "the stream's reset")
            assert watch.resets[begun.id] == watch.stops[begun.id] == carried(4901)
        await control.barrier()


async def test_unfinished_frames_share_a_budget(server):
    """A session's streams that begin large frames are read on in turn, and small frames pass them."""
    async with wt.open_wt(server) as session:
        control = session.open_stream()
        await control.barrier()
        message = {"type": "publish", "channel": name(), "data": "x" * 60_000, "ref": 7}
        frame = fulmar_bin.prefixed(fulmar_bin.from_json(message))
        large = [session.open_stream() for _ in range(6)]
        for stream in large:
            stream.write(frame[:2_000])
        await control.barrier()
        # 256 KiB have room for four of them. Those that wait are served when these are whole.
        for stream in large:
            stream.write(frame[2_000:])
        for stream in large:
            assert (await stream.recv("an answer"))["type"] == "published"


async def test_streams_beside_their_connect(server):
    """A client may open streams before its session is accepted."""
    async with wt.quic(server) as client:
        stream_id = client.quic.get_next_available_stream_id()
        session = wt.Session(client, stream_id)
        client.sessions[stream_id] = session
        pseudo = {":method": "CONNECT", ":scheme": "https", ":authority": client.authority, ":path": "/wt", ":protocol": "webtransport"}
        client.h3.send_headers(stream_id, [(k.encode(), v.encode()) for k, v in pseudo.items()])
        control = session.open_stream()
        assert await control.ask(type="ping", ref=5) == {"type": "pong", "ref": 5}


async def test_more_sessions_than_first_credit(server):
    """Sixteen sessions on one connection, each with its streams."""
    async with wt.quic(server) as client:
        sessions = [await client.session() for _ in range(16)]
        for session in sessions:
            await session.open_stream().barrier()
        assert (await client.request("CONNECT", "/wt", client.authority, "webtransport", end=False)).status() == 429


async def test_the_first_stream_is_the_control_stream(own):
    """However the streams of one flight are served."""
    async with wt.quic(own) as client:
        sessions = [await client.session() for _ in range(8)]
        controls = []
        for session in sessions:
            control, other = session.open_stream(), session.open_stream()
            other.write(fulmar_bin.prefixed(fulmar_bin.from_json({"type": "ping", "ref": 1})))
            controls.append((control, other))
        for control, other in controls:
            assert (await other.recv("a pong"))["type"] == "pong"
        own.process.send_signal(signal.SIGTERM)
        for control, _ in controls:
            assert (await control.until("close", awaited="the close on the control stream"))["code"] == 4000


async def test_the_first_stream_is_the_control_stream_whenever_it_says_what_it_is(own):
    """Its packets may be lost and come after those of a later stream, which waits for that."""
    async with wt.quic(own) as client:
        session = await client.session()
        first = client.quic.get_next_available_stream_id()
        header = fulmar_bin.varint(0x41) + fulmar_bin.varint(session.id)
        control = client.streams[first] = wt.Stream(session, first)
        client.quic.send_stream_data(first, header[:1])
        later = session.open_stream()
        later.write(fulmar_bin.prefixed(fulmar_bin.from_json({"type": "ping", "ref": 1})))
        await client.get("/healthz")
        client.quic.send_stream_data(first, header[1:])
        client.transmit()
        await control.barrier()
        assert (await later.recv("a pong"))["type"] == "pong"
        own.process.send_signal(signal.SIGTERM)
        assert (await control.until("close", awaited="the close on the control stream"))["code"] == 4000


async def test_a_stream_that_does_not_say_what_it_is_holds_nothing_up(server):
    """Later ones are served while it is still waited for."""
    async with wt.open_wt(server) as session:
        await session.open_stream().barrier()
        half = session.quic.get_next_available_stream_id()
        header = fulmar_bin.varint(0x41) + fulmar_bin.varint(session.id)
        slow = session.client.streams[half] = wt.Stream(session, half)
        session.quic.send_stream_data(half, header[:1])
        await session.open_stream().barrier()
        session.quic.send_stream_data(half, header[1:])
        await slow.barrier()


async def test_quic_ends_with_its_last_session(server):
    """Browsers would keep it for a minute and more. With another session on it, it goes on."""
    async with wt.quic(server) as client:
        watch = Watch(client)
        first, second = await client.session(), await client.session()
        first.close(0, "")
        await first.gone()
        await second.open_stream().barrier()
        second.close(0, "")
        await watch.until(lambda: client.terminated, "the end of the connection")
        assert client.terminated.error_code == 0x100, client.terminated


async def test_publishing_by_http3(server):
    """The body comes in pieces, and the answer does not wait for more than it needs."""
    channel = name()
    async with server.http() as http, wt.quic(server) as client:
        await publish(http, channel, 0)
        body = b'{"channel":"%s","data":1}' % channel.encode()
        stream_id = client.quic.get_next_available_stream_id()
        session = client.sessions[stream_id] = wt.Session(client, stream_id)
        headers = {":method": "POST", ":scheme": "https", ":authority": client.authority, ":path": "/api/publish", "content-type": "application/json"}
        client.h3.send_headers(stream_id, [(k.encode(), v.encode()) for k, v in headers.items()])
        for byte in body:
            client.quic.send_stream_data(stream_id, encode_frame(FrameType.DATA, bytes([byte])))
            client.transmit()
        client.quic.send_stream_data(stream_id, b"", end_stream=True)
        client.transmit()
        await session.gone()
        assert session.status() == 200 and b'"offset":2' in session.body, session.body
