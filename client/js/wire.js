/**
 * The wire: the messages, and in `fulmar.v1.bin` those of a client to their frames and those of a server out of them
 * (PROTOCOL.md, sections 4 and 5).
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
  ACK, ATTACH, FRESH, FROM_CURSOR, FROM_NOTHING, FROM_POSITION, HAS_ID, HAS_KEY, HAS_PRIORITY, HAS_TTL, KIND, MADE_AGAIN, NOT_RECOVERED,
  PING, PONG, PUBLICATION, PUBLISH, RECOVERED, REMOVED, SUBSCRIBE, UNSUBSCRIBE, VALUES,
} from './codes.js';
import { MAX_MESSAGE } from './limits.js';
import { Reader, pack, packPayload, unpackPayload } from './bytes.js';
import { FulmarError, malformed } from './errors.js';
import { readValues } from './values.js';

/**
 * A server that is sent more closes the connection.
 * @template {{length: number}} T @param {T} message encoded @returns {T}
 */
export function bounded(message) {
  if (message.length > MAX_MESSAGE) {
    throw new FulmarError('message_too_large', `The message has ${message.length} bytes, and may have ${MAX_MESSAGE}: publish less at a time.`);
  }
  return message;
}

/** The other frames of a server from 0x02 on: the type, and the fields that all of the type have, in their order. */
const FRAMES = [
  'subscribed ref alias channel epoch offset',
  'unsubscribed ref channel',
  'gap alias channel epoch offset',
  'reset alias channel epoch offset',
  'synced alias offset',
  'published ref channel epoch offset',
  'error ref',
  'ping ref',
  'pong ref',
  'close code reason',
  'attached ref session',
];

/** What is published where. @param {Publish} message */
function publishFields({ channel, key, id, ttl_ms: ttl, priority, removed, data }) {
  const [kind, payload] = removed ? [REMOVED, new Uint8Array(0)] : packPayload(data);
  const flags = kind | (key ? HAS_KEY : 0) | (id === undefined ? 0 : HAS_ID)
    | (ttl === undefined ? 0 : HAS_TTL) | (priority === undefined ? 0 : HAS_PRIORITY);
  if (priority !== undefined && (!priority || (priority & 255) !== priority)) throw new RangeError(`${priority}`);
  return [
    Uint8Array.of(flags), channel, key || [], id ?? [], ttl ?? [], priority === undefined ? [] : Uint8Array.of(priority), payload,
  ].flat();
}

/** @param {Reader} reader @returns {PublicationFrame} */
function readPublication(reader) {
  /** @type {PublicationFrame} */
  const message = {
    type: 'publication', alias: reader.integer(), offset: reader.integer(), time: reader.integer(), key: '', removed: false,
  };
  const flags = reader.byte();
  if (flags & ~(KIND | HAS_KEY | REMOVED | HAS_ID) || (flags & KIND) === 3) throw malformed('flags');
  if (flags & HAS_KEY) message.key = reader.string();
  if (flags & HAS_ID) message.id = reader.string();
  message.removed = (flags & REMOVED) !== 0;
  const payload = reader.rest();
  if (!message.removed) message.data = unpackPayload(flags & KIND, payload);
  else if (payload.length) throw malformed('length');
  return message;
}

// ---- frames ---------------------------------------------------------------------------------------------------------

/**
 * @param {ClientMessage} message
 * @returns {Uint8Array<ArrayBuffer>} its frame, without a length
 */
export function encodeClient(message) {
  return bounded(pack(clientFields(message)));
}

/** @param {ClientMessage} message */
function clientFields(message) {
  const { type } = message;
  if (type === 'ack') return [ACK, message.newest, message.bitmap];
  const { ref = 0 } = message;
  switch (type) {
    case 'subscribe': {
      const { channel, position, after } = message;
      const from = after === undefined ? [FROM_NOTHING] : [FROM_CURSOR, after];
      return [SUBSCRIBE, ref, channel, ...(position ? [FROM_POSITION, position.epoch, position.offset] : from)];
    }
    case 'unsubscribe': return [UNSUBSCRIBE, ref, message.channel];
    case 'publish': return [PUBLISH, ref, ...publishFields(message)];
    case 'attach': {
      const { id = '', secret, fresh, positions } = message;
      const held = positions?.flatMap(({ channel, epoch, offset }) => [channel, epoch, offset]);
      return [ATTACH, ref, id, secret, ...(fresh ? [0, FRESH] : held ? [held.length / 3, ...held] : [])];
    }
    default: return [type === 'ping' ? PING : PONG, ref];
  }
}

/**
 * @param {Uint8Array} bytes one frame of a server, without its length
 * @returns {Frame | Values} with `alias` where the frame has one
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
  if (frame === VALUES) return readValues(reader);
  if (frame === PUBLICATION) return readPublication(reader);
  const [type, ...fields] = FRAMES[frame - 2]?.split(' ') ?? [];
  /** @type {any} */
  const message = { type };
  for (const field of fields) message[field] = /ref|alias|offset|code/.test(field) ? reader.integer() : reader.string();
  if (!message.ref) delete message.ref;
  switch (type) {
    case undefined: throw malformed(`frame ${frame}`);
    case 'subscribed':
      if (!reader.ended) {
        const recovered = reader.byte();
        if (recovered !== RECOVERED && recovered !== NOT_RECOVERED) throw malformed('recovered');
        message.recovered = recovered === RECOVERED;
      }
      break;
    case 'error':
      message.error = { code: reader.string(), message: reader.string() };
      if (!reader.ended && !(message.channel = reader.string())) throw malformed('channel');
      break;
    case 'close':
      if (!reader.ended) message.retry_ms = reader.integer();
      break;
    case 'attached':
      message.resumed = reader.ended;
      if (!message.resumed && reader.byte() !== MADE_AGAIN) throw malformed('attached');
  }
  return message;
}
