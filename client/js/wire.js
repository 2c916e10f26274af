/**
 * The wire: `fulmar.v1.bin` and JSON, both to and from the same message objects (PROTOCOL.md, sections 4 and 5).
 *
 * A payload in a message object is `data`: a string is text, a Uint8Array is binary, anything else is a JSON value.
 *
 * @typedef {{type: 'publication', channel?: string, epoch?: string, alias?: number, offset: number, time: number,
 *   key: string, id?: string, removed: boolean, data?: unknown}} Publication
 * @typedef {{type: string, ref?: number, alias?: number, channel?: string, epoch?: string, offset?: number,
 *   [member: string]: any}} Message
 */
import {
  HAS_ID, HAS_KEY, KIND, REMOVED, Reader, Writer, malformed, packPayload, unpackPayload,
} from './bytes.js';
import { readValues, writeValues } from './values.js';

/** No frame of a server is longer than this. It bounds what a stream can make a client hold. */
export const MAX_FRAME = 1 << 20;

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

const EMPTY = new Uint8Array(0);

/** The part that `publication` and `publish` share; `between` writes the fields that stand amid flags and key. */
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

// ---- frames ---------------------------------------------------------------------------------------------------------

/**
 * @param {Message} message of a client
 * @returns {Uint8Array} its frame, without a length
 */
export function encodeClient(message) {
  const writer = new Writer();
  const ref = message.ref ?? 0;
  switch (message.type) {
    case 'subscribe':
      writer.byte(SUBSCRIBE).integer(ref).string(message.channel);
      if (message.position) {
        writer.byte(FROM_POSITION).string(message.position.epoch).integer(message.position.offset);
      } else if (message.after !== undefined) writer.byte(FROM_CURSOR).string(message.after);
      else writer.byte(FROM_NOTHING);
      break;
    case 'unsubscribe': writer.byte(UNSUBSCRIBE).integer(ref).string(message.channel); break;
    case 'publish':
      writer.byte(PUBLISH).integer(ref);
      writeContent(writer, message, () => writer.string(message.channel));
      break;
    case 'attach':
      writer.byte(ATTACH).integer(ref).string(message.id).string(message.secret);
      if (message.positions) {
        writer.integer(message.positions.length);
        for (const { channel, epoch, offset } of message.positions) writer.string(channel).string(epoch).integer(offset);
      }
      break;
    case 'ping': writer.byte(PING).integer(ref); break;
    case 'pong': writer.byte(PONG).integer(ref); break;
    case 'ack': writer.byte(ACK).integer(message.newest).wide(message.bitmap); break;
    default: throw new TypeError(`a client does not send ${message.type}`);
  }
  return writer.finish();
}

/**
 * @param {Uint8Array} bytes one frame of a client, without its length
 * @returns {Message}
 */
export function decodeClient(bytes) {
  const reader = new Reader(bytes);
  const frame = reader.byte();
  /** @type {Message} */
  const message = { type: '' };
  if (frame !== ACK) {
    const ref = reader.integer();
    if (ref) message.ref = ref;
  }
  switch (frame) {
    case SUBSCRIBE: {
      message.type = 'subscribe';
      message.channel = reader.string();
      const from = reader.byte();
      if (from === FROM_CURSOR) message.after = reader.string();
      else if (from === FROM_POSITION) message.position = { epoch: reader.string(), offset: reader.integer() };
      else if (from !== FROM_NOTHING) throw malformed('a subscription begins with nothing, a cursor or a position');
      break;
    }
    case UNSUBSCRIBE: message.type = 'unsubscribe'; message.channel = reader.string(); break;
    case PUBLISH:
      message.type = 'publish';
      readContent(reader, message, KIND | HAS_KEY | REMOVED | HAS_ID | HAS_TTL | HAS_PRIORITY, () => {
        message.channel = reader.string();
      });
      break;
    case ATTACH:
      message.type = 'attach';
      message.id = reader.string();
      message.secret = reader.string();
      if (!reader.ended) {
        message.positions = [];
        for (let left = reader.integer(); left > 0; left--) {
          message.positions.push({ channel: reader.string(), epoch: reader.string(), offset: reader.integer() });
        }
      }
      break;
    case PING: message.type = 'ping'; break;
    case PONG: message.type = 'pong'; break;
    case ACK:
      message.type = 'ack';
      message.newest = reader.integer();
      message.bitmap = reader.wide();
      if (!message.newest) throw malformed('frames are numbered from 1');
      break;
    default: throw malformed(`a client does not send frame ${frame}`);
  }
  reader.end();
  return message;
}

/**
 * @param {Message} message of a server, with its `alias` where the frame has one
 * @returns {Uint8Array}
 */
