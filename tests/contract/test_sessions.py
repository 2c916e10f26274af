"""Sessions that outlive a connection: tickets, POST /send, attach (PROTOCOL.md sections 4, 7 and 9)."""

import cursors
import pytest
import wt
from raw import EventStream
from server import check_error, name, poll, publish
from ws import open_ws

ENCODINGS = pytest.mark.parametrize("binary", [False, True], ids=["json", "bin"])


async def new_session(http):
    response = await http.post("/session", json={})
    assert response.status_code in (200, 201), response.text
    answer = response.json()
    assert isinstance(answer["id"], str) and isinstance(answer["secret"], str) and answer["secret"] != answer["id"], answer
    return answer


def bearer(session):
    return {"authorization": f"Bearer {session['secret']}"}


async def ticket(http, session):
    response = await http.post("/session/ticket", json={}, headers=bearer(session))
    assert response.status_code in (200, 201), response.text
    return response.json()["ticket"]


async def send(http, session, **message):
    return await http.post("/send", json=message, headers=bearer(session))


async def attach(connection, session):
    answer = await connection.ask(type="attach", id=session["id"], secret=session["secret"])
    assert answer["type"] == "attached" and answer["session"] == session["id"], answer


async def test_sessions_differ(server):
    async with server.http() as http:
        sessions = [await new_session(http) for _ in range(5)]
        assert len({s["id"] for s in sessions}) == len({s["secret"] for s in sessions}) == 5
        response = await http.post("/session", json={})
        assert "no-store" in response.headers.get("cache-control", ""), "a secret that a cache may keep"


@pytest.mark.parametrize("route", ["/session/ticket", "/send"])
async def test_a_secret_is_needed(server, route):
    async with server.http() as http:
        session = await new_session(http)
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Bearer {session['id']}"}, {"authorization": f"Basic {session['secret']}"}):
            body = {"type": "subscribe", "channel": name()} if route == "/send" else {}
            check_error(await http.post(route, json=body, headers=headers), 401, {"unauthorized", "unknown_session"}, str(headers))


async def test_a_secret_in_the_url_is_of_no_use(server):
    async with server.http() as http:
        session = await new_session(http)
        response = await http.post("/session/ticket", params={"secret": session["secret"]}, json={})
        check_error(response, 401, {"unauthorized", "unknown_session"})


async def test_a_ticket_is_good_once(server):
    channel = name()
    async with server.http() as http:
        session = await new_session(http)
        once = await ticket(http, session)
        async with await EventStream.open(server, channel, ticket=once):
            check_error(await http.get("/sse", params={"channel": channel, "ticket": once}), 401, "bad_ticket", "again")
            check_error(await http.get("/poll", params={"channel": channel, "ticket": once}), 401, "bad_ticket", "on poll")
        once = await ticket(http, await new_session(http))
        await poll(http, channel, ticket=once)
        check_error(await http.get("/poll", params={"channel": channel, "ticket": once}), 401, "bad_ticket", "twice on poll")
        for made_up in ("", "no-such-ticket", session["secret"], session["id"]):
            check_error(await http.get("/sse", params={"channel": channel, "ticket": made_up}), 401, "bad_ticket", made_up)


async def test_a_new_ticket_resumes_an_event_stream(server):
    """The same URL with another ticket: the session has the channel already, and that is no error."""
    channel = name()
    async with server.http() as http:
        session = await new_session(http)
        async with await EventStream.open(server, channel, ticket=await ticket(http, session)) as stream:
            await publish(http, channel, "first")
            last = await stream.message()
        await publish(http, channel, "missed")
        again = [("Last-Event-ID", last["cursor"])]
        async with await EventStream.open(server, channel, headers=again, ticket=await ticket(http, session)) as stream:
            assert (await stream.message())["data"] == "missed"
            await publish(http, channel, "live")
            assert (await stream.message())["data"] == "live"


async def test_new_tickets_resume_a_poll(server):
    channel = name()
    async with server.http() as http:
        session = await new_session(http)
        cursor = (await poll(http, channel, ticket=await ticket(http, session)))["cursor"]
        for n in range(3):
            await publish(http, channel, n)
            answer = await poll(http, channel, after=cursor, ticket=await ticket(http, session))
            assert [p["data"] for p in answer["publications"]] == [n]
            cursor = answer["cursor"]


