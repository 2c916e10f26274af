"""With a configuration: keys, namespaces, hosts and origins, and clients too slow for a short history."""

import subprocess

import cursors
import pytest
import wt
from raw import EventStream
from server import BINARY, DEADLINE, check_error, name, offsets, poll, publish, start_configured
from ws import open_ws

KEY = "a key that only its owner knows"
CONFIGURATION = """
hosts = ["fulmar.example"]
origins = ["https://pages.example"]

[api]
key_file = "{key_file}"

[namespaces.both]
class = "event"
subscribe = true
publish = true

[namespaces.read]
class = "event"
subscribe = true

[namespaces.write]
class = "event"
publish = true

[namespaces.short]
class = "event"
subscribe = true
publish = true
count = 10

[namespaces.strict]
class = "event"
subscribe = true
publish = true
count = 10
overflow = "disconnect"

[namespaces.small]
class = "event"
subscribe = true
publish = true
payload_bytes = 100
"""


@pytest.fixture(scope="module")
def configured(tmp_path_factory):
    running = start_configured(tmp_path_factory.mktemp("configured"), CONFIGURATION, KEY)
    yield running
    running.stop()


def api(server):
    return server.http(headers={"authorization": f"Bearer {KEY}"})


async def test_the_api_wants_its_key(configured):
    body = {"channel": name("both"), "data": 1}
    async with configured.http() as http:
        for value in (None, "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", KEY):
            headers = {"authorization": value} if value else {}
            check_error(await http.post("/api/publish", json=body, headers=headers), 401, "unauthorized", str(value))
            check_error(await http.get("/api/stats", headers=headers), 401, "unauthorized", str(value))
        check_error(await http.post("/api/publish", params={"key": KEY}, json=body), 401, "unauthorized", "in the URL")
    async with api(configured) as http:
        assert (await http.post("/api/publish", json=body)).status_code == 200
        assert (await http.get("/api/stats")).status_code == 200


@pytest.mark.parametrize("binary", [False, True], ids=["json", "bin"])
async def test_namespaces_allow_what_they_say(configured, binary):
    allowed = {"both": {"subscribe", "publish"}, "read": {"subscribe"}, "write": {"publish"}, "other": set()}
    async with open_ws(configured, binary) as ws:
        for namespace, kinds in allowed.items():
            for kind in ("subscribe", "publish"):
                message = {"data": 1} if kind == "publish" else {}
                answer = await ws.ask(type=kind, channel=name(namespace), **message)
                if kind in kinds:
                    assert answer["type"] in ("subscribed", "published"), (namespace, kind, answer)
                else:
                    assert answer["type"] == "error" and answer["error"]["code"] == "forbidden", (namespace, kind, answer)


async def test_namespaces_hold_on_every_way_in(configured):
    channel = name("write")
    async with configured.http() as http:
        check_error(await http.get("/poll", params={"channel": channel}), 403, "forbidden", "poll")
        check_error(await http.get("/sse", params={"channel": channel}), 403, "forbidden", "sse")
        mixed = [("channel", name("both")), ("channel", channel)]
        check_error(await http.get("/poll", params=mixed), 403, "forbidden", "one of two channels")
        check_error(await http.get("/sse", params={"channel": name()}), 403, "forbidden", "a namespace of development mode")
    async with wt.open_wt(configured) as session:
        answer = await session.open_stream().ask(type="subscribe", channel=channel)
        assert answer["type"] == "error" and answer["error"]["code"] == "forbidden", answer


async def test_the_api_publishes_where_clients_may_only_read(configured):
    channel = name("read")
    async with api(configured) as http:
        cursor = (await poll(http, channel))["cursor"]
        await publish(http, channel, "from the backend")
        assert [p["data"] for p in (await poll(http, channel, after=cursor))["publications"]] == ["from the backend"]


async def test_a_payload_bound_of_the_namespace(configured):
    async with api(configured) as http:
        await publish(http, name("small"), "x" * 100)
        response = await http.post("/api/publish", json={"channel": name("small"), "data": "x" * 101})
        check_error(response, 413, "payload_too_large")


async def test_configured_hosts_and_origins(configured):
    async with configured.http() as http:
        for host, status in (("fulmar.example", 200), ("fulmar.example:8443", 200), ("FULMAR.example", 200), ("other.example", 421), ("x.fulmar.example", 421)):
            assert (await http.get("/healthz", headers={"host": host})).status_code == status, host
        for origin, status in (("https://pages.example", 200), ("http://pages.example", 403), ("https://pages.example:8443", 403), ("https://x.pages.example", 403), ("null", 403)):
            response = await http.get("/connect", headers={"origin": origin})
            assert response.status_code == status, origin
            assert response.headers.get("access-control-allow-origin") in (None, origin), response.headers
    async with wt.open_wt(configured, headers=[("origin", "https://pages.example")]) as session:
        await session.open_stream().barrier()


