"""fulmar.v1.bin, written from server/PROTOCOL.md sections 5 and 9 alone.

`encode` and `decode` turn one frame into a dict of its fields and back. `Connection` adds what a receiver has to
remember, the aliases, and renders frames as the JSON messages of section 4.
"""

import base64
import json


class Malformed(ValueError):
    """Bytes that are not a frame."""


def varint(value):
    for prefix, size in ((0, 1), (1, 2), (2, 4), (3, 8)):
        if value < 1 << (8 * size - 2):
            return (value | prefix << (8 * size - 2)).to_bytes(size, "big")
    raise ValueError(f"{value} does not fit in a variable-length integer")


def string(value):
    raw = value.encode()
    return varint(len(raw)) + raw


def utf8(raw):
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"not UTF-8: {raw[:20]!r}") from error


class Reader:
    def __init__(self, raw):
        self.raw, self.at = bytes(raw), 0

    def take(self, size):
        if self.at + size > len(self.raw):
            raise Malformed(f"the frame ends at {len(self.raw)}, inside a field that begins at {self.at}")
        self.at += size
        return self.raw[self.at - size : self.at]

    def byte(self):
        return self.take(1)[0]

    def varint(self):
        first = self.byte()
        rest = self.take((1 << (first >> 6)) - 1)
        return int.from_bytes(bytes([first & 0x3F]) + rest, "big")

    def number(self):
        value = self.varint()
        if value >= 1 << 53:
            raise Malformed(f"{value} is above the greatest number")
        return value

    def string(self):
        return utf8(self.take(self.number()))

    def rest(self):
        return self.take(len(self.raw) - self.at)

    def done(self):
        return self.at == len(self.raw)


# Fields of a frame in order: (name, how). "payload", "entries", "about" and "positions" are the rest of the frame and always last.
FRAMES = {
    0x01: ("publication", "alias offset time flags ?key ?id payload"),
    0x02: ("subscribed", "ref alias channel$ epoch$ offset recovered"),
    0x03: ("unsubscribed", "ref channel$"),
    0x04: ("gap", "alias channel$ epoch$ offset"),
    0x05: ("reset", "alias channel$ epoch$ offset"),
    0x06: ("synced", "alias offset"),
    0x07: ("published", "ref channel$ epoch$ offset"),
    0x08: ("error", "ref code$ message$ about"),
    0x09: ("ping", "ref"),
    0x0A: ("pong", "ref"),
    0x0B: ("close", "code reason$ retry_ms"),
    0x0C: ("attached", "ref session$ resumed"),
    0x0D: ("values", "number time entries"),
    0x21: ("subscribe", "ref channel$ kind start"),
    0x22: ("unsubscribe", "ref channel$"),
    0x23: ("publish", "ref flags channel$ ?key ?id ?ttl_ms ?priority payload"),
    0x24: ("attach", "ref id$ secret$ positions"),
    0x25: ("ack", "newest bitmap"),
}
BYTE_OF = {name: byte for byte, (name, _) in FRAMES.items()}
OPTIONAL = {"key": 0x04, "id": 0x10, "ttl_ms": 0x20, "priority": 0x40}
KINDS = {"binary": 0, "text": 1, "json": 2}
REMOVED = 0x08
OTHER_CHANNEL, IS_PART, NO_VALUE, LIKE_BEFORE = 0x20, 0x40, 0x80, 0x80
PART, MAX_PARTS = 1_000, 16
#: What `subscribed` says of a position: nothing was asked, everything after it follows, or it does not.
RECOVERED = [None, True, False]
#: What `attached` says of a session that was no longer known.
MADE_AGAIN = b"\0"
#: What `attach` says in place of positions where the session's subscriptions end.
FRESH = b"\0\1"
PING, PONG = BYTE_OF["ping"], BYTE_OF["pong"]