async def test_an_event_source_that_repeats_its_used_ticket_is_sent_away(server):
    """It reconnects by itself, with the same URL and Last-Event-ID; 204 is what makes it stop."""
    channel = name()
    async with server.http() as http:
        used = await ticket(http, await new_session(http))
        async with await EventStream.open(server, channel, ticket=used) as stream:
            await publish(http, channel, 1)
            last = await stream.message()
        again = await http.get("/sse", params={"channel": channel, "ticket": used}, headers={"last-event-id": last["cursor"]})
        assert (again.status_code, again.content) == (204, b"")


async def test_send_subscribes_a_live_event_stream(server):
    first, second = name(), name()
    async with server.http() as http:
        session = await new_session(http)
        async with await EventStream.open(server, first, ticket=await ticket(http, session)) as stream:
            response = await send(http, session, type="subscribe", channel=second, ref=9)
            assert response.status_code == 200, response.text
            answer = response.json()
            assert (answer["type"], answer["ref"], answer["channel"]) == ("subscribed", 9, second), answer
            assert isinstance(answer["epoch"], str) and isinstance(answer["offset"], int), answer
            _, offset = await publish(http, second, "to the new channel")
            message = await stream.message("a publication of the added channel")
            assert (message["channel"], message["offset"]) == (second, offset), message
            assert set(cursors.parse(message["cursor"])) == {cursors.fnv1a(first), cursors.fnv1a(second)}
            response = await send(http, session, type="unsubscribe", channel=second)
            assert (response.status_code, response.json()["type"], response.json()["channel"]) == (200, "unsubscribed", second)
            await publish(http, second, "to nobody")
            await publish(http, first, "still here")
            assert (await stream.message())["data"] == "still here"


async def test_send_subscribes_from_a_cursor(server):
    first, second = name(), name()
    async with server.http() as http:
        session = await new_session(http)
        cursor = (await poll(http, second))["cursor"]
        await publish(http, second, "missed")
        async with await EventStream.open(server, first, ticket=await ticket(http, session)) as stream:
            assert (await send(http, session, type="subscribe", channel=second, after=cursor)).status_code == 200
            assert (await stream.message("what was missed"))["data"] == "missed"


async def test_send_publishes(server):
    channel = name()
    async with server.http() as http:
        session = await new_session(http)
        cursor = (await poll(http, channel))["cursor"]
        response = await send(http, session, type="publish", channel=channel, data={"by": "send"}, ref=3)
        answer = response.json()
        assert (response.status_code, answer["type"], answer["ref"], answer["channel"]) == (200, "published", 3, channel), answer
        (publication,) = (await poll(http, channel, after=cursor))["publications"]
    assert (publication["epoch"], publication["offset"], publication["data"]) == (answer["epoch"], answer["offset"], {"by": "send"})


async def test_send_answers_errors_with_their_status(server):
    channel = name()
    async with server.http() as http:
        session = await new_session(http)
        async with await EventStream.open(server, channel, ticket=await ticket(http, session)):
            check_error(await send(http, session, type="subscribe", channel=channel), 409, "already_subscribed")
            check_error(await send(http, session, type="unsubscribe", channel=name()), 409, "not_subscribed")
            check_error(await send(http, session, type="subscribe", channel="a b"), 400, "bad_channel")
            check_error(await send(http, session, type="subscribe", channel=name(), after="x"), 400, "bad_cursor")
            check_error(await send(http, session, type="publish", channel=name(), data="t" * 65_537), 413, "payload_too_large")
            for kind in ("attach", "pong", "no-such-type", ""):
                message = {"id": session["id"], "secret": session["secret"]} if kind == "attach" else {}
                check_error(await send(http, session, type=kind, **message), 400, {"bad_message", "bad_request"}, kind)
            check_error(await send(http, session), 400, {"bad_message", "bad_json", "bad_request"}, "no type")
            raw = await http.post("/send", content=b"{", headers=bearer(session) | {"content-type": "application/json"})
            check_error(raw, 400, {"bad_json", "bad_message"})


@ENCODINGS
async def test_attach_moves_the_subscriptions(server, binary):
    channel = name()
    async with server.http() as http, open_ws(server, not binary) as old, open_ws(server, binary) as new:
        session = await new_session(http)
        await attach(old, session)
        await old.subscribe(channel)
        _, first = await publish(http, channel, "to the old connection")
        assert [p["offset"] for p in await old.publications(1)] == [first]
        await attach(new, session)
        close = await old.until("close", awaited="the in-band close")
        assert close["code"] == 4900, close
        assert (await old.closed())[0] == 4900
        _, second = await publish(http, channel, "to the new connection")
        got = await new.until("publication")
        assert [m["offset"] for m in new.kept if m["type"] == "publication"] + [got["offset"]] == [second]


