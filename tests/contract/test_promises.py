"""Promises that are easily broken at the edges of a connection, a stream or a session."""

import asyncio
import json

import cursors
import fulmar_bin
import pytest
import wt
from raw import EventStream
from server import Server, check_error, name, poll, publish, within
from test_sessions import ENCODINGS, attach, new_session, send, ticket
from ws import open_ws


async def test_an_answer_comes_though_the_client_has_nothing_more_to_say(server):
    channel = name()
    async with wt.open_wt(server) as session:
        session.open_stream().send(type="ping")
        stream = session.open_stream()
        stream.send(type="publish", ref=9, channel=channel, data="last words")
        stream.fin()
        answer = await stream.recv("the answer to a publish before FIN")
        assert answer is not wt.ENDED and (answer["type"], answer["ref"]) == ("published", 9), answer


@pytest.mark.parametrize("namespace", ["event", "state", "signal"])
async def test_a_stream_takes_its_subscription_with_it(server, namespace):
    channel = name(namespace)
    async with wt.open_wt(server) as session:
        await session.open_stream().barrier()
        stream = session.open_stream()
        await stream.subscribe(channel)
        stream.fin()
        await stream.ended()
        assert (await session.open_stream().subscribe(channel))["channel"] == channel


@ENCODINGS
async def test_an_answer_comes_before_what_follows_from_it(server, binary):
    """However many messages stand in line."""
    channels = [name("state") for _ in range(100)]
    async with server.http() as http, open_ws(server, binary) as ws:
        for channel in channels[30:40]:
            await publish(http, channel, "held")
        for ref, channel in enumerate(channels, 1):
            await ws.send(type="subscribe", ref=ref, channel=channel)
        subscribed = set()
        synced = 0
        while synced < len(channels):
            message = await ws.recv("messages of a hundred subscriptions")
            if message["type"] == "subscribed":
                subscribed.add(message["channel"])
            assert message["channel"] in subscribed, f"before its subscribed: {message}"
            synced += message["type"] == "synced"


async def test_a_long_poll_of_an_empty_state_channel_waits(server):
    channel = name("state")
    async with server.http() as http:
        first = await poll(http, channel)
        assert [c["type"] for c in first["control"]] == ["reset", "synced"], first
        waiting = asyncio.create_task(poll(http, channel, after=first["cursor"], wait=30))
        await publish(http, channel, "now")
        answer = await waiting
        assert answer["control"] == [] and [p["data"] for p in answer["publications"]] == ["now"], answer


async def test_last_event_id_wins_over_an_unusable_after(server):
    channel = name()
    async with server.http() as http:
        epoch, _ = await publish(http, channel, 1)
        await publish(http, channel, 2)
        last = cursors.build((channel, epoch, 1))
        async with await EventStream.open(server, channel, headers=[("Last-Event-ID", last)], after="nonsense") as events:
            assert (await events.message())["data"] == 2


async def test_an_unusable_last_event_id_with_a_ticket_is_a_gap(server):
    channel = name()
    async with server.http() as http:
        session = await new_session(http)
        assert (await send(http, session, type="subscribe", channel=channel)).status_code == 200
        await publish(http, channel, "held")
        once = await ticket(http, session)
        async with await EventStream.open(server, channel, headers=[("Last-Event-ID", "nonsense")], ticket=once) as events:
            assert (await events.message())["type"] == "gap"
            assert (await events.message())["data"] == "held"


@pytest.mark.parametrize("route", ["/sse", "/poll"])
async def test_no_more_channels_than_a_cursor_can_tell(server, route):
    async with server.http() as http:
        session = await new_session(http)
        for _ in range(33):
            assert (await send(http, session, type="subscribe", channel=name())).status_code == 200
        once = await ticket(http, session)
        check_error(await http.get(route, params={"ticket": once}), 400, "too_many_channels")


