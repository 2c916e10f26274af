"""The Python agent's connections that carry requests in-band: WebSocket and WebTransport."""

import asyncio
import json
import time
from collections import deque

import fulmar_bin
from carriers import Exchange, error_of, limit
from connections import LOST, NORMAL, PROTOCOL_ERROR, Inband
from http3 import open_quic
from receiver import VALUES, Receiver, Refused
from websockets.frames import Opcode

CLOSE_CAPSULE = 0x2843
MAX_FRAME = 1 << 20
MAX_EARLY = 64
EARLY_SECONDS = 3
#: So that there are streams of one subscription and streams of several.
SUBSCRIPTIONS_ON_A_STREAM = 2


class WebSocket(Inband):
    async def start(self, base, version, encoding="json"):
        self.binary = encoding == "bin"
        self.codec = fulmar_bin.Connection()
        self.parts = []
        found = await self.lease(base, version)
        self.protocol, self.write, self.drop = await found.websocket("/ws", f"fulmar.v1.{encoding}", self.received)

    def send(self, message):
        if self.binary:
            self.protocol.send_binary(fulmar_bin.from_json(message))
        else:
            self.protocol.send_text(json.dumps(message, ensure_ascii=False).encode())
        self.write(self.protocol.data_to_send())

    def received(self, data):
        try:
            self.protocol.receive_data(data) if data else self.protocol.receive_eof()
            for frame in self.protocol.events_received():
                self.frame(frame)
            self.write(self.protocol.data_to_send())
        except Exception as error:
            self.close(PROTOCOL_ERROR)
            self.finish(PROTOCOL_ERROR, f"{type(error).__name__}: {error}")
        closing = self.protocol.close_rcvd
        if closing:
            self.finish_as_announced(closing.code, closing.reason)
        elif not data or self.protocol.parser_exc:
            self.finish(LOST, str(self.protocol.parser_exc or "lost"))

    def frame(self, frame):
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self.parts.append((frame.opcode, frame.data))
            if frame.fin:
                kind, message = self.parts[0][0], b"".join(data for _, data in self.parts)
                self.parts = []
                assert kind is (Opcode.BINARY if self.binary else Opcode.TEXT), f"a message of kind {kind}"
                self.receive(self.codec.to_json(message) if self.binary else json.loads(message))

    def close(self, code=NORMAL, reason=""):
        """Closed with what the server answers."""
        self.take = lambda message: None
        if self.protocol.state.name == "OPEN":
            self.protocol.send_close(code, reason)
            self.write(self.protocol.data_to_send())
            asyncio.get_running_loop().call_later(5, self.finish, LOST, "the server did not answer a close")

    def release(self):
        super().release()
        # What is left is the end of the stream, which is the server's to send.
        asyncio.get_running_loop().call_later(1, self.drop)


class Stream:
    """One of a WebTransport session."""

    def __init__(self, connection):
        self.connection, self.quic = connection, connection.quic
        self.id = self.quic.h3.create_webtransport_stream(connection.session)
        self.buffer = b""
        self.channels = set()
        self.number = 0
        self.ended = False
        self.quic.streams[self.id] = self.received

    def send(self, message):
        self.write(fulmar_bin.from_json(message))

    def write(self, frame):
        self.quic.quic.send_stream_data(self.id, fulmar_bin.prefixed(frame))
        self.quic.transmit()

    def end(self):
        self.ended = True
        self.quic.quic.send_stream_data(self.id, b"", end_stream=True)
        self.quic.transmit()

    def received(self, data, ended):
        try:
            frames, self.buffer = fulmar_bin.split(self.buffer + data)
            assert len(self.buffer) <= MAX_FRAME, "a frame is too long"
            for frame in frames:
                self.connection.stream_frame(self, frame)
        except Exception as error:
            self.connection.fail(f"{type(error).__name__}: {error}")
        if ended:
            self.connection.stream_ended(self)


