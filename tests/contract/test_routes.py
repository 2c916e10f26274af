"""Health, counters, unknown routes and wrong methods."""

import pytest
from server import check_error, name, publish


@pytest.mark.parametrize("route", ["/healthz", "/readyz"])
async def test_health(server, route):
    async with server.http() as http:
        response = await http.get(route)
    assert (response.status_code, response.text.strip()) == (200, "ok")


async def test_stats_count(server):
    def numbers(value, path=""):
        if isinstance(value, dict):
            return {k: v for key, item in value.items() for k, v in numbers(item, f"{path}.{key}").items()}
        return {path: value} if isinstance(value, (int, float)) and not isinstance(value, bool) else {}

    async with server.http() as http:
        response = await http.get("/api/stats")
        assert response.status_code == 200 and response.headers["content-type"].startswith("application/json")
        before = numbers(response.json())
        await publish(http, name(), 1)
        after = numbers((await http.get("/api/stats")).json())
    assert before, "no counter at all"
    assert [k for k in before if after.get(k, 0) > before[k]], f"a publish raised no counter: {after}"


async def test_unknown_routes(server):
    async with server.http() as http:
        for path in ("/no-such-route", "/api/no-such-route", "/ws/x", "/pollute", "/../etc/passwd"):
            check_error(await http.get(path), 404, "not_found", path)
        check_error(await http.post("/no-such-route", json={}), 404, "not_found", "POST")


@pytest.mark.parametrize(
    "method,path",
    [
        ("POST", "/healthz"),
        ("POST", "/connect"),
        ("POST", "/poll?channel=event:x"),
        ("DELETE", "/poll?channel=event:x"),
        ("POST", "/sse?channel=event:x"),
        ("GET", "/api/publish"),
        ("PUT", "/api/publish"),
        ("GET", "/session"),
        ("GET", "/session/ticket"),
        ("GET", "/send"),
        ("POST", "/api/stats"),
    ],
)
async def test_wrong_method(server, method, path):
    async with server.http() as http:
        headers = {"content-type": "application/json"} if method in ("POST", "PUT") else {}
        response = await http.request(method, path, headers=headers, content=b"{}" if headers else None)
        check_error(response, 405, "method_not_allowed", f"{method} {path}")


async def test_get_ws_without_an_upgrade(server):
    async with server.http() as http:
        response = await http.get("/ws")
    assert 400 <= response.status_code < 500, response.status_code
    assert response.json()["error"]["code"], response.text


async def test_http2_speaks_the_same_routes(server):
    async with server.http(http1=False, http2=True) as http:
        response = await http.get("/healthz")
        assert (response.http_version, response.status_code, response.text.strip()) == ("HTTP/2", 200, "ok")
        channel = name()
        await publish(http, channel, 1)
        check_error(await http.get("/no-such-route"), 404, "not_found")
