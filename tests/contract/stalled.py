"""Readers that stop: real sockets with a small receive buffer, read only when a test says so, and what they then bring."""

import json
import socket
import ssl
from urllib.parse import urlencode

import h2.config
import h2.connection
import h2.events
import h2.settings
from raw import UPGRADE, parse_block, ws_unframe
from server import DEADLINE

RECEIVE_BUFFER = 4096
# What the server may have on its way when a reader stops, in bytes: TCP_UNSENT of limits.rs, one batch (BATCH_BYTES, by
# Draft::cost, which for the values of these tests is more than their messages are on the wire), and the value that fills it.
VALUE = 4096
UNSENT = 16 * 1024 + 32 * 1024 + VALUE + 256


class Reader:
    """What all transports have in common: bytes off a socket become messages, and are counted."""

    # What else the transport may hold, in bytes.
    besides = 0

    def __init__(self, server, channel):
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        # Before connecting, or the window would be the system's.
        plain.settimeout(DEADLINE)
        plain.connect(("127.0.0.1", server.port))
        self.buffer_size = plain.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self.socket, self.host, self.channel = self.secure(plain), f"127.0.0.1:{server.port}", channel
        self.buffer, self.messages, self.count = b"", [], 0
        self.begin()

    def secure(self, plain):
        return plain

    def request(self, target, headers):
        lines = [f"GET {target} HTTP/1.1", f"Host: {self.host}", *(f"{k}: {v}" for k, v in headers)]
        self.socket.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
        while b"\r\n\r\n" not in self.buffer:
            self.pull()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        self.parse()
        return int(head.split()[1])

    def pull(self):
        data = self.socket.recv(4096)
        assert data, f"the server ended the connection; left over: {self.buffer[:200]!r}"
        self.count += len(data)
        self.take(data)

    def take(self, data):
        self.buffer += data

    def next(self):
        while not self.messages:
            self.pull()
            self.parse()
        return self.messages.pop(0)

    def until(self, kind):
        while self.next()["type"] != kind:
            pass

    def bound(self):
        """How many bytes may come that were written before the reader stopped."""
        return self.buffer_size + UNSENT + self.besides

    def close(self):
        self.socket.close()


class WebSocket(Reader):
    def begin(self):
        assert self.request("/ws?" + urlencode({"channel": self.channel}), UPGRADE) == 101

    def parse(self):
        while parsed := ws_unframe(self.buffer):
            opcode, fin, payload, self.buffer = parsed
            assert fin and opcode in (1, 9), (opcode, payload)
            if opcode == 1:
                self.messages.append(json.loads(payload))


class SecureWebSocket(WebSocket):
    # TLS_BUFFER of limits.rs, and a record.
    besides = 16 * 1024 + 16 * 1024

    def secure(self, plain):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(plain)


class EventStream(Reader):
    def begin(self):
        self.events = b""
        assert self.request("/sse?" + urlencode({"channel": self.channel}), [("Accept", "text/event-stream")]) == 200

    def parse(self):
        # Chunks, of which each is parsed when it is whole.
        while b"\r\n" in self.buffer:
            size, rest = self.buffer.split(b"\r\n", 1)
            size = int(size, 16)
            if len(rest) < size + 2:
                return
            self.events += rest[:size]
            self.buffer = rest[size + 2 :]
            self.parse_events()

    def parse_events(self):
        while b"\n\n" in self.events:
            block, self.events = self.events.split(b"\n\n", 1)
            event = parse_block(block)
            if "data" in event:
                self.messages.append({"type": event.get("event", "publication"), "cursor": event["id"]} | json.loads(event["data"]))


class Http2EventStream(EventStream):
    """One whose connection is not read, with windows that never fill."""

    window = 1 << 24

    def begin(self):
        self.events, self.status = b"", None
        self.http2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.http2.initiate_connection()
        self.http2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: self.window})
        self.http2.increment_flow_control_window(1 << 24)
        self.stream = self.http2.get_next_available_stream_id()
        target = "/sse?" + urlencode({"channel": self.channel})
        self.http2.send_headers(
            self.stream, [(":method", "GET"), (":scheme", "http"), (":path", target), (":authority", self.host)], end_stream=True
        )
        self.write()
        while self.status is None:
            self.pull()
        assert self.status == "200"
        self.parse()

    def write(self):
        self.socket.sendall(self.http2.data_to_send())

    def take(self, data):
        for event in self.http2.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                self.status = dict(event.headers)[":status"]
            elif isinstance(event, h2.events.DataReceived):
                self.events += event.data
                self.took(event)
        self.write()

    def took(self, event):
        self.http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def parse(self):
        self.parse_events()


class Http2EventStreamWithoutWindow(Http2EventStream):
    """One whose connection is read, and whose stream has no window left until it reads on."""

    window = 4096

    def begin(self):
        self.unread = 0
        self.stopped = False
        super().begin()

    def took(self, event):
        if self.stopped:
            self.unread += event.flow_controlled_length
        else:
            super().took(event)

    def next(self):
        if self.stopped:
            self.stopped = False
            self.http2.acknowledge_received_data(self.unread, self.stream)
            self.write()
        return super().next()

    def stop(self, through):
        """Takes in all that the window allows, for as long as `through` is not set."""
        self.stopped = True
        self.socket.settimeout(0.05)
        while not through.is_set():
            try:
                self.pull()
            except TimeoutError:
                pass
        self.socket.settimeout(DEADLINE)