async def fall_behind(configured, namespace, connection):
    """Publishes far more than the history holds to a subscriber whose socket is not read."""
    channel = name(namespace)
    await connection.subscribe(channel)
    connection.connection.transport.pause_reading()
    async with open_ws(configured, binary=True) as publisher:
        answers = []
        # As much as no pair of socket buffers takes, so that reading stops inside the server.
        for _ in range(20):
            answers += await publisher.publish_many([{"channel": channel, "data": "x" * 60_000} for _ in range(40)])
    connection.connection.transport.resume_reading()
    return channel, answers


@pytest.mark.parametrize("binary", [False, True], ids=["json", "bin"])
async def test_a_slow_client_is_told_of_its_gap(configured, binary):
    async with open_ws(configured, binary, max_queue=None) as slow:
        channel, answers = await fall_behind(configured, "short", slow)
        got = [await slow.until("publication", "gap", awaited="the rest of what is held")]
        while got[-1].get("offset") != answers[-1]["offset"] or got[-1]["type"] != "publication":
            got.append(await slow.until("publication", "gap", awaited=f"the rest of what is held, after {got[-1]['offset']}"))
    gaps = [n for n, message in enumerate(got) if message["type"] == "gap"]
    assert gaps, f"{len(got)} of {len(answers)} publications arrived without a gap"
    # Between two gaps, and after the last, nothing is missing.
    published, at = offsets(answers), 0
    for message in got:
        if message["type"] == "gap":
            at = next(n for n, offset in enumerate(published) if offset > message["offset"])
        else:
            assert message["offset"] == published[at], f"publication {at} is missing without a gap"
            at += 1


@pytest.mark.parametrize("binary", [False, True], ids=["json", "bin"])
async def test_a_slow_client_is_disconnected_where_the_policy_says_so(configured, binary):
    async with open_ws(configured, binary, max_queue=None) as slow:
        _, answers = await fall_behind(configured, "strict", slow)
        close = await slow.until("close", awaited="the in-band close")
        assert close["code"] == 4501, close
        assert (await slow.closed())[0] == 4501
        assert not [m for m in slow.kept if m["type"] == "gap"], "a gap where the policy is to disconnect"
        got = offsets([m for m in slow.kept if m["type"] == "publication"])
        assert got == offsets(answers)[: len(got)], "what came before the close is not what was published"


async def test_a_short_history_is_a_gap_for_who_comes_back(configured):
    channel = name("short")
    async with api(configured) as http:
        epoch, first = await publish(http, channel, 0)
        rest = [(await publish(http, channel, n))[1] for n in range(1, 31)]
        answer = await poll(http, channel, after=cursors.build((channel, epoch, first)))
        assert [c["type"] for c in answer["control"]] == ["gap"] and offsets(answer["publications"]) == rest[-10:]
        async with await EventStream.open(configured, channel, after=cursors.build((channel, epoch, first))) as stream:
            assert (await stream.message())["type"] == "gap"
            assert [(await stream.message())["offset"] for _ in range(10)] == rest[-10:]
        answer = await poll(http, channel, after=cursors.build((channel, epoch, rest[-11])))
        assert answer["control"] == [] and offsets(answer["publications"]) == rest[-10:], "what was read to the edge has no gap"


@pytest.mark.parametrize(
    "text,said",
    [
        ("no_such_setting = 1", "no_such_setting"),
        ("[namespaces.x]", "class"),
        ('[namespaces.x]\nclass = "queue"', "queue"),
        ('[api]\nkey_file = "/no/such/file"', "/no/such/file"),
        ('tls_cert = "/no/such/cert.pem"', "tls"),
        ('http = "0.0.0.0:0"', "0.0.0.0:0"),
        ("= nonsense", "toml"),
    ],
)
def test_a_configuration_that_cannot_be_used(tmp_path, text, said):
    file = tmp_path / "fulmar.toml"
    file.write_text(text + "\n")
    addresses = [] if text.startswith("http") else ["--http", "127.0.0.1:0"]
    process = subprocess.run(
        [BINARY, "--quic", "127.0.0.1:0", *addresses, "--config", str(file)], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert process.returncode > 0, process
    assert said in process.stderr.lower(), process.stderr


def test_a_key_file_others_can_read(tmp_path):
    (tmp_path / "api.key").write_text(KEY)
    (tmp_path / "api.key").chmod(0o644)
    (tmp_path / "fulmar.toml").write_text(f'[api]\nkey_file = "{tmp_path}/api.key"\n')
    process = subprocess.run(
        [BINARY, "--quic", "127.0.0.1:0", "--http", "127.0.0.1:0", "--config", str(tmp_path / "fulmar.toml")],
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )
    assert process.returncode > 0 and "api.key" in process.stderr, process
    assert KEY not in process.stderr + process.stdout
