"""GET /connect and the certificate whose hash it names."""

import base64
import datetime
import hashlib
import json
from urllib.parse import urlsplit

import pytest
import wt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from server import check_error, within

LOOPBACK = {"127.0.0.1", "localhost"}


async def discovery(server, **headers):
    async with server.http() as http:
        response = await http.get("/connect", headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("application/json")
    return response.json()


async def test_every_transport_is_named(server):
    answer = await discovery(server)
    assert set(answer) >= {"webtransport", "websocket", "sse", "poll"}, answer
    for transport, scheme, path in (("websocket", "ws", "/ws"), ("sse", "http", "/sse"), ("poll", "http", "/poll")):
        url = urlsplit(answer[transport]["url"])
        assert (url.scheme, url.port, url.path) == (scheme, server.port, path), (transport, answer[transport])
        assert url.hostname in LOOPBACK, answer[transport]
    url = urlsplit(answer["webtransport"]["url"])
    assert (url.scheme, url.path) == ("https", "/wt") and url.port and url.hostname in LOOPBACK, answer["webtransport"]
    # The browser client compares the text with that of the place that it guessed.
    assert list(answer["webtransport"]) == ["certificate_hashes", "url"], answer["webtransport"]


async def test_certificate_hashes_are_sha_256(server):
    hashes = (await discovery(server))["webtransport"]["certificate_hashes"]
    assert 1 <= len(hashes) <= 2, hashes
    for entry in hashes:
        assert entry["algorithm"] == "sha-256", entry
        assert len(base64.b64decode(entry["value"], validate=True)) == 32, entry


async def test_the_served_certificate_has_a_published_hash(server):
    hashes = {e["value"] for e in (await discovery(server))["webtransport"]["certificate_hashes"]}
    async with wt.quic(server) as client:
        served = hashlib.sha256(client.certificate.public_bytes(Encoding.DER)).digest()
    assert base64.b64encode(served).decode() in hashes


async def test_the_certificate_is_one_browsers_take_by_hash(server):
    async with wt.quic(server) as client:
        certificate = client.certificate
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1), key
    assert certificate.version is x509.Version.v3
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    assert ends - begins <= datetime.timedelta(days=14), f"valid from {begins} to {ends}"
    assert begins <= datetime.datetime.now(datetime.timezone.utc) < ends, f"valid from {begins} to {ends}"


async def test_the_url_names_the_host_that_was_asked(server):
    """A page on localhost must be sent to a name it may call."""
    answer = await discovery(server, host=f"localhost:{server.port}")
    for transport in ("websocket", "sse", "poll"):
        assert urlsplit(answer[transport]["url"]).hostname in LOOPBACK, answer


async def test_the_named_urls_work(server):
    answer = await discovery(server)
    async with server.http(base_url="") as http:
        response = await http.get(answer["poll"]["url"], params={"channel": "event:connect"})
        assert response.status_code == 200, response.text
        async with within(15, "the head of the SSE stream"):
            async with http.stream("GET", answer["sse"]["url"], params={"channel": "event:connect"}) as stream:
                assert stream.status_code == 200
    async with wt.open_wt(server) as session:
        await session.open_stream().barrier()


async def test_the_module_beside_the_clients_says_the_same(server):
    """For a page that the server serves, whatever name it is asked by; and to nobody who may not ask."""
    async with server.http() as http:
        for host in ("127.0.0.1", "localhost"):
            headers = {"host": f"{host}:{server.port}"}
            module = await http.get("/client/place.js", headers=headers)
            assert module.status_code == 200 and module.headers["content-type"].startswith("text/javascript"), module.headers
            assert module.headers["cache-control"] == "no-store", "certificates are renewed"
            said, rest = module.text.removeprefix("export default ").rsplit(";", 1)
            assert json.loads(said) == await discovery(server, **headers) and rest == "\n", module.text
            assert f"{host}:{server.port}" in said
        check_error(await http.get("/client/place.js", headers={"host": "elsewhere.example"}), 421, "misdirected")
        check_error(await http.get("/client/place.js", headers={"sec-fetch-site": "cross-site"}), 403, "forbidden_origin")
        check_error(await http.post("/client/place.js", json={}), 405, "method_not_allowed")


@pytest.mark.parametrize("path", ["/client/fulmar.js", "/"])
async def test_a_file_that_is_known_is_not_sent_again(server, path):
    async with server.http() as http:
        first = await http.get(path)
        tag = first.headers["etag"]
        for known in (tag, f"W/{tag}", f'"another", {tag}', "*"):
            again = await http.get(path, headers={"if-none-match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag), known
        other = await http.get(path, headers={"if-none-match": '"another"'})
        assert (other.status_code, other.content) == (200, first.content)
        assert (await http.get("/client/wire.js")).headers["etag"] != tag


@pytest.mark.parametrize("path", ["/client/fulmar.js", "/"])
async def test_a_file_is_compressed_for_who_takes_that(server, path):
    async with server.http() as http:
        plain = await http.get(path, headers={"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers and len(plain.content) == int(plain.headers["content-length"])
        for accepted in ("gzip", "br, GZIP;q=0.5", "deflate,gzip ; q=1.0"):
            answer = await http.get(path, headers={"accept-encoding": accepted})
            assert answer.headers["content-encoding"] == "gzip", accepted
            assert answer.content == plain.content, accepted
            assert int(answer.headers["content-length"]) < len(plain.content) / 2, accepted
            assert (answer.headers["content-type"], answer.headers["vary"]) == (plain.headers["content-type"], plain.headers["vary"])
        for refused in ("", "br", "gzip;q=0", "gzip;q=0.000", "gzip;q=x", "xgzip"):
            answer = await http.get(path, headers={"accept-encoding": refused})
            assert ("content-encoding" not in answer.headers, answer.content) == (True, plain.content), refused
        # A cache may keep both, and tells them apart.
        tags = {coding: (await http.get(path, headers={"accept-encoding": coding})).headers["etag"] for coding in ("gzip", "identity")}
        assert tags["gzip"] != tags["identity"] and "accept-encoding" in plain.headers["vary"].lower()
        for encoding, status in (("gzip", 304), ("identity", 200)):
            headers = {"accept-encoding": encoding, "if-none-match": tags["gzip"]}
            assert (await http.get(path, headers=headers)).status_code == status, encoding