def encode(fields):
    """One frame from {"frame": name, field: value, ...}."""
    byte = BYTE_OF[fields["frame"]]
    out = bytes([byte])
    for field in FRAMES[byte][1].split():
        name = field.strip("?$")
        if field.startswith("?") and fields.get(name) is None:
            continue
        if name == "flags":
            flags = KINDS[fields.get("kind", "binary")] | (REMOVED if fields.get("removed") else 0)
            for option, bit in OPTIONAL.items():
                flags |= bit if fields.get(option) is not None else 0
            out += bytes([flags | fields.get("extra_flags", 0)])
        elif name == "payload":
            out += fields.get("payload", b"")
        elif name == "entries":
            out += entries_frame(fields["entries"], fields["time"])
        elif name == "retry_ms":
            out += varint(fields[name]) if name in fields else b""
        elif name == "recovered":
            out += bytes([RECOVERED.index(fields["recovered"])]) if "recovered" in fields else b""
        elif name == "resumed":
            out += b"" if fields["resumed"] else MADE_AGAIN
        elif name == "about":
            out += string(fields["channel"]) if "channel" in fields else b""
        elif name == "positions":
            if fields.get("fresh"):
                out += FRESH
            elif "positions" in fields:
                out += varint(len(fields["positions"]))
                out += b"".join(string(p["channel"]) + string(p["epoch"]) + varint(p["offset"]) for p in fields["positions"])
        elif name == "priority":
            out += bytes([fields["priority"]])
        elif name == "kind":
            out += bytes([fields["kind"]])
        elif name == "start":
            if fields["kind"] == 1:
                out += string(fields["cursor"])
            elif fields["kind"] == 2:
                out += string(fields["epoch"]) + varint(fields["offset"])
        elif field.endswith("$") or name in ("key", "id"):
            out += string(fields[name])
        elif name == "priority":
            out += bytes([fields[name]])
        else:
            out += varint(fields.get(name, 0) if name == "ref" else fields[name])
    return out


def decode(raw, direction=None):
    """The fields of one frame, as `encode` takes them; with a direction, only of a frame that travels that way."""
    reader = Reader(raw)
    byte = reader.byte()
    if byte not in FRAMES:
        raise Malformed(f"0x{byte:02x} is not a frame of fulmar.v1.bin")
    if direction and byte not in (PING, PONG) and (byte > 0x20) != (direction == "client"):
        raise Malformed(f"0x{byte:02x} does not come from a {direction}")
    name, layout = FRAMES[byte]
    fields, flags = {"frame": name}, 0
    for field in layout.split():
        name = field.strip("?$")
        if name == "flags":
            flags = reader.byte()
            allowed = 0x1F if byte == 0x01 else 0x7F
            if flags & ~allowed or flags & 3 == 3:
                raise Malformed(f"flags 0x{flags:02x} have a bit that must be 0")
            fields["kind"] = ["binary", "text", "json"][flags & 3]
            fields["removed"] = bool(flags & REMOVED)
        elif field.startswith("?"):
            if flags & OPTIONAL[name]:
                fields[name] = {"ttl_ms": reader.number, "priority": reader.byte}.get(name, reader.string)()
                if fields[name] == 0 and name == "priority":
                    raise Malformed("a priority is at least 1")
        elif name == "payload":
            fields[name] = reader.rest()
            if fields["kind"] == "text":
                utf8(fields[name])
        elif name == "entries":
            fields[name] = list(entries(reader, fields["time"]))
        elif name == "retry_ms":
            if not reader.done():
                fields[name] = reader.number()
        elif name == "recovered":
            if not reader.done():
                told = reader.byte()
                if told not in (1, 2):
                    raise Malformed(f"recovered is not {told}")
                fields[name] = RECOVERED[told]
        elif name == "resumed":
            fields[name] = reader.done()
            if not fields[name] and bytes([reader.byte()]) != MADE_AGAIN:
                raise Malformed("a session is resumed or made again")
        elif name == "about":
            if not reader.done():
                fields["channel"] = reader.string()
                if not fields["channel"]:
                    raise Malformed("a channel without a name")
        elif name == "positions":
            if not reader.done():
                fields[name] = []
                for _ in range(reader.number()):
                    fields[name].append({"channel": reader.string(), "epoch": reader.string(), "offset": reader.number()})
                if not reader.done():
                    if b"\0" + bytes([reader.byte()]) != FRESH or fields.pop(name):
                        raise Malformed("an attach has positions, or is fresh")
                    fields["fresh"] = True
        elif name == "kind":
            fields[name] = reader.byte()
        elif name == "start":
            if fields["kind"] == 1:
                fields["cursor"] = reader.string()
            elif fields["kind"] == 2:
                fields["epoch"], fields["offset"] = reader.string(), reader.number()
            elif fields["kind"] != 0:
                raise Malformed(f"a subscription cannot start from kind {fields['kind']}")
        elif field.endswith("$"):
            fields[name] = reader.string()
        else:
            fields[name] = reader.varint() if name == "bitmap" else reader.number()
    if not reader.done():
        raise Malformed(f"{len(reader.raw) - reader.at} bytes are left over after {fields['frame']}")
    if 0 in (fields.get("number"), fields.get("newest")):
        raise Malformed("frames are numbered from 1")
    return fields