@ENCODINGS
async def test_what_was_moved_is_named_to_the_new_connection(server, binary):
    """A `subscribed` without `ref` for each subscription, and for one that POST /send adds later."""
    channels = [name() for _ in range(3)]
    async with server.http() as http, open_ws(server) as old, open_ws(server, binary) as new:
        session = await new_session(http)
        await attach(old, session)
        for channel in channels[:2]:
            await old.subscribe(channel)
        await attach(new, session)
        named = [m for m in new.kept if m["type"] == "subscribed"]
        while len(named) < 2:
            named.append(await new.until("subscribed", awaited=f"two subscriptions that were moved; got {named}"))
        assert {m["channel"] for m in named} == set(channels[:2]) and not [m for m in named if "ref" in m], named
        assert (await send(http, session, type="subscribe", channel=channels[2])).status_code == 200
        added = await new.until("subscribed", channel=channels[2])
        assert "ref" not in added, added


async def test_attach_goes_on_where_the_old_connection_ended(server):
    """What was published while nobody was attached is read on."""
    channel, state = name(), name("state")
    async with server.http() as http:
        session = await new_session(http)
        await publish(http, state, 1, key="a")
        async with open_ws(server) as old:
            await attach(old, session)
            await old.subscribe(channel)
            await old.subscribe(state)
            await old.until("synced")
            await publish(http, channel, "first")
            await old.until("publication", channel=channel)
        missed = [(await publish(http, channel, f"missed {n}"))[1] for n in range(3)]
        await publish(http, state, 2, key="a")
        async with open_ws(server) as new:
            await attach(new, session)
            got = {channel: [], state: []}
            while len(got[channel]) < 3 or not got[state] or got[state][-1]["data"] != 2:
                message = await new.until("publication", awaited=f"what was missed; got {got}")
                got[message["channel"]].append(message)
            assert [m["offset"] for m in got[channel]] == missed


async def test_attach_replaces_an_event_stream(server):
    channel = name()
    async with server.http() as http:
        session = await new_session(http)
        async with await EventStream.open(server, channel, ticket=await ticket(http, session)) as stream, open_ws(server) as ws:
            await attach(ws, session)
            close = await stream.message("the close event")
            assert (close["type"], close["code"]) == ("close", 4900), close
            assert await stream.event("the end of the stream") is None
            await publish(http, channel, "moved")
            assert (await ws.until("publication"))["data"] == "moved"


@ENCODINGS
async def test_attach_with_a_wrong_secret(server, binary):
    async with server.http() as http, open_ws(server, binary) as holder, open_ws(server, binary) as ws:
        session, other = await new_session(http), await new_session(http)
        await attach(holder, session)
        for wrong in ({"id": session["id"], "secret": other["secret"]}, {"id": session["id"], "secret": ""}, {"id": "no-such-session", "secret": session["secret"]}):
            answer = await ws.ask(type="attach", **wrong)
            assert answer["type"] == "error" and answer["error"]["code"] in ("unauthorized", "unknown_session"), (wrong, answer)
        await ws.barrier()
        await holder.barrier()


async def test_a_late_unsubscribe_leaves_alone_what_another_stream_has(server):
    """Streams come in no order. What is sent on a stream that once had the channel must not end what was made on another since."""
    channel = name()
    async with server.http() as http, wt.open_wt(server) as session:
        control, older, newer = session.open_stream(), session.open_stream(), session.open_stream()
        await control.barrier()
        await older.subscribe(channel)
        # On the control stream any can be ended.
        assert (await control.ask(type="unsubscribe", channel=channel))["type"] == "unsubscribed"
        await newer.subscribe(channel)
        late = await older.ask(type="unsubscribe", channel=channel)
        assert late["type"] == "error" and late["error"]["code"] == "not_subscribed", late
        await publish(http, channel, "still there")
        assert (await newer.publications(1, channel))[0]["data"] == "still there"
        assert (await newer.ask(type="unsubscribe", channel=channel))["type"] == "unsubscribed"


async def test_what_an_attach_brings_along_is_ended_where_it_was_attached(server):
    channel = name()
    async with server.http() as http, open_ws(server) as ws, wt.open_wt(server) as connection:
        session = await new_session(http)
        await attach(ws, session)
        await ws.subscribe(channel)
        control, other = connection.open_stream(), connection.open_stream()
        await attach(control, session)
        late = await other.ask(type="unsubscribe", channel=channel)
        assert late["type"] == "error" and late["error"]["code"] == "not_subscribed", late
        assert (await control.ask(type="unsubscribe", channel=channel))["type"] == "unsubscribed"
