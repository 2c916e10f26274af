"""Names, bounds and the errors for what is outside them (PROTOCOL.md sections 1 and 6)."""

import json

import pytest
from server import b64, check_error, name, poll, publish
from ws import open_ws

BAD_CHANNELS = {
    "empty": "",
    "too long": "event:" + "c" * 250,
    "space": "event:a b",
    "newline": "event:a\nb",
    "not ASCII": "event:é",
    "percent": "event:a%20b",
    "comma": "event:a,b",
    "backslash": "event:a\\b",
    "NUL": "event:\0",
}
BAD_PUBLISHES = {
    "no payload": ({}, {"bad_payload", "bad_request"}),
    "two payloads": ({"data": 1, "b64": "AA=="}, {"bad_payload", "bad_request"}),
    "payload and removed": ({"data": 1, "removed": True}, {"bad_payload", "bad_request"}),
    "not base64": ({"b64": "*"}, "bad_payload"),
    "base64 without padding": ({"b64": "AA"}, "bad_payload"),
    "url-safe base64": ({"b64": "-_8="}, "bad_payload"),
    "b64 is a number": ({"b64": 7}, {"bad_payload", "bad_json", "bad_request"}),
    "key too long": ({"data": 1, "key": "k" * 256}, "bad_key"),
    "key too long in bytes": ({"data": 1, "key": "é" * 128}, "bad_key"),
    "key is a number": ({"data": 1, "key": 7}, {"bad_key", "bad_json", "bad_request"}),
    "id empty": ({"data": 1, "id": ""}, "bad_id"),
    "id too long": ({"data": 1, "id": "i" * 65}, "bad_id"),
    "ttl too long": ({"data": 1, "ttl_ms": 60_001}, "bad_ttl"),
    "ttl negative": ({"data": 1, "ttl_ms": -1}, {"bad_ttl", "bad_json", "bad_request"}),
    "priority 0": ({"data": 1, "priority": 0}, "bad_priority"),
    "priority too high": ({"data": 1, "priority": 256}, "bad_priority"),
    "priority negative": ({"data": 1, "priority": -1}, "bad_priority"),
    "priority is a string": ({"data": 1, "priority": "16"}, {"bad_priority", "bad_json", "bad_request"}),
    "an event's": ({"data": 1, "priority": 17}, "bad_priority"),
    "an event's, as it would be without": ({"data": 1, "priority": 16}, "bad_priority"),
    "signal's priority, whose ttl is fine": ({"data": 1, "ttl_ms": 50, "priority": 1}, "bad_priority"),
    "ttl is a string": ({"data": 1, "ttl_ms": "1000"}, {"bad_ttl", "bad_json", "bad_request"}),
}


@pytest.mark.parametrize("channel", BAD_CHANNELS.values(), ids=BAD_CHANNELS)
async def test_bad_channel(server, channel):
    async with server.http() as http:
        check_error(await http.post("/api/publish", json={"channel": channel, "data": 1}), 400, "bad_channel", "publish")
        check_error(await http.get("/poll", params={"channel": channel}), 400, "bad_channel", "poll")
        check_error(await http.get("/sse", params={"channel": channel}), 400, "bad_channel", "sse")


@pytest.mark.parametrize("binary", [False, True], ids=["json", "bin"])
async def test_bad_channel_in_band(server, binary):
    async with open_ws(server, binary) as ws:
        for kind in ("subscribe", "publish"):
            for channel in BAD_CHANNELS.values():
                message = {"data": 1} if kind == "publish" else {}
                answer = await ws.ask(type=kind, channel=channel, **message)
                assert answer["type"] == "error" and answer["error"]["code"] == "bad_channel", (kind, channel, answer)
                assert answer["error"]["message"], answer
        await ws.barrier()


