/**
 * The wire: `fulmar.v1.bin` and JSON, both to and from the same message objects (PROTOCOL.md, sections 4 and 5).
 *
 * A payload in a message object is `data`: a string is text, a Uint8Array is binary, anything else is a JSON value.
 */

/**
 * @typedef {{channel: string, epoch: string, offset: number}} Place
 * @typedef {{data?: unknown, key?: string, id?: string, removed?: boolean, ttl_ms?: number, priority?: number}} Content
 *
 * @typedef {Place & {type: 'publication', time: number, key: string, id?: string, removed: boolean, data?: unknown}
 *   } Publication
 * @typedef {Place & {type: 'subscribed', ref?: number, recovered?: boolean}} Subscribed where reading begins
 * @typedef {{type: 'unsubscribed', ref?: number, channel: string}} Unsubscribed
 * @typedef {Place & {type: 'gap'}} Gap events up to this place are lost
 * @typedef {Place & {type: 'reset'}} Reset what was held of a state is void: a snapshot follows
 * @typedef {Place & {type: 'synced'}} Synced the snapshot is complete
 * @typedef {Place & {type: 'published', ref?: number}} Published
 * @typedef {{type: 'error', ref?: number, channel?: string, error: {code: string, message: string}}} ErrorMessage
 * @typedef {{type: 'ping', ref?: number}} Ping
 * @typedef {{type: 'pong', ref?: number}} Pong
 * @typedef {{type: 'close', code: number, reason: string, retry_ms?: number}} CloseMessage
 * @typedef {{type: 'attached', ref?: number, session: string, resumed: boolean}} Attached
 * @typedef {Publication | Gap | Reset | Synced} InChannel
 * @typedef {InChannel | Subscribed | Unsubscribed | Published | ErrorMessage | Ping | Pong | CloseMessage | Attached
 *   } Message of a server
 *
 * @typedef {{type: 'subscribe', ref?: number, channel: string, after?: string,
 *   position?: {epoch: string, offset: number}}} Subscribe
 * @typedef {{type: 'unsubscribe', ref?: number, channel: string}} Unsubscribe
 * @typedef {Content & {type: 'publish', ref?: number, channel: string}} Publish
 * @typedef {{type: 'attach', ref?: number, id?: string, secret: string, positions?: Place[], fresh?: boolean}} Attach
 * @typedef {{type: 'ack', newest: number, bitmap: bigint}} Ack
 * @typedef {Subscribe | Unsubscribe | Publish | Attach | Ping | Pong | Ack} ClientMessage
 *
 * @typedef {import('./values.js').Values} Values
 * @typedef {Omit<Publication, 'channel' | 'epoch'> & {alias: number}} PublicationFrame
 * @typedef {{type: 'synced', alias: number, offset: number}} SyncedFrame
 * @typedef {PublicationFrame | SyncedFrame | ((Subscribed | Gap | Reset) & {alias: number})} Aliased
 * @typedef {Aliased | Exclude<Message, {type: Aliased['type']}>} Frame a message of a server as a frame bears it
 */
import {
  HAS_ID, HAS_KEY, KIND, REMOVED, Reader, Writer, malformed, packPayload, unpackPayload,
} from './bytes.js';
import { readValues } from './values.js';

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
/** What `attach` says behind no positions where the session's subscriptions end. */
const FRESH = 1;

/** What is published where. @param {Writer} writer @param {Publish} message */
function writePublish(writer, { channel, key, id, ttl_ms: ttl, priority, removed, data }) {
  const [kind, payload] = removed ? [0, new Uint8Array(0)] : packPayload(data);
  writer.byte(kind | (key ? HAS_KEY : 0) | (removed ? REMOVED : 0) | (id === undefined ? 0 : HAS_ID)
    | (ttl === undefined ? 0 : HAS_TTL) | (priority === undefined ? 0 : HAS_PRIORITY));
  writer.string(channel);
  if (key) writer.string(key);
  if (id !== undefined) writer.string(id);
  if (ttl !== undefined) writer.integer(ttl);
  if (priority !== undefined) {
    if (!Number.isInteger(priority) || priority < 1 || priority > 255) throw new RangeError(`not a priority: ${priority}`);
    writer.byte(priority);
  }
  writer.bytes(payload);
}

/** @param {Reader} reader @param {Content} message */
function readContent(reader, message) {
  const flags = reader.byte();
  if (flags & ~(KIND | HAS_KEY | REMOVED | HAS_ID)) throw malformed('a reserved flag is set');
  if ((flags & KIND) === 3) throw malformed('there is no payload kind 3');
  message.key = flags & HAS_KEY ? reader.string() : '';
  if (flags & HAS_ID) message.id = reader.string();
  message.removed = (flags & REMOVED) !== 0;
  const payload = reader.rest();
  if (!message.removed) message.data = unpackPayload(flags & KIND, payload);
  else if (payload.length) throw malformed('a removal has a payload');
}

// ---- frames ---------------------------------------------------------------------------------------------------------

/**
 * @param {ClientMessage} message
 * @returns {Uint8Array<ArrayBuffer>} its frame, without a length
 */
