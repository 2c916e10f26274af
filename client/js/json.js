/** The JSON encoding of the messages of wire.js (PROTOCOL.md, sections 1 and 4). */
import { malformed } from './errors.js';

/** @param {Uint8Array} bytes */
export function toBase64(bytes) {
  let binary = '';
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return btoa(binary);
}

/** @param {string} base64 */
export function fromBase64(base64) {
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** @param {string} text of a server */
export function parseJson(text) {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw malformed('JSON', cause);
  }
}

/**
 * @typedef {import('./wire.js').Message} Message
 * @typedef {import('./wire.js').Content} Content
 */

/**
 * @param {Message | import('./wire.js').ClientMessage} message
 * @returns {Record<string, unknown>} what JSON.stringify turns into the message's JSON
 */
export function toJson(message) {
  if (message.type !== 'publication' && message.type !== 'publish') return message;
  /** @type {Content & Record<string, unknown>} */
  const content = message;
  const { key, id, removed, data, ttl_ms, priority, ...json } = content;
  if (key) json.key = key;
  if (id !== undefined) json.id = id;
  if (removed) json.removed = true;
  if (ttl_ms !== undefined) json.ttl_ms = ttl_ms;
  if (priority !== undefined) json.priority = priority;
  if (!removed) {
    if (data instanceof Uint8Array) json.b64 = toBase64(data);
    else json.data = data;
  }
  return json;
}

/**
 * @param {{type?: string, b64?: string, data?: unknown, key?: string, removed?: boolean}} json a parsed message, which is
 *   taken at its word
 * @param {string} [type] the type where it stands elsewhere: SSE and poll leave it out of publications
 * @returns {Message}
 */
export function fromJson(json, type = json.type) {
  if (type !== 'publication' && type !== 'publish') return /** @type {Message} */ ({ ...json, type });
  const { b64, data, key = '', removed = false, ...rest } = json;
  /** @type {Content & {type: string}} */
  const message = { ...rest, type, key, removed };
  if (b64 !== undefined) message.data = fromBase64(b64);
  else if (!removed) message.data = data;
  return /** @type {Message} */ (message);
}