async def test_longest_channel_and_all_its_characters(server):
    channel = "event:" + "AZaz09._-:/~=@"
    channel += "c" * (255 - len(channel))
    async with server.http() as http:
        cursor = (await poll(http, channel))["cursor"]
        _, offset = await publish(http, channel, "x")
        assert [p["offset"] for p in (await poll(http, channel, after=cursor))["publications"]] == [offset]


@pytest.mark.parametrize("what", BAD_PUBLISHES)
async def test_bad_publish(server, what):
    members, codes = BAD_PUBLISHES[what]
    channel = name("signal" if "ttl" in what else "state" if what.startswith(("key", "priority")) else "event")
    async with server.http() as http:
        check_error(await http.post("/api/publish", json={"channel": channel} | members), 400, codes, what)


async def test_bounds_themselves_are_allowed(server):
    async with server.http() as http:
        await publish(http, name("state"), 1, key="k" * 255)
        await publish(http, name("state"), 1, key="é" * 127 + "k")
        await publish(http, name(), 1, id="i" * 64)
        await publish(http, name("signal"), 1, ttl_ms=60_000)
        for priority in (1, 16, 255):
            await publish(http, name("state"), 1, priority=priority)
        await publish(http, name("state"), removed=True, priority=255)
        await publish(http, name(), "t" * 65_536)
        await publish(http, name(), b64=b64(bytes(65_536)))


async def test_payload_too_large(server):
    async with server.http() as http:
        for body in ({"data": "t" * 65_537}, {"b64": b64(bytes(65_537))}, {"data": ["j" * 65_533]}):
            check_error(await http.post("/api/publish", json={"channel": name()} | body), 413, "payload_too_large", str(body)[:20])


async def test_body_too_large(server):
    async with server.http() as http:
        response = await http.post("/api/publish", json={"channel": name(), "data": "t" * 300_000})
        check_error(response, 413, {"payload_too_large", "message_too_large"})


@pytest.mark.parametrize("body", ["", "{", "nonsense", '{"channel":"event:x","data":1} x', '{"channel":"event:x","data":"\ud800"}'])
async def test_body_that_is_not_json(server, body):
    raw = body.encode("utf-8", "surrogatepass")
    async with server.http() as http:
        response = await http.post("/api/publish", content=raw, headers={"content-type": "application/json"})
        check_error(response, 400, "bad_json", body)


@pytest.mark.parametrize("body", [[], 1, "x", None, {"channel": 7, "data": 1}, {"data": 1}], ids=json.dumps)
async def test_json_that_is_not_a_publish(server, body):
    async with server.http() as http:
        codes = {"bad_json", "bad_request", "bad_channel", "missing_channel", "bad_message"}
        response = await http.post("/api/publish", content=json.dumps(body), headers={"content-type": "application/json"})
        check_error(response, 400, codes, str(body))


@pytest.mark.parametrize("route", ["/poll", "/sse"])
async def test_bad_queries(server, route):
    async with server.http() as http:
        check_error(await http.get(route), 400, "missing_channel")
        many = [("channel", f"event:many-{n}") for n in range(33)]
        check_error(await http.get(route, params=many), 400, "too_many_channels")
        for after in ("x", "nonsense~", "0.e.0", "ffffffffffffffff.e.0", "c" * 2_049):
            check_error(await http.get(route, params={"channel": name(), "after": after}), 400, "bad_cursor", f"after={after[:40]}")
        if route == "/poll":
            for wait in ("-1", "-0.5", "x", "", "NaN"):
                check_error(await http.get(route, params={"channel": name(), "wait": wait}), 400, "bad_wait", f"wait={wait}")


async def test_bad_queries_of_a_websocket(server):
    """Refused before the upgrade, where a status can still say it."""
    import raw

    for query, code in (("channel=a%20b", "bad_channel"), ("channel=event:x&after=x", "bad_cursor")):
        headers = [("Host", f"127.0.0.1:{server.port}"), *raw.UPGRADE]
        check_error(await raw.request(server.port, "GET", f"/ws?{query}", headers), 400, code, query)
