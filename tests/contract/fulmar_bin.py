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
    0x0D: ("values", "number entries"),
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
# Of an entry of `values`: what its head says stands there, and its flags besides those of a publication.
KEY, SAYS_OFFSET, SAYS_TIME, SAYS_LENGTH, SAYS_FLAGS = 0x0F, 0x10, 0x20, 0x40, 0x80
OTHER_CHANNEL, IS_PART, NO_VALUE = 0x20, 0x40, 0x80
#: Flags that hold for the next entry too.
HOLD_ON = 0x03 | REMOVED | OPTIONAL["id"] | IS_PART
AS_BEFORE, COUNTED_ON, AFRESH, SHARING = 0, 4, 8, 12
MAX_KEY = 255
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
            out += entries_frame(fields["entries"])
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
            fields[name] = list(entries(reader))
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


def entries_frame(listed):
    out, channel, before = b"", None, {"flags": 0, "time": 0, "length": 0, "key": b""}
    for fields in listed:
        other = (fields["alias"], fields["low"]) != channel
        channel = (fields["alias"], fields["low"])
        if "offset" not in fields:
            out += bytes([SAYS_FLAGS, OTHER_CHANNEL | NO_VALUE]) + b"".join(map(varint, channel))
            before |= {"flags": 0, "offset": fields["low"]}
            continue
        if other:
            before["offset"] = fields["low"]
        key = fields.get("key", "").encode()
        how, said = key_change(before["key"], key)
        flags = KINDS[fields.get("kind", "binary")] | (REMOVED if fields["removed"] else 0) | (IS_PART if "index" in fields else 0)
        flags |= (OPTIONAL["id"] if "id" in fields else 0) | (OTHER_CHANNEL if other else 0)
        length = before["length"] if fields["removed"] else len(fields["payload"])
        head = how | (SAYS_FLAGS if flags != before["flags"] else 0) | (SAYS_OFFSET if fields["offset"] != before["offset"] + 1 else 0)
        head |= (SAYS_TIME if fields["time"] != before["time"] else 0) | (SAYS_LENGTH if length != before["length"] else 0)
        out += bytes([head]) + (bytes([flags]) if head & SAYS_FLAGS else b"")
        out += b"".join(map(varint, channel)) if other else b""
        out += zigzag(fields["offset"] - before["offset"]) if head & SAYS_OFFSET else b""
        out += zigzag(fields["time"] - before["time"]) if head & SAYS_TIME else b""
        out += said + (string(fields["id"]) if "id" in fields else b"")
        out += b"".join(varint(fields[number]) for number in ("index", "length") if number in fields)
        out += varint(length) if head & SAYS_LENGTH else b""
        out += b"" if fields["removed"] else fields["payload"]
        before = {"flags": flags & HOLD_ON, "offset": fields["offset"], "time": fields["time"], "length": length, "key": key}
    return out


def key_change(before, key):
    """How a key stands behind another: the lower half of the entry's head, and what stands there."""
    if key == before:
        return AS_BEFORE, b""
    shared = 0
    while shared < min(len(before), len(key) - 1) and before[shared] == key[shared]:
        shared += 1
    less, rest = len(before) - shared, key[shared:]
    if less == 1 and rest == bytes([before[shared] + 1]):
        return COUNTED_ON, b""
    if less <= 3 and 1 <= len(rest) <= 3:
        return less << 2 | len(rest), rest
    return (SHARING, varint(shared) + prefixed(rest)) if shared > 1 else (AFRESH, prefixed(key))


def zigzag(n):
    return varint(2 * n if n >= 0 else -2 * n - 1)


def unzigzag(n):
    return n >> 1 ^ -(n & 1)


def entries(reader):
    """The entries of a `values` frame; those that have no offset bring a low-water offset alone."""
    channel, before = None, {"flags": 0, "time": 0, "length": 0, "key": b""}
    while not reader.done():
        head = reader.byte()
        flags = reader.byte() if head & SAYS_FLAGS else before["flags"]
        before["flags"] = flags & HOLD_ON
        if flags & OTHER_CHANNEL:
            channel = {"alias": reader.number(), "low": reader.number()}
            before["offset"] = channel["low"]
        if channel is None:
            raise Malformed("the first entry names no channel")
        if (head, flags) == (SAYS_FLAGS, OTHER_CHANNEL | NO_VALUE):
            yield channel
        else:
            yield channel | entry(reader, head, flags, channel["low"], before)


def entry(reader, head, flags, low, before):
    kind, removed, part = flags & 3, bool(flags & REMOVED), bool(flags & IS_PART)
    if flags & ~(HOLD_ON | OTHER_CHANNEL) or kind == 3 or removed and (part or kind or head & SAYS_LENGTH):
        raise Malformed(f"head 0x{head:02x} and flags 0x{flags:02x} do not go together")
    before["offset"] += unzigzag(reader.varint()) if head & SAYS_OFFSET else 1
    before["time"] += unzigzag(reader.varint()) if head & SAYS_TIME else 0
    before["key"] = key_behind(reader, head & KEY, before["key"])
    fields = {"offset": before["offset"], "time": before["time"], "removed": removed}
    if not low < fields["offset"] < 1 << 53 or not 0 <= fields["time"] < 1 << 53:
        raise Malformed(f"an entry at {fields['offset']} of {fields['time']} ms")
    if before["key"]:
        fields["key"] = utf8(before["key"])
    if flags & OPTIONAL["id"]:
        fields["id"] = reader.string()
    if removed:
        return fields
    if part:
        fields |= {"index": reader.number(), "length": reader.number()}
    if head & SAYS_LENGTH:
        before["length"] = reader.number()
    fields |= {"kind": ["binary", "text", "json"][kind], "payload": reader.take(before["length"])}
    if part:
        index, length = fields["index"], fields["length"]
        if length > PART * MAX_PARTS or not 0 < len(fields["payload"]) == min(PART, length - index * PART):
            raise Malformed(f"{len(fields['payload'])} bytes are not part {index} of {length} bytes")
    else:
        check(fields["kind"], fields["payload"])
    return fields


def key_behind(reader, how, before):
    if how == AS_BEFORE:
        return before
    if how == COUNTED_ON:
        if not before:
            raise Malformed("the key before has no last byte")
        return before[:-1] + bytes([before[-1] + 1])
    shared = 0 if how == AFRESH else reader.number() if how == SHARING else len(before) - (how >> 2)
    rest = reader.take(reader.number() if how in (AFRESH, SHARING) else how & 3)
    if not 0 <= shared <= len(before):
        raise Malformed("a key has more of the one before than there is")
    if shared + len(rest) > MAX_KEY:
        raise Malformed(f"a key is at most {MAX_KEY} bytes")
    return before[:shared] + rest


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