class WebTransport(Inband):
    closing = None

    async def start(self, base, version=None, encoding=None):
        self.quic, url, self.close_quic = await open_quic(base)
        self.codec = fulmar_bin.Connection()
        self.receiver = Receiver(self.codec.aliases)
        self.early = deque(maxlen=MAX_EARLY)
        self.streams = []
        self.capsules = b""
        self.told = None
        self.connect = Exchange(self.capsule)
        self.connect.ended.add_done_callback(self.ended)
        headers = [("sec-webtransport-http3-draft02", "1")]
        self.session = self.quic.request(self.connect, "CONNECT", url.netloc, url.path, headers, protocol="webtransport")
        self.quic.datagram = self.datagram
        async with limit("the answer to CONNECT"):
            if await self.connect.head != 200:
                await self.connect.ended
                raise error_of(self.connect)
        self.control = Stream(self)
        # The first stream that the server sees is the control stream.
        await self.request({"type": "ping"})

    def send(self, message):
        self.control.send(message)

    async def ask_for(self, channel, message):
        stream = next((s for s in self.streams if channel in s.channels), None)
        if message["type"] == "unsubscribe":
            await self.request(message, stream.send)
            stream.channels.discard(channel)
            if not stream.channels:
                self.streams.remove(stream)
                stream.end()
            return
        stream = next((s for s in self.streams if len(s.channels) < SUBSCRIPTIONS_ON_A_STREAM), None)
        if not stream:
            stream = Stream(self)
            self.streams.append(stream)
        stream.channels.add(channel)
        await self.request(message, stream.send)

    def stream_frame(self, stream, frame):
        if frame[:1] == VALUES:
            came, ack = self.receiver.stream(frame, stream.number)
            stream.number += 1
            self.values(came)
            stream.write(ack)
            return
        message = self.codec.to_json(frame)
        self.receiver.note(message)
        if message["type"] == "synced" and self.positions.places.get(message["channel"]):
            # After a position that is still covered; other transports do not tell of it.
            self.positions.note(message)
        else:
            self.receive(message)
        if self.early and message["type"] in ("subscribed", "gap", "reset"):
            early, self.early = self.early, deque(maxlen=MAX_EARLY)
            for came, frame in early:
                if time.monotonic() - came < EARLY_SECONDS:
                    self.datagram_frame(came, frame)

    def values(self, publications):
        for message in publications:
            self.receive(message, datagram=True)
        for channel in self.channels:
            if (offset := self.receiver.position(channel)) is not None:
                self.positions.settle(channel, offset)

    def datagram(self, data):
        try:
            frames, rest = fulmar_bin.split(data)
            assert frames and not rest, "a datagram is not a sequence of frames"
            for frame in frames:
                self.datagram_frame(time.monotonic(), frame)
        except Exception as error:
            self.fail(f"{type(error).__name__}: {error}")

    def datagram_frame(self, came, frame):
        try:
            if frame[:1] == VALUES:
                self.values(self.receiver.datagram(frame))
                self.quic.h3.send_datagram(self.session, fulmar_bin.prefixed(self.receiver.ack()))
                self.quic.transmit()
                return
            message = self.codec.to_json(frame)
        except fulmar_bin.UnknownAlias:
            self.early.append((came, frame))
            return
        except Refused:
            return  # What is not acknowledged comes again.
        assert message["type"] == "publication", f"{message['type']} in a datagram"
        # What comes after an unsubscription is of no use.
        if message["channel"] in self.channels:
            self.receive(message, datagram=True)

    def stream_ended(self, stream):
        if not stream.ended:
            # The session's own end, which tells the reason, may come a moment later.
            asyncio.get_running_loop().call_later(1, self.fail, f"the server ended stream {stream.id}")

    def capsule(self, data):
        self.capsules += data
        assert len(self.capsules) <= MAX_FRAME, "a capsule is too long"
        while self.capsules:
            reader = fulmar_bin.Reader(self.capsules)
            try:
                kind, value = reader.varint(), reader.take(reader.varint())
            except fulmar_bin.Malformed:
                return
            self.capsules = self.capsules[reader.at :]
            if kind == CLOSE_CAPSULE:
                self.told = (int.from_bytes(value[:4], "big"), value[4:].decode())

    def ended(self, _):
        """The end of the CONNECT stream is that of the session."""
        if self.told:
            self.finish_as_announced(*self.told)
        elif self.closing:
            self.finish(*self.closing)
        else:
            failure = self.connect.ended.result()
            self.finish(LOST, str(failure or "the CONNECT stream ended without a CLOSE capsule"))

    def close(self, code=NORMAL, reason=""):
        """The capsule and the end of the CONNECT stream, to which the server answers with its own end of it."""
        self.take = lambda message: None
        if self.closing or not self.open:
            return
        self.closing = (code, reason)
        if self.quic.lost:
            return self.finish(LOST, "lost")
        capsule = fulmar_bin.varint(CLOSE_CAPSULE) + fulmar_bin.prefixed(code.to_bytes(4, "big") + reason.encode())
        self.quic.h3.send_data(self.session, capsule, end_stream=True)
        self.quic.transmit()
        asyncio.get_running_loop().call_later(5, self.finish, LOST, "the server did not answer a close")

    def fail(self, reason):
        if self.open and not self.closing and not self.told:
            self.close(PROTOCOL_ERROR, reason[:100])
            self.finish(PROTOCOL_ERROR, reason)

    def release(self):
        super().release()
        self.close_quic()
