/**
 * The server's side of the wire, for servers that are played in tests: what encodes its frames, and decodes those of clients.
 */
import {
  HAS_ID, HAS_KEY, KIND, REMOVED, Reader, packPayload, unpackPayload,
} from '../../client/js/bytes.js';
import { malformed } from '../../client/js/errors.js';
import { Writer } from './writer.mjs';

const PUBLICATION = 0x01, SUBSCRIBED = 0x02, UNSUBSCRIBED = 0x03, GAP = 0x04, RESET = 0x05, SYNCED = 0x06,
  PUBLISHED = 0x07, ERROR = 0x08, PING = 0x09, PONG = 0x0a, CLOSE = 0x0b, ATTACHED = 0x0c, VALUES = 0x0d,
  SUBSCRIBE = 0x21, UNSUBSCRIBE = 0x22, PUBLISH = 0x23, ATTACH = 0x24, ACK = 0x25;

/** Flags of a publish besides those of a publication. */
const HAS_TTL = 0x20, HAS_PRIORITY = 0x40;
const FROM_NOTHING = 0, FROM_CURSOR = 1, FROM_POSITION = 2;
/** What `subscribed` says of the position that was asked from. */
const RECOVERED = 1, NOT_RECOVERED = 2;
/** What `attached` says of a session that was no longer known. */
const MADE_AGAIN = 0;
/** What `attach` says behind no positions where the session's subscriptions end. */
const FRESH = 1;

const EMPTY = new Uint8Array(0);

/** What the head of an entry of `values` says, its flags, and how a key stands there. */
const SAYS_OFFSET = 0x10, SAYS_TIME = 0x20, SAYS_LENGTH = 0x40, SAYS_FLAGS = 0x80;
const OTHER_CHANNEL = 0x20, IS_PART = 0x40, NO_VALUE = 0x80, HOLD_ON = KIND | REMOVED | HAS_ID | IS_PART;
const AS_BEFORE = 0, COUNTED_ON = 4, AFRESH = 8, SHARING = 12;

/** In zigzag: 0, -1, 1, -2, ... are 0, 1, 2, 3, ... */
const zigzag = (value) => (value < 0 ? -2n * BigInt(value) - 1n : 2n * BigInt(value));

/** `between` writes the fields that stand amid flags and key. */
function writeContent(writer, message, between) {
  const { key, id, ttl_ms: ttl, priority, removed } = message;
  const [kind, payload] = removed ? [0, EMPTY] : packPayload(message.data);
  writer.byte(kind | (key ? HAS_KEY : 0) | (removed ? REMOVED : 0) | (id === undefined ? 0 : HAS_ID)
    | (ttl === undefined ? 0 : HAS_TTL) | (priority === undefined ? 0 : HAS_PRIORITY));
  between?.();
  if (key) writer.string(key);
  if (id !== undefined) writer.string(id);
  if (ttl !== undefined) writer.integer(ttl);
  if (priority !== undefined) {
    if (!Number.isInteger(priority) || priority < 1 || priority > 255) throw new RangeError(`not a priority: ${priority}`);
    writer.byte(priority);
  }
  writer.bytes(payload);
}

function readContent(reader, message, known, between) {
  const flags = reader.byte();
  if (flags & ~known) throw malformed('a reserved flag is set');
  if ((flags & KIND) === 3) throw malformed('there is no payload kind 3');
  between?.();
  message.key = flags & HAS_KEY ? reader.string() : '';
  if (flags & HAS_ID) message.id = reader.string();
  message.removed = (flags & REMOVED) !== 0;
  if (flags & HAS_TTL) message.ttl_ms = reader.integer();
  if (flags & HAS_PRIORITY && !(message.priority = reader.byte())) throw malformed('a priority is at least 1');
  const payload = reader.rest();
  if (!message.removed) message.data = unpackPayload(flags & KIND, payload);
  else if (payload.length) throw malformed('a removal has a payload');
}

export function encodeServer(message) {
  const writer = new Writer();
  const { ref = 0 } = message;
  const place = ({ channel, epoch, offset }) => writer.string(channel).string(epoch).integer(offset);
  switch (message.type) {
    case 'publication':
      writer.byte(PUBLICATION).integer(message.alias).integer(message.offset).integer(message.time);
      writeContent(writer, message);
      break;
    case 'subscribed':
      writer.byte(SUBSCRIBED).integer(ref).integer(message.alias);
      place(message);
      if (message.recovered !== undefined) writer.byte(message.recovered ? RECOVERED : NOT_RECOVERED);
      break;
    case 'unsubscribed': writer.byte(UNSUBSCRIBED).integer(ref).string(message.channel); break;
    case 'gap':
    case 'reset':
      writer.byte(message.type === 'gap' ? GAP : RESET).integer(message.alias);
      place(message);
      break;
    case 'synced': writer.byte(SYNCED).integer(message.alias).integer(message.offset); break;
    case 'published':
      writer.byte(PUBLISHED).integer(ref);
      place(message);
      break;
    case 'error':
      writer.byte(ERROR).integer(ref).string(message.error.code).string(message.error.message);
      if (message.channel) writer.string(message.channel);
      break;
    case 'ping': writer.byte(PING).integer(ref); break;
    case 'pong': writer.byte(PONG).integer(ref); break;
    case 'close':
      writer.byte(CLOSE).integer(message.code).string(message.reason);
      if (message.retry_ms !== undefined) writer.integer(message.retry_ms);
      break;
    case 'attached':
      writer.byte(ATTACHED).integer(ref).string(message.session);
      if (!message.resumed) writer.byte(MADE_AGAIN);
      break;
    case 'values': writeValues(writer.byte(VALUES), message); break;
    default: throw new TypeError(`a server does not send ${message.type}`);
  }
  return writer.finish();
}