@ENCODINGS
async def test_what_may_have_been_lost_on_the_way_is_told_when_a_session_moves(server, binary):
    events, state = name(), name("state")
    async with server.http() as http:
        session = await new_session(http)
        async with open_ws(server, binary) as before:
            await attach(before, session)
            await before.subscribe(events)
            await before.subscribe(state)
            await before.until("synced")
            await publish(http, events, "read")
            await publish(http, state, "value", key="k")
            await before.publications(2)
            async with open_ws(server, binary) as after:
                await attach(after, session)
                gap = await after.until("gap", channel=events)
                assert gap["offset"] == 1
                await publish(http, events, "next")
                while (message := await after.until("publication"))["channel"] != events:
                    assert (message["channel"], message["data"]) == (state, "value"), message
                assert message["data"] == "next"
                assert "reset" in [m["type"] for m in after.kept]


async def test_connect_over_http3_names_the_sidecar(server):
    async with wt.quic(server) as client:
        answer = await client.get("/connect")
        body = json.loads(answer.body)
        assert answer.status() == 200
        assert body["websocket"]["url"] == f"ws://127.0.0.1:{server.port}/ws"
        assert body["webtransport"]["url"] == f"https://{client.authority}/wt"


async def test_http3_answers_by_the_sidecars_routes(server):
    async with wt.quic(server) as client:
        answer = await client.get("/poll?channel=event:h3")
        assert answer.status() == 200 and json.loads(answer.body)["more"] is False
        answer = await client.get("/nothing")
        assert answer.status() == 404 and json.loads(answer.body)["error"]["code"] == "not_found"
        answer = await client.get("/healthz", authority="evil.example")
        assert answer.status() == 421


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    path = tmp_path_factory.mktemp("closed") / "fulmar.toml"
    path.write_text('origins = ["https://pages.example"]\n')
    running = Server("--config", str(path))
    yield running
    running.stop()


@pytest.mark.parametrize("target", ["/api/publish", "/api/stats", "/api/", "/api/nothing"])
async def test_the_api_is_closed_until_a_key_is_configured(closed, target):
    async with closed.http() as http:
        check_error(await http.post(target, json={}), 403, "no_key_configured", target)
        check_error(await http.get(target), 403, "no_key_configured", target)


async def test_a_configured_page_may_read_the_answers_and_no_other(closed):
    async with closed.http() as http:
        theirs = {"origin": "https://pages.example"}
        answer = await http.get("/connect", headers=theirs)
        assert answer.headers.get("access-control-allow-origin") == theirs["origin"]
        assert "origin" in answer.headers.get("vary", "").lower()
        asked = theirs | {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
        preflight = await http.options("/send", headers=asked)
        assert preflight.status_code == 204 and "POST" in preflight.headers["access-control-allow-methods"]
        for origin in ("https://other.example", "null"):
            answer = await http.get("/connect", headers={"origin": origin})
            check_error(answer, 403, "forbidden_origin")
            assert "access-control-allow-origin" not in answer.headers
        assert "access-control-allow-origin" not in (await http.get("/connect")).headers


@pytest.mark.parametrize("where", ["control", "request", "connect"])
async def test_a_frame_of_a_terabyte_is_refused_at_its_header(server, where):
    """h3 would keep it until it is whole."""
    huge = fulmar_bin.varint(0x21) + fulmar_bin.varint(1 << 40)
    async with wt.quic(server) as client:
        session = await client.session()
        stream_id = {
            "control": client.h3._local_control_stream_id,
            "connect": session.id,
            "request": client.quic.get_next_available_stream_id(),
        }[where]
        client.quic.send_stream_data(stream_id, huge)
        client.transmit()
        await session.gone()
        async with within(15, "the end of the connection"):
            await client.wait_closed()
        assert client.terminated.error_code == 0x107, client.terminated


async def test_datagrams_name_their_own_session(server):
    """Two sessions on one connection: the prefix of the second is not 0."""
    channel = name("state")
    async with server.http() as http, wt.quic(server) as client:
        first, second = await client.session(), await client.session()
        assert (first.id, second.id) == (0, 4)
        stream = second.open_stream()
        await stream.subscribe(channel)
        await stream.until("synced")
        await publish(http, channel, "for the second")
        assert (await second.datagram())["data"] == "for the second"
        assert first.datagrams.empty() and not first.early
        # The one goes on when the other ends.
        first.close(0)
        await first.gone()
        await publish(http, channel, "still")
        assert (await second.datagram())["data"] == "still"