export function encodeClient(message) {
  const writer = new Writer();
  const ref = refOf(message);
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
      writePublish(writer.byte(PUBLISH).integer(ref), message);
      break;
    case 'attach':
      writer.byte(ATTACH).integer(ref).string(message.id ?? '').string(message.secret);
      if (message.fresh) {
        if (message.positions) throw new TypeError('an attach has positions or is fresh, not both');
        writer.integer(0).byte(FRESH);
      } else if (message.positions) {
        writer.integer(message.positions.length);
        for (const { channel, epoch, offset } of message.positions) writer.string(channel).string(epoch).integer(offset);
      }
      break;
    case 'ping': writer.byte(PING).integer(ref); break;
    case 'pong': writer.byte(PONG).integer(ref); break;
    case 'ack': writer.byte(ACK).integer(message.newest).wide(message.bitmap); break;
    default: throw new TypeError(`a client does not send ${typeOf(message)}`);
  }
  return writer.finish();
}

/** @param {Reader} reader @returns {{ref?: number}} */
function readRef(reader) {
  const ref = reader.integer();
  return ref ? { ref } : {};
}

/** @param {Reader} reader @returns {Place} */
const readPlace = (reader) => ({ channel: reader.string(), epoch: reader.string(), offset: reader.integer() });

/** @param {object} message @returns {number} 0 where it has none */
const refOf = (message) => ('ref' in message ? /** @type {number | undefined} */ (message.ref) : undefined) ?? 0;

/** @param {{type: string}} message of a type that the caller knows nothing of */
const typeOf = ({ type }) => type;

/**
 * @param {Uint8Array} bytes one frame of a server, without its length
 * @returns {Frame | Values} with `alias` where the frame has one: see AliasTable
 */
export function decodeServer(bytes) {
  const reader = new Reader(bytes);
  const message = readServer(reader);
  reader.end();
  return message;
}

/** @param {Reader} reader @returns {Frame | Values} */
function readServer(reader) {
  const frame = reader.byte();
  switch (frame) {
    case PUBLICATION: {
      /** @type {PublicationFrame} */
      const message = {
        type: 'publication', alias: reader.integer(), offset: reader.integer(), time: reader.integer(), key: '',
        removed: false,
      };
      readContent(reader, message);
      return message;
    }
    case SUBSCRIBED: {
      /** @type {Subscribed & {alias: number}} */
      const message = { type: 'subscribed', ...readRef(reader), alias: reader.integer(), ...readPlace(reader) };
      if (reader.ended) return message;
      const recovered = reader.byte();
      if (recovered !== RECOVERED && recovered !== NOT_RECOVERED) throw malformed('a position is recovered or it is not');
      message.recovered = recovered === RECOVERED;
      return message;
    }
    case UNSUBSCRIBED: return { type: 'unsubscribed', ...readRef(reader), channel: reader.string() };
    case GAP: return { type: 'gap', alias: reader.integer(), ...readPlace(reader) };
    case RESET: return { type: 'reset', alias: reader.integer(), ...readPlace(reader) };
    case SYNCED: return { type: 'synced', alias: reader.integer(), offset: reader.integer() };
    case PUBLISHED: return { type: 'published', ...readRef(reader), ...readPlace(reader) };
    case ERROR: {
      const numbered = readRef(reader);
      /** @type {ErrorMessage} */
      const message = { type: 'error', ...numbered, error: { code: reader.string(), message: reader.string() } };
      if (!reader.ended && !(message.channel = reader.string())) throw malformed('a channel without a name');
      return message;
    }
    case PING: return { type: 'ping', ...readRef(reader) };
    case PONG: return { type: 'pong', ...readRef(reader) };
    case CLOSE: {
      /** @type {CloseMessage} */
      const message = { type: 'close', code: reader.integer(), reason: reader.string() };
      if (!reader.ended) message.retry_ms = reader.integer();
      return message;
    }
    case ATTACHED: {
      const numbered = readRef(reader);
      const session = reader.string();
      const resumed = reader.ended;
      if (!resumed && reader.byte() !== MADE_AGAIN) throw malformed('a session is resumed or made again');
      return { type: 'attached', ...numbered, session, resumed };
    }
    case VALUES: return readValues(reader);
    default: throw malformed(`a server does not send frame ${frame}`);
  }
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
   * @param {Frame} frame as decodeServer gives it; changed in place
   * @returns {Message | null} the same message without its alias; null if the alias is not known yet
   */
  resolve(frame) {
    if (!('alias' in frame)) return frame;
    /** What it is on the way from the one to the other. @type {Partial<Place> & {alias?: number}} */
    const message = frame;
    const { alias } = frame;
    if ('channel' in frame) {
      this.#places.set(alias, { channel: frame.channel, epoch: frame.epoch });
    } else {
      const place = this.#places.get(alias);
      if (!place) return null;
      message.channel = place.channel;
      message.epoch = place.epoch;
    }
    delete message.alias;
    return /** @type {Message} */ (message);
  }
}
