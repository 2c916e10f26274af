"""Starting and stopping: one process each."""

import asyncio
import json
import signal
import ssl
import subprocess
from urllib.parse import urlsplit

import pytest
import raw
import wt
from certificate import make
from raw import EventStream
from server import BINARY, DEADLINE, Server, check_error, name, publish, within
from ws import open_ws


@pytest.fixture
def own():
    running = Server()
    yield running
    running.stop()


@pytest.mark.parametrize("flag", ["--http", "--quic"])
def test_development_mode_binds_loopback_only(flag):
    addresses = {"--http": "127.0.0.1:0", "--quic": "127.0.0.1:0"} | {flag: "0.0.0.0:0"}
    process = subprocess.run(
        [BINARY, *(word for pair in addresses.items() for word in pair)], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert process.returncode not in (0, None) and process.returncode > 0, process
    assert "loopback" in (process.stderr + process.stdout).lower(), process


def test_one_url_is_printed(own):
    assert len([line for line in own.output if "http://" in line]) == 1, own.output


async def test_two_servers_have_different_certificates_and_epochs(own, server):
    found = []
    for one in (own, server):
        async with one.http() as http:
            hashes_ = (await http.get("/connect")).json()["webtransport"]["certificate_hashes"]
            found.append((hashes_[0]["value"], (await publish(http, "event:lifecycle", 1))[0]))
    assert found[0][0] != found[1][0] and found[0][1] != found[1][1], found


async def test_stopping_says_come_back_on_every_transport(own):
    channel = name()
    async with own.http() as http, open_ws(own) as text, open_ws(own, binary=True) as binary, wt.open_wt(own) as session:
        async with await EventStream.open(own, channel) as events:
            control = session.open_stream()
            for connection in (text, binary, control):
                await connection.barrier()
            await publish(http, channel, "before")
            assert (await events.message())["data"] == "before"
            own.process.send_signal(signal.SIGTERM)
            for ws in (text, binary):
                assert (await ws.until("close", awaited="the in-band close"))["code"] == 4000
                assert (await ws.closed())[0] == 4000
            close = await control.until("close", awaited="the in-band close")
            assert close["code"] == 4000, close
            assert await session.closed() == (4000, close["reason"])
            blocks = []
            while block := await events.any_block("the end of the stream"):
                blocks.append(block)
    last = [raw.parse_block(block) for block in blocks]
    assert [e for e in last if e.get("retry", "").isdigit()], f"no retry before the end: {blocks}"
    assert [json.loads(e["data"])["code"] for e in last if e.get("event") == "close"] == [4000], blocks
    assert await own.wait() == 0, "".join(own.output)


async def test_a_waiting_poll_does_not_hold_up_the_stop(own):
    async with own.http() as http:
        cursor = (await http.get("/poll", params={"channel": "event:x"})).json()["cursor"]
        waiting = asyncio.create_task(http.get("/poll", params={"channel": "event:x", "after": cursor, "wait": "30"}))
        await http.get("/healthz")
        own.process.send_signal(signal.SIGTERM)
        assert await own.wait() == 0, "".join(own.output)
        async with within(DEADLINE, "the end of the poll"):
            await asyncio.wait([waiting])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    make(folder, "127.0.0.1")
    return folder


@pytest.fixture(scope="module")
def outside_development(certificate):
    running = Server("--tls-cert", str(certificate / "cert.pem"), "--tls-key", str(certificate / "key.pem"))
    yield running
    running.stop()


async def test_with_a_certificate_the_sidecar_speaks_tls(outside_development, certificate):
    assert outside_development.scheme == "https", outside_development.output
    trusted = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    async with outside_development.http(verify=trusted) as http:
        healthy = await http.get("/healthz")
        assert healthy.status_code == 200
        urls = (await http.get("/connect")).json()
    assert urls["websocket"]["url"].startswith("wss://") and urls["sse"]["url"].startswith("https://"), urls
    port = urlsplit(urls["webtransport"]["url"]).port
    assert healthy.headers["alt-svc"] == f'h3=":{port}"; ma=86400', healthy.headers


async def test_a_plain_sidecar_names_no_alternative(server):
    async with server.http() as http:
        assert "alt-svc" not in (await http.get("/healthz")).headers


async def test_outside_development_the_api_is_shut_until_a_key_is_configured(outside_development):
    async with outside_development.http(verify=False) as http:
        for headers in ({}, {"authorization": "Bearer guess"}):
            response = await http.post("/api/publish", json={"channel": "event:x", "data": 1}, headers=headers)
            check_error(response, 403, "no_key_configured", "publish")
            check_error(await http.get("/api/stats", headers=headers), 403, "no_key_configured", "stats")


async def test_outside_development_no_namespace_is_open(outside_development):
    async with outside_development.http(verify=False) as http:
        check_error(await http.get("/poll", params={"channel": "event:x"}), 403, "forbidden", "poll")
        check_error(await http.get("/sse", params={"channel": "state:x"}), 403, "forbidden", "sse")
