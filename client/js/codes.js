/** Numbers of the protocol (PROTOCOL.md, sections 5 and 10), plain as those of limits.js and for the same reason. */

/** Close codes. `LOST` is never sent: the connection was lost without a close. */
export const NORMAL = 1000, LOST = 1006, GOING_AWAY = 4000, NO_HEARTBEAT = 4001, SESSION_EXPIRED = 4500,
  FELL_BEHIND = 4501, REPLACED = 4900, PROTOCOL_ERROR = 4901, REFUSED = 4902;

/** Kinds of payload. */
export const BINARY = 0, TEXT = 1, JSON_VALUE = 2;
/** Flags of a publication: the bits of its payload's kind, and what it has; the last two of a publish alone. */
export const KIND = 0x03, HAS_KEY = 0x04, REMOVED = 0x08, HAS_ID = 0x10, HAS_TTL = 0x20, HAS_PRIORITY = 0x40;

/** The frames of which more is known here than their fields, by their first byte. */
export const PUBLICATION = 0x01, PING = 0x09, PONG = 0x0a, VALUES = 0x0d, SUBSCRIBE = 0x21, UNSUBSCRIBE = 0x22, PUBLISH = 0x23,
  ATTACH = 0x24, ACK = 0x25;
/** From where `subscribe` asks. */
export const FROM_NOTHING = 0, FROM_CURSOR = 1, FROM_POSITION = 2;
/** What `subscribed` says of the position that was asked from. */
export const RECOVERED = 1, NOT_RECOVERED = 2;
/** What `attached` says of a session that was no longer known. */
export const MADE_AGAIN = 0;
/** What `attach` says behind no positions where the session's subscriptions end. */
export const FRESH = 1;