export function encodeServer(message) {
  const writer = new Writer();
  const { channel, epoch, offset } = message;
  const ref = message.ref ?? 0;
  switch (message.type) {
    case 'publication':
      writer.byte(PUBLICATION).integer(message.alias).integer(offset).integer(message.time);
      writeContent(writer, message);
      break;
    case 'subscribed':
      writer.byte(SUBSCRIBED).integer(ref).integer(message.alias).string(channel).string(epoch).integer(offset);
      if (message.recovered !== undefined) writer.byte(message.recovered ? RECOVERED : NOT_RECOVERED);
      break;
    case 'unsubscribed': writer.byte(UNSUBSCRIBED).integer(ref).string(channel); break;
    case 'gap': writer.byte(GAP).integer(message.alias).string(channel).string(epoch).integer(offset); break;
    case 'reset': writer.byte(RESET).integer(message.alias).string(channel).string(epoch).integer(offset); break;
    case 'synced': writer.byte(SYNCED).integer(message.alias).integer(offset); break;
    case 'published': writer.byte(PUBLISHED).integer(ref).string(channel).string(epoch).integer(offset); break;
    case 'error':
      writer.byte(ERROR).integer(ref).string(message.error.code).string(message.error.message);
      if (channel) writer.string(channel);
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

/**
 * @param {Uint8Array} bytes one frame of a server, without its length
 * @returns {Message} with `alias` where the frame has one: see AliasTable
 */
export function decodeServer(bytes) {
  const reader = new Reader(bytes);
  const frame = reader.byte();
  const withRef = (type) => {
    const ref = reader.integer();
    return ref ? { type, ref } : { type };
  };
  const place = (message) => {
    message.channel = reader.string();
    message.epoch = reader.string();
    message.offset = reader.integer();
    return message;
  };
  /** @type {Message} */
  let message;
  switch (frame) {
    case PUBLICATION:
      message = { type: 'publication', alias: reader.integer(), offset: reader.integer(), time: reader.integer() };
      readContent(reader, message, KIND | HAS_KEY | REMOVED | HAS_ID);
      break;
    case SUBSCRIBED: {
      message = withRef('subscribed');
      message.alias = reader.integer();
      place(message);
      if (reader.ended) break;
      const recovered = reader.byte();
      if (recovered !== RECOVERED && recovered !== NOT_RECOVERED) throw malformed('a position is recovered or it is not');
      message.recovered = recovered === RECOVERED;
      break;
    }
    case UNSUBSCRIBED: message = withRef('unsubscribed'); message.channel = reader.string(); break;
    case GAP: message = place({ type: 'gap', alias: reader.integer() }); break;
    case RESET: message = place({ type: 'reset', alias: reader.integer() }); break;
    case SYNCED: message = { type: 'synced', alias: reader.integer(), offset: reader.integer() }; break;
    case PUBLISHED: message = place(withRef('published')); break;
    case ERROR:
      message = withRef('error');
      message.error = { code: reader.string(), message: reader.string() };
      if (!reader.ended && !(message.channel = reader.string())) throw malformed('a channel without a name');
      break;
    case PING: message = withRef('ping'); break;
    case PONG: message = withRef('pong'); break;
    case CLOSE:
      message = { type: 'close', code: reader.integer(), reason: reader.string() };
      if (!reader.ended) message.retry_ms = reader.integer();
      break;
    case ATTACHED:
      message = withRef('attached');
      message.session = reader.string();
      message.resumed = reader.ended;
      if (!message.resumed && reader.byte() !== MADE_AGAIN) throw malformed('a session is resumed or made again');
      break;
    case VALUES: message = readValues(reader); break;
    default: throw malformed(`a server does not send frame ${frame}`);
  }
  reader.end();
  return message;
}

/** What the aliases of one connection stand for. */
export class AliasTable {
  /** @type {Map<number, {channel: string, epoch: string}>} */
  #places = new Map();

  /** @param {number} alias @returns {{channel: string, epoch: string} | undefined} */
  get(alias) {
    return this.#places.get(alias);
  }

  /**
   * Learns from `subscribed`, `gap` and `reset`, and resolves what bears an alias only.
   * @param {Message} message as decodeServer gives it; changed in place
   * @returns {Message | null} the same message without its alias; null if the alias is not known yet
   */
  resolve(message) {
    const { alias } = message;
    if (alias === undefined) return message;
    if (message.channel !== undefined) {
      this.#places.set(alias, { channel: message.channel, epoch: message.epoch });
    } else {
      const place = this.#places.get(alias);
      if (!place) return null;
      message.channel = place.channel;
      message.epoch = place.epoch;
    }
    delete message.alias;
    return message;
  }
}
