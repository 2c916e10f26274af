"""HTTP/2 in cleartext by prior knowledge, and WebSocket over it (RFC 8441)."""

import asyncio
import contextlib
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from carriers import MAX_WS_MESSAGE, Carrier, Exchange, Failure, error_of, limit, spawn, writing
from websockets.protocol import Protocol, Side

MAX_UNSENT = 1 << 20
CANCEL = 8


class Http2(Carrier):
    def __init__(self, base):
        self.address = urlsplit(base)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.exchanges = {}
        self.unsent = {}  # by stream: (bytearray, whether it ends with them)
        self.unended = set()  # the streams of which this side is open
        self.settings = asyncio.Event()

    async def open(self):
        async with limit("an HTTP/2 connection"):
            self.reader, self.writer = await asyncio.open_connection(self.address.hostname, self.address.port)
            self.h2.initiate_connection()
            self._flush()
            self.reading = spawn(self._read())
            await self.settings.wait()
        return self

    def close(self):
        self.alive = False
        self.reading.cancel()
        self.writer.close()

    def full(self):
        return self.users >= self.h2.remote_settings.max_concurrent_streams // 2

    def _flush(self):
        if not self.writer.is_closing():
            self.writer.write(self.h2.data_to_send())

    async def _read(self):
        why = "the HTTP/2 connection ended"
        try:
            while data := await self.reader.read(65536):
                for event in self.h2.receive_data(data):
                    self._event(event)
                self._send_all()
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        finally:
            self.alive = False
            for exchange in list(self.exchanges.values()):
                exchange.end(Failure("lost", why))

    def _event(self, event):
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self.settings.set()
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.alive = False
        exchange = self.exchanges.get(getattr(event, "stream_id", None))
        if isinstance(event, h2.events.DataReceived):
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if exchange:
                exchange.data(event.data)
        elif not exchange:
            return
        elif isinstance(event, h2.events.ResponseReceived):
            exchange.answered(int(dict(event.headers)[":status"]))
        elif isinstance(event, h2.events.StreamEnded):
            self._write(event.stream_id, last=True)
            self.exchanges.pop(event.stream_id, None)
            exchange.end()
        elif isinstance(event, h2.events.StreamReset):
            self._forget(event.stream_id)
            exchange.end(Failure("lost", f"the stream was reset with {event.error_code}"))

    def _forget(self, stream_id):
        self.exchanges.pop(stream_id, None)
        self.unsent.pop(stream_id, None)
        self.unended.discard(stream_id)

    def _send_all(self):
        """As far as the windows of flow control let it."""
        for stream_id in list(self.unsent):
            try:
                self._send(stream_id, *self.unsent[stream_id])
            except h2.exceptions.StreamClosedError:
                # The server has reset it in the same breath as it ended it, which the next events tell.
                self._forget(stream_id)
        self._flush()

    def _send(self, stream_id, waiting, last):
        while size := min(len(waiting), self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size):
            self.h2.send_data(stream_id, bytes(waiting[:size]))
            del waiting[:size]
        if not waiting:
            del self.unsent[stream_id]
            if last:
                self.unended.discard(stream_id)
                self.h2.end_stream(stream_id)

    def _write(self, stream_id, data=b"", last=False):
        if stream_id not in self.unended:
            return
        waiting, ended = self.unsent.get(stream_id, (bytearray(), False))
        waiting += data
        if len(waiting) > MAX_UNSENT:
            raise Failure("failed", "the server does not read what it is sent")
        self.unsent[stream_id] = (waiting, last or ended)
        self._send_all()

    async def start(self, exchange, method, path, headers, body, protocol=None):
        stream_id = self.h2.get_next_available_stream_id()
        pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", self.address.netloc)]
        if protocol:
            pseudo.insert(1, (":protocol", protocol))
        ends = body is None and not protocol
        self.h2.send_headers(stream_id, pseudo + headers, end_stream=ends)
        self.exchanges[stream_id] = exchange
        exchange.write = lambda data: self._write(stream_id, data)
        exchange.finish = lambda: self._write(stream_id, last=True)
        exchange.drop = lambda: self._drop(stream_id)
        if ends:
            self._flush()
        else:
            self.unended.add(stream_id)
            self._write(stream_id, body or b"", last=body is not None)

    def _drop(self, stream_id):
        if self.exchanges.get(stream_id):
            self._forget(stream_id)
            with contextlib.suppress(h2.exceptions.StreamClosedError):
                self.h2.reset_stream(stream_id, CANCEL)
            self._flush()

    async def websocket(self, path, subprotocol, received):
        """RFC 8441."""
        assert self.h2.remote_settings.get(h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL) == 1, "no extended CONNECT"
        exchange = Exchange(received)
        headers = [("sec-websocket-version", "13"), ("sec-websocket-protocol", subprotocol)]
        async with limit("the answer to an extended CONNECT"):
            await self.start(exchange, "CONNECT", path, headers, None, "websocket")
            if await exchange.head != 200:
                await exchange.ended
                raise error_of(exchange)
        exchange.ended.add_done_callback(lambda _: received(b""))
        return Protocol(Side.CLIENT, max_size=MAX_WS_MESSAGE), writing(exchange.write, exchange.finish), exchange.abort