export function decodeClient(bytes) {
  const reader = new Reader(bytes);
  const message = readClient(reader);
  reader.end();
  return message;
}

/** An integer of up to 62 bits. */
function readWide(reader) {
  const first = reader.byte();
  let value = BigInt(first & 0x3f);
  for (let more = (1 << (first >> 6)) - 1; more > 0; more--) value = (value << 8n) | BigInt(reader.byte());
  return value;
}

function readClient(reader) {
  const frame = reader.byte();
  const numbered = frame === ACK ? {} : readRef(reader);
  switch (frame) {
    case SUBSCRIBE: {
      const message = { type: 'subscribe', ...numbered, channel: reader.string() };
      const from = reader.byte();
      if (from === FROM_CURSOR) message.after = reader.string();
      else if (from === FROM_POSITION) message.position = { epoch: reader.string(), offset: reader.integer() };
      else if (from !== FROM_NOTHING) throw malformed('a subscription begins with nothing, a cursor or a position');
      return message;
    }
    case UNSUBSCRIBE: return { type: 'unsubscribe', ...numbered, channel: reader.string() };
    case PUBLISH: {
      const message = { type: 'publish', ...numbered, channel: '' };
      readContent(reader, message, KIND | HAS_KEY | REMOVED | HAS_ID | HAS_TTL | HAS_PRIORITY, () => {
        message.channel = reader.string();
      });
      return message;
    }
    case ATTACH: {
      const message = { type: 'attach', ...numbered, id: reader.string(), secret: reader.string() };
      if (!reader.ended) {
        message.positions = [];
        for (let left = reader.integer(); left > 0; left--) message.positions.push(readPlace(reader));
        if (!reader.ended) {
          if (reader.byte() !== FRESH || message.positions.length) throw malformed('an attach has positions or is fresh');
          delete message.positions;
          message.fresh = true;
          if (!message.id) delete message.id;
        }
      }
      return message;
    }
    case PING: return { type: 'ping', ...numbered };
    case PONG: return { type: 'pong', ...numbered };
    case ACK: {
      const newest = reader.integer();
      const bitmap = readWide(reader);
      if (!newest) throw malformed('frames are numbered from 1');
      return { type: 'ack', newest, bitmap };
    }
    default: throw malformed(`a client does not send frame ${frame}`);
  }
}

function readRef(reader) {
  const ref = reader.integer();
  return ref ? { ref } : {};
}

const readPlace = (reader) => ({ channel: reader.string(), epoch: reader.string(), offset: reader.integer() });

function writeValues(writer, { number, entries }) {
  writer.integer(number);
  let channel = {};
  const before = { flags: 0, offset: 0, time: 0, length: 0, key: EMPTY };
  for (const entry of entries) {
    const { alias, low, offset, time, id, removed, part } = entry;
    const other = channel.alias !== alias || channel.low !== low;
    channel = { alias, low };
    if (offset === undefined) {
      writer.byte(SAYS_FLAGS).byte(OTHER_CHANNEL | NO_VALUE).integer(alias).integer(low);
      Object.assign(before, { flags: 0, offset: low });
      continue;
    }
    if (other) before.offset = low;
    const [kind, payload] = removed ? [0, EMPTY] : part ? [part.kind, part.bytes] : packPayload(entry.data);
    const flags = kind | (removed ? REMOVED : 0) | (id === undefined ? 0 : HAS_ID) | (part ? IS_PART : 0)
      | (other ? OTHER_CHANNEL : 0);
    const key = new TextEncoder().encode(entry.key);
    const length = removed ? before.length : payload.length;
    const [how, writeKey] = keyBehind(before.key, key);
    const head = how | (flags === before.flags ? 0 : SAYS_FLAGS) | (offset === before.offset + 1 ? 0 : SAYS_OFFSET)
      | (time === before.time ? 0 : SAYS_TIME) | (length === before.length ? 0 : SAYS_LENGTH);
    writer.byte(head);
    if (head & SAYS_FLAGS) writer.byte(flags);
    if (other) writer.integer(alias).integer(low);
    if (head & SAYS_OFFSET) writer.wide(zigzag(offset - before.offset));
    if (head & SAYS_TIME) writer.wide(zigzag(time - before.time));
    writeKey(writer);
    if (id !== undefined) writer.string(id);
    if (part) writer.integer(part.index).integer(part.length);
    if (head & SAYS_LENGTH) writer.integer(length);
    writer.bytes(payload);
    Object.assign(before, { flags: flags & HOLD_ON, offset, time, length, key });
  }
}

/** How a key stands behind another: the lower half of the entry's head, and what writes the rest. */
function keyBehind(before, key) {
  if (Buffer.compare(before, key) === 0) return [AS_BEFORE, () => {}];
  let shared = 0;
  while (shared < Math.min(before.length, key.length - 1) && before[shared] === key[shared]) shared++;
  const less = before.length - shared;
  const rest = key.subarray(shared);
  if (less === 1 && rest.length === 1 && rest[0] === before[shared] + 1) return [COUNTED_ON, () => {}];
  if (less <= 3 && rest.length >= 1 && rest.length <= 3) return [(less << 2) | rest.length, (writer) => writer.bytes(rest)];
  if (shared > 1) return [SHARING, (writer) => writer.integer(shared).integer(rest.length).bytes(rest)];
  return [AFRESH, (writer) => writer.integer(key.length).bytes(key)];
}
