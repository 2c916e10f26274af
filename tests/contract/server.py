"""Starts the server under test, and the small things every test needs from it."""

import asyncio
import base64
import contextlib
import os
import pathlib
import re
import subprocess
import threading
import uuid

import httpx

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("FULMAR_BIN", str(ROOT / "target/debug/fulmar"))
DEADLINE = 15


@contextlib.asynccontextmanager
async def within(seconds, awaited):
    """A deadline that says what was awaited."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise AssertionError(f"waited {seconds} s in vain for {awaited}") from None


def start_configured(folder, configuration, key):
    """A server with this configuration, in which `{key_file}` stands for a file with the key."""
    key_file, file = folder / "api.key", folder / "fulmar.toml"
    key_file.write_text(key + "\n")
    key_file.chmod(0o600)
    file.write_text(configuration.format(key_file=key_file))
    return Server("--config", str(file))


class Server:
    """One running `fulmar`; stopped by its own process id. `where` is a command that runs it somewhere else, by exec."""

    def __init__(self, *arguments, http="127.0.0.1:0", quic="127.0.0.1:0", where=()):
        self.host = http.rpartition(":")[0]
        # Variables of the caller's environment must not configure the server under test.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FULMAR_")}
        self.process = subprocess.Popen(
            [*where, BINARY, "--http", http, "--quic", quic, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        self.output = []
        self.found = threading.Event()
        self.scheme = self.port = None
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        ready = self.found.wait(DEADLINE)
        if not ready or self.port is None:
            self.stop()
            raise AssertionError(
                f"{BINARY} did not print a line with http://{self.host}:PORT/ within {DEADLINE} s; it printed:\n" + "".join(self.output)
            )

    def _read(self):
        url = re.compile(rf"(https?)://{re.escape(self.host)}:(\d+)/")
        # Goes on to the end, so that the server never blocks on a full pipe.
        for line in self.process.stdout:
            self.output.append(line)
            match = url.search(line)
            if match and self.port is None:
                self.scheme, self.port = match.group(1), int(match.group(2))
                self.found.set()
        self.found.set()

    @property
    def base(self):
        return f"{self.scheme}://{self.host}:{self.port}"

    def http(self, **options):
        options = {"base_url": self.base, "timeout": 40, "trust_env": False} | options
        return httpx.AsyncClient(**options)

    async def wait(self, seconds=DEADLINE):
        """The exit status, once the process has ended by itself."""
        async with within(seconds, f"process {self.process.pid} to end"):
            return await asyncio.to_thread(self.process.wait, seconds + 1)

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.reader.join(DEADLINE)


def name(namespace="event"):
    """A channel no other test uses."""
    return f"{namespace}:{uuid.uuid4().hex[:12]}"


def b64(raw):
    return base64.b64encode(raw).decode()


def json_or_none(response):
    try:
        return response.json()
    except ValueError:
        return None


def check_error(response, status, codes, what=""):
    """An HTTP error as PROTOCOL.md section 6 has it."""
    codes = {codes} if isinstance(codes, str) else set(codes)
    body = json_or_none(response)
    shown = f"{what}: {response.status_code} {response.text[:300]!r}"
    assert response.status_code == status, f"wanted {status} {sorted(codes)}, got {shown}"
    assert isinstance(body, dict) and isinstance(body.get("error"), dict), f"not an error object: {shown}"
    assert body["error"].get("code") in codes, f"wanted {sorted(codes)}, got {shown}"
    assert isinstance(body["error"].get("message"), str) and body["error"]["message"], f"no message: {shown}"
    return body["error"]


async def publish(client, channel, data=None, **rest):
    """POST /api/publish; the answer's (epoch, offset)."""
    body = {"channel": channel} | rest
    if "b64" not in body and "removed" not in body:
        body["data"] = data
    response = await client.post("/api/publish", json=body)
    assert response.status_code == 200, f"publish {str(body)[:200]}: {response.status_code} {response.text[:300]}"
    answer = response.json()
    assert isinstance(answer["epoch"], str) and isinstance(answer["offset"], int), answer
    return answer["epoch"], answer["offset"]


async def poll(client, *channels, **query):
    """GET /poll; the answer's JSON, its shape checked."""
    response = await client.get("/poll", params=[("channel", c) for c in channels] + list(query.items()))
    assert response.status_code == 200, f"poll {channels} {query}: {response.status_code} {response.text[:300]}"
    answer = response.json()
    assert isinstance(answer["cursor"], str) and isinstance(answer["more"], bool), answer
    assert isinstance(answer["publications"], list) and isinstance(answer["control"], list), answer
    assert len(response.content) <= 1 << 20, f"an answer of {len(response.content)} bytes is above 1 MiB"
    return answer


async def poll_all(client, *channels, pages=200, between=None, **query):
    """Polls while `more`, and joins the pages; `between` is awaited after each page."""
    publications, control = [], []
    for count in range(1, pages + 1):
        answer = await poll(client, *channels, **query)
        publications += answer["publications"]
        control += answer["control"]
        query["after"] = answer["cursor"]
        if not answer["more"]:
            return {"cursor": answer["cursor"], "publications": publications, "control": control, "pages": count}
        if between:
            await between(count)
    raise AssertionError(f"/poll still says more after {pages} pages of {channels}")


def offsets(publications):
    return [p["offset"] for p in publications]


def content(publication):
    """What was published, whatever encoding it came in."""
    return publication.get("data", publication.get("b64"))


class View:
    """What a receiver holds of one state channel, by the rules of PROTOCOL.md section 2."""

    def __init__(self):
        self.keys = {}
        self.synced = None
        self.resets = 0

    def take(self, message):
        kind = message.get("type", "publication")
        if kind == "reset":
            self.resets += 1
            self.synced = None
            self.keys = {
                key: held
                for key, held in self.keys.items()
                if held["epoch"] == message["epoch"] and held["offset"] > message["offset"]
            }
        elif kind == "synced":
            self.synced = (message["epoch"], message["offset"])
        elif kind == "publication":
            held = self.keys.get(message.get("key", ""))
            if not held or held["epoch"] != message["epoch"] or message["offset"] > held["offset"]:
                self.keys[message.get("key", "")] = message

    def values(self):
        return {key: content(p) for key, p in self.keys.items() if not p.get("removed")}

    def poll(self, answer):
        """One answer of /poll: `synced` comes after the publications, everything else before."""
        for message in answer["control"]:
            if message["type"] != "synced":
                self.take(message)
        for message in answer["publications"]:
            self.take(message)
        for message in answer["control"]:
            if message["type"] == "synced":
                self.take(message)
