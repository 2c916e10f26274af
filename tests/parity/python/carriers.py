"""What carries the Python agent's connections: requests over a version of HTTP. Here is HTTP/1.1; http2.py and http3.py have the others.

Everything that comes is handed on in the turn it comes in, so nothing queues up here. HTTP/2 and HTTP/3 are one
connection for all who use it at a time, as in a browser; HTTP/1.1 is one for each request.
"""

import asyncio
import contextlib
import json
from urllib.parse import urlsplit

import raw
from websockets.client import ClientProtocol
from websockets.http11 import Response
from websockets.uri import parse_uri

DEADLINE = 15
MAX_BODY = 4 << 20
MAX_WS_MESSAGE = 1 << 21


class Failure(Exception):
    """What an agent answers with in the place of `ok`."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


@contextlib.asynccontextmanager
async def limit(awaited, seconds=DEADLINE):
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise Failure("timeout", f"waited {seconds} s in vain for {awaited}") from None


background = set()


def spawn(coroutine):
    """A task that nobody waits for."""
    task = asyncio.get_running_loop().create_task(coroutine)
    background.add(task)
    task.add_done_callback(background.discard)
    return task


def future():
    """One whose exception need not be fetched by anybody."""
    made = asyncio.get_running_loop().create_future()
    made.add_done_callback(lambda done: done.cancelled() or done.exception())
    return made


class Exchange:
    """A request and what comes back: the body goes to `take` where the status is 200, and is collected otherwise."""

    def __init__(self, take=None):
        self.take = take
        self.status = None
        self.body = bytearray()
        self.head = future()
        self.ended = future()  # None, or the Failure that ended it
        # Set by the carrier: `write` more of the body of the request, `finish` it, and `drop` the whole.
        self.write = self.finish = self.drop = None

    def answered(self, status):
        self.status = status
        if not self.head.done():
            self.head.set_result(status)

    def data(self, data):
        if self.ended.done() or not data:
            return
        if self.take and self.status == 200:
            try:
                self.take(data)
            except Exception as error:
                self.end(error if isinstance(error, Failure) else Failure("malformed", f"{type(error).__name__}: {error}"))
                self.drop()
        elif len(self.body) + len(data) > MAX_BODY:
            self.end(Failure("malformed", "an answer is too long"))
            self.drop()
        else:
            self.body += data

    def end(self, failure=None):
        if not self.head.done():
            self.head.set_exception(failure or Failure("unreachable", "ended before an answer"))
        if not self.ended.done():
            self.ended.set_result(failure)

    def abort(self):
        if not self.ended.done():
            self.end(Failure("closed", "aborted"))
            self.drop()


class Carrier:
    """Requests over one version of HTTP."""

    shared = True
    alive = True
    users = 0

    async def exchange(self, method, path, headers=(), body=None, take=None, seconds=DEADLINE):
        """Returns when the answer has begun."""
        exchange = Exchange(take)
        try:
            async with limit(f"an answer to {method} {path[:200]}", seconds):
                await self.start(exchange, method, path, list(headers), body)
                await exchange.head
        except BaseException:
            exchange.end(Failure("closed", "given up"))
            if exchange.drop:
                exchange.drop()
            raise
        return exchange

    async def fetch(self, method, path, headers=(), body=None, seconds=DEADLINE):
        """The JSON of the answer."""
        exchange = await self.exchange(method, path, headers, body, seconds=seconds)
        try:
            async with limit(f"the end of the answer to {method} {path[:200]}", seconds):
                failure = await asyncio.shield(exchange.ended)
        finally:
            exchange.abort()
        if failure:
            raise failure
        if exchange.status != 200:
            raise error_of(exchange)
        return json.loads(bytes(exchange.body))

    def post(self, path, message, secret=None):
        headers = [("content-type", "application/json")]
        if secret:
            headers.append(("authorization", f"Bearer {secret}"))
        return self.fetch("POST", path, headers, json.dumps(message, ensure_ascii=False).encode())


def error_of(exchange):
    try:
        error = json.loads(bytes(exchange.body))["error"]
        return Failure(error["code"], error["message"])
    except (ValueError, KeyError, TypeError):
        return Failure("unreachable", f"the server answered {exchange.status} {bytes(exchange.body[:200])!r}")


class Http1(Carrier):
    shared = False

    def __init__(self, base):
        self.address = urlsplit(base)

    async def open(self):
        return self

    def close(self):
        pass

    async def start(self, exchange, method, path, headers, body):
        connection = await raw.Connection.open(self.address.port, self.address.hostname)
        exchange.drop = connection.writer.close
        await connection.request(method, path, [("host", self.address.netloc), *headers], body or b"")
        reading = spawn(self._read(connection, exchange))
        exchange.drop = lambda: (reading.cancel(), connection.writer.close())

    async def _read(self, connection, exchange):
        failure = None
        try:
            answer = await connection.head()
            exchange.answered(answer.status_code)
            left = 0 if answer.status_code == 204 else connection.length
            while left != 0 and (data := await connection.some()):
                left = None if left is None else left - len(data)
                exchange.data(data)
            if left:
                failure = Failure("lost", f"the answer ended {left} bytes short")
        except (OSError, EOFError, ValueError, AssertionError) as error:
            failure = Failure("lost", f"{type(error).__name__}: {error}")
        finally:
            exchange.end(failure)
            connection.writer.close()

    async def websocket(self, path, subprotocol, received):
        """`received(data)` gets what comes, b"" at the end; (protocol, how to write, how to drop it all)."""
        reader, writer = await asyncio.open_connection(self.address.hostname, self.address.port)
        protocol = ClientProtocol(parse_uri(f"ws://{self.address.netloc}{path}"), subprotocols=[subprotocol], max_size=MAX_WS_MESSAGE)
        protocol.send_request(protocol.connect())
        write = writing(writer.write, writer.close)
        write(protocol.data_to_send())
        async with limit("the upgrade to WebSocket"):
            events = []
            while not any(isinstance(event, Response) for event in events):
                data = await reader.read(65536)
                protocol.receive_data(data) if data else protocol.receive_eof()
                events += protocol.events_received()
                if protocol.handshake_exc or not data:
                    writer.close()
                    raise Failure("unreachable", f"no WebSocket: {protocol.handshake_exc}")
        assert len(events) == 1, "the server spoke before it was spoken to"

        async def read():
            try:
                while data := await reader.read(65536):
                    received(data)
            except OSError:
                pass
            finally:
                received(b"")
                writer.close()

        spawn(read())
        return protocol, write, writer.close


def writing(write, end):
    """Writes what a WebSocket protocol has to send; its b"" is the end."""

    def write_all(parts):
        for part in parts:
            write(part) if part else end()

    return write_all
