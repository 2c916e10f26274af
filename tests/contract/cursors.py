"""Cursors as a client may build them (PROTOCOL.md section 3)."""

import re

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
ENTRY = re.compile(r"([0-9a-f]{16})\.([A-Za-z0-9_-]{1,32})\.(0|[1-9a-z][0-9a-z]*)(?:\.(0|[1-9a-z][0-9a-z]*))?")


def fnv1a(name):
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


def base36(number):
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = DIGITS[digit] + digits
    return digits or "0"


def build(*positions):
    """A cursor from (channel, epoch, offset) triples."""
    return "~".join(f"{fnv1a(channel)}.{epoch}.{base36(offset)}" for channel, epoch, offset in positions)


def parse(cursor):
    """{hash: (epoch, offset, base or None)}; fails on anything the grammar does not allow."""
    entries = {}
    for text in cursor.split("~"):
        match = ENTRY.fullmatch(text)
        assert match, f"{text!r} is not an entry of a cursor (in {cursor!r})"
        name, epoch, offset, base = match.groups()
        assert name not in entries, f"{cursor!r} names {name} twice"
        entries[name] = (epoch, int(offset, 36), None if base is None else int(base, 36))
    return entries
