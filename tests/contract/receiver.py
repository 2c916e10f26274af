"""The receiving side of PROTOCOL.md section 9, as plain as can be: every frame is acknowledged at once."""

import fulmar_bin

ACK_BITS = 62
PART_BYTES = 256 * 1024
VALUES = bytes([fulmar_bin.BYTE_OF["values"]])


class Refused(Exception):
    """There is no room for the parts of a frame."""


class Channel:
    def __init__(self, epoch, floor):
        self.begin(epoch, floor)

    def begin(self, epoch, floor):
        """What lies at or below the floor is known or was replaced."""
        self.epoch, self.floor, self.synced = epoch, floor, False
        self.keys, self.parts = {}, {}

    def raise_to(self, floor):
        self.floor = max(self.floor, floor)
        self.keys = {key: offset for key, offset in self.keys.items() if offset > self.floor}
        self.parts = {key: parts for key, parts in self.parts.items() if parts["offset"] > self.floor}


class Receiver:
    """`aliases` are those that a connection's codec has learnt: (channel, epoch) by alias."""

    def __init__(self, aliases):
        self.aliases, self.channels = aliases, {}
        self.newest, self.taken = 0, set()

    def position(self, name):
        """A channel's offset, once it means something."""
        channel = self.channels.get(name)
        return channel.floor if channel and channel.synced else None

    def note(self, message):
        """A message off a stream."""
        kind, name = message["type"], message.get("channel")
        channel = self.channels.get(name)
        if kind == "subscribed":
            self.channels[name] = Channel(message["epoch"], message["offset"])
        elif kind == "unsubscribed":
            self.channels.pop(name, None)
        elif channel is None:
            pass
        elif kind in ("gap", "reset"):
            above = {key: offset for key, offset in channel.keys.items() if channel.epoch == message["epoch"] and offset > message["offset"]}
            channel.begin(message["epoch"], message["offset"])
            channel.keys = above
        elif kind == "synced":
            channel.synced = True
            channel.raise_to(message["offset"])

    def datagram(self, frame):
        """The publications that it brings, as JSON; UnknownAlias and Refused if it is not to be acknowledged."""
        fields = fulmar_bin.decode(frame, "server")
        number = fields["number"]
        came = [] if number in self.taken else self._apply(fields["entries"])
        self.newest = max(self.newest, number)
        self.taken = {taken for taken in self.taken | {number} if taken >= self.newest - ACK_BITS}
        return came

    def ack(self):
        """The frame that acknowledges what datagrams brought."""
        bitmap = sum(1 << (self.newest - 1 - number) for number in self.taken if number < self.newest)
        return fulmar_bin.encode({"frame": "ack", "newest": self.newest, "bitmap": bitmap})

    def stream(self, frame, before):
        """As `datagram`, of a stream whose last frame had the number `before`; the frame that acknowledges it on the stream, too."""
        fields = fulmar_bin.decode(frame, "server")
        assert fields["number"] == before + 1, f"frame {fields['number']} follows {before} on a stream"
        known = [entry for entry in fields["entries"] if self.aliases.get(entry["alias"], (None, None))[0] in self.channels]
        for entry in known:
            # It stands behind all that its channels began with on the stream.
            self.channels[self.aliases[entry["alias"]][0]].synced = True
        return self._apply(known), fulmar_bin.encode({"frame": "ack", "newest": before + 1, "bitmap": 0})

    def _apply(self, entries):
        for entry in entries:
            name, _ = self.aliases.get(entry["alias"], (None, None))
            if name not in self.channels:
                raise fulmar_bin.UnknownAlias(entry["alias"])
        came = []
        for entry in entries:
            name, epoch = self.aliases[entry["alias"]]
            channel = self.channels[name]
            if channel.epoch != epoch:
                continue
            if channel.synced:
                channel.raise_to(entry["low"])
            if "offset" in entry and (content := self._content(channel, entry)) is not None:
                fields = {name: entry[name] for name in ("key", "id") if name in entry}
                came.append({"type": "publication", "channel": name, "epoch": epoch, "offset": entry["offset"], "time": entry["time"]} | fields | content)
        return came

    def _content(self, channel, entry):
        """What is new in an entry; None if nothing is."""
        key, offset = entry.get("key", ""), entry["offset"]
        if offset <= channel.floor or offset <= channel.keys.get(key, 0):
            return None
        payload = entry.get("payload")
        if "index" in entry:
            payload = self._assembled(channel, key, entry)
            if payload is None:
                return None
        channel.keys[key] = offset
        if channel.parts.get(key, entry)["offset"] <= offset:
            channel.parts.pop(key, None)
        return {"removed": True} if entry["removed"] else fulmar_bin.payload_to_json(entry["kind"], payload)

    def _assembled(self, channel, key, entry):
        offset, length = entry["offset"], entry["length"]
        parts = channel.parts.get(key)
        if parts and parts["offset"] > offset:
            return None
        if not parts or parts["offset"] < offset:
            channel.parts.pop(key, None)
            held = sum(parts["length"] for channel in self.channels.values() for parts in channel.parts.values())
            if held + length > PART_BYTES:
                raise Refused(f"{held} bytes of payloads are under way, and {length} more do not fit")
            parts = channel.parts[key] = {"offset": offset, "length": length, "bytes": {}}
        assert parts["length"] == length, f"parts of {key}@{offset} disagree about its length"
        parts["bytes"][entry["index"]] = entry["payload"]
        if sum(map(len, parts["bytes"].values())) < length:
            return None
        payload = b"".join(part for _, part in sorted(parts["bytes"].items()))
        fulmar_bin.check(entry["kind"], payload)
        return payload
