"""The tests' own receiver of state datagrams, which must not be what is wrong."""

import fulmar_bin
import pytest
import receiver

TEXT = "x" * 999 + "ü" + "y" * 1_500


class Fake:
    """A receiver that has seen one channel begin, and frames for it."""

    def __init__(self, synced=True):
        self.codec = fulmar_bin.Connection()
        self.receiver = receiver.Receiver(self.codec.aliases)
        self.number = 0
        self.hear("subscribed", 0, ref=1)
        self.hear("reset", 0)
        if synced:
            self.hear("synced", 0)

    def hear(self, kind, offset, alias=1, epoch="e", **members):
        message = {"type": kind, "channel": "state:a", "epoch": epoch, "offset": offset} | members
        self.receiver.note(self.codec.to_json(fulmar_bin.from_json(message, alias)))

    def take(self, *entries, number=None):
        """What a datagram brings, as key@offset."""
        self.number = number or self.number + 1
        entries = [{"alias": 1, "low": 0} | entry for entry in entries]
        frame = fulmar_bin.encode({"frame": "values", "number": self.number, "entries": entries})
        return [f"{it.get('key', '')}@{it['offset']}" for it in self.receiver.datagram(frame)]

    def acked(self):
        ack = fulmar_bin.decode(self.receiver.ack(), "client")
        return ack["newest"], ack["bitmap"]


def value(key, offset, low=0, **more):
    return {"key": key, "offset": offset, "low": low, "time": 1, "removed": False, "kind": "text", "payload": b"x"} | more


def part(key, offset, index, text=TEXT, **more):
    raw = text.encode()
    return value(key, offset, index=index, length=len(raw), payload=raw[index * 1_000 :][:1_000], **more)


def test_the_newest_of_each_key_comes_once():
    fake = Fake()
    assert fake.take(value("a", 3), value("b", 2)) == ["a@3", "b@2"]
    assert fake.take(value("a", 2), value("b", 5)) == ["b@5"]
    assert fake.take(value("c", 9), number=2) == [], "the number was there already"
    assert fake.take({"key": "a", "offset": 6, "time": 1, "removed": True}) == ["a@6"]
    assert fake.take(value("a", 5)) == []


def test_the_low_water_offset_is_the_position():
    fake = Fake(synced=False)
    assert fake.take(value("a", 9, low=7)) == ["a@9"]
    assert fake.receiver.position("state:a") is None
    fake.hear("synced", 3)
    assert fake.receiver.position("state:a") == 3
    fake.take({"low": 8})
    fake.take({"low": 6})
    assert fake.receiver.position("state:a") == 8
    assert fake.take(value("b", 8)) == [], "known or replaced"
    fake.hear("reset", 20, epoch="f", alias=2)
    assert fake.receiver.position("state:a") is None
    assert fake.take(value("a", 50)) == [], "of the old epoch"


def test_acknowledgements_name_what_was_taken():
    fake = Fake()
    fake.take(number=2)
    assert fake.acked() == (2, 0)
    fake.take(number=5)
    assert fake.acked() == (5, 0b100)
    fake.take(number=1)
    assert fake.acked() == (5, 0b1100)
    fake.take(number=67)
    assert fake.acked() == (67, 1 << 61)
    with pytest.raises(fulmar_bin.UnknownAlias):
        fake.take(value("a", 1), {"alias": 9}, number=68)
    assert fake.acked() == (67, 1 << 61)
    assert fake.take(value("a", 1), number=68) == ["a@1"], "nothing of it was taken before"


def test_parts():
    fake = Fake()
    assert fake.take(part("a", 5, 2)) == fake.take(part("a", 5, 0)) == fake.take(part("a", 5, 2)) == []
    assert fake.take(part("a", 5, 1)) == ["a@5"]
    assert fake.take(part("a", 6, 0), part("a", 6, 1)) == fake.take(part("a", 7, 0)) == fake.take(part("a", 6, 2)) == []
    assert fake.take(value("a", 8)) == ["a@8"]
    large = "z" * 16_000
    for n in range(16):
        fake.take(part(f"k{n}", 10 + n, 0, large))
    with pytest.raises(receiver.Refused):
        fake.take(part("more", 40, 0, large))
    assert fake.acked()[0] == fake.number - 1
    assert fake.take(*(part("k0", 10, n, large) for n in range(1, 16))) == ["k0@10"]
    assert fake.take(part("more", 40, 0, large)) == []


def test_values_on_a_stream():
    fake = Fake()
    frame = fulmar_bin.encode({"frame": "values", "number": 1, "entries": [{"alias": 1} | value("a", 1)]})
    came, ack = fake.receiver.stream(frame, 0)
    assert [it["data"] for it in came] == ["x"]
    assert fulmar_bin.decode(ack, "client") == {"frame": "ack", "newest": 1, "bitmap": 0}
    with pytest.raises(AssertionError):
        fake.receiver.stream(frame, 1)
