"""Who may call (PROTOCOL.md section 6): Host, Origin and content type, on every route and upgrade."""

import asyncio
import json

import h2ws
import pytest
import raw
import wt
from server import check_error, name

JSON = ("Content-Type", "application/json")
ROUTES = {
    "healthz": ("GET", "/healthz", [], b""),
    "readyz": ("GET", "/readyz", [], b""),
    "connect": ("GET", "/connect", [], b""),
    "poll": ("GET", "/poll?channel=event:callers", [], b""),
    "sse": ("GET", "/sse?channel=event:callers", [], b""),
    "ws": ("GET", "/ws", raw.UPGRADE, b""),
    "stats": ("GET", "/api/stats", [], b""),
    "publish": ("POST", "/api/publish", [JSON], b'{"channel":"event:callers","data":1}'),
    "session": ("POST", "/session", [JSON], b"{}"),
    "ticket": ("POST", "/session/ticket", [JSON], b"{}"),
    "send": ("POST", "/send", [JSON], b"{}"),
    "unknown": ("GET", "/no-such-route", [], b""),
}
POSTS = [route for route, (method, *_) in ROUTES.items() if method == "POST"]
# What each route answers to a caller it accepts: 101 is the upgrade, 401 wants a secret, 404 is no route.
ACCEPTED = {200, 101, 401, 404}
FOREIGN_HOSTS = [
    "evil.example",
    "evil.example:{port}",
    "127.0.0.1.evil.example:{port}",
    "localhost.evil.example:{port}",
    "evil-localhost:{port}",
    "10.0.0.1:{port}",
    "128.0.0.1:{port}",
    "[2001:db8::1]:{port}",
]
OWN_HOSTS = ["localhost:{port}", "127.0.0.1:{port}", "127.0.0.2:{port}", "127.255.255.254:{port}", "[::1]:{port}", "LOCALHOST:{port}"]
OWN_ORIGINS = ["http://127.0.0.1:{port}", "http://localhost:{port}", "http://[::1]:{port}"]
FOREIGN_ORIGINS = [
    "null",
    "http://evil.example",
    "http://evil.example:{port}",
    "https://127.0.0.1:{port}",
    "http://127.0.0.1:{other}",
    "http://127.0.0.1",
    "http://localhost.evil.example:{port}",
    "http://127.0.0.1:{port}.evil.example",
    "http://evil.example/http://127.0.0.1:{port}",
    "file://",
    "moz-extension://0b5e1b6e-1d1c-4d4b-9d5a-7a1f2f3c4d5e",
    "127.0.0.1:{port}",
]


def fill(text, server):
    return text.format(port=server.port, other=server.port + 1 if server.port < 65535 else 1024)


async def call(server, route, host="127.0.0.1:{port}", origin=None, headers=None, method=None):
    default, target, wanted, body = ROUTES[route]
    wanted = [("Host", fill(host, server)), *(wanted if headers is None else headers)]
    if origin is not None:
        wanted.append(("Origin", fill(origin, server)))
    async with await raw.Connection.open(server.port) as connection:
        await connection.request(method or default, target, wanted, body)
        head = await connection.head()
        if head.status_code in (101, 200):
            return head
        head.content = await connection.reader.readexactly(connection.length) if connection.length else b""
        if connection.chunked:
            while data := await connection.some():
                head.content += data
        return head


@pytest.mark.parametrize("route", ROUTES)
async def test_foreign_host(server, route):
    for host in FOREIGN_HOSTS:
        check_error(await call(server, route, host), 421, "misdirected", f"Host: {host}")


@pytest.mark.parametrize("route", ROUTES)
async def test_own_hosts(server, route):
    for host in OWN_HOSTS:
        assert (await call(server, route, host)).status_code in ACCEPTED, host


async def test_a_request_with_two_hosts_or_none(server):
    two = [("Host", f"127.0.0.1:{server.port}"), ("Host", "evil.example")]
    for headers in (two, two[::-1], []):
        answer = await raw.request(server.port, "GET", "/connect", [*headers, ("Connection", "close")])
        assert answer.status_code in (400, 421), (headers, answer)


async def test_absolute_form_names_the_host_that_counts(server):
    """RFC 9112: the authority of an absolute-form target replaces Host."""
    headers = [("Host", f"127.0.0.1:{server.port}"), ("Connection", "close")]
    answer = await raw.request(server.port, "GET", f"http://evil.example:{server.port}/connect", headers)
    assert answer.status_code in (400, 421), answer


@pytest.mark.parametrize("route", ROUTES)
async def test_foreign_origin(server, route):
    for origin in FOREIGN_ORIGINS:
        answer = await call(server, route, origin=origin)
        check_error(answer, 403, "forbidden_origin", f"Origin: {origin}")
        assert answer.header("access-control-allow-origin") is None, f"{origin}: {answer.headers}"


@pytest.mark.parametrize("route", ROUTES)
async def test_own_origin(server, route):
    for origin in OWN_ORIGINS:
        answer = await call(server, route, origin=origin)
        assert answer.status_code in ACCEPTED, (origin, answer)
        assert answer.header("access-control-allow-origin") in (None, fill(origin, server)), answer.headers


