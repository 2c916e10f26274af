"""The Python codec against the golden frames, so that three codecs have to agree on the same bytes."""

import base64
import json
import pathlib

import cursors
import fulmar_bin
import pytest

VECTORS = pathlib.Path(__file__).resolve().parents[1] / "vectors" / "frames.json"


def golden(group):
    return [pytest.param(entry, id=entry["name"]) for entry in json.loads(VECTORS.read_text())[group]]


def test_varint_boundaries():
    cases = {0: "00", 63: "3f", 64: "4040", 16383: "7fff", 16384: "80004000", 2**30 - 1: "bfffffff", 2**30: "c000000040000000"}
    cases[2**53 - 1] = "c01fffffffffffff"
    for value, wire in cases.items():
        assert fulmar_bin.varint(value).hex() == wire
        assert fulmar_bin.Reader(bytes.fromhex(wire)).varint() == value


@pytest.mark.parametrize("wire", ["", "7f", "0100", "02", "0105000003", "09", "090000"])
def test_bytes_that_are_not_a_frame(wire):
    with pytest.raises(fulmar_bin.Malformed):
        fulmar_bin.decode(bytes.fromhex(wire))


@pytest.mark.parametrize("entry", golden("frames") + golden("priorities"))
def test_golden_frames(entry):
    raw, message, alias = bytes.fromhex(entry["bin"]), entry["json"], entry.get("alias")
    codec = fulmar_bin.Connection(entry["direction"])
    if alias is not None:
        codec.aliases[alias] = (message["channel"], message["epoch"])
    assert codec.to_json(raw) == message
    assert fulmar_bin.from_json(message, alias).hex() == entry["bin"]


@pytest.mark.parametrize("entry", golden("malformed"))
def test_golden_malformed_frames(entry):
    with pytest.raises(fulmar_bin.Malformed):
        fulmar_bin.decode(bytes.fromhex(entry["bin"]), entry["direction"])


def listed(entry):
    """An entry of a golden frame as the codec has it."""
    fields = {name: entry[name] for name in ("alias", "low", "offset", "time", "key", "id") if name in entry}
    if "part" in entry:
        part = dict(entry["part"])
        return fields | {"removed": False, "payload": base64.b64decode(part.pop("b64"))} | part
    if "offset" in entry:
        content = fulmar_bin.payload_from_json(entry)
        fields |= {"removed": True} if content.pop("removed", False) else content | {"removed": False}
    return fields


@pytest.mark.parametrize("entry", golden("values"))
def test_golden_values(entry):
    fields = {"frame": "values"} | entry["values"] | {"entries": [listed(it) for it in entry["values"]["entries"]]}
    assert fulmar_bin.decode(bytes.fromhex(entry["bin"]), "server") == fields
    assert fulmar_bin.encode(fields).hex() == entry["bin"]


@pytest.mark.parametrize("entry", golden("acks"))
def test_golden_acks(entry):
    fields = {"frame": "ack", "newest": entry["ack"]["newest"], "bitmap": int(entry["ack"]["bitmap"], 16)}
    assert fulmar_bin.decode(bytes.fromhex(entry["bin"]), "client") == fields
    assert fulmar_bin.encode(fields).hex() == entry["bin"]


@pytest.mark.parametrize(("group", "direction"), [("malformed_values", "server"), ("malformed_acks", "client")])
def test_golden_malformed_values_and_acks(group, direction):
    for entry in json.loads(VECTORS.read_text())[group]:
        with pytest.raises(fulmar_bin.Malformed):
            raise AssertionError(f"{entry['name']}: {fulmar_bin.decode(bytes.fromhex(entry['bin']), direction)}")


@pytest.mark.parametrize("entry", golden("cursors"))
def test_golden_cursors(entry):
    positions = entry["positions"]
    parsed = cursors.parse(entry["cursor"])
    assert list(parsed) == [cursors.fnv1a(p["channel"]) for p in positions]
    assert list(parsed.values()) == [(p["epoch"], p["offset"], p.get("base")) for p in positions]
    if not any("base" in p for p in positions):
        assert cursors.build(*((p["channel"], p["epoch"], p["offset"]) for p in positions)) == entry["cursor"]


@pytest.mark.parametrize("entry", golden("batches"))
def test_golden_batches(entry):
    assert [frame.hex() for frame in fulmar_bin.messages(bytes.fromhex(entry["bin"]))] == entry["frames"]


@pytest.mark.parametrize("entry", golden("malformed_batches"))
def test_malformed_batches(entry):
    with pytest.raises(fulmar_bin.Malformed):
        for frame in fulmar_bin.messages(bytes.fromhex(entry["bin"])):
            fulmar_bin.decode(frame)
