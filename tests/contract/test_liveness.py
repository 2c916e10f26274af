"""Signs of life (PROTOCOL.md sections 4 and 9). These wait as long as the protocol does, so they wait together."""

import asyncio
import json

import raw
import wt
from server import name, publish, within

PATIENCE = 45
SESSION = [*raw.UPGRADE, ("Sec-WebSocket-Protocol", "fulmar.v1.json")]


async def frames(connection):
    """The frames of a WebSocket that is read by hand, to its end."""
    buffer = b""
    while True:
        while (parsed := raw.ws_unframe(buffer)) is not None:
            opcode, _, payload, buffer = parsed
            yield opcode, payload
        data = await connection.reader.read(65536)
        if not data:
            return
        buffer += data


async def an_answering_session_stays(server):
    async with wt.open_wt(server) as session:
        control = session.open_stream()
        await control.barrier()
        for count in range(3):
            async with within(PATIENCE, f"ping {count + 1} on the control stream"):
                message = wt.take(await control.inbox.get())
            assert message is not wt.ENDED and message["type"] == "ping", message
            control.send(type="pong", **{k: v for k, v in message.items() if k == "ref" and v})
        await control.barrier()


async def an_answer_has_its_whole_deadline(server):
    """Also when something was sent shortly before the ping was due."""
    channel = name()
    async with server.http() as http, wt.open_wt(server) as session:
        control = session.open_stream()
        await control.subscribe(channel)
        # How late it comes is what is tested: shortly before the 20 s of silence, and well within the 10 s to answer.
        await asyncio.sleep(15)
        await publish(http, channel, "in between")
        await control.publications(1)
        ping = await control.until("ping")
        await asyncio.sleep(7)
        control.send(type="pong", **{k: v for k, v in ping.items() if k == "ref" and v})
        await control.barrier()


async def a_session_without_streams_is_closed(server):
    async with wt.open_wt(server) as session, within(PATIENCE, "the CLOSE capsule"):
        assert await asyncio.shield(session.close_capsule) == (4001, "no_heartbeat")


async def a_silent_websocket_is_asked_and_closed(server):
    async with await raw.Connection.open(server.port) as connection:
        await connection.request("GET", "/ws", [("Host", f"127.0.0.1:{server.port}"), *SESSION])
        assert (await connection.head()).status_code == 101
        seen = []
        async with within(PATIENCE, "the end of a WebSocket that answers no ping"):
            async for opcode, payload in frames(connection):
                seen.append((opcode, payload))
        assert [opcode for opcode, _ in seen] == [9, 1, 8], seen
        assert json.loads(seen[1][1]) == {"type": "close", "code": 4001, "reason": "no_heartbeat"}
        assert seen[2][1] == (4001).to_bytes(2, "big") + b"no_heartbeat"


async def a_slow_reader_that_always_lags_stays(server, enough):
    """It reads much less than is published, says nothing of its own, and lives."""
    channel = name()
    async with server.http() as http, await raw.Connection.open(server.port) as connection:
        await connection.request("GET", f"/ws?channel={channel}", [("Host", f"127.0.0.1:{server.port}"), *SESSION])
        assert (await connection.head()).status_code == 101

        async def flood():
            while True:
                await publish(http, channel, "x" * 60_000)

        flooding = asyncio.create_task(flood())
        pings = 0
        try:
            async with asyncio.timeout(enough):
                async for opcode, payload in frames(connection):
                    if opcode == 9:
                        pings += 1
                        connection.writer.write(raw.ws_frame(10, payload))
                    assert opcode != 8, f"closed with {payload!r} after {pings} pings"
                    # The pace of a slow network, not a wait for anything.
                    await asyncio.sleep(0.1)
                raise AssertionError(f"the connection ended without a close after {pings} pings")
        except TimeoutError:
            pass
        finally:
            flooding.cancel()
        assert pings > 0, "a reader that says nothing of its own is asked"


async def test_who_lives_stays_and_who_is_gone_is_closed(server):
    await asyncio.gather(
        an_answering_session_stays(server),
        an_answer_has_its_whole_deadline(server),
        a_session_without_streams_is_closed(server),
        a_silent_websocket_is_asked_and_closed(server),
        a_slow_reader_that_always_lags_stays(server, enough=60),
    )