def entries_frame(listed, base):
    out, before, offset, like = b"", None, 0, None
    for fields in listed:
        channel = (fields["alias"], fields["low"])
        flags = 0 if channel == before else OTHER_CHANNEL
        if "offset" not in fields:
            flags = OTHER_CHANNEL | NO_VALUE
        else:
            flags |= KINDS[fields.get("kind", "binary")] | (REMOVED if fields["removed"] else 0) | (IS_PART if "index" in fields else 0)
            flags |= sum(OPTIONAL[option] for option in ("key", "id") if option in fields)
        # What stands in the entry before need not stand again.
        own = (fields["time"], len(fields["payload"])) if "payload" in fields and "index" not in fields else None
        again = own is not None and own == like and not flags & OTHER_CHANNEL
        flags |= LIKE_BEFORE if again else 0
        offset = fields["low"] if flags & OTHER_CHANNEL else offset
        before, like = channel, own
        out += bytes([flags]) + (b"".join(map(varint, channel)) if flags & OTHER_CHANNEL else b"")
        if "offset" in fields:
            out += zigzag(fields["offset"] - offset) + (b"" if again else zigzag(fields["time"] - base))
            offset = fields["offset"]
            out += b"".join(string(fields[option]) for option in ("key", "id") if option in fields)
            out += b"".join(varint(fields[number]) for number in ("index", "length") if number in fields)
            out += b"" if fields["removed"] else fields["payload"] if again else prefixed(fields["payload"])
    return out


def zigzag(n):
    return varint(2 * n if n >= 0 else -2 * n - 1)


def unzigzag(n):
    return n >> 1 ^ -(n & 1)


def entries(reader, base):
    """The entries of a `values` frame; those that have no offset bring a low-water offset alone."""
    channel, before = None, {}
    while not reader.done():
        flags = reader.byte()
        if flags & OTHER_CHANNEL:
            channel = {"alias": reader.number(), "low": reader.number()}
            before = {"offset": channel["low"]}
        if channel is None:
            raise Malformed("the first entry names no channel")
        if flags == OTHER_CHANNEL | NO_VALUE:
            yield channel
        else:
            before = entry(reader, flags, channel["low"], base, before)
            yield channel | before


def entry(reader, flags, low, base, before):
    kind, removed, part, like = flags & 3, bool(flags & REMOVED), bool(flags & IS_PART), bool(flags & LIKE_BEFORE)
    if kind == 3 or removed and (part or kind or like) or like and (part or flags & OTHER_CHANNEL):
        raise Malformed(f"flags 0x{flags:02x} do not go together")
    if like and ("payload" not in before or "index" in before):
        raise Malformed("nothing stands before an entry that says no time and length")
    offset = before["offset"] + unzigzag(reader.varint())
    time = before["time"] if like else base + unzigzag(reader.varint())
    fields = {"offset": offset, "time": time, "removed": removed}
    if offset <= low or offset >= 1 << 53 or not 0 <= time < 1 << 53:
        raise Malformed(f"an entry at {fields['offset']} of {fields['time']} ms")
    for option in ("key", "id"):
        if flags & OPTIONAL[option]:
            fields[option] = reader.string()
    if removed:
        return fields
    if part:
        fields |= {"index": reader.number(), "length": reader.number()}
    length = len(before["payload"]) if like else reader.number()
    fields |= {"kind": ["binary", "text", "json"][kind], "payload": reader.take(length)}
    if part:
        index, length = fields["index"], fields["length"]
        if length > PART * MAX_PARTS or not 0 < len(fields["payload"]) == min(PART, length - index * PART):
            raise Malformed(f"{len(fields['payload'])} bytes are not part {index} of {length} bytes")
    else:
        check(fields["kind"], fields["payload"])
    return fields