async def test_preflight_from_elsewhere_gets_nothing(server):
    for route in POSTS:
        headers = [("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "content-type")]
        answer = await call(server, route, origin="http://evil.example", headers=headers, method="OPTIONS")
        assert answer.status_code == 403, answer
        assert not [k for k, _ in answer.headers if k.startswith("access-control-allow")], answer.headers


@pytest.mark.parametrize("route", POSTS)
async def test_content_types_a_form_can_send(server, route):
    for content_type in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", "application/jsonp", "text/json", ""):
        answer = await call(server, route, headers=[("Content-Type", content_type)])
        check_error(answer, 415, "bad_content_type", content_type)
    check_error(await call(server, route, headers=[]), 415, "bad_content_type", "none")


@pytest.mark.parametrize("route", POSTS)
async def test_json_with_a_charset(server, route):
    for content_type in ("application/json; charset=utf-8", "Application/JSON"):
        assert (await call(server, route, headers=[("Content-Type", content_type)])).status_code in ACCEPTED, content_type


async def test_a_refused_publish_publishes_nothing(server):
    channel = name()
    async with server.http() as http:
        cursor = (await http.get("/poll", params={"channel": channel})).json()["cursor"]
        body = json.dumps({"channel": channel, "data": "refused"}).encode()
        for headers in ({"content-type": "text/plain"}, {"content-type": "application/json", "origin": "null"}):
            response = await http.post("/api/publish", content=body, headers=headers)
            assert response.status_code in (403, 415), response.text
        await http.post("/api/publish", json={"channel": channel, "data": "taken"})
        answer = (await http.get("/poll", params={"channel": channel, "after": cursor})).json()
    assert [p["data"] for p in answer["publications"]] == ["taken"]


async def test_websocket_over_http2(server):
    async with h2ws.H2(server) as connection:
        for authority in FOREIGN_HOSTS:
            stream = await connection.websocket(authority=fill(authority, server))
            assert stream.status_code == 421, (authority, stream.headers)
        for origin in FOREIGN_ORIGINS:
            stream = await connection.websocket(headers=[("origin", fill(origin, server))])
            assert stream.status_code == 403, (origin, stream.headers)
        for origin in OWN_ORIGINS:
            stream = await connection.websocket(headers=[("origin", fill(origin, server))])
            assert stream.status_code == 200, (origin, stream.headers)


async def test_webtransport_foreign_authority(server):
    async with wt.quic(server) as client:
        for authority in FOREIGN_HOSTS:
            await client.session(authority=fill(authority, server), expect=421)


async def test_webtransport_foreign_origin(server):
    async with wt.quic(server) as client:
        for origin in FOREIGN_ORIGINS:
            await client.session(headers=[("origin", fill(origin, server))], expect=403)


async def test_webtransport_own_origin(server):
    for origin in OWN_ORIGINS:
        async with wt.open_wt(server, headers=[("origin", fill(origin, server))]) as session:
            await session.open_stream().barrier()


async def test_http3_routes(server):
    async with wt.quic(server) as client:
        answer = await client.get("/healthz", authority="evil.example")
        assert answer.status() == 421, answer.body
        answer = await client.get("/healthz", headers=[("origin", "null")])
        assert answer.status() == 403, answer.body
        answer = await client.get("/healthz")
        assert (answer.status(), answer.body.strip()) == (200, b"ok")


@pytest.mark.parametrize("route,refused", [("publish", ("Origin", "null")), ("publish", ("Content-Type", "text/plain")), ("ticket", None), ("send", None)])
async def test_a_post_refused_before_its_body_came(server, route, refused):
    """Whoever answers before it has read the body takes the body all the same, or says that it closes."""
    _, target, _, body = ROUTES[route]
    headers = [("Host", f"127.0.0.1:{server.port}"), *([] if refused and refused[0] == "Content-Type" else [JSON])]
    headers += [("Content-Length", str(len(body))), *([refused] if refused else [])]
    async with await raw.Connection.open(server.port) as connection:
        await connection.request("POST", target, headers, head_only=True)
        answering = asyncio.create_task(connection.answer())
        # Long enough for a server that does not wait for the body; one that does answers after it.
        await asyncio.wait([answering], timeout=0.5)
        connection.writer.write(body)
        answer = await answering
        assert 400 <= answer.status_code < 500, answer
        if (answer.header("connection") or "").lower() != "close":
            await connection.request("GET", "/healthz", [("Host", f"127.0.0.1:{server.port}")])
            assert (await connection.answer()).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize("path", ["/sse?channel=event:x", "/poll?channel=event:x", "/connect", "/client/fulmar.js"])
async def test_a_foreign_page_that_does_not_say_who_it_is(server, site, path):
    """fetch(..., {mode: 'no-cors'}) and <script src> carry no Origin: they could read nothing, but hold sessions."""
    async with server.http() as http:
        for mode in ("no-cors", "cors", "websocket"):
            check_error(await http.get(path, headers={"sec-fetch-site": site, "sec-fetch-mode": mode}), 403, "forbidden_origin", mode)


async def test_a_link_from_another_site(server):
    async with server.http() as http:
        response = await http.get("/", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"})
        assert response.status_code == 200
        for site in ("same-origin", "none"):
            assert (await http.get("/connect", headers={"sec-fetch-site": site, "sec-fetch-mode": "cors"})).status_code == 200


async def test_answers_are_not_for_other_pages_to_embed(server):
    async with server.http() as http:
        for path in ("/", "/connect", "/poll?channel=event:x", "/nowhere"):
            headers = (await http.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff", path
            assert headers["cross-origin-resource-policy"] == "same-origin", path