def check(kind, payload):
    if kind != "binary":
        utf8(payload)
    if kind == "json":
        try:
            json.loads(payload)
        except ValueError as error:
            raise Malformed(f"not JSON: {payload[:20]!r}") from error


def payload_to_json(kind, payload):
    if kind == "binary":
        return {"b64": base64.b64encode(payload).decode()}
    return {"data": payload.decode() if kind == "text" else json.loads(payload)}


def payload_from_json(message):
    if "b64" in message:
        return {"kind": "binary", "payload": base64.b64decode(message["b64"], validate=True)}
    if isinstance(message.get("data"), str):
        return {"kind": "text", "payload": message["data"].encode()}
    if "data" in message:
        return {"kind": "json", "payload": json.dumps(message["data"], separators=(",", ":"), ensure_ascii=False).encode()}
    return {"kind": "binary", "payload": b"", "removed": True}


def from_json(message, alias=None):
    """A frame for a message of section 4; `alias` where the frame carries one."""
    name = message["type"]
    fields = {k: v for k, v in message.items() if k not in ("type", "data", "b64", "after", "position")}
    fields["frame"] = name
    fields.setdefault("ref", 0)
    if alias is not None:
        fields["alias"] = alias
    if name in ("publish", "publication"):
        fields |= payload_from_json(message)
    elif name == "subscribe":
        fields["kind"] = 0
        if "after" in message:
            fields |= {"kind": 1, "cursor": message["after"]}
        elif "position" in message:
            fields |= {"kind": 2} | message["position"]
    elif name == "error" and "error" in message:
        fields |= message["error"]
    elif name == "attach":
        fields.setdefault("id", "")
    return encode(fields)


class Connection:
    """The aliases of one connection; renders its frames as JSON messages."""

    def __init__(self, direction="server"):
        self.direction = direction
        self.aliases = {}

    def to_json(self, raw):
        fields = decode(raw, self.direction)
        name = fields.pop("frame")
        message = {"type": name}
        alias = fields.pop("alias", None)
        if name in ("subscribed", "gap", "reset"):
            self.aliases[alias] = (fields["channel"], fields["epoch"])
        elif alias is not None:
            if alias not in self.aliases:
                raise UnknownAlias(alias)
            fields["channel"], fields["epoch"] = self.aliases[alias]
        if fields.get("ref") == 0:
            del fields["ref"]
        if name in ("publication", "publish"):
            kind, payload, removed = fields.pop("kind"), fields.pop("payload"), fields.pop("removed")
            if removed:
                if payload:
                    raise Malformed("a removal carries a payload")
                fields["removed"] = True
            else:
                fields |= payload_to_json(kind, payload)
        elif name == "error":
            error = {"error": {"code": fields.pop("code"), "message": fields.pop("message")}}
            fields = error | fields
        elif name == "attach" and fields.get("fresh") and not fields["id"]:
            del fields["id"]
        elif name == "subscribe":
            kind = fields.pop("kind")
            if kind == 1:
                fields["after"] = fields.pop("cursor")
            elif kind == 2:
                fields["position"] = {"epoch": fields.pop("epoch"), "offset": fields.pop("offset")}
        return message | fields


class UnknownAlias(Malformed):
    """A frame for an alias no frame has assigned yet; in a datagram it may come before its `subscribed`."""


def split(buffer):
    """The complete length-prefixed frames at the start of `buffer`, and what is left of it."""
    frames = []
    while buffer:
        reader = Reader(buffer)
        try:
            frame = reader.take(reader.varint())
        except Malformed:
            break
        frames.append(frame)
        buffer = buffer[reader.at :]
    return frames, buffer


BATCH = 0x0E


def messages(raw):
    """The frames of a WebSocket's binary message: one, or those of a batch."""
    if raw[:1] != bytes([BATCH]):
        return [raw]
    frames, rest = split(raw[1:])
    if rest or len(frames) < 2:
        raise Malformed(f"a batch of {len(frames)} frames with {len(rest)} bytes behind them")
    return frames


def prefixed(frame):
    return varint(len(frame)) + frame
